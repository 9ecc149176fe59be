//! A request's way through the proxy, on one page: accept → route → gate → choose → link → forward or join → account.

use std::net::SocketAddr;

use http::{
    HeaderValue, Method, Request, Response, Uri, Version, header,
    uri::{PathAndQuery, Scheme},
};
use hyper::body::Incoming;

use super::{
    Config, Shared,
    account::Account,
    answer::{self, Wanted},
    error::ProxyError,
    forward::{self, Forward},
    gate::{self, Asked, Entrant, Passed},
    joiner::upgrade,
    message::{body::Body, framing, headers},
    visitor::{
        identity::{self, Identity, Peer, X_REQUEST_ID},
        tls::{self, TlsInfo},
    },
};
use crate::routing::{Backend, EntryPoint, Lookup, RequestInfo, normalize_host, normalize_path};

/// Whose connection a request comes on.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    /// The other end of the connection: the visitor, or a proxy in front of the edge.
    pub(super) peer: Peer,
    /// The edge's end of it.
    pub(super) local: SocketAddr,
    /// What is known of its TLS, where it came over that.
    pub(super) tls: Option<TlsInfo>,
}

/// What becomes known of a request on its way and concerns every answer to it.
#[derive(Default)]
struct Known {
    /// `Strict-Transport-Security`, where the rule has it and the visitor uses TLS.
    hsts: Option<HeaderValue>,
}

/// Answers one request; what the edge cannot forward, it answers itself.
pub(super) async fn handle(shared: &Shared, visitor: &Visitor, request: Request<Incoming>) -> Response<Body> {
    let request_id = request_id(shared, visitor, &request);
    let wanted = Wanted::of(&request);
    let mut known = Known::default();
    // The account stays out here: where the future is dropped, it counts a visitor who left.
    let log = shared.config.access_log.as_ref();
    let mut account = Account::open(shared.unrouted.clone(), log, &request, &request_id, visitor);
    let answered = pass(shared, visitor, request, &request_id, &mut known, &mut account).await;
    let mut response = answered.unwrap_or_else(|error| {
        let reason = error.reason();
        shared.makers.metrics.failed(reason);
        if let ProxyError::Misconfigured(detail) = &error {
            tracing::warn!(request_id = ?request_id, reason = reason.label(), %detail, "a route is misconfigured");
        } else {
            tracing::debug!(request_id = ?request_id, reason = reason.label(), %error, "a request failed");
        }
        account.answered(error.status());
        account.failed(reason);
        let response = answer::error(&error, &request_id, &wanted);
        account.sends(response.body().size());
        response
    });
    if let Some(hsts) = known.hsts {
        response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, hsts);
    }
    response
}

async fn pass(
    shared: &Shared,
    visitor: &Visitor,
    mut request: Request<Incoming>,
    request_id: &HeaderValue,
    known: &mut Known,
    account: &mut Account,
) -> Result<Response<Body>, ProxyError> {
    // Accept: what is the visitor's own hop's goes first, or `Connection` could name what the edge adds. Then one host, named
    // the same everywhere from here on, and one visitor.
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(ProxyError::Method);
    }
    framing::check_request(&request)?;
    let upgrade = upgrade::take(&mut request);
    let authority = accept_host(&mut request)?;
    let Config { trusted_proxies, forwarded, .. } = &shared.config;
    let scheme = if visitor.tls.is_some() { &Scheme::HTTPS } else { &Scheme::HTTP };
    let Identity { address, secure } =
        identity::identify(request.headers_mut(), &visitor.peer, scheme, trusted_proxies, *forwarded);
    account.identified(address.ip(), request.headers());

    // Route.
    let live = shared.live.load_full();
    let host = normalize_host(&authority);
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
    let (state, route) = live.host(rule).ok_or(ProxyError::UnknownHost)?;
    account.belongs_to(state);
    known.hsts = gate::hsts(rule, secure);

    // Gate: policies that refuse, answer or change the request, what the edge adds to it too.
    let version = request.version();
    headers::add_via(request.headers_mut(), version);
    request.headers_mut().insert(X_REQUEST_ID, request_id.clone());
    let entrant = Entrant {
        rule,
        limits: &state.limits,
        passwords: &shared.passwords,
        replicas: shared.replicas(),
        visitor: address.ip(),
        host: &authority,
        secure,
        https_port: shared.config.public_https_port,
    };
    let body_limit = match entrant.pass(&mut request, account).await? {
        Passed::On { body_limit } => body_limit,
        Passed::Answered(response) => {
            account.answered(response.status());
            return Ok(response);
        }
    };
    let backend = match &rule.backend {
        Backend::Tunnel(backend) => backend,
        Backend::Redirect(redirect) => {
            let asked = Asked { host: &authority, secure, uri: request.uri() };
            account.answered(redirect.status);
            return Ok(gate::redirect(redirect, &asked, &rule.matches.path));
        }
        Backend::Invalid(detail) => return Err(ProxyError::Misconfigured(detail.clone())),
    };

    // Choose, link, forward or join; the account goes with the response's body. Of the response, its header fields are
    // changed by policies; compression will be a stage around its body.
    let forward = Forward {
        shared,
        live: &live,
        rule,
        backend,
        state,
        route,
        visitor: address,
        local: visitor.local,
        body_limit,
        request_id,
    };
    forward::forward(forward, request, upgrade, account).await
}

/// The host of a request that [`framing`] has let pass, from its target where that has one (RFC 9112, 3.2.2), else from its
/// one `Host` field. The field is set and the target reduced to its path, so that the backend sees what was routed.
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
        && shared.config.trusted_proxies.contains(visitor.peer.address.ip())
    {
        return id.clone();
    }
    let id = format!("{:032x}", rand::random::<u128>());
    HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("-"))
}
