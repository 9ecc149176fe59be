use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::Key;
use crate::{routing::PassiveHealth, tunnel::health::HealthProblem};

/// What is said of the targets that have failed, by the number of their route. A failure is said at once, and then held, so that
/// a target that comes and goes is not news each time: the longer, the oftener it does.
#[derive(Default)]
pub(super) struct Held(HashMap<(Key, usize), Said>);

/// What is said of a target.
struct Said {
    problem: Option<Arc<HealthProblem>>,
    since: Instant,
    /// For how long a problem is said at least.
    hold: Duration,
}

/// For how long a first problem is held.
const SHORTEST: Duration = Duration::from_secs(15);
/// For how long one is held at most, each twice as long as the last; and after how long without news the next one is a first.
const LONGEST: Duration = PassiveHealth::LONGEST;

// === impl Held ===

impl Held {
    /// What is said of a target of which this is found now, and when that is to be looked at again.
    pub(super) fn say(
        &mut self,
        key: (Key, usize),
        found: Result<(), Arc<HealthProblem>>,
        now: Instant,
    ) -> (Result<(), Arc<HealthProblem>>, Option<Instant>) {
        let Some(said) = self.0.get_mut(&key) else {
            if let Err(problem) = &found {
                self.0.insert(key, Said { problem: Some(problem.clone()), since: now, hold: SHORTEST });
            }
            return (found, None);
        };
        let until = said.since + said.hold;
        match (&said.problem, found) {
            (None, Ok(())) => (Ok(()), None),
            // The words that came first stay: those of the next failure may name another port, and mean the same.
            (Some(before), Err(problem)) if problem.reason == before.reason => (Err(before.clone()), None),
            (Some(before), _) if now < until => (Err(before.clone()), Some(until)),
            (_, Err(problem)) => (Err(said.fails(problem, now)), None),
            (_, Ok(())) => {
                said.ends(now);
                (Ok(()), None)
            }
        }
    }

    /// Nothing is known of the other targets any more. How long their next problem is held is remembered for a while.
    pub(super) fn retain(&mut self, is_known: impl Fn(&Key) -> bool, now: Instant) {
        self.0.retain(|(key, _), said| {
            if said.problem.is_some() && !is_known(key) {
                said.ends(now);
            }
            said.problem.is_some() || now.saturating_duration_since(said.since) < LONGEST
        });
    }
}

// === impl Said ===

impl Said {
    /// Returns what is said from now on: of one that is held for longer, that it is.
    fn fails(&mut self, problem: Arc<HealthProblem>, now: Instant) -> Arc<HealthProblem> {
        let is_first = now.saturating_duration_since(self.since) >= LONGEST;
        let (problem, hold) = if is_first {
            (problem, SHORTEST)
        } else {
            let hold = (self.hold * 2).min(LONGEST);
            let text = format!("{} (this comes and goes, and is said for {} s at least)", problem.text, hold.as_secs());
            (Arc::new(HealthProblem { reason: problem.reason, text }), hold)
        };
        *self = Self { problem: Some(problem.clone()), since: now, hold };
        problem
    }

