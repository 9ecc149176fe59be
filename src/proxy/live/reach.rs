//! What connects to a target through an agent have come to: for the next choice, and for the TunnelHost's status.

mod streak;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use self::streak::{Meaning, Streak};
use crate::{
    routing::PassiveHealth,
    tunnel::health::{HealthProblem, HealthReason},
};

/// What one TunnelHost's connects to a target through an agent have come to.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Reach {
    /// The last connect succeeded, and that is known: nothing of the rest is to be looked at, as for most requests.
    settled: AtomicBool,
    /// The agent process that the last connect went through; 0 before the first one.
    process: AtomicU64,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    streak: Streak,
    seen: Option<Seen>,
}

/// What connects say of a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Seen {
    /// The last one succeeded, or too few have failed since.
    Reached,
    /// So many failed in a row that it cannot be reached.
    Failed {
        /// Why; of several failures alike the first one.
        problem: Arc<HealthProblem>,
        /// The last one.
        at: Instant,
    },
}

/// What is new with a connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::proxy) struct News {
    /// The place is ejected from now on.
    pub(in crate::proxy) ejected: bool,
    /// It is seen otherwise than before.
    pub(in crate::proxy) seen: bool,
}

// === impl Reach ===

impl Reach {
    /// How long a failure says something of a place where nobody has tried since.
    pub(in crate::proxy) const LASTS: Duration = PassiveHealth::LONGEST;

    /// A connect fails or succeeds through this agent process. What was known through another one is forgotten where that is
    /// gone: the next one may run elsewhere, or allow other targets. (Of several that live, none knows better.)
    pub(in crate::proxy) fn learns_through(&self, process: u64, lives: impl FnOnce(u64) -> bool) {
        let last = self.process.load(Ordering::Relaxed);
        if last != process {
            self.forget_if_gone(lives);
            self.process.store(process, Ordering::Relaxed);
        }
    }

    /// Forgets what is known where the agent process that it was learnt through does not live.
    pub(in crate::proxy) fn forget_if_gone(&self, lives: impl FnOnce(u64) -> bool) {
        let last = self.process.load(Ordering::Relaxed);
        if last == 0 || lives(last) {
            return;
        }
        let mut known = self.known.lock();
        // Another one may have come in between.
        if self.process.compare_exchange(last, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.settled.store(false, Ordering::Relaxed);
            *known = Known::default();
        }
    }

    /// A connect failed. `ejects`: there are other places for the requests.
    pub(in crate::proxy) fn failed(&self, problem: HealthProblem, rules: &PassiveHealth, ejects: bool) -> News {
        let now = Instant::now();
        let mut known = self.known.lock();
        let Known { streak, seen } = &mut *known;
        // An allow-list does not change its mind, and what is not tried is no dead backend: the agent answers at once.
        let meaning = match problem.reason {
            HealthReason::NotAllowed => Meaning::Fails,
            _ => streak.failed(rules, ejects, now),
        };
        self.settled.store(false, Ordering::Relaxed);
        if meaning == Meaning::OneOfFew {
            return News::default();
        }
        let news = News {
            ejected: meaning == Meaning::Ejected,
            seen: seen.as_ref().is_none_or(|seen| seen.lapses_or_differs(&problem, now)),
        };
        match seen {
            Some(Seen::Failed { problem: known, at }) if known.reason == problem.reason => *at = now,
            _ => *seen = Some(Seen::Failed { problem: Arc::new(problem), at: now }),
        }
        news
    }

    /// A connect through this agent process succeeded, or a connection that was there is of use. Says whether the place is seen
    /// otherwise than before.
    pub(in crate::proxy) fn succeeded(&self, process: u64) -> bool {
        if self.process.load(Ordering::Relaxed) != process {
            self.process.store(process, Ordering::Relaxed);
        }
        if self.settled.load(Ordering::Relaxed) {
            return false;
        }
        let mut known = self.known.lock();
        known.streak = Streak::default();
        let news = known.seen != Some(Seen::Reached);
        known.seen = Some(Seen::Reached);
        self.settled.store(true, Ordering::Relaxed);
        news
    }

    /// Since when the place is ejected, where it is. Cheap as long as connects succeed.
    pub(in crate::proxy) fn ejected(&self, now: impl FnOnce() -> Instant) -> Option<Instant> {
        if self.settled.load(Ordering::Relaxed) {
            return None;
        }
        let known = self.known.lock();
        if known.streak.is_clean() { None } else { known.streak.ejected(now()) }
    }

    /// A request goes there, since the place is not ejected.
    pub(in crate::proxy) fn tried(&self, rules: &PassiveHealth) {
        if !self.settled.load(Ordering::Relaxed) {
            self.known.lock().streak.tried(rules, Instant::now());
        }
    }

    /// A check succeeds since then: it knows better than what failed before.
    pub(in crate::proxy) fn is_well_since(&self, since: Instant) {
        if self.settled.load(Ordering::Relaxed) {
            return;
        }
        let mut known = self.known.lock();
        if matches!(&known.seen, Some(Seen::Failed { at, .. }) if *at < since) {
            *known = Known::default();
        }
    }

