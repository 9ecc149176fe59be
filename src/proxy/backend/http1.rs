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

use super::{BackendStream, MAX_HEAD_BYTES, SendError, before_head::Allowance, pool::Pool, watched::Watched};
use crate::{bridge::AgentSession, proxy::message::upload::RequestBody};

/// How long the rest of an upload may take after its answer.
const REST: Duration = Duration::from_secs(5);

/// What a connection reads or holds at a time: a whole head, or a piece of a body that its visitor may not take for long.
const MAX_BUFFER: usize = MAX_HEAD_BYTES + 8 * 1024;

/// What is read of a link at a time. hyper reads into ever larger buffers as long as they are filled, and a piece of a body keeps the
/// buffer that it came in: short of 16 KiB, they stay at that.
const READ: usize = 16 * 1024 - 1;

type Sender = http1::SendRequest<RequestBody>;
/// Boxed, once for all of its requests: it is large, and each request hands it on several times.
type Connection = Box<http1::Connection<TokioIo<Watched<BackendStream, Allowance>>, RequestBody>>;

/// What the task of a connection needs to give it back to its pool.
type Release = (Sender, Allowance, Arc<AgentSession>, Arc<Pool>);

/// An HTTP/1.1 connection that is not in use.
pub(crate) struct Idle {
    sender: Sender,
    connection: Connection,
    allowance: Allowance,
    /// Carries it.
    pub(crate) session: Arc<AgentSession>,
    pub(crate) since: Instant,
}

/// An HTTP/1.1 connection while a response runs over it. Dropped before the response's end, it resets the link, which
/// frees the backend.
pub(crate) struct Exchange {
    sender: Sender,
    driver: Driver,
    allowance: Allowance,
    session: Arc<AgentSession>,
    reusable: bool,
}

/// Who polls the connection.
///
/// Where the request has no body, whoever waits for the response does it in place: no task is woken on the way of a
/// request, which is most of what a small one costs. A request with a body needs a task, since an upload goes on
/// while nobody reads the response.
enum Driver {
    InPlace { connection: Connection, done: bool },
    Task { release: oneshot::Sender<Release> },
}

// === impl Idle ===

impl Idle {
    /// Speaks HTTP/1.1 over a link of this session.
    pub(crate) async fn handshake(mut stream: BackendStream, session: Arc<AgentSession>) -> hyper::Result<Self> {
        stream.limit_reads(READ);
        let allowance = Allowance::new();
        let stream = Watched::new(stream, allowance.clone());
        let (sender, connection) = http1::Builder::new()
            .max_header_size(MAX_HEAD_BYTES)
            .max_buf_size(MAX_BUFFER)
            .handshake(TokioIo::new(stream))
            .await?;
        Ok(Self { sender, connection: Box::new(connection), allowance, session, since: Instant::now() })
    }

    /// Whether the backend still waits for a request: it has neither closed nor said anything unasked. Whoever asks is not
    /// woken by the connection later.
    pub(crate) fn is_alive(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.connection.poll_without_shutdown(&mut cx).is_pending() && self.sender.is_ready()
    }

    /// Sends a request and waits for the head of its response. The error gives the request back where the backend
    /// saw nothing of it.
    pub(crate) fn send(
        self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<(Response<Incoming>, Exchange), Box<SendError>>> {
        let Self { mut sender, connection, allowance, session, .. } = self;
        allowance.renew();
        // Handed over before the future begins, which would else keep room for it.
        let has_body = !request.body().is_empty();
        let response = sender.try_send_request(request);
        async move {
            let mut driver = if has_body {
                let (release, released) = oneshot::channel();
                tokio::spawn(drive(connection, released));
                Driver::Task { release }
            } else {
                Driver::InPlace { connection, done: false }
            };
            let mut response = pin!(response);
            let response = poll_fn(|cx| {
                // An error is told to whoever waits for the response.
                driver.poll(cx);
                response.as_mut().poll(cx)
            });
            let response = response.await?;
            allowance.lift();
            Ok((response, Exchange { sender, driver, allowance, session, reusable: true }))
        }
    }
}

// === impl Driver ===

impl Driver {
    /// Moves bytes, where nobody else does.
    fn poll(&mut self, cx: &mut Context<'_>) {
        if let Self::InPlace { connection, done } = self
            && !*done
        {
            *done = connection.poll_without_shutdown(cx).is_ready();
        }
    }
}

// === impl Exchange ===

impl Exchange {
    /// Moves bytes, where nobody else does; called before the response's body is polled.
    pub(crate) fn poll_drive(&mut self, cx: &mut Context<'_>) {
        self.driver.poll(cx);
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
                let Self { sender, allowance, session, .. } = self;
                pool.put(Idle { sender, connection, allowance, session, since: Instant::now() });
            }
            Driver::InPlace { done: true, .. } => {}
            // Where the task has ended, so has the connection.
            Driver::Task { release } => {
                drop(release.send((self.sender, self.allowance, self.session, pool.clone())));
            }
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
        Some((parts.io.into_inner().into_inner(), parts.read_buf))
    }
}

/// Polls a connection until it ends, or until it is given back idle.
async fn drive(mut connection: Connection, released: oneshot::Receiver<Release>) {
    let mut released = pin!(released);
    let release = poll_fn(|cx| {
        if let Poll::Ready(release) = released.as_mut().poll(cx) {
            return Poll::Ready(release.ok());
        }
        connection.poll_without_shutdown(cx).map(|_| None)
    })
    .await;
    let Some((mut sender, allowance, session, pool)) = release else { return };
    // The response is complete, but the backend may have answered before it had all of the request. Nobody counts the rest
    // any more, so it has to come soon.
    let ready = poll_fn(|cx| match connection.poll_without_shutdown(cx) {
        Poll::Ready(_) => Poll::Ready(false),
        Poll::Pending => sender.poll_ready(cx).map(|ready| ready.is_ok()),
    });
    if timeout(REST, ready).await == Ok(true) {
        pool.put(Idle { sender, connection, allowance, session, since: Instant::now() });
    }
}
