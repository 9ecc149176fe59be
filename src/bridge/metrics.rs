use std::{collections::HashSet, sync::Mutex, sync::PoisonError};

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::routing::{Agents, ObjectName};

/// What the bridge counts.
#[derive(Debug)]
pub(super) struct Metrics {
    sessions: IntGaugeVec,
    connects: IntCounterVec,
    disconnects: IntCounterVec,
    rejected: IntCounterVec,
    /// The agents that have a `sessions` series because they exist, also while they have no session.
    agents: Mutex<HashSet<ObjectName>>,
}

// === impl Metrics ===

impl Metrics {
    /// Makes the metrics and lists them in `registry`.
    ///
    /// # Errors
    /// Where one of that name is already listed.
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            sessions: IntGaugeVec::new(
                Opts::new("culvert_agent_sessions", "Live sessions of an agent with this replica."),
                &["namespace", "agent"],
            )?,
            connects: IntCounterVec::new(
                Opts::new("culvert_agent_connects_total", "Registrations answered on the agents' port, by result."),
                &["result"],
            )?,
            disconnects: IntCounterVec::new(
                Opts::new("culvert_agent_disconnects_total", "Sessions that ended, by reason."),
                &["reason"],
            )?,
            rejected: IntCounterVec::new(
                Opts::new(
                    "culvert_bridge_rejected_total",
                    "Connections to the agents' port that were closed without a registration, by reason.",
                ),
                &["reason"],
            )?,
            agents: Mutex::default(),
        };
        registry.register(Box::new(metrics.sessions.clone()))?;
        registry.register(Box::new(metrics.connects.clone()))?;
        registry.register(Box::new(metrics.disconnects.clone()))?;
        registry.register(Box::new(metrics.rejected.clone()))?;
        Ok(metrics)
    }

    /// A registration was answered.
    pub(super) fn connect(&self, result: &str) {
        self.connects.with_label_values(&[result]).inc();
    }

    /// A connection ended before it registered.
    pub(super) fn reject(&self, reason: &str) {
        self.rejected.with_label_values(&[reason]).inc();
    }

    /// A session began.
    pub(super) fn session_started(&self, agent: &ObjectName) {
        self.sessions.with_label_values(&[&*agent.namespace, &*agent.name]).inc();
    }

    /// A session ended.
    pub(super) fn session_ended(&self, agent: &ObjectName, reason: &str) {
        self.disconnects.with_label_values(&[reason]).inc();
        let labels = [&*agent.namespace, &*agent.name];
        let sessions = self.sessions.with_label_values(&labels);
        sessions.dec();
        // The last session of an agent that is no more takes its series along.
        if sessions.get() == 0 && !self.agents.lock().unwrap_or_else(PoisonError::into_inner).contains(agent) {
            let _ = self.sessions.remove_label_values(&labels);
        }
    }

    /// Gives every agent a series, at 0 where it is not connected, and takes the series of those that are no more.
    pub(super) fn follow(&self, agents: &Agents) {
        let mut listed = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let now: HashSet<ObjectName> = agents.iter().map(|entry| entry.name.clone()).collect();
        for gone in listed.difference(&now) {
            let labels = [&*gone.namespace, &*gone.name];
            // While it still has sessions (they are being closed), the last of them does this.
            if self.sessions.with_label_values(&labels).get() == 0 {
                let _ = self.sessions.remove_label_values(&labels);
            }
        }
        for new in now.difference(&listed) {
            let _ = self.sessions.with_label_values(&[&*new.namespace, &*new.name]);
        }
        *listed = now;
    }
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;
    use crate::routing::AgentEntry;

    fn agents(names: &[&ObjectName]) -> Agents {
        let entry = |name: &&ObjectName| AgentEntry {
            name: (*name).clone(),
            credentials: vec![],
            max_connections: None,
            max_instances: 256,
            allowed_sources: None,
        };
        names.iter().map(entry).collect()
    }

    #[test]
    fn the_series_of_an_agent_live_as_long_as_it_does() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).expect("metrics");
        let (lab, hut) = (ObjectName::new("web", "lab"), ObjectName::new("web", "hut"));
        let text = || TextEncoder::new().encode_to_string(&registry.gather()).expect("text");
        metrics.follow(&agents(&[&lab, &hut]));
        metrics.session_started(&lab);
        assert!(text().contains("culvert_agent_sessions{agent=\"lab\",namespace=\"web\"} 1\n"), "{}", text());
        assert!(text().contains("culvert_agent_sessions{agent=\"hut\",namespace=\"web\"} 0\n"), "{}", text());
        metrics.follow(&agents(&[]));
        assert!(!text().contains("\"hut\""), "{}", text());
        assert!(text().contains("\"lab\""), "{}", text());
        metrics.session_ended(&lab, "revoked");
        assert!(!text().contains("\"lab\""), "{}", text());
    }
}
