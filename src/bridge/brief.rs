//! Agents that come and go without end, and what the log says of them.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::routing::ObjectName;

/// A session that ended sooner was of no use to anybody. Longer than it takes to notice that the other side is silent.
const OF_USE: Duration = Duration::from_secs(15);
/// So many of them are told, of each agent in this time. While it goes on, there is one line in the same time that counts them.
const MOST: u32 = 5;
const WITHIN: Duration = Duration::from_mins(1);

/// Counts the sessions of each agent that ended as soon as they had begun: a broken or hostile one can make thousands of them a
/// minute, and the log is for people.
#[derive(Debug, Default)]
pub(super) struct Brief(Mutex<HashMap<ObjectName, Ended>>);

/// The sessions of an agent that were of no use.
#[derive(Debug)]
struct Ended {
    count: u32,
    /// Since when they are counted.
    since: Instant,
    last: Instant,
    /// Whether they are only counted.
    quiet: bool,
}

// === impl Brief ===

impl Brief {
    /// Whether a session that begins now is worth lines of its own.
    pub(super) fn is_news(&self, agent: &ObjectName, now: Instant) -> bool {
        let mut agents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ended) = agents.get(agent) else { return true };
        if now.saturating_duration_since(ended.last) >= WITHIN {
            agents.remove(agent);
            return true;
        }
        !ended.quiet
    }

    /// A session ended.
    pub(super) fn ended(&self, agent: &ObjectName, started: Instant, now: Instant) {
        if now.saturating_duration_since(started) >= OF_USE {
            return;
        }
        let mut agents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = agents.entry(agent.clone()).or_insert(Ended { count: 0, since: now, last: now, quiet: false });
        ended.last = now;
        ended.count = ended.count.saturating_add(1);
        let is_over = now.saturating_duration_since(ended.since) >= WITHIN;
        if ended.quiet && is_over {
            tracing::warn!(%agent, "{} more sessions of this agent ended within {OF_USE:?} of their beginning", ended.count);
            (ended.count, ended.since) = (0, now);
        } else if !ended.quiet && is_over {
            (ended.count, ended.since) = (1, now);
        } else if !ended.quiet && ended.count == MOST {
            tracing::warn!(
                %agent,
                "{MOST} sessions of this agent ended within {OF_USE:?} of their beginning; while that goes on, more are only \
                 counted, once a minute"
            );
            (ended.count, ended.since, ended.quiet) = (0, now, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_comes_and_goes_is_told_a_few_times() {
        let (brief, start) = (Brief::default(), Instant::now());
        let [bad, good] = ["bad", "good"].map(|name| ObjectName::new("web", name));
        let told = (0..6000u32).filter(|&number| {
            let now = start + Duration::from_millis(50) * number;
            let is_news = brief.is_news(&bad, now);
            brief.ended(&bad, now, now + Duration::from_millis(10));
            is_news
        });
        assert_eq!(told.count(), MOST as usize, "in five minutes");
        assert!(brief.is_news(&good, start));
        assert!(brief.is_news(&bad, start + Duration::from_mins(7)), "after a pause it is news again");
        brief.ended(&good, start, start + OF_USE);
        assert!(brief.0.lock().expect("no panic").is_empty());
    }

    #[test]
    fn one_that_does_so_now_and_then_is_always_told() {
        let (brief, start) = (Brief::default(), Instant::now());
        let agent = ObjectName::new("web", "lab");
        for number in 0..100 {
            let now = start + Duration::from_secs(20) * number;
            assert!(brief.is_news(&agent, now));
            brief.ended(&agent, now, now + Duration::from_secs(1));
        }
    }
}
