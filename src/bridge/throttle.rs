use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::source::Source;

/// Slows failed registrations down: one a second of each source gets an answer. A line in the log gets the first, the first a
/// second later, two seconds after that, and so on to one a minute while it goes on; and of all sources
/// together there are at most [`Throttle::LINES`] lines a second. So nobody learns much by asking often, and nobody can fill
/// the log (or this table) from outside. What is left out is in the metrics.
///
/// Who registers with a valid token is never asked here, whatever its neighbours behind one address do.
#[derive(Debug, Default)]
pub(super) struct Throttle(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    sources: HashMap<Source, Pace>,
    /// When the table was gone through last for what can be forgotten.
    tidied: Option<Instant>,
    /// Since when `lines` are counted.
    counting: Option<Instant>,
    lines: usize,
}

/// What a source may have next.
#[derive(Clone, Copy, Debug)]
struct Pace {
    answer: Instant,
    line: Instant,
    /// How long the log says nothing after the next line.
    quiet: Duration,
}

/// What becomes of a failed registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// When it is answered; `None` where so many wait already that its time would not come before it is closed.
    pub(super) answer: Option<Instant>,
    /// Whether it is worth a line in the log.
    pub(super) log: bool,
}

// === impl Throttle ===

impl Throttle {
    const INTERVAL: Duration = Duration::from_secs(1);
    /// How far ahead answers are promised: connections are closed after 10 s.
    const AHEAD: Duration = Duration::from_secs(8);
    const LINES: usize = 100;
    /// The longest that the log says nothing of a source that goes on, and how long it has to pause to be news again.
    const QUIET: Duration = Duration::from_mins(1);
    const SOURCES: usize = 10_000;

    /// A registration of `source` has failed `now`.
    pub(super) fn failed(&self, source: Source, now: Instant) -> Failed {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = state.sources.get(&source).copied();
        if known.is_none() && !state.has_room(now) {
            return Failed { answer: Some(now + Self::INTERVAL), log: false };
        }
        let mut pace = known.unwrap_or(Pace { answer: now, line: now, quiet: Self::INTERVAL });
        let at = pace.answer.max(now);
        let answer = (at <= now + Self::AHEAD).then_some(at);
        if answer.is_some() {
            pace.answer = at + Self::INTERVAL;
        }
        let log = pace.line <= now && state.has_line(now);
        if log {
            if now.saturating_duration_since(pace.line) >= Self::QUIET {
                pace.quiet = Self::INTERVAL;
            }
            pace.line = now + pace.quiet;
            pace.quiet = (2 * pace.quiet).min(Self::QUIET);
        }
        state.sources.insert(source, pace);
        Failed { answer, log }
    }
}

// === impl State ===

impl State {
    /// Whether another source can be remembered. Those whose last failure no longer matters are forgotten, not more often
    /// than once in a while, as it takes time.
    fn has_room(&mut self, now: Instant) -> bool {
        let due = self.tidied.is_none_or(|last| now.saturating_duration_since(last) >= Throttle::INTERVAL);
        if self.sources.len() >= Throttle::SOURCES && due {
            self.tidied = Some(now);
            self.sources.retain(|_, pace| pace.answer > now || pace.line > now);
        }
        self.sources.len() < Throttle::SOURCES
    }

    fn has_line(&mut self, now: Instant) -> bool {
        if self.counting.is_none_or(|since| now.saturating_duration_since(since) >= Throttle::INTERVAL) {
            (self.counting, self.lines) = (Some(now), 0);
        }
        self.lines += 1;
        self.lines <= Throttle::LINES
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn source(n: u32) -> Source {
        Source::of(Ipv4Addr::from_bits(n).into())
    }

    #[test]
    fn each_source_has_one_answer_and_one_line_a_second() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        let failed = |n, millis| throttle.failed(source(n), at(millis));
        assert_eq!(failed(1, 0), Failed { answer: Some(at(0)), log: true });
        assert_eq!(failed(1, 10), Failed { answer: Some(at(1000)), log: false });
        assert_eq!(failed(1, 999), Failed { answer: Some(at(2000)), log: false });
        assert_eq!(failed(2, 999), Failed { answer: Some(at(999)), log: true });
        assert_eq!(failed(1, 1000), Failed { answer: Some(at(3000)), log: true });
        assert_eq!(failed(1, 10_000), Failed { answer: Some(at(10_000)), log: true });
    }

    #[test]
    fn a_source_that_goes_on_is_told_less_and_less_often() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        let lines = |from: u64, to: u64| {
            let failed = |second| throttle.failed(source(1), start + Duration::from_secs(second)).log;
            (from..to).filter(|&second| failed(second)).collect::<Vec<_>>()
        };
        assert_eq!(lines(0, 200), [0, 1, 3, 7, 15, 31, 63, 123, 183]);
        assert_eq!(lines(400, 403), [400, 401], "after a pause it is news again");
    }

    #[test]
    fn no_answer_is_promised_that_would_come_too_late() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        let promised = (0..100).filter(|_| throttle.failed(source(1), start).answer.is_some()).count();
        assert_eq!(promised, 9);
        let later = start + Duration::from_secs(9);
        assert_eq!(throttle.failed(source(1), later).answer, Some(later), "what was not promised takes no turn");
    }

    #[test]
    fn many_sources_fill_neither_the_log_nor_the_table() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        let failed: Vec<Failed> = (0..20_000).map(|n| throttle.failed(source(n), start)).collect();
        assert_eq!(failed.iter().filter(|failed| failed.log).count(), Throttle::LINES);
        assert_eq!(throttle.0.lock().expect("no panic").sources.len(), Throttle::SOURCES);
        assert_eq!(failed[19_999].answer, Some(start + Throttle::INTERVAL));
        assert!(throttle.failed(source(30_000), start + Duration::from_secs(2)).log);
    }
}
