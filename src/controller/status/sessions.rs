use std::collections::BTreeMap;

use super::entries::{Entries, EntryWriter};
use crate::{
    api::{AgentSession, TunnelAgent},
    controller::Sessions,
    routing::ObjectName,
};

/// Writes the sessions that this replica holds into the status of their TunnelAgents.
pub(in crate::controller) type SessionWriter = EntryWriter<Held>;

/// One entry for each process of an agent.
pub(in crate::controller) struct Held;

// === impl Held ===

impl Entries for Held {
    type Object = TunnelAgent;
    type Entry = AgentSession;
    type Known = Sessions;

    const FIELD: &'static str = "sessions";

    fn desired(live: &Sessions, agent: &ObjectName, replica: &str) -> Vec<AgentSession> {
        entries(live.get(agent).map_or(&[], Vec::as_slice), replica)
    }

    fn current(agent: &TunnelAgent) -> &[AgentSession] {
        agent.status.as_ref().map_or(&[], |status| &status.sessions)
    }

    fn replica(entry: &AgentSession) -> &String {
        &entry.replica
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
