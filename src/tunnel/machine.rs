//! The state machine of a session: bytes in, events out; commands in, bytes out. It does no I/O, knows no clock and
//! wakes nobody: time is passed in. So all of the protocol can be tested as plain data, and fuzzed.

mod chunks;
mod credit;
mod frame;
mod link;
mod liveness;
mod receive;
mod send;
mod violation;

use std::{
    collections::VecDeque,
    io::IoSlice,
    time::{Duration, Instant},
};

use bytes::Bytes;

pub use self::{chunks::Chunks, send::Output, violation::Violation};
use self::{
    credit::Budget,
    frame::Kind,
    link::{End, LinkState},
    liveness::{Liveness, Pulse},
    send::{Cursor, Outbox},
};
use super::{ByLink, LinkError, Note, Open, RefuseCode, ResetCode};

/// Which side of a session this is: only the edge opens links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens links.
    Edge,
    /// Accepts or refuses them.
    Agent,
}

/// The limits of a session; the defaults are those of `docs/protocol.md`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Most links at a time; more are refused as overloaded. Default 65,536.
    pub max_links: usize,
    /// Most that is written to one link and waits for its turn, in bytes. Default 64 KiB.
    pub send_queue: usize,
    /// What the windows of all links may have beyond 64 KiB each, in bytes. Default 32 MiB.
    pub window_budget: usize,
    /// Most memory that data nobody has read may hold, in bytes; beyond it, the link that holds most is reset.
    /// Default 64 MiB.
    pub max_unread: usize,
}

/// The state of one side of a session.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct Machine {
    role: Role,
    config: Config,
    links: ByLink<LinkState>,
    /// The highest number of a link so far.
    highest: u32,
    budget: Budget,
    /// Links whose window may have grown, to look at now and then.
    grown: Vec<u32>,
    liveness: Liveness,
    outbox: Outbox,
    events: VecDeque<Event>,
    arrivals: VecDeque<Arrival>,
    /// How many of the arrivals are notes.
    notes: usize,
    counts: Counts,
}

/// What a session did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Links that this side accepted.
    pub accepted: u64,
    /// Links that this side refused, by the number of the [`RefuseCode`]; codes of later versions are under 0.
    pub refused: [u64; 8],
    /// Bytes of links that came in.
    pub received: u64,
    /// Bytes of links that were framed to go out.
    pub sent: u64,
}

/// Something that a user of a link may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is data, or the end of it.
    Readable(u32),
    /// More can be written.
    Writable(u32),
    /// The agent has accepted the link.
    Answered(u32),
    /// The link was refused or reset.
    Failed(u32),
}

/// Something that the other side began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The edge wants a link; to be answered with [`Machine::accept`] or [`Machine::refuse`].
    Open {
        /// The link.
        id: u32,
        /// What for.
        open: Open,
    },
    /// The other side tells something.
    Note(Note),
}

/// The state of a link's receiving side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read<T> {
    /// There was something to read.
    Data(T),
    /// The other side has ended its direction, and all of it was read.
    End,
    /// There is nothing yet.
    Empty,
}

/// The other side was silent for too long; the session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence;

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self { max_links: 65_536, send_queue: 64 << 10, window_budget: 32 << 20, max_unread: 64 << 20 }
    }
}

// === impl Machine ===

impl Machine {
    /// One side of a session that begins now.
    #[must_use]
    pub fn new(role: Role, config: Config, now: Instant) -> Self {
        Self {
            role,
            links: ByLink::default(),
            highest: 0,
            budget: Budget::new(config.window_budget),
            grown: Vec::new(),
            liveness: Liveness::new(now),
            outbox: Outbox::default(),
            events: VecDeque::new(),
            arrivals: VecDeque::new(),
            notes: 0,
            counts: Counts::default(),
            config,
        }
    }

