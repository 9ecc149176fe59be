//! Who hears what from whom, while an edge runs.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use tokio::{sync::watch, time::timeout};

use super::{fleet::Fleet, remembered::Remembered};
use crate::{
    api,
    bridge::{self, AgentSession, MeshPeer},
    compile::Compiled,
    controller,
    proxy::Proxy,
    routing::{Agents, Checks, ObjectName, RoutingTable},
    tunnel::Replica,
};

/// How long a replica that starts waits for the agents that others have.
const SETTLE: Duration = Duration::from_secs(5);

/// What the bridge and the mesh follow of a compiled table.
pub(super) struct Published<'a> {
    pub(super) agents: &'a watch::Sender<Arc<Agents>>,
    pub(super) table: &'a watch::Sender<Arc<RoutingTable>>,
    pub(super) checks: &'a watch::Sender<Arc<Checks>>,
}

/// Gives each compilation to the proxy, the bridge and the mesh; the objects are known from the first one on.
pub(super) async fn publish(
    mut compiled: watch::Receiver<Option<Arc<Compiled>>>,
    proxy: &Proxy,
    to: Published<'_>,
    known: &watch::Sender<bool>,
) {
    loop {
        let latest = compiled.borrow_and_update().clone();
        if let Some(latest) = latest {
            // The proxy first, so that an agent that may register now finds its limits there.
            proxy.update(latest.table.clone(), &latest.agents);
            to.agents.send_replace(latest.agents.clone());
            to.table.send_replace(latest.table.clone());
            let asked = Checks::of(&latest.table);
            to.checks.send_if_modified(|last| {
                let changed = **last != asked;
                *last = Arc::new(asked);
                changed
            });
            known.send_replace(true);
        }
        if compiled.changed().await.is_err() {
            return;
        }
    }
}

/// The edge is ready once the objects are known and the agents have come that other replicas have, or that this one had
/// before it was started anew: visitors that came earlier would be told that nobody is there. An agent that went away just
/// then is not waited for longer than [`SETTLE`].
pub(super) async fn settle(
    mut known: watch::Receiver<bool>,
    expected: watch::Receiver<Arc<[ObjectName]>>,
    mut live: watch::Receiver<bridge::Sessions>,
    ready: &watch::Sender<bool>,
) {
    if known.wait_for(|known| *known).await.is_err() {
        return;
    }
    let mut missing: HashSet<ObjectName> = expected.borrow().iter().cloned().collect();
    let all_here = live.wait_for(|sessions| {
        for session in sessions.iter() {
            missing.remove(&session.agent);
        }
        missing.is_empty()
    });
    let _ = timeout(SETTLE, all_here).await;
    if let Some(one) = missing.iter().next() {
        tracing::warn!("{} agents that had a session have not come yet, one of them {one}", missing.len());
    }
    ready.send_replace(true);
}

/// Remembers for the next start which agents there are, once those of the last time have had their time to come.
pub(super) async fn remember(
    mut ready: watch::Receiver<bool>,
    live: watch::Receiver<bridge::Sessions>,
    remembered: Option<&Remembered>,
) {
    if let Some(remembered) = remembered
        && ready.wait_for(|ready| *ready).await.is_ok()
    {
        remembered.follow(live).await;
    }
}

/// Tells the proxy, the agents and the mesh which replicas there are.
pub(super) async fn follow_replicas(
    mut known: watch::Receiver<controller::Replicas>,
    fleet: &Fleet,
    proxy: &Proxy,
    replicas: &watch::Sender<Arc<[Replica]>>,
    neighbours: &watch::Sender<Arc<[MeshPeer]>>,
) {
    loop {
        let controller::Replicas { running, ready } = known.borrow_and_update().clone();
        proxy.set_replicas(fleet.ready(ready));
        // Agents hear of each change, and one of readiness is nothing to them.
        set(replicas, fleet.replicas(&running));
        set(neighbours, fleet.neighbours(&running));
        if known.changed().await.is_err() {
            return;
        }
    }
}

/// Where it differs.
fn set<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|last| {
        let changed = *last != value;
        *last = value;
        changed
    });
}

/// Tells the controller which sessions this replica has, in the form that the agents' status shows.
pub(super) async fn follow_sessions(
    mut live: watch::Receiver<bridge::Sessions>,
    replica: &str,
    sessions: &watch::Sender<Arc<controller::Sessions>>,
) {
    loop {
        let latest = live.borrow_and_update().clone();
        let mut by_agent = HashMap::<_, Vec<_>>::new();
        for session in latest.iter() {
            by_agent.entry(session.agent.clone()).or_default().push(status(session, replica));
        }
        sessions.send_replace(Arc::new(by_agent));
        if live.changed().await.is_err() {
            return;
        }
    }
}

fn status(session: &AgentSession, replica: &str) -> api::AgentSession {
    // Whole seconds, as in all timestamps of Kubernetes.
    let since = Timestamp::try_from(session.since).unwrap_or_default();
    api::AgentSession {
        replica: replica.to_owned(),
        instance: session.instance.to_string(),
        version: session.version.to_string(),
        transport: session.transport.to_owned(),
        remote_address: session.remote_address.to_string(),
        since: since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        // Counted where those of an instance become one entry.
        connections: None,
    }
}
