//! Who hears what from whom, while an edge runs.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use tokio::{sync::watch, time::timeout};

use crate::{
    api,
    bridge::{self, AgentSession},
    compile::Compiled,
    controller,
    proxy::Proxy,
    routing::{Agents, Checks, ObjectName},
    tunnel::Replica,
};

/// How long a replica that starts waits for the agents that others have.
const SETTLE: Duration = Duration::from_secs(5);

/// Gives each compilation to the proxy and the bridge; the objects are known from the first one on.
pub(super) async fn publish(
    mut compiled: watch::Receiver<Option<Arc<Compiled>>>,
    proxy: &Proxy,
    (agents, checks): (&watch::Sender<Arc<Agents>>, &watch::Sender<Arc<Checks>>),
    known: &watch::Sender<bool>,
) {
    loop {
        let latest = compiled.borrow_and_update().clone();
        if let Some(latest) = latest {
            // The proxy first, so that an agent that may register now finds its limits there.
            proxy.update(latest.table.clone(), &latest.agents);
            agents.send_replace(latest.agents.clone());
            let asked = Checks::of(&latest.table);
            checks.send_if_modified(|last| {
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

/// Tells the proxy and the agents which replicas there are. Only `own` has an address that agents can be told: that
/// of another replica they learn from itself, once they have met it.
pub(super) async fn follow_replicas(
    mut known: watch::Receiver<controller::Replicas>,
    own: &Replica,
    proxy: &Proxy,
    replicas: &watch::Sender<Arc<[Replica]>>,
) {
    loop {
        let controller::Replicas { running, ready } = known.borrow_and_update().clone();
        proxy.set_replicas(ready);
        let replica = |id: &String| {
            if *id == own.id { own.clone() } else { Replica { id: id.clone(), address: None } }
        };
        let running: Arc<[Replica]> = running.iter().map(replica).collect();
        // Agents hear of each change, and one of readiness is nothing to them.
        replicas.send_if_modified(|last| {
            let changed = *last != running;
            *last = running;
            changed
        });
        if known.changed().await.is_err() {
            return;
        }
    }
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
