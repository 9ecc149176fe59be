use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Found, Key};
use crate::{routing::PassiveHealth, tunnel::health::HealthProblem};

/// What is said of the targets that have failed, by the number of their route. A failure is said at once, and then held, so that
/// a target that comes and goes, or an agent that does, is not news each time: the longer, the oftener it does.
#[derive(Default)]
pub(super) struct Held(HashMap<(Key, usize), Said>);

/// What is said of a target.
struct Said {
    problem: Option<Arc<HealthProblem>>,
    since: Instant,
    /// For how long a problem is said at least.
    hold: Duration,
    /// When it was looked at last.
    looked: Instant,
}

/// For how long a first problem is held.
const SHORTEST: Duration = Duration::from_secs(15);
/// For how long one is held at most, each twice as long as the last; and after how long without news the next one is a first.
const LONGEST: Duration = PassiveHealth::LONGEST;

// === impl Held ===

impl Held {
    /// What is said of a target of which this is found now, if anything is, and when that is to be looked at again.
    pub(super) fn say(
        &mut self,
        key: (Key, usize),
        found: Option<Found>,
        now: Instant,
    ) -> (Option<Found>, Option<Instant>) {
        let Some(said) = self.0.get_mut(&key) else {
            if let Some(Err(problem)) = &found {
                let problem = Some(problem.clone());
                self.0.insert(key, Said { problem, since: now, hold: SHORTEST, looked: now });
            }
            return (found, None);
        };
        said.looked = now;
        let until = said.since + said.hold;
        match (&said.problem, found) {
            // The words that came first stay: those of the next failure may name another port, and mean the same.
            (Some(before), Some(Err(problem))) if problem.reason == before.reason => (Some(Err(before.clone())), None),
            (Some(before), _) if now < until => (Some(Err(before.clone())), Some(until)),
            // It fails for another reason, and was not well in between.
            (Some(_), Some(Err(problem))) => {
                (said.problem, said.since) = (Some(problem.clone()), now);
                (Some(Err(problem)), None)
            }
            (None, Some(Err(problem))) => (Some(Err(said.fails_again(problem, now))), None),
            (Some(_), found) => {
                (said.problem, said.since) = (None, now);
                (found, None)
            }
            (None, found) => (found, None),
        }
    }

    /// All have been looked at now. Those that are left are of routes that have gone; and how long a next problem is held is
    /// forgotten after a while.
    pub(super) fn retain(&mut self, now: Instant) {
        self.0.retain(|_, said| {
            said.looked == now && (said.problem.is_some() || now.saturating_duration_since(said.since) < LONGEST)
        });
    }
}

// === impl Said ===

impl Said {
    /// Returns what is said from now on: of one that is held for longer, that it is.
    fn fails_again(&mut self, problem: Arc<HealthProblem>, now: Instant) -> Arc<HealthProblem> {
        let is_first = now.saturating_duration_since(self.since) >= LONGEST;
        let (problem, hold) = if is_first {
            (problem, SHORTEST)
        } else {
            let hold = (self.hold * 2).min(LONGEST);
            let text = format!("{} (this comes and goes, and is said for {} s at least)", problem.text, hold.as_secs());
            (Arc::new(HealthProblem { reason: problem.reason, text }), hold)
        };
        (self.problem, self.since, self.hold) = (Some(problem.clone()), now, hold);
        problem
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

        fn at(&self, seconds: u64) -> Instant {
            self.begun + Duration::from_secs(seconds)
        }

        fn say(&mut self, at: u64, found: Result<(), HealthReason>) -> (Result<(), HealthReason>, Option<u64>) {
            let found = found.map_err(|reason| Arc::new(HealthProblem::new(reason, "no")));
            let (said, next) = self.held.say(Self::key(), Some(found), self.at(at));
            let said = said.expect("something is known").map_err(|problem| problem.reason);
            (said, next.map(|next| (next - self.begun).as_secs()))
        }

        /// Whether a problem is said where nothing is known of the target.
        fn says_unknown(&mut self, at: u64) -> bool {
            self.held.say(Self::key(), None, self.at(at)).0.is_some()
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
        assert_eq!(told.say(16, Err(REFUSED)), (Err(TIMEOUT), Some(30)));
        assert_eq!(
            told.say(29, Ok(())),
            (Err(TIMEOUT), Some(30)),
            "it was not well in between, so no longer than before"
        );
        assert_eq!(told.say(30, Ok(())), (Ok(()), None));
        assert_eq!(told.say(31, Err(REFUSED)), (Err(REFUSED), None));
        let said = told.held.0[&Told::key()].problem.as_ref().map(|problem| &*problem.text);
        assert_eq!(said, Some("no (this comes and goes, and is said for 30 s at least)"));
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
    fn an_agent_that_goes_and_comes_back_is_no_news_either() {
        let mut told = Told::new();
        assert!(!told.says_unknown(0));
        assert_eq!(told.say(0, Err(REFUSED)), (Err(REFUSED), None));
        assert!(told.says_unknown(14));
        assert_eq!(told.say(14, Ok(())), (Err(REFUSED), Some(15)));
        assert!(!told.says_unknown(15));
        assert_eq!(told.say(16, Err(REFUSED)), (Err(REFUSED), None));
        assert!(told.says_unknown(45));
        assert!(!told.says_unknown(46));
    }

    #[test]
    fn routes_that_are_gone_and_what_was_long_ago_are_forgotten() {
        let mut told = Told::new();
        let (gone, long_after) = (told.at(2), told.at(315));
        told.say(0, Err(REFUSED)).0.expect_err("refused");
        told.held.retain(told.begun);
        assert_eq!(told.held.0.len(), 1);
        told.held.retain(gone);
        assert!(told.held.0.is_empty(), "it was not looked at");
        told.changes(0..16);
        assert_eq!(told.say(315, Ok(())), (Ok(()), None));
        told.held.retain(long_after);
        assert!(told.held.0.is_empty());
    }
}
