use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

use super::source::Source;

/// The connections that have not registered yet. There is room for so many of one source and so many of all; beyond it, one
/// has to go for each that comes: of those that are least likely to become a session, the one that has waited longest.
/// Cheap to clone, all clones are one room.
#[derive(Clone, Debug, Default)]
pub(super) struct WaitingRoom(Arc<Mutex<Room>>);

/// A connection's place in the room; dropping it makes it free.
#[derive(Debug)]
pub(super) struct Place {
    room: WaitingRoom,
    id: u64,
    source: Source,
    sent_away: CancellationToken,
}

/// How far a connection has come; the first ones go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Its registration failed, and no answer is promised to it.
    Ignored,
    /// Its registration failed, and it waits for the answer.
    Refused,
    /// Nothing has come from it.
    Silent,
    /// Something has.
    Speaking,
}

#[derive(Debug, Default)]
struct Room {
    last: u64,
    waiting: HashMap<u64, (Source, Stage, CancellationToken)>,
    order: BTreeSet<(Stage, u64)>,
    of_source: HashMap<Source, BTreeSet<(Stage, u64)>>,
}

/// Many agents may be behind one address, and all of them come at once when an edge is back.
const OF_SOURCE: usize = 1024;

/// What they cost is a socket, a task, and from the first byte on some 20 KiB for TLS.
const OF_ALL: usize = 4096;

/// Those of one source whose registration failed: some more than are promised an answer.
const REFUSED_OF_SOURCE: usize = 16;

// === impl WaitingRoom ===

impl WaitingRoom {
    /// Takes in a connection that has just come.
    pub(super) fn enter(&self, source: Source) -> Place {
        let sent_away = CancellationToken::new();
        let mut room = self.lock();
        if room.of_source.get(&source).is_some_and(|of_source| of_source.len() >= OF_SOURCE) {
            let first = room.of_source[&source].first().copied();
            room.send_away(first);
        }
        if room.order.len() >= OF_ALL {
            let first = room.order.first().copied();
            room.send_away(first);
        }
        room.last += 1;
        let id = room.last;
        room.waiting.insert(id, (source, Stage::Silent, sent_away.clone()));
        room.list(id, source, Stage::Silent);
        drop(room);
        Place { room: self.clone(), id, source, sent_away }
    }

    fn lock(&self) -> MutexGuard<'_, Room> {
        // Nothing is left half done where a holder could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Room ===

impl Room {
    fn list(&mut self, id: u64, source: Source, stage: Stage) {
        self.order.insert((stage, id));
        self.of_source.entry(source).or_default().insert((stage, id));
    }

    fn unlist(&mut self, id: u64, source: Source, stage: Stage) {
        self.order.remove(&(stage, id));
        if let Some(of_source) = self.of_source.get_mut(&source) {
            of_source.remove(&(stage, id));
            if of_source.is_empty() {
                self.of_source.remove(&source);
            }
        }
    }

    fn leave(&mut self, id: u64) -> Option<CancellationToken> {
        let (source, stage, sent_away) = self.waiting.remove(&id)?;
        self.unlist(id, source, stage);
        Some(sent_away)
    }

    fn send_away(&mut self, one: Option<(Stage, u64)>) {
        if let Some(sent_away) = one.and_then(|(_, id)| self.leave(id)) {
            sent_away.cancel();
        }
    }

    fn advance(&mut self, id: u64, to: Stage) {
        let Some((source, stage, _)) = self.waiting.get_mut(&id) else { return };
        let (source, from) = (*source, std::mem::replace(stage, to));
        self.unlist(id, source, from);
        self.list(id, source, to);
    }
}

// === impl Place ===

impl Place {
    /// Where the connection comes from.
    pub(super) fn source(&self) -> Source {
        self.source
    }

    /// Is cancelled when the connection has to go.
    pub(super) fn sent_away(&self) -> CancellationToken {
        self.sent_away.clone()
    }

    /// Something has come from it.
    pub(super) fn speaks(&self) {
        self.room.lock().advance(self.id, Stage::Speaking);
    }

    /// Its registration failed, and only the answer is to come, if it is promised.
    pub(super) fn refused(&self, promised: bool) {
        let mut room = self.room.lock();
        room.advance(self.id, if promised { Stage::Refused } else { Stage::Ignored });
        let Some(of_source) = room.of_source.get(&self.source) else { return };
        let refused = of_source.iter().take_while(|(stage, _)| *stage <= Stage::Refused);
        if refused.count() > REFUSED_OF_SOURCE {
            let first = of_source.first().copied();
            room.send_away(first);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.lock().leave(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u32) -> Source {
        Source::of(std::net::Ipv4Addr::from_bits(n).into())
    }

    fn gone(places: &[Place]) -> Vec<usize> {
        (0..places.len()).filter(|&index| places[index].sent_away.is_cancelled()).collect()
    }

    #[test]
    fn of_one_source_the_silent_go_before_those_that_speak_and_the_oldest_first() {
        let room = WaitingRoom::default();
        let other = room.enter(source(2));
        let mut places: Vec<Place> = (0..OF_SOURCE).map(|_| room.enter(source(1))).collect();
        assert_eq!(gone(&places), [0_usize; 0]);
        places[0].speaks();
        places.push(room.enter(source(1)));
        places.push(room.enter(source(1)));
        assert_eq!(gone(&places), [1, 2]);
        places[9].refused(true);
        places.push(room.enter(source(1)));
        assert_eq!(gone(&places), [1, 2, 9]);
        assert!(!other.sent_away.is_cancelled());
        // Who leaves makes room.
        places.truncate(OF_SOURCE / 2);
        places.extend((0..OF_SOURCE / 2 - 10).map(|_| room.enter(source(1))));
        assert_eq!(gone(&places), [1, 2, 9]);
    }

    #[test]
    fn of_all_sources_together_there_is_a_bound_and_nothing_is_kept_of_those_that_left() {
        let room = WaitingRoom::default();
        let places: Vec<Place> = (0..5000).map(|n| room.enter(source(n))).collect();
        assert_eq!(gone(&places).len(), 5000 - OF_ALL);
        drop(places);
        let room = room.lock();
        assert!(room.waiting.is_empty() && room.order.is_empty() && room.of_source.is_empty());
    }

    #[test]
    fn few_of_one_source_wait_for_their_refusal() {
        let room = WaitingRoom::default();
        let places: Vec<Place> = (0..100).map(|_| room.enter(source(1))).collect();
        // The first ones have a promise, and keep it.
        places.iter().enumerate().for_each(|(index, place)| place.refused(index < 9));
        assert_eq!(gone(&places), (9..100 - REFUSED_OF_SOURCE + 9).collect::<Vec<_>>());
    }
}
