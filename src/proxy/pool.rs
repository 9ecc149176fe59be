use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::upstream::Upstream;

/// Longer than this, an idle connection is not worth its memory. Most servers close theirs earlier.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// Most idle connections that are kept for one target through one session.
const MAX_IDLE: usize = 256;

/// The idle connections of one TunnelHost to one target through one session. Since they are never shared between
/// TunnelHosts, the flow of a link belongs to one of them.
pub(super) struct Pool {
    /// `None` once the pool is closed: what comes back then is dropped.
    idle: Mutex<Option<Vec<Upstream>>>,
}

// === impl Pool ===

impl Pool {
    pub(super) fn new() -> Self {
        Self { idle: Mutex::new(Some(Vec::new())) }
    }

    /// A live connection, the one used last first, so that those too many can grow old.
    pub(super) fn take(&self) -> Option<Upstream> {
        loop {
            let mut upstream = self.idle.lock().as_mut()?.pop()?;
            if upstream.is_alive() {
                return Some(upstream);
            }
        }
    }

    /// Keeps a connection for the next request.
    pub(super) fn put(&self, upstream: Upstream) {
        if let Some(idle) = &mut *self.idle.lock()
            && idle.len() < MAX_IDLE
        {
            idle.push(upstream);
        }
    }

    /// Drops all connections, and those that come back later.
    pub(super) fn close(&self) {
        let idle = self.idle.lock().take();
        drop(idle);
    }

    /// Drops connections that are closed or old. Returns whether any are left.
    pub(super) fn sweep(&self, now: Instant) -> bool {
        let mut idle = self.idle.lock();
        let Some(idle) = &mut *idle else { return false };
        idle.retain_mut(|upstream| now - upstream.idle_since < IDLE_TIMEOUT && upstream.is_alive());
        !idle.is_empty()
    }
}
