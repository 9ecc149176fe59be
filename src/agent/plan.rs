use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use super::backoff::{Backoff, Failure};
use crate::tunnel::Replica;

/// Whom to dial, and when: holds one session with each replica of the edge. Pure; the time comes in.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The replicas that the edge named last.
    replicas: Vec<Replica>,
    /// Those that hold a session with us, and which.
    met: BTreeMap<String, Held>,
    lanes: HashMap<Lane, LaneState>,
    last_serial: u64,
}

/// A way to the edge. There is at most one dial at a time in each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Lane {
    /// The edge's own address, perhaps a balancer that leads to any replica.
    Edge,
    /// The address that the replica of that id is said to have.
    Replica {
        /// The replica.
        id: String,
        /// `host:port`.
        address: String,
    },
}

#[derive(Clone, Copy, Debug)]
struct Held {
    serial: u64,
    since: Instant,
    /// Whether the replica stops, so that the session is good for no more links.
    leaving: bool,
}

#[derive(Clone, Copy, Debug)]
struct LaneState {
    backoff: Backoff,
    /// Not to be dialled before.
    at: Instant,
    dialling: bool,
    waits_for: Option<Failure>,
}

// === impl Plan ===

impl Plan {
    /// A session that lived so long was of use, so that its loss is news.
    const STABLE: Duration = Duration::from_secs(5);

    /// The ways to dial now. Each of them then counts as being dialled until it [`Plan::registered`] or
    /// [`Plan::failed`].
    pub(super) fn start_due(&mut self, now: Instant) -> Vec<Lane> {
        let mut due = self.wanted();
        due.retain(|lane| {
            let state = self.lanes.entry(lane.clone()).or_insert_with(|| LaneState::new(now));
            let start = !state.dialling && state.at <= now;
            state.dialling |= start;
            start
        });
        due
    }

    /// When [`Plan::start_due`] next has something; `None` where nothing is to be dialled.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let at = |lane| match self.lanes.get(&lane) {
            Some(state) if state.dialling => None,
            Some(state) => Some(state.at),
            None => Some(now),
        };
        self.wanted().into_iter().filter_map(at).min()
    }

    /// A dial led to a session with this replica. Returns the session's number for [`Plan::lost`].
    pub(super) fn registered(&mut self, lane: &Lane, replica: &str, now: Instant) -> u64 {
        if let Some(state) = self.lanes.get_mut(lane) {
            state.dialling = false;
            state.waits_for = None;
            state.at = now;
            state.backoff.registered();
        }
        self.last_serial += 1;
        self.met.insert(replica.to_owned(), Held { serial: self.last_serial, since: now, leaving: false });
        self.last_serial
    }

    /// A dial came to nothing. Returns how long its lane now waits: at least `least`, which the edge may have asked for.
    pub(super) fn failed(
        &mut self,
        lane: &Lane,
        failure: Failure,
        least: Duration,
        random: f64,
        now: Instant,
    ) -> Duration {
        let state = self.lanes.entry(lane.clone()).or_insert_with(|| LaneState::new(now));
        state.dialling = false;
        state.waits_for = Some(failure);
        let delay = state.backoff.after(failure, random).max(least);
        state.at = now + delay;
        delay
    }

    /// The replica of this session stops: it counts as not met from now on, so that there is another one to take its
    /// place before the session ends. Returns which it is.
    pub(super) fn leaving(&mut self, serial: u64, now: Instant) -> Option<&str> {
        self.met.values_mut().find(|held| held.serial == serial)?.leaving = true;
        if self.met().next().is_none() {
            self.look_again(now);
        }
        self.met.iter().find(|(_, held)| held.serial == serial).map(|(replica, _)| replica.as_str())
    }

    /// A session ended. Returns how long until the next dial that may replace it; `None` where none is needed, since
    /// the replica has another one or has left.
    pub(super) fn lost(&mut self, replica: &str, serial: u64, random: f64, now: Instant) -> Option<Duration> {
        let held = *self.met.get(replica).filter(|held| held.serial == serial)?;
        self.met.remove(replica);
        let address = |found: &Replica| found.id == replica && found.address.is_some();
        let lane = match self.replicas.iter().find(|found| address(found)) {
            Some(found) if self.met().next().is_some() => Lane::of(found),
            _ => Lane::Edge,
        };
        if !self.wanted().contains(&lane) {
            return None;
        }
        let state = self.lanes.entry(lane).or_insert_with(|| LaneState::new(now));
        if now.saturating_duration_since(held.since) >= Self::STABLE {
            state.backoff.stable();
        }
        let delay = state.backoff.after(Failure::Transient, random);
        state.waits_for = Some(Failure::Transient);
        state.at = now + delay;
        Some(delay)
    }

    /// The edge named its replicas.
    pub(super) fn learned(&mut self, replicas: Vec<Replica>, now: Instant) {
        if self.replicas == replicas {
            return;
        }
        self.replicas = replicas;
        let wanted = self.wanted();
        self.lanes.retain(|lane, state| state.dialling || *lane == Lane::Edge || wanted.contains(lane));
        self.look_again(now);
    }

    /// Where the balancer leads is open again.
    fn look_again(&mut self, now: Instant) {
        if let Some(edge) = self.lanes.get_mut(&Lane::Edge)
            && edge.waits_for == Some(Failure::Met)
        {
            edge.backoff.registered();
            edge.at = edge.at.min(now + Duration::from_millis(50));
        }
    }

    /// The ids of the replicas that need not be met again.
    pub(super) fn met(&self) -> impl Iterator<Item = &str> {
        self.met.iter().filter(|(_, held)| !held.leaving).map(|(replica, _)| replica.as_str())
    }

    fn wanted(&self) -> Vec<Lane> {
        // Without any session, what we know of the replicas may be of the past.
        if self.met().next().is_none() {
            return vec![Lane::Edge];
        }
        let is_met = |replica: &Replica| self.met.get(&replica.id).is_some_and(|held| !held.leaving);
        let missing = self.replicas.iter().filter(|replica| !is_met(replica));
        let mut lanes: Vec<_> = missing.map(Lane::of).collect();
        lanes.sort_unstable();
        lanes.dedup();
        lanes
    }
}

