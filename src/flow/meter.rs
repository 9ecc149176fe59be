use std::sync::Arc;

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// Bytes between one TunnelHost and one agent. Cheap to clone; all clones count into the same two numbers.
#[derive(Clone, Debug)]
pub struct Meter {
    received: IntCounter,
    sent: IntCounter,
}

/// All meters of this process, exported as `culvert_flow_bytes_total`.
#[derive(Clone, Debug)]
pub struct Flow {
    bytes: IntCounterVec,
}

// === impl Meter ===

impl Meter {
    /// Counts bytes from the visitor towards the backend.
    pub fn add_received(&self, bytes: usize) {
        self.received.inc_by(bytes as u64);
    }

    /// Counts bytes from the backend towards the visitor.
    pub fn add_sent(&self, bytes: usize) {
        self.sent.inc_by(bytes as u64);
    }

    /// Bytes from visitors to backends so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.get()
    }

    /// Bytes from backends to visitors so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }
}

// === impl Flow ===

impl Flow {
    /// Makes the meters' metric and registers it.
    ///
    /// # Errors
    /// Where the registry has a metric of that name already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let bytes = IntCounterVec::new(
            Opts::new(
                "culvert_flow_bytes_total",
                "Bytes that crossed links: received is visitor to backend, sent is backend to visitor.",
            ),
            &["namespace", "tunnelhost", "agent", "direction"],
        )?;
        registry.register(Box::new(bytes.clone()))?;
        Ok(Self { bytes })
    }

    /// The meter between a TunnelHost and an agent; callers keep it, since finding it costs a lookup by text.
    #[must_use]
    pub fn meter(&self, namespace: &str, tunnel_host: &str, agent: &str) -> Arc<Meter> {
        let counter = |direction| self.bytes.with_label_values(&[namespace, tunnel_host, agent, direction]);
        Arc::new(Meter { received: counter("received"), sent: counter("sent") })
    }

    /// Ends the series of a pair, as when its TunnelHost is deleted. Meters that are still held count on unseen.
    pub fn remove(&self, namespace: &str, tunnel_host: &str, agent: &str) {
        for direction in ["received", "sent"] {
            // The series may never have been made; there is nothing to do then.
            let _ = self.bytes.remove_label_values(&[namespace, tunnel_host, agent, direction]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_pair_counts_into_the_same_series_until_it_is_removed() {
        let registry = Registry::new();
        let flow = Flow::new(&registry).expect("a fresh registry");
        flow.meter("web", "shop", "home").add_sent(3);
        let meter = flow.meter("web", "shop", "home");
        meter.add_sent(4);
        meter.add_received(1);
        assert_eq!((meter.sent(), meter.received()), (7, 1));
        flow.remove("web", "shop", "home");
        assert!(registry.gather().is_empty());
        assert_eq!(flow.meter("web", "shop", "home").sent(), 0);
    }
}
