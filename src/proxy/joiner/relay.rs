//! The joiner's counterpart for a backend behind TLS, whose bytes have to be copied: both ways, each ending by itself.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use super::{
    Directions, JoinError, JoinOutcome, State, Terms,
    frames::{Frames, Sender},
    goodbye, poll_rest, run,
};

/// What one direction holds at most: a record of TLS.
const CHUNK: usize = 16 * 1024;

/// Two streams and what is on its way between them.
struct Relay<'a, V, B> {
    visitor: &'a mut V,
    backend: &'a mut B,
    upload: Direction,
    download: Direction,
}

/// One direction.
struct Direction {
    pending: BytesMut,
    unflushed: bool,
    /// How many were taken by the sink.
    bytes: u64,
    state: State,
    frames: Option<Frames>,
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
    terms: &Terms,
) -> JoinOutcome
where
    V: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let upload = Direction::new(to_backend, Sender::Visitor, terms);
    let download = Direction::new(to_visitor, Sender::Backend, terms);
    let mut relay = Relay { visitor, backend, upload, download };
    let result = run(&mut relay, terms).await;
    JoinOutcome { received: relay.upload.bytes, sent: relay.download.bytes, error: result.err() }
}

// === impl Directions ===

impl<V, B> Directions for Relay<'_, V, B>
where
    V: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    fn poll(&mut self, cx: &mut Context<'_>, moved: &mut bool) -> Poll<Result<(), JoinError>> {
        let Self { visitor, backend, upload, download } = self;
        let up = upload.poll(cx, *visitor, *backend, moved).map_err(|failed| match failed {
            Failed::Source(error) => JoinError::Visitor(error),
            Failed::Sink(error) => JoinError::Link(error),
        })?;
        let down = download.poll(cx, *backend, *visitor, moved).map_err(|failed| match failed {
            Failed::Source(error) => JoinError::Link(error),
            Failed::Sink(error) => JoinError::Visitor(error),
        })?;
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn frames(&mut self) -> Option<[&mut Frames; 2]> {
        Some([self.upload.frames.as_mut()?, self.download.frames.as_mut()?])
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let visitor = poll_rest(self.visitor, cx);
        if poll_rest(self.backend, cx).is_ready() { visitor } else { Poll::Pending }
    }
}

// === impl Direction ===

impl Direction {
    fn new(early: &[u8], sender: Sender, terms: &Terms) -> Self {
        let mut frames = terms.is_websocket.then(|| Frames::new(sender));
        if let Some(frames) = &mut frames {
            frames.pass(early);
        }
        Self { pending: BytesMut::from(early), unflushed: false, bytes: 0, state: State::Open, frames }
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
                    if let Some(goodbye) = goodbye(self.frames.as_ref()) {
                        (self.pending, self.state) = (BytesMut::from(&goodbye[..]), State::Ending);
                        continue;
                    }
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
                    if let Some(frames) = &mut self.frames {
                        let passes = frames.pass(&self.pending);
                        self.pending.truncate(passes);
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
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::bridge::Ending;

    fn terms(is_websocket: bool) -> Terms {
        Terms { idle: Duration::from_mins(1), ending: Ending::default(), is_websocket }
    }

    #[tokio::test]
    async fn each_direction_ends_by_itself_and_loses_nothing() {
        let (mut visitor, mut near) = duplex(64);
        let (mut far, mut backend) = duplex(64);
        let relaying =
            tokio::spawn(async move { relay(&mut near, b"early ", &mut far, b"welcome ", &terms(false)).await });
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

    #[tokio::test]
    async fn a_websocket_that_has_to_end_ends_behind_the_frame_that_has_begun() {
        let (mut visitor, mut near) = duplex(64);
        let (mut far, mut backend) = duplex(64);
        let terms = terms(true);
        let ending = terms.ending.clone();
        let relaying = tokio::spawn(async move { relay(&mut near, b"", &mut far, &[0x81, 3, b'a'], &terms).await });
        let mut begun = [0; 3];
        visitor.read_exact(&mut begun).await.expect("what came early");
        ending.ask();
        let mut heard = [0; 8];
        backend.read_exact(&mut heard).await.expect("a goodbye");
        assert_eq!(heard[..2], [0x88, 0x82]);
        backend.write_all(b"bc more than the frame").await.expect("sent");
        let mut rest = Vec::new();
        visitor.read_to_end(&mut rest).await.expect("an end");
        assert_eq!(rest, [b'b', b'c', 0x88, 2, 0x03, 0xe9]);
        drop((visitor, backend));
        let outcome = relaying.await.expect("no panic");
        assert!(matches!(outcome.error, Some(JoinError::GoingAway)), "{:?}", outcome.error);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it() {
        let (_visitor, mut near) = duplex(64);
        let (mut far, _backend) = duplex(64);
        let ended = relay(&mut near, b"", &mut far, b"", &terms(false)).await;
        assert!(matches!(ended.error, Some(JoinError::Idle)));
    }
}
