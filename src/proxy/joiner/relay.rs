//! The joiner's counterpart for a backend behind TLS, whose bytes have to be copied: both ways, each ending by itself.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use super::{JoinError, JoinOutcome};
use crate::proxy::idle::Idle;

/// What one direction holds at most: a record of TLS.
const CHUNK: usize = 16 * 1024;

/// One direction.
struct Direction {
    pending: BytesMut,
    unflushed: bool,
    /// How many were taken by the sink.
    bytes: u64,
    state: State,
}

/// How far one direction has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Its source has ended; what was read is still to be written.
    Ending,
    Ended,
}

/// Which side failed.
enum Failed {
    Source(io::Error),
    Sink(io::Error),
}

/// Copies until both directions have ended. `to_backend` and `to_visitor` are bytes that came early, right behind the
/// messages that switched protocols.
pub(super) async fn relay<V, B>(
    visitor: &mut V,
    to_backend: &[u8],
    backend: &mut B,
    to_visitor: &[u8],
    idle: Duration,
) -> JoinOutcome
where
    V: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut upload, mut download) = (Direction::new(to_backend), Direction::new(to_visitor));
    let mut idle = Idle::new(idle);
    let result: Result<(), JoinError> = poll_fn(|cx| {
        let mut moved = false;
        let up = upload.poll(cx, visitor, backend, &mut moved).map_err(|failed| match failed {
            Failed::Source(error) => JoinError::Visitor(error),
            Failed::Sink(error) => JoinError::Link(error),
        })?;
        let down = download.poll(cx, backend, visitor, &mut moved).map_err(|failed| match failed {
            Failed::Source(error) => JoinError::Link(error),
            Failed::Sink(error) => JoinError::Visitor(error),
        })?;
        if up.is_ready() && down.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if moved {
            idle.moved();
        }
        idle.poll_expired(cx).map(|()| Err(JoinError::Idle))
    })
    .await;
    JoinOutcome { received: upload.bytes, sent: download.bytes, error: result.err() }
}

// === impl Direction ===

impl Direction {
    fn new(early: &[u8]) -> Self {
        Self { pending: BytesMut::from(early), unflushed: false, bytes: 0, state: State::Open }
    }

    fn poll<S, T>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut T,
        moved: &mut bool,
    ) -> Poll<Result<(), Failed>>
    where
        S: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        loop {
            while !self.pending.is_empty() {
                let written = ready!(Pin::new(&mut *sink).poll_write(cx, &self.pending)).map_err(Failed::Sink)?;
                if written == 0 {
                    return Poll::Ready(Err(Failed::Sink(io::ErrorKind::WriteZero.into())));
                }
                self.pending.advance(written);
                self.bytes += written as u64;
                (self.unflushed, *moved) = (true, true);
            }
            match self.state {
                State::Open => {
                    self.pending.reserve(CHUNK);
                    let read = poll_read_buf(Pin::new(&mut *source), cx, &mut self.pending);
                    if read.is_pending() {
                        // An idle join keeps nothing.
                        self.pending = BytesMut::new();
                        if self.unflushed {
                            ready!(Pin::new(&mut *sink).poll_flush(cx)).map_err(Failed::Sink)?;
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                    if ready!(read).map_err(Failed::Source)? == 0 {
                        self.state = State::Ending;
                    }
                }
                State::Ending => {
                    ready!(Pin::new(&mut *sink).poll_shutdown(cx)).map_err(Failed::Sink)?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn each_direction_ends_by_itself_and_loses_nothing() {
        let (mut visitor, mut near) = duplex(64);
        let (mut far, mut backend) = duplex(64);
        let relaying =
            tokio::spawn(
                async move { relay(&mut near, b"early ", &mut far, b"welcome ", Duration::from_mins(1)).await },
            );
        let question = vec![b'x'; 100_000];
        let (asked, asking) = (question.clone(), async {
            visitor.write_all(&question).await.expect("sent");
            visitor.shutdown().await.expect("half-closed");
            let mut answer = Vec::new();
            visitor.read_to_end(&mut answer).await.expect("an answer");
            answer
        });
        let answering = async {
            let mut heard = Vec::new();
            backend.read_to_end(&mut heard).await.expect("the question");
            backend.write_all(b"answer").await.expect("sent");
            backend.shutdown().await.expect("ended");
            heard
        };
        let (answer, heard) = tokio::join!(asking, answering);
        assert_eq!(answer, b"welcome answer");
        assert_eq!(heard, [b"early ", &asked[..]].concat());
        let outcome = relaying.await.expect("no panic");
        assert!(outcome.error.is_none(), "{:?}", outcome.error);
        assert_eq!((outcome.received, outcome.sent), (6 + 100_000, 14));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it() {
        let (_visitor, mut near) = duplex(64);
        let (mut far, _backend) = duplex(64);
        let ended = relay(&mut near, b"", &mut far, b"", Duration::from_mins(1)).await;
        assert!(matches!(ended.error, Some(JoinError::Idle)));
    }
}