// === impl Lane ===

impl Lane {
    fn of(replica: &Replica) -> Self {
        match &replica.address {
            Some(address) => Self::Replica { id: replica.id.clone(), address: address.clone() },
            None => Self::Edge,
        }
    }
}

// === impl LaneState ===

impl LaneState {
    fn new(now: Instant) -> Self {
        Self { backoff: Backoff::default(), at: now, dialling: false, waits_for: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Duration = Duration::ZERO;

    fn replicas(ids: &[(&str, Option<&str>)]) -> Vec<Replica> {
        let replica =
            |&(id, address): &(&str, Option<&str>)| Replica { id: id.to_owned(), address: address.map(str::to_owned) };
        ids.iter().map(replica).collect()
    }

    fn at(id: &str, address: &str) -> Lane {
        Lane::Replica { id: id.to_owned(), address: address.to_owned() }
    }

    #[test]
    fn one_balancer_is_dialled_until_all_replicas_are_met() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        assert_eq!(plan.start_due(now), [Lane::Edge]);
        assert_eq!(plan.start_due(now), [], "one dial at a time");
        assert_eq!(plan.next_due(now), None);
        plan.registered(&Lane::Edge, "r1", now);
        assert_eq!(plan.next_due(now), None, "no other replica is known");
        plan.learned(replicas(&[("r1", None), ("r2", None), ("r3", None)]), now);
        assert_eq!(plan.start_due(now), [Lane::Edge]);
        let delay = plan.failed(&Lane::Edge, Failure::Met, NONE, 1.0, now);
        assert_eq!(plan.start_due(now), []);
        let now = now + delay;
        assert_eq!(plan.next_due(now), Some(now));
        assert_eq!(plan.start_due(now), [Lane::Edge]);
        plan.registered(&Lane::Edge, "r2", now);
        assert_eq!(plan.start_due(now), [Lane::Edge]);
        plan.registered(&Lane::Edge, "r3", now);
        assert_eq!(plan.next_due(now), None);
        assert_eq!(plan.met().collect::<Vec<_>>(), ["r1", "r2", "r3"]);
    }

    #[test]
    fn replicas_with_addresses_are_dialled_there_and_side_by_side() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        plan.start_due(now);
        plan.registered(&Lane::Edge, "r1", now);
        plan.learned(replicas(&[("r1", Some("a:1")), ("r2", Some("b:1")), ("r3", Some("c:1"))]), now);
        assert_eq!(plan.start_due(now), [at("r2", "b:1"), at("r3", "c:1")]);
        plan.failed(&at("r2", "b:1"), Failure::Transient, NONE, 0.5, now);
        let r3 = plan.registered(&at("r3", "c:1"), "r3", now);
        assert_eq!(plan.next_due(now), Some(now + Duration::from_millis(50)));
        // r2 leaves the set: it is not dialled any more. r3 is lost: its own address is dialled again.
        plan.learned(replicas(&[("r1", Some("a:1")), ("r3", Some("c:1"))]), now);
        assert_eq!(plan.next_due(now), None);
        let delay = plan.lost("r3", r3, 1.0, now).expect("dialled again");
        assert_eq!(plan.start_due(now + delay), [at("r3", "c:1")]);
    }