    /// The next thing that a link's user may wait for.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next thing that the other side began.
    pub fn next_arrival(&mut self) -> Option<Arrival> {
        let arrival = self.arrivals.pop_front();
        self.notes -= usize::from(matches!(arrival, Some(Arrival::Note(_))));
        arrival
    }

    /// Whether the other side began something.
    #[must_use]
    pub fn has_arrivals(&self) -> bool {
        !self.arrivals.is_empty()
    }

    /// How many links there are that someone uses.
    #[must_use]
    pub fn links(&self) -> usize {
        self.links.len()
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { sent: self.outbox.sent, ..self.counts }
    }

    /// The shortest of the last round trips.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.liveness.trip()
    }

    /// How much memory unread data holds, of all links, in bytes.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.budget.unread
    }

    /// When [`Machine::tick`] is due. May become earlier with everything that is sent.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.liveness.deadline()
    }

    /// Does what is due by time alone; true every few seconds, when it is time to look for memory to give back.
    ///
    /// # Errors
    /// Where the other side was silent for too long.
    pub fn tick(&mut self, now: Instant) -> Result<bool, Silence> {
        match self.liveness.tick(now) {
            Pulse::Dead => return Err(Silence),
            Pulse::Fine => return Ok(false),
            Pulse::Beat => {}
        }
        let (links, budget) = (&mut self.links, &mut self.budget);
        self.grown.retain(|id| {
            let Some(LinkState { receiving, .. }) = links.get_mut(id) else { return false };
            receiving.window.rest(!receiving.queue.is_empty(), budget);
            receiving.window.is_grown()
        });
        Ok(true)
    }

    /// Opens a link. Where there are too many already, it is refused at once, and the other side hears nothing of it.
    /// `None` is for one who may not open links, or whose numbers are used up.
    pub fn open(&mut self, open: &Open, now: Instant) -> Option<u32> {
        if self.role != Role::Edge {
            return None;
        }
        let id = self.highest.checked_add(1)?;
        self.highest = id;
        let mut link = LinkState::new(credit::INITIAL, now);
        let payload = open.encode();
        let refusal = if self.links.len() >= self.config.max_links {
            Some((RefuseCode::Overloaded, "the session has as many links as it may"))
        } else if self.outbox.control.len() > receive::MAX_CONTROL / 2 {
            Some((RefuseCode::Overloaded, "the agent does not read"))
        } else if payload.len() > frame::MAX_OPEN {
            Some((RefuseCode::Internal, "what the link is for does not fit its frame"))
        } else {
            None
        };
        if let Some((code, text)) = refusal {
            link.fail(LinkError::Refused { code, text: text.into() });
        } else {
            frame::put(&mut self.outbox.control, Kind::Open, id, &payload);
            self.outbox.asks = true;
        }
        self.links.insert(id, link);
        Some(id)
    }

    /// Accepts a link that the edge wants.
    pub fn accept(&mut self, id: u32) {
        if let Some(link) = self.links.get_mut(&id).filter(|link| !link.closed && !link.accepted) {
            link.accepted = true;
            self.counts.accepted += 1;
            frame::put(&mut self.outbox.control, Kind::Opened, id, &[]);
        }
    }

    /// Does not open a link that the edge wants.
    pub fn refuse(&mut self, id: u32, code: RefuseCode, text: &str) {
        if self.links.get(&id).is_some_and(|link| !link.closed && !link.accepted) {
            let number = usize::from(code.number());
            self.counts.refused[if number < self.counts.refused.len() { number } else { 0 }] += 1;
            self.put_refused(id, code, text);
        }
        self.remove(id);
    }

    /// Tells the other side something; false where it does not fit a frame.
    #[must_use]
    pub fn note(&mut self, note: &Note) -> bool {
        let payload = note.encode();
        let fits = payload.len() <= frame::MAX_PAYLOAD;
        if fits {
            frame::put(&mut self.outbox.control, Kind::Note, 0, &payload);
        }
        fits
    }

    /// Whether the agent has accepted a link.
    pub fn opened(&self, id: u32) -> Result<bool, LinkError> {
        match self.links.get(&id) {
            Some(link) if link.accepted => Ok(true),
            Some(LinkState { failure: Some(failure), .. }) => Err(failure.clone()),
            Some(_) => Ok(false),
            None => Err(LinkError::SessionLost),
        }
    }

    /// Why a link can be used no more, if so.
    #[must_use]
    pub fn failure(&self, id: u32) -> Option<&LinkError> {
        self.links.get(&id)?.failure.as_ref()
    }

    /// How much a write would take, in bytes; where nothing, [`Event::Writable`] tells when it would.
    ///
    /// # Errors
    /// As of [`Machine::write`].
    pub fn writable(&mut self, id: u32) -> Result<usize, LinkError> {
        let limit = self.config.send_queue;
        let link = writable(&mut self.links, id)?;
        let room = link.sending.room(limit);
        link.sending.blocked = room == 0;
        Ok(room)
    }

    /// Writes to a link: returns how much was taken, 0 where it has to wait for [`Event::Writable`].
    ///
    /// # Errors
    /// Where the link can be used no more. What is written after [`Machine::end`] is not taken.
    pub fn write(&mut self, id: u32, slices: &[IoSlice<'_>]) -> Result<usize, LinkError> {
        let limit = self.config.send_queue;
        let link = writable(&mut self.links, id)?;
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        let room = link.sending.room(limit).min(length);
        if room == 0 {
            link.sending.blocked = length > 0;
            return Ok(0);
        }
        let mut cursor = Cursor::new(slices);
        let through = self.outbox.write_through(id, link, &mut cursor, room);
        cursor.copy_to(&mut link.sending.queue, room - through);
        self.outbox.enqueue(id, link);
        Ok(room)
    }

    /// As [`Machine::write`], for bytes that can be shared; advances `chunk` by what was taken.
    pub fn write_chunk(&mut self, id: u32, chunk: &mut Bytes) -> Result<usize, LinkError> {
        if chunk.len() < Chunks::SHARED {
            let taken = self.write(id, &[IoSlice::new(chunk)])?;
            bytes::Buf::advance(chunk, taken);
            return Ok(taken);
        }
        let limit = self.config.send_queue;
        let link = writable(&mut self.links, id)?;
        let room = link.sending.room(limit).min(chunk.len());
        if room == 0 {
            link.sending.blocked = true;
            return Ok(0);
        }
        link.sending.queue.push(chunk.split_to(room));
        self.outbox.enqueue(id, link);
        Ok(room)
    }

    /// Ends this direction behind what was written; the other one goes on.
    pub fn end(&mut self, id: u32) -> Result<(), LinkError> {
        let Some(link) = self.links.get_mut(&id) else { return Err(LinkError::SessionLost) };
        match &link.failure {
            _ if link.sending.end != End::No => {}
            Some(failure) => return Err(failure.clone()),
            None => {
                link.sending.end = End::Wanted;
                self.outbox.enqueue(id, link);
            }
        }
        Ok(())
    }

    /// Takes the next bytes that were received on a link, at most `max`, without a copy.
    ///
    /// # Errors
    /// Where the link can be used no more, and all that was received before has been read.
    pub fn read_chunk(&mut self, id: u32, max: usize, now: Instant) -> Result<Read<Bytes>, LinkError> {
        let mut chunk = None;
        let read = self.read(id, now, |queue| {
            chunk = queue.pop(max);
            chunk.as_ref().map_or(0, Bytes::len)
        })?;
        Ok(match (read, chunk) {
            (Read::Data(_), Some(chunk)) => Read::Data(chunk),
            (Read::End, _) => Read::End,
            _ => Read::Empty,
        })
    }

    /// Gives `take` the next bytes that were received on a link, piece by piece, at most `max`; returns how many.
    ///
    /// # Errors
    /// As [`Machine::read_chunk`].
    pub fn read_into(
        &mut self,
        id: u32,
        max: usize,
        now: Instant,
        take: impl FnMut(&[u8]),
    ) -> Result<Read<usize>, LinkError> {
        self.read(id, now, |queue| queue.read(max, take))
    }

    fn read(
        &mut self,
        id: u32,
        now: Instant,
        take: impl FnOnce(&mut Chunks) -> usize,
    ) -> Result<Read<usize>, LinkError> {
        let Some(link) = self.links.get_mut(&id) else { return Err(LinkError::SessionLost) };
        let receiving = &mut link.receiving;
        if receiving.queue.is_empty() {
            return match &link.failure {
                _ if receiving.ended => Ok(Read::End),
                Some(failure) => Err(failure.clone()),
                None => Ok(Read::Empty),
            };
        }
        let before = receiving.queue.held();
        let count = take(&mut receiving.queue);
        receiving.queue.shrink();
        self.budget.recount(before, receiving.queue.held());
        if !link.closed && !receiving.ended {
            let was_grown = receiving.window.is_grown();
            let more = receiving.window.take(count, now, self.liveness.trip(), &mut self.budget);
            if more > 0 {
                if receiving.grant == 0 {
                    self.outbox.grants.push(id);
                }
                receiving.grant += more;
            }
            if !was_grown && receiving.window.is_grown() {
                self.grown.push(id);
            }
        }
        Ok(Read::Data(count))
    }

    /// Ends a link at once, in both directions; what waits to be read or sent is dropped.
    pub fn reset(&mut self, id: u32, code: ResetCode) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if !link.closed {
            frame::put(&mut self.outbox.control, Kind::Reset, id, &code.number().to_be_bytes());
        }
        link.fail(LinkError::Reset(code));
        // What is dropped here must not look like a complete stream.
        link.receiving.ended = false;
        self.budget.recount(link.receiving.queue.held(), 0);
        link.receiving.queue.clear();
        link.receiving.window.release(&mut self.budget);
    }

    /// The link's user has let it go: where a direction has not ended, the link is reset as cancelled. Else what was
    /// written is still sent.
    pub fn release(&mut self, id: u32) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.sending.end == End::No || !link.receiving.ended {
            self.reset(id, ResetCode::Cancelled);
        } else if !link.closed {
            self.budget.recount(link.receiving.queue.held(), 0);
            link.receiving.queue.clear();
            link.released = true;
            return;
        }
        self.remove(id);
    }

    /// The session is about to end: what its links have written to their end is still to be sent, and the links that
    /// want to write more are lost.
    pub fn finish(&mut self) {
        for link in self.links.values_mut().filter(|link| !link.closed && link.sending.end == End::No) {
            link.fail(LinkError::SessionLost);
            link.receiving.window.release(&mut self.budget);
        }
    }

    /// The session is over: all links that have not ended are lost. What was received can still be read, notes as well: the other
    /// side's last word is often one.
    pub fn lose(&mut self) {
        for link in self.links.values_mut().filter(|link| !link.closed) {
            link.fail(LinkError::SessionLost);
            link.receiving.window.release(&mut self.budget);
        }
        self.links.retain(|_, link| !link.released);
        self.outbox.lose();
        self.arrivals.retain(|arrival| matches!(arrival, Arrival::Note(_)));
    }

    fn remove(&mut self, id: u32) {
        if let Some(mut link) = self.links.remove(&id) {
            self.budget.recount(link.receiving.queue.held(), 0);
            link.receiving.window.release(&mut self.budget);
        }
    }
}

fn writable(links: &mut ByLink<LinkState>, id: u32) -> Result<&mut LinkState, LinkError> {
    let Some(link) = links.get_mut(&id) else { return Err(LinkError::SessionLost) };
    match &link.failure {
        Some(failure) => Err(failure.clone()),
        // After an end there is no room for more; the I/O layer says so before it gets here.
        None if link.sending.end != End::No => Err(LinkError::Reset(ResetCode::Cancelled)),
        None => Ok(link),
    }
}

#[cfg(test)]
mod tests;
