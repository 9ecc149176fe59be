//! What the visitors of a TunnelHost have used up of its limits.

use std::{collections::HashMap, sync::Arc};

use parking_lot::{Mutex, RwLock};

use super::{InProgress, Place, Rate, Turn};
use crate::routing::{ConcurrentRequests, Filter, RequestRate, Rule, Scope};

/// The state of a TunnelHost's limits. It outlasts the tables, so that a change of something else gives nobody a new
/// burst.
pub(in crate::proxy) struct Limits {
    rates: RwLock<HashMap<Scope, Arc<Rate>>>,
    in_progress: Mutex<HashMap<Scope, Arc<InProgress>>>,
    /// For its visitors' passwords.
    pub(super) passwords: Turn,
}

/// The limits that a TunnelHost's rules have.
#[derive(Default)]
pub(in crate::proxy) struct Wanted<'a> {
    rates: HashMap<Scope, &'a Arc<RequestRate>>,
    in_progress: Vec<Scope>,
}

// === impl Wanted ===

impl<'a> Wanted<'a> {
    pub(in crate::proxy) fn add(&mut self, rule: &'a Rule) {
        for filter in &rule.filters {
            match filter {
                Filter::RequestRate(rate) => drop(self.rates.insert(rate.scope, rate)),
                Filter::ConcurrentRequests(limit) if !self.in_progress.contains(&limit.scope) => {
                    self.in_progress.push(limit.scope);
                }
                _ => {}
            }
        }
    }
}

// === impl Limits ===

impl Limits {
    pub(in crate::proxy) fn new() -> Self {
        Self { rates: RwLock::default(), in_progress: Mutex::default(), passwords: Turn::new() }
    }

    /// Keeps the state of limits that are as they were, and ends that of others.
    pub(in crate::proxy) fn update(&self, wanted: &Wanted<'_>) {
        let mut rates = self.rates.write();
        rates.retain(|scope, rate| wanted.rates.get(scope).is_some_and(|wanted| rate.is(wanted)));
        for (scope, config) in &wanted.rates {
            rates.entry(*scope).or_insert_with(|| Arc::new(Rate::new((*config).clone())));
        }
        drop(rates);
        // Who holds a place is counted on, for the limit may come back before they leave.
        self.in_progress
            .lock()
            .retain(|scope, state| wanted.in_progress.contains(scope) || Arc::strong_count(state) > 1);
    }

    /// The state of a rate; `None` where a newer table has no such limit any more.
    pub(in crate::proxy) fn rate(&self, rate: &RequestRate) -> Option<Arc<Rate>> {
        self.rates.read().get(&rate.scope).cloned()
    }

    /// A request's place among those in progress, unless there is none.
    pub(in crate::proxy) fn place(&self, limit: ConcurrentRequests, replicas: u32) -> Option<Place> {
        let in_progress = self.in_progress.lock().entry(limit.scope).or_default().clone();
        in_progress.take(limit.most.div_ceil(replicas.max(1)))
    }

    /// Forgets the visitors that have all of their share again.
    pub(in crate::proxy) fn sweep(&self) {
        let rates: Vec<_> = self.rates.read().values().cloned().collect();
        for rate in rates {
            rate.sweep();
        }
    }
}
