//! What an agent is doing, for those who look at it from outside: `culvert agent status`, probes and Prometheus.

mod http;
mod metrics;
mod snapshot;
#[cfg(unix)]
mod socket;

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use tokio::time::Instant;

pub use self::snapshot::{DialTotals, Flow, LastError, LinkTotals, SessionStatus, Snapshot};
#[cfg(unix)]
pub use self::socket::{SocketError, StatusSocket, read as read_socket};
use super::{AllowList, EdgeUrl, backoff::Failure};
use crate::tunnel::{Counts, Session};

/// What an agent is doing; cheap to clone.
#[derive(Clone)]
pub struct Status(Arc<Inner>);

struct Inner {
    agent: String,
    instance: String,
    edges: Vec<String>,
    allow: AllowList,
    since: Instant,
    started: SystemTime,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tunnels: Vec<Tunnel>,
    last_serial: u64,
    /// What was done in the tunnels that are over.
    ended: Totals,
    dials: DialTotals,
    last_error: Option<(Instant, String)>,
}

/// One session with the edge.
struct Tunnel {
    serial: u64,
    about: About,
    since: Instant,
    session: Session,
}

/// What is known of a session when it begins.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) replica: String,
    pub(super) address: SocketAddr,
    pub(super) transport: &'static str,
    pub(super) proxy: Option<String>,
}

#[derive(Clone, Copy, Default)]
struct Totals(Counts);

/// A session's place in the status; it leaves it when this is dropped.
pub(super) struct Listed {
    status: Status,
    serial: u64,
}

// === impl Status ===

impl Status {
    pub(super) fn new(agent: String, instance: String, edges: &[EdgeUrl], allow: AllowList) -> Self {
        Self(Arc::new(Inner {
            agent,
            instance,
            edges: edges.iter().map(EdgeUrl::to_string).collect(),
            allow,
            since: Instant::now(),
            started: SystemTime::now(),
            state: Mutex::default(),
        }))
    }

    /// Whether there is a session with the edge.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        !self.state().tunnels.is_empty()
    }

    /// All of it, as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        snapshot::take(&self.0, &self.state())
    }

    /// A dial led to this session.
    pub(super) fn connected(&self, about: About, session: &Session) -> Listed {
        let mut state = self.state();
        state.dials.connected += 1;
        state.last_serial += 1;
        let serial = state.last_serial;
        state.tunnels.push(Tunnel { serial, about, since: Instant::now(), session: session.clone() });
        Listed { status: self.clone(), serial }
    }

    /// A dial came to nothing.
    pub(super) fn dial_failed(&self, failure: Failure, text: &str) {
        let mut state = self.state();
        if failure == Failure::Met {
            state.dials.already_met += 1;
        } else {
            state.dials.failed += 1;
            state.last_error = Some((Instant::now(), text.to_owned()));
        }
    }

    /// A session ended by itself.
    pub(super) fn lost(&self, text: String) {
        self.state().last_error = Some((Instant::now(), text));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Plain values: they are whole at any moment.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Status").field("agent", &self.0.agent).finish_non_exhaustive()
    }
}

// === impl Totals ===

impl Totals {
    fn add(&mut self, counts: &Counts) {
        let Self(total) = self;
        total.accepted += counts.accepted;
        total.received += counts.received;
        total.sent += counts.sent;
        for (total, count) in total.refused.iter_mut().zip(counts.refused) {
            *total += count;
        }
    }
}

// === impl Listed ===

impl Drop for Listed {
    fn drop(&mut self) {
        let mut state = self.status.state();
        if let Some(index) = state.tunnels.iter().position(|tunnel| tunnel.serial == self.serial) {
            let tunnel = state.tunnels.swap_remove(index);
            state.ended.add(&tunnel.session.counts());
        }
    }
}
