//! A plan in a network that changes: replicas that come and go behind a balancer, with and without addresses, and who hear of each
//! other, as the balancer does, one after the other.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// A replica of the model, whose address, where it has one, is its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Address {
    None,
    Right,
    /// One that answers nobody here.
    Wrong,
}

/// How replicas go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    /// Saying so before.
    Drained,
    Killed,
}

struct Network {
    slots: u32,
    plan: Plan,
    now: Instant,
    address: Address,
    up: BTreeSet<u32>,
    /// Whom each of those that are up knows of.
    views: BTreeMap<u32, BTreeSet<u32>>,
    /// Whom the balancer leads to.
    led: BTreeSet<u32>,
    /// When who hears of those that are up now: a replica, or the balancer (`None`).
    hears: Vec<(Instant, Option<u32>)>,
    /// What is under way, what it says is met, and when it is decided.
    dials: Vec<(Instant, Lane, BTreeMap<String, BTreeSet<u32>>)>,
    /// Those that each replica knows of, by slot and replica.
    sessions: BTreeMap<(u32, u32), u64>,
    dialled: usize,
    /// Dials that met nobody new while the balancer had yet to hear.
    early: usize,
    turn: u32,
}

impl Network {
    fn new(slots: u32, address: Address) -> Self {
        Self {
            slots,
            plan: Plan::new(slots),
            now: Instant::now(),
            address,
            up: BTreeSet::new(),
            views: BTreeMap::new(),
            led: BTreeSet::new(),
            hears: Vec::new(),
            dials: Vec::new(),
            sessions: BTreeMap::new(),
            dialled: 0,
            early: 0,
            turn: 0,
        }
    }

    /// From now on these are there, and those that went take their sessions along. Each replica that is there hears of it within half
    /// a second, until when a new one knows of itself only, and the balancer within the time that it is given.
    fn scale(&mut self, up: impl IntoIterator<Item = u32>, leave: Leave, latencies: &mut impl Iterator<Item = u64>) {
        let before = std::mem::replace(&mut self.up, up.into_iter().collect());
        let millis = |at_most: u64, latency: Option<u64>| Duration::from_millis(latency.unwrap_or(1) % at_most);
        self.views.retain(|id, _| self.up.contains(id));
        for id in &self.up {
            self.views.entry(*id).or_insert_with(|| [*id].into());
            self.hears.push((self.now + millis(500, latencies.next()), Some(*id)));
        }
        if before.is_empty() {
            self.led.clone_from(&self.up);
        } else {
            let most = u64::try_from(Replicas::BALANCED.as_millis()).expect("little");
            // Slower than any replica, often.
            self.hears.push((self.now + millis(most, latencies.next().map(|latency| latency * 2)), None));
        }
        let gone: Vec<_> = self.sessions.extract_if(.., |(_, replica), _| !self.up.contains(replica)).collect();
        if leave == Leave::Drained {
            for (_, serial) in &gone {
                self.plan.leaving(*serial, self.now);
            }
        }
        for (_, serial) in gone {
            let random = self.random();
            self.plan.lost(serial, random, self.now);
        }
    }

    /// Runs until nothing is to be done any more; for ten minutes at most, since a balancer that chooses at random may take
    /// many dials, each of seconds, to lead to the one that is missing.
    fn settle(&mut self, latencies: &mut impl Iterator<Item = u64>) {
        let end = self.now + Duration::from_mins(10);
        while self.now < end {
            for needless in self.plan.give_up(self.now) {
                self.dials.retain(|(_, lane, _)| *lane != needless);
            }
            for lane in self.plan.start_due(self.now) {
                assert!(!self.dials.iter().any(|(_, other, _)| *other == lane), "{lane:?} twice at a time");
                if let Lane::Replica { id, .. } = &lane {
                    let id: u32 = id.parse().expect("a number");
                    let lacks = (0..self.slots).any(|slot| !self.sessions.contains_key(&(slot, id)));
                    assert!(lacks, "{lane:?} is met already");
                }
                let latency = Duration::from_millis(latencies.next().unwrap_or(1));
                self.dials.push((self.now + latency, lane, self.plan.met()));
                self.dialled += 1;
            }
            let decided = self.dials.iter().map(|(at, ..)| *at);
            let heard = self.hears.iter().map(|(at, _)| *at);
            let Some(next) = decided.chain(heard).chain(self.plan.next_due(self.now)).min() else { return };
            self.now = self.now.max(next);
            if let Some(index) = self.hears.iter().position(|(at, _)| *at <= self.now) {
                match self.hears.swap_remove(index) {
                    (_, Some(replica)) => self.hear(replica),
                    (_, None) => self.led.clone_from(&self.up),
                }
            } else if let Some(index) = self.dials.iter().position(|(at, ..)| *at <= self.now) {
                let (_, lane, met) = self.dials.swap_remove(index);
                self.decide(&lane, &met);
            }
        }
    }

    /// A replica hears of those that are up, and tells its agents.
    fn hear(&mut self, replica: u32) {
        if self.up.contains(&replica) {
            self.views.insert(replica, self.up.clone());
            let sessions = self.sessions.iter().filter(|((_, id), _)| *id == replica);
            for serial in sessions.map(|(_, serial)| *serial).collect::<Vec<_>>() {
                self.tell(replica, serial);
            }
        }
    }

    /// A replica says in one of its sessions whom it knows of.
    fn tell(&mut self, replica: u32, serial: u64) {
        let address = |id: &u32| match self.address {
            Address::None => None,
            Address::Right => Some(format!("{id}")),
            Address::Wrong => Some("nowhere".to_owned()),
        };
        let known = self.views.get(&replica).into_iter().flatten();
        let named = known.map(|id| Replica { id: id.to_string(), address: address(id) }).collect();
        let random = self.random();
        self.plan.learned(serial, named, random, self.now);
    }

