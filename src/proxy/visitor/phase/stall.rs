use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

/// How long a visitor may take nothing, in milliseconds. Each request has a rule that says so, but what stands still stands still
/// for the whole connection: of several in progress, the strictest rule counts.
#[derive(Debug)]
pub(super) struct StallTimeout {
    current: AtomicU64,
    /// What the rules have, each with how many requests, where there are several at a time.
    of_requests: Mutex<BTreeMap<u64, usize>>,
}

// === impl StallTimeout ===

impl StallTimeout {
    pub(super) fn new(timeout: u64) -> Self {
        Self { current: AtomicU64::new(timeout), of_requests: Mutex::default() }
    }

    pub(super) fn get(&self) -> u64 {
        self.current.load(Ordering::Relaxed)
    }

    /// There is one request at a time, and this is its.
    pub(super) fn set(&self, timeout: u64) {
        self.current.store(timeout, Ordering::Relaxed);
    }

    /// A request with this one is in progress beside others.
    pub(super) fn add(&self, timeout: u64) {
        let mut of_requests = self.of_requests.lock();
        *of_requests.entry(timeout).or_default() += 1;
        self.choose(&of_requests);
    }

    /// A request with this one is over.
    pub(super) fn remove(&self, timeout: u64) {
        let mut of_requests = self.of_requests.lock();
        if let Entry::Occupied(mut count) = of_requests.entry(timeout) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.choose(&of_requests);
    }

    /// The last one stays while the last bytes of its response are taken.
    fn choose(&self, of_requests: &BTreeMap<u64, usize>) {
        if let Some((strictest, _)) = of_requests.first_key_value() {
            self.set(*strictest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strictest_of_the_rules_in_progress_counts() {
        let timeout = StallTimeout::new(1000);
        for (added, expected) in [(300, 300), (2, 2), (2, 2), (600, 2)] {
            timeout.add(added);
            assert_eq!(timeout.get(), expected);
        }
        for (removed, expected) in [(2, 2), (2, 300), (300, 600), (600, 600)] {
            timeout.remove(removed);
            assert_eq!(timeout.get(), expected);
        }
        assert!(timeout.of_requests.lock().is_empty());
    }
}
