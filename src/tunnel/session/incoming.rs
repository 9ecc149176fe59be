use std::{fmt, future::poll_fn, sync::Arc, task::Poll};

use super::{
    Link,
    shared::{Phase, Shared},
};
use crate::tunnel::{Note, Open, RefuseCode, machine::Arrival};

/// What the other side began: links (to an agent) and notes. Bounded by the limits of the protocol. Once dropped,
/// links are refused and notes are thrown away.
pub struct Incoming(Arc<Shared>);

/// Something the other side began.
#[derive(Debug)]
pub enum IncomingEvent {
    /// The edge wants a link.
    Open(Opening),
    /// The other side tells something.
    Note(Note),
}

/// A link that the edge wants. Dropped, it is refused as [`RefuseCode::Internal`].
pub struct Opening {
    /// What for.
    pub request: Open,
    /// `None` once it was answered.
    pending: Option<(Arc<Shared>, u32)>,
}

// === impl Incoming ===

impl Incoming {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// What comes next; `None` when the session is over.
    pub async fn next(&mut self) -> Option<IncomingEvent> {
        poll_fn(|cx| {
            let mut state = self.0.lock();
            if let Some(arrival) = state.machine.next_arrival() {
                return Poll::Ready(Some(arrival));
            }
            if state.phase != Phase::Running {
                return Poll::Ready(None);
            }
            state.wait_incoming(cx);
            Poll::Pending
        })
        .await
        .map(|arrival| match arrival {
            Arrival::Open { id, open } => {
                IncomingEvent::Open(Opening { request: open, pending: Some((Arc::clone(&self.0), id)) })
            }
            Arrival::Note(note) => IncomingEvent::Note(note),
        })
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.0.lock().deaf = true;
        self.0.command(refuse_arrivals);
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").finish_non_exhaustive()
    }
}

/// Nobody takes arrivals any more.
pub(super) fn refuse_arrivals(machine: &mut crate::tunnel::machine::Machine) {
    while let Some(arrival) = machine.next_arrival() {
        if let Arrival::Open { id, .. } = arrival {
            machine.refuse(id, RefuseCode::Internal, "nobody takes links any more");
        }
    }
}

// === impl Opening ===

impl Opening {
    /// Opens the link: the target is connected.
    ///
    /// Where the edge has given up in the meantime, or the session is over, the link says so when it is used.
    #[must_use]
    #[expect(clippy::missing_panics_doc, clippy::unreachable, reason = "only `accept` and `refuse` take it, by value")]
    pub fn accept(mut self) -> Link {
        let Some((shared, id)) = self.pending.take() else { unreachable!("answered once, by value") };
        shared.command(|machine| machine.accept(id));
        Link::new(shared, id)
    }

    /// Does not open it. `text` is for people; at most 1 KiB of it is sent.
    pub fn refuse(mut self, code: RefuseCode, text: &str) {
        self.answer(code, text);
    }

    fn answer(&mut self, code: RefuseCode, text: &str) {
        if let Some((shared, id)) = self.pending.take() {
            let refused = shared.command(|machine| machine.refuse(id, code, text));
            if refused.is_none() {
                shared.release(id);
            }
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.answer(RefuseCode::Internal, "the agent did not answer");
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening").field("request", &self.request).finish_non_exhaustive()
    }
}
