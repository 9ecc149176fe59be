use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::AsyncWrite;

use crate::tunnel::{Link, LinkError, ResetCode};

/// One direction between two links.
#[derive(Debug, Default)]
struct Direction {
    /// What the sink has not taken yet.
    rest: Bytes,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The source's end was read; it is passed on after the rest.
    Ending,
    Ended,
}

/// Which of the two links failed.
enum Failed {
    Source(io::Error),
    Sink(io::Error),
}

/// A frame's worth, which is passed on as it is.
const CHUNK: usize = 16 * 1024;

/// After so many chunks in one go the other tasks of the thread have their turn.
const ROUNDS: usize = 32;

/// Copies between two links until both directions have ended, each by itself, or one link failed: then the other one is
/// reset for the same reason.
pub(super) async fn relay(mut visitor: Link, mut agent: Link) {
    let (mut up, mut down) = (Direction::default(), Direction::default());
    let failed = poll_fn(|cx| {
        let of_up = up.poll(cx, &mut visitor, &mut agent);
        if let Poll::Ready(Err(Failed::Source(error))) = of_up {
            return Poll::Ready(Some((true, error)));
        }
        if let Poll::Ready(Err(Failed::Sink(error))) = of_up {
            return Poll::Ready(Some((false, error)));
        }
        let of_down = down.poll(cx, &mut agent, &mut visitor);
        if let Poll::Ready(Err(Failed::Source(error))) = of_down {
            return Poll::Ready(Some((false, error)));
        }
        if let Poll::Ready(Err(Failed::Sink(error))) = of_down {
            return Poll::Ready(Some((true, error)));
        }
        if of_up.is_ready() && of_down.is_ready() {
            return Poll::Ready(None);
        }
        // One that waits for the other link, or has ended its direction, would not hear of it otherwise.
        if let Poll::Ready(error) = visitor.poll_failed(cx) {
            return Poll::Ready(Some((true, error.into())));
        }
        agent.poll_failed(cx).map(|error| Some((false, error.into())))
    });
    match failed.await {
        None => {}
        Some((true, error)) => agent.reset(code(&error, ResetCode::Cancelled)),
        // Not as the backend's own, which a request is not repeated for.
        Some((false, error)) => visitor.reset(code(&error, ResetCode::Internal)),
    }
}

/// The reason to pass on; `lost` where the session went.
fn code(error: &io::Error, lost: ResetCode) -> ResetCode {
    match LinkError::from_io(error) {
        Some(LinkError::Reset(code)) => *code,
        _ => lost,
    }
}

// === impl Direction ===

impl Direction {
    fn poll(&mut self, cx: &mut Context<'_>, source: &mut Link, sink: &mut Link) -> Poll<Result<(), Failed>> {
        for _ in 0..ROUNDS {
            if !self.rest.is_empty() {
                ready!(sink.poll_write_chunk(cx, &mut self.rest)).map_err(Failed::Sink)?;
                continue;
            }
            match self.state {
                State::Open => match ready!(source.poll_read_chunk(cx, CHUNK)).map_err(Failed::Source)? {
                    Some(chunk) => self.rest = chunk,
                    None => self.state = State::Ending,
                },
                State::Ending => {
                    ready!(Pin::new(&mut *sink).poll_shutdown(cx)).map_err(Failed::Sink)?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
