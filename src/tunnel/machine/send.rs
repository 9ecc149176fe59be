use std::{collections::VecDeque, io::IoSlice, time::Instant};

use bytes::{BufMut, BytesMut};

use super::{
    Chunks, Event, Machine,
    frame::{self, Header, Kind, MAX_DATA},
    link::{End, LinkState},
};

/// How much is framed ahead of the transport. Small enough that control frames and other links soon get their turn,
/// large enough for one write of several TLS records.
const STAGE: usize = 64 * 1024;

/// Bytes for the transport: first `control`, then `data`. Both consist of whole frames.
#[derive(Debug, Default)]
pub struct Output {
    control: BytesMut,
    data: Chunks,
}

/// What this side has to send.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Outbox {
    /// Whole frames that go first.
    pub(super) control: BytesMut,
    /// Whole frames of links.
    stage: Chunks,
    /// The links that have something to send, in turn.
    line: VecDeque<u32>,
    /// The links with credit to give.
    pub(super) grants: Vec<u32>,
    /// The payload of the last PING that was not answered yet. One is enough, whatever a flood of them.
    pub(super) pong: Option<[u8; 8]>,
    /// Whether something was framed that waits for an answer.
    pub(super) asks: bool,
    /// How many bytes of links were framed so far.
    pub(super) sent: u64,
}

/// Reads through several slices as if they were one.
pub(super) struct Cursor<'a> {
    slices: &'a [IoSlice<'a>],
    offset: usize,
}

// === impl Output ===

impl Output {
    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.control.len() + self.data.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.control.is_empty() && self.data.is_empty()
    }

    /// Fills `slices` with what comes first; returns how many it filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        match slices.split_first_mut() {
            Some((first, rest)) if !self.control.is_empty() => {
                *first = IoSlice::new(&self.control);
                1 + self.data.slices(rest)
            }
            _ => self.data.slices(slices),
        }
    }

    /// Drops `count` bytes from the front: they are sent.
    pub fn advance(&mut self, count: usize) {
        let control = count.min(self.control.len());
        bytes::Buf::advance(&mut self.control, control);
        self.data.advance(count - control);
    }

    /// Gives back the memory that is kept for what comes next.
    pub fn shrink(&mut self) {
        if self.control.is_empty() {
            self.control = BytesMut::new();
        }
        self.data.shrink();
    }
}

// === impl Outbox ===

impl Outbox {
    /// Whether a writer may frame at once: nobody waits, and there is room.
    fn is_open(&self) -> bool {
        self.line.is_empty() && self.stage.len() < STAGE
    }

    /// Frames DATA at once, without the detour by the link's queue; returns how much.
    pub(super) fn write_through(&mut self, id: u32, link: &mut LinkState, data: &mut Cursor<'_>, room: usize) -> usize {
        let mut done = 0;
        while link.sending.queue.is_empty() && self.is_open() && done < room {
            let length = (room - done).min(MAX_DATA);
            self.stage.copy(&Header::encode(Kind::Data, length, id));
            data.copy_to(&mut self.stage, length);
            spend(link, length);
            done += length;
        }
        self.sent += done as u64;
        self.asks |= done > 0;
        done
    }

    /// Puts a link that has something to send in the line, or sends its END at once where nobody waits.
    pub(super) fn enqueue(&mut self, id: u32, link: &mut LinkState) {
        if link.closed || link.sending.in_line || !link.sending.is_due() {
            return;
        }
        if link.sending.queue.is_empty() && self.is_open() {
            self.end(id, link);
        } else {
            link.sending.in_line = true;
            self.line.push_back(id);
        }
    }

    fn end(&mut self, id: u32, link: &mut LinkState) {
        self.stage.copy(&Header::encode(Kind::End, 0, id));
        link.sending.end = End::Sent;
        link.settle();
    }

