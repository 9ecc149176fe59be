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

/// Takes the next agent and target in turn; an agent without a session, or without a free place, is passed over.
/// `replicas` is how many share each agent's limit.
pub(super) fn choose(
    live: &Live,
    registry: &Registry,
    backend: &TunnelBackend,
    turn: usize,
    replicas: u32,
) -> Result<Choice, ProxyError> {
    let (agents, targets) = (backend.agents.len(), backend.targets.len());
    // The turn of the targets comes once a round of the agents, so that each agent gets to each target.
    let target = backend.targets.get((turn / agents.max(1)) % targets.max(1));
    let mut error = ProxyError::NoSession;
    for step in 0..agents {
        let name = &backend.agents[(turn + step) % agents];
        let (Some(agent), Some(target)) = (live.agent(name), target) else { continue };
        let Some(session) = registry.choose(name) else { continue };
        let share = agent.entry.max_connections.map(|limit| limit.div_ceil(replicas.max(1)));
        match agent.connections.acquire(share) {
            Some(permit) => return Ok(Choice { session, target: target.clone(), permit }),
            None => error = ProxyError::ConnectionLimit { agent: name.name.to_string() },
        }
    }
    Err(error)
}
