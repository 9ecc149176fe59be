//! The joiner: copies bytes both ways between an upgraded visitor connection and a link, whatever they mean.
//!
//! Each direction ends by itself, so a half-close is kept. An idle join holds no buffer: what the visitor sends is
//! read into a buffer of the thread and handed to the link at once, and what the link brings is written from where it
//! was received. Of a WebSocket the frames' lengths are followed, so that it can be ended between two of them.

mod frames;
mod relay;
pub(super) mod upgrade;

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    io::{self, IoSlice},
    mem,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::sleep,
};

use self::frames::{Frames, Sender};
use super::{error::Reason, idle::Idle};
use crate::{
    bridge::Ending,
    flow::{Counted, Meter},
    tunnel::{Link, ResetCode},
};

/// What one read of the visitor's socket takes at most: a few frames of the tunnel.
const READ_BYTES: usize = 64 * 1024;
/// How long a WebSocket that has to end may take for the frames that have begun, and for what both sides say to its end.
const GOODBYE: Duration = Duration::from_secs(2);
/// Most received chunks that go into one write to the visitor.
const MAX_CHUNKS: usize = 16;

thread_local! {
    /// Where the visitors' bytes are between their socket and their link, within one call.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// Why a join ended otherwise than by both sides having finished.
#[derive(Debug, thiserror::Error)]
pub(super) enum JoinError {
    #[error("the visitor's connection failed: {0}")]
    Visitor(#[source] io::Error),
    #[error("the link failed: {0}")]
    Link(#[source] io::Error),
    #[error("nothing moved in either direction for too long")]
    Idle,
    #[error("the edge or the agent stops, and both sides were told")]
    GoingAway,
    #[error("the edge or the agent stops, and not both sides could be told")]
    Cut,
}

/// What a join goes by.
pub(super) struct Terms {
    /// How long nothing may move in either direction.
    pub(super) idle: Duration,
    /// When it has to end.
    pub(super) ending: Ending,
    /// Whether it is a WebSocket, whose sides can be told of an end.
    pub(super) is_websocket: bool,
}

/// What a join came to.
pub(super) struct JoinOutcome {
    /// Bytes from the visitor.
    pub(super) received: u64,
    /// Bytes to the visitor.
    pub(super) sent: u64,
    /// Why it ended, where not both sides had finished.
    pub(super) error: Option<JoinError>,
}

/// Two directions that are copied until both have ended.
trait Directions {
    /// Copies what there is; ready once both have ended.
    fn poll(&mut self, cx: &mut Context<'_>, moved: &mut bool) -> Poll<Result<(), JoinError>>;

    /// The frames of both, where they are a WebSocket's.
    fn frames(&mut self) -> Option<[&mut Frames; 2]>;

    /// Drops what still comes; ready once nothing does.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// A join with a link.
struct Join<'a, V> {
    visitor: &'a mut V,
    link: Link,
    meter: Arc<Meter>,
    upload: Upload,
    download: Download,
}

/// Bytes from the visitor to the link.
struct Upload {
    /// Read from the visitor and not yet taken by the link.
    pending: Bytes,
    bytes: u64,
    state: State,
    frames: Option<Frames>,
}

/// Bytes from the link to the visitor.
struct Download {
    chunks: VecDeque<Bytes>,
    /// Something was written that the visitor's stream may still hold.
    unflushed: bool,
    bytes: u64,
    state: State,
    frames: Option<Frames>,
}

/// How far one direction has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Its source has ended; what was read is still to be written.
    Ending,
    Ended,
}

/// Joins until both directions have ended. `to_link` and `to_visitor` are bytes that came early, right behind the
/// messages that switched protocols; those to the visitor are counted already.
pub(super) async fn join<V>(
    visitor: &mut V,
    to_link: Bytes,
    link: Counted<Link>,
    to_visitor: Bytes,
    terms: &Terms,
) -> JoinOutcome
where
    V: AsyncRead + AsyncWrite + Unpin,
{
    let (link, meter) = link.into_parts();
    let (upload, download) = (Upload::new(to_link, terms), Download::new(to_visitor, terms));
    let mut join = Join { visitor, link, meter, upload, download };
    let result = run(&mut join, terms).await;
    if result.is_err() {
        join.link.reset(ResetCode::Cancelled);
    }
    JoinOutcome { received: join.upload.bytes, sent: join.download.bytes, error: result.err() }
}

/// Copies until both directions have ended, or have to.
async fn run(join: &mut impl Directions, terms: &Terms) -> Result<(), JoinError> {
    let mut idle = Idle::new(terms.idle);
    let mut asked = pin!(terms.ending.asked());
    let (mut listens, mut limit) = (false, None);
    poll_fn(|cx| {
        // A join is a task of its own, which is always woken in the same way: to listen once is enough.
        if !mem::replace(&mut listens, true) {
            let _ = asked.as_mut().poll(cx);
        }
        if limit.is_none() && terms.ending.is_asked() {
            // Where it is known how, both end behind the frames that have begun, with a Close frame.
            let Some(frames) = join.frames() else { return Poll::Ready(Err(JoinError::Cut)) };
            frames.into_iter().for_each(Frames::end);
            limit = Some(Box::pin(sleep(GOODBYE)));
        }
        let mut moved = false;
        let over = join.poll(cx, &mut moved)?.is_ready();
        if let Some(limit) = &mut limit {
            // Both sides answer with a Close frame of their own. Who closed a connection with something unread would reset it,
            // and what was said last could be lost with it.
            let heard = over && join.poll_rest(cx).is_ready();
            if heard || limit.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(if over { JoinError::GoingAway } else { JoinError::Cut }));
            }
            return Poll::Pending;
        }
        if over {
            return Poll::Ready(Ok(()));
        }
        if moved {
            idle.moved();
        }
        idle.poll_expired(cx).map(|()| Err(JoinError::Idle))
    })
    .await
}

/// Reads to the end what still comes, for nobody.
fn poll_rest<S: AsyncRead + Unpin>(source: &mut S, cx: &mut Context<'_>) -> Poll<()> {
    SCRATCH.with_borrow_mut(|scratch| {
        loop {
            let mut rest = ReadBuf::new(scratch);
            let read = ready!(Pin::new(&mut *source).poll_read(cx, &mut rest));
            if read.is_err() || rest.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    })
}

/// What is said behind the last frame, once that is where a direction is.
fn goodbye(frames: Option<&Frames>) -> Option<Bytes> {
    frames.filter(|frames| frames.is_over()).map(Frames::goodbye)
}

// === impl JoinError ===

impl JoinError {
    /// The access log's name for it.
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Visitor(_) => Reason::VisitorClosed,
            Self::Link(_) => Reason::BackendClosed,
            Self::Idle => Reason::UpgradeIdle,
            Self::GoingAway | Self::Cut => Reason::GoingAway,
        }
    }

    /// Whether the visitor could take the end of its connection for an orderly one, and must not.
    pub(super) fn cuts(&self) -> bool {
        !matches!(self, Self::GoingAway)
    }
}

