use std::{
    cell::RefCell,
    future::Future,
    io::{self, IoSlice},
    mem,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::backend::Stream;
use crate::tunnel::{Link, LinkError, ResetCode};

/// Copies bytes both ways between a link and a backend's connection until both directions have ended, each by itself,
/// or one side failed.
///
/// Every byte of every request goes through here, and most relays are idle most of the time. So nothing is kept for a
/// read that has not happened: small reads go through a buffer that all relays of a thread share, and the link takes
/// large ones as they are. Only what the other side did not take at once is kept, and then no more is read.
pub(super) struct Relay {
    link: Link,
    backend: Stream,
    request: Request,
    response: Response,
}

/// The direction from the link to the backend.
#[derive(Debug, Default)]
struct Request {
    /// What the backend has not taken yet.
    batch: Batch,
    state: RequestState,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum RequestState {
    #[default]
    Open,
    /// The link's end was read; it is passed on after the batch.
    Ending,
    /// The backend takes no more. It may have answered already (an early 413), so that the answer goes on; what still
    /// comes is dropped, because resetting the link would overtake the answer.
    Discarding,
    Ended,
}

/// The direction from the backend to the link.
#[derive(Debug, Default)]
struct Response {
    /// What the link has not taken yet.
    rest: Bytes,
    state: ResponseState,
    /// The last read filled the buffer, so that the next one is likely large too.
    bulk: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ResponseState {
    #[default]
    Open,
    /// The backend's end was read; it is passed on after the rest.
    Ending,
    Ended,
}

/// Received chunks that go out with one vectored write.
#[derive(Debug, Default)]
struct Batch {
    chunks: [Bytes; BATCH],
    /// Those before are sent.
    first: usize,
    /// Those from here on are free.
    end: usize,
}

/// Why a relay ended before both directions had.
#[derive(Debug)]
pub(super) enum Failure {
    /// The link was reset or lost.
    Link(LinkError),
    /// The backend's connection failed.
    Backend(io::Error),
}

/// A chunk is at most a frame of 16 KiB, so a batch is at most 128 KiB.
const BATCH: usize = 8;

/// How much is read from a backend at a time.
const READ: usize = 64 * 1024;

/// After so many reads or writes in one go the other tasks of the thread have their turn.
const ROUNDS: usize = 16;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into_boxed_slice());
}

// === impl Relay ===

impl Relay {
    pub(super) fn new(link: Link, backend: Stream) -> Self {
        Self { link, backend, request: Request::default(), response: Response::default() }
    }

    /// Ends both sides in the middle, as the agent wants. Not as its failure, which would count as that of its session.
    pub(super) fn end(mut self) {
        self.backend.end_abruptly();
        self.link.reset(ResetCode::Cancelled);
    }

    /// Passes a failure on to the side that did not fail.
    fn fail(&mut self, failure: &Failure) {
        match failure {
            // Not a regular end: the backend must not take a half request for a whole one.
            Failure::Link(_) => self.backend.end_abruptly(),
            Failure::Backend(_) => self.link.reset(ResetCode::BackendReset),
        }
    }
}

impl Future for Relay {
    type Output = Result<(), Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { link, backend, request, response } = &mut *self;
        let sent = response.poll(link, backend, cx);
        let result = match (sent, request.poll(link, backend, cx)) {
            (Poll::Ready(Err(failure)), _) | (_, Poll::Ready(Err(failure))) => Poll::Ready(Err(failure)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            // Nobody reads the link any more, so its failure has to be asked for.
            (Poll::Pending, Poll::Ready(Ok(()))) => link.poll_failed(cx).map(|error| Err(Failure::Link(error))),
            (_, Poll::Pending) => Poll::Pending,
        };
        if let Poll::Ready(Err(failure)) = &result {
            self.fail(failure);
        }
        result
    }
}

// === impl Request ===

impl Request {
    fn poll(&mut self, link: &mut Link, backend: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        for _ in 0..ROUNDS {
            match self.state {
                RequestState::Open => {
                    let drained = self.fill(link, cx)?;
                    match self.batch.poll_write(backend, cx) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(_)) => self.discard(),
                        // The link is not read while the backend takes nothing, so its failure has to be asked for.
                        Poll::Pending => return link.poll_failed(cx).map(|error| Err(Failure::Link(error))),
                    }
                    if drained && self.state == RequestState::Open {
                        return Poll::Pending;
                    }
                }
                RequestState::Ending => match self.batch.poll_write(backend, cx) {
                    Poll::Ready(Ok(())) => {
                        // It fails only where the backend is gone, and then it has seen the end.
                        let _ = Pin::new(&mut *backend).poll_shutdown(cx);
                        self.state = RequestState::Ended;
                    }
                    Poll::Ready(Err(_)) => self.state = RequestState::Ended,
                    Poll::Pending => return link.poll_failed(cx).map(|error| Err(Failure::Link(error))),
                },
                RequestState::Discarding => match ready!(link.poll_read_chunk(cx, usize::MAX)) {
                    Ok(Some(_)) => {}
                    Ok(None) => self.state = RequestState::Ended,
                    Err(error) => return Poll::Ready(Err(Failure::of_link(&error))),
                },
                RequestState::Ended => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes what the link has, as far as there is room; true where it has no more for now (and will wake us).
    fn fill(&mut self, link: &mut Link, cx: &mut Context<'_>) -> Result<bool, Failure> {
        while !self.batch.is_full() {
            match link.poll_read_chunk(cx, READ) {
                Poll::Ready(Ok(Some(chunk))) => self.batch.push(chunk),
                Poll::Ready(Ok(None)) => {
                    self.state = RequestState::Ending;
                    return Ok(false);
                }
                Poll::Ready(Err(error)) => return Err(Failure::of_link(&error)),
                Poll::Pending => return Ok(true),
            }
        }
        Ok(false)
    }

    fn discard(&mut self) {
        self.batch = Batch::default();
        self.state = match self.state {
            RequestState::Open => RequestState::Discarding,
            // The link's end was already read.
            _ => RequestState::Ended,
        };
    }
}

// === impl Response ===

impl Response {
    fn poll(&mut self, link: &mut Link, backend: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        for _ in 0..ROUNDS {
            while !self.rest.is_empty() {
                let written = ready!(link.poll_write_chunk(cx, &mut self.rest));
                written.map_err(|error| Failure::of_link(&error))?;
            }
            match self.state {
                ResponseState::Open if self.bulk => ready!(self.poll_large(link, backend, cx))?,
                ResponseState::Open => ready!(self.poll_small(link, backend, cx))?,
                ResponseState::Ending => {
                    let ended = ready!(Pin::new(&mut *link).poll_shutdown(cx));
                    ended.map_err(|error| Failure::of_link(&error))?;
                    self.state = ResponseState::Ended;
                }
                ResponseState::Ended => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads into the shared buffer and copies from there into the link.
    fn poll_small(&mut self, link: &mut Link, backend: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(backend).poll_read(cx, &mut buffer)).map_err(Failure::Backend)?;
            let read = buffer.filled();
            if read.is_empty() {
                self.state = ResponseState::Ending;
                return Poll::Ready(Ok(()));
            }
            self.bulk = read.len() == READ;
            let taken = match Pin::new(link).poll_write(cx, read) {
                Poll::Ready(Ok(taken)) => taken,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::of_link(&error))),
                Poll::Pending => 0,
            };
            if taken < read.len() {
                self.rest = Bytes::copy_from_slice(&read[taken..]);
                // Next time, no more is read than the link takes.
                self.bulk = true;
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Reads into a buffer that the link then takes over.
    fn poll_large(&mut self, link: &mut Link, backend: &mut Stream, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        // What is read has to be kept until the link takes it; the backend can keep it as well. A hundred readers that stall at
        // the other end would else cost a buffer each.
        let room = ready!(link.poll_writable(cx)).map_err(|error| Failure::of_link(&error))?.min(READ);
        let mut buffer = BytesMut::with_capacity(room);
        let read = match pin!(backend.read_buf(&mut buffer)).poll(cx) {
            Poll::Ready(read) => read.map_err(Failure::Backend)?,
            Poll::Pending => {
                // Without much room, more might come than the link takes.
                self.bulk = room < READ / 2;
                return Poll::Pending;
            }
        };
        if read == 0 {
            self.state = ResponseState::Ending;
        }
        // A small rest of a large buffer would hold all of it for as long as the link holds the rest.
        self.bulk = read >= room / 2;
        self.rest = if self.bulk { buffer.freeze() } else { Bytes::copy_from_slice(&buffer) };
        Poll::Ready(Ok(()))
    }
}

// === impl Batch ===

impl Batch {
    fn is_empty(&self) -> bool {
        self.first == self.end
    }

    fn is_full(&self) -> bool {
        self.end == BATCH
    }

    /// There must be room.
    fn push(&mut self, chunk: Bytes) {
        if let Some(free) = self.chunks.get_mut(self.end) {
            *free = chunk;
            self.end += 1;
        }
    }

    /// Writes all of it.
    fn poll_write(&mut self, backend: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let chunks = &self.chunks[self.first..self.end];
            let written = if let [chunk] = chunks {
                ready!(Pin::new(&mut *backend).poll_write(cx, chunk))?
            } else {
                let mut slices = [IoSlice::new(&[]); BATCH];
                for (slice, chunk) in slices.iter_mut().zip(chunks) {
                    *slice = IoSlice::new(chunk);
                }
                ready!(Pin::new(&mut *backend).poll_write_vectored(cx, &slices[..chunks.len()]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        for chunk in &mut self.chunks[self.first..self.end] {
            if written < chunk.len() {
                chunk.advance(written);
                return;
            }
            written -= chunk.len();
            // Frees the memory now, not when the place is used again.
            mem::take(chunk);
            self.first += 1;
        }
        self.first = 0;
        self.end = 0;
    }
}

// === impl Failure ===

impl Failure {
    fn of_link(error: &io::Error) -> Self {
        Self::Link(LinkError::from_io(error).cloned().unwrap_or(LinkError::SessionLost))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Link(error) => write!(f, "{error}"),
            Self::Backend(error) => write!(f, "the backend's connection failed: {error}"),
        }
    }
}
