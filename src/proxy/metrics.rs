use std::collections::HashMap;

use http::{Method, Version};
use parking_lot::RwLock;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use super::error::Reason;

const HOST: [&str; 2] = ["namespace", "tunnelhost"];
/// What tells a target of a TunnelHost through an agent from others.
pub(super) const PLACE: [&str; 4] = ["namespace", "tunnelhost", "agent", "target"];
/// Seconds; from a cached page over a near tunnel to a slow report.
const DURATION_BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// The metrics of the proxy as a whole.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    requests: IntCounterVec,
    duration: HistogramVec,
    active_requests: IntGaugeVec,
    active_joins: IntGaugeVec,
    pub(super) link_open: Histogram,
    errors: IntCounterVec,
    ejections: IntCounterVec,
    pub(super) tls_handshakes: IntCounterVec,
}

/// The metrics of one TunnelHost, or of the requests to no known one.
#[derive(Debug)]
pub(super) struct HostMetrics {
    all: Metrics,
    labels: [String; 2],
    pub(super) duration: Histogram,
    pub(super) active_requests: IntGauge,
    pub(super) active_joins: IntGauge,
    /// `None` once the TunnelHost is gone, so that a late request does not bring its series back.
    requests: RwLock<Option<HashMap<Outcome, IntCounter>>>,
}

/// What `culvert_requests_total` tells apart within a TunnelHost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Outcome {
    pub(super) code: u16,
    method: &'static str,
    protocol: &'static str,
}

/// A version's name, in metrics and logs.
pub(super) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

// === impl Metrics ===

impl Metrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name, help, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let gauge = |name, help| IntGaugeVec::new(Opts::new(name, help), &HOST);
        let histogram = |name, help| HistogramOpts::new(name, help).buckets(DURATION_BUCKETS.to_vec());
        let metrics = Self {
            requests: counter(
                "culvert_requests_total",
                "Requests answered; code 499 is a visitor who left before the response.",
                &["namespace", "tunnelhost", "code", "method", "protocol"],
            )?,
            duration: HistogramVec::new(
                histogram("culvert_request_duration_seconds", "From a request's head to the end of its response."),
                &HOST,
            )?,
            active_requests: gauge("culvert_active_requests", "Requests in progress.")?,
            active_joins: gauge("culvert_active_joins", "Upgraded connections, such as WebSockets, that are open.")?,
            link_open: Histogram::with_opts(histogram(
                "culvert_link_open_seconds",
                "From asking an agent for a link until its backend took the connection.",
            ))?,
            errors: counter(
                "culvert_errors_total",
                "Requests that the edge could not serve, and connections that were no requests, by reason.",
                &["reason"],
            )?,
            ejections: counter(
                "culvert_backend_ejections_total",
                "How often a target got no requests through an agent for a while, since connects to it failed.",
                &PLACE,
            )?,
            tls_handshakes: counter(
                "culvert_tls_handshakes_total",
                "TLS handshakes on the visitors' port, by result; `agent` is one that went on to the bridge.",
                &["result"],
            )?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.duration.clone()))?;
        registry.register(Box::new(metrics.active_requests.clone()))?;
        registry.register(Box::new(metrics.active_joins.clone()))?;
        registry.register(Box::new(metrics.link_open.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        registry.register(Box::new(metrics.ejections.clone()))?;
        registry.register(Box::new(metrics.tls_handshakes.clone()))?;
        Ok(metrics)
    }

    /// Counts a request or a connection that failed.
    pub(super) fn failed(&self, reason: Reason) {
        self.errors.with_label_values(&[reason.label()]).inc();
    }

    /// The metrics of a TunnelHost; empty texts for requests to none.
    pub(super) fn host(&self, namespace: &str, name: &str) -> HostMetrics {
        let labels = [namespace, name];
        HostMetrics {
            all: self.clone(),
            labels: labels.map(str::to_owned),
            duration: self.duration.with_label_values(&labels),
            active_requests: self.active_requests.with_label_values(&labels),
            active_joins: self.active_joins.with_label_values(&labels),
            requests: RwLock::new(Some(HashMap::new())),
        }
    }
}

// === impl HostMetrics ===

impl HostMetrics {
    /// Counts a request that is over.
    pub(super) fn count(&self, outcome: Outcome) {
        if let Some(requests) = &*self.requests.read()
            && let Some(counter) = requests.get(&outcome)
        {
            counter.inc();
            return;
        }
        if let Some(requests) = &mut *self.requests.write() {
            let make = || self.all.requests.with_label_values(&outcome.labels(&self.labels, &outcome.code.to_string()));
            requests.entry(outcome).or_insert_with(make).inc();
        }
    }

    /// Counts that a target through an agent gets no requests for a while.
    pub(super) fn ejected(&self, agent: &str, target: &str) {
        let [namespace, host] = self.labels.each_ref().map(String::as_str);
        self.all.ejections.with_label_values(&[namespace, host, agent, target]).inc();
    }

    /// Ends the series of a target through an agent.
    pub(super) fn forget_place(&self, agent: &str, target: &str) {
        let [namespace, host] = self.labels.each_ref().map(String::as_str);
        // What was never ejected has none.
        let _ = self.all.ejections.remove_label_values(&[namespace, host, agent, target]);
    }

    /// Ends all series of the TunnelHost but those of its places.
    pub(super) fn remove(&self) {
        let outcomes = self.requests.write().take().unwrap_or_default();
        let labels = self.labels.each_ref().map(String::as_str);
        // What was never made need not be removed.
        for outcome in outcomes.keys() {
            let code = outcome.code.to_string();
            let _ = self.all.requests.remove_label_values(&outcome.labels(&self.labels, &code));
        }
        let _ = self.all.duration.remove_label_values(&labels);
        let _ = self.all.active_requests.remove_label_values(&labels);
        let _ = self.all.active_joins.remove_label_values(&labels);
    }
}

// === impl Outcome ===

impl Outcome {
    /// Methods that are not in RFC 9110 or RFC 5789 are one, since visitors could make up any number of them.
    pub(super) fn new(code: u16, method: &Method, version: Version) -> Self {
        let method = match *method {
            Method::GET => "GET",
            Method::HEAD => "HEAD",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::DELETE => "DELETE",
            Method::CONNECT => "CONNECT",
            Method::OPTIONS => "OPTIONS",
            Method::TRACE => "TRACE",
            Method::PATCH => "PATCH",
            _ => "_OTHER",
        };
        Self { code, method, protocol: protocol(version) }
    }

    fn labels<'a>(&self, host: &'a [String; 2], code: &'a str) -> [&'a str; 5] {
        [&host[0], &host[1], code, self.method, self.protocol]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_of_a_removed_host_end_and_stay_away() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).expect("a fresh registry");
        let host = metrics.host("web", "shop");
        let outcome = Outcome::new(200, &Method::from_bytes(b"BREW").expect("a method"), Version::HTTP_11);
        assert_eq!(outcome.method, "_OTHER");
        host.count(outcome);
        host.count(outcome);
        let shown = || {
            let families = registry.gather();
            families.iter().filter(|family| family.name() == "culvert_requests_total").count()
        };
        assert_eq!(metrics.requests.with_label_values(&["web", "shop", "200", "_OTHER", "HTTP/1.1"]).get(), 2);
        assert_eq!(shown(), 1);
        host.remove();
        host.count(outcome);
        assert_eq!(shown(), 0);
    }
}
