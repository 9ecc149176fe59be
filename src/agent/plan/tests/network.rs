//! A plan in a network that changes: replicas that come and go behind a balancer, with and without addresses.

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

struct Network {
    plan: Plan,
    now: Instant,
    address: Address,
    up: BTreeSet<u32>,
    /// What is under way, and when it is decided.
    dials: Vec<(Instant, Dial, BTreeSet<String>)>,
    /// Those that each replica knows of, by slot and replica.
    sessions: BTreeMap<(u32, u32), u64>,
    dialled: usize,
    turn: u32,
}

impl Network {
    fn new(slots: u32, address: Address) -> Self {
        Self {
            plan: Plan::new(slots),
            now: Instant::now(),
            address,
            up: BTreeSet::new(),
            dials: Vec::new(),
            sessions: BTreeMap::new(),
            dialled: 0,
            turn: 0,
        }
    }

    fn set(&self) -> Vec<Replica> {
        let address = |id: &u32| match self.address {
            Address::None => None,
            Address::Right => Some(format!("{id}")),
            Address::Wrong => Some("nowhere".to_owned()),
        };
        self.up.iter().map(|id| Replica { id: id.to_string(), address: address(id) }).collect()
    }

    /// From now on these are there. All agents hear of it, and those that went take their sessions along.
    fn scale(&mut self, up: impl IntoIterator<Item = u32>) {
        self.up = up.into_iter().collect();
        let stays = self.sessions.keys().any(|(_, replica)| self.up.contains(replica));
        if stays {
            self.plan.learned(self.set(), 0.5, self.now);
        }
        let gone: Vec<_> = self.sessions.extract_if(.., |(_, replica), _| !self.up.contains(replica)).collect();
        for (_, serial) in gone {
            self.plan.lost(serial, 0.5, self.now);
        }
    }

    /// Runs until nothing is to be done any more; for ten minutes at most, since a balancer that chooses at random may take
    /// many dials, each of seconds, to lead to the one that is missing.
    fn settle(&mut self, latencies: &mut impl Iterator<Item = u64>) {
        let end = self.now + Duration::from_mins(10);
        while self.now < end {
            for needless in self.plan.give_up() {
                self.dials.retain(|(_, dial, _)| *dial != needless);
            }
            for dial in self.plan.start_due(self.now) {
                assert!(!self.dials.iter().any(|(_, other, _)| *other == dial), "{dial:?} twice at a time");
                let met = self.plan.met(dial.slot).map(str::to_owned).collect();
                if let Lane::Replica { id, .. } = &dial.lane {
                    let id: u32 = id.parse().expect("a number");
                    assert!(!self.sessions.contains_key(&(dial.slot, id)), "{dial:?} is met already");
                }
                let latency = Duration::from_millis(latencies.next().unwrap_or(1));
                self.dials.push((self.now + latency, dial, met));
                self.dialled += 1;
            }
            let decided = self.dials.iter().map(|(at, ..)| *at).min();
            let Some(next) = decided.into_iter().chain(self.plan.next_due(self.now)).min() else { return };
            self.now = self.now.max(next);
            if let Some(index) = self.dials.iter().position(|(at, ..)| *at <= self.now) {
                let (_, dial, met) = self.dials.swap_remove(index);
                self.decide(&dial, &met);
            }
        }
    }

    fn decide(&mut self, dial: &Dial, met: &BTreeSet<String>) {
        let reached = match &dial.lane {
            Lane::Edge => {
                self.turn = self.turn.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                self.up.iter().nth((self.turn >> 16) as usize % self.up.len().max(1)).copied()
            }
            Lane::Replica { address, .. } => address.parse().ok().filter(|id| self.up.contains(id)),
        };
        match reached {
            None => drop(self.plan.failed(dial, Failure::Transient, NONE, 0.5, self.now)),
            Some(id) if met.contains(&id.to_string()) => {
                self.plan.failed(dial, Failure::Met, NONE, 0.5, self.now);
            }
            Some(id) => {
                let serial = self.plan.registered(dial, &id.to_string(), self.now);
                let replaced = self.sessions.insert((dial.slot, id), serial);
                assert_eq!(replaced, None, "a session was replaced that lived");
                self.plan.learned(self.set(), 0.5, self.now);
            }
        }
    }

    /// Whether there is one session for each slot and replica.
    fn is_whole(&self, slots: u32) -> bool {
        let all = (0..slots).flat_map(|slot| self.up.iter().map(move |id| (slot, *id)));
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
            network.scale(0..size);
            network.settle(&mut latencies);
            prop_assert!(network.is_whole(slots), "{:?}", network.sessions);
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
            network.scale(0..size);
            network.settle(&mut latencies);
            prop_assert!(network.is_whole(slots), "{:?}", network.sessions);
            // Balancers that choose at random need more than one dial for each; these are far above any chance.
            let most = 60 * slots as usize * size as usize;
            prop_assert!(network.dialled - before <= most, "{} dials", network.dialled - before);
        }
    }

    #[test]
    fn whatever_comes_and_goes_all_that_are_there_are_met_in_the_end(
        slots in 1_u32..=3, address in prop::sample::select(vec![Address::None, Address::Right, Address::Wrong]),
        sets in prop::collection::vec(prop::collection::btree_set(0_u32..6, 0..5), 1..8),
        latencies in prop::collection::vec(1_u64..3_000, 100),
    ) {
        let mut network = Network::new(slots, address);
        let mut latencies = latencies.into_iter().cycle();
        for set in sets {
            network.scale(set);
            network.settle(&mut latencies);
            prop_assert!(network.is_whole(slots), "{:?} of {:?}", network.sessions, network.up);
        }
    }
}
