use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Notices a stream that has not moved for too long. The timer is made only once there is something to wait for, and
/// is not touched while the stream moves.
pub(super) struct Idle {
    timeout: Duration,
    quiet_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

// === impl Idle ===

impl Idle {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, quiet_since: None, timer: None }
    }

    /// How long the stream may stand still.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The stream moved.
    pub(super) fn moved(&mut self) {
        self.quiet_since = None;
    }

    /// Something else that counts moved then.
    pub(super) fn moved_at(&mut self, moment: Instant) {
        self.quiet_since = Some(moment);
    }

    /// Called while the stream does not move; ready once that has lasted for the timeout.
    pub(super) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = *self.quiet_since.get_or_insert_with(Instant::now) + self.timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test(start_paused = true)]
    async fn only_an_unbroken_silence_expires() {
        let start = Instant::now();
        let mut idle = Idle::new(Duration::from_secs(10));
        let quiet = tokio::time::timeout(Duration::from_secs(8), poll_fn(|cx| idle.poll_expired(cx)));
        assert!(quiet.await.is_err());
        idle.moved();
        poll_fn(|cx| idle.poll_expired(cx)).await;
        assert_eq!(start.elapsed().as_secs(), 18);
    }
}
