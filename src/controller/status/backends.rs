use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    runtime::reflector::Store,
};
use serde_json::json;
use tokio::sync::watch;
use tracing::warn;

use super::{ledger::Ledger, manager};
use crate::{
    api::{GROUP, TunnelHost, UnreachableBackend, VERSION},
    compile::object_name,
    controller::{
        Backends,
        metrics::{Metrics, StatusUpdate},
        pauses::Pauses,
    },
    routing::ObjectName,
};

/// How long what is known must be quiet before it is written: an agent has many targets.
const QUIET: Duration = Duration::from_millis(100);

/// How many objects are written at a time.
const CONCURRENCY: usize = 8;

/// Writes the backends that this replica cannot reach into the status of their TunnelHosts, for the holder of the lease, which
/// knows only what it has seen itself.
///
/// Only problems are written, so that nothing is as long as all is well. As with sessions, every replica owns its own entry.
pub(in crate::controller) struct BackendWriter {
    pub(in crate::controller) client: Client,
    pub(in crate::controller) replica: String,
    pub(in crate::controller) hosts: Store<TunnelHost>,
    pub(in crate::controller) backends: watch::Receiver<Arc<Backends>>,
    pub(in crate::controller) touched: watch::Receiver<()>,
    pub(in crate::controller) metrics: Arc<Metrics>,
}

/// The entry of one replica in one TunnelHost's status, as it should be.
struct Entry {
    host: ObjectName,
    version: Option<String>,
    unreachable: Option<UnreachableBackend>,
}

// === impl BackendWriter ===

impl BackendWriter {
    pub(in crate::controller) async fn run(mut self) {
        // What is in the status before the first listing is unknown.
        if self.hosts.wait_until_ready().await.is_err() {
            return;
        }
        let mut ledger = Ledger::new();
        let mut pauses = Pauses::default();
        loop {
            self.backends.mark_unchanged();
            self.touched.mark_unchanged();
            let failed = self.write(&mut ledger).await;
            let retry = failed.then(|| pauses.after_failure());
            tokio::select! {
                changed = self.backends.changed() => if changed.is_err() { return },
                changed = self.touched.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(retry.unwrap_or_default()), if retry.is_some() => {}
            }
            tokio::time::sleep(QUIET).await;
        }
    }

    /// Writes the entries that differ, and says whether one could not be written.
    async fn write(&self, ledger: &mut Ledger<ObjectName, Option<UnreachableBackend>>) -> bool {
        let due = self.due(ledger);
        let writes = stream::iter(due).map(|due| async move {
            let api = Api::<TunnelHost>::namespaced(self.client.clone(), &due.host.namespace);
            let result = apply_unreachable(&api, &due.host.name, &self.replica, due.unreachable.as_ref()).await;
            (due, result)
        });
        let mut writes = std::pin::pin!(writes.buffer_unordered(CONCURRENCY));
        let mut failed = false;
        while let Some((due, result)) = writes.next().await {
            match result {
                Ok(()) => {
                    self.metrics.status_update(StatusUpdate::Success);
                    ledger.note(due.host, due.version, due.unreachable);
                }
                Err(error) => {
                    self.metrics.status_update(StatusUpdate::Failure);
                    warn!(tunnel_host = %due.host, "its backends could not be written, this is tried again: {error}");
                    failed = true;
                }
            }
        }
        failed
    }

    fn due(&self, ledger: &mut Ledger<ObjectName, Option<UnreachableBackend>>) -> Vec<Entry> {
        let known = self.backends.borrow().clone();
        let mut due = Vec::new();
        ledger.begin();
        for object in self.hosts.state() {
            let host = object_name(&object.metadata);
            let state = known.get(&host).filter(|state| !state.reachable);
            let desired = state.map(|state| UnreachableBackend {
                replica: self.replica.clone(),
                reason: state.reason.as_str().to_owned(),
                message: state.message.clone(),
            });
            let status = object.status.as_ref().map_or(&[][..], |status| &status.unreachable);
            let current = status.iter().find(|entry| entry.replica == self.replica);
            let version = object.resource_version();
            if current != desired.as_ref() && !ledger.has(&host, version.as_ref(), &desired) {
                due.push(Entry { host, version, unreachable: desired });
            }
        }
        due
    }
}

/// Makes `entry` all that `replica` says in the TunnelHost's status. One that is gone needs none.
pub(super) async fn apply_unreachable(
    api: &Api<TunnelHost>,
    host: &str,
    replica: &str,
    entry: Option<&UnreachableBackend>,
) -> kube::Result<()> {
    let patch = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "TunnelHost",
        "metadata": {"name": host},
        "status": {"unreachable": entry.into_iter().collect::<Vec<_>>()},
    });
    match api.patch_status(host, &PatchParams::apply(manager(replica)).force(), &Patch::Apply(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}
