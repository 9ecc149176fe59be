use std::{
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{MutexGuard, Semaphore, SemaphorePermit},
    time::Instant,
};

use super::{Idle, Lease, MAX_STREAMS, Shared, Upstream};
use crate::{
    bridge::AgentSession,
    routing::{BackendTls, Protocol},
};

/// Longer than this, an idle connection is not worth its memory. Most servers close theirs earlier.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// Links that wait for the agent's answer at a time. With more, the opens of one TunnelHost, or those to one dead target, would
/// stand before those of all others of the session.
const MAX_OPENING: usize = 128;
/// Most idle connections that are kept for one target through one agent process.
const MAX_IDLE: usize = 256;

/// The connections of one TunnelHost to one target through one agent process, by whichever of its sessions. Since they are never shared between
/// TunnelHosts, the flow of a link belongs to one of them.
pub(in crate::proxy) struct Pool {
    /// `None` once the pool is closed: what comes back then is dropped.
    connections: Mutex<Option<Connections>>,
    /// The places of [`MAX_OPENING`].
    opening: Arc<Semaphore>,
    /// Whoever makes a connection that others may share holds it, so that they wait for that one.
    dialling: tokio::sync::Mutex<()>,
    /// The backend does not speak HTTP/2, as its TLS has told.
    only_http1: AtomicBool,
    /// How many requests the backend takes at a time on one connection.
    pub(in crate::proxy) stream_limit: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Connections {
    /// HTTP/1.1, not in use.
    idle: Vec<Idle>,
    /// HTTP/2, in use or not.
    shared: Vec<Arc<Shared>>,
}

/// What the connections of a pool speak, and whose certificate was asked for.
#[derive(Clone, Debug)]
pub(in crate::proxy) enum Speaks {
    Http,
    /// The very same, not an equal one: the comparison is one of every request.
    Https(Arc<BackendTls>),
    H2c,
}

// === impl Speaks ===

impl Speaks {
    pub(in crate::proxy) fn of(protocol: &Protocol) -> Self {
        match protocol {
            Protocol::Http => Self::Http,
            Protocol::Https(tls) => Self::Https(tls.clone()),
            Protocol::H2c => Self::H2c,
        }
    }

    fn key(&self) -> usize {
        match self {
            Self::Http => 0,
            Self::H2c => 1,
            // No address that the allocator gives is one of those.
            Self::Https(tls) => Arc::as_ptr(tls).addr(),
        }
    }
}

impl PartialEq for Speaks {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Speaks {}

impl Hash for Speaks {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

// === impl Pool ===

impl Pool {
    pub(in crate::proxy) fn new() -> Self {
        Self::with(Some(Connections::default()), Arc::new(Semaphore::new(MAX_OPENING)))
    }

    /// One beside this one that keeps nothing.
    pub(in crate::proxy) fn closed(&self) -> Self {
        Self::with(None, self.opening.clone())
    }

    fn with(connections: Option<Connections>, opening: Arc<Semaphore>) -> Self {
        Self {
            connections: Mutex::new(connections),
            opening,
            dialling: tokio::sync::Mutex::default(),
            only_http1: AtomicBool::new(false),
            stream_limit: Arc::new(AtomicUsize::new(MAX_STREAMS)),
        }
    }

    /// A live connection. Of those for one request at a time the one used last comes first, so that those too many can
    /// grow old.
    pub(in crate::proxy) fn take(&self) -> Option<Upstream> {
        loop {
            let mut idle = {
                let mut connections = self.connections.lock();
                let connections = connections.as_mut()?;
                if let Some(lease) = connections.lease() {
                    return Some(Upstream::Http2(lease));
                }
                connections.idle.pop()?
            };
            if idle.is_alive() {
                return Some(Upstream::Http1(idle));
            }
        }
    }

    /// Keeps a connection for the next request.
    pub(in crate::proxy) fn put(&self, connection: Idle) {
        if let Some(connections) = &mut *self.connections.lock()
            && connections.idle.len() < MAX_IDLE
        {
            connections.idle.push(connection);
        }
    }

    /// Lets others share a connection.
    pub(in crate::proxy) fn share(&self, connection: Arc<Shared>) {
        if let Some(connections) = &mut *self.connections.lock() {
            connections.shared.push(connection);
        }
    }

    /// Waits for a place among the links that are being opened, which is free again when it is dropped.
    pub(in crate::proxy) async fn opening(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.opening.acquire().await.ok()
    }

    /// Waits until nobody else makes a connection that could be shared; `None` where none can be.
    pub(in crate::proxy) async fn dialling(&self) -> Option<MutexGuard<'_, ()>> {
        if self.only_http1.load(Ordering::Relaxed) { None } else { Some(self.dialling.lock().await) }
    }

    /// What the backend's TLS chose.
    pub(in crate::proxy) fn speaks_http2(&self, speaks: bool) {
        self.only_http1.store(!speaks, Ordering::Relaxed);
    }

    /// Drops those that this session carried, which is over.
    pub(in crate::proxy) fn lost(&self, session: &AgentSession) {
        if let Some(connections) = &mut *self.connections.lock() {
            connections.idle.retain(|idle| idle.session.id != session.id);
            connections.shared.retain(|shared| shared.session().id != session.id);
        }
    }

    /// Drops all connections, and those that come back later; requests in progress keep theirs.
    pub(in crate::proxy) fn close(&self) {
        let connections = self.connections.lock().take();
        drop(connections);
    }

    /// Drops connections that are closed or old. Returns whether any are left.
    pub(in crate::proxy) fn sweep(&self, now: Instant) -> bool {
        let mut connections = self.connections.lock();
        let Some(connections) = &mut *connections else { return false };
        connections.idle.retain_mut(|idle| now - idle.since < IDLE_TIMEOUT && idle.is_alive());
        connections.shared.retain(|shared| {
            shared.is_open()
                && shared.idle_since().is_none_or(|since| now.saturating_duration_since(since) < IDLE_TIMEOUT)
        });
        !connections.idle.is_empty() || !connections.shared.is_empty()
    }
}

// === impl Connections ===

impl Connections {
    fn lease(&mut self) -> Option<Lease> {
        // Those that the backend has said goodbye on go with their last request.
        self.shared.retain(|shared| shared.is_open());
        self.shared.iter().find_map(Shared::lease)
    }
}
