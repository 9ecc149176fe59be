use std::{
    fmt,
    future::Future,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    time::{Instant, Sleep, sleep, sleep_until},
};

use super::{
    CloseReason,
    incoming::refuse_arrivals,
    shared::{Phase, Shared},
};
use crate::tunnel::machine::Output;

/// Reads begin with this much room, and go over to [`BLOCK`] when it was filled: a session with little to do stays
/// small.
const SMALL_BLOCK: usize = 8 * 1024;
/// The room of a read, in bytes; a few TLS records, so that many frames are taken under one lock.
const BLOCK: usize = 64 * 1024;
/// A read needs at least this much room.
const MIN_ROOM: usize = 4 * 1024;
/// How many pieces are given to one write.
const SLICES: usize = 64;
/// How long a session that finishes may take for what waits to be sent, and for the other side's end.
const FAREWELL: Duration = Duration::from_secs(2);

/// Does the session's I/O; nothing moves unless it is polled. Resolves when the session is over; dropped, it ends it.
pub struct Driver<T> {
    shared: Arc<Shared>,
    io: T,
    input: BytesMut,
    block: usize,
    /// How much was read since the last look for memory to give back.
    read: usize,
    output: Output,
    unflushed: bool,
    /// Whether this turn's output has waited for other links' already.
    waited: bool,
    /// When the machine has something to do by time alone; it may be later in truth, never earlier.
    deadline: Instant,
    alarm: Option<Pin<Box<Sleep>>>,
    wakers: Vec<Waker>,
    farewell: Farewell,
    done: bool,
}

/// How far a session that finishes has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    /// It does not finish, or the driver has not seen it yet.
    No,
    /// What waits is being sent.
    Sending,
    /// All was sent, and this direction of the connection is closed.
    Said,
}

// === impl Driver ===

impl<T> Driver<T> {
    pub(super) fn new(shared: Arc<Shared>, io: T, input: BytesMut) -> Self {
        Self {
            shared,
            io,
            input,
            block: SMALL_BLOCK,
            read: 0,
            output: Output::default(),
            unflushed: false,
            waited: false,
            deadline: Instant::now(),
            alarm: None,
            wakers: Vec::new(),
            farewell: Farewell::No,
            done: false,
        }
    }

