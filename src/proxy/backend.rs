//! Connections to backends, each over one link: one for one request at a time, or one shared by many over HTTP/2.

mod before_head;
mod heads;
mod http1;
mod http2;
pub(super) mod pool;
mod stream;
pub(super) mod tls;
mod watched;

use std::{future::Future, sync::Arc, task::Context};

use bytes::Bytes;
use futures::{TryFutureExt, future::Either};
use http::{Request, Response};
use hyper::{body::Incoming, client::conn::TrySendError};

use self::pool::Pool;
pub(super) use self::{
    before_head::TooMuch,
    http1::Idle,
    http2::{Lease, MAX_STREAMS, Shared},
    stream::BackendStream,
};
use super::message::upload::RequestBody;
use crate::bridge::AgentSession;

/// The largest response head in bytes.
pub(super) const MAX_HEAD_BYTES: usize = 64 * 1024;
/// How many fields it has at most. Over HTTP/1.1 that is hyper's own limit.
pub(super) const MAX_FIELDS: usize = 100;

/// A connection that takes a request.
pub(super) enum Upstream {
    Http1(Idle),
    Http2(Lease),
}

/// A connection while a response runs over it. Dropped before the response's end, it ends the backend's work: by a reset of
/// the link or, over HTTP/2, of the stream.
pub(super) enum Exchange {
    Http1(http1::Exchange),
    /// The stream's place, free when the response is over; the response's body resets the stream.
    Http2(Lease),
}

/// Why there is no response.
pub(super) struct SendError {
    pub(super) error: hyper::Error,
    /// The request, where the backend saw nothing of it.
    pub(super) unsent: Option<Request<RequestBody>>,
}

// === impl SendError ===

impl From<TrySendError<Request<RequestBody>>> for Box<SendError> {
    fn from(mut error: TrySendError<Request<RequestBody>>) -> Self {
        let unsent = error.take_message();
        Self::new(SendError { error: error.into_error(), unsent })
    }
}

// === impl Upstream ===

impl Upstream {
    /// Speaks HTTP/1.1 over a new stream of this session.
    pub(super) async fn http1(stream: BackendStream, session: Arc<AgentSession>) -> hyper::Result<Self> {
        Idle::handshake(stream, session).await.map(Self::Http1)
    }

    /// Speaks HTTP/2 over a new stream of this session, as a connection of this pool.
    pub(super) async fn http2(stream: BackendStream, session: Arc<AgentSession>, pool: &Pool) -> hyper::Result<Self> {
        Shared::handshake(stream, session, pool.stream_limit.clone()).await.map(Self::Http2)
    }

    /// What carries the connection: of one from a pool not always the session whose turn it is.
    pub(super) fn session(&self) -> &Arc<AgentSession> {
        match self {
            Self::Http1(connection) => &connection.session,
            Self::Http2(lease) => lease.session(),
        }
    }

    /// Whether the connection carried a request before, so that the backend may just be closing it.
    pub(super) fn is_reused(&self) -> bool {
        match self {
            Self::Http1(_) => true,
            Self::Http2(lease) => lease.is_reused(),
        }
    }

    /// Sends a request and waits for the head of its response. The error gives the request back where the backend
    /// saw nothing of it.
    pub(super) fn send(
        self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<(Response<Incoming>, Exchange), Box<SendError>>> {
        match self {
            Self::Http1(connection) => Either::Left(
                connection.send(request).map_ok(|(response, exchange)| (response, Exchange::Http1(exchange))),
            ),
            Self::Http2(lease) => {
                Either::Right(lease.send(request).map_ok(|(response, lease)| (response, Exchange::Http2(lease))))
            }
        }
    }
}

// === impl Exchange ===

impl Exchange {
    /// Moves bytes, where nobody else does; called before the response's body is polled.
    pub(super) fn poll_drive(&mut self, cx: &mut Context<'_>) {
        if let Self::Http1(exchange) = self {
            exchange.poll_drive(cx);
        }
    }

    /// The rest of the request will not come, so that a connection of HTTP/1.1 ends with the response.
    pub(super) fn abandon_upload(&mut self) {
        match self {
            Self::Http1(exchange) => exchange.abandon_upload(),
            // Its stream is reset with the body.
            Self::Http2(_) => {}
        }
    }

    /// Takes the connection back after the whole response: into the pool, if the backend keeps it open.
    pub(super) fn finish(self, pool: &Arc<Pool>) {
        match self {
            Self::Http1(exchange) => exchange.finish(pool),
            Self::Http2(lease) => drop(lease),
        }
    }

    /// Takes the stream out after a response that switched protocols, with the bytes that came right behind it.
    /// `None` where the connection did not end in an upgrade.
    pub(super) async fn into_stream(self) -> Option<(BackendStream, Bytes)> {
        match self {
            Self::Http1(exchange) => exchange.into_stream().await,
            Self::Http2(_) => None,
        }
    }
}
