use tokio::time::Instant;

use crate::routing::PassiveHealth;

/// Failed connects in a row, and what follows from them: pure.
#[derive(Debug, Default)]
pub(super) struct Streak {
    /// Up to those that eject.
    failures: u32,
    /// Ejections in a row.
    round: u32,
    ejected: Option<Ejected>,
}

/// A place that gets no requests.
#[derive(Clone, Copy, Debug)]
struct Ejected {
    /// Since its first ejection in a row.
    since: Instant,
    until: Instant,
    /// One request has been let through to see.
    tried: bool,
}

/// What a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nothing yet.
    OneOfFew,
    /// The place fails.
    Fails,
    /// The place fails, and is ejected by this failure.
    Ejected,
}

// === impl Streak ===

impl Streak {
    /// Takes a failure. `ejects`: the place is one of several, so that it may be ejected.
    pub(super) fn failed(&mut self, rules: &PassiveHealth, ejects: bool, now: Instant) -> Meaning {
        if let Some(ejected) = &self.ejected {
            // What had begun before, or came since nothing better was left, is no news; the one that was to see is.
            if now < ejected.until && !ejected.tried {
                return Meaning::Fails;
            }
        } else {
            self.failures = self.failures.saturating_add(1);
            if self.failures < rules.unhealthy_after {
                return Meaning::OneOfFew;
            }
        }
        if !ejects || rules.max_ejected_percent == 0 {
            return Meaning::Fails;
        }
        self.round = self.round.saturating_add(1);
        let since = self.ejected.map_or(now, |ejected| ejected.since);
        self.ejected = Some(Ejected { since, until: now + rules.pause(self.round), tried: false });
        Meaning::Ejected
    }

    /// Whether it gets no requests now; since when.
    pub(super) fn ejected(&self, now: Instant) -> Option<Instant> {
        self.ejected.filter(|ejected| now < ejected.until).map(|ejected| ejected.since)
    }

    /// A request goes there. Where the place's time is over, that one is to see, and the others wait for what comes of it: as
    /// long as before at most, since a visitor may leave before anything does.
    pub(super) fn tried(&mut self, rules: &PassiveHealth, now: Instant) {
        if let Some(ejected) = self.ejected.as_mut().filter(|ejected| now >= ejected.until) {
            (ejected.until, ejected.tried) = (now + rules.pause(self.round), true);
        }
    }

    /// Whether no failure is remembered.
    pub(super) fn is_clean(&self) -> bool {
        self.failures == 0 && self.ejected.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const RULES: PassiveHealth =
        PassiveHealth { unhealthy_after: 3, retry_after: Duration::from_secs(10), max_ejected_percent: 50 };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// One that was ejected just now.
    fn ejected(now: Instant) -> Streak {
        let mut streak = Streak::default();
        let meanings = [(); 3].map(|()| streak.failed(&RULES, true, now));
        assert_eq!(meanings, [Meaning::OneOfFew, Meaning::OneOfFew, Meaning::Ejected]);
        streak
    }

    #[test]
    fn so_many_failures_in_a_row_eject_for_a_while() {
        let now = Instant::now();
        let mut streak = ejected(now);
        assert_eq!(streak.ejected(now + seconds(9)), Some(now));
        assert_eq!(streak.ejected(now + seconds(10)), None);
        // Requests that were on their way are no news.
        assert_eq!(streak.failed(&RULES, true, now + seconds(1)), Meaning::Fails);
        assert_eq!(streak.ejected(now + seconds(10)), None);
    }

    #[test]
    fn one_request_sees_whether_it_is_well_again() {
        let now = Instant::now();
        let mut streak = ejected(now);
        let later = now + seconds(11);
        streak.tried(&RULES, now + seconds(5));
        assert_eq!(streak.ejected(now + seconds(10)), None, "tried before its time");
        streak.tried(&RULES, later);
        assert_eq!(streak.ejected(later), Some(now), "the others wait");
        // A visitor that left tells nothing: the next one is to see.
        assert_eq!(streak.ejected(later + seconds(10)), None);
        assert_eq!(streak.failed(&RULES, true, later + seconds(1)), Meaning::Ejected);
        assert_eq!(streak.ejected(later + seconds(20)), Some(now), "twice as long");
        assert_eq!(streak.ejected(later + seconds(21)), None);
    }

    #[test]
    fn each_time_is_twice_as_long_up_to_a_bound() {
        let mut now = Instant::now();
        let mut streak = ejected(now);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let begun = now;
            while streak.ejected(now).is_some() {
                now += seconds(1);
            }
            pauses.push((now - begun).as_secs());
            streak.tried(&RULES, now);
            assert_eq!(streak.failed(&RULES, true, now), Meaning::Ejected);
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(PassiveHealth { retry_after: seconds(600), ..RULES }.pause(9), seconds(600));
    }

    #[test]
    fn one_that_is_alone_and_one_that_may_not_is_never_ejected() {
        let now = Instant::now();
        let mut alone = Streak::default();
        let meanings = [(); 5].map(|()| alone.failed(&RULES, false, now));
        assert_eq!(meanings[2..], [Meaning::Fails; 3]);
        assert_eq!(alone.ejected(now), None);
        let never = PassiveHealth { max_ejected_percent: 0, ..RULES };
        let mut streak = Streak::default();
        assert_eq!([(); 3].map(|()| streak.failed(&never, true, now))[2], Meaning::Fails);
        assert_eq!(streak.ejected(now), None);
    }

    #[test]
    fn a_share_of_the_places_is_ejected_at_most_but_one_always() {
        let most = |percent, places| PassiveHealth { max_ejected_percent: percent, ..RULES }.most(places);
        assert_eq!([most(50, 2), most(50, 3), most(50, 4), most(10, 4), most(100, 4), most(0, 4)], [1, 1, 2, 1, 4, 0]);
    }
}
