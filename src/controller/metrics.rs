use std::{collections::HashSet, time::Duration};

use prometheus::{
    Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector,
    exponential_buckets,
};

use crate::{compile::Compiled, routing::ObjectName};

/// What an operator sees of the controller.
pub(super) struct Metrics {
    routes: IntGauge,
    generation: IntGauge,
    reconcile_duration: Histogram,
    reconcile_errors: IntCounterVec,
    undecodable: IntGaugeVec,
    status_updates: IntCounterVec,
    certificates: IntGaugeVec,
}

/// How writing a status ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum StatusUpdate {
    Success,
    Failure,
}

// === impl Metrics ===

impl Metrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let kinds = &["kind"];
        let metrics = Self {
            routes: IntGauge::new("culvert_routes", "Routes in the routing table.")?,
            generation: IntGauge::new(
                "culvert_routing_table_generation",
                "How many routing tables have been made since the start; the current one's number.",
            )?,
            reconcile_duration: Histogram::with_opts(
                HistogramOpts::new(
                    "culvert_reconcile_duration_seconds",
                    "Time to compile all objects into a routing table.",
                )
                .buckets(exponential_buckets(0.0001, 4.0, 9)?),
            )?,
            reconcile_errors: IntCounterVec::new(
                Opts::new(
                    "culvert_reconcile_errors_total",
                    "Failures to watch objects of the API server, by kind; the last known ones stay in force.",
                ),
                kinds,
            )?,
            undecodable: IntGaugeVec::new(
                Opts::new(
                    "culvert_undecodable_objects",
                    "Objects that cannot be read, by kind; they are skipped, or their last good version stays in force.",
                ),
                kinds,
            )?,
            status_updates: IntCounterVec::new(
                Opts::new("culvert_status_updates_total", "Writes of the status of an object, by result."),
                &["result"],
            )?,
            certificates: IntGaugeVec::new(
                Opts::new(
                    "culvert_certificate_not_after_timestamp_seconds",
                    "When a certificate that visitors are shown ends, in seconds since 1970, by its Secret.",
                ),
                &["namespace", "secret"],
            )?,
        };
        for kind in ["TunnelHost", "TunnelAgent", "Secret"] {
            metrics.undecodable(kind, 0);
        }
        for result in [StatusUpdate::Success, StatusUpdate::Failure] {
            metrics.status_updates.with_label_values(&[result.as_str()]);
        }
        let collectors: [Box<dyn Collector>; 7] = [
            Box::new(metrics.routes.clone()),
            Box::new(metrics.generation.clone()),
            Box::new(metrics.reconcile_duration.clone()),
            Box::new(metrics.reconcile_errors.clone()),
            Box::new(metrics.undecodable.clone()),
            Box::new(metrics.status_updates.clone()),
            Box::new(metrics.certificates.clone()),
        ];
        collectors.into_iter().try_for_each(|collector| registry.register(collector))?;
        Ok(metrics)
    }

    /// A routing table has been made.
    pub(super) fn compiled(&self, rules: usize, duration: Duration) {
        self.routes.set(rules.try_into().unwrap_or(i64::MAX));
        self.generation.inc();
        self.reconcile_duration.observe(duration.as_secs_f64());
    }

    /// These are the certificates from now on, instead of those of the table before.
    pub(super) fn certificates(&self, compiled: &Compiled, previous: Option<&Compiled>) {
        for certificate in compiled.certificates() {
            let secret = &certificate.secret;
            self.certificates.with_label_values(&[&*secret.namespace, &*secret.name]).set(certificate.not_after);
        }
        let now: HashSet<&ObjectName> = compiled.certificates().map(|certificate| &certificate.secret).collect();
        let before = previous.into_iter().flat_map(Compiled::certificates).map(|certificate| &certificate.secret);
        for gone in before.filter(|secret| !now.contains(secret)) {
            // One that is not there is gone, too.
            let _ = self.certificates.remove_label_values(&[&*gone.namespace, &*gone.name]);
        }
    }

    /// Objects of that kind could not be watched.
    pub(super) fn reconcile_error(&self, kind: &str) {
        self.reconcile_errors.with_label_values(&[kind]).inc();
    }

    /// So many objects of that kind cannot be read.
    pub(super) fn undecodable(&self, kind: &str, count: usize) {
        self.undecodable.with_label_values(&[kind]).set(count.try_into().unwrap_or(i64::MAX));
    }

    /// A status was written, or could not be.
    pub(super) fn status_update(&self, result: StatusUpdate) {
        self.status_updates.with_label_values(&[result.as_str()]).inc();
    }
}

// === impl StatusUpdate ===

impl StatusUpdate {
    fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
        }
    }
}
