//! Requests to switch protocols, as WebSockets begin (RFC 9110, 7.8), also over HTTP/2 (RFC 8441).

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::{
    body::{Body as _, Incoming},
    ext::Protocol,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{JoinError, JoinOutcome, Terms, relay};
use crate::{
    bridge::Ending,
    proxy::{
        account::Account,
        backend::BackendStream,
        error::ProxyError,
        joiner,
        message::{body::Body, headers},
        visitor::{phase::Joined, stream::VisitorStream},
    },
    tunnel::websocket::answer_to,
};

/// The protocol that can be asked for over HTTP/2.
const WEBSOCKET: &str = "websocket";

/// A request's wish to switch protocols.
pub(in crate::proxy) struct Upgrade {
    protocol: HeaderValue,
    visitor: OnUpgrade,
    /// For a WebSocket over HTTP/2.
    stream: Option<Stream>,
}

/// What a WebSocket over HTTP/2 needs beside.
struct Stream {
    /// What the backend must answer to the key that the edge made.
    expected: String,
    joined: Arc<Joined>,
}

/// A visitor's stream over HTTP/2 that tells its connection of each piece it takes: a client may ping once for each.
struct Counted {
    io: TokioIo<Upgraded>,
    joined: Arc<Joined>,
}

/// The mark of a request that came as an extended CONNECT.
#[derive(Clone)]
struct Extended(Arc<Joined>);

/// Makes the request of HTTP/1.1 out of an extended CONNECT for a WebSocket (RFC 8441, 5.1), so that it is routed, checked
/// and forwarded as any other. A CONNECT for something else stays one, and is refused as such. `joined` keeps the
/// connection busy if it becomes a join.
pub(in crate::proxy) fn from_connect(request: &mut Request<Incoming>, joined: Joined) {
    if request.extensions_mut().remove::<Protocol>().is_none_or(|protocol| protocol.as_str() != WEBSOCKET) {
        return;
    }
    let key = BASE64_STANDARD.encode(rand::random::<[u8; 16]>());
    let Ok(key) = HeaderValue::from_str(&key) else { return };
    *request.method_mut() = Method::GET;
    let headers = request.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::SEC_WEBSOCKET_KEY, key);
    headers.entry(header::SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
    request.extensions_mut().insert(Extended(Arc::new(joined)));
}

/// Takes what belongs to the visitor's own hop out of a request's headers, and with it the wish to switch protocols, where
/// that can be granted: from HTTP/1.1 on, and without a body, which would have to end first. HTTP/2 is not passed on in this
/// way: what came over it would go past routes, credentials and counts.
pub(in crate::proxy) fn take(request: &mut Request<Incoming>) -> Option<Upgrade> {
    let protocol = headers::strip_hop_by_hop(request.headers_mut());
    if request.version() == Version::HTTP_2 {
        let Extended(joined) = request.extensions_mut().remove()?;
        let key = request.headers().get(header::SEC_WEBSOCKET_KEY)?;
        let stream = Stream { expected: answer_to(key), joined };
        let visitor = hyper::upgrade::on(request);
        return Some(Upgrade { protocol: HeaderValue::from_static(WEBSOCKET), visitor, stream: Some(stream) });
    }
    let protocol = protocol?;
    let grantable = request.version() == Version::HTTP_11 && request.body().is_end_stream() && !is_http(&protocol);
    grantable.then(|| Upgrade { protocol, visitor: hyper::upgrade::on(request), stream: None })
}

/// Whether one of the protocols is HTTP itself, as `h2c`.
fn is_http(protocol: &HeaderValue) -> bool {
    let is_http = |name: &str| {
        let name = name.trim();
        name.eq_ignore_ascii_case("h2c") || name.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("http"))
    };
    protocol.to_str().is_ok_and(|protocols| protocols.split(',').any(is_http))
}

impl Upgrade {
    /// Asks the backend for it.
    pub(in crate::proxy) fn ask(&self, headers: &mut HeaderMap) {
        headers::set_upgrade(headers, self.protocol.clone());
    }

