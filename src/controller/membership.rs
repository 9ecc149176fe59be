use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use futures::StreamExt;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::{
    Api, Client, ResourceExt,
    runtime::watcher::{self, Event},
};
use tokio::sync::watch;
use tracing::info;

use super::{metrics::Metrics, source};

/// The replicas of the edge, as the EndpointSlices of the bridge's headless Service show them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    /// Those that serve now, by their pods' names, in order.
    pub(super) serving: Arc<[String]>,
    /// Those that exist at all; `None` as long as nobody knows. A pod that is not ready, or is on its way out, still
    /// holds its sessions.
    pub(super) existing: Option<Arc<BTreeSet<String>>>,
}

/// Follows the EndpointSlices for ever.
pub(super) async fn follow(
    client: Client,
    namespace: &str,
    service: &str,
    own: &str,
    members: watch::Sender<Members>,
    metrics: Arc<Metrics>,
) {
    let config = watcher::Config::default().labels(&format!("kubernetes.io/service-name={service}"));
    let slices = Api::<EndpointSlice>::namespaced(client, namespace);
    let mut slices = source::watch(slices, config, "EndpointSlice", metrics).boxed();
    let mut known = HashMap::new();
    let mut listing = HashMap::new();
    while let Some(event) = slices.next().await {
        match event {
            Event::Init => listing.clear(),
            Event::InitApply(slice) => drop(listing.insert(slice.name_any(), slice)),
            Event::InitDone => known = std::mem::take(&mut listing),
            Event::Apply(slice) => drop(known.insert(slice.name_any(), slice)),
            Event::Delete(slice) => drop(known.remove(&slice.name_any())),
        }
        let now = Members::of(known.values(), own);
        // A listing that has only begun says nothing yet.
        if members.borrow().existing.is_none() && known.is_empty() {
            continue;
        }
        members.send_if_modified(|last| {
            if last.serving != now.serving {
                info!(replicas = ?now.serving, "the set of replicas has changed");
            }
            let changed = *last != now;
            *last = now;
            changed
        });
    }
}

// === impl Members ===

impl Members {
    /// Only this replica, as far as is known.
    pub(super) fn alone(own: &str) -> Self {
        Self { serving: [own.to_owned()].into(), existing: None }
    }

    /// This replica is always one of them: before its pod is ready no slice lists it as serving, yet agents reach it.
    fn of<'a>(slices: impl Iterator<Item = &'a EndpointSlice>, own: &str) -> Self {
        let mut serving = BTreeSet::from([own.to_owned()]);
        let mut existing = BTreeSet::from([own.to_owned()]);
        for endpoint in slices.flat_map(|slice| &slice.endpoints) {
            let Some(pod) = endpoint.target_ref.as_ref().and_then(|target| target.name.clone()) else { continue };
            if serves(endpoint) {
                serving.insert(pod.clone());
            }
            existing.insert(pod);
        }
        Self { serving: serving.into_iter().collect(), existing: Some(Arc::new(existing)) }
    }
}

/// Ready or serving, and not terminating; unset means yes for the first two (Kubernetes' convention).
fn serves(endpoint: &Endpoint) -> bool {
    let Some(conditions) = &endpoint.conditions else { return true };
    let ready = conditions.ready.unwrap_or(true) || conditions.serving.unwrap_or(false);
    ready && !conditions.terminating.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{core::v1::ObjectReference, discovery::v1::EndpointConditions};

    use super::*;

    fn endpoint(pod: &str, ready: bool, terminating: bool) -> Endpoint {
        Endpoint {
            target_ref: Some(ObjectReference { name: Some(pod.to_owned()), ..ObjectReference::default() }),
            conditions: Some(EndpointConditions {
                ready: Some(ready),
                serving: Some(ready),
                terminating: Some(terminating),
            }),
            ..Endpoint::default()
        }
    }

    #[test]
    fn serving_pods_are_replicas_and_others_only_exist() {
        let slice = |endpoints| EndpointSlice { endpoints, ..EndpointSlice::default() };
        let slices = [
            slice(vec![endpoint("b", true, false), endpoint("starting", false, false)]),
            slice(vec![endpoint("a", true, false), endpoint("leaving", true, true), Endpoint::default()]),
        ];
        let members = Members::of(slices.iter(), "own");
        assert_eq!(*members.serving, ["a", "b", "own"]);
        let existing = members.existing.expect("known");
        assert_eq!(existing.iter().collect::<Vec<_>>(), ["a", "b", "leaving", "own", "starting"]);
    }
}
