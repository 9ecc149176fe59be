//! The visitor's socket, and what it is waited for.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};

/// How long a visitor may take for a request's head, from its first byte.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may stay without a request.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// The visitor's socket; it notices when a request begins.
#[derive(Debug)]
pub(super) struct VisitorStream {
    tcp: TcpStream,
    phase: Arc<Phase>,
}

/// What the connection waits for, and since when.
#[derive(Debug)]
pub(super) struct Phase {
    start: Instant,
    /// Milliseconds from `start` above the two bits of the [`Stage`].
    state: AtomicU64,
    /// Since when the visitor has taken nothing of what is to be written, in milliseconds from `start`; [`FLOWS`] where
    /// nothing waits for it.
    stalled: AtomicU64,
    /// The visitor must not take an orderly end of the connection for that of the response.
    cut: AtomicBool,
}

/// Nothing is kept waiting by the visitor.
const FLOWS: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// For the first byte of a request.
    Idle,
    /// For the rest of its head.
    Head,
    /// For the edge and the backend.
    Busy,
}

// === impl Phase ===

impl Phase {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            state: AtomicU64::new(0),
            stalled: AtomicU64::new(FLOWS),
            cut: AtomicBool::new(false),
        }
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(0)
    }

    pub(super) fn set(&self, stage: Stage) {
        self.state.store(self.millis() << 2 | stage as u64, Ordering::Relaxed);
    }

    /// The response breaks off where only the end of the connection tells its end.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// The visitor took something of what is written, or nothing.
    fn wrote(&self, some: bool) {
        let stalled = self.is_stalled();
        if some && stalled {
            self.stalled.store(FLOWS, Ordering::Relaxed);
            if self.stage() == Stage::Idle {
                // The body was over before its last bytes were taken.
                self.set(Stage::Idle);
            }
        } else if !some && !stalled {
            self.stalled.store(self.millis(), Ordering::Relaxed);
        }
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed) != FLOWS
    }

    pub(super) fn stage(&self) -> Stage {
        match self.state.load(Ordering::Relaxed) & 3 {
            0 => Stage::Idle,
            1 => Stage::Head,
            _ => Stage::Busy,
        }
    }

    /// Until when the visitor has time; `None` while it is the edge's turn.
    pub(super) fn deadline(&self, stall_timeout: Duration) -> Option<Instant> {
        if self.is_stalled() {
            let since = Duration::from_millis(self.stalled.load(Ordering::Relaxed));
            return Some(self.start + since + stall_timeout);
        }
        let since = self.start + Duration::from_millis(self.state.load(Ordering::Relaxed) >> 2);
        match self.stage() {
            Stage::Idle => Some(since + KEEP_ALIVE),
            Stage::Head => Some(since + HEAD_TIMEOUT),
            Stage::Busy => None,
        }
    }
}

// === impl VisitorStream ===

impl VisitorStream {
    pub(super) fn new(tcp: TcpStream, phase: Arc<Phase>) -> Self {
        Self { tcp, phase }
    }

    /// Makes the socket end with a reset instead of an orderly close, so that the visitor does not take what it got
    /// for the whole.
    pub(super) fn abort(self) {
        self.reset_at_end();
    }

    fn reset_at_end(&self) {
        // Where the socket does not take the option, it closes as usual.
        let _ = self.tcp.set_zero_linger();
    }
}

impl Drop for VisitorStream {
    fn drop(&mut self) {
        if self.phase.cut.load(Ordering::Relaxed) {
            self.reset_at_end();
        }
    }
}

impl AsyncRead for VisitorStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.tcp).poll_read(cx, buf))?;
        if this.phase.stage() == Stage::Idle && !buf.filled().is_empty() {
            this.phase.set(Stage::Head);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for VisitorStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.tcp).poll_write(cx, buf);
        this.phase.wrote(written.is_ready());
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.tcp).poll_write_vectored(cx, bufs);
        this.phase.wrote(written.is_ready());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}
