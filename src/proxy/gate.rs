//! The gate: what a request has to pass before anything is done for it, and what is changed in it and in its answer.
//!
//! A file a policy. External authentication will be one more filter here, and CORS one that answers by itself, as
//! [`Passed::Answered`].

mod basic;
mod concurrency;
pub(super) mod limits;
mod rate;
mod rewrite;

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Body as HttpBody;

use self::limits::Limits;
pub(super) use self::{
    basic::{Passwords, Turn},
    concurrency::{InProgress, Place},
    rate::Rate,
    rewrite::{Asked, redirect},
};
use super::{
    account::Account,
    error::ProxyError,
    message::{body::Body, headers::remove_where, upload::UploadTerms},
};
use crate::routing::{Filter, HeaderRules, Rule};

/// Who comes to the gate, and by which rule.
pub(super) struct Entrant<'a> {
    pub(super) rule: &'a Rule,
    pub(super) limits: &'a Limits,
    pub(super) passwords: &'a Passwords,
    /// How many replicas share the limits.
    pub(super) replicas: u32,
    /// The visitor's own address, behind all trusted proxies.
    pub(super) visitor: IpAddr,
    /// The host as it was asked for, with its port.
    pub(super) host: &'a str,
    /// The visitor uses TLS, to the edge or to a trusted proxy.
    pub(super) secure: bool,
    /// Where visitors find the edge with TLS.
    pub(super) https_port: u16,
}

/// What becomes of a request.
pub(super) enum Passed {
    /// It goes on; its body is of at most so many bytes.
    On { body_limit: Option<u64> },
    /// It needs no backend.
    Answered(Response<Body>),
}

// === impl Entrant ===

impl Entrant<'_> {
    /// Lets a request pass the rule's filters in their order, or says why not.
    pub(super) async fn pass<B: HttpBody>(
        &self,
        request: &mut Request<B>,
        account: &mut Account,
    ) -> Result<Passed, ProxyError> {
        let mut body_limit = None;
        for filter in &self.rule.filters {
            match filter {
                Filter::RequireTls if !self.secure => {
                    let asked = Asked { host: self.host, secure: false, uri: request.uri() };
                    return Ok(Passed::Answered(rewrite::to_tls(&asked, self.https_port)));
                }
                Filter::Access(access) if !access.allows(self.visitor) => {
                    return Err(ProxyError::AccessDenied(self.visitor));
                }
                Filter::RequestRate(rate) => {
                    if let Some(rate) = self.limits.rate(rate) {
                        rate.take(self.visitor, self.replicas).map_err(|wait| ProxyError::RequestRate { wait })?;
                    }
                }
                Filter::ConcurrentRequests(limit) => {
                    let place = self.limits.place(*limit, self.replicas).ok_or(ProxyError::ConcurrentRequests)?;
                    account.hold(place);
                }
                Filter::BasicAuth(auth) => {
                    let presented = request.headers().get(header::AUTHORIZATION);
                    if !self.passwords.authorized(&self.limits.passwords, auth, presented).await? {
                        return Err(ProxyError::Unauthorized { realm: auth.realm.clone() });
                    }
                    // What the edge itself checked is not passed on.
                    request.headers_mut().remove(header::AUTHORIZATION);
                }
                Filter::BodySize(most) => {
                    // At least this long, by what the visitor says.
                    if request.body().size_hint().lower() > *most {
                        return Err(ProxyError::BodyTooLarge(*most));
                    }
                    body_limit = Some(*most);
                }
                Filter::RequestHeaders(rules) => {
                    // In whatever spelling the visitor has said it.
                    remove_where(request.headers_mut(), |name| rules.governs(name));
                    change(request.headers_mut(), rules);
                    if !request.body().is_end_stream() {
                        // Nor may it come behind the body, where some recipients put trailers beside the head's fields.
                        let terms: &mut UploadTerms = request.extensions_mut().get_or_insert_default();
                        terms.rules = Some(rules.clone());
                    }
                }
                Filter::ReplacePrefix(with) => {
                    // As it came it must not go on: the backend would see what it was not meant to.
                    let uri = rewrite::rewritten(request.uri(), &self.rule.matches.path, with);
                    *request.uri_mut() =
                        uri.ok_or(ProxyError::Malformed("its target is too long once it is rewritten"))?;
                }
                // Passed, or of the answer.
                Filter::RequireTls | Filter::Access(_) | Filter::ResponseHeaders(_) | Filter::Hsts(_) => {}
            }
        }
        Ok(Passed::On { body_limit })
    }
}

/// Changes the header fields of a backend's response as the rule says.
pub(super) fn change_response(rule: &Rule, headers: &mut HeaderMap) {
    for filter in &rule.filters {
        if let Filter::ResponseHeaders(rules) = filter {
            change(headers, rules);
        }
    }
}

/// What every answer of the rule over TLS says of TLS; over another way it would be ignored (RFC 6797, 8.1).
pub(super) fn hsts(rule: &Rule, secure: bool) -> Option<HeaderValue> {
    let mut filters = rule.filters.iter().filter(|_| secure);
    filters.find_map(|filter| if let Filter::Hsts(value) = filter { Some(value.clone()) } else { None })
}

fn change(headers: &mut HeaderMap, rules: &HeaderRules) {
    for name in &rules.remove {
        headers.remove(name);
    }
    for (name, value) in &rules.set {
        headers.insert(name, value.clone());
    }
    for (name, value) in &rules.add {
        headers.append(name, value.clone());
    }
}
