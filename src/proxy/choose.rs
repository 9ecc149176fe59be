//! Which agent, session and target a request goes to.

use std::{cell::LazyCell, collections::HashSet, net::IpAddr, sync::Arc};

use tokio::time::Instant;

use super::{
    error::ProxyError,
    live::{
        Live,
        places::{InProgress, RoutePlace, RouteState},
    },
};
use crate::{
    bridge::{AgentSession, Registry},
    flow::Permit,
    routing::{Draw, LoadBalancing, ObjectName, Target, Tier, TunnelBackend},
};

/// What a choice is made from. `replicas` is how many share each agent's limit.
pub(super) struct Chooser<'a> {
    pub(super) live: &'a Live,
    pub(super) registry: &'a Registry,
    pub(super) backend: &'a TunnelBackend,
    pub(super) route: &'a RouteState,
    pub(super) visitor: IpAddr,
    pub(super) replicas: u32,
}

/// Where one attempt of a request goes.
pub(super) struct Choice<'a> {
    pub(super) session: Arc<AgentSession>,
    pub(super) target: &'a Target,
    pub(super) place: &'a RoutePlace,
}

/// A request's place among those in progress, free when it is dropped.
pub(super) struct Seat {
    /// Among the connections of its agent.
    _permit: Permit,
    /// Among those that the next choice looks at.
    _in_progress: Option<InProgress>,
}

/// Where an attempt failed already.
pub(super) struct Tried {
    pub(super) session: Arc<AgentSession>,
    pub(super) target: Target,
}

impl From<Choice<'_>> for Tried {
    fn from(Choice { session, target, .. }: Choice<'_>) -> Self {
        Self { session, target: target.clone() }
    }
}

/// What is asked of a place.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    tried: &'a [Tried],
    /// Neither the session nor the target has failed this request.
    fresh: bool,
    /// Nothing is known against it.
    sound: bool,
}

/// What was seen of a place that is usable.
struct Usable<'a> {
    session: Arc<AgentSession>,
    target: &'a Target,
    agent: &'a ObjectName,
    place: &'a RoutePlace,
}

// === impl Chooser ===

impl<'a> Chooser<'a> {
    /// What the choices of one request are made by; the same for all its attempts, so that they go on from one another.
    pub(super) fn draw(&self) -> Draw {
        match self.backend.balancing {
            LoadBalancing::RoundRobin => Draw::Turn(self.route.turn()),
            LoadBalancing::Random => Draw::Random(rand::random()),
            LoadBalancing::LeastRequests => Draw::Least(rand::random()),
            LoadBalancing::ClientHash => Draw::by_address(self.visitor),
        }
    }

    /// Takes the place whose turn it is in the first tier that has one which can be used. After `tried`, it takes one with
    /// another session and another target, or else one where at least one of the two is another: whichever of them is
    /// broken, the second attempt has the best chance to be without it. An agent without a free place is passed over.
    pub(super) fn choose(&self, draw: Draw, tried: &[Tried]) -> Result<(Choice<'a>, Seat), ProxyError> {
        if self.backend.places.tiers().is_empty() {
            return Err(ProxyError::Drained);
        }
        let mut full: Vec<&ObjectName> = Vec::new();
        while let Some(found) = self.find(draw, tried, &full) {
            let Some(agent) = self.live.agent(found.agent) else {
                full.push(found.agent);
                continue;
            };
            let share = agent.entry.max_connections.map(|limit| limit.div_ceil(self.replicas.max(1)));
            let Some(permit) = agent.connections.acquire(share) else {
                full.push(found.agent);
                continue;
            };
            let counted = self.backend.balancing == LoadBalancing::LeastRequests;
            let seat = Seat { _permit: permit, _in_progress: counted.then(|| found.place.state.begin()) };
            if self.ejects()
                && let Some(reach) = found.place.reach()
            {
                reach.tried(&self.backend.passive_health);
            }
            return Ok((Choice { session: found.session, target: found.target, place: found.place }, seat));
        }
        let full = full.into_iter().find(|agent| self.live.agent(agent).is_some());
        Err(full.map_or(ProxyError::NoSession, |agent| ProxyError::ConnectionLimit { agent: agent.name.to_string() }))
    }

    fn find(&self, draw: Draw, tried: &[Tried], full: &[&ObjectName]) -> Option<Usable<'a>> {
        let places = &self.backend.places;
        let load = |index: usize| self.route.places.get(index).map_or(0, |place| place.state.load());
        // An unhealthy place is better than none: what is wrong with it the visitor hears from itself, and nobody waits for a
        // check, or for an ejection's end, to see that it is well again.
        for sound in [true, false] {
            for tier in places.tiers() {
                let ejects = sound && self.ejects();
                // Once for all of them, and only where one fails.
                let ejected = LazyCell::new(|| self.ejected(tier));
                for fresh in [true, false] {
                    let usable = |index: usize| {
                        if ejects && self.fails_since(index).is_some() && ejected.contains(&index) {
                            return None;
                        }
                        self.usable(index, Wanted { tried, fresh, sound }, full)
                    };
                    if let Some((_, found)) = places.pick(tier, draw, load, usable) {
                        return Some(found);
                    }
                    if tried.is_empty() {
                        break;
                    }
                }
            }
        }
        None
    }

    /// The place, with a session, if a request can go there.
    fn usable(&self, index: usize, wanted: Wanted<'_>, full: &[&ObjectName]) -> Option<Usable<'a>> {
        let (place, live) = (self.backend.places.all().get(index)?, self.route.places.get(index)?);
        let Wanted { tried, fresh, sound } = wanted;
        if full.contains(&&place.agent) || fresh && tried.iter().any(|tried| tried.target == place.target) {
            return None;
        }
        let check = live.check.as_ref().filter(|_| sound);
        let wanted = |session: &AgentSession| {
            !tried.iter().any(|tried| tried.session.id == session.id && (fresh || tried.target == place.target))
                && !check.is_some_and(|check| session.fails(check))
        };
        let session = if self.backend.balancing == LoadBalancing::ClientHash {
            self.registry.choose_for(&place.agent, self.visitor, wanted)?
        } else {
            self.registry.choose_where(&place.agent, wanted)?
        };
        Some(Usable { session, target: &place.target, agent: &place.agent, place: live })
    }

    /// Whether places may be ejected: never the only one.
    pub(super) fn ejects(&self) -> bool {
        self.route.places.len() > 1
    }

    /// Since when connects to the place fail, so that it should get no requests for a while; `None` where they do not.
    fn fails_since(&self, index: usize) -> Option<Instant> {
        self.route.places.get(index)?.reach()?.ejected(Instant::now)
    }

    /// The places of a tier that get no requests for a while, by their index. Of more than may be at a time, those that failed
    /// first.
    fn ejected(&self, tier: &Tier) -> HashSet<usize> {
        let all = tier.indices();
        let most = self.backend.passive_health.most(all.len());
        let mut fail: Vec<_> = all.filter_map(|index| Some((self.fails_since(index)?, index))).collect();
        fail.sort_unstable();
        fail.into_iter().take(most).map(|(_, index)| index).collect()
    }
}
