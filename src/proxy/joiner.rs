//! The joiner: copies bytes both ways between an upgraded visitor connection and a link, whatever they mean.
//!
//! Each direction ends by itself, so a half-close is kept. An idle join holds no buffer: what the visitor sends is
//! read into a buffer of the thread and handed to the link at once, and what the link brings is written from where it
//! was received.

mod relay;
pub(super) mod upgrade;

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{error::Reason, idle::Idle};
use crate::{
    flow::{Counted, Meter},
    tunnel::{Link, ResetCode},
};

/// What one read of the visitor's socket takes at most: a few frames of the tunnel.
const READ_BYTES: usize = 64 * 1024;
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

/// Bytes from the visitor to the link.
struct Upload {
    /// Read from the visitor and not yet taken by the link.
    pending: Bytes,
    bytes: u64,
    state: State,
}

/// Bytes from the link to the visitor.
struct Download {
    chunks: VecDeque<Bytes>,
    /// Something was written that the visitor's stream may still hold.
    unflushed: bool,
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

/// Joins until both directions have ended. `to_link` and `to_visitor` are bytes that came early, right behind the
/// messages that switched protocols; those to the visitor are counted already.
pub(super) async fn join<V>(
    visitor: &mut V,
    to_link: Bytes,
    link: Counted<Link>,
    to_visitor: Bytes,
    idle: Duration,
) -> JoinOutcome
where
    V: AsyncRead + AsyncWrite + Unpin,
{
    let (mut link, meter) = link.into_parts();
    let mut upload = Upload { pending: to_link, bytes: 0, state: State::Open };
    let mut download = Download { chunks: VecDeque::new(), unflushed: false, bytes: 0, state: State::Open };
    if !to_visitor.is_empty() {
        download.chunks.push_back(to_visitor);
    }
    let mut idle = Idle::new(idle);
    let result: Result<(), JoinError> = poll_fn(|cx| {
        let mut moved = false;
        let up = upload.poll(cx, visitor, &mut link, &meter, &mut moved)?;
        let down = download.poll(cx, visitor, &mut link, &meter, &mut moved)?;
        if up.is_ready() && down.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if moved {
            idle.moved();
        }
        idle.poll_expired(cx).map(|()| Err(JoinError::Idle))
    })
    .await;
    if result.is_err() {
        link.reset(ResetCode::Cancelled);
    }
    JoinOutcome { received: upload.bytes, sent: download.bytes, error: result.err() }
}

// === impl JoinError ===

impl JoinError {
    /// The access log's name for it.
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Visitor(_) => Reason::VisitorClosed,
            Self::Link(_) => Reason::BackendClosed,
            Self::Idle => Reason::UpgradeIdle,
        }
    }
}

// === impl Upload ===

impl Upload {
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
                State::Open => ready!(self.poll_read(cx, visitor, link, meter, moved))?,
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
            let read = buffer.filled();
            if read.is_empty() {
                self.state = State::Ending;
                return Poll::Ready(Ok(()));
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
            match link.poll_read_chunk(cx, READ_BYTES)? {
                Poll::Ready(Some(chunk)) => {
                    meter.add_sent(chunk.len());
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
