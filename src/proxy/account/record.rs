use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};

use crate::{
    proxy::{error::Reason, message::upload::Progress, metrics, service::Visitor, visitor::identity},
    routing::{ObjectName, Target},
    telemetry::access_log::{AccessLog, Entry},
};

/// What the access log will say of a request; written when it is over.
pub(super) struct Record {
    log: AccessLog,
    time: SystemTime,
    method: Method,
    version: Version,
    uri: Uri,
    host: Option<HeaderValue>,
    request_id: HeaderValue,
    visitor: IpAddr,
    tls: Option<&'static str>,
    trace_id: Option<Box<str>>,
    pub(super) tunnel_host: Option<ObjectName>,
    /// Where the last attempt went, and when.
    pub(super) attempt: Option<(ObjectName, Target, Instant)>,
    pub(super) attempts: u32,
    pub(super) backend: Option<(StatusCode, Duration)>,
    /// Counts the request's body.
    pub(super) upload: Option<Arc<Progress>>,
    /// Bytes of a join from the visitor.
    pub(super) received: u64,
    /// Bytes of the response's body, or of a join, to the visitor.
    pub(super) sent: u64,
    pub(super) reason: Option<Reason>,
}

// === impl Record ===

impl Record {
    pub(super) fn new<B>(log: AccessLog, request: &Request<B>, request_id: &HeaderValue, visitor: &Visitor) -> Self {
        Self {
            log,
            time: SystemTime::now(),
            method: request.method().clone(),
            version: request.version(),
            uri: request.uri().clone(),
            host: request.headers().get(header::HOST).cloned(),
            request_id: request_id.clone(),
            visitor: visitor.peer.address.ip(),
            tls: visitor.tls.as_ref().map(|tls| tls.version),
            trace_id: None,
            tunnel_host: None,
            attempt: None,
            attempts: 0,
            backend: None,
            upload: None,
            received: 0,
            sent: 0,
            reason: None,
        }
    }

    pub(super) fn identified(&mut self, visitor: IpAddr, headers: &HeaderMap) {
        self.visitor = visitor;
        self.trace_id = identity::trace_id(headers).map(Into::into);
    }

    pub(super) fn write(&self, status: u16, duration: Duration) {
        let host = match (self.uri.authority(), &self.host) {
            (Some(authority), _) => authority.as_str(),
            (None, Some(host)) => host.to_str().unwrap_or_default(),
            (None, None) => "",
        };
        // One of the TunnelHost's own namespace by its name, as in the metrics.
        let of_host =
            |agent: &ObjectName| self.tunnel_host.as_ref().is_some_and(|host| host.namespace == agent.namespace);
        let foreign = self.attempt.as_ref().filter(|(agent, ..)| !of_host(agent)).map(|(agent, ..)| agent.to_string());
        self.log.log(&Entry {
            time: self.time,
            duration,
            visitor: self.visitor.to_canonical(),
            method: self.method.as_str(),
            host,
            path: self.uri.path_and_query().map_or("/", |path| path.as_str()),
            protocol: metrics::protocol(self.version),
            tls: self.tls,
            status,
            received: self.received + self.upload.as_ref().map_or(0, |upload| upload.bytes()),
            sent: self.sent,
            tunnelhost: self.tunnel_host.as_ref().map(|name| (&*name.namespace, &*name.name)),
            agent: foreign.as_deref().or_else(|| self.attempt.as_ref().map(|(agent, ..)| &*agent.name)),
            target: self.attempt.as_ref().map(|(_, target, _)| target.as_str()),
            retries: self.attempts.saturating_sub(1),
            backend_status: self.backend.map(|(status, _)| status.as_u16()),
            backend_time: self.backend.map(|(_, time)| time),
            request_id: self.request_id.to_str().unwrap_or_default(),
            trace_id: self.trace_id.as_deref(),
            reason: self.reason.map(Reason::label),
        });
    }
}
