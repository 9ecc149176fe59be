use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use self::replicas::{Known, Replicas};
use super::backoff::{Backoff, Failure};
use crate::tunnel::Replica;

mod replicas;

/// Whom to dial, and when: holds one session with each replica of the edge in each slot. Pure; the time comes in.
#[derive(Debug)]
pub(super) struct Plan {
    /// By their number.
    slots: Vec<Slot>,
    replicas: Replicas,
    last_serial: u64,
}

/// One dial: for a slot, by a lane.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Dial {
    /// The slot that it is for, from 0.
    pub(super) slot: u32,
    pub(super) lane: Lane,
}

/// A way to the edge. There is at most one dial at a time for a slot in each.
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

/// What one slot holds and dials.
#[derive(Debug, Default)]
struct Slot {
    /// The replicas that hold a session with us in this slot, and which.
    met: BTreeMap<String, Held>,
    lanes: HashMap<Lane, LaneState>,
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
    dialling: Option<Dialling>,
    waits_for: Option<Failure>,
    /// Dials in a row that came to nothing.
    failures: u32,
}

/// A dial under way.
#[derive(Clone, Copy, Debug)]
struct Dialling {
    since: Instant,
    /// The last session that was there when it began; it knows nothing of later ones.
    serial: u64,
}

// === impl Plan ===

impl Plan {
    /// A session that lived so long was of use, so that its loss is news.
    const STABLE: Duration = Duration::from_secs(5);
    /// After so many failures in a row at a replica's own address the edge's is tried beside it: from where this agent
    /// is, the replica may be there for the balancer only.
    const DOUBT: u32 = 2;
    /// So is it while a dial takes longer than this: packets to an address of another network vanish without a word. One that
    /// starts lets its agents wait until it has read all objects.
    const SLOW: Duration = Duration::from_secs(3);
    /// A replica that said that it stops is not back sooner, and is likely to leave the set. Others serve meanwhile.
    const RESTART: Duration = Duration::from_secs(1);

    /// A plan with so many slots, at least one.
    pub(super) fn new(slots: u32) -> Self {
        Self {
            slots: (0..slots.max(1)).map(|_| Slot::default()).collect(),
            replicas: Replicas::default(),
            last_serial: 0,
        }
    }

    /// What to dial now. Each of them then counts as being dialled until it [`Plan::registered`] or [`Plan::failed`].
    pub(super) fn start_due(&mut self, now: Instant) -> Vec<Dial> {
        let mut due = self.wanted(now);
        due.retain(|dial| {
            let Some(slot) = self.slots.get_mut(dial.slot as usize) else { return false };
            let state = slot.lane(&dial.lane, now);
            let start = state.dialling.is_none() && state.at <= now;
            if start {
                state.dialling = Some(Dialling { since: now, serial: self.last_serial });
            }
            start
        });
        due
    }

