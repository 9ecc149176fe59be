//! A controller that watches some namespaces only: what it asks for, and when it knows enough.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::{
    compile::Compiled,
    controller::NamespaceName,
    routing::{EntryPoint, Lookup, RequestInfo, RoutingTable},
};

/// The TunnelHost of NAMESPACE.example.com.
fn in_namespace(namespace: &str, version: &str) -> Value {
    let mut host = host("main", &format!("{namespace}.example.com"), version);
    host["metadata"]["namespace"] = json!(namespace);
    host
}

/// Whether the table has that hostname.
fn knows(compiled: Option<&Arc<Compiled>>, host: &str) -> bool {
    let found = |table: &RoutingTable| {
        !matches!(table.lookup(EntryPoint::Http, &RequestInfo::get(host, "/")), Lookup::UnknownHost)
    };
    compiled.is_some_and(|compiled| found(&compiled.table))
}

#[test]
fn a_name_is_a_dns_label() {
    for name in ["a", "web", "team-7", "0", &"a".repeat(63)] {
        assert_eq!(name.parse::<NamespaceName>().map(|parsed| parsed.as_str().to_owned()), Ok(name.to_owned()));
    }
    for name in ["", "-a", "a-", "Web", "a.b", "a/b", "a b", "\u{e4}", &"a".repeat(64)] {
        let error = name.parse::<NamespaceName>().expect_err(name);
        assert!(error.contains("no name of a namespace"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_for_outside_of_the_namespaces() {
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = asked.clone();
    let (mut outputs, _) = run_controller_of(&["shop", "web"], move |call| {
        seen.lock().expect("not poisoned").insert(call.path.clone());
        Some(call)
    });
    outputs.compiled.wait_for(Option::is_some).await.expect("it runs");
    let asked = asked.lock().expect("not poisoned");
    let objects: Vec<&str> = asked.iter().map(String::as_str).filter(|path| !path.contains("/culvert/")).collect();
    assert_eq!(
        objects,
        [
            "/api/v1/namespaces/shop/secrets",
            "/api/v1/namespaces/web/secrets",
            "/apis/culvert.dev/v1alpha1/namespaces/shop/tunnelagents",
            "/apis/culvert.dev/v1alpha1/namespaces/shop/tunnelhosts",
            "/apis/culvert.dev/v1alpha1/namespaces/web/tunnelagents",
            "/apis/culvert.dev/v1alpha1/namespaces/web/tunnelhosts",
        ],
        "and no Namespaces; all else is in the edge's own: {asked:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_table_waits_for_every_namespace_and_a_later_list_leaves_the_others_alone() {
    let (sender, mut calls) = mpsc::unbounded_channel();
    let (mut outputs, _) = run_controller_of(&["shop", "web"], move |call| {
        if !call.path.ends_with("/tunnelhosts") {
            return Some(call);
        }
        let _ = sender.send(call);
        None
    });
    let first = calls.recv().await.expect("a list");
    let second = calls.recv().await.expect("another list");
    let (shop, web) = if first.path.contains("/shop/") { (first, second) } else { (second, first) };
    web.answer(&list(&[in_namespace("web", "1")], "1"));
    let watch_web = calls.recv().await.expect("a watch");
    assert!(watch_web.path.contains("/web/") && watch_web.query.contains("watch=true"));
    let early = tokio::time::timeout(Duration::from_secs(30), outputs.compiled.wait_for(Option::is_some)).await.is_ok();
    assert!(!early, "published without the objects of a namespace");
    shop.answer(&list(&[in_namespace("shop", "1")], "1"));
    let compiled = outputs.compiled.wait_for(Option::is_some).await.expect("it runs").clone();
    assert!(knows(compiled.as_ref(), "web.example.com") && knows(compiled.as_ref(), "shop.example.com"));

    // The watch of one is too old: its list comes anew, without what has gone meanwhile.
    let _watch_shop = calls.recv().await.expect("a watch");
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 410});
    let event = format!("{}\n", json!({"type": "ERROR", "object": status}));
    watch_web.answer.send_response(Response::new(Body::from(event.into_bytes())));
    let web = calls.recv().await.expect("a list");
    assert!(web.path.contains("/web/") && !web.query.contains("watch=true"), "{} {}", web.path, web.query);
    let mut other = in_namespace("web", "2");
    other["metadata"]["name"] = json!("other");
    other["spec"]["hostnames"] = json!(["other.example.com"]);
    web.answer(&list(&[other], "2"));
    let gone = |compiled: &Option<Arc<Compiled>>| !knows(compiled.as_ref(), "web.example.com");
    let compiled = outputs.compiled.wait_for(gone).await.expect("it runs").clone();
    assert!(knows(compiled.as_ref(), "other.example.com") && knows(compiled.as_ref(), "shop.example.com"));
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_may_not_be_read_does_not_keep_the_others_out_and_comes_in_later() {
    for refusal in [StatusCode::FORBIDDEN, StatusCode::NOT_FOUND] {
        let granted = Arc::new(AtomicBool::new(false));
        let let_in = granted.clone();
        let (mut outputs, _) = run_controller_of(&["gone", "web"], move |call| {
            if call.path.contains("/gone/") && !let_in.load(Ordering::Relaxed) {
                call.refuse(refusal);
                return None;
            }
            if !call.path.ends_with("/tunnelhosts") || call.query.contains("watch=true") {
                return Some(call);
            }
            let namespace = if call.path.contains("/gone/") { "gone" } else { "web" };
            call.answer(&list(&[in_namespace(namespace, "1")], "1"));
            None
        });
        let web = |compiled: &Option<Arc<Compiled>>| knows(compiled.as_ref(), "web.example.com");
        let compiled = tokio::time::timeout(Duration::from_mins(1), outputs.compiled.wait_for(web)).await;
        assert!(!knows(compiled.expect("not kept waiting").expect("it runs").as_ref(), "gone.example.com"));
        granted.store(true, Ordering::Relaxed);
        let gone = |compiled: &Option<Arc<Compiled>>| knows(compiled.as_ref(), "gone.example.com");
        let compiled = tokio::time::timeout(Duration::from_mins(1), outputs.compiled.wait_for(gone)).await;
        assert!(web(&compiled.expect("it goes on trying").expect("it runs")));
    }
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_may_read_no_namespace_at_all_serves_no_empty_table() {
    let (mut outputs, _) = run_controller_of(&["shop", "web"], |call| {
        if !call.path.ends_with("/tunnelhosts") {
            return Some(call);
        }
        call.refuse(StatusCode::FORBIDDEN);
        None
    });
    let published = tokio::time::timeout(Duration::from_mins(1), outputs.compiled.wait_for(Option::is_some)).await;
    assert!(published.is_err(), "published without knowing anything");
}
