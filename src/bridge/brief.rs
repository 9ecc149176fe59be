//! Agents that come and go without end, and what the log says of them.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::routing::ObjectName;

/// A session that ended sooner was of no use to anybody.
const OF_USE: Duration = Duration::from_secs(1);
/// So many of them are told, of each agent in this time.
const MOST: u32 = 10;
const WITHIN: Duration = Duration::from_mins(1);

/// Counts the sessions of each agent that ended as soon as they had begun: a broken or hostile one can make thousands of them a
/// minute, and the log is for people.
#[derive(Debug, Default)]
pub(super) struct Brief(Mutex<HashMap<ObjectName, (u32, Instant)>>);

// === impl Brief ===

impl Brief {
    /// Whether a session that begins now is worth a line. The last one that is, is followed by a line that says so.
    pub(super) fn is_news(&self, agent: &ObjectName, now: Instant) -> bool {
        let mut agents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((count, since)) = agents.get(agent) else { return true };
        if now.saturating_duration_since(*since) >= WITHIN {
            agents.remove(agent);
            return true;
        }
        *count < MOST
    }

    /// A session ended.
    pub(super) fn ended(&self, agent: &ObjectName, started: Instant, now: Instant) {
        if now.saturating_duration_since(started) >= OF_USE {
            return;
        }
        let mut agents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, _) = agents.entry(agent.clone()).or_insert((0, now));
        *count = count.saturating_add(1);
        if *count == MOST {
            tracing::warn!(
                %agent,
                "the last {MOST} sessions of this agent ended as soon as they had begun; more of them are not told for a minute"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_comes_and_goes_is_told_a_few_times_a_minute() {
        let (brief, start) = (Brief::default(), Instant::now());
        let [bad, good] = ["bad", "good"].map(|name| ObjectName::new("web", name));
        let mut told = 0;
        for number in 0..1000 {
            let now = start + Duration::from_millis(50) * number;
            told += u32::from(brief.is_news(&bad, now));
            brief.ended(&bad, now, now + Duration::from_millis(10));
        }
        assert_eq!(told, MOST);
        assert!(brief.is_news(&good, start));
        assert!(brief.is_news(&bad, start + WITHIN + OF_USE), "and again a minute later");
        brief.ended(&good, start, start + OF_USE);
        assert!(brief.0.lock().expect("no panic").get(&good).is_none());
    }
}
