//! How many requests at a time.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// How many requests and joins of one scope are in progress on this replica.
#[derive(Debug, Default)]
pub(in crate::proxy) struct InProgress(AtomicU32);

/// One request's place among those in progress, given back when it is dropped.
#[derive(Debug)]
pub(in crate::proxy) struct Place(Arc<InProgress>);

// === impl InProgress ===

impl InProgress {
    /// Takes a place, unless so many are taken already.
    pub(in crate::proxy) fn take(self: &Arc<Self>, most: u32) -> Option<Place> {
        // The place is there before it is counted, so that what is not granted is given back too.
        let place = Place(self.clone());
        (self.0.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_request_is_over() {
        let in_progress = Arc::new(InProgress::default());
        let first = in_progress.take(1).expect("a place");
        assert!(in_progress.take(1).is_none());
        assert!(in_progress.take(1).is_none());
        drop(first);
        assert!(in_progress.take(1).is_some());
    }
}
