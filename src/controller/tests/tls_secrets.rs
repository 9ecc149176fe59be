//! Which Secrets with certificates come into the process, and when.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};

use super::{Call, agent, host, list, run_controller};
use crate::{
    api::{ConditionType, Reason},
    compile::{Compiled, ObjectKind},
    controller::Outputs,
    routing::Certificate,
};

/// A controller that runs with one TunnelHost, `shop.example.com` with the Secret `one`. All that it asks about Secrets with
/// certificates is in the hands of the test.
struct Cluster {
    calls: mpsc::UnboundedReceiver<Call>,
    outputs: Outputs,
    registry: prometheus::Registry,
}

// === impl Cluster ===

impl Cluster {
    fn start() -> Self {
        let (sender, calls) = mpsc::unbounded_channel();
        let (outputs, registry) = run_controller(move |call| {
            if call.query.contains("kubernetes.io%2Ftls") || call.path.contains("/secrets/") {
                let _ = sender.send(call);
            } else if call.query.contains("watch=true") {
                return Some(call);
            } else if call.path.ends_with("/tunnelhosts") {
                let mut shop = host("shop", "shop.example.com", "1");
                shop["spec"]["tls"] = json!({"secretRef": {"name": "one"}});
                call.answer(&list(&[shop], "1"));
            } else if call.path.ends_with("/tunnelagents") {
                call.answer(&list(&[agent("home", "1")], "1"));
            } else {
                return Some(call);
            }
            None
        });
        Self { calls, outputs, registry }
    }

    /// The next request about Secrets with certificates; a watch is told apart by its query.
    async fn next(&mut self) -> Call {
        self.calls.recv().await.expect("a request")
    }

    /// The next request for the content of a Secret, and the watch of the metadata where one was begun before it.
    async fn next_get(&mut self) -> (Call, Option<Call>) {
        let call = self.next().await;
        if call.query.contains("watch=true") {
            return (self.next().await, Some(call));
        }
        (call, None)
    }

    async fn compiled(&mut self, wanted: impl Fn(&Compiled) -> bool) -> Arc<Compiled> {
        let compiled = self.outputs.compiled.wait_for(|compiled| compiled.as_deref().is_some_and(&wanted));
        compiled.await.expect("the controller runs").clone().expect("waited for")
    }

    /// When the certificates end, by `namespace/secret`, as the metrics tell it.
    fn ends(&self) -> Vec<(String, i64)> {
        let families = self.registry.gather();
        let name = "culvert_certificate_not_after_timestamp_seconds";
        let metrics = families
            .iter()
            .filter(|family| family.name() == name)
            .flat_map(prometheus::proto::MetricFamily::get_metric);
        let label = |metric: &prometheus::proto::Metric| {
            metric.get_label().iter().map(prometheus::proto::LabelPair::value).collect::<Vec<_>>().join("/")
        };
        metrics
            .map(|metric| (label(metric), format!("{}", metric.get_gauge().get_value()).parse().expect("seconds")))
            .collect()
    }
}

fn metadata(name: &str, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"namespace": "web", "name": name, "resourceVersion": version},
    })
}

/// The whole Secret `web/one`, with a new certificate.
fn secret(version: &str) -> Value {
    let issued = rcgen::generate_simple_self_signed(["shop.example.com".to_owned()]).expect("a certificate");
    let (chain, key) = (issued.cert.pem(), issued.signing_key.serialize_pem());
    json!({
        "kind": "Secret", "apiVersion": "v1", "type": "kubernetes.io/tls",
        "metadata": {"namespace": "web", "name": "one", "resourceVersion": version},
        "data": {"tls.crt": BASE64_STANDARD.encode(chain), "tls.key": BASE64_STANDARD.encode(key)},
    })
}

/// Answers a watch with these events; then it ends, and the next one is silent until it is answered.
fn tell(watch: Call, events: &[(&str, Value)]) {
    let lines: String =
        events.iter().map(|(kind, object)| json!({"type": kind, "object": object}).to_string() + "\n").collect();
    watch.answer.send_response(http::Response::new(kube::client::Body::from(lines.into_bytes())));
}

fn shown(compiled: &Compiled) -> Option<Arc<Certificate>> {
    compiled.table.certificates().find("shop.example.com").cloned()
}

fn reason(compiled: &Compiled) -> Reason {
    let verdict = compiled.verdicts.iter().find(|verdict| verdict.kind == ObjectKind::TunnelHost).expect("a verdict");
    verdict.condition(ConditionType::ResolvedRefs).expect("the condition").reason
}

/// Begins with the Secret `one` fetched; returns the watch of the metadata, unanswered.
async fn begun() -> (Cluster, Call) {
    let mut cluster = Cluster::start();
    cluster.next().await.answer(&list(&[metadata("one", "1"), metadata("unrelated", "1")], "1"));
    let (get, watch) = cluster.next_get().await;
    get.answer(&secret("1"));
    let compiled = cluster.compiled(|_| true).await;
    assert!(shown(&compiled).is_some());
    let watch = match watch {
        Some(watch) => watch,
        None => cluster.next().await,
    };
    (cluster, watch)
}

