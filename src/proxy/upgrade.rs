//! Requests to switch protocols, as WebSockets begin (RFC 9110, 7.8).

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use hyper::{
    body::{Body as _, Incoming},
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;

use super::{account::Account, body::Body, error::ProxyError, headers, joiner, visitor::VisitorStream};
use crate::{flow::Counted, tunnel::Link};

/// A request's wish to switch protocols.
pub(super) struct Upgrade {
    protocol: HeaderValue,
    visitor: OnUpgrade,
}

/// Takes what belongs to the visitor's own hop out of a request's headers, and with it the wish to switch protocols, where
/// that can be granted: from HTTP/1.1 on, and without a body, which would have to end first. HTTP/2 is not passed on in this
/// way: what came over it would go past routes, credentials and counts.
pub(super) fn take(request: &mut Request<Incoming>) -> Option<Upgrade> {
    let protocol = headers::strip_hop_by_hop(request.headers_mut())?;
    let grantable = request.version() == Version::HTTP_11 && request.body().is_end_stream() && !is_http(&protocol);
    grantable.then(|| Upgrade { protocol, visitor: hyper::upgrade::on(request) })
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
    pub(super) fn ask(&self, headers: &mut HeaderMap) {
        headers::set_upgrade(headers, self.protocol.clone());
    }
}

/// Answers with the backend's 101 and joins the two connections behind it, in a task of their own.
pub(super) fn accept(
    idle: Duration,
    mut response: Response<Incoming>,
    (link, to_visitor): (Counted<Link>, Bytes),
    upgrade: Upgrade,
    account: &mut Account,
) -> Result<Response<Body>, ProxyError> {
    let protocol = headers::strip_hop_by_hop(response.headers_mut());
    let protocol =
        protocol.ok_or(ProxyError::InvalidResponse("it switches to a protocol that it does not name".into()))?;
    headers::set_upgrade(response.headers_mut(), protocol);
    account.answered(response.status());
    let join = account.take().into_join();
    tokio::spawn(async move {
        let mut join = join;
        // The visitor may leave before the 101 is written; the link is reset with this task.
        let Ok(upgraded) = upgrade.visitor.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<VisitorStream>>() else { return };
        let mut visitor = parts.io.into_inner();
        let joined = joiner::join(&mut visitor, parts.read_buf, link, to_visitor, idle).await;
        if let Some(join) = &mut join {
            join.ended(&joined);
        }
        if let Some(error) = joined.error {
            tracing::debug!(%error, "a join ended early");
            visitor.abort();
        }
    });
    Ok(response.map(|_| Body::Empty))
}
