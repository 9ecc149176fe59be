//! HTTP/2 to backends: connections that requests of many visitors share.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, Request, Response, Uri, Version, header, uri::Scheme};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{BackendStream, SendError, heads::Heads, watched::Watched};
use crate::{bridge::AgentSession, proxy::message::upload::RequestBody};

/// Requests that share a connection at most, whatever more the backend would take: beyond that a link of its own carries more.
pub(crate) const MAX_STREAMS: usize = 100;
/// How much of one response the edge takes before its visitor has.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The connection's window is no limit: one slow visitor would stop the others. It is also what h2 measures its budget for
/// small frames by, and beyond that it would end the connection, as with a slow visitor of a talkative gRPC stream.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// How much of one upload waits for the backend's window.
const SEND_BUFFER: usize = 64 * 1024;
/// Of what is larger, the library only says that the stream is broken. So it reads somewhat more than a head may have, and whoever
/// gets the head says that it is too large.
const HEAD_BYTES_READ: u32 = 128 * 1024;
/// How often a backend with requests in progress is asked whether it is still there, and how long it may take to say so.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);

/// A connection that many requests share; it ends when nobody has it any more.
pub(crate) struct Shared {
    sender: http2::SendRequest<RequestBody>,
    scheme: Scheme,
    /// Requests in progress.
    active: AtomicUsize,
    /// How many the backend takes at a time.
    limit: Arc<AtomicUsize>,
    settings: Arc<Settings>,
    /// Carries it.
    session: Arc<AgentSession>,
    idle_since: Mutex<Instant>,
}

/// Looks for the backend's settings, of whose coming nobody is told: they are there with the first response.
#[derive(Default)]
struct Settings {
    ask: Notify,
    asked: AtomicBool,
}

/// A place for one request on a shared connection.
pub(crate) struct Lease {
    shared: Arc<Shared>,
    reused: bool,
}

// === impl Shared ===

impl Shared {
    /// Speaks HTTP/2 over a stream of this session; the first place is the caller's. `limit` is how many requests this backend
    /// takes on one connection, as far as is known.
    pub(crate) async fn handshake(
        stream: BackendStream,
        session: Arc<AgentSession>,
        limit: Arc<AtomicUsize>,
    ) -> hyper::Result<Lease> {
        let scheme = if matches!(stream, BackendStream::Tls(_)) { Scheme::HTTPS } else { Scheme::HTTP };
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(HEAD_BYTES_READ)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .handshake(TokioIo::new(Watched::new(stream, Heads::default())))
            .await?;
        let settings = Arc::<Settings>::default();
        let (known, asked) = (limit.clone(), settings.clone());
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            let end = loop {
                tokio::select! {
                    end = connection.as_mut() => break end,
                    () = asked.ask.notified() => {}
                }
                known.store(connection.current_max_send_streams().min(MAX_STREAMS), Ordering::Relaxed);
            };
            if let Err(error) = end {
                tracing::debug!(%error, "a shared connection to a backend ended");
            }
        });
        let active = AtomicUsize::new(1);
        let shared = Self { sender, scheme, active, limit, settings, session, idle_since: Mutex::new(Instant::now()) };
        Ok(Lease { shared: Arc::new(shared), reused: false })
    }

    /// A place on it, where one is free and the backend still takes requests.
    pub(crate) fn lease(self: &Arc<Self>) -> Option<Lease> {
        let limit = self.limit.load(Ordering::Relaxed);
        let place = |active| (active < limit).then_some(active + 1);
        if !self.is_open() || self.active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, place).is_err() {
            return None;
        }
        Some(Lease { shared: self.clone(), reused: true })
    }

    /// Whether the backend takes more requests; not after a GOAWAY, for example.
    pub(crate) fn is_open(&self) -> bool {
        self.sender.is_ready()
    }

    /// What carries it.
    pub(crate) fn session(&self) -> &Arc<AgentSession> {
        &self.session
    }

    /// Since when nothing has been in progress on it; `None` while something is.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        (self.active.load(Ordering::Relaxed) == 0).then(|| *self.idle_since.lock())
    }
}

// === impl Lease ===

impl Lease {
    /// The connection, for others to share.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// What carries the connection.
    pub(crate) fn session(&self) -> &Arc<AgentSession> {
        self.shared.session()
    }

    /// Whether the connection carried a request before.
    pub(crate) fn is_reused(&self) -> bool {
        self.reused
    }

    pub(super) fn send(
        self,
        mut request: Request<RequestBody>,
    ) -> impl Future<Output = Result<(Response<Incoming>, Self), Box<SendError>>> {
        to_http2(&mut request, &self.shared.scheme);
        if let Some(expectation) = request.body().expectation() {
            // hyper tells nobody of interim responses over HTTP/2.
            expectation.give_up();
        }
        // Others do not have to wait for the clone: the connection has no end as long as somebody holds it.
        let sent = self.shared.sender.clone().try_send_request(request);
        async move {
            match sent.await {
                Ok(response) => {
                    if !self.shared.settings.asked.swap(true, Ordering::Relaxed) {
                        self.shared.settings.ask.notify_one();
                    }
                    Ok((response, self))
                }
                Err(error) => {
                    let mut error = Box::<SendError>::from(error);
                    if let Some(request) = &mut error.unsent {
                        to_http1(request);
                    }
                    Err(error)
                }
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.shared.active.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.shared.idle_since.lock() = Instant::now();
        }
    }
}

/// Names the host as HTTP/2 does, in the target.
fn to_http2(request: &mut Request<RequestBody>, scheme: &Scheme) {
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.remove(header::TRANSFER_ENCODING);
    let Some(host) = headers.remove(header::HOST) else { return };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(scheme.clone());
    parts.authority = host.to_str().ok().and_then(|host| host.parse().ok());
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
}

/// The way back, for a request that another connection gets.
fn to_http1(request: &mut Request<RequestBody>) {
    *request.version_mut() = Version::HTTP_11;
    let uri = std::mem::take(request.uri_mut());
    if let Some(host) = uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok()) {
        request.headers_mut().insert(header::HOST, host);
    }
    *request.uri_mut() = uri.path_and_query().cloned().map(Uri::from).unwrap_or_default();
    if !request.body().is_empty() && !request.headers().contains_key(header::CONTENT_LENGTH) {
        request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_the_same_after_both_ways() {
        let mut request = Request::new(RequestBody::Empty);
        *request.uri_mut() = Uri::from_static("/a?b=c");
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("shop.example.com:8443"));
        to_http2(&mut request, &Scheme::HTTPS);
        assert_eq!(request.uri(), "https://shop.example.com:8443/a?b=c");
        assert!(request.headers().is_empty());
        to_http1(&mut request);
        assert_eq!(request.uri(), "/a?b=c");
        assert_eq!(request.headers()[header::HOST], "shop.example.com:8443");
        assert_eq!(request.version(), Version::HTTP_11);
    }
}
