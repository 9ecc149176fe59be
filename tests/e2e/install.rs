//! The installation itself: pods, what they may do, and what they show.

use std::process::Command;

use serde_json::Value;

use crate::harness::{Culvert, NAMESPACE, attempt, helm, kubectl};

#[tokio::test(flavor = "multi_thread")]
async fn two_pods_are_ready_and_confined() {
    let culvert = Culvert::installed().await;
    let replicas = culvert.replicas();
    assert_eq!(replicas.len(), 2);
    for replica in replicas {
        // What the kernel says of the process counts, not what the pod asked for.
        let status = std::fs::read_to_string(format!("/proc/{}/status", replica.pid())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
            line.unwrap().split_whitespace().next().unwrap().to_owned()
        };
        assert_eq!(field("Uid"), "65532");
        assert_eq!(field("CapEff"), "0000000000000000");
        assert_eq!(field("CapBnd"), "0000000000000000");
        assert_eq!(field("NoNewPrivs"), "1");
        assert_eq!(field("Seccomp"), "2", "seccomp filters the process's calls");
        let mounts = std::fs::read_to_string(format!("/proc/{}/mounts", replica.pid())).unwrap();
        let root = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/")).unwrap();
        assert!(root.split(' ').nth(3).unwrap().split(',').any(|option| option == "ro"), "{root}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_account_may_do_no_more_than_it_must() {
    let _culvert = Culvert::installed().await;
    let account = format!("--as=system:serviceaccount:{NAMESPACE}:culvert");
    let may = |verb: &str, what: &str, place: &[&str]| {
        let mut ask = Command::new("kubectl");
        ask.args(["auth", "can-i", &account, verb]).args(what.split(' ')).args(place);
        attempt(&mut ask, "").is_ok()
    };
    let everywhere: &[&str] = &["--all-namespaces"];
    let home: &[&str] = &["-n", NAMESPACE];
    let elsewhere: &[&str] = &["-n", "kube-system"];
    for (verb, what, place) in [
        ("watch", "tunnelhosts.culvert.dev", everywhere),
        ("list", "secrets", everywhere),
        ("get", "secrets", everywhere),
        ("patch", "tunnelhosts.culvert.dev --subresource=status", everywhere),
        ("update", "leases.coordination.k8s.io/culvert", home),
        ("watch", "endpointslices.discovery.k8s.io", home),
    ] {
        assert!(may(verb, what, place), "it must {verb} {what}");
    }
    for (verb, what, place) in [
        ("create", "secrets", home),
        ("delete", "secrets", home),
        ("patch", "tunnelhosts.culvert.dev", everywhere),
        ("delete", "tunnelagents.culvert.dev", everywhere),
        ("list", "configmaps", home),
        ("list", "pods", home),
        ("create", "pods", home),
        ("update", "leases.coordination.k8s.io/another", home),
        ("get", "leases.coordination.k8s.io/culvert", elsewhere),
        ("list", "endpointslices.discovery.k8s.io", elsewhere),
        ("impersonate", "users", everywhere),
    ] {
        assert!(!may(verb, what, place), "it must not {verb} {what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_finds_nothing_to_say_about_the_metrics() {
    let culvert = Culvert::installed().await;
    for replica in culvert.replicas() {
        let metrics = replica.metrics().await;
        assert!(metrics.contains("culvert_"), "{metrics}");
        let lint = attempt(Command::new("promtool").args(["check", "metrics"]), &metrics);
        assert_eq!(lint, Ok(String::new()), "{}", replica.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_keeps_the_bridges_key() {
    let _culvert = Culvert::installed().await;
    let key = || -> Value {
        let secret = kubectl(["-n", NAMESPACE, "get", "secret", "culvert-bridge", "-o", "json"]);
        serde_json::from_str::<Value>(&secret).unwrap()["data"].take()
    };
    let before = key();
    let chart = crate::harness::chart();
    helm(["upgrade", "culvert", &chart, "--namespace", NAMESPACE, "--set", "log.filter=info", "--wait"]);
    assert_eq!(key(), before);
}
