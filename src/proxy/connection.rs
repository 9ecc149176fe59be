//! One visitor's connection: HTTP/1.1 requests in turn, and what it becomes when one of them switches protocols.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    body::{Body, BodyError},
    service::{self, Visitor},
};

/// The largest request head in bytes, and the most fields in it; hyper answers 431 to more.
const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 100;
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
struct Phase {
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
enum Stage {
    /// For the first byte of a request.
    Idle,
    /// For the rest of its head.
    Head,
    /// For the edge and the backend.
    Busy,
}

/// A response's body, which makes the connection idle when it is over.
struct Tracked {
    body: Body,
    phase: Arc<Phase>,
    /// Only the end of the connection tells the visitor where the body ends.
    ends_with_connection: bool,
}

/// Why a connection ended.
#[derive(Debug)]
enum End {
    /// By either side, in order or not.
    Closed(hyper::Result<()>),
    /// The visitor took too long.
    Expired(Stage),
    /// The visitor did not take what is written to it.
    Stalled,
}

/// Serves a connection until it ends. On `shutdown`, the request in progress is the last one.
pub(super) async fn serve(shared: Arc<Shared>, tcp: TcpStream, peer: SocketAddr, shutdown: CancellationToken) {
    let Ok(local) = tcp.local_addr() else { return };
    let phase = Arc::new(Phase::new());
    let visitor = Visitor { peer, local };
    let service = service_fn(|request: Request<Incoming>| {
        phase.set(Stage::Busy);
        let (shared, phase) = (shared.clone(), phase.clone());
        let ends_with_connection = request.version() == Version::HTTP_10;
        async move {
            let response = service::handle(&shared, visitor, request).await;
            Ok::<_, Infallible>(response.map(|body| Tracked { body, phase, ends_with_connection }))
        }
    });
    let connection = http1::Builder::new()
        .max_header_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(VisitorStream { tcp, phase: phase.clone() }), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let stall_timeout = shared.timeouts.stream_idle;
    let mut deadline = phase.deadline(stall_timeout);
    let mut timer = pin!(sleep_until(deadline.unwrap_or_else(Instant::now)));
    let mut draining = pin!(shutdown.cancelled());
    let mut told = false;
    let end = poll_fn(|cx| {
        if !told && draining.as_mut().poll(cx).is_ready() {
            told = true;
            connection.as_mut().graceful_shutdown();
        }
        if let Poll::Ready(result) = connection.as_mut().poll(cx) {
            return Poll::Ready(End::Closed(result));
        }
        // Only a head that does not come in one piece makes the timer earlier; otherwise it is left to fire, and is
        // then set to what is due, so that a busy connection hardly ever touches it.
        while let Some(due) = phase.deadline(stall_timeout) {
            if deadline.is_none_or(|deadline| due < deadline) {
                deadline = Some(due);
                timer.as_mut().reset(due);
            }
            ready!(timer.as_mut().poll(cx));
            deadline = None;
            if due <= Instant::now() {
                return Poll::Ready(if phase.is_stalled() { End::Stalled } else { End::Expired(phase.stage()) });
            }
        }
        Poll::Pending
    })
    .await;
    if let Some(reason) = end.reason() {
        shared.makers.metrics.errors.with_label_values(&[reason]).inc();
        tracing::debug!(%peer, ?end, "a visitor's connection ended");
    }
}

// === impl End ===

impl End {
    /// What it counts as, where it was not in order.
    fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Closed(Ok(())) | Self::Expired(Stage::Idle | Stage::Busy) => None,
            Self::Closed(Err(error)) if error.is_parse_too_large() => Some("head_too_large"),
            Self::Closed(Err(error)) if error.is_parse() => Some("malformed_request"),
            Self::Closed(Err(error)) if error.is_incomplete_message() => Some("incomplete_request"),
            Self::Closed(Err(_)) => Some("visitor_closed"),
            Self::Expired(Stage::Head) => Some("head_timeout"),
            Self::Stalled => Some("visitor_stalled"),
        }
    }
}

// === impl Phase ===

impl Phase {
    fn new() -> Self {
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

    fn set(&self, stage: Stage) {
        self.state.store(self.millis() << 2 | stage as u64, Ordering::Relaxed);
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

    fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed) != FLOWS
    }

    fn stage(&self) -> Stage {
        match self.state.load(Ordering::Relaxed) & 3 {
            0 => Stage::Idle,
            1 => Stage::Head,
            _ => Stage::Busy,
        }
    }

    /// Until when the visitor has time; `None` while it is the edge's turn.
    fn deadline(&self, stall_timeout: Duration) -> Option<Instant> {
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

// === impl Tracked ===

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        if this.ends_with_connection && matches!(frame, Poll::Ready(Some(Err(_)))) {
            this.phase.cut.store(true, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.phase.set(Stage::Idle);
    }
}
