use std::time::Duration;

use kube::runtime::utils::Backoff;
use tokio::time::Instant;

/// How long nothing must have failed for the pauses to begin anew. A watch that is taken up counts as a success before
/// its list has been read, so a success alone says nothing.
const CALM: Duration = Duration::from_secs(10);

/// The pauses between attempts to reach the API server: 0.5, 1 and then 2 s, each shortened at random by up to half so
/// that replicas do not come back all at once. Shorter than kube's own, which go up to 30 s: visitors would wait for what
/// was applied right after the API server is back, and a handful of watches is no load.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    failures: u32,
    last: Option<Instant>,
}

// === impl Pauses ===

impl Pauses {
    /// The next pause.
    pub(super) fn after_failure(&mut self) -> Duration {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last) > CALM) {
            self.failures = 0;
        }
        let pause = Duration::from_millis(500) * 2_u32.pow(self.failures);
        self.failures = (self.failures + 1).min(2);
        self.last = Some(now);
        pause.mul_f64(rand::random_range(0.5..=1.0))
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.after_failure())
    }
}

impl Backoff for Pauses {
    /// Only calm begins anew.
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_a_bound_and_begin_anew_when_it_is_calm() {
        let mut pauses = Pauses::default();
        let grown: Vec<Duration> = pauses.by_ref().take(20).collect();
        assert!(grown[0] <= Duration::from_millis(500));
        assert!(grown[2..].iter().all(|pause| (1000..=2000).contains(&pause.as_millis())));
        pauses.reset();
        assert!(pauses.after_failure() >= Duration::from_secs(1));
        tokio::time::advance(CALM * 2).await;
        assert!(pauses.after_failure() <= Duration::from_millis(500));
    }
}
