//! One visitor's connection: how it comes in, and the requests on it until it ends or becomes something else.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Version, header::CONNECTION};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};

use super::{
    http2,
    identity::Peer,
    phase::{InProgress, LAST_CHANCE, Phase, Stage},
    proxy_protocol,
    socket::Socket,
    stream::{Transport, VisitorStream},
    tls::{Arrival, Tls},
};
use crate::proxy::{
    Config, Shared,
    config::DEFAULT_MAX_HEADERS,
    error::Reason,
    message::{body::Body, download::BodyError, upload::UploadTerms},
    service::{self, Visitor},
};

/// What a connection holds at least of what its visitor does not take; more where heads may be larger.
const MIN_BUFFER: usize = 64 * 1024;

/// A connection that was accepted, and by whom.
pub(in crate::proxy) struct Accepted {
    pub(in crate::proxy) shared: Arc<Shared>,
    pub(in crate::proxy) tcp: TcpStream,
    pub(in crate::proxy) peer: SocketAddr,
    /// How visitors of its listener come in over TLS, where they do.
    pub(in crate::proxy) tls: Option<Arc<Tls>>,
    pub(in crate::proxy) shutdown: CancellationToken,
    /// Held until the connection has nothing left that a shutdown waits for.
    pub(in crate::proxy) token: TaskTrackerToken,
}

/// A response's body, which makes the connection idle when it is over.
pub(super) struct Tracked {
    body: Body,
    progress: InProgress,
    /// Only the end of the connection tells the visitor where the body ends.
    ends_with_connection: bool,
}

