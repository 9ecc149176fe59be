//! Which place of a tier is next: pure, so that shares and consistency are tested as plain data.

use std::net::IpAddr;

use super::{FNV_OFFSET, Places, Tier, fnv, mix};

/// What a choice is made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// A number that counts up with each request.
    Turn(usize),
    /// A random number.
    Random(u64),
    /// A random number, which leads to two places, and then the requests in progress there.
    Least(u64),
    /// What stays the same for one visitor.
    Hash(u64),
}

/// The multiples of an irrational number modulo 1, here in units of 2⁻⁶⁴, fall evenly into any interval, and at even
/// distances: shares are kept exactly and smoothly without a schedule to remember. The golden ratio does it best.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// The same by √2, for a second choice that does not depend on the first.
const ROOT_OF_TWO: u64 = 0x6a09_e667_f3bc_c909;

// === impl Draw ===

impl Draw {
    /// What stays the same for a visitor: its address, of IPv6 the /64 within which it may change it at will.
    #[must_use]
    pub fn by_address(address: IpAddr) -> Self {
        Self::Hash(key(address))
    }
}

fn key(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => fnv(FNV_OFFSET, &address.octets()),
        IpAddr::V6(address) => fnv(FNV_OFFSET, &address.octets()[..8]),
    }
}

/// How much a visitor belongs to one of several equals, by its name: it goes to that for which this is the most.
#[must_use]
pub fn affinity(address: IpAddr, name: &str) -> u64 {
    mix(fnv(FNV_OFFSET, name.as_bytes()) ^ mix(key(address)))
}

// === impl Places ===

impl Places {
    /// The place of this tier whose turn it is among those that are usable, and what `usable` found there. It is asked as
    /// seldom as possible: of one place, where that will do. `load` is how many requests are in progress at a place.
    pub fn pick<C>(
        &self,
        tier: &Tier,
        draw: Draw,
        load: impl Fn(usize) -> u32,
        mut usable: impl FnMut(usize) -> Option<C>,
    ) -> Option<(usize, C)> {
        let count = tier.count;
        let (first, number) = match draw {
            _ if count == 1 => (tier.first, 0),
            // The turn of this round, where the first choice falls to one that is not usable.
            Draw::Turn(turn) if tier.even => (tier.first + turn % count, (turn / count) as u64),
            Draw::Turn(turn) => (self.at(tier, (turn as u64).wrapping_mul(GOLDEN)), turn as u64),
            Draw::Random(random) => (self.at(tier, random), mix(random)),
            Draw::Least(random) => return self.least(tier, random, load, usable),
            Draw::Hash(key) => return self.hashed(tier, key, usable),
        };
        if let Some(found) = usable(first) {
            return Some((first, found));
        }
        let mut others: Vec<_> = tier.usable(&[first], usable).collect();
        let index = match draw {
            _ if others.len() <= 1 => 0,
            Draw::Turn(_) if tier.even => usize::try_from(number).unwrap_or(0) % others.len(),
            Draw::Turn(_) => self.among(&others, number.wrapping_mul(ROOT_OF_TWO)),
            _ => self.among(&others, number),
        };
        (!others.is_empty()).then(|| others.swap_remove(index))
    }

    /// The place at this fraction of the tier's weights, in units of 2⁻⁶⁴.
    fn at(&self, tier: &Tier, fraction: u64) -> usize {
        if tier.even {
            return tier.first + share(fraction, tier.count);
        }
        let weights = self.places[tier.first..][..tier.count].iter().map(|place| place.weight);
        tier.first + at_weight(weights, tier.total, fraction)
    }

    /// The same among some of the places.
    fn among<C>(&self, some: &[(usize, C)], fraction: u64) -> usize {
        let weights = some.iter().map(|(index, _)| self.places[*index].weight);
        at_weight(weights.clone(), weights.map(u64::from).sum(), fraction)
    }