#[tokio::test(start_paused = true)]
async fn only_metadata_is_watched_and_only_what_is_referred_to_is_fetched() {
    let mut cluster = Cluster::start();
    let call = cluster.next().await;
    assert_eq!(call.path, "/api/v1/secrets");
    assert!(call.accept.contains("as=PartialObjectMetadataList"), "{}", call.accept);
    call.answer(&list(&[metadata("one", "1"), metadata("unrelated", "1")], "1"));
    let (get, watch) = cluster.next_get().await;
    assert_eq!(get.path, "/api/v1/namespaces/web/secrets/one");
    assert!(cluster.outputs.compiled.borrow().is_none(), "published while the certificate is on its way");
    get.answer(&secret("1"));
    let compiled = cluster.compiled(|_| true).await;
    assert!(shown(&compiled).is_some());
    let certificate = shown(&compiled).expect("a certificate");
    assert_eq!(cluster.ends(), [("web/one".to_owned(), certificate.not_after)]);

    // The other one changes, and nobody asks for it: the next request is the next watch.
    let watch = match watch {
        Some(watch) => watch,
        None => cluster.next().await,
    };
    assert!(watch.accept.contains("as=PartialObjectMetadata"), "{}", watch.accept);
    tell(watch, &[("MODIFIED", metadata("unrelated", "2"))]);
    let call = cluster.next().await;
    assert!(call.query.contains("watch=true"), "{} {}", call.path, call.query);
}

#[tokio::test(start_paused = true)]
async fn a_rotated_secret_is_fetched_again_and_while_that_fails_the_old_one_stays() {
    let (mut cluster, watch) = begun().await;
    let old = shown(&*cluster.compiled(|_| true).await).expect("a certificate");
    tell(watch, &[("MODIFIED", metadata("one", "2"))]);
    let mut watch = None;
    for _ in 0..3 {
        let (call, begun) = cluster.next_get().await;
        watch = begun.or(watch);
        assert_eq!(call.path, "/api/v1/namespaces/web/secrets/one");
        call.refuse(StatusCode::SERVICE_UNAVAILABLE);
    }
    let last = cluster.outputs.compiled.borrow().clone().expect("a table");
    assert_eq!(shown(&last).as_ref(), Some(&old));
    assert_eq!(reason(&last), Reason::ResolvedRefs);
    let (call, begun) = cluster.next_get().await;
    watch = begun.or(watch);
    call.answer(&secret("2"));
    let compiled = cluster.compiled(|compiled| shown(compiled).as_ref() != Some(&old)).await;
    assert!(shown(&compiled).is_some());

    // It goes: the last good one stays, and the condition says so.
    let watch = match watch {
        Some(watch) => watch,
        None => cluster.next().await,
    };
    tell(watch, &[("DELETED", metadata("one", "3"))]);
    let gone = cluster.compiled(|compiled| reason(compiled) == Reason::SecretNotFound).await;
    assert_eq!(shown(&gone), shown(&compiled));
    assert_eq!(cluster.ends().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_never_comes_does_not_hold_the_rest_up_for_long() {
    let mut cluster = Cluster::start();
    cluster.next().await.answer(&list(&[metadata("one", "1")], "1"));
    let (_get, _watch) = cluster.next_get().await;
    let started = Instant::now();
    let compiled = cluster.compiled(|_| true).await;
    assert!(started.elapsed() < std::time::Duration::from_secs(6), "{:?}", started.elapsed());
    assert_eq!(reason(&compiled), Reason::SecretNotFound);
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_has_become_one_of_another_type_is_not_kept() {
    let mut cluster = Cluster::start();
    cluster.next().await.answer(&list(&[metadata("one", "1")], "1"));
    let (get, _watch) = cluster.next_get().await;
    let mut other = secret("2");
    other["type"] = json!("Opaque");
    get.answer(&other);
    let compiled = cluster.compiled(|_| true).await;
    assert_eq!((reason(&compiled), shown(&compiled)), (Reason::SecretNotFound, None));
    assert!(cluster.ends().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_may_not_be_fetched_is_told_apart_from_one_that_is_not_there() {
    let mut cluster = Cluster::start();
    cluster.next().await.answer(&list(&[metadata("one", "1")], "1"));
    let (get, _watch) = cluster.next_get().await;
    get.refuse(StatusCode::FORBIDDEN);
    let compiled = cluster.compiled(|_| true).await;
    assert_eq!(reason(&compiled), Reason::InvalidCertificate);
    let verdict = compiled.verdicts.iter().find(|verdict| verdict.kind == ObjectKind::TunnelHost).expect("a verdict");
    let message = &verdict.condition(ConditionType::ResolvedRefs).expect("the condition").message;
    let expected = "spec.tls.secretRef.name: Secret \"one\" is there, but the edge cannot get it, and tries again: ";
    assert!(message.starts_with(expected) && message.contains("of a test"), "{message}");
    cluster.next_get().await.0.answer(&secret("1"));
    cluster.compiled(|compiled| shown(compiled).is_some()).await;
}
