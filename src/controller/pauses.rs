use std::time::Duration;

use kube::runtime::utils::Backoff;

/// The pauses between attempts to reach the API server: 0.5 s, doubled up to 8 s, each shortened at random by up to half
/// so that replicas do not come back all at once. Shorter than kube's own, which go up to 30 s: visitors would wait for
/// what was applied right after the API server is back.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    failures: u32,
}

// === impl Pauses ===

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = Duration::from_millis(500) * 2_u32.pow(self.failures);
        self.failures = (self.failures + 1).min(4);
        Some(pause.mul_f64(rand::random_range(0.5..=1.0)))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew() {
        let mut pauses = Pauses::default();
        let grown: Vec<Duration> = pauses.by_ref().take(20).collect();
        assert!(grown[0] <= Duration::from_millis(500));
        assert!(grown[10..].iter().all(|pause| (4000..=8000).contains(&pause.as_millis())));
        pauses.reset();
        assert!(pauses.next() <= Some(Duration::from_millis(500)));
    }
}