    /// Whether it came as a CONNECT over HTTP/2, for which the request alone is not a lesser thing to ask for.
    pub(in crate::proxy) fn is_connect(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether an answer that does not switch protocols can be passed on: over HTTP/2 a success would be the switch.
    pub(in crate::proxy) fn may_be_answered(&self, status: StatusCode) -> bool {
        self.stream.is_none() || !status.is_success()
    }
}

impl Stream {
    /// Makes the answer to the extended CONNECT out of the backend's.
    fn translate(&self, response: &mut Response<Incoming>, protocol: &HeaderValue) -> Result<(), ProxyError> {
        let answer = response.headers_mut().remove(header::SEC_WEBSOCKET_ACCEPT);
        let switches = protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes());
        if !switches || answer.is_none_or(|answer| answer.as_bytes() != self.expected.as_bytes()) {
            return Err(ProxyError::InvalidResponse("it does not answer the WebSocket's key".into()));
        }
        *response.status_mut() = StatusCode::OK;
        *response.version_mut() = Version::HTTP_2;
        Ok(())
    }
}

/// Answers with the backend's 101 and joins the two connections behind it, in a task of their own.
pub(in crate::proxy) fn accept(
    (idle, ending): (Duration, Ending),
    mut response: Response<Incoming>,
    (backend, to_visitor): (BackendStream, Bytes),
    upgrade: Upgrade,
    account: &mut Account,
) -> Result<Response<Body>, ProxyError> {
    let protocol = headers::strip_hop_by_hop(response.headers_mut());
    let protocol =
        protocol.ok_or(ProxyError::InvalidResponse("it switches to a protocol that it does not name".into()))?;
    let is_websocket = protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes());
    let terms = Terms { idle, ending, is_websocket };
    let Upgrade { visitor, stream, .. } = upgrade;
    match &stream {
        None => headers::set_upgrade(response.headers_mut(), protocol),
        Some(stream) => stream.translate(&mut response, &protocol)?,
    }
    account.answered(response.status());
    let entry = account.take().into_join();
    tokio::spawn(async move {
        let mut entry = entry;
        // The visitor may leave before the answer is written; the link is reset with this task.
        let Ok(upgraded) = visitor.await else { return };
        let joined = match stream {
            None => join_connection(upgraded, backend, to_visitor, &terms).await,
            Some(Stream { joined, .. }) => {
                let mut visitor = Counted { io: TokioIo::new(upgraded), joined };
                Some(join(&mut visitor, Bytes::new(), backend, to_visitor, &terms).await)
            }
        };
        let Some(joined) = joined else { return };
        if let Some(entry) = &mut entry {
            entry.ended(&joined);
        }
        if let Some(error) = joined.error {
            tracing::debug!(%error, "a join ended early");
        }
    });
    Ok(response.map(|_| Body::Empty))
}

/// Joins the whole of the visitor's connection.
async fn join_connection(
    upgraded: Upgraded,
    backend: BackendStream,
    to_visitor: Bytes,
    terms: &Terms,
) -> Option<JoinOutcome> {
    let parts = upgraded.downcast::<TokioIo<VisitorStream>>().ok()?;
    let mut visitor = parts.io.into_inner();
    visitor.set_joined();
    let joined = join(&mut visitor, parts.read_buf, backend, to_visitor, terms).await;
    if joined.error.as_ref().is_some_and(JoinError::cuts) {
        visitor.abort();
    }
    Some(joined)
}

/// Joins a visitor's stream with a backend's; `to_backend` and `to_visitor` came early.
async fn join<V: AsyncRead + AsyncWrite + Unpin>(
    visitor: &mut V,
    to_backend: Bytes,
    backend: BackendStream,
    to_visitor: Bytes,
    terms: &Terms,
) -> JoinOutcome {
    match backend {
        BackendStream::Plain(link) => joiner::join(visitor, to_backend, link, to_visitor, terms).await,
        BackendStream::Tls(mut tls) => relay::relay(visitor, &to_backend, &mut *tls, &to_visitor, terms).await,
    }
}

// === impl Counted ===

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.joined.handed();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
