//! The whole controller against an API server in the hands of the test.

use std::sync::Arc;

use http::StatusCode;
use serde_json::json;
use tokio::sync::mpsc;

use super::{Call, host, list, run_controller};
use crate::{
    compile::Compiled,
    controller::Outputs,
    routing::{EntryPoint, Lookup, RequestInfo},
};

/// A controller that runs, and the requests it makes for TunnelHosts; all else is answered with empty lists.
struct Running {
    hosts: mpsc::UnboundedReceiver<Call>,
    outputs: Outputs,
    registry: prometheus::Registry,
}

// === impl Running ===

impl Running {
    fn start() -> Self {
        let (hosts_sender, hosts) = mpsc::unbounded_channel();
        let (outputs, registry) = run_controller(move |call| {
            if !call.path.ends_with("/tunnelhosts") {
                return Some(call);
            }
            let _ = hosts_sender.send(call);
            None
        });
        Self { hosts, outputs, registry }
    }

    /// The next request for TunnelHosts, and whether it is a watch.
    async fn next(&mut self) -> (Call, bool) {
        let call = self.hosts.recv().await.expect("a request");
        let watch = call.query.contains("watch=true");
        (call, watch)
    }

    async fn compiled(&mut self, wanted: impl Fn(&Compiled) -> bool) -> Arc<Compiled> {
        let compiled = self.outputs.compiled.wait_for(|compiled| compiled.as_deref().is_some_and(&wanted));
        compiled.await.expect("the controller runs").clone().expect("waited for")
    }

    fn undecodable(&self) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == "culvert_undecodable_objects").expect("the metric");
        family.get_metric().iter().map(|metric| metric.get_gauge().get_value()).sum()
    }
}

fn knows(compiled: &Compiled, host: &str) -> bool {
    !matches!(compiled.table.lookup(EntryPoint::Http, &RequestInfo::get(host, "/")), Lookup::UnknownHost)
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_before_all_lists_are_complete() {
    let mut running = Running::start();
    let (call, _) = running.next().await;
    // All other lists are answered, this one is not: the bound is reached once nothing else can happen.
    let early = tokio::time::timeout(std::time::Duration::from_secs(30), running.compiled(|_| true)).await;
    assert!(early.is_err(), "published without the TunnelHosts");
    call.answer(&list(&[host("shop", "shop.example.com", "1")], "1"));
    let compiled = running.compiled(|_| true).await;
    assert!(knows(&compiled, "shop.example.com"));
    assert_eq!(
        running.outputs.replicas.borrow().running.iter().map(|member| &*member.id).collect::<Vec<_>>(),
        ["edge-1"]
    );
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_is_skipped_and_the_rest_is_routed() {
    let mut running = Running::start();
    let mut bad = host("bad", "bad.example.com", "1");
    bad["spec"]["routes"] = json!("not a list");
    let (call, _) = running.next().await;
    call.answer(&list(&[bad.clone(), host("good", "good.example.com", "1")], "1"));
    let compiled = running.compiled(|_| true).await;
    assert!(knows(&compiled, "good.example.com") && !knows(&compiled, "bad.example.com"));
    assert!((running.undecodable() - 1.0).abs() < f64::EPSILON);

    // One that becomes unreadable keeps its last good version.
    let mut spoilt = host("good", "good.example.com", "2");
    spoilt["spec"]["hostnames"] = json!(7);
    let added = host("new", "new.example.com", "3");
    let (call, watch) = running.next().await;
    assert!(watch);
    let events =
        format!("{}\n{}\n", json!({"type": "MODIFIED", "object": spoilt}), json!({"type": "ADDED", "object": added}));
    call.answer.send_response(http::Response::new(kube::client::Body::from(events.into_bytes())));
    let compiled = running.compiled(|compiled| knows(compiled, "new.example.com")).await;
    assert!(knows(&compiled, "good.example.com"));
    assert!((running.undecodable() - 2.0).abs() < f64::EPSILON);
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_is_away_the_last_table_stays() {
    let mut running = Running::start();
    let (call, _) = running.next().await;
    call.answer(&list(&[host("shop", "shop.example.com", "1")], "1"));
    running.compiled(|_| true).await;
    for _ in 0..5 {
        let (call, _) = running.next().await;
        call.refuse(StatusCode::SERVICE_UNAVAILABLE);
    }
    let last = running.outputs.compiled.borrow().clone().expect("a table");
    assert!(knows(&last, "shop.example.com"));

    // It is back, and lists or watches again.
    let new = host("new", "new.example.com", "2");
    let (call, watch) = running.next().await;
    if watch {
        let event = format!("{}\n", json!({"type": "ADDED", "object": new}));
        call.answer.send_response(http::Response::new(kube::client::Body::from(event.into_bytes())));
    } else {
        call.answer(&list(&[host("shop", "shop.example.com", "1"), new], "2"));
    }
    let compiled = running.compiled(|compiled| knows(compiled, "new.example.com")).await;
    assert!(knows(&compiled, "shop.example.com"));
}