/// A connection that can be told to take no more requests.
pub(super) trait Serving: Future<Output = hyper::Result<()>> {
    /// Ends it after the requests in progress.
    fn graceful_shutdown(self: Pin<&mut Self>);
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

// === impl Accepted ===

impl Accepted {
    /// Serves a connection until it ends. On shutdown, the request in progress is the last one.
    pub(in crate::proxy) async fn serve(self) {
        let Self { shared, tcp, mut peer, tls, shutdown, token } = self;
        let Ok(mut local) = tcp.local_addr() else { return };
        let mut socket = Socket::new(tcp);
        if let Some(trusted) = &shared.config.proxy_protocol {
            let announced = proxy_protocol::read(&mut socket, peer, trusted, shared.config.header_timeout);
            match last_chance(&shutdown, announced).await {
                Some(Ok(Some(ends))) => (peer, local) = ends,
                Some(Ok(None)) => {}
                Some(Err(rejected)) => {
                    if let Some(reason) = rejected.reason() {
                        shared.makers.metrics.failed(reason);
                        tracing::debug!(%peer, reason = reason.label(), "a connection has no PROXY header that counts");
                    }
                    return;
                }
                None => return,
            }
        }
        let mut visitor = Visitor { peer: Peer::new(peer), local, tls: None };
        let phase;
        let stream = if let Some(tls) = tls {
            // Boxed, as HTTP/2 is below: of both, connections that need neither would have the size.
            match last_chance(&shutdown, Box::pin(tls.accept(socket, peer))).await {
                Some(Some(Arrival { stream, info, speaks_http2 })) => {
                    visitor.tls = Some(info);
                    phase = if speaks_http2 { Phase::multiplexed(&shared.config) } else { Phase::new(&shared.config) };
                    Transport::Tls(Box::new(stream))
                }
                Some(None) | None => return,
            }
        } else {
            match last_chance(&shutdown, begin(&mut socket, &shared.config)).await {
                Some(Ok(true)) => phase = Phase::multiplexed(&shared.config),
                Some(Ok(false)) => phase = Phase::new(&shared.config),
                Some(Err(error)) => {
                    if error.kind() == io::ErrorKind::TimedOut {
                        shared.count(&End::Expired(Stage::Head), peer);
                    }
                    return;
                }
                None => return,
            }
            Transport::Plain(socket)
        };
        let (phase, visitor) = (Arc::new(phase), Arc::new(visitor));
        let io = TokioIo::new(VisitorStream::new(stream, phase.clone(), shared.pacer.clone()));
        if phase.is_multiplexed() {
            let connection = http2::serve(&shared, io, &visitor, &phase);
            Box::pin(watch(&shared, &phase, connection, peer, shutdown, token)).await;
        } else {
            let service = service_fn(|mut request: Request<Incoming>| {
                let has_body = !request.body().is_end_stream();
                let mut progress = phase.begin(has_body);
                if has_body {
                    let terms = UploadTerms { uploading: Some(progress.upload()), ..UploadTerms::default() };
                    request.extensions_mut().insert(terms);
                }
                let ends_with_connection = request.version() == Version::HTTP_10;
                let (shared, visitor, phase) = (shared.clone(), visitor.clone(), phase.clone());
                async move {
                    let mut response = service::handle(&shared, &visitor, request).await;
                    if phase.is_leaving() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    progress.set_stall_timeout(shared.stall_timeout(response.body()));
                    Ok::<_, Infallible>(response.map(|body| Tracked { body, progress, ends_with_connection }))
                }
            });
            let mut builder = http1::Builder::new();
            builder.max_header_size(shared.config.max_header_bytes);
            builder.max_buf_size(shared.config.max_header_bytes.max(MIN_BUFFER));
            // Told a number, hyper fills lists of that length anew for each request, which costs 2 % of a small one.
            if shared.config.max_headers != DEFAULT_MAX_HEADERS {
                builder.max_headers(shared.config.max_headers);
            }
            let connection = builder.serve_connection(io, service).with_upgrades();
            watch(&shared, &phase, connection, peer, shutdown, token).await;
        }
    }
}

/// The beginning of a connection, which after a shutdown still may come, for a moment: its visitor is about to speak, and
/// would only see that nobody listens.
async fn last_chance<F: Future>(shutdown: &CancellationToken, beginning: F) -> Option<F::Output> {
    let mut beginning = pin!(beginning);
    tokio::select! {
        begun = &mut beginning => Some(begun),
        () = shutdown.cancelled() => timeout(LAST_CHANCE, beginning).await.ok(),
    }
}

/// Waits for the first bytes of a connection without TLS. Returns whether HTTP/2 begins, by prior knowledge (RFC 9113, 3.3).
async fn begin(socket: &mut Socket, config: &Config) -> io::Result<bool> {
    let expired = |_| io::Error::from(io::ErrorKind::TimedOut);
    if socket.early().is_empty() {
        // A connection that was never used ends as an idle one does, and is counted by nobody.
        let first = timeout(config.idle_timeout, socket.read_ahead()).await;
        if first.map_err(|_| io::ErrorKind::NotConnected)?? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    if let Some(is_preface) = http2::is_preface(socket.early()) {
        return Ok(is_preface);
    }
    let rest = async {
        loop {
            if let Some(is_preface) = http2::is_preface(socket.early()) {
                return Ok(is_preface);
            }
            if socket.read_ahead().await? == 0 {
                return Ok(false);
            }
        }
    };
    timeout(config.header_timeout, rest).await.map_err(expired)?
}

/// Runs a connection until it ends, or until its visitor has taken too long.
async fn watch<C: Serving>(
    shared: &Shared,
    phase: &Phase,
    connection: C,
    peer: SocketAddr,
    shutdown: CancellationToken,
    token: TaskTrackerToken,
) {
    let mut connection = pin!(connection);
    let stall_timeout = shared.config.stall_timeout;
    let mut deadline = phase.deadline();
    let mut timer = pin!(sleep_until(deadline.unwrap_or_else(Instant::now)));
    let mut draining = pin!(shutdown.cancelled());
    let (mut told, mut token) = (false, Some(token));
    // From when on an idle connection that was told to end is given up.
    let mut closing = None;
    let end = poll_fn(|cx| {
        if !told && draining.as_mut().poll(cx).is_ready() {
            told = true;
            if phase.is_multiplexed() {
                connection.as_mut().graceful_shutdown();
            } else {
                // Its end would come without a word where no request is in progress, and may cross the next one.
                phase.leave();
            }
        }
        if let Poll::Ready(result) = connection.as_mut().poll(cx) {
            return Poll::Ready(End::Closed(result));
        }
        if told && phase.only_joins() {
            // They end with their tunnels, which wait for nobody here.
            token = None;
        }
        // Only a head that does not come in one piece makes the timer earlier; otherwise it is left to fire, and is
        // then set to what is due, so that a busy connection hardly ever touches it.
        while let Some(due) = phase.deadline().map(|due| closing.map_or(due, |closing| due.max(closing))) {
            if deadline.is_none_or(|deadline| due < deadline) {
                deadline = Some(due);
                timer.as_mut().reset(due);
            }
            ready!(timer.as_mut().poll(cx));
            deadline = None;
            if due > Instant::now() {
                continue;
            }
            if phase.head_is_late() {
                // Nothing else can be read behind it. The visitor hears a goodbye if it takes one at once.
                connection.as_mut().graceful_shutdown();
                let _ = connection.as_mut().poll(cx);
                return Poll::Ready(End::Expired(Stage::Head));
            }
            if phase.visitor_stalls() {
                return Poll::Ready(End::Stalled);
            }
            if !phase.is_multiplexed() || closing.is_some() {
                return Poll::Ready(End::Expired(phase.stage()));
            }
            // The visitor is told, so that no request of its own gets lost on the way; and may have to take the last
            // bytes of a response yet.
            connection.as_mut().graceful_shutdown();
            (told, closing) = (true, Some(Instant::now() + stall_timeout));
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(End::Closed(result));
            }
        }
        Poll::Pending
    })
    .await;
    // Told before the connection is dropped, and its responses with it.
    match end {
        End::Expired(Stage::Head) if !phase.is_multiplexed() => phase.set_too_slow(),
        End::Stalled => phase.give_up(),
        _ => {}
    }
    shared.count(&end, peer);
}

// === impl Serving ===

impl<S> Serving for http1::UpgradeableConnection<TokioIo<VisitorStream>, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = Tracked>,
    S::Error: Into<BodyError>,
{
    fn graceful_shutdown(self: Pin<&mut Self>) {
        http1::UpgradeableConnection::graceful_shutdown(self);
    }
}

// === impl Shared ===

impl Shared {
    /// How long a visitor may take nothing of a response: as its rule has it for the backend's side.
    pub(in crate::proxy) fn stall_timeout(&self, body: &Body) -> Duration {
        body.idle_timeout().unwrap_or(self.config.stall_timeout)
    }

