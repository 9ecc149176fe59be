//! How much of the edge an agent is connected to.

use std::collections::{BTreeSet, HashMap};

use crate::{controller::Member, routing::ObjectName};

/// With how many of the replicas an agent has a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Coverage {
    pub(super) connected: i32,
    pub(super) replicas: i32,
}

/// The replicas that run, and those of them that each agent has a session with. What one on its way out still holds counts for
/// nothing: nobody dials it any more.
pub(super) struct Met {
    running: BTreeSet<String>,
    by_agent: HashMap<ObjectName, BTreeSet<String>>,
}

// === impl Met ===

impl Met {
    pub(super) fn new(running: &[Member]) -> Self {
        Self { running: running.iter().map(|member| member.id.clone()).collect(), by_agent: HashMap::new() }
    }

    /// An agent has a session with a replica, which may be one of several.
    pub(super) fn add(&mut self, agent: ObjectName, replica: &str) {
        if self.running.contains(replica) {
            self.by_agent.entry(agent).or_default().insert(replica.to_owned());
        }
    }

    pub(super) fn coverage(&self, agent: &ObjectName) -> Coverage {
        let number = |replicas: &BTreeSet<String>| i32::try_from(replicas.len()).unwrap_or(i32::MAX);
        Coverage { connected: self.by_agent.get(agent).map_or(0, number), replicas: number(&self.running) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_replica_that_runs_counts_once() {
        let running = ["edge-1", "edge-2", "edge-3"].map(|id| Member { id: id.to_owned(), ip: None });
        let (home, other) = (ObjectName::new("web", "home"), ObjectName::new("web", "other"));
        let mut met = Met::new(&running);
        for replica in ["edge-2", "edge-1", "edge-2", "leaving"] {
            met.add(home.clone(), replica);
        }
        assert_eq!(met.coverage(&home), Coverage { connected: 2, replicas: 3 });
        assert_eq!(met.coverage(&other), Coverage { connected: 0, replicas: 3 });
    }
}
