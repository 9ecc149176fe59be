//! A tenant's corner of the cluster: a namespace with an agent and a backend.

use std::time::Duration;

use serde_json::Value;

use super::{Agent, Backend, Culvert, all_see, apply, eventually, kubectl};

/// A namespace of one test, with an agent called `home` that reaches one backend.
pub(crate) struct Site {
    pub(crate) namespace: String,
    pub(crate) agent: Agent,
    pub(crate) backend: Backend,
}

// === impl Site ===

impl Site {
    /// Makes the namespace, anew where an earlier run left it, with the agent connected to both replicas.
    pub(crate) async fn new(culvert: &Culvert, name: &str, page: &'static str) -> Self {
        let namespace = format!("e2e-{name}");
        kubectl(["delete", "namespace", &namespace, "--ignore-not-found", "--wait"]);
        kubectl(["create", "namespace", &namespace]);
        let backend = Backend::start("127.0.0.1:0", page).await;
        let agent = Agent::start(culvert, &namespace, "home", backend.address).await;
        Self { namespace, agent, backend }
    }

    /// A TunnelHost for one hostname that leads to this site's backend; `more` are further lines of its spec.
    pub(crate) fn host(&self, name: &str, hostname: &str, more: &str) -> String {
        let Self { namespace, backend, .. } = self;
        format!(
            "apiVersion: culvert.dev/v1alpha1
kind: TunnelHost
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  hostnames: [{hostname}]
  {more}
  routes:
  - backend:
      agents: [{{name: home}}]
      targets: [{{address: \"{}\"}}]
",
            backend.address
        )
    }

    /// Applies a TunnelHost and waits until a visitor at every replica gets the page.
    pub(crate) async fn publish(&self, culvert: &Culvert, name: &str, hostname: &str) {
        apply(&self.host(name, hostname, "")).unwrap();
        self.wait_ready(name);
        all_see(&culvert.visitors(hostname), 200, Duration::from_secs(5)).await;
    }

    /// `kubectl wait --for=condition=Ready`, as in a pipeline.
    pub(crate) fn wait_ready(&self, name: &str) {
        let object = format!("tunnelhost/{name}");
        kubectl(["-n", &self.namespace, "wait", "--for=condition=Ready", &object, "--timeout=20s"]);
    }

    /// The reason and message of a condition of a TunnelHost, once its status is `status` for this generation.
    pub(crate) async fn condition(&self, name: &str, kind: &str, status: &str) -> (String, String) {
        let what = format!("TunnelHost {}/{name} has {kind}={status}", self.namespace);
        let (found, _) = eventually(&what, Duration::from_secs(10), async || {
            let object = kubectl(["-n", &self.namespace, "get", "tunnelhost", name, "-o", "json"]);
            let object: Value = serde_json::from_str(&object).unwrap();
            let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
            let current = |condition: &&Value| condition["observedGeneration"] == object["metadata"]["generation"];
            let wanted = |condition: &&Value| condition["type"] == kind && condition["status"] == status;
            let found = conditions.find(|condition| wanted(condition) && current(condition));
            let found = found.ok_or_else(|| object["status"].to_string())?;
            Ok((found["reason"].as_str().unwrap().into(), found["message"].as_str().unwrap().into()))
        })
        .await;
        found
    }

    /// What is said against a wrong TunnelHost: by the API server, or by the object's own condition.
    pub(crate) async fn objection(&self, name: &str, yaml: &str) -> String {
        if let Err(refusal) = apply(yaml) {
            return refusal;
        }
        let (reason, message) = self.condition(name, "Ready", "False").await;
        format!("{reason}: {message}")
    }

    /// Deletes a TunnelHost without waiting for more than the API server's word.
    pub(crate) fn delete(&self, kind: &str, name: &str) {
        kubectl(["-n", &self.namespace, "delete", kind, name, "--wait=false"]);
    }
}
