//! A request's way through the proxy, on one page: accept → route → gate → choose → link → forward or join → account.

use std::{net::SocketAddr, time::Instant};

use http::{HeaderValue, Method, Request, Response, Uri, Version, header, uri::PathAndQuery};
use hyper::body::Incoming;

use super::{
    Shared,
    account::Account,
    answer,
    body::Body,
    error::ProxyError,
    forward::{self, Forward},
    grpc,
    headers::{self, X_REQUEST_ID},
    tls::{self, TlsInfo},
    upgrade,
};
use crate::routing::{Backend, EntryPoint, Lookup, RequestInfo, normalize_host, normalize_path};

/// Whose connection a request comes on.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    /// The other end of the connection: the visitor, or a proxy in front of the edge.
    pub(super) peer: SocketAddr,
    /// The edge's end of it.
    pub(super) local: SocketAddr,
    /// What is known of its TLS, where it came over that.
    pub(super) tls: Option<TlsInfo>,
}

/// Answers one request; what the edge cannot forward, it answers itself.
pub(super) async fn handle(shared: &Shared, visitor: &Visitor, request: Request<Incoming>) -> Response<Body> {
    let request_id = request_id(shared, visitor, &request);
    let accept = request.headers().get(header::ACCEPT).cloned();
    let is_grpc = grpc::is_call(&request);
    // The account stays out here: where the future is dropped, it counts a visitor who left.
    let mut account = Account::open(shared.unrouted.clone(), request.method(), request.version(), Instant::now());
    match pass(shared, visitor, request, &request_id, &mut account).await {
        Ok(response) => response,
        Err(error) => {
            shared.makers.metrics.errors.with_label_values(&[error.reason()]).inc();
            if let ProxyError::Misconfigured(detail) = &error {
                tracing::warn!(request_id = ?request_id, %detail, "a route is misconfigured");
            } else {
                tracing::debug!(request_id = ?request_id, %error, "a request failed");
            }
            account.answered(error.status());
            let answer = answer::error(&error, &request_id, accept.as_ref());
            if is_grpc { grpc::answer(&error, answer) } else { answer }
        }
    }
}

async fn pass(
    shared: &Shared,
    visitor: &Visitor,
    mut request: Request<Incoming>,
    request_id: &HeaderValue,
    account: &mut Account,
) -> Result<Response<Body>, ProxyError> {
    // Accept: what is the visitor's own hop's goes first, or `Connection` could name what the edge adds. Then one host, named
    // the same everywhere from here on.
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(ProxyError::Method);
    }
    let upgrade = upgrade::take(&mut request);
    let host = accept_host(&mut request)?;

    // Route.
    let live = shared.live.load_full();
    let host = normalize_host(&host);
    let entry_point = if let Some(tls) = &visitor.tls {
        if tls::is_misdirected(live.table.certificates(), tls, &host) {
            return Err(ProxyError::Misdirected);
        }
        EntryPoint::Https
    } else {
        EntryPoint::Http
    };
    let path = normalize_path(request.uri().path()).ok_or(ProxyError::BadPath)?;
    let looked_up = RequestInfo {
        host: &host,
        path: &path,
        method: request.method(),
        headers: request.headers(),
        query: request.uri().query(),
    };
    let rule = match live.table.lookup(entry_point, &looked_up) {
        Lookup::Rule(rule) => rule,
        Lookup::NoRule => return Err(ProxyError::NoRoute),
        Lookup::UnknownHost => return Err(ProxyError::UnknownHost),
    };
    let state = live.host(rule).ok_or(ProxyError::UnknownHost)?;
    account.belongs_to(state.metrics.clone());

    // Gate.
    shared.gate.pass(rule, request.headers_mut()).await?;
    let backend = match &rule.backend {
        Backend::Tunnel(backend) => backend,
        Backend::Redirect(_) => return Err(ProxyError::NoRoute),
        Backend::Invalid(detail) => return Err(ProxyError::Misconfigured(detail.clone())),
    };

    // Choose, link, forward or join; the account goes with the response's body.
    let address = shared.config.trusted_proxies.visitor(request.headers(), visitor.peer);
    headers::set_forwarded(request.headers_mut(), visitor, &shared.config.trusted_proxies);
    request.headers_mut().insert(X_REQUEST_ID, request_id.clone());
    let forward =
        Forward { shared, live: &live, rule, backend, state, visitor: address, local: visitor.local, request_id };
    forward::forward(forward, request, upgrade, account).await
}

/// The host of a request, from its target where that has one (RFC 9112, 3.2.2), else from its one `Host` field. The
/// field is set and the target reduced to its path, so that the backend sees what was routed.
fn accept_host(request: &mut Request<Incoming>) -> Result<String, ProxyError> {
    let mut fields = request.headers().get_all(header::HOST).iter();
    let (field, more) = (fields.next(), fields.next());
    if more.is_some() {
        return Err(ProxyError::BadHost);
    }
    let host = match (request.uri().authority(), field) {
        // HTTP/2 has no older rule for two that differ (RFC 9113, 8.3.1).
        (Some(authority), Some(field))
            if request.version() == Version::HTTP_2
                && !field.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            return Err(ProxyError::BadHost);
        }
        (Some(authority), _) => authority.as_str(),
        (None, Some(field)) => field.to_str().map_err(|_| ProxyError::BadHost)?,
        (None, None) => return Err(ProxyError::BadHost),
    };
    let well_formed = |b: u8| b.is_ascii_alphanumeric() || b"-._~:[]".contains(&b);
    if host.is_empty() || !host.bytes().all(well_formed) {
        return Err(ProxyError::BadHost);
    }
    let host = host.to_owned();
    if request.uri().authority().is_some() {
        request.headers_mut().insert(header::HOST, HeaderValue::from_str(&host).map_err(|_| ProxyError::BadHost)?);
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
    }
    Ok(host)
}

/// A trusted proxy's id for the request, or a new one.
fn request_id(shared: &Shared, visitor: &Visitor, request: &Request<Incoming>) -> HeaderValue {
    if let Some(id) = request.headers().get(X_REQUEST_ID)
        && shared.config.trusted_proxies.contains(visitor.peer.ip())
    {
        return id.clone();
    }
    let id = format!("{:016x}{:016x}", rand::random::<u64>(), rand::random::<u64>());
    HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("-"))
}
