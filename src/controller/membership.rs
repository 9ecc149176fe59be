use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
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

/// Which replicas of the edge there are.
///
/// They are two sets, since a replica becomes ready only once the agents have come that others have. If agents were told
/// only of those that are ready, none would come to one that starts, and its first visitors would be told that nobody is
/// there. If a limit were shared among all that run, one that never becomes ready would take its part for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicas {
    /// Those that agents should hold a session with, in order of their ids: all that run and are not on their way out;
    /// this one is always among them.
    pub running: Arc<[Member]>,
    /// How many of them take visitors, and so share the limits; this one is always counted.
    pub ready: u32,
}

/// One replica of the edge.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its id: its pod's name.
    pub id: String,
    /// The address of its pod, where it is known.
    pub ip: Option<IpAddr>,
}

/// The replicas of the edge, as the EndpointSlices of the bridge's headless Service show them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Members {
    /// Those that are not on their way out.
    pub(super) replicas: Replicas,
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
            if last.replicas != now.replicas {
                let Replicas { running, ready } = &now.replicas;
                let running: Vec<_> = running.iter().map(|member| member.id.as_str()).collect();
                info!(replicas = ?running, ready, "the set of replicas has changed");
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
        let own = Member { id: own.to_owned(), ip: None };
        Self { replicas: Replicas { running: [own].into(), ready: 1 }, existing: None }
    }

    /// This replica is always one of them: before a slice lists it, agents may reach it, and it must know its share of the
    /// limits when its first visitor comes, which may be before it hears that its pod is ready.
    fn of<'a>(slices: impl Iterator<Item = &'a EndpointSlice>, own: &str) -> Self {
        let only_own = BTreeSet::from([own.to_owned()]);
        let (mut ready, mut existing) = (only_own.clone(), only_own);
        let mut running = BTreeMap::from([(own.to_owned(), None)]);
        for endpoint in slices.flat_map(|slice| &slice.endpoints) {
            let Some(pod) = endpoint.target_ref.as_ref().and_then(|target| target.name.clone()) else { continue };
            if runs(endpoint) {
                // A dual-stack Service has a slice for each family; one address is enough.
                let ip = running.entry(pod.clone()).or_default();
                *ip = ip.or_else(|| endpoint.addresses.first()?.parse().ok());
                if is_ready(endpoint) {
                    ready.insert(pod.clone());
                }
            }
            existing.insert(pod);
        }
        let ready = u32::try_from(ready.len()).unwrap_or(u32::MAX);
        let running = running.into_iter().map(|(id, ip)| Member { id, ip });
        let replicas = Replicas { running: running.collect(), ready };
        Self { replicas, existing: Some(Arc::new(existing)) }
    }
}

/// Whether agents can reach it and it is not on its way out. The Service publishes addresses that are not ready, so `ready`
/// says only that there is an address; unset means yes (Kubernetes' convention, as below).
fn runs(endpoint: &Endpoint) -> bool {
    let Some(conditions) = &endpoint.conditions else { return true };
    conditions.ready.unwrap_or(true) && !conditions.terminating.unwrap_or(false)
}

/// Whether its pod is ready: in a Service that publishes all addresses, only `serving` tells.
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.serving).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{core::v1::ObjectReference, discovery::v1::EndpointConditions};

    use super::*;

    /// As the Service with `publishNotReadyAddresses` has it: `ready` is always true, `serving` tells of the pod.
    fn endpoint(pod: &str, serving: bool, terminating: bool) -> Endpoint {
        Endpoint {
            target_ref: Some(ObjectReference { name: Some(pod.to_owned()), ..ObjectReference::default() }),
            conditions: Some(EndpointConditions {
                ready: Some(true),
                serving: Some(serving),
                terminating: Some(terminating),
            }),
            ..Endpoint::default()
        }
    }

    fn ids(replicas: &Replicas) -> Vec<&str> {
        replicas.running.iter().map(|member| member.id.as_str()).collect()
    }

    fn slice(endpoints: Vec<Endpoint>) -> EndpointSlice {
        EndpointSlice { endpoints, ..EndpointSlice::default() }
    }

    #[test]
    fn agents_meet_all_that_run_and_limits_are_shared_by_those_that_are_ready() {
        let slices = [
            slice(vec![endpoint("b", true, false), endpoint("starting", false, false)]),
            slice(vec![endpoint("a", true, false), endpoint("leaving", true, true), Endpoint::default()]),
        ];
        let members = Members::of(slices.iter(), "own");
        assert_eq!(ids(&members.replicas), ["a", "b", "own", "starting"]);
        assert_eq!(members.replicas.ready, 3, "a, b and own");
        let existing = members.existing.expect("known");
        assert_eq!(existing.iter().collect::<Vec<_>>(), ["a", "b", "leaving", "own", "starting"]);
    }

    #[test]
    fn a_replica_counts_itself_once_and_before_it_is_ready() {
        for own in [endpoint("own", false, false), endpoint("own", true, false)] {
            let slices = [slice(vec![own, endpoint("a", true, false)])];
            let replicas = Members::of(slices.iter(), "own").replicas;
            assert_eq!((ids(&replicas), replicas.ready), (vec!["a", "own"], 2));
        }
    }

    #[test]
    fn each_replica_has_the_first_address_that_is_known() {
        let with = |pod: &str, addresses: &[&str]| Endpoint {
            addresses: addresses.iter().map(|&address| address.to_owned()).collect(),
            ..endpoint(pod, true, false)
        };
        let slices = [
            slice(vec![with("a", &["10.0.0.1"]), with("own", &["10.0.0.2"])]),
            slice(vec![with("a", &["fd00::1"]), with("b", &["fd00::3"]), with("c", &[])]),
        ];
        let replicas = Members::of(slices.iter(), "own").replicas;
        let ips: Vec<_> = replicas.running.iter().map(|member| member.ip.map(|ip| ip.to_string())).collect();
        let wanted = [Some("10.0.0.1"), Some("fd00::3"), None, Some("10.0.0.2")];
        assert_eq!(ips, wanted.map(|ip| ip.map(str::to_owned)));
    }

    #[test]
    fn conditions_that_are_not_given_mean_yes_and_without_an_address_to_reach_nobody_is_sent() {
        let with = |conditions| Endpoint { conditions, ..endpoint("a", true, false) };
        let not_published = EndpointConditions { ready: Some(false), serving: Some(false), terminating: None };
        for (conditions, running, ready) in
            [(None, 2, 2), (Some(EndpointConditions::default()), 2, 2), (Some(not_published), 1, 1)]
        {
            let replicas = Members::of([slice(vec![with(conditions)])].iter(), "own").replicas;
            assert_eq!((replicas.running.len(), replicas.ready), (running, ready));
        }
    }
}