    /// Counts the end of a connection that was not in order.
    fn count(&self, end: &End, peer: SocketAddr) {
        if let Some(reason) = end.reason() {
            self.makers.metrics.failed(reason);
            tracing::debug!(%peer, ?end, "a visitor's connection ended");
        }
    }
}

// === impl End ===

impl End {
    /// What it counts as, where it was not in order.
    fn reason(&self) -> Option<Reason> {
        match self {
            Self::Closed(Ok(())) | Self::Expired(Stage::Idle | Stage::Busy | Stage::Closing) => None,
            Self::Closed(Err(error)) if error.is_parse_too_large() => Some(Reason::HeadTooLarge),
            Self::Closed(Err(error)) if error.is_parse() => Some(Reason::MalformedRequest),
            Self::Closed(Err(error)) if error.is_incomplete_message() => Some(Reason::IncompleteRequest),
            Self::Closed(Err(error)) => http2::reason(error),
            Self::Expired(Stage::Head) => Some(Reason::HeadTimeout),
            Self::Stalled => Some(Reason::VisitorStalled),
        }
    }
}

// === impl Tracked ===

impl Tracked {
    /// Of a connection whose protocol tells each response's end.
    pub(super) fn framed(body: Body, progress: InProgress) -> Self {
        Self { body, progress, ends_with_connection: false }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        if self.progress.phase().is_given_up() {
            self.body.give_up(Reason::VisitorStalled);
        }
    }
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        this.progress.asked();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        match &frame {
            Poll::Ready(Some(Ok(_))) => this.progress.handed(),
            Poll::Ready(Some(Err(_))) if this.ends_with_connection => this.progress.phase().cut(),
            _ => {}
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
