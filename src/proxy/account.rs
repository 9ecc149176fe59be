//! The books: what is counted of a request and of what it becomes, and what the access log says of it.

mod record;

use std::{mem, net::IpAddr, sync::Arc, time::Instant};

use http::{HeaderMap, HeaderValue, Request, StatusCode};

use self::record::Record;
use super::{
    choose::Seat,
    error::Reason,
    gate::Place,
    joiner::{JoinError, JoinOutcome},
    live::HostState,
    message::upload::Progress,
    metrics::{HostMetrics, Outcome},
    service::Visitor,
};
use crate::{
    routing::{ObjectName, Target},
    telemetry::access_log::AccessLog,
};

/// What nginx calls a visitor that closed its connection before the response.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// One request's entry in the books, opened with its head and closed when it is dropped: with the last byte of the
/// response, or when the visitor leaves.
pub(super) struct Account {
    /// `None` once another account has taken over.
    host: Option<Arc<HostMetrics>>,
    started: Instant,
    outcome: Outcome,
    /// The request's place among those of its agent; free when the books are closed.
    pub(super) seat: Option<Seat>,
    /// Its places among those of limits.
    places: Vec<Place>,
    /// For the access log, where there is one.
    record: Option<Box<Record>>,
}

/// An upgraded connection's entry, closed when it is dropped.
pub(super) struct JoinAccount {
    host: Arc<HostMetrics>,
    started: Instant,
    status: u16,
    seat: Option<Seat>,
    places: Vec<Place>,
    record: Option<Box<Record>>,
}

// === impl Account ===

impl Account {
    /// Opens the books for a request that is not routed yet, on this visitor's connection.
    pub(super) fn open<B>(
        unrouted: Arc<HostMetrics>,
        log: Option<&AccessLog>,
        request: &Request<B>,
        request_id: &HeaderValue,
        visitor: &Visitor,
    ) -> Self {
        unrouted.active_requests.inc();
        Self {
            host: Some(unrouted),
            started: Instant::now(),
            outcome: Outcome::new(CLIENT_CLOSED_REQUEST, request.method(), request.version()),
            seat: None,
            places: Vec::new(),
            record: log.map(|log| Box::new(Record::new(log.clone(), request, request_id, visitor))),
        }
    }

    /// The request is this visitor's.
    pub(super) fn identified(&mut self, visitor: IpAddr, headers: &HeaderMap) {
        if let Some(record) = &mut self.record {
            record.identified(visitor, headers);
        }
    }

    /// The request is this TunnelHost's.
    pub(super) fn belongs_to(&mut self, host: &HostState) {
        host.metrics.active_requests.inc();
        if let Some(before) = self.host.replace(host.metrics.clone()) {
            before.active_requests.dec();
        }
        if let Some(record) = &mut self.record {
            record.tunnel_host = Some(host.name.clone());
        }
    }

    /// The request has a place, until the books are closed.
    pub(super) fn hold(&mut self, place: Place) {
        self.places.push(place);
    }

    /// Another attempt begins.
    pub(super) fn tries(&mut self, agent: &ObjectName, target: &Target) {
        if let Some(record) = &mut self.record {
            record.attempts += 1;
            record.attempt = Some((agent.clone(), target.clone(), Instant::now()));
        }
    }

    /// The request's body is counted there.
    pub(super) fn uploads(&mut self, progress: Option<Arc<Progress>>) {
        if let Some(record) = &mut self.record {
            record.upload = progress;
        }
    }

    /// The head of the backend's response has come.
    pub(super) fn backend_answered(&mut self, status: StatusCode) {
        if let Some(record) = &mut self.record
            && let Some((_, _, begun)) = &record.attempt
        {
            record.backend = Some((status, begun.elapsed()));
        }
    }

    /// The visitor gets a response with this status.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.outcome.code = status.as_u16();
    }

    /// Bytes of the response's body go to the visitor.
    pub(super) fn sends(&mut self, bytes: usize) {
        if let Some(record) = &mut self.record {
            record.sent += bytes as u64;
        }
    }

    /// The request failed; the first reason is the cause of the others.
    pub(super) fn failed(&mut self, reason: Reason) {
        if let Some(record) = &mut self.record {
            record.reason.get_or_insert(reason);
        }
    }

    /// The visitor left during the response.
    pub(super) fn left(&mut self) {
        self.failed(Reason::VisitorLeft);
    }

    /// Moves the entry to where the response ends.
    pub(super) fn take(&mut self) -> Self {
        Self {
            host: self.host.take(),
            started: self.started,
            outcome: self.outcome,
            seat: self.seat.take(),
            places: mem::take(&mut self.places),
            record: self.record.take(),
        }
    }

    /// Closes the request's entry and opens the one of the join that it became; its places and its line in the access log
    /// go on.
    pub(super) fn into_join(mut self) -> Option<JoinAccount> {
        let host = self.host.clone()?;
        host.active_joins.inc();
        Some(JoinAccount {
            host,
            started: self.started,
            status: self.outcome.code,
            seat: self.seat.take(),
            places: mem::take(&mut self.places),
            record: self.record.take(),
        })
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if let Some(host) = self.host.take() {
            let elapsed = self.started.elapsed();
            host.active_requests.dec();
            host.duration.observe(elapsed.as_secs_f64());
            host.count(self.outcome);
            if self.outcome.code == CLIENT_CLOSED_REQUEST {
                self.left();
            }
            if let Some(record) = &self.record {
                record.write(self.outcome.code, elapsed);
            }
        }
    }
}

// === impl JoinAccount ===

impl JoinAccount {
    /// The join is over, after so many bytes.
    pub(super) fn ended(&mut self, joined: &JoinOutcome) {
        if let Some(record) = &mut self.record {
            (record.received, record.sent) = (joined.received, joined.sent);
            record.reason = joined.error.as_ref().map(JoinError::reason);
        }
    }
}

impl Drop for JoinAccount {
    fn drop(&mut self) {
        // Whoever sees that there is one less may take its place.
        drop(self.seat.take());
        self.places.clear();
        self.host.active_joins.dec();
        if let Some(record) = &self.record {
            record.write(self.status, self.started.elapsed());
        }
    }
}
