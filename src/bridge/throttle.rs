use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Decides which failed registrations are worth a log line: one a second for each source address, and for at most
/// [`Throttle::SOURCES`] sources a second, so that nobody can fill the logs (or this table) from outside. What is left
/// out is in the metrics.
#[derive(Debug, Default)]
pub(super) struct Throttle(Mutex<HashMap<IpAddr, Instant>>);

// === impl Throttle ===

impl Throttle {
    const INTERVAL: Duration = Duration::from_secs(1);
    const SOURCES: usize = 100;

    /// Whether a line about `source` may be written `now`.
    pub(super) fn allow(&self, source: IpAddr, now: Instant) -> bool {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = |last: &Instant| now.saturating_duration_since(*last) < Self::INTERVAL;
        if lines.get(&source).is_some_and(recent) {
            return false;
        }
        if lines.len() >= Self::SOURCES {
            lines.retain(|_, last| recent(last));
            if lines.len() >= Self::SOURCES {
                return false;
            }
        }
        lines.insert(source, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn source(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(n).into()
    }

    #[test]
    fn each_source_has_one_line_a_second() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        assert!(throttle.allow(source(1), start));
        assert!(!throttle.allow(source(1), start + Duration::from_millis(999)));
        assert!(throttle.allow(source(2), start + Duration::from_millis(999)));
        assert!(throttle.allow(source(1), start + Duration::from_secs(1)));
    }

    #[test]
    fn many_sources_fill_neither_the_log_nor_the_table() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        let lines = (0..10_000).filter(|&n| throttle.allow(source(n), start)).count();
        assert_eq!(lines, Throttle::SOURCES);
        assert!(throttle.allow(source(20_000), start + Duration::from_secs(1)));
    }
}
