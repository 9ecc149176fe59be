use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use self::replicas::{Known, Replicas};
use super::backoff::{Backoff, Failure};
use crate::tunnel::Replica;

mod replicas;

/// Whom to dial, and when: holds one session in each slot with each replica of the edge. Which slot a dial fills, the replica says
/// that it reaches. Pure; the time comes in.
#[derive(Debug)]
pub(super) struct Plan {
    /// How many slots there are with each replica.
    slots: u32,
    /// The sessions that we hold, by replica and slot; no replica without any.
    met: BTreeMap<String, BTreeMap<u32, Held>>,
    lanes: HashMap<Lane, LaneState>,
    replicas: Replicas,
    last_serial: u64,
}

/// A way to the edge. There is at most one dial at a time in each: of two, a replica could give both the same slot.
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
    /// Set where the replica stops, so that the session is good for no more links: the last session that was there when it said so.
    /// Later ones under its id are with a successor.
    leaving: Option<u64>,
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
    /// Whether somebody is there.
    reached: bool,
}

// === impl Plan ===

impl Plan {
    /// A session that lived so long was of use, so that its loss is news.
    const STABLE: Duration = Duration::from_secs(5);
    /// After so many failures in a row at a replica's own address the edge's is tried beside it: from where this agent
    /// is, the replica may be there for the balancer only.
    const DOUBT: u32 = 2;
    /// So is it while a dial that has reached nobody takes longer than this: packets to an address of another network vanish without a
    /// word. One that is reached may let its agents wait, until it has read all objects.
    const SLOW: Duration = Duration::from_secs(3);
    /// A replica that said that it stops is likely to leave the set, of which the others may hear seconds after its end; one that
    /// is to be back under its name takes a while, too. So long it is not looked for, and up to half as long again, so that not
    /// all agents come together: within the 5 s for which one that starts waits for its agents. Others serve meanwhile.
    const RESTART: Duration = Duration::from_secs(3);

    /// A plan with so many slots, at least one.
    pub(super) fn new(slots: u32) -> Self {
        Self {
            slots: slots.max(1),
            met: BTreeMap::new(),
            lanes: HashMap::new(),
            replicas: Replicas::default(),
            last_serial: 0,
        }
    }

    /// What to dial now. Each of them then counts as being dialled until it [`Plan::registered`] or [`Plan::failed`].
    pub(super) fn start_due(&mut self, now: Instant) -> Vec<Lane> {
        let mut due = self.wanted(now);
        due.retain(|lane| {
            let serial = self.last_serial;
            let state = self.lane(lane, now);
            let start = state.dialling.is_none() && state.at <= now;
            if start {
                state.dialling = Some(Dialling { since: now, serial, reached: false });
            }
            start
        });
        due
    }

