//! The pace at which requests that trickle in are read.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    thread::available_parallelism,
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// How far reads lie apart on one processor, in microseconds. A small piece of a body costs some 40 on its way to its backend,
/// so that these take about a tenth of the processors' time.
const APART: u64 = 400;
/// What lies within so many microseconds is read at once: timers are no more exact.
const AT_ONCE: u64 = 1000;
/// No read waits for longer, in microseconds. With more to read than that allows, all of it is late by this much and no more.
const MOST: u64 = 250_000;

/// Spreads the reads of what trickles in.
///
/// Each piece costs as much as a small request. Visitors who are slow on purpose send thousands of them in one moment, and all
/// other requests would wait behind them. So these wait for each other instead; a few never wait, nor does what flows.
#[derive(Debug)]
pub(in crate::proxy) struct Pacer {
    start: Instant,
    /// In microseconds.
    apart: u64,
    /// When the next read may be, in microseconds from `start`.
    next: AtomicU64,
}

/// The reads of one connection.
#[derive(Debug)]
pub(super) struct Paced {
    pacer: Arc<Pacer>,
    /// Until the next read.
    wait: Option<Pin<Box<Sleep>>>,
}

// === impl Pacer ===

impl Pacer {
    pub(in crate::proxy) fn new() -> Self {
        Self::of(available_parallelism().map_or(1, |processors| processors.get() as u64))
    }

    /// Of a machine with so many processors.
    pub(super) fn of(processors: u64) -> Self {
        Self { start: Instant::now(), apart: (APART / processors).max(1), next: AtomicU64::new(0) }
    }

    /// Takes a place. Returns until when the read has to wait for it; `None` where it may be at once.
    fn take(&self) -> Option<Instant> {
        let now = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let place = |next: u64| next.max(now.saturating_sub(AT_ONCE));
        let after = |next| Some(place(next).saturating_add(self.apart).min(now.saturating_add(MOST)));
        // There is always one after it, so that this never fails.
        let (Ok(next) | Err(next)) = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after);
        (place(next) > now).then(|| self.start + Duration::from_micros(place(next)))
    }
}

// === impl Paced ===

impl Paced {
    pub(super) fn new(pacer: Arc<Pacer>) -> Self {
        Self { pacer, wait: None }
    }

    /// The read need not wait any more.
    pub(super) fn forget(&mut self) {
        self.wait = None;
    }

    /// Whether a read waits for its place.
    pub(super) fn waits(&self) -> bool {
        self.wait.is_some()
    }

    /// Takes a place where none is taken, and waits for it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.wait.is_none() {
            self.wait = self.pacer.take().map(|place| Box::pin(sleep_until(place)));
        }
        if self.wait.as_mut().is_some_and(|wait| wait.as_mut().poll(cx).is_pending()) {
            return Poll::Pending;
        }
        self.wait = None;
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::advance;

    use super::*;

    /// How long these reads would have to wait, in microseconds.
    fn waits(pacer: &Pacer, reads: usize) -> Vec<u128> {
        let now = Instant::now();
        (0..reads).map(|_| pacer.take().map_or(0, |place| (place - now).as_micros())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_are_read_at_once_and_many_one_after_another() {
        let pacer = Pacer::of(2);
        advance(Duration::from_secs(1)).await;
        let waits = waits(&pacer, 1000);
        assert_eq!(waits[..6], [0; 6]);
        assert_eq!(waits[6..8], [200, 400]);
        assert_eq!(waits[999], 198_800);
        // All of them are through, and a second later it is as if they had not been there.
        advance(Duration::from_secs(1)).await;
        assert_eq!(pacer.take(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn none_waits_for_longer_than_a_quarter_of_a_second() {
        let pacer = Pacer::of(2);
        advance(Duration::from_secs(1)).await;
        assert_eq!(waits(&pacer, 100_000).pop(), Some(250_000));
        advance(Duration::from_secs(1)).await;
        assert_eq!(pacer.take(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_waits_for_one_place_until_that_comes() {
        let pacer = Arc::new(Pacer::of(2));
        waits(&pacer, 100_000);
        let mut reads = Paced::new(pacer);
        let start = Instant::now();
        let waited = poll_fn(|cx| {
            let polled = reads.poll(cx);
            assert_eq!(reads.waits(), polled.is_pending());
            polled
        });
        waited.await;
        assert_eq!(start.elapsed().as_millis().div_euclid(10), 25);
        poll_fn(|cx| reads.poll(cx)).await;
        assert_eq!(start.elapsed().as_millis().div_euclid(10), 25, "the next one finds nobody before it");
    }
}
