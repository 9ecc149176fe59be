use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};

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
#[derive(Clone, Debug)]
struct Pace {
    answers: Answers,
    line: Instant,
    /// How long the log says nothing after the next line.
    quiet: Duration,
}

/// When the next answer may go out, held by the one that waits for it. Those behind it are let in as they came, and whoever
/// leaves takes nobody's turn.
type Answers = Arc<tokio::sync::Mutex<Instant>>;

/// What becomes of a failed registration.
#[derive(Debug)]
pub(super) struct Failed {
    /// `None` where there are too many sources to remember this one.
    answers: Option<Answers>,
    /// Whether it is worth a line in the log.
    pub(super) log: bool,
}

// === impl Throttle ===

impl Throttle {
    const INTERVAL: Duration = Duration::from_secs(1);
    const LINES: usize = 100;
    /// The longest that the log says nothing of a source that goes on, and how long it has to pause to be news again.
    const QUIET: Duration = Duration::from_mins(1);
    const SOURCES: usize = 10_000;

    /// A registration of `source` has failed `now`.
    pub(super) fn failed(&self, source: Source, now: Instant) -> Failed {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = state.sources.get(&source).cloned();
        if known.is_none() && !state.has_room(now) {
            return Failed { answers: None, log: false };
        }
        let mut pace = known.unwrap_or_else(|| Pace::new(now));
        let log = pace.line <= now && state.has_line(now);
        if log {
            if now.saturating_duration_since(pace.line) >= Self::QUIET {
                pace.quiet = Self::INTERVAL;
            }
            pace.line = now + pace.quiet;
            pace.quiet = (2 * pace.quiet).min(Self::QUIET);
        }
        let answers = Some(Arc::clone(&pace.answers));
        state.sources.insert(source, pace);
        Failed { answers, log }
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
            self.sources.retain(|_, pace| pace.matters(now));
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

// === impl Pace ===

impl Pace {
    fn new(now: Instant) -> Self {
        Self { answers: Arc::new(tokio::sync::Mutex::new(now)), line: now, quiet: Throttle::INTERVAL }
    }

    /// Whether one that fails again would not be treated like a new one, or one still waits.
    fn matters(&self, now: Instant) -> bool {
        self.line > now || self.answers.try_lock().is_ok_and(|next| *next > now) || Arc::strong_count(&self.answers) > 1
    }
}

// === impl Failed ===

impl Failed {
    /// Waits until the source may have its next answer, behind those that wait already, and takes it.
    pub(super) async fn turn(self) {
        let Some(answers) = self.answers else { return sleep(Throttle::INTERVAL).await };
        let mut next = answers.lock().await;
        sleep_until(*next).await;
        *next = Instant::now() + Throttle::INTERVAL;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{task::JoinSet, time::timeout};

    use super::*;

    fn source(n: u32) -> Source {
        Source::of(Ipv4Addr::from_bits(n).into())
    }

    /// When those that fail now are answered, in the order in which they failed; in seconds from now.
    async fn answers(throttle: &Throttle, sources: impl IntoIterator<Item = u32>) -> Vec<(usize, u64)> {
        let start = Instant::now();
        let mut waiting = JoinSet::new();
        for (index, n) in sources.into_iter().enumerate() {
            let failed = throttle.failed(source(n), start);
            waiting.spawn(async move {
                failed.turn().await;
                (index, start.elapsed().as_secs())
            });
        }
        let mut answered = waiting.join_all().await;
        answered.sort_unstable();
        answered
    }

    #[tokio::test(start_paused = true)]
    async fn each_source_has_one_answer_a_second_in_turn() {
        let throttle = Throttle::default();
        assert_eq!(answers(&throttle, [1, 1, 2, 1]).await, [(0, 0), (1, 1), (2, 0), (3, 2)]);
        assert_eq!(answers(&throttle, [1, 2]).await, [(0, 1), (1, 0)], "the last one of the first was just answered");
        sleep(Duration::from_secs(100)).await;
        assert_eq!(answers(&throttle, [1, 1]).await, [(0, 0), (1, 1)], "what nobody asked for is not saved");
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_takes_nobodys_turn() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        throttle.failed(source(1), now).turn().await;
        for _ in 0..50 {
            let gone = throttle.failed(source(1), now).turn();
            assert!(timeout(Duration::from_millis(1), gone).await.is_err());
        }
        throttle.failed(source(1), now).turn().await;
        assert_eq!(now.elapsed().as_secs(), 1);
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

    #[tokio::test(start_paused = true)]
    async fn many_sources_fill_neither_the_log_nor_the_table() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        let mut failed: Vec<Failed> = (0..20_000).map(|n| throttle.failed(source(n), start)).collect();
        assert_eq!(failed.iter().filter(|failed| failed.log).count(), Throttle::LINES);
        assert_eq!(throttle.0.lock().expect("no panic").sources.len(), Throttle::SOURCES);
        failed.remove(19_999).turn().await;
        assert_eq!(start.elapsed(), Throttle::INTERVAL, "who is not remembered is held as well");
        assert!(!throttle.failed(source(30_000), start + Duration::from_secs(2)).log, "all of them wait still");
        drop(failed);
        assert!(throttle.failed(source(30_000), start + Duration::from_secs(4)).log);
    }
}