    /// Whom a dial reaches gives it the lowest slot that is not said to be met.
    fn decide(&mut self, lane: &Lane, met: &BTreeMap<String, BTreeSet<u32>>) {
        let reached = match lane {
            Lane::Edge => {
                let index = self.number() as usize % self.led.len().max(1);
                self.led.iter().nth(index).copied().filter(|id| self.up.contains(id))
            }
            Lane::Replica { address, .. } => address.parse().ok().filter(|id| self.up.contains(id)),
        };
        let random = self.random();
        let free = reached.map(|id| {
            let held = met.get(&id.to_string());
            (id, (0..self.slots).find(|slot| held.is_none_or(|held| !held.contains(slot))))
        });
        let failure = match free {
            None => Failure::Transient,
            Some((_, None)) => Failure::Met,
            Some((id, Some(slot))) => {
                let serial = self.plan.registered(lane, &id.to_string(), slot, self.now);
                let replaced = self.sessions.insert((slot, id), serial);
                assert_eq!(replaced, None, "a session was replaced that lived");
                return self.tell(id, serial);
            }
        };
        if *lane == Lane::Edge && self.hears.iter().any(|(_, who)| who.is_none()) {
            self.early += 1;
        }
        self.plan.failed(lane, failure, NONE, random, self.now);
    }

    fn number(&mut self) -> u32 {
        self.turn = self.turn.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.turn >> 16
    }

    /// From 0 to 1.
    fn random(&mut self) -> f64 {
        f64::from(self.number() % 1_001) / 1_000.0
    }

    /// Whether there is one session for each slot and replica.
    fn is_whole(&self) -> bool {
        let all = (0..self.slots).flat_map(|slot| self.up.iter().map(move |id| (slot, *id)));
        all.collect::<BTreeSet<_>>() == self.sessions.keys().copied().collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn with_addresses_each_session_costs_one_dial(
        slots in 1_u32..=8, sizes in prop::collection::vec(1_u32..8, 1..6),
        latencies in prop::collection::vec(1_u64..500, 100),
    ) {
        let mut network = Network::new(slots, Address::Right);
        let mut latencies = latencies.into_iter().cycle();
        for size in sizes {
            let (before, had) = (network.dialled, network.sessions.len());
            // The one who has the lowest number stays, so that somebody can tell of the others.
            network.scale(0..size, Leave::Drained, &mut latencies);
            network.settle(&mut latencies);
            prop_assert!(network.is_whole(), "{:?}", network.sessions);
            let needed = network.sessions.len().saturating_sub(had);
            prop_assert_eq!(network.dialled - before, needed);
        }
    }

    #[test]
    fn behind_a_balancer_all_are_met_without_a_storm(
        slots in 1_u32..=8, address in prop::sample::select(vec![Address::None, Address::Wrong]),
        sizes in prop::collection::vec(1_u32..6, 1..4), latencies in prop::collection::vec(1_u64..500, 100),
    ) {
        let mut network = Network::new(slots, address);
        let mut latencies = latencies.into_iter().cycle();
        for size in sizes {
            let before = network.dialled;
            network.scale(0..size, Leave::Drained, &mut latencies);
            network.settle(&mut latencies);
            prop_assert!(network.is_whole(), "{:?}", network.sessions);
            // Balancers that choose at random need more than one dial for each; these are far above any chance.
            let most = 60 * slots as usize * size as usize;
            prop_assert!(network.dialled - before <= most, "{} dials", network.dialled - before);
            prop_assert_eq!(network.early, 0);
        }
    }

    #[test]
    fn whatever_comes_and_goes_all_that_are_there_are_met_in_the_end(
        slots in 1_u32..=3, address in prop::sample::select(vec![Address::None, Address::Right, Address::Wrong]),
        leave in prop::sample::select(vec![Leave::Drained, Leave::Killed]),
        sets in prop::collection::vec(prop::collection::btree_set(0_u32..6, 0..5), 1..8),
        latencies in prop::collection::vec(1_u64..3_000, 100),
    ) {
        let mut network = Network::new(slots, address);
        let mut latencies = latencies.into_iter().cycle();
        for set in sets {
            network.scale(set, leave, &mut latencies);
            network.settle(&mut latencies);
            prop_assert!(network.is_whole(), "{:?} of {:?}", network.sessions, network.up);
        }
    }
}

#[test]
fn three_replicas_beside_two_cost_less_than_three_dials_a_session() {
    const AGENTS: u32 = 1_000;
    const SLOTS: u32 = 2;
    let mut dialled = 0;
    for agent in 0..AGENTS {
        let mut network = Network::new(SLOTS, Address::None);
        network.turn = agent.wrapping_mul(2_654_435_761);
        let mut latencies = std::iter::repeat(20);
        network.scale(0..2, Leave::Drained, &mut latencies);
        network.settle(&mut latencies);
        assert!(network.is_whole(), "{:?}", network.sessions);
        let before = network.dialled;
        network.scale(0..5, Leave::Drained, &mut latencies);
        network.settle(&mut latencies);
        assert!(network.is_whole(), "{:?}", network.sessions);
        dialled += network.dialled - before;
    }
    let mean = f64::from(u32::try_from(dialled).expect("not so many")) / f64::from(AGENTS * SLOTS * 3);
    // By chance it is (5 / 3 + 5 / 2 + 5 / 1) / 3 = 3.06 where each slot is looked for by itself, and 2.68 where any dial fills any.
    assert!((2.5..=2.8).contains(&mean), "{mean} dials for each session");
}