    /// When [`Plan::start_due`] next has something, at the latest; `None` where nothing is to be dialled.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let at = |dial: Dial| match self.slots.get(dial.slot as usize)?.lanes.get(&dial.lane) {
            // What is slow is soon in doubt.
            Some(LaneState { dialling: Some(under_way), .. }) if dial.lane != Lane::Edge => {
                Some(under_way.since + Self::SLOW).filter(|at| *at > now)
            }
            Some(state) if state.dialling.is_some() => None,
            Some(state) => Some(state.at),
            None => Some(now),
        };
        let dials = self.wanted(now).into_iter().filter_map(at);
        let balanced = self
            .slots
            .iter()
            .flat_map(|slot| slot.missing(&self.replicas).filter_map(move |known| slot.waits_for_balancer(known, now)));
        dials.chain(balanced).min()
    }

    /// A dial led to a session with this replica. Returns the session's number for [`Plan::lost`].
    pub(super) fn registered(&mut self, dial: &Dial, replica: &str, now: Instant) -> u64 {
        self.last_serial += 1;
        if let Some(slot) = self.slots.get_mut(dial.slot as usize) {
            if let Some(state) = slot.lanes.get_mut(&dial.lane) {
                state.dialling = None;
                state.waits_for = None;
                state.failures = 0;
                state.at = now;
                state.backoff.registered();
            }
            slot.met.insert(replica.to_owned(), Held { serial: self.last_serial, since: now, leaving: false });
        }
        self.last_serial
    }

    /// The dials under way that are good for nothing more, or would meet a replica twice: to one that was met by
    /// another way or has gone, and to the balancer with an old list of those that are met. They are to be given up, and
    /// count as not being dialled from now on.
    pub(super) fn give_up(&mut self) -> Vec<Dial> {
        let mut needless = Vec::new();
        for (number, slot) in (0..).zip(&mut self.slots) {
            let Slot { met, lanes } = slot;
            for (lane, state) in lanes {
                let Some(Dialling { serial, .. }) = state.dialling else { continue };
                let is_needless = match lane {
                    Lane::Edge => met.values().any(|held| held.serial > serial),
                    Lane::Replica { id, .. } => met.contains_key(id) || self.replicas.get(id).is_none(),
                };
                if is_needless {
                    state.dialling = None;
                    needless.push(Dial { slot: number, lane: lane.clone() });
                }
            }
        }
        needless
    }

    /// A dial came to nothing. Returns how long its lane now waits: at least `least`, which the edge may have asked for.
    pub(super) fn failed(
        &mut self,
        dial: &Dial,
        failure: Failure,
        least: Duration,
        random: f64,
        now: Instant,
    ) -> Duration {
        let Some(slot) = self.slots.get_mut(dial.slot as usize) else { return least };
        let state = slot.lane(&dial.lane, now);
        state.dialling = None;
        state.waits_for = Some(failure);
        state.failures = state.failures.saturating_add(1);
        let delay = state.backoff.after(failure, random).max(least);
        state.at = now + delay;
        delay
    }

    /// The replica of this session stops: the session is good for no more links, so that there should be others before
    /// it ends. Returns which replica it is.
    pub(super) fn leaving(&mut self, serial: u64, now: Instant) -> Option<String> {
        let (replica, held) =
            self.slots.iter_mut().flat_map(|slot| &mut slot.met).find(|(_, held)| held.serial == serial)?;
        held.leaving = true;
        let replica = replica.clone();
        self.no_longer_says(&replica, now);
        if !self.is_connected() {
            self.look_again(now);
        }
        Some(replica)
    }

    /// A session ended. Returns how long until the next dial that may replace it; `None` where none is needed, since
    /// the replica has another one in this slot or has left, or where it has to wait for the first session again.
    pub(super) fn lost(&mut self, serial: u64, random: f64, now: Instant) -> Option<Duration> {
        let (number, slot) =
            (0..).zip(&mut self.slots).find(|(_, slot)| slot.met.values().any(|held| held.serial == serial))?;
        let (replica, held) = slot.met.iter().find(|(_, held)| held.serial == serial)?;
        let (replica, held) = (replica.clone(), *held);
        slot.met.remove(&replica);
        if self.slots.iter().all(|slot| slot.met.is_empty()) {
            // What we know of the replicas may be of the past by the time that one is there again.
            self.replicas = Replicas::default();
        } else if !self.slots.iter().any(|slot| slot.met.contains_key(&replica)) {
            self.no_longer_says(&replica, now);
        }
        let ways = self.ways(number, &replica, now);
        let balanced = self.waits_for_balancer(number, &replica, now);
        let least = if held.leaving && self.is_connected() { Self::RESTART } else { Duration::ZERO };
        let slot = self.slots.get_mut(number as usize)?;
        let delays = ways.iter().map(|lane| {
            let state = slot.lane(lane, now);
            if now.saturating_duration_since(held.since) >= Self::STABLE {
                state.backoff.stable();
            }
            let delay = state.backoff.after(Failure::Transient, random).max(least);
            state.waits_for = Some(Failure::Transient);
            state.at = now + delay;
            delay
        });
        delays.chain(balanced).min()
    }

    /// The replica of this session named those that it knows of. `random` is from 0 to 1.
    pub(super) fn learned(&mut self, serial: u64, named: Vec<Replica>, random: f64, now: Instant) {
        let mut met = self.slots.iter().flat_map(|slot| &slot.met);
        // One that stops may not hear any more of who comes and goes.
        let Some((from, _)) = met.find(|(_, held)| held.serial == serial && !held.leaving) else { return };
        if self.replicas.says(from, named, random, now) {
            self.forget_lanes();
            self.look_again(now);
        }
    }

    /// What a replica named counts no longer.
    fn no_longer_says(&mut self, replica: &str, now: Instant) {
        self.replicas.no_longer_says(replica, now);
        self.forget_lanes();
    }

    /// Those of replicas and addresses that are known no more, once they are not being dialled.
    fn forget_lanes(&mut self) {
        let lanes: Vec<Lane> = self.replicas.iter().map(Lane::of).collect();
        for slot in &mut self.slots {
            slot.lanes.retain(|lane, state| state.dialling.is_some() || *lane == Lane::Edge || lanes.contains(lane));
        }
    }

    /// Where the balancer leads is open again.
    fn look_again(&mut self, now: Instant) {
        for slot in &mut self.slots {
            if let Some(edge) = slot.lanes.get_mut(&Lane::Edge)
                && edge.waits_for == Some(Failure::Met)
            {
                edge.backoff.registered();
                edge.at = edge.at.min(now + Duration::from_millis(50));
            }
        }
    }

    /// The ids of the replicas that need not be met again in this slot.
    pub(super) fn met(&self, slot: u32) -> impl Iterator<Item = &str> {
        let met = self.slots.get(slot as usize).into_iter().flat_map(|slot| &slot.met);
        met.filter(|(_, held)| !held.leaving).map(|(replica, _)| replica.as_str())
    }

    /// Whether any slot holds a session that takes links.
    fn is_connected(&self) -> bool {
        self.slots.iter().flat_map(|slot| slot.met.values()).any(|held| !held.leaving)
    }

    fn wanted(&self, now: Instant) -> Vec<Dial> {
        if !self.is_connected() {
            // One of the slots is enough to find out whether the edge is there, who it is now, and what it thinks of our
            // token.
            return vec![Dial { slot: 0, lane: Lane::Edge }];
        }
        let mut wanted = Vec::new();
        for (number, slot) in (0..).zip(&self.slots) {
            let mut lanes: Vec<_> = slot.missing(&self.replicas).flat_map(|known| slot.ways(known, now)).collect();
            lanes.sort_unstable();
            lanes.dedup();
            wanted.extend(lanes.into_iter().map(|lane| Dial { slot: number, lane }));
        }
        wanted
    }

    /// By which lanes a replica is to be met in a slot, if it is.
    fn ways(&self, slot: u32, replica: &str, now: Instant) -> Vec<Lane> {
        if !self.is_connected() {
            return if slot == 0 { vec![Lane::Edge] } else { Vec::new() };
        }
        let Some(slot) = self.slots.get(slot as usize) else { return Vec::new() };
        self.replicas.get(replica).into_iter().flat_map(|known| slot.ways(known, now)).collect()
    }

    /// How long a replica is not looked for by the balancer yet, where that is a way to meet it in a slot.
    fn waits_for_balancer(&self, slot: u32, replica: &str, now: Instant) -> Option<Duration> {
        if !self.is_connected() {
            return None;
        }
        let (slot, known) = (self.slots.get(slot as usize)?, self.replicas.get(replica)?);
        slot.waits_for_balancer(known, now).map(|at| at - now)
    }
}

