//! HTTP/2 of visitors (RFC 9113): its limits, and what of it a backend of HTTP/1.1 must not see.

use std::{convert::Infallible, error::Error, future::Future, io, pin::Pin, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, header};
use hyper::{
    body::Incoming,
    ext::Protocol,
    server::conn::http2,
    service::{HttpService, service_fn},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::{
    connection::{Serving, Tracked},
    frames::FLOODED,
    phase::Phase,
    stream::VisitorStream,
};
use crate::proxy::{
    Shared,
    error::Reason,
    joiner::upgrade,
    message::download::BodyError,
    service::{self, Visitor},
};

/// Requests in progress on one connection.
const MAX_STREAMS: u32 = 200;
/// How much of one upload the edge takes before its backend has, and of all uploads of a connection together: what one
/// visitor can make the edge hold. h2 ends a connection with more waiting small frames than half of the latter has room for,
/// at 256 bytes each, so that it must be well above the former: a gRPC client may send its whole window in small messages.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// How much of one response waits in the edge for the visitor's window.
const SEND_BUFFER: usize = 64 * 1024;
/// Requests that the visitor took back before the edge had looked at them, and streams that the edge had to reset because of
/// what came on them: with more, the connection is ended (CVE-2023-44487, CVE-2025-8671).
const MAX_PENDING_RESETS: usize = 20;
const MAX_LOCAL_RESETS: usize = 200;
/// How often a visitor is asked whether it is still there, and how long it may take to say so.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);

/// What a client with prior knowledge of HTTP/2 begins with (RFC 9113, 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether a connection that begins with these bytes is HTTP/2; `None` where they are too few to tell.
pub(super) fn is_preface(early: &[u8]) -> Option<bool> {
    let known = early.len().min(PREFACE.len());
    if early[..known] != PREFACE[..known] {
        return Some(false);
    }
    (known == PREFACE.len()).then_some(true)
}

/// Serves the requests of one connection.
pub(super) fn serve(
    shared: &Arc<Shared>,
    io: TokioIo<VisitorStream>,
    visitor: &Arc<Visitor>,
    phase: &Arc<Phase>,
) -> impl Serving + use<> {
    let (shared, visitor, phase) = (shared.clone(), visitor.clone(), phase.clone());
    let max_head_bytes = shared.config.max_header_bytes;
    let service = service_fn(move |mut request: Request<Incoming>| {
        let mut progress = phase.begin(false);
        let (shared, visitor) = (shared.clone(), visitor.clone());
        async move {
            join_cookies(&mut request);
            if request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_some() {
                upgrade::from_connect(&mut request, progress.join());
            }
            let response = service::handle(&shared, &visitor, request).await;
            progress.set_stall_timeout(shared.stall_timeout(response.body()));
            Ok::<_, Infallible>(response.map(|body| Tracked::framed(body, progress)))
        }
    });
    http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(max_head_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .enable_connect_protocol()
        .serve_connection(io, service)
}

/// Makes one field of the pieces that HTTP/2 may cut `Cookie` into (RFC 9113, 8.2.3).
fn join_cookies(request: &mut Request<Incoming>) {
    let mut pieces = request.headers().get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (pieces.next(), pieces.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for piece in std::iter::once(second).chain(pieces) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(piece.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        request.headers_mut().insert(header::COOKIE, joined);
    }
}

/// What the end of a connection by an error counts as.
pub(super) fn reason(error: &hyper::Error) -> Option<Reason> {
    let Some(source) = error.source() else { return Some(Reason::VisitorClosed) };
    let Some(error) = source.downcast_ref::<h2::Error>() else {
        let flooded = source.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == FLOODED);
        return Some(if flooded { Reason::Http2Flood } else { Reason::VisitorClosed });
    };
    match error.reason() {
        // The visitor ended it in order.
        Some(h2::Reason::NO_ERROR) => None,
        Some(h2::Reason::ENHANCE_YOUR_CALM) => Some(Reason::Http2Flood),
        Some(_) if error.is_library() => Some(Reason::MalformedRequest),
        _ => Some(Reason::VisitorClosed),
    }
}

// === impl Serving ===

impl<S> Serving for http2::Connection<TokioIo<VisitorStream>, S, TokioExecutor>
where
    S: HttpService<Incoming, ResBody = Tracked>,
    S::Future: Future + Send + 'static,
    S::Error: Into<BodyError>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        http2::Connection::graceful_shutdown(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preface_is_told_from_a_request_as_soon_as_they_differ() {
        assert_eq!(is_preface(b""), None);
        assert_eq!(is_preface(b"P"), None);
        assert_eq!(is_preface(b"PO"), Some(false));
        assert_eq!(is_preface(b"PRI * HTTP/2.0\r\n\r\nSM\r\n"), None);
        assert_eq!(is_preface(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0"), Some(true));
        assert_eq!(is_preface(b"GET / HTTP/1.1\r\n"), Some(false));
    }
}
