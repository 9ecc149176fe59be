use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::source::Source;

/// The connections that have not registered yet. There is room for so many of one source and so many of all; beyond it, one
/// has to go for each that comes: of those that wait for their refusal the last one, else of those that are least likely to become
/// a session the one that has waited longest. Nobody is
/// judged by its first moment: an agent that has just come is silent for as long as its first message is on its way, and would
/// else go before all those who sent a byte once and nothing since.
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
    /// Its registration failed, and it waits for the answer.
    Refused,
    /// Nothing has come from it.
    Silent,
    /// Something has.
    Speaking,
}

#[derive(Debug, Default)]
struct Room {
    /// The last number that was given, to a connection or to its turn in a stage.
    last: u64,
    waiting: HashMap<u64, Waiting>,
    order: BTreeSet<Rank>,
    of_source: HashMap<Source, BTreeSet<Rank>>,
}

#[derive(Debug)]
struct Waiting {
    source: Source,
    rank: Rank,
    /// When it came to its stage.
    since: Instant,
    sent_away: CancellationToken,
}

/// In which order they go: by stage, and of one stage those first that came to it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    stage: Stage,
    turn: u64,
    id: u64,
}

/// Many agents may be behind one address, and all of them come at once when an edge is back.
const OF_SOURCE: usize = 1024;

/// What they cost is a socket, a task, and from the first byte on some 20 KiB for TLS.
const OF_ALL: usize = 4096;

/// So long one that has just come may be silent, as over a long way, while there are others to be sent away.
const GRACE: Duration = Duration::from_secs(1);

/// Who has said something and is no session after so long goes before one that has just come. It takes two round trips, and
/// some work on both sides.
const LONG: Duration = Duration::from_secs(2);

/// Those of one source whose registration failed: as many as are answered, one a second, before they or their peers give up.
const REFUSED_OF_SOURCE: usize = 8;

// === impl WaitingRoom ===

