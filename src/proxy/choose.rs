//! Which agent, session and target a request goes to.

use std::sync::Arc;

use super::{error::ProxyError, live::Live};
use crate::{
    bridge::{AgentSession, Registry},
    flow::Permit,
    routing::{Target, TunnelBackend},
};

/// Where one attempt of a request goes.
pub(super) struct Choice {
    pub(super) session: Arc<AgentSession>,
    pub(super) target: Target,
    /// The request's place among its agent's connections.
    pub(super) permit: Permit,
}

/// A session, by its id, and a target that failed already.
pub(super) type Place = (u64, Target);

/// Takes the agent and target whose turn it is. After `tried`, it takes the next ones of both, with a session that did not
/// fail yet, or else at least in a combination that did not: whichever of the two is broken, the second attempt has the
/// best chance to be without it. An agent without a free place is passed over. `replicas` is how many share each agent's
/// limit.
pub(super) fn choose(
    live: &Live,
    registry: &Registry,
    backend: &TunnelBackend,
    turn: usize,
    tried: &[Place],
    replicas: u32,
) -> Result<Choice, ProxyError> {
    let (agents, targets) = (&backend.agents, &backend.targets);
    if agents.is_empty() || targets.is_empty() {
        return Err(ProxyError::NoSession);
    }
    let mut error = ProxyError::NoSession;
    for fresh in [true, false] {
        for step in 0..agents.len() * targets.len() {
            // The turn of the targets comes once a round of the agents, so that each agent gets to each target.
            let name = &agents[(turn + tried.len() + step) % agents.len()];
            let target = &targets[(turn / agents.len() + tried.len() + step / agents.len()) % targets.len()];
            let Some(agent) = live.agent(name) else { continue };
            let wanted = |session: &AgentSession| {
                !tried.iter().any(|(id, failed)| *id == session.id && (fresh || failed == target))
            };
            let Some(session) = registry.choose_where(name, wanted) else { continue };
            let share = agent.entry.max_connections.map(|limit| limit.div_ceil(replicas.max(1)));
            match agent.connections.acquire(share) {
                Some(permit) => return Ok(Choice { session, target: target.clone(), permit }),
                None => error = ProxyError::ConnectionLimit { agent: name.name.to_string() },
            }
        }
        if tried.is_empty() {
            break;
        }
    }
    Err(error)
}