// === impl Slot ===

impl Slot {
    fn lane(&mut self, lane: &Lane, now: Instant) -> &mut LaneState {
        self.lanes.entry(lane.clone()).or_insert_with(|| LaneState::new(now))
    }

    /// The replicas without a session. One that stops has its session still: its successor is another one, or comes after
    /// that.
    fn missing<'a>(&self, replicas: &'a Replicas) -> impl Iterator<Item = &'a Known> {
        replicas.iter().filter(|known| !self.met.contains_key(&known.replica.id))
    }

    /// A replica's own address; the edge's where it has none or that is in doubt, once a balancer may lead there.
    fn ways(&self, known: &Known, now: Instant) -> impl Iterator<Item = Lane> {
        let own = Some(Lane::of(known)).filter(|lane| *lane != Lane::Edge);
        let edge = (self.needs_balancer(known, now) && !known.is_early(now)).then_some(Lane::Edge);
        [own, edge].into_iter().flatten()
    }

    /// Until when the edge's address does not count among the [`Slot::ways`] only because it would be too early.
    fn waits_for_balancer(&self, known: &Known, now: Instant) -> Option<Instant> {
        (self.needs_balancer(known, now) && known.is_early(now)).then_some(known.balanced)
    }

    fn needs_balancer(&self, known: &Known, now: Instant) -> bool {
        let own = Lane::of(known);
        own == Lane::Edge || self.lanes.get(&own).is_some_and(|state| state.is_in_doubt(now))
    }
}

// === impl Lane ===

impl Lane {
    fn of(Known { replica, .. }: &Known) -> Self {
        match &replica.address {
            Some(address) => Self::Replica { id: replica.id.clone(), address: address.clone() },
            None => Self::Edge,
        }
    }
}

// === impl LaneState ===

impl LaneState {
    fn new(now: Instant) -> Self {
        Self { backoff: Backoff::default(), at: now, dialling: None, waits_for: None, failures: 0 }
    }

    fn is_in_doubt(&self, now: Instant) -> bool {
        self.failures >= Plan::DOUBT || self.dialling.is_some_and(|under_way| now >= under_way.since + Plan::SLOW)
    }
}

#[cfg(test)]
mod tests;
