//! Forwarding: one request to a backend through a link, in as many attempts as its safety allows.

use std::{future::Future, net::SocketAddr, pin::pin, sync::Arc};

use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Shared,
    account::Account,
    backend::{BackendStream, Exchange, SendError, Upstream, pool::Pool},
    choose::{Choice, Chooser, Tried},
    error::{ProxyError, failure},
    gate,
    joiner::upgrade::{self, Upgrade},
    live::{HostState, Live, places::RouteState, reach::News},
    message::{body::Body, download::Download, expect::Expectation, framing, headers, upload::RequestBody},
    visitor::{identity::TRACEPARENT, proxy_protocol},
};
use crate::{
    bridge::AgentSession,
    flow::Counted,
    routing::{Protocol, Rule, TunnelBackend},
    tunnel::Open,
};

/// What is known of a request when it is forwarded.
pub(super) struct Forward<'a> {
    pub(super) shared: &'a Shared,
    pub(super) live: &'a Live,
    pub(super) rule: &'a Rule,
    pub(super) backend: &'a TunnelBackend,
    pub(super) state: &'a Arc<HostState>,
    pub(super) route: &'a RouteState,
    pub(super) visitor: SocketAddr,
    /// The edge's end of the visitor's connection.
    pub(super) local: SocketAddr,
    /// Most bytes that the request's body may have.
    pub(super) body_limit: Option<u64>,
    pub(super) request_id: &'a HeaderValue,
}

/// A connection to a backend, ready for one request.
struct Connected {
    upstream: Upstream,
    /// It carried a request before, so that the backend may just be closing it.
    reused: bool,
    pool: Arc<Pool>,
}

/// A response's head, and where its body comes from.
struct Answered {
    response: Response<Incoming>,
    exchange: Exchange,
    pool: Arc<Pool>,
    /// It came before the request's body was wanted, which then never is.
    refused: bool,
}

/// Forwards a request and gives its response back as it comes; joins the connections where the backend switches
/// protocols.
pub(super) async fn forward(
    forward: Forward<'_>,
    request: Request<Incoming>,
    upgrade: Option<Upgrade>,
    account: &mut Account,
) -> Result<Response<Body>, ProxyError> {
    // HTTP/2 has no upgrades, so backends of it are not asked for one. What remains of a CONNECT then is no request.
    let speaks_http2 = matches!(forward.backend.protocol, Protocol::H2c);
    if speaks_http2 && upgrade.as_ref().is_some_and(Upgrade::is_connect) {
        return Err(ProxyError::InvalidResponse(
            "it speaks HTTP/2, over which it is not asked to switch protocols".into(),
        ));
    }
    let upgrade = upgrade.filter(|_| !speaks_http2);
    let visitors_version = request.version();
    let mut outgoing = outgoing(request, forward.body_limit);
    if let Some(upgrade) = &upgrade {
        upgrade.ask(outgoing.headers_mut());
    }
    if let Some(host) = &forward.backend.host_header
        && let Ok(host) = HeaderValue::from_str(host)
    {
        outgoing.headers_mut().insert(header::HOST, host);
    }
    let upload = outgoing.body().progress();
    account.uploads(upload.clone());
    let (answered, session) = forward.attempts(outgoing, upgrade.is_some(), account).await?;
    let Answered { mut response, exchange, pool, refused } = answered;
    account.backend_answered(response.status());

    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(upgrade) = upgrade else {
            return Err(ProxyError::InvalidResponse("it switches protocols unasked".into()));
        };
        let stream = exchange.into_stream().await.ok_or(ProxyError::BackendClosed)?;
        let terms = (forward.rule.timeouts.upgrade_idle, session.ending().clone());
        let mut response = upgrade::accept(terms, response, stream, upgrade, account)?;
        gate::change_response(forward.rule, response.headers_mut());
        return Ok(response);
    }
    if upgrade.is_some_and(|upgrade| !upgrade.may_be_answered(response.status())) {
        return Err(ProxyError::InvalidResponse("it does not switch to the protocol that was asked for".into()));
    }
    headers::strip_hop_by_hop(response.headers_mut());
    let version = response.version();
    headers::add_via(response.headers_mut(), version);
    gate::change_response(forward.rule, response.headers_mut());
    if refused && visitors_version <= Version::HTTP_11 {
        // Or the visitor could not know whether its next bytes are the body or a request (RFC 9110, 10.1.1).
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    account.answered(response.status());
    let idle = forward.rule.timeouts.stream_idle;
    let metrics = forward.shared.makers.metrics.clone();
    let account = account.take();
    Ok(response.map(|incoming| {
        Body::Download(Box::new(Download::new(incoming, exchange, pool, idle, upload, metrics, account)))
    }))
}

