//! How many processes run as one agent, as far as this replica knows: those that have a session with it. One that is leaving
//! does not count, so that another can take its place before it is gone.

use std::sync::Arc;

use super::session::AgentSession;
use crate::routing::ObjectName;

/// How many processes of that agent are registered besides the one called `instance`.
pub(super) fn others(sessions: &[Arc<AgentSession>], agent: &ObjectName, instance: &str) -> usize {
    by_age(sessions, agent).iter().filter(|known| ***known != *instance).count()
}

/// The sessions of the processes beyond the `most` that came first.
pub(super) fn surplus<'a>(
    sessions: &'a [Arc<AgentSession>],
    agent: &ObjectName,
    most: u32,
) -> impl Iterator<Item = &'a Arc<AgentSession>> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let beyond: Vec<&str> = by_age(sessions, agent).into_iter().skip(most).collect();
    counted(sessions, agent).filter(move |session| beyond.contains(&&*session.instance)).collect::<Vec<_>>().into_iter()
}

/// The processes, the one with the oldest session first.
fn by_age<'a>(sessions: &'a [Arc<AgentSession>], agent: &ObjectName) -> Vec<&'a str> {
    let mut sessions: Vec<_> = counted(sessions, agent).collect();
    sessions.sort_unstable_by_key(|session| session.id);
    let mut instances = Vec::new();
    for session in sessions {
        if !instances.contains(&&*session.instance) {
            instances.push(&*session.instance);
        }
    }
    instances
}

fn counted<'a>(sessions: &'a [Arc<AgentSession>], agent: &ObjectName) -> impl Iterator<Item = &'a Arc<AgentSession>> {
    sessions.iter().filter(move |session| session.agent == *agent && session.cause().is_none() && !session.is_leaving())
}
