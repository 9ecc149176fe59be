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
    shared: Arc<Shared>,
    id: u32,
    answered: bool,
}

// === impl Incoming ===

impl Incoming {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// What comes next; `None` when the session is over, and what was said in it read.
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
                IncomingEvent::Open(Opening { request: open, shared: Arc::clone(&self.0), id, answered: false })
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
    pub fn accept(mut self) -> Link {
        self.answered = true;
        self.shared.command(|machine| machine.accept(self.id));
        Link::new(Arc::clone(&self.shared), self.id)
    }

    /// Does not open it. `text` is for people; at most 1 KiB of it is sent.
    pub fn refuse(mut self, code: RefuseCode, text: &str) {
        self.answer(code, text);
    }

    fn answer(&mut self, code: RefuseCode, text: &str) {
        if !std::mem::replace(&mut self.answered, true) {
            let refused = self.shared.command(|machine| machine.refuse(self.id, code, text));
            if refused.is_none() {
                self.shared.release(self.id);
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