impl Forward<'_> {
    /// Tries until a backend answers, or until another attempt would not be safe or would change nothing. A request that may
    /// become a join gets a link of its own. The answer comes with the session that it comes through.
    async fn attempts(
        &self,
        mut request: Request<RequestBody>,
        own_link: bool,
        account: &mut Account,
    ) -> Result<(Answered, Arc<AgentSession>), ProxyError> {
        let chooser = Chooser {
            live: self.live,
            registry: &self.shared.registry,
            backend: self.backend,
            route: self.route,
            visitor: self.visitor.ip(),
            replicas: self.shared.replicas(),
        };
        let draw = chooser.draw();
        let mut tried = Vec::new();
        let mut failure = None;
        for _ in 0..self.backend.attempts {
            // The seat of the attempt before is free for this one.
            account.seat = None;
            let (choice, seat) = match chooser.choose(draw, &tried) {
                Ok(choice) => choice,
                // What went wrong before says more than that nothing is left.
                Err(error) => return Err(failure.unwrap_or(error)),
            };
            account.seat = Some(seat);
            account.tries(&choice.session.agent, choice.target);
            let connected = match self.connect(&choice, own_link, request.headers()).await {
                Ok(connected) => connected,
                Err(error) if error.may_go_elsewhere() => {
                    // A session that was over before it was of use says no more than that nobody is there.
                    if error != ProxyError::SessionLost {
                        failure = Some(error);
                    }
                    tried.push(choice.into());
                    continue;
                }
                Err(error) => return Err(error),
            };
            // Pools are a process's, so that it may not be the session that was chosen.
            let carrier = connected.upstream.session().clone();
            match self.exchange(&carrier, connected, request).await {
                Ok(answered) => {
                    if chooser.ejects() {
                        self.reached(&choice);
                    }
                    return Ok((answered, choice.session));
                }
                Err((error, Some(unsent))) => {
                    // It may still be listed.
                    if carrier.is_closed() {
                        tried.push(Tried { session: carrier, target: choice.target.clone() });
                    }
                    (failure, request) = (Some(error), unsent);
                }
                Err((error, None)) => return Err(error),
            }
        }
        Err(failure.unwrap_or(ProxyError::NoSession))
    }

    /// A connection of this TunnelHost to the target that takes a request, or one over a new link.
    async fn connect(&self, choice: &Choice<'_>, own_link: bool, headers: &HeaderMap) -> Result<Connected, ProxyError> {
        let Choice { session, target, .. } = choice;
        let pool = self.state.pool(session.process, target, &self.backend.protocol);
        if self.backend.proxy_protocol.is_some() {
            // What was said of one visitor holds for no other.
            let pool = Arc::new(pool.closed());
            let upstream = self.dial(choice, &pool, own_link, headers).await?;
            return Ok(Connected { upstream, reused: false, pool });
        }
        if own_link {
            let upstream = self.dial(choice, &pool, true, headers).await?;
            return Ok(Connected { upstream, reused: false, pool });
        }
        if let Some(upstream) = pool.take() {
            return Ok(Connected { reused: upstream.is_reused(), upstream, pool });
        }
        if matches!(self.backend.protocol, Protocol::Http) {
            let upstream = self.dial(choice, &pool, false, headers).await?;
            return Ok(Connected { upstream, reused: false, pool });
        }
        // One connection is for many: who comes while it is made waits for it.
        let limit = self.rule.timeouts.connect;
        let dialling = timeout(limit, pool.dialling()).await.map_err(|_| ProxyError::ConnectTimeout(limit))?;
        if dialling.is_some()
            && let Some(upstream) = pool.take()
        {
            drop(dialling);
            return Ok(Connected { reused: upstream.is_reused(), upstream, pool });
        }
        let upstream = self.dial(choice, &pool, false, headers).await?;
        pool.speaks_http2(matches!(upstream, Upstream::Http2(_)));
        if let Upstream::Http2(lease) = &upstream {
            pool.share(lease.shared());
        }
        drop(dialling);
        Ok(Connected { upstream, reused: false, pool })
    }

    /// A connection over a new link. Boxed, so that the requests that need none have no room for what it takes.
    fn dial<'b>(
        &'b self,
        choice: &'b Choice<'b>,
        pool: &'b Pool,
        own_link: bool,
        headers: &'b HeaderMap,
    ) -> BoxFuture<'b, Result<Upstream, ProxyError>> {
        Box::pin(self.dialled(choice, pool, own_link, headers))
    }

    async fn dialled(
        &self,
        choice: &Choice<'_>,
        pool: &Pool,
        own_link: bool,
        headers: &HeaderMap,
    ) -> Result<Upstream, ProxyError> {
        let Choice { session, target, .. } = choice;
        // A link that will be reused belongs to no one visitor or request.
        let of_visitor = own_link || self.backend.proxy_protocol.is_some();
        let own = |value: Option<&HeaderValue>| {
            value.filter(|_| of_visitor).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let open = Open {
            target: target.as_str().to_owned(),
            tunnel_host: self.state.name.to_string(),
            visitor: of_visitor.then_some(self.visitor),
            request_id: own(Some(self.request_id)),
            traceparent: own(headers.get(TRACEPARENT)),
            agent: None,
        };
        let limit = self.rule.timeouts.connect;
        let started = Instant::now();
        let opening = async {
            let _place = pool.opening().await;
            let mut link = session.open(&open).map_err(|_| ProxyError::SessionLost)?;
            link.opened().await.map_err(|error| failure::of_link(&error, limit))?;
            Ok(link)
        };
        let opened = timeout(limit, opening).await.unwrap_or(Err(ProxyError::ConnectTimeout(limit)));
        let link = match opened {
            Ok(link) => link,
            Err(error) => {
                self.not_reached(choice, &error);
                return Err(error);
            }
        };
        self.reached(choice);
        self.shared.makers.metrics.link_open.observe(started.elapsed().as_secs_f64());
        // The TunnelHost may be deleted in this moment.
        let meter = self.state.meter(&session.agent, &self.shared.makers.flow).ok_or(ProxyError::UnknownHost)?;
        let mut link = Counted::new(link, meter);
        if let Some(version) = self.backend.proxy_protocol {
            let told = proxy_protocol::write(&mut link, version, self.visitor, self.local);
            timeout(limit, told)
                .await
                .map_err(|_| ProxyError::ConnectTimeout(limit))?
                .map_err(|_| ProxyError::BackendClosed)?;
        }
        let (stream, speaks_http2) = match &self.backend.protocol {
            Protocol::Http => (BackendStream::Plain(link), false),
            Protocol::H2c => (BackendStream::Plain(link), true),
            Protocol::Https(tls) => self.shared.backend_configs.connect(tls, target, own_link, link, limit).await?,
        };
        let carrier = session.clone();
        let upstream = if speaks_http2 {
            Upstream::http2(stream, carrier, pool).await
        } else {
            Upstream::http1(stream, carrier).await
        };
        upstream.map_err(|error| failure::of_backend(&error))
    }

    /// The backend at this place has taken a connection, or answered.
    fn reached(&self, Choice { session, target, place }: &Choice<'_>) {
        if self.state.reach(&session.agent, target, place).is_some_and(|reach| reach.succeeded(session.process)) {
            self.shared.makers.reach_news.send_replace(());
        }
    }

    /// There is no connection to the backend at this place, for a reason that may be the place's own.
    fn not_reached(&self, Choice { session, target, place }: &Choice<'_>, error: &ProxyError) {
        let Some(problem) = failure::of_place(error, target) else { return };
        let Some(reach) = self.state.reach(&session.agent, target, place) else { return };
        reach.learns_through(session.process, |process| self.shared.registry.leads(&session.agent, process));
        let several = self.route.places.len() > 1;
        let News { ejected, seen } = reach.failed(problem, &self.backend.passive_health, several);
        if ejected {
            let tunnel_host = &self.state.name;
            tracing::warn!(%tunnel_host, agent = %session.agent, %target, "the target gets no requests for a while: {error}");
            self.state.ejected(&session.agent, target);
        }
        if seen {
            self.shared.makers.reach_news.send_replace(());
        }
    }

    /// Sends a request over a connection that this session carries, and waits for its response's head. The error gives the
    /// request back where it may be sent again: the backend did nothing of it, or it is safe to repeat and a reused connection
    /// was closing or the session was lost.
    fn exchange(
        &self,
        session: &AgentSession,
        connected: Connected,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Answered, (ProxyError, Option<Request<RequestBody>>)>> {
        let Connected { upstream, reused, pool } = connected;
        let repeatable = request.body().is_empty().then(|| copy(&request));
        let limit = self.rule.timeouts.response_head;
        let (progress, expectation) = (request.body().progress(), request.body().expectation());
        // Handed over before the future begins, which would else keep room for it.
        let sent = upstream.send(request);
        async move {
            let mut sent = pin!(sent);
            let mut deadline = Instant::now() + limit;
            loop {
                match timeout_at(deadline, sent.as_mut()).await {
                    Ok(Ok((mut response, mut exchange))) => {
                        framing::check_response(&mut response).map_err(|error| (error, None))?;
                        let refused = expectation.is_some_and(|expectation| expectation.answered(response.status()));
                        if refused {
                            exchange.abandon_upload();
                        }
                        return Ok(Answered { response, exchange, pool, refused });
                    }
                    Ok(Err(error)) => {
                        let SendError { error, unsent } = *error;
                        let lost = session.is_closed();
                        if lost {
                            pool.lost(session);
                        }
                        let may_repeat = |request: &Request<_>| {
                            let broke_off = lost || failure::is_lost(&error) || reused && failure::is_close(&error);
                            failure::is_unprocessed(&error) || broke_off && is_idempotent(request.method())
                        };
                        let unsent = unsent.or(repeatable.filter(may_repeat));
                        let error = if lost {
                            ProxyError::SessionLost
                        } else {
                            failure::of_exchange(&error, progress.as_deref())
                        };
                        return Err((error, unsent));
                    }
                    // The clock of the response starts when the upload ends.
                    Err(_) => match progress.as_ref().map(|progress| progress.last() + limit) {
                        Some(later) if later > Instant::now() => deadline = later,
                        Some(_) if progress.as_ref().is_some_and(|progress| progress.waits()) => {
                            return Err((ProxyError::RequestTimeout(limit), None));
                        }
                        _ => return Err((ProxyError::ResponseTimeout(limit), None)),
                    },
                }
            }
        }
    }
}

/// The request as the backend gets it: HTTP/1.1, whatever the visitor spoke.
fn outgoing(request: Request<Incoming>, body_limit: Option<u64>) -> Request<RequestBody> {
    let (mut parts, body) = request.into_parts();
    let expectation = Expectation::take(parts.version, &mut parts.headers, !body.is_end_stream());
    let uploading = parts.extensions.remove();
    let mut request = Request::new(RequestBody::new(body, expectation.clone(), body_limit, uploading));
    if let Some(expectation) = expectation {
        expectation.watch(&mut request);
    }
    *request.method_mut() = parts.method;
    *request.uri_mut() = parts.uri;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = parts.headers;
    if !request.body().is_empty() && !request.headers().contains_key(header::CONTENT_LENGTH) {
        // Said explicitly, since hyper takes a GET without it for one without a body.
        request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    request
}

/// A copy of a request without a body.
fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// RFC 9110, 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS | Method::TRACE)
}
