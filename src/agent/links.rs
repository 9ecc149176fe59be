use std::{
    collections::HashMap,
    future,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Waker},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{AllowList, allow::Verdict};
use crate::tunnel::target::Target;

/// The links in progress, so that those can be ended whose target is allowed no longer. Cheap to clone, all clones are one.
///
/// Nothing of it is touched while bytes go through a link, but a flag.
#[derive(Clone, Debug)]
pub(super) struct Links {
    known: Arc<Mutex<Known>>,
    /// The places of [`CONNECTING`].
    connecting: Arc<Semaphore>,
}

/// How many links may wait for their targets at a time. A target that swallows what it is sent would else hold as many sockets as
/// the edge opens links to it.
pub(super) const CONNECTING: usize = 1024;

/// A link's place among them; it is taken out when this is dropped.
#[derive(Debug)]
pub(super) struct Listed {
    links: Links,
    id: u64,
    forbidden: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Known {
    last: u64,
    links: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    target: String,
    namespace: String,
    /// Where it was dialled; `None` of a Unix socket.
    address: Option<SocketAddr>,
    forbidden: Arc<AtomicBool>,
    task: Waker,
}

// === impl Links ===

impl Links {
    /// A place among the links that wait for their targets, free again when it is dropped; `None` where all are taken.
    pub(super) fn connecting(&self) -> Option<OwnedSemaphorePermit> {
        self.connecting.clone().try_acquire_owned().ok()
    }

    /// Lists the link that the current task serves, unless the rules have changed since its target was found allowed.
    pub(super) async fn list(
        &self,
        target: &str,
        namespace: &str,
        address: Option<SocketAddr>,
        allowed: &AllowList,
    ) -> Option<Listed> {
        let task = future::poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
        let forbidden = Arc::new(AtomicBool::new(false));
        let (target, namespace) = (target.to_owned(), namespace.to_owned());
        let entry = Entry { target, namespace, address, forbidden: forbidden.clone(), task };
        let mut known = self.lock();
        // Under the lock: of a change either this sees the rules, or whoever goes through the list sees the link.
        if !entry.is_allowed(allowed) {
            return None;
        }
        known.last += 1;
        let id = known.last;
        known.links.insert(id, entry);
        drop(known);
        Some(Listed { links: self.clone(), id, forbidden })
    }

    /// Ends the links that are not allowed any more, whenever the rules change, for ever.
    pub(super) async fn follow(self, allowed: AllowList) {
        let mut changes = allowed.changes();
        while changes.changed().await.is_ok() {
            let ended = self.end_forbidden(&allowed);
            if ended > 0 {
                tracing::info!(links = ended, "links were ended whose target is not allowed any more");
            }
        }
    }

    fn end_forbidden(&self, allowed: &AllowList) -> usize {
        let known = self.lock();
        let forbidden = known.links.values().filter(|link| !link.is_allowed(allowed));
        forbidden.map(Entry::end).count()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing is left half done where a holder could panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Links {
    fn default() -> Self {
        Self { known: Arc::default(), connecting: Arc::new(Semaphore::new(CONNECTING)) }
    }
}

// === impl Entry ===

impl Entry {
    fn is_allowed(&self, allowed: &AllowList) -> bool {
        let Ok(target) = Target::parse(&self.target) else { return false };
        match (allowed.verdict(&target, &self.namespace), self.address) {
            (Verdict::Allowed, _) => true,
            (verdict, Some(address)) => allowed.allows_address(verdict, address.ip(), address.port(), &self.namespace),
            (_, None) => false,
        }
    }

    fn end(&self) {
        self.forbidden.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

// === impl Listed ===

impl Listed {
    /// Whether the link has to end; its task is woken when this becomes true.
    pub(super) fn is_forbidden(&self) -> bool {
        self.forbidden.load(Ordering::Acquire)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.links.lock().links.remove(&self.id);
    }
}
