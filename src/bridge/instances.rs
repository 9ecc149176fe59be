//! How many processes run as one agent, as far as this replica knows: those that have a session with it. One that is leaving
//! does not count, so that another can take its place before it is gone.

use std::{collections::HashSet, sync::Arc};

use super::session::AgentSession;

/// How many processes there are besides the one called `instance`, by the agent's sessions.
pub(super) fn others(sessions: &[Arc<AgentSession>], instance: &str) -> usize {
    by_age(sessions).iter().filter(|known| ***known != *instance).count()
}

/// Of an agent's sessions those of the processes beyond the `most` that came first.
pub(super) fn surplus(sessions: &[Arc<AgentSession>], most: u32) -> impl Iterator<Item = &Arc<AgentSession>> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let beyond: HashSet<&str> = by_age(sessions).into_iter().skip(most).collect();
    counted(sessions).filter(move |session| beyond.contains(&*session.instance))
}

/// The processes, the one with the oldest session first.
fn by_age(sessions: &[Arc<AgentSession>]) -> Vec<&str> {
    let mut sessions: Vec<_> = counted(sessions).collect();
    sessions.sort_unstable_by_key(|session| session.id);
    let mut known = HashSet::new();
    sessions.into_iter().map(|session| &*session.instance).filter(|instance| known.insert(*instance)).collect()
}

fn counted(sessions: &[Arc<AgentSession>]) -> impl Iterator<Item = &Arc<AgentSession>> {
    sessions.iter().filter(|session| session.cause().is_none() && !session.is_leaving())
}
