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

use super::{AllowList, allow::Verdict};
use crate::tunnel::target::Target;

/// The links in progress, so that those can be ended whose target is allowed no longer. Cheap to clone, all clones are one.
///
/// Nothing of it is touched while bytes go through a link, but a flag.
#[derive(Clone, Debug, Default)]
pub(super) struct Links {
    known: Arc<Mutex<Known>>,
    connecting: Arc<Mutex<Connecting>>,
}

/// How many links may wait for their targets at a time. Targets that swallow what they are sent would else hold as many sockets as
/// the edge opens links to them.
///
/// One target has no more places than are left free. So however many a few dead targets hold, those that answer, and need a
/// place for a moment only, find some.
const CONNECTING: usize = 1024;

/// The links that wait for their targets.
#[derive(Debug, Default)]
struct Connecting {
    all: usize,
    of_target: HashMap<Arc<str>, usize>,
}

/// A link's place among those that wait for their targets; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    connecting: Arc<Mutex<Connecting>>,
    target: Arc<str>,
}

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
    /// A place among the links that wait for their targets.
    ///
    /// # Errors
    /// Where there is none for this one; says so.
    pub(super) fn connecting(&self, target: &str) -> Result<Waiting, String> {
        let mut connecting = lock(&self.connecting);
        let (all, of_target) = (connecting.all, connecting.of_target.get(target).copied().unwrap_or(0));
        if of_target >= CONNECTING.saturating_sub(all) {
            return Err(format!("the agent waits for {all} connections already, {of_target} of them to this target"));
        }
        connecting.all += 1;
        let target = Arc::<str>::from(target);
        *connecting.of_target.entry(target.clone()).or_default() += 1;
        Ok(Waiting { connecting: self.connecting.clone(), target })
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
        let mut known = lock(&self.known);
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
        let known = lock(&self.known);
        let forbidden = known.links.values().filter(|link| !link.is_allowed(allowed));
        forbidden.map(Entry::end).count()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done where a holder could panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Waiting ===

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut connecting = lock(&self.connecting);
        connecting.all -= 1;
        if let Some(of_target) = connecting.of_target.get_mut(&self.target) {
            *of_target -= 1;
            if *of_target == 0 {
                connecting.of_target.remove(&self.target);
            }
        }
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
        lock(&self.links.known).links.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_no_more_places_than_are_left() {
        let links = Links::default();
        let fill = |target: &str| std::iter::from_fn(|| links.connecting(target).ok()).collect::<Vec<_>>();
        let mut held = fill("dead-0:80");
        assert_eq!(held.len(), CONNECTING / 2);
        for number in 1..8 {
            held.extend(fill(&format!("dead-{number}:80")));
        }
        assert!(held.len() < CONNECTING);
        let refused = links.connecting("dead-0:80").expect_err("its share is taken");
        assert!(refused.ends_with("512 of them to this target"), "{refused}");
        drop(links.connecting("answers:80").expect("a place"));
        drop(held);
        let connecting = lock(&links.connecting);
        assert!(connecting.all == 0 && connecting.of_target.is_empty(), "{connecting:?}");
    }
}