impl WaitingRoom {
    /// Takes in a connection that has just come.
    pub(super) fn enter(&self, source: Source) -> Place {
        let (sent_away, now) = (CancellationToken::new(), Instant::now());
        let mut room = self.lock();
        if let Some(of_source) = room.of_source.get(&source)
            && of_source.len() >= OF_SOURCE
        {
            let first = room.first_to_go(of_source, now);
            room.send_away(first);
        }
        if room.order.len() >= OF_ALL {
            let first = room.first_to_go(&room.order, now);
            room.send_away(first);
        }
        let id = room.number();
        let rank = Rank { stage: Stage::Silent, turn: id, id };
        room.waiting.insert(id, Waiting { source, rank, since: now, sent_away: sent_away.clone() });
        room.list(source, rank);
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
    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn list(&mut self, source: Source, rank: Rank) {
        self.order.insert(rank);
        self.of_source.entry(source).or_default().insert(rank);
    }

    fn unlist(&mut self, source: Source, rank: Rank) {
        self.order.remove(&rank);
        if let Some(of_source) = self.of_source.get_mut(&source) {
            of_source.remove(&rank);
            if of_source.is_empty() {
                self.of_source.remove(&source);
            }
        }
    }

    fn leave(&mut self, id: u64) -> Option<CancellationToken> {
        let Waiting { source, rank, sent_away, .. } = self.waiting.remove(&id)?;
        self.unlist(source, rank);
        Some(sent_away)
    }

    /// Which of these is sent away for one that comes `now`.
    fn first_to_go(&self, of: &BTreeSet<Rank>, now: Instant) -> Option<u64> {
        let first = of.first()?;
        if first.stage == Stage::Refused {
            // They are answered in turn.
            return of.range(..Rank { stage: Stage::Silent, turn: 0, id: 0 }).next_back().map(|last| last.id);
        }
        let stays = |rank: &Rank, time: Duration| {
            self.waiting.get(&rank.id).is_some_and(|waiting| now.saturating_duration_since(waiting.since) < time)
        };
        if first.stage == Stage::Silent && stays(first, GRACE) {
            let speaking = of.range(Rank { stage: Stage::Speaking, turn: 0, id: 0 }..).next();
            if let Some(speaking) = speaking.filter(|speaking| !stays(speaking, LONG)) {
                return Some(speaking.id);
            }
        }
        Some(first.id)
    }

    fn send_away(&mut self, one: Option<u64>) {
        if let Some(sent_away) = one.and_then(|id| self.leave(id)) {
            sent_away.cancel();
        }
    }

    fn advance(&mut self, id: u64, stage: Stage) {
        let turn = self.number();
        let Some(waiting) = self.waiting.get_mut(&id) else { return };
        let rank = Rank { stage, turn, id };
        let (source, before) = (waiting.source, std::mem::replace(&mut waiting.rank, rank));
        waiting.since = Instant::now();
        self.unlist(source, before);
        self.list(source, rank);
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

    /// Its registration failed, and only the answer is to come. Where enough of its source wait for theirs, it has to go: they
    /// came before it, and would be answered before.
    pub(super) fn refused(&self) {
        let mut room = self.room.lock();
        room.advance(self.id, Stage::Refused);
        let refused = |rank: &&Rank| rank.stage == Stage::Refused;
        let of_source = room.of_source.get(&self.source);
        if of_source.is_some_and(|of_source| of_source.iter().take_while(refused).count() > REFUSED_OF_SOURCE) {
            room.send_away(Some(self.id));
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
        places[8].refused();
        places[9].refused();
        places.push(room.enter(source(1)));
        assert_eq!(gone(&places), [1, 2, 9], "the other one is answered before it");
        assert!(!other.sent_away.is_cancelled());
        // Who leaves makes room.
        places.truncate(OF_SOURCE / 2);
        places.extend((0..OF_SOURCE / 2 - 10).map(|_| room.enter(source(1))));
        assert_eq!(gone(&places), [1, 2, 9]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_just_come_stays_before_those_that_spoke_long_ago() {
        let room = WaitingRoom::default();
        // The first one speaks last.
        let mut places: Vec<Place> = (0..OF_SOURCE).map(|_| room.enter(source(1))).collect();
        places[1..].iter().for_each(Place::speaks);
        tokio::time::advance(LONG).await;
        places[0].speaks();
        let newcomers = OF_SOURCE;
        places.extend((0..3).map(|_| room.enter(source(1))));
        assert_eq!(gone(&places), [1, 2, 3], "one byte is not enough for long");
        // A newcomer that says nothing either has had its time.
        tokio::time::advance(GRACE).await;
        places.push(room.enter(source(1)));
        assert_eq!(gone(&places), [1, 2, 3, newcomers]);
        // Those that have just spoken are on their way to a session, and stay before the silent ones as ever.
        drop(places);
        let mut places: Vec<Place> = (0..OF_SOURCE).map(|_| room.enter(source(1))).collect();
        places.iter().for_each(Place::speaks);
        places.extend((0..3).map(|_| room.enter(source(1))));
        assert_eq!(gone(&places), [0, newcomers, newcomers + 1], "there was nobody else for the first of them");
    }

    #[tokio::test(start_paused = true)]
    async fn so_it_is_among_all_sources() {
        let room = WaitingRoom::default();
        let mut places: Vec<Place> =
            (0..OF_ALL).map(|n| room.enter(source(u32::try_from(n / 512).expect("few")))).collect();
        places.iter().for_each(Place::speaks);
        tokio::time::advance(LONG).await;
        places.extend((100..103).map(|n| room.enter(source(n))));
        assert_eq!(gone(&places), [0, 1, 2]);
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
        places.iter().for_each(Place::refused);
        assert_eq!(gone(&places), (REFUSED_OF_SOURCE..100).collect::<Vec<_>>(), "the first ones are answered first");
    }
}
