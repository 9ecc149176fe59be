//! The live state of routes and their places, each a way from an agent to a target.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;

use super::{HostState, reach::Reach};
use crate::routing::{Backend, Check, ObjectName, Place, Rule, Target};

/// The live state of a route: whose turn it is, and its places.
pub(in crate::proxy) struct RouteState {
    /// The rule that this is for; another one has other places.
    rule: Arc<Rule>,
    turn: Arc<AtomicUsize>,
    /// In the order of the rule's places.
    pub(in crate::proxy) places: Vec<RoutePlace>,
}

/// A place of a route.
pub(in crate::proxy) struct RoutePlace {
    pub(in crate::proxy) state: Arc<PlaceState>,
    /// What the agent's sessions are asked of it.
    pub(in crate::proxy) check: Option<Check>,
    /// What connects of the TunnelHost have come to there; empty before the first one.
    pub(super) reach: OnceLock<Arc<Reach>>,
}

/// What is known of an agent and a target that it connects to.
#[derive(Debug, Default)]
pub(in crate::proxy) struct PlaceState {
    /// The requests in progress of rules that choose by them.
    in_progress: AtomicU32,
}

/// One request's mark on its place, taken away when it is dropped.
#[derive(Debug)]
pub(in crate::proxy) struct InProgress(Arc<PlaceState>);

/// The state of all places that a rule uses.
#[derive(Default)]
pub(in crate::proxy) struct PlaceStates(Mutex<HashMap<(ObjectName, Target), Arc<PlaceState>>>);

// === impl RouteState ===

impl RouteState {
    /// The state for a rule; `before` is that of the same route until now.
    pub(super) fn next(rule: &Arc<Rule>, before: Option<&Arc<Self>>, host: &HostState, all: &PlaceStates) -> Arc<Self> {
        if let Some(same) = before.filter(|before| Arc::ptr_eq(&before.rule, rule)) {
            return same.clone();
        }
        let places = match &rule.backend {
            Backend::Tunnel(tunnel) => {
                let check = |place: &Place| {
                    let how = tunnel.health_check.as_ref()?;
                    Some(Check::new(&rule.id.object, &place.target, how))
                };
                let reach = |place: &Place| host.known_reach(place).map_or_else(OnceLock::new, OnceLock::from);
                let live = |place| RoutePlace { state: all.of(place), check: check(place), reach: reach(place) };
                tunnel.places.all().iter().map(live).collect()
            }
            _ => Vec::new(),
        };
        Arc::new(Self {
            rule: rule.clone(),
            turn: before.map_or_else(Arc::default, |before| before.turn.clone()),
            places,
        })
    }

    /// The rule's places.
    pub(in crate::proxy) fn all_places(&self) -> &[Place] {
        match &self.rule.backend {
            Backend::Tunnel(tunnel) => tunnel.places.all(),
            _ => &[],
        }
    }

    /// The next number, counted up with each request.
    pub(in crate::proxy) fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}

// === impl RoutePlace ===

impl RoutePlace {
    /// What connects have come to there; `None` before the first one.
    pub(in crate::proxy) fn reach(&self) -> Option<&Arc<Reach>> {
        self.reach.get()
    }
}

// === impl PlaceStates ===

impl PlaceStates {
    fn of(&self, place: &Place) -> Arc<PlaceState> {
        self.0.lock().entry((place.agent.clone(), place.target.clone())).or_default().clone()
    }

    /// Forgets those that no rule has any more.
    pub(in crate::proxy) fn sweep(&self) {
        self.0.lock().retain(|_, state| Arc::strong_count(state) > 1);
    }
}

// === impl PlaceState ===

impl PlaceState {
    /// How many requests are in progress there.
    pub(in crate::proxy) fn load(&self) -> u32 {
        self.in_progress.load(Ordering::Relaxed)
    }

    /// Counts a request there.
    pub(in crate::proxy) fn begin(self: &Arc<Self>) -> InProgress {
        self.in_progress.fetch_add(1, Ordering::Relaxed);
        InProgress(self.clone())
    }
}

// === impl InProgress ===

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.in_progress.fetch_sub(1, Ordering::Relaxed);
    }
}
