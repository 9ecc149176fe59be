//! Requests to switch protocols, as WebSockets begin (RFC 9110, 7.8).

use bytes::Bytes;
use http::{Request, Response, Version, header};
use hyper::{
    body::{Body as _, Incoming},
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;

use super::{Shared, account::Account, body::Body, connection::VisitorStream, error::ProxyError, headers, joiner};
use crate::{flow::Counted, tunnel::Link};

/// The visitor's side of an upgrade, where the request may be answered with one: from HTTP/1.1 on, and without a body,
/// which would have to end first.
pub(super) fn requested(request: &mut Request<Incoming>) -> Option<OnUpgrade> {
    let asked = request.version() == Version::HTTP_11
        && request.headers().contains_key(header::UPGRADE)
        && request.body().is_end_stream();
    asked.then(|| hyper::upgrade::on(request))
}

/// Answers with the backend's 101 and joins the two connections behind it, in a task of their own.
pub(super) fn accept(
    shared: &Shared,
    mut response: Response<Incoming>,
    (link, to_visitor): (Counted<Link>, Bytes),
    on_upgrade: OnUpgrade,
    account: &mut Account,
) -> Result<Response<Body>, ProxyError> {
    let protocol = headers::strip_hop_by_hop(response.headers_mut());
    let protocol =
        protocol.ok_or(ProxyError::InvalidResponse("it switches to a protocol that it does not name".into()))?;
    headers::set_upgrade(response.headers_mut(), protocol);
    account.answered(response.status());
    let join = account.take().into_join();
    let idle = shared.timeouts.upgrade_idle;
    tokio::spawn(async move {
        let _join = join;
        // The visitor may leave before the 101 is written; the link is reset with this task.
        let Ok(upgraded) = on_upgrade.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<VisitorStream>>() else { return };
        let mut visitor = parts.io.into_inner();
        let result = joiner::join(&mut visitor, parts.read_buf, link, to_visitor, idle).await;
        if let Err(error) = result {
            tracing::debug!(%error, "a join ended early");
            visitor.abort();
        }
    });
    Ok(response.map(|_| Body::Empty))
}
