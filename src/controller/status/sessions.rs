use std::{collections::BTreeMap, sync::Arc, time::Duration};

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
    api::{AgentSession, GROUP, TunnelAgent, VERSION},
    compile::object_name,
    controller::{
        Sessions,
        metrics::{Metrics, StatusUpdate},
        pauses::Pauses,
    },
    routing::ObjectName,
};

/// How long sessions must be quiet before they are written: an agent that starts opens several at once.
const QUIET: Duration = Duration::from_millis(100);

/// How many objects are written at a time.
const CONCURRENCY: usize = 8;

/// Writes the sessions that this replica holds into the status of their TunnelAgents.
///
/// Every replica owns its own entries, by server-side apply with its pod's name as field manager: applying the whole
/// set of its entries adds, changes and removes them, and never touches those of others.
pub(in crate::controller) struct SessionWriter {
    pub(in crate::controller) client: Client,
    pub(in crate::controller) replica: String,
    pub(in crate::controller) agents: Store<TunnelAgent>,
    pub(in crate::controller) sessions: watch::Receiver<Arc<Sessions>>,
    pub(in crate::controller) touched: watch::Receiver<()>,
    pub(in crate::controller) metrics: Arc<Metrics>,
}

/// The entries of one replica in one TunnelAgent's status, as they should be.
struct Entries {
    agent: ObjectName,
    version: Option<String>,
    sessions: Vec<AgentSession>,
}

// === impl SessionWriter ===

impl SessionWriter {
    pub(in crate::controller) async fn run(mut self) {
        // What is in the status before the first listing is unknown.
        if self.agents.wait_until_ready().await.is_err() {
            return;
        }
        let mut ledger = Ledger::new();
        let mut pauses = Pauses::default();
        loop {
            self.sessions.mark_unchanged();
            self.touched.mark_unchanged();
            let failed = self.write(&mut ledger).await;
            let retry = failed.then(|| pauses.after_failure());
            tokio::select! {
                changed = self.sessions.changed() => if changed.is_err() { return },
                changed = self.touched.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(retry.unwrap_or_default()), if retry.is_some() => {}
            }
            tokio::time::sleep(QUIET).await;
        }
    }

    /// Writes the entries that differ, and says whether one could not be written.
    async fn write(&self, ledger: &mut Ledger<ObjectName, Vec<AgentSession>>) -> bool {
        let due = self.due(ledger);
        let writes = stream::iter(due).map(|entries| async move {
            let api = Api::<TunnelAgent>::namespaced(self.client.clone(), &entries.agent.namespace);
            let result = apply_sessions(&api, &entries.agent.name, &self.replica, &entries.sessions).await;
            (entries, result)
        });
        let mut writes = std::pin::pin!(writes.buffer_unordered(CONCURRENCY));
        let mut failed = false;
        while let Some((entries, result)) = writes.next().await {
            match result {
                Ok(()) => {
                    self.metrics.status_update(StatusUpdate::Success);
                    ledger.note(entries.agent, entries.version, entries.sessions);
                }
                Err(error) => {
                    self.metrics.status_update(StatusUpdate::Failure);
                    warn!(agent = %entries.agent, "its sessions could not be written, this is tried again: {error}");
                    failed = true;
                }
            }
        }
        failed
    }

    fn due(&self, ledger: &mut Ledger<ObjectName, Vec<AgentSession>>) -> Vec<Entries> {
        let live = self.sessions.borrow().clone();
        let mut due = Vec::new();
        ledger.begin();
        for object in self.agents.state() {
            let agent = object_name(&object.metadata);
            let desired = entries(live.get(&agent).map_or(&[][..], Vec::as_slice), &self.replica);
            let status = object.status.as_ref().map_or(&[][..], |status| &status.sessions);
            let own = status.iter().filter(|session| session.replica == self.replica);
            let mut current: Vec<_> = own.cloned().collect();
            current.sort();
            let version = object.resource_version();
            if current != desired && !ledger.has(&agent, version.as_ref(), &desired) {
                due.push(Entries { agent, version, sessions: desired });
            }
        }
        due
    }
}

/// The entries of a replica, one for each instance, in order: its oldest session, and how many there are. The oldest is
/// the one that changes least.
fn entries(sessions: &[AgentSession], replica: &str) -> Vec<AgentSession> {
    let mut instances = BTreeMap::<&str, (&AgentSession, i32)>::new();
    for session in sessions {
        let (oldest, count) = instances.entry(&session.instance).or_insert((session, 0));
        *count += 1;
        if session.since < oldest.since {
            *oldest = session;
        }
    }
    let own = |(session, count): (&AgentSession, i32)| AgentSession {
        replica: replica.to_owned(),
        connections: Some(count),
        ..session.clone()
    };
    let mut entries: Vec<_> = instances.into_values().map(own).collect();
    entries.sort();
    entries
}

/// Makes `sessions` all that `replica` owns in the agent's status. An agent that is gone needs none.
pub(super) async fn apply_sessions(
    api: &Api<TunnelAgent>,
    agent: &str,
    replica: &str,
    sessions: &[AgentSession],
) -> kube::Result<()> {
    let patch = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "TunnelAgent",
        "metadata": {"name": agent},
        "status": {"sessions": sessions},
    });
    let params = PatchParams::apply(manager(replica)).force();
    match api.patch_status(agent, &params, &Patch::Apply(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_of_an_instance_are_one_entry_with_their_number() {
        let session = |instance: &str, since: &str| AgentSession {
            replica: String::new(),
            instance: instance.to_owned(),
            version: "0.1.0".to_owned(),
            transport: "tls".to_owned(),
            remote_address: "192.0.2.1:40000".to_owned(),
            since: since.to_owned(),
            connections: None,
        };
        let sessions = [
            session("b", "2026-01-02T00:00:00Z"),
            session("a", "2026-01-01T00:00:00Z"),
            session("b", "2026-01-01T00:00:00Z"),
        ];
        let entries = entries(&sessions, "edge-1");
        let shown: Vec<_> = entries.iter().map(|e| (&*e.replica, &*e.instance, &*e.since, e.connections)).collect();
        assert_eq!(
            shown,
            [("edge-1", "a", "2026-01-01T00:00:00Z", Some(1)), ("edge-1", "b", "2026-01-01T00:00:00Z", Some(2))]
        );
    }
}