    fn ends(&mut self, now: Instant) {
        (self.problem, self.since) = (None, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{routing::ObjectName, tunnel::health::HealthReason};

    const REFUSED: HealthReason = HealthReason::Refused;
    const TIMEOUT: HealthReason = HealthReason::Timeout;

    /// What is said of one target, with a clock in seconds.
    struct Told {
        held: Held,
        begun: Instant,
    }

    impl Told {
        fn new() -> Self {
            Self { held: Held::default(), begun: Instant::now() }
        }

        fn key() -> (Key, usize) {
            ((ObjectName::new("web", "shop"), ObjectName::new("web", "lab"), "app:80".parse().expect("a target")), 0)
        }

        fn say(&mut self, at: u64, found: Result<(), HealthReason>) -> (Result<(), HealthReason>, Option<u64>) {
            let found = found.map_err(|reason| Arc::new(HealthProblem::new(reason, "no")));
            let (said, next) = self.held.say(Self::key(), found, self.begun + Duration::from_secs(at));
            (said.map_err(|problem| problem.reason), next.map(|next| (next - self.begun).as_secs()))
        }

        /// Seconds of what is said otherwise than before, where the target fails and recovers each second.
        fn changes(&mut self, seconds: std::ops::Range<u64>) -> Vec<u64> {
            let mut last = Ok(());
            let found = seconds.zip([Err(REFUSED), Ok(())].into_iter().cycle());
            let said = found.map(|(at, found)| (at, self.say(at, found).0));
            said.filter(|(_, said)| std::mem::replace(&mut last, *said) != *said).map(|(at, _)| at).collect()
        }
    }

    #[test]
    fn a_problem_is_said_at_once_and_held_for_a_while() {
        let mut told = Told::new();
        assert_eq!(told.say(0, Ok(())), (Ok(()), None));
        assert_eq!(told.say(0, Err(REFUSED)), (Err(REFUSED), None));
        for (at, found) in (1..15).zip([Err(TIMEOUT), Err(REFUSED), Ok(())].into_iter().cycle()) {
            let next = (found != Err(REFUSED)).then_some(15);
            assert_eq!(told.say(at, found), (Err(REFUSED), next));
        }
        assert_eq!(told.say(15, Err(TIMEOUT)), (Err(TIMEOUT), None));
        assert_eq!(told.say(44, Ok(())), (Err(TIMEOUT), Some(45)), "the second one in a while, so twice as long");
        assert_eq!(told.say(45, Ok(())), (Ok(()), None));
        assert_eq!(told.say(46, Err(REFUSED)), (Err(REFUSED), None));
        let said = told.held.0[&Told::key()].problem.as_ref().map(|problem| &*problem.text);
        assert_eq!(said, Some("no (this comes and goes, and is said for 60 s at least)"));
    }

    #[test]
    fn one_that_goes_on_coming_and_going_is_news_ever_more_seldom() {
        let changes = Told::new().changes(0..1800);
        let lasted: Vec<_> = changes.chunks_exact(2).map(|change| change[1] - change[0]).collect();
        assert_eq!(lasted, [15, 31, 61, 121, 241, 301, 301, 301, 301]);
    }

    #[test]
    fn one_that_was_well_for_long_begins_anew() {
        let mut told = Told::new();
        assert_eq!(told.changes(0..100).len(), 5);
        assert_eq!(told.say(200, Ok(())), (Ok(()), None));
        assert_eq!(told.say(499, Err(REFUSED)), (Err(REFUSED), None));
        assert_eq!(told.say(500, Ok(())), (Err(REFUSED), Some(499 + 120)), "not long enough");
        assert_eq!(told.say(700, Ok(())), (Ok(()), None));
        assert_eq!(told.say(1000, Err(REFUSED)), (Err(REFUSED), None));
        assert_eq!(told.say(1001, Ok(())), (Err(REFUSED), Some(1015)));
    }

    #[test]
    fn what_is_not_known_is_not_said_but_that_it_comes_and_goes_is_remembered() {
        let mut told = Told::new();
        assert_eq!(told.say(0, Err(REFUSED)), (Err(REFUSED), None));
        let at = |seconds| told.begun + Duration::from_secs(seconds);
        let (one, five) = (at(1), at(301));
        told.held.retain(|_| false, one);
        assert_eq!(told.say(2, Ok(())), (Ok(()), None), "its agent may have been replaced by one that reaches it");
        assert_eq!(told.say(3, Err(REFUSED)), (Err(REFUSED), None));
        assert_eq!(told.say(4, Ok(())), (Err(REFUSED), Some(33)));
        told.held.retain(|_| false, one);
        told.held.retain(|_| false, five);
        assert!(told.held.0.is_empty());
    }
}
