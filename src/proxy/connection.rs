//! One visitor's connection: HTTP/1.1 requests in turn, and what it becomes when one of them switches protocols.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    body::Body,
    download::BodyError,
    service::{self, Visitor},
    visitor::{Phase, Stage, VisitorStream},
};

/// The largest request head in bytes, and the most fields in it; hyper answers 431 to more.
const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 100;
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
    let phase = Arc::new(Phase::new());
    let visitor = Visitor { peer };
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
        .serve_connection(TokioIo::new(VisitorStream::new(tcp, phase.clone())), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let stall_timeout = shared.config.stall_timeout;
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

// === impl Tracked ===

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        if this.ends_with_connection && matches!(frame, Poll::Ready(Some(Err(_)))) {
            this.phase.cut();
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