// === impl Directions ===

impl<V: AsyncRead + AsyncWrite + Unpin> Directions for Join<'_, V> {
    fn poll(&mut self, cx: &mut Context<'_>, moved: &mut bool) -> Poll<Result<(), JoinError>> {
        let Self { visitor, link, meter, upload, download } = self;
        let up = upload.poll(cx, *visitor, link, meter, moved)?;
        let down = download.poll(cx, *visitor, link, meter, moved)?;
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn frames(&mut self) -> Option<[&mut Frames; 2]> {
        Some([self.upload.frames.as_mut()?, self.download.frames.as_mut()?])
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let visitor = poll_rest(self.visitor, cx);
        loop {
            match self.link.poll_read_chunk(cx, READ_BYTES) {
                Poll::Ready(Ok(Some(_))) => {}
                Poll::Ready(_) => return visitor,
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

// === impl Upload ===

impl Upload {
    fn new(early: Bytes, terms: &Terms) -> Self {
        let mut frames = terms.is_websocket.then(|| Frames::new(Sender::Visitor));
        if let Some(frames) = &mut frames {
            frames.pass(&early);
        }
        Self { pending: early, bytes: 0, state: State::Open, frames }
    }

    fn poll<V: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        visitor: &mut V,
        link: &mut Link,
        meter: &Arc<Meter>,
        moved: &mut bool,
    ) -> Poll<Result<(), JoinError>> {
        loop {
            while !self.pending.is_empty() {
                let taken = ready!(link.poll_write_chunk(cx, &mut self.pending)).map_err(JoinError::Link)?;
                meter.add_received(taken);
                self.bytes += taken as u64;
                *moved = true;
            }
            match self.state {
                State::Open => match goodbye(self.frames.as_ref()) {
                    Some(goodbye) => (self.pending, self.state) = (goodbye, State::Ending),
                    None => ready!(self.poll_read(cx, visitor, link, meter, moved))?,
                },
                State::Ending => {
                    ready!(Pin::new(&mut *link).poll_shutdown(cx)).map_err(JoinError::Link)?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Reads once from the visitor and gives it to the link; what that does not take at once is kept.
    fn poll_read<V: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        visitor: &mut V,
        link: &mut Link,
        meter: &Arc<Meter>,
        moved: &mut bool,
    ) -> Poll<Result<(), JoinError>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(visitor).poll_read(cx, &mut buffer)).map_err(JoinError::Visitor)?;
            let mut read = buffer.filled();
            if read.is_empty() {
                self.state = State::Ending;
                return Poll::Ready(Ok(()));
            }
            if let Some(frames) = &mut self.frames {
                read = &read[..frames.pass(read)];
            }
            *moved = true;
            let taken = match Pin::new(link).poll_write(cx, read) {
                Poll::Ready(taken) => taken.map_err(JoinError::Link)?,
                Poll::Pending => 0,
            };
            meter.add_received(taken);
            self.bytes += taken as u64;
            if taken < read.len() {
                self.pending = Bytes::copy_from_slice(&read[taken..]);
            }
            Poll::Ready(Ok(()))
        })
    }
}

// === impl Download ===

impl Download {
    fn new(early: Bytes, terms: &Terms) -> Self {
        let mut frames = terms.is_websocket.then(|| Frames::new(Sender::Backend));
        if let Some(frames) = &mut frames {
            frames.pass(&early);
        }
        let chunks = if early.is_empty() { VecDeque::new() } else { VecDeque::from([early]) };
        Self { chunks, unflushed: false, bytes: 0, state: State::Open, frames }
    }

    fn poll<V: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        visitor: &mut V,
        link: &mut Link,
        meter: &Arc<Meter>,
        moved: &mut bool,
    ) -> Poll<Result<(), JoinError>> {
        loop {
            self.fill(cx, link, meter).map_err(JoinError::Link)?;
            if !self.chunks.is_empty() {
                match self.poll_write(cx, visitor) {
                    Poll::Ready(written) => written.map_err(JoinError::Visitor)?,
                    // The link is not read while the visitor takes nothing, so its failure has to be asked for.
                    Poll::Pending => return link.poll_failed(cx).map(|error| Err(JoinError::Link(error.into()))),
                }
                *moved = true;
                continue;
            }
            if self.unflushed {
                ready!(Pin::new(&mut *visitor).poll_flush(cx)).map_err(JoinError::Visitor)?;
                self.unflushed = false;
            }
            match self.state {
                State::Open => return Poll::Pending,
                State::Ending => {
                    ready!(Pin::new(&mut *visitor).poll_shutdown(cx)).map_err(JoinError::Visitor)?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Takes what the link has, as far as one write can carry it.
    fn fill(&mut self, cx: &mut Context<'_>, link: &mut Link, meter: &Arc<Meter>) -> io::Result<()> {
        while self.state == State::Open && self.chunks.len() < MAX_CHUNKS {
            if let Some(goodbye) = goodbye(self.frames.as_ref()) {
                self.state = State::Ending;
                self.chunks.extend(Some(goodbye).filter(|goodbye| !goodbye.is_empty()));
                break;
            }
            match link.poll_read_chunk(cx, READ_BYTES)? {
                Poll::Ready(Some(mut chunk)) => {
                    meter.add_sent(chunk.len());
                    if let Some(frames) = &mut self.frames {
                        chunk.truncate(frames.pass(&chunk));
                    }
                    self.chunks.push_back(chunk);
                }
                Poll::Ready(None) => self.state = State::Ending,
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    fn poll_write<V: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, visitor: &mut V) -> Poll<io::Result<()>> {
        let mut slices = [IoSlice::new(&[]); MAX_CHUNKS];
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(chunk);
        }
        let count = self.chunks.len().min(MAX_CHUNKS);
        let mut written = ready!(Pin::new(visitor).poll_write_vectored(cx, &slices[..count]))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.unflushed = true;
        self.bytes += written as u64;
        while let Some(chunk) = self.chunks.front_mut() {
            if written < chunk.len() {
                chunk.advance(written);
                break;
            }
            written -= chunk.len();
            self.chunks.pop_front();
        }
        if self.chunks.is_empty() {
            // An idle join keeps nothing.
            self.chunks = VecDeque::new();
        }
        Poll::Ready(Ok(()))
    }
}
