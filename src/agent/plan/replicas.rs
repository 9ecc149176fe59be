use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::tunnel::Replica;

/// The replicas that there are, by the word of those that we hold sessions with. They hear of each other one after the other, and
/// one that has just begun may know of none but itself: so one of them naming a replica is enough.
#[derive(Debug, Default)]
pub(super) struct Replicas {
    /// What each of them said last, the latest word last.
    words: Vec<Word>,
    /// In the order of their ids.
    known: Vec<Known>,
}

#[derive(Debug)]
struct Word {
    from: String,
    named: Vec<Replica>,
}

/// A replica that has been named.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) replica: Replica,
    /// From when on a balancer may lead there.
    pub(super) balanced: Instant,
    /// Not looked for before: it said that it stops.
    pub(super) back: Option<Instant>,
}

// === impl Replicas ===

impl Replicas {
    /// A balancer hears of a new replica later than the other replicas do: kube-proxy's rules change once a second by default.
    /// So long it is not asked for that one, and up to half as long again, so that not all agents ask together.
    pub(super) const BALANCED: Duration = Duration::from_secs(1);

    /// A replica named those that it knows of, and says no more than that. `random` is from 0 to 1. Returns whether that
    /// changed anything.
    pub(super) fn says(&mut self, from: &str, named: Vec<Replica>, random: f64, now: Instant) -> bool {
        // Those of the first list were there before us.
        let wait = if self.known.is_empty() { Duration::ZERO } else { Self::BALANCED.mul_f64(1.0 + random / 2.0) };
        self.words.retain(|word| word.from != from);
        self.words.push(Word { from: from.to_owned(), named });
        self.know(now + wait)
    }

    /// What a replica said counts no longer. Where nobody else has said anything yet, those it named are known until somebody does.
    pub(super) fn no_longer_says(&mut self, from: &str, now: Instant) {
        self.words.retain(|word| word.from != from);
        if !self.words.is_empty() {
            self.know(now);
        }
    }

    /// A replica stopped: it is likely to leave the set, and else not looked for until then, if it does not rest already.
    pub(super) fn rest(&mut self, id: &str, until: Instant, now: Instant) {
        if let Some(known) = self.get_mut(id).filter(|known| known.rests(now).is_none()) {
            known.back = Some(until);
        }
    }

    /// A replica is there, whatever it said before.
    pub(super) fn returned(&mut self, id: &str) {
        if let Some(known) = self.get_mut(id) {
            known.back = None;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Known> {
        self.known.iter()
    }

    pub(super) fn get(&self, id: &str) -> Option<&Known> {
        self.known.iter().find(|known| known.replica.id == id)
    }

    fn get_mut(&mut self, id: &str) -> Option<&mut Known> {
        self.known.iter_mut().find(|known| known.replica.id == id)
    }

    /// Knows who is named by any of the words, with the address that was said last; balancers lead to new ones from `balanced`
    /// on. Returns whether that is news.
    fn know(&mut self, balanced: Instant) -> bool {
        let mut named = BTreeMap::<&str, Option<&str>>::new();
        for replica in self.words.iter().flat_map(|word| &word.named) {
            let address = named.entry(&replica.id).or_default();
            *address = replica.address.as_deref().or(*address);
        }
        let known = self.known.iter().map(|known| (&*known.replica.id, known.replica.address.as_deref()));
        if known.eq(named.iter().map(|(id, address)| (*id, *address))) {
            return false;
        }
        let known = named.into_iter().map(|(id, address)| {
            let (known, replica) = (self.get(id), Replica { id: id.to_owned(), address: address.map(str::to_owned) });
            let balanced = known.map_or(balanced, |known| known.balanced);
            // At another address it is the successor.
            let back = known.filter(|known| known.replica == replica).and_then(|known| known.back);
            Known { replica, balanced, back }
        });
        self.known = known.collect();
        true
    }
}

// === impl Known ===

impl Known {
    /// Whether a balancer does not lead there yet.
    pub(super) fn is_early(&self, now: Instant) -> bool {
        now < self.balanced
    }

    /// Until when it is not looked for, if that is not over.
    pub(super) fn rests(&self, now: Instant) -> Option<Instant> {
        self.back.filter(|back| now < *back)
    }
}