    #[test]
    fn after_the_last_session_is_lost_the_edge_itself_is_dialled() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        plan.start_due(now);
        let serial = plan.registered(&Lane::Edge, "r1", now);
        plan.learned(replicas(&[("r1", Some("a:1"))]), now);
        assert_eq!(plan.lost("r1", serial, 1.0, now), Some(Duration::from_millis(100)));
        assert_eq!(plan.start_due(now), []);
        assert_eq!(plan.start_due(now + Duration::from_millis(100)), [Lane::Edge]);
    }

    #[test]
    fn the_end_of_a_session_that_was_replaced_changes_nothing() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        plan.start_due(now);
        let old = plan.registered(&Lane::Edge, "r1", now);
        let new = plan.registered(&Lane::Edge, "r1", now);
        assert_eq!(plan.lost("r1", old, 1.0, now), None);
        assert_eq!(plan.next_due(now), None);
        assert!(plan.lost("r1", new, 1.0, now).is_some());
    }

    #[test]
    fn a_replica_that_left_is_not_dialled_when_its_session_ends() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        plan.start_due(now);
        let r1 = plan.registered(&Lane::Edge, "r1", now);
        plan.registered(&Lane::Edge, "r2", now);
        plan.learned(replicas(&[("r2", None)]), now);
        assert_eq!(plan.lost("r1", r1, 1.0, now), None);
        assert_eq!(plan.next_due(now), None);
    }

    #[test]
    fn when_the_only_replica_stops_another_is_dialled_at_once() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        plan.start_due(now);
        let r1 = plan.registered(&Lane::Edge, "r1", now);
        plan.learned(replicas(&[("r1", None)]), now);
        assert_eq!(plan.next_due(now), None);
        assert_eq!(plan.leaving(r1, now), Some("r1"));
        assert_eq!(plan.met().count(), 0, "the one that starts in its place may have its id");
        assert_eq!(plan.start_due(now), [Lane::Edge]);
        plan.registered(&Lane::Edge, "r2", now);
        plan.learned(replicas(&[("r2", None)]), now);
        assert_eq!(plan.lost("r1", r1, 1.0, now), None, "it was replaced before it ended");
        assert_eq!(plan.next_due(now), None);
    }

    #[test]
    fn a_replica_that_stops_and_comes_back_is_met_again() {
        let (mut plan, start) = (Plan::default(), Instant::now());
        plan.start_due(start);
        let old = plan.registered(&Lane::Edge, "r1", start);
        let mut now = start + Duration::from_mins(1);
        plan.leaving(old, now);
        for _ in 0..30 {
            assert_eq!(plan.start_due(now), [Lane::Edge]);
            now += plan.failed(&Lane::Edge, Failure::Transient, NONE, 1.0, now);
        }
        assert_eq!(plan.lost("r1", old, 1.0, now), Some(Duration::from_millis(100)), "a fresh beginning");
        now += Duration::from_millis(100);
        assert_eq!(plan.start_due(now), [Lane::Edge]);
        let new = plan.registered(&Lane::Edge, "r1", now);
        assert_eq!(plan.leaving(old, now), None, "word of the old session comes late");
        assert_eq!(plan.lost("r1", old, 1.0, now), None);
        assert_eq!(plan.met().collect::<Vec<_>>(), ["r1"]);
        assert!(plan.lost("r1", new, 1.0, now).is_some());
    }

    #[test]
    fn what_the_edge_asks_to_wait_is_waited() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        plan.start_due(now);
        let asked = Duration::from_secs(7);
        assert_eq!(plan.failed(&Lane::Edge, Failure::Transient, asked, 0.5, now), asked);
    }

    #[test]
    fn a_new_replica_is_looked_for_at_once_although_the_balancer_led_nowhere_before() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        plan.start_due(now);
        plan.registered(&Lane::Edge, "r1", now);
        plan.learned(replicas(&[("r1", None), ("r2", None)]), now);
        for _ in 0..40 {
            plan.failed(&Lane::Edge, Failure::Met, NONE, 1.0, now);
        }
        assert_eq!(plan.next_due(now), Some(now + Duration::from_secs(10)));
        plan.learned(replicas(&[("r1", None), ("r2", None), ("r3", None)]), now);
        assert_eq!(plan.next_due(now), Some(now + Duration::from_millis(50)));
    }
}
