use std::ops::Range;

use super::{ObjectName, Target};

mod draw;

pub use self::draw::{Draw, affinity};

/// How the places of a rule share its requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadBalancing {
    /// Each in its turn, as often as its weight says.
    #[default]
    RoundRobin,
    /// By chance, as often as its weight says.
    Random,
    /// Of two by chance, the one with fewer requests in progress for its weight.
    LeastRequests,
    /// By the visitor's address: the same visitor comes to the same place as long as that is usable, and when one goes,
    /// only its visitors move.
    ClientHash,
}

/// One of several agents or targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<T> {
    /// The agent or target.
    pub item: T,
    /// Its share of the requests beside the others; 0 gets none.
    pub weight: u32,
    /// Its tier: of a higher number are used only while those of all lower ones are not usable.
    pub priority: u32,
}

/// An agent and a target that it connects to: where one request may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The agent.
    pub agent: ObjectName,
    /// The target.
    pub target: Target,
    /// Its share; never 0.
    weight: u32,
    /// What tells it from other places, the same in all replicas and for ever.
    seed: u64,
}

/// All places of a rule, in tiers, the first one to be preferred.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    places: Vec<Place>,
    tiers: Vec<Tier>,
}

/// Places that share requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// Index of its first place.
    first: usize,
    count: usize,
    /// Of all its weights.
    total: u64,
    /// Whether all weights are the same.
    even: bool,
}

// === impl Member ===

impl<T> From<T> for Member<T> {
    fn from(item: T) -> Self {
        Self { item, weight: 1, priority: 0 }
    }
}

// === impl Places ===

impl Places {
    /// Every agent with every target. A place's weight is that of its agent times that of its target; its tier is that of
    /// its agent, and within that the one of its target. What has the weight 0 is left out.
    #[must_use]
    pub fn new(agents: &[Member<ObjectName>], targets: &[Member<Target>]) -> Self {
        let mut all = Vec::with_capacity(agents.len() * targets.len());
        // The turn of the targets comes once a round of the agents, so that each agent gets to each target.
        for target in targets {
            for agent in agents {
                let weight = agent.weight.saturating_mul(target.weight);
                if weight > 0 {
                    let tier = (agent.priority, target.priority);
                    all.push((tier, Place::new(agent.item.clone(), target.item.clone(), weight)));
                }
            }
        }
        all.sort_by_key(|(tier, _)| *tier);
        let mut tiers = Vec::new();
        for same in all.chunk_by(|(one, _), (other, _)| one == other) {
            let first = tiers.last().map_or(0, |last: &Tier| last.first + last.count);
            let weights = || same.iter().map(|(_, place)| place.weight);
            let even = weights().min() == weights().max();
            tiers.push(Tier { first, count: same.len(), total: weights().map(u64::from).sum(), even });
        }
        Self { places: all.into_iter().map(|(_, place)| place).collect(), tiers }
    }

    /// All of them, those of the first tier first; a place keeps its index as long as the rule is the same.
    #[must_use]
    pub fn all(&self) -> &[Place] {
        &self.places
    }

    /// The tiers, the preferred one first.
    #[must_use]
    pub fn tiers(&self) -> &[Tier] {
        &self.tiers
    }
}

// === impl Tier ===

impl Tier {
    /// The indices of its places among [`Places::all`].
    #[must_use]
    pub fn indices(&self) -> Range<usize> {
        self.first..self.first + self.count
    }
}

// === impl Place ===

impl Place {
    fn new(agent: ObjectName, target: Target, weight: u32) -> Self {
        let mut seed = FNV_OFFSET;
        for part in [&*agent.namespace, &*agent.name, target.as_str()] {
            seed = fnv(seed, part.as_bytes());
            // No part ends in another place for the same text.
            seed = fnv(seed, &[0]);
        }
        Self { agent, target, weight, seed }
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a: unlike the standard library's, the same in every process.
pub(super) fn fnv(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Spreads what differs in a few bits over all of them (splitmix64).
pub(super) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;
