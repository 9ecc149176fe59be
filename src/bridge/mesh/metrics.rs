use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

/// What the mesh counts.
#[derive(Debug)]
pub(super) struct Metrics {
    /// The other replicas that this one holds a session with.
    pub(super) neighbours: IntGauge,
    links: IntCounterVec,
}

// === impl Metrics ===

impl Metrics {
    /// Makes the metrics and lists them in `registry`.
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            neighbours: IntGauge::new("culvert_mesh_replicas", "Other replicas that this one can forward links to.")?,
            links: IntCounterVec::new(
                Opts::new("culvert_mesh_links_total", "Links that other replicas asked this one for, by result."),
                &["result"],
            )?,
        };
        registry.register(Box::new(metrics.neighbours.clone()))?;
        registry.register(Box::new(metrics.links.clone()))?;
        Ok(metrics)
    }

    /// Another replica's link was opened or refused.
    pub(super) fn link(&self, opened: bool) {
        self.links.with_label_values(&[if opened { "opened" } else { "refused" }]).inc();
    }
}