    /// One DATA frame of the link, and its END if it is due then.
    fn turn(&mut self, id: u32, link: &mut LinkState) {
        let length = link.sending.queue.len().min(MAX_DATA);
        if length > 0 {
            self.stage.copy(&Header::encode(Kind::Data, length, id));
            link.sending.queue.transfer(length, &mut self.stage);
            spend(link, length);
            self.sent += length as u64;
            self.asks = true;
        }
        if link.sending.queue.is_empty() {
            link.sending.queue.shrink();
            if link.sending.end == End::Wanted {
                self.end(id, link);
            }
        }
    }

    /// Nothing more will be sent.
    pub(super) fn lose(&mut self) {
        *self = Self { sent: self.sent, ..Self::default() };
    }

    fn shrink(&mut self) {
        if self.control.is_empty() {
            self.control = BytesMut::new();
        }
        self.stage.shrink();
    }
}

/// DATA was framed: so much credit is spent. The queue never holds more than the credit.
fn spend(link: &mut LinkState, length: usize) {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    link.sending.credit = link.sending.credit.saturating_sub(length);
}

// === impl Cursor ===

impl<'a> Cursor<'a> {
    pub(super) fn new(slices: &'a [IoSlice<'a>]) -> Self {
        Self { slices, offset: 0 }
    }

    pub(super) fn copy_to(&mut self, to: &mut Chunks, mut count: usize) {
        while let Some((first, rest)) = self.slices.split_first().filter(|_| count > 0) {
            let piece = &first[self.offset..];
            if piece.len() <= count {
                to.copy(piece);
                count -= piece.len();
                (self.slices, self.offset) = (rest, 0);
            } else {
                to.copy(&piece[..count]);
                self.offset += count;
                count = 0;
            }
        }
    }
}

// === impl Machine ===

impl Machine {
    /// Whether there is something for the transport.
    #[must_use]
    pub fn has_output(&self) -> bool {
        let outbox = &self.outbox;
        !outbox.control.is_empty()
            || !outbox.stage.is_empty()
            || !outbox.line.is_empty()
            || !outbox.grants.is_empty()
            || outbox.pong.is_some()
            || self.liveness.wants_ping()
    }

    /// Moves what is to be sent next into `output`, which has to be empty: control frames, then DATA of the links in
    /// turn, about 64 KiB of it.
    pub fn output(&mut self, output: &mut Output, now: Instant) {
        self.control(&mut output.control, now);
        while self.outbox.stage.len() < STAGE
            && let Some(id) = self.outbox.line.pop_front()
        {
            // The link may be gone since it got in line.
            let Some(link) = self.links.get_mut(&id) else { continue };
            link.sending.in_line = false;
            if link.closed {
                continue;
            }
            self.outbox.turn(id, link);
            if link.sending.is_due() {
                link.sending.in_line = true;
                self.outbox.line.push_back(id);
            }
            if link.sending.unblock(self.config.send_queue) {
                self.events.push_back(Event::Writable(id));
            }
            if link.released && link.closed {
                self.remove(id);
            }
        }
        std::mem::swap(&mut self.outbox.stage, &mut output.data);
        if std::mem::take(&mut self.outbox.asks) {
            self.liveness.spoke(now);
        }
    }

    fn control(&mut self, output: &mut BytesMut, now: Instant) {
        if let Some(payload) = self.outbox.pong.take() {
            frame::put(output, Kind::Pong, 0, &payload);
        }
        if let Some(payload) = self.liveness.ping(now) {
            frame::put(output, Kind::Ping, 0, &payload);
        }
        if output.is_empty() {
            std::mem::swap(output, &mut self.outbox.control);
        } else {
            output.put_slice(&self.outbox.control);
            self.outbox.control.clear();
        }
        for id in self.outbox.grants.drain(..) {
            let Some(link) = self.links.get_mut(&id).filter(|link| !link.closed) else { continue };
            let grant = std::mem::take(&mut link.receiving.grant);
            frame::put(output, Kind::Credit, id, &grant.to_be_bytes());
        }
    }

    /// Gives back memory that is kept for what comes next; for a session that has nothing to do.
    pub fn shrink(&mut self) {
        self.outbox.shrink();
        self.events.shrink_to_fit();
        self.links.shrink_to_fit();
    }
}
