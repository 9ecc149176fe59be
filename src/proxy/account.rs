use std::{mem, sync::Arc, time::Instant};

use http::{Method, StatusCode, Version};

use super::{
    gate::Place,
    metrics::{HostMetrics, Outcome},
};
use crate::flow::Permit;

/// What nginx calls a visitor that closed its connection before the response.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// One request's entry in the books, opened with its head and closed when it is dropped: with the last byte of the
/// response, or when the visitor leaves.
pub(super) struct Account {
    /// `None` once another account has taken over.
    host: Option<Arc<HostMetrics>>,
    started: Instant,
    outcome: Outcome,
    /// The request's place among its agent's connections; free when the books are closed.
    pub(super) permit: Option<Permit>,
    /// Its places among those of limits.
    places: Vec<Place>,
}

/// An upgraded connection's entry, closed when it is dropped.
pub(super) struct JoinAccount {
    host: Arc<HostMetrics>,
    _permit: Option<Permit>,
    _places: Vec<Place>,
}

// === impl Account ===

impl Account {
    /// Opens the books for a request that is not routed yet.
    pub(super) fn open(unrouted: Arc<HostMetrics>, method: &Method, version: Version, started: Instant) -> Self {
        unrouted.active_requests.inc();
        let outcome = Outcome::new(CLIENT_CLOSED_REQUEST, method, version);
        Self { host: Some(unrouted), started, outcome, permit: None, places: Vec::new() }
    }

    /// The request is this TunnelHost's.
    pub(super) fn belongs_to(&mut self, host: Arc<HostMetrics>) {
        host.active_requests.inc();
        if let Some(before) = self.host.replace(host) {
            before.active_requests.dec();
        }
    }

    /// The request has a place, until the books are closed.
    pub(super) fn hold(&mut self, place: Place) {
        self.places.push(place);
    }

    /// The visitor gets a response with this status.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.outcome.code = status.as_u16();
    }

    /// Moves the entry to where the response ends.
    pub(super) fn take(&mut self) -> Self {
        Self {
            host: self.host.take(),
            started: self.started,
            outcome: self.outcome,
            permit: self.permit.take(),
            places: mem::take(&mut self.places),
        }
    }

    /// Closes the request's entry and opens the one of the join that it became; the place among the agent's
    /// connections goes on.
    pub(super) fn into_join(mut self) -> Option<JoinAccount> {
        let host = self.host.clone()?;
        host.active_joins.inc();
        Some(JoinAccount { host, _permit: self.permit.take(), _places: mem::take(&mut self.places) })
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if let Some(host) = self.host.take() {
            host.active_requests.dec();
            host.duration.observe(self.started.elapsed().as_secs_f64());
            host.count(self.outcome);
        }
    }
}

// === impl JoinAccount ===

impl Drop for JoinAccount {
    fn drop(&mut self) {
        self.host.active_joins.dec();
    }
}
