use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use parking_lot::Mutex;
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};

/// How many connections (requests in progress and joins) each agent has on this replica, exported as
/// `culvert_agent_connections`. `K` names an agent.
#[derive(Debug)]
pub struct Connections<K> {
    gauge: IntGaugeVec,
    agents: Mutex<HashMap<K, Arc<AgentConnections>>>,
}

/// The connections of one agent on this replica.
#[derive(Debug)]
pub struct AgentConnections {
    current: AtomicU32,
    gauge: IntGauge,
}

/// One connection's place among those of its agent, given back when it is dropped.
#[derive(Debug)]
pub struct Permit(Arc<AgentConnections>);

// === impl Connections ===

impl<K: Clone + Eq + Hash> Connections<K> {
    /// Makes the gauge and registers it.
    ///
    /// # Errors
    /// Where the registry has a metric of that name already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = IntGaugeVec::new(
            Opts::new("culvert_agent_connections", "Requests in progress and joins of an agent on this replica."),
            &["namespace", "agent"],
        )?;
        registry.register(Box::new(gauge.clone()))?;
        Ok(Self { gauge, agents: Mutex::default() })
    }

    /// The connections of an agent; callers keep them, since finding them takes a lock.
    pub fn agent(&self, key: &K, namespace: &str, agent: &str) -> Arc<AgentConnections> {
        let mut agents = self.agents.lock();
        let make = || {
            let gauge = self.gauge.with_label_values(&[namespace, agent]);
            Arc::new(AgentConnections { current: AtomicU32::new(0), gauge })
        };
        agents.entry(key.clone()).or_insert_with(make).clone()
    }

    /// Ends the series of an agent whose object is gone.
    pub fn remove(&self, key: &K, namespace: &str, agent: &str) {
        self.agents.lock().remove(key);
        // The series may never have been made; there is nothing to do then.
        let _ = self.gauge.remove_label_values(&[namespace, agent]);
    }
}

// === impl AgentConnections ===

impl AgentConnections {
    /// Takes a place, unless `limit` places are taken already.
    #[must_use]
    pub fn acquire(self: &Arc<Self>, limit: Option<u32>) -> Option<Permit> {
        let before = self.current.fetch_add(1, Ordering::Relaxed);
        if limit.is_some_and(|limit| before >= limit) {
            self.current.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        self.gauge.inc();
        Some(Permit(self.clone()))
    }
}

// === impl Permit ===

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.current.fetch_sub(1, Ordering::Relaxed);
        self.0.gauge.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_permit_goes() {
        let registry = Registry::new();
        let connections = Connections::new(&registry).expect("a fresh registry");
        let agent = connections.agent(&"home", "web", "home");
        let first = agent.acquire(Some(1)).expect("the first place");
        assert!(agent.acquire(Some(1)).is_none());
        let unlimited = agent.acquire(None).expect("no limit");
        assert_eq!(agent.gauge.get(), 2);
        drop((first, unlimited));
        assert_eq!(agent.gauge.get(), 0);
        assert!(agent.acquire(Some(1)).is_some());
        assert!(agent.acquire(Some(0)).is_none());
    }
}
