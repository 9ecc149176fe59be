use std::time::Instant;

use super::{Chunks, credit::Window};
use crate::tunnel::LinkError;

/// One link, from OPEN until its user has let it go.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct LinkState {
    /// Whether the agent has accepted it.
    pub(super) accepted: bool,
    /// Whether no frame for it is sent or expected any more.
    pub(super) closed: bool,
    /// Whether its user has let it go; what is left is to send what waits.
    pub(super) released: bool,
    /// Why it can be used no more.
    pub(super) failure: Option<LinkError>,
    pub(super) sending: Sending,
    pub(super) receiving: Receiving,
}

/// This side's direction.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Sending {
    /// What waits for the link's turn; never more than the credit.
    pub(super) queue: Chunks,
    /// How much may still be sent, what waits in the queue included.
    pub(super) credit: u32,
    pub(super) end: End,
    /// Whether the link stands in the line of those that have something to send.
    pub(super) in_line: bool,
    /// Whether its user was told to wait.
    pub(super) blocked: bool,
}

/// Whether this side's direction is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// More may be written.
    No,
    /// END goes behind what waits in the queue.
    Wanted,
    /// END was sent.
    Sent,
}

/// The other side's direction.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Receiving {
    pub(super) queue: Chunks,
    pub(super) window: Window,
    /// What may be allowed to the sender and was not told yet.
    pub(super) grant: u32,
    pub(super) ended: bool,
}

// === impl LinkState ===

impl LinkState {
    pub(super) fn new(credit: u32, now: Instant) -> Self {
        Self {
            accepted: false,
            closed: false,
            released: false,
            failure: None,
            sending: Sending { queue: Chunks::default(), credit, end: End::No, in_line: false, blocked: false },
            receiving: Receiving { queue: Chunks::default(), window: Window::new(now), grant: 0, ended: false },
        }
    }

    /// The link is over, in both directions; what was received may still be read.
    pub(super) fn fail(&mut self, failure: LinkError) {
        self.closed = true;
        self.failure.get_or_insert(failure);
        self.sending.queue.clear();
    }

    /// Closes the link if both directions have ended.
    pub(super) fn settle(&mut self) {
        self.closed |= self.sending.end == End::Sent && self.receiving.ended;
    }
}

// === impl Sending ===

impl Sending {
    /// A writer that waits is told when there is room for this much, or for anything and nothing else waits.
    const WORTH_WAKING: usize = 16 * 1024;

    /// How much more may be written now; `limit` is for the queue.
    pub(super) fn room(&self, limit: usize) -> usize {
        limit.min(self.credit as usize).saturating_sub(self.queue.len())
    }

    /// Whether a writer that waits should be told to go on; true once.
    pub(super) fn unblock(&mut self, limit: usize) -> bool {
        let room = self.room(limit);
        let unblock = self.blocked && (room >= Self::WORTH_WAKING || room > 0 && self.queue.is_empty());
        self.blocked &= !unblock;
        unblock
    }

    /// Whether there is something to send.
    pub(super) fn is_due(&self) -> bool {
        !self.queue.is_empty() || self.end == End::Wanted
    }
}