    /// What is known of the place; `None` where nobody has connected yet, or the last failure was too long ago.
    pub(in crate::proxy) fn seen(&self, now: Instant) -> Option<Seen> {
        self.known.lock().seen.clone().filter(|seen| !seen.lapsed(now))
    }
}

// === impl Seen ===

impl Seen {
    fn lapsed(&self, now: Instant) -> bool {
        matches!(self, Self::Failed { at, .. } if now.saturating_duration_since(*at) >= Reach::LASTS)
    }

    fn lapses_or_differs(&self, now_fails: &HealthProblem, now: Instant) -> bool {
        match self {
            Self::Reached => true,
            Self::Failed { problem, .. } => problem.reason != now_fails.reason || self.lapsed(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> HealthProblem {
        HealthProblem::new(HealthReason::Refused, text)
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_changes_is_news() {
        let (reach, rules) = (Reach::default(), PassiveHealth::default());
        assert_eq!(reach.seen(Instant::now()), None);
        assert!(reach.succeeded(1));
        assert!(!reach.succeeded(1));
        let news = [(); 4].map(|()| reach.failed(refused("first"), &rules, true));
        let [nothing, all] = [News::default(), News { ejected: true, seen: true }];
        assert_eq!(news, [nothing, nothing, all, nothing]);
        assert!(reach.ejected(Instant::now).is_some());
        let Some(Seen::Failed { problem, .. }) = reach.seen(Instant::now()) else { panic!("not failed") };
        assert_eq!(problem.text, "first");
        assert!(reach.succeeded(1));
        assert_eq!((reach.seen(Instant::now()), reach.ejected(Instant::now)), (Some(Seen::Reached), None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_in_between_begins_anew() {
        let (reach, rules) = (Reach::default(), PassiveHealth::default());
        for _ in 0..4 {
            assert_eq!(reach.failed(refused("no"), &rules, true), News::default());
            assert_eq!(reach.failed(refused("no"), &rules, true), News::default());
            reach.succeeded(1);
        }
        assert_eq!(reach.ejected(Instant::now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_allow_list_is_believed_at_once_and_ejects_nobody() {
        let (reach, rules) = (Reach::default(), PassiveHealth::default());
        let not_allowed = || HealthProblem::new(HealthReason::NotAllowed, "no");
        assert_eq!(reach.failed(not_allowed(), &rules, true), News { ejected: false, seen: true });
        assert_eq!(reach.failed(not_allowed(), &rules, true), News::default());
        assert_eq!(reach.ejected(Instant::now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_turned_well_later_ends_failures_and_ejection() {
        let (reach, rules) = (Reach::default(), PassiveHealth { unhealthy_after: 1, ..PassiveHealth::default() });
        let (before, second) = (Instant::now(), Duration::from_secs(1));
        tokio::time::advance(second).await;
        reach.failed(refused("no"), &rules, true);
        reach.is_well_since(before);
        assert!(matches!(reach.seen(Instant::now()), Some(Seen::Failed { .. })), "the check saw less");
        assert!(reach.ejected(Instant::now).is_some());
        tokio::time::advance(second).await;
        reach.is_well_since(Instant::now());
        assert_eq!((reach.seen(Instant::now()), reach.ejected(Instant::now)), (None, None));
        reach.succeeded(1);
        reach.is_well_since(Instant::now());
        assert_eq!(reach.seen(Instant::now()), Some(Seen::Reached));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_goes_with_the_process_that_it_was_learnt_through() {
        let (reach, rules) = (Reach::default(), PassiveHealth { unhealthy_after: 2, ..PassiveHealth::default() });
        let fails = |process, lives: bool| {
            reach.learns_through(process, |_| lives);
            reach.failed(refused("no"), &rules, true)
        };
        fails(1, true);
        assert!(fails(2, true).ejected, "of two that live both count");
        reach.forget_if_gone(|process| process == 2);
        assert!(reach.ejected(Instant::now).is_some());
        assert!(!fails(3, false).ejected, "the next one begins anew");
        assert_eq!(reach.ejected(Instant::now), None);
        assert!(fails(3, true).ejected);
        reach.forget_if_gone(|process| process != 3);
        assert_eq!((reach.seen(Instant::now()), reach.ejected(Instant::now)), (None, None));
        assert!(reach.succeeded(4));
        assert!(!reach.succeeded(5));
        reach.forget_if_gone(|process| process == 5);
        assert_eq!(reach.seen(Instant::now()), Some(Seen::Reached));
        reach.forget_if_gone(|process| process == 4);
        assert_eq!(reach.seen(Instant::now()), None);
        assert!(reach.succeeded(6), "known again, and nobody told");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_has_tried_for_long_is_not_known() {
        let (reach, rules) = (Reach::default(), PassiveHealth { unhealthy_after: 1, ..PassiveHealth::default() });
        reach.failed(refused("no"), &rules, false);
        let second = Duration::from_secs(1);
        tokio::time::advance(Reach::LASTS.saturating_sub(second)).await;
        assert!(matches!(reach.seen(Instant::now()), Some(Seen::Failed { .. })));
        tokio::time::advance(second).await;
        assert_eq!(reach.seen(Instant::now()), None);
        assert!(reach.failed(refused("no"), &rules, false).seen, "known again, and nobody told");
    }
}