    /// Wakes those who wait for what has happened; never under the lock.
    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }

    /// Gives what was read to the machine.
    fn take_input(&mut self) -> Result<(), CloseReason> {
        let now = Instant::now().into_std();
        let mut state = self.shared.lock();
        let result = state.machine.receive(&mut self.input, now);
        if state.deaf {
            refuse_arrivals(&mut state.machine);
        }
        state.happened(&mut self.wakers);
        drop(state);
        self.wake();
        result.map_err(|violation| CloseReason::Protocol(violation.to_string()))
    }

    /// Gives back buffers that were not used for some seconds.
    fn shrink(&mut self) {
        if std::mem::take(&mut self.read) < SMALL_BLOCK {
            self.block = SMALL_BLOCK;
            self.input = BytesMut::from(&self.input[..]);
            self.output.shrink();
            self.wakers.shrink_to_fit();
            self.shared.lock().shrink();
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    /// Reads a block, or what there is of it, and gives it to the machine. Pending once nothing more is there.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        let read = self.poll_block(cx);
        if !self.input.is_empty() {
            self.take_input()?;
        }
        read
    }

    fn poll_block(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        loop {
            if self.input.capacity() - self.input.len() < MIN_ROOM {
                if self.input.len() >= BLOCK - MIN_ROOM {
                    return Poll::Ready(Ok(()));
                }
                self.input.reserve(self.block);
            }
            match ready!(pin!(self.io.read_buf(&mut self.input)).poll(cx)) {
                Ok(0) => return Poll::Ready(Err(CloseReason::PeerClosed)),
                Ok(count) => self.read += count,
                // TLS: the connection ended without a farewell, as it does when a process is killed.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Err(CloseReason::PeerClosed));
                }
                Err(error) => return Poll::Ready(Err(CloseReason::Io(error.kind()))),
            }
            if self.input.len() >= self.block {
                self.block = BLOCK;
            }
        }
    }

    /// Writes until there is nothing to write, or the connection takes no more. Ready only where it fails.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        loop {
            if self.output.is_empty() && !self.next_output(cx) {
                break;
            }
            match ready!(self.poll_write(cx)) {
                Ok(0) => return Poll::Ready(CloseReason::Io(io::ErrorKind::WriteZero)),
                Ok(count) => self.output.advance(count),
                Err(error) => return Poll::Ready(CloseReason::Io(error.kind())),
            }
            self.unflushed = true;
        }
        if self.unflushed {
            match ready!(Pin::new(&mut self.io).poll_flush(cx)) {
                Ok(()) => self.unflushed = false,
                Err(error) => return Poll::Ready(CloseReason::Io(error.kind())),
            }
        }
        Poll::Pending
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let count = self.output.slices(&mut slices);
        let io = Pin::new(&mut self.io);
        if io.is_write_vectored() {
            io.poll_write_vectored(cx, &slices[..count])
        } else {
            io.poll_write(cx, &slices[0])
        }
    }

    /// Fetches what is to be sent next; where there is nothing, the driver will be woken for it.
    fn next_output(&mut self, cx: &Context<'_>) -> bool {
        let now = Instant::now().into_std();
        let mut state = self.shared.lock();
        state.machine.output(&mut self.output, now);
        state.happened(&mut self.wakers);
        let some = !self.output.is_empty();
        self.deadline = state.machine.deadline().into();
        state.driver_idle = !some;
        if !some {
            state.set_driver(cx);
        }
        drop(state);
        self.wake();
        some
    }

    /// Does what is due by time, and then sends what came of it. Ready where the other side is dead.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        loop {
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(self.deadline)));
            // An alarm that comes too early costs less than to set it anew with every request.
            if self.deadline < alarm.deadline() {
                alarm.as_mut().reset(self.deadline);
            }
            ready!(alarm.as_mut().poll(cx));
            let now = Instant::now();
            let beat = {
                let mut state = self.shared.lock();
                let beat = state.machine.tick(now.into_std());
                self.deadline = state.machine.deadline().into();
                beat
            };
            alarm.as_mut().reset(self.deadline);
            match beat {
                Err(_) => return Poll::Ready(CloseReason::Silence),
                Ok(true) => self.shrink(),
                Ok(false) => {}
            }
            if let Poll::Ready(reason) = self.poll_output(cx) {
                return Poll::Ready(reason);
            }
        }
    }

    /// Sends what waits, closes this direction, and waits until the other side has closed its own. Reading goes on all
    /// the while: a connection that is closed with something unread is reset, and what was sent last is lost with it.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        if self.farewell == Farewell::No {
            self.farewell = Farewell::Sending;
            self.alarm = Some(Box::pin(sleep(FAREWELL)));
        }
        if self.alarm.as_mut().is_some_and(|alarm| alarm.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(CloseReason::Closed);
        }
        loop {
            let input = self.poll_input(cx);
            if let Poll::Ready(Err(reason)) = input {
                // What comes behind the farewell is its answer, in whichever form.
                return Poll::Ready(if self.farewell == Farewell::Said { CloseReason::Closed } else { reason });
            }
            if self.farewell == Farewell::Sending {
                if let Poll::Ready(reason) = self.poll_output(cx) {
                    return Poll::Ready(reason);
                }
                let sent = self.output.is_empty() && !self.unflushed;
                if sent && let Poll::Ready(result) = Pin::new(&mut self.io).poll_shutdown(cx) {
                    if result.is_err() {
                        return Poll::Ready(CloseReason::Closed);
                    }
                    self.farewell = Farewell::Said;
                }
            }
            if input.is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn poll_session(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let (phase, gather) = {
            let mut state = self.shared.lock();
            state.set_driver(cx);
            (state.phase, state.machine.links() > 1 && state.machine.has_output())
        };
        match phase {
            Phase::Running => {}
            Phase::Finishing => return self.poll_farewell(cx),
            Phase::Closing | Phase::Closed => return Poll::Ready(CloseReason::Closed),
        }
        // Reading first: it is what keeps a session from being held for dead, and what most of the sending comes of. A
        // connection that takes no more stops no reading; one that brings much stops no writing.
        loop {
            let input = self.poll_input(cx);
            if let Poll::Ready(Err(reason)) = input {
                return Poll::Ready(reason);
            }
            // Those who are about to write (what was just read woke them) get to it first, so that one write, and one
            // TLS record, carries what all of them have.
            if input.is_pending() && gather && !std::mem::replace(&mut self.waited, true) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.waited = false;
            if let Poll::Ready(reason) = self.poll_output(cx) {
                return Poll::Ready(reason);
            }
            if input.is_pending() {
                return self.poll_time(cx);
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = CloseReason;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let reason = ready!(this.poll_session(cx));
        this.done = true;
        this.shared.closed();
        // A farewell, if it can be said at once: whoever is there learns that this was no accident.
        let _ = Pin::new(&mut this.io).poll_shutdown(cx);
        Poll::Ready(reason)
    }
}

impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        if !self.done {
            self.shared.closed();
        }
    }
}

impl<T> fmt::Debug for Driver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}
