//! HTTP/1.1 connections to backends, each over one link.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{BackendStream, MAX_HEAD_BYTES, MAX_HEADERS, SendError, pool::Pool};
use crate::proxy::message::upload::RequestBody;

/// How long the rest of an upload may take after its answer.
const REST: Duration = Duration::from_secs(5);

type Sender = http1::SendRequest<RequestBody>;
type Connection = http1::Connection<TokioIo<BackendStream>, RequestBody>;

/// An HTTP/1.1 connection that is not in use.
pub(crate) struct Idle {
    sender: Sender,
    connection: Connection,
    pub(crate) since: Instant,
}

/// An HTTP/1.1 connection while a response runs over it. Dropped before the response's end, it resets the link, which
/// frees the backend.
pub(crate) struct Exchange {
    sender: Sender,
    driver: Driver,
    reusable: bool,
}

/// Who polls the connection.
///
/// Where the request has no body, whoever waits for the response does it in place: no task is woken on the way of a
/// request, which is most of what a small one costs. A request with a body needs a task, since an upload goes on
/// while nobody reads the response.
#[expect(clippy::large_enum_variant, reason = "the large one is the common one, and a box is an allocation a request")]
enum Driver {
    InPlace { connection: Connection, done: bool },
    Task { release: oneshot::Sender<(Sender, Arc<Pool>)> },
}

// === impl Idle ===

impl Idle {
    /// Speaks HTTP/1.1 over a link.
    pub(crate) async fn handshake(stream: BackendStream) -> hyper::Result<Self> {
        let (sender, connection) = http1::Builder::new()
            .max_header_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .handshake(TokioIo::new(stream))
            .await?;
        Ok(Self { sender, connection, since: Instant::now() })
    }

    /// Whether the backend still waits for a request: it has neither closed nor said anything unasked. Whoever asks is not
    /// woken by the connection later.
    pub(crate) fn is_alive(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.connection.poll_without_shutdown(&mut cx).is_pending() && self.sender.is_ready()
    }

    /// Sends a request and waits for the head of its response. The error gives the request back where the backend
    /// saw nothing of it.
    pub(crate) async fn send(
        self,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Exchange), Box<SendError>> {
        let Self { mut sender, mut connection, .. } = self;
        if !request.body().is_empty() {
            let (release, released) = oneshot::channel();
            let response = sender.try_send_request(request);
            tokio::spawn(drive(connection, released));
            return Ok((response.await?, Exchange { sender, driver: Driver::Task { release }, reusable: true }));
        }
        let mut done = false;
        let mut response = pin!(sender.try_send_request(request));
        let response = poll_fn(|cx| {
            if !done {
                // An error is told to whoever waits for the response.
                done = connection.poll_without_shutdown(cx).is_ready();
            }
            response.as_mut().poll(cx)
        })
        .await?;
        Ok((response, Exchange { sender, driver: Driver::InPlace { connection, done }, reusable: true }))
    }
}

// === impl Exchange ===

impl Exchange {
    /// Moves bytes, where nobody else does; called before the response's body is polled.
    pub(crate) fn poll_drive(&mut self, cx: &mut Context<'_>) {
        if let Driver::InPlace { connection, done } = &mut self.driver
            && !*done
        {
            *done = connection.poll_without_shutdown(cx).is_ready();
        }
    }

    /// The rest of the request will not come, so that the connection ends with the response.
    pub(crate) fn abandon_upload(&mut self) {
        self.reusable = false;
    }

    /// Takes the connection back after the whole response: into the pool, if the backend keeps it open.
    pub(crate) fn finish(self, pool: &Arc<Pool>) {
        if !self.reusable {
            return;
        }
        match self.driver {
            Driver::InPlace { connection, done: false } => {
                let upstream = Idle { sender: self.sender, connection, since: Instant::now() };
                pool.put(upstream);
            }
            Driver::InPlace { done: true, .. } => {}
            // Where the task has ended, so has the connection.
            Driver::Task { release } => drop(release.send((self.sender, pool.clone()))),
        }
    }

    /// Takes the stream out after a response that switched protocols, with the bytes that came right behind it.
    /// `None` where the connection did not end in an upgrade.
    pub(crate) async fn into_stream(self) -> Option<(BackendStream, Bytes)> {
        let Driver::InPlace { mut connection, done } = self.driver else { return None };
        if !done {
            poll_fn(|cx| connection.poll_without_shutdown(cx)).await.ok()?;
        }
        let parts = connection.into_parts();
        Some((parts.io.into_inner(), parts.read_buf))
    }
}

/// Polls a connection until it ends, or until it is given back idle.
async fn drive(mut connection: Connection, released: oneshot::Receiver<(Sender, Arc<Pool>)>) {
    let mut released = pin!(released);
    let release = poll_fn(|cx| {
        if let Poll::Ready(release) = released.as_mut().poll(cx) {
            return Poll::Ready(release.ok());
        }
        connection.poll_without_shutdown(cx).map(|_| None)
    })
    .await;
    let Some((mut sender, pool)) = release else { return };
    // The response is complete, but the backend may have answered before it had all of the request. Nobody counts the rest
    // any more, so it has to come soon.
    let ready = poll_fn(|cx| match connection.poll_without_shutdown(cx) {
        Poll::Ready(_) => Poll::Ready(false),
        Poll::Pending => sender.poll_ready(cx).map(|ready| ready.is_ok()),
    });
    if timeout(REST, ready).await == Ok(true) {
        pool.put(Idle { sender, connection, since: Instant::now() });
    }
}