    /// When [`Plan::start_due`] next has something, at the latest; `None` where nothing is to be dialled.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let at = |lane: Lane| match self.lanes.get(&lane) {
            // What is slow is soon in doubt.
            Some(LaneState { dialling: Some(under_way), .. }) if lane != Lane::Edge => {
                under_way.doubted().filter(|at| *at > now)
            }
            Some(state) if state.dialling.is_some() => None,
            Some(state) => Some(state.at),
            None => Some(now),
        };
        let dials = self.wanted(now).into_iter().filter_map(at);
        let waits = self.missing().filter_map(|known| self.waits(known, now));
        dials.chain(waits).min()
    }

    /// A dial has reached somebody, who has yet to answer. Where nothing came of that once, it counts no more: something in between
    /// may take connections for every address.
    pub(super) fn reached(&mut self, lane: &Lane) {
        if let Some(LaneState { dialling: Some(under_way), failures: 0, .. }) = self.lanes.get_mut(lane) {
            under_way.reached = true;
        }
    }

    /// A dial led to a session with this replica in that slot. Returns the session's number for [`Plan::lost`].
    pub(super) fn registered(&mut self, lane: &Lane, replica: &str, slot: u32, now: Instant) -> u64 {
        self.last_serial += 1;
        if let Some(state) = self.lanes.get_mut(lane) {
            state.dialling = None;
            state.failures = 0;
            state.backoff.registered();
            // What was lost while this was dialled has to wait: else an edge that ends each session while the next one is
            // dialled would be dialled without a pause.
            if !state.waits_after_loss(now) {
                state.waits_for = None;
                state.at = now;
            }
        }
        self.replicas.returned(replica);
        let held = Held { serial: self.last_serial, since: now, leaving: None };
        self.met.entry(replica.to_owned()).or_default().insert(slot, held);
        self.last_serial
    }

    /// The dials under way that are good for nothing more, or may be given a slot twice: to one that has gone or moved, and to any that
    /// was met by another way, since when what they say is held is old. They are to be given up, and count as not being dialled
    /// from now on.
    pub(super) fn give_up(&mut self, now: Instant) -> Vec<Lane> {
        let mut needless = Vec::new();
        for (lane, state) in &mut self.lanes {
            let Some(Dialling { serial, .. }) = state.dialling else { continue };
            let is_newer = |held: &BTreeMap<u32, Held>| held.values().any(|held| held.serial > serial);
            let is_needless = match lane {
                Lane::Edge => self.met.values().any(is_newer),
                Lane::Replica { id, .. } => {
                    self.replicas.get(id).is_none_or(|known| Lane::of(known) != *lane)
                        || self.met.get(id).is_some_and(is_newer)
                }
            };
            if is_needless {
                if state.is_in_doubt(now) {
                    // The next dial need not be slow for as long to be in doubt again.
                    state.failures = state.failures.max(Self::DOUBT);
                }
                state.dialling = None;
                needless.push(lane.clone());
            }
        }
        needless
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
        let state = self.lane(lane, now);
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
        let (replica, slot) = self.find(serial)?;
        let held = self.met.get_mut(&replica)?.get_mut(&slot)?;
        held.leaving.get_or_insert(self.last_serial);
        self.no_longer_says(&replica, now);
        if !self.is_connected() {
            self.look_again(now);
        }
        Some(replica)
    }

    /// A session ended. Returns how long until the next dial that may replace it; `None` where none is needed, since
    /// the replica has another one in its slot or has left.
    pub(super) fn lost(&mut self, serial: u64, random: f64, now: Instant) -> Option<Duration> {
        let (replica, slot) = self.find(serial)?;
        let of_replica = self.met.get_mut(&replica)?;
        let held = of_replica.remove(&slot)?;
        let was_last = of_replica.is_empty();
        let stopped = held.leaving.is_some_and(|last| of_replica.values().all(|other| other.serial <= last));
        if was_last {
            self.met.remove(&replica);
        }
        if self.met.is_empty() {
            // What we know of the replicas may be of the past by the time that one is there again.
            self.replicas = Replicas::default();
        } else if was_last {
            self.no_longer_says(&replica, now);
        }
        if stopped {
            self.replicas.rest(&replica, now + Self::RESTART.mul_f64(1.0 + random / 2.0), now);
        }
        let is_connected = self.is_connected();
        let known = self.replicas.get(&replica).filter(|_| is_connected);
        let waits = known.and_then(|known| self.waits(known, now));
        let ways: Vec<Lane> = if is_connected {
            known.into_iter().flat_map(|known| self.ways(known, now)).collect()
        } else {
            vec![Lane::Edge]
        };
        let is_stable = now.saturating_duration_since(held.since) >= Self::STABLE;
        if let Some(own) = known.map(Lane::of).filter(|_| is_stable) {
            self.lane(&own, now).backoff.stable();
        }
        let delays = ways.iter().map(|lane| {
            let state = self.lane(lane, now);
            if is_stable {
                state.backoff.stable();
            }
            // Sessions that are lost together are one failure of the lane by which they are all dialled again.
            let delay = if state.waits_after_loss(now) && !is_stable {
                state.at - now
            } else {
                state.backoff.after(Failure::Transient, random)
            };
            state.waits_for = Some(Failure::Transient);
            state.at = now + delay;
            delay
        });
        delays.chain(waits.map(|at| at - now)).min()
    }

    /// The replica of this session named those that it knows of. `random` is from 0 to 1.
    pub(super) fn learned(&mut self, serial: u64, named: Vec<Replica>, random: f64, now: Instant) {
        let held = |held: &BTreeMap<u32, Held>| held.values().any(|held| held.serial == serial && !held.is_leaving());
        // One that stops may not hear any more of who comes and goes.
        let Some((from, _)) = self.met.iter().find(|(_, sessions)| held(sessions)) else { return };
        if self.replicas.says(from, named, random, now) {
            self.forget_lanes();
            self.look_again(now);
        }
    }

    /// The replica and the slot of a session, unless another one has taken its place.
    fn find(&self, serial: u64) -> Option<(String, u32)> {
        self.met.iter().find_map(|(replica, sessions)| {
            let (slot, _) = sessions.iter().find(|(_, held)| held.serial == serial)?;
            Some((replica.clone(), *slot))
        })
    }

    /// What a replica named counts no longer.
    fn no_longer_says(&mut self, replica: &str, now: Instant) {
        self.replicas.no_longer_says(replica, now);
        self.forget_lanes();
    }

    /// Those of replicas and addresses that are known no more, once they are not being dialled.
    fn forget_lanes(&mut self) {
        let known: Vec<Lane> = self.replicas.iter().map(Lane::of).collect();
        self.lanes.retain(|lane, state| state.dialling.is_some() || *lane == Lane::Edge || known.contains(lane));
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

    /// The slots that need not be filled again, by replica.
    pub(super) fn met(&self) -> BTreeMap<String, BTreeSet<u32>> {
        let mut met = BTreeMap::<_, BTreeSet<_>>::new();
        for (replica, sessions) in &self.met {
            for (slot, _) in sessions.iter().filter(|(_, held)| !held.is_leaving()) {
                met.entry(replica.clone()).or_default().insert(*slot);
            }
        }
        met
    }

    /// Whether any session takes links.
    fn is_connected(&self) -> bool {
        self.met.values().flat_map(BTreeMap::values).any(|held| !held.is_leaving())
    }

    fn wanted(&self, now: Instant) -> Vec<Lane> {
        if !self.is_connected() {
            // Is the edge there, who is it now, and what does it think of our token?
            return vec![Lane::Edge];
        }
        let mut wanted: Vec<_> = self.missing().flat_map(|known| self.ways(known, now)).collect();
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    fn lane(&mut self, lane: &Lane, now: Instant) -> &mut LaneState {
        self.lanes.entry(lane.clone()).or_insert_with(|| LaneState::new(now))
    }

    /// The replicas without a session in each slot, but those that stop: their successors are others, or come after them.
    fn missing(&self) -> impl Iterator<Item = &Known> {
        let lacks = |sessions: &BTreeMap<u32, Held>| {
            sessions.len() < self.slots as usize && sessions.values().any(|held| !held.is_leaving())
        };
        self.replicas.iter().filter(move |known| self.met.get(&known.replica.id).is_none_or(lacks))
    }

    /// A replica's own address; the edge's where it has none or that is in doubt, once a balancer may lead there. None while it
    /// is not looked for.
    fn ways(&self, known: &Known, now: Instant) -> impl Iterator<Item = Lane> {
        let own = Some(Lane::of(known)).filter(|lane| *lane != Lane::Edge);
        let edge = (self.needs_balancer(known, now) && !known.is_early(now)).then_some(Lane::Edge);
        [own, edge].into_iter().flatten().filter(move |_| known.rests(now).is_none())
    }

    /// When there will be more [`Plan::ways`], by time alone.
    fn waits(&self, known: &Known, now: Instant) -> Option<Instant> {
        let balanced = || (self.needs_balancer(known, now) && known.is_early(now)).then_some(known.balanced);
        known.rests(now).or_else(balanced)
    }

    fn needs_balancer(&self, known: &Known, now: Instant) -> bool {
        let own = Lane::of(known);
        own == Lane::Edge || self.lanes.get(&own).is_some_and(|state| state.is_in_doubt(now))
    }
}

// === impl Held ===

impl Held {
    fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }
}

// === impl Dialling ===

impl Dialling {
    /// From when on the address is in doubt, unless it comes to something.
    fn doubted(self) -> Option<Instant> {
        (!self.reached).then_some(self.since + Plan::SLOW)
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

    /// Whether it is put off since something was lost, or could not be reached.
    fn waits_after_loss(&self, now: Instant) -> bool {
        self.waits_for == Some(Failure::Transient) && self.at > now
    }

    fn is_in_doubt(&self, now: Instant) -> bool {
        let is_slow = || self.dialling.and_then(Dialling::doubted).is_some_and(|at| now >= at);
        self.failures >= Plan::DOUBT || is_slow()
    }
}

#[cfg(test)]
mod tests;