    /// Of two by chance, the one with less to do. (Always the least of all would send what comes at once to one place.)
    fn least<C>(
        &self,
        tier: &Tier,
        random: u64,
        load: impl Fn(usize) -> u32,
        mut usable: impl FnMut(usize) -> Option<C>,
    ) -> Option<(usize, C)> {
        let [one, other] = two(random, tier.count).map(|index| tier.first + index);
        let better = |one: (usize, C), other: (usize, C)| {
            let [a, b] = [one.0, other.0];
            // Fewer requests for its weight, this one included.
            let [of_a, of_b] =
                [(a, b), (b, a)].map(|(this, that)| (u64::from(load(this)) + 1) * u64::from(self.places[that].weight));
            if of_b < of_a { other } else { one }
        };
        if one == other {
            return usable(one).map(|found| (one, found));
        }
        let (found_one, found_other) = (usable(one).map(|c| (one, c)), usable(other).map(|c| (other, c)));
        let (Some(found_one), Some(found_other)) = (found_one, found_other) else {
            let mut rest: Vec<_> = tier.usable(&[], usable).collect();
            if rest.is_empty() {
                return None;
            }
            let [one, other] = two(mix(random), rest.len());
            if one == other {
                return Some(rest.swap_remove(one));
            }
            // The higher index first, so that the lower one stays where it is.
            let high = rest.swap_remove(one.max(other));
            let low = rest.swap_remove(one.min(other));
            return Some(better(low, high));
        };
        Some(better(found_one, found_other))
    }

    /// The usable place with the highest score (weighted rendezvous hashing): a place that goes takes nobody's score away but
    /// its own.
    fn hashed<C>(&self, tier: &Tier, key: u64, mut usable: impl FnMut(usize) -> Option<C>) -> Option<(usize, C)> {
        let mut passed: Option<(f64, usize)> = None;
        loop {
            let scores = (tier.first..tier.first + tier.count).map(|index| (self.score(index, key), index));
            let lower = |score: &(f64, usize)| passed.is_none_or(|passed| by_score(score, &passed).is_lt());
            let best = scores.filter(lower).max_by(by_score)?;
            if let Some(found) = usable(best.1) {
                return Some((best.1, found));
            }
            passed = Some(best);
        }
    }

    fn score(&self, index: usize, key: u64) -> f64 {
        let place = &self.places[index];
        #[expect(clippy::cast_precision_loss, reason = "53 bits are enough for a score")]
        let unit = ((mix(place.seed ^ mix(key)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        f64::from(place.weight) / -unit.ln()
    }
}

// === impl Tier ===

impl Tier {
    /// All that are usable, but those that were asked already.
    fn usable<C>(
        &self,
        asked: &[usize],
        mut usable: impl FnMut(usize) -> Option<C>,
    ) -> impl Iterator<Item = (usize, C)> {
        self.indices().filter(|index| !asked.contains(index)).filter_map(move |index| Some((index, usable(index)?)))
    }
}

fn by_score(a: &(f64, usize), b: &(f64, usize)) -> std::cmp::Ordering {
    a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))
}

/// Two different numbers below `count`, by chance; twice the same where there is only one.
fn two(random: u64, count: usize) -> [usize; 2] {
    let one = share(random, count);
    if count == 1 {
        return [one, one];
    }
    [one, (one + 1 + share(mix(random.wrapping_add(GOLDEN)), count - 1)) % count]
}

/// This fraction of `count`, rounded down.
fn share(fraction: u64, count: usize) -> usize {
    usize::try_from((u128::from(fraction) * count as u128) >> 64).unwrap_or(0)
}

fn at_weight(weights: impl Iterator<Item = u32>, total: u64, fraction: u64) -> usize {
    let mut left = u64::try_from((u128::from(fraction) * u128::from(total)) >> 64).unwrap_or(0);
    let mut last = 0;
    for (index, weight) in weights.enumerate() {
        last = index;
        match left.checked_sub(u64::from(weight)) {
            Some(rest) => left = rest,
            None => break,
        }
    }
    last
}
