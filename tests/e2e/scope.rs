//! An edge that watches some namespaces only.

use std::{process::Command, time::Duration};

use crate::harness::{Culvert, NAMESPACE, OtherValues, Site, all_see, apply, attempt, eventually, kubectl};

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_serves_the_namespaces_that_it_watches_and_may_nothing_in_others() {
    let culvert = Culvert::installed().await;
    let mut watched = Site::new(&culvert, "watched", "watched\n").await;
    let other = Site::new(&culvert, "unwatched", "not watched\n").await;
    let values = OtherValues::set(&culvert, &format!("watchNamespaces={{{}}}", watched.namespace)).await;
    watched.agent.restart();
    watched.agent.meets(&culvert).await;

    // All of it works there: the objects, their Secrets, their status.
    apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: users, namespace: {}}}\ntype: kubernetes.io/basic-auth\n\
         stringData: {{username: anna, password: of-the-watched}}\n",
        watched.namespace
    ))
    .unwrap();
    let auth = "auth: {basic: {secretRef: {name: users}}}";
    apply(&watched.host("shop", "watched.example.com", auth)).unwrap();
    watched.wait_ready("shop");
    let strangers = culvert.visitors("watched.example.com");
    all_see(&strangers, 401, Duration::from_secs(5)).await;
    let members: Vec<_> = strangers.iter().map(|s| s.with_credentials("anna", "of-the-watched")).collect();
    assert_eq!(all_see(&members, 200, Duration::from_secs(5)).await.body, "watched\n");

    // What is elsewhere is as if it were not there, and nobody writes its status.
    apply(&other.host("shop", "unwatched.example.com", "")).unwrap();
    // It is older than this one: once this one is served, the other has been passed over.
    apply(&watched.host("later", "later.example.com", "")).unwrap();
    watched.wait_ready("later");
    all_see(&culvert.visitors("later.example.com"), 200, Duration::from_secs(5)).await;
    all_see(&culvert.visitors("unwatched.example.com"), 404, Duration::from_secs(5)).await;
    let path = "jsonpath={.status.conditions[*].reason}";
    assert_eq!(kubectl(["-n", &other.namespace, "get", "tunnelhost", "shop", "-o", path]), "Pending");
    for replica in culvert.replicas() {
        let errors = replica.counted("culvert_reconcile_errors_total", &[]).await;
        assert!(errors < 1.0, "{} was refused something", replica.name);
    }

    // Labels of namespaces cannot be asked for, and the agent's owner is told.
    let selector = r#"{"spec":{"allowedNamespaces":{"from":"Selector","selector":{"matchLabels":{"a":"b"}}}}}"#;
    kubectl(["-n", &watched.namespace, "patch", "tunnelagent", "home", "--type=merge", "-p", selector]);
    let path = "jsonpath={.status.conditions[?(@.type==\"Accepted\")]}";
    eventually("the selector is refused", Duration::from_secs(10), async || {
        let accepted = kubectl(["-n", &watched.namespace, "get", "tunnelagent", "home", "-o", path]);
        let refused = accepted.contains("UnsupportedValue") && accepted.contains("--watch-namespaces");
        if refused { Ok(()) } else { Err(accepted) }
    })
    .await;
    all_see(&members, 200, Duration::from_secs(5)).await;

    may_nothing_elsewhere(&watched.namespace);
    drop(values);
}

fn may_nothing_elsewhere(watched: &str) {
    let account = format!("--as=system:serviceaccount:{NAMESPACE}:culvert");
    let may = |verb: &str, what: &str, place: &[&str]| {
        let mut ask = Command::new("kubectl");
        ask.args(["auth", "can-i", &account, verb]).args(what.split(' ')).args(place);
        attempt(&mut ask, "").is_ok()
    };
    let everywhere = [
        ("list", "secrets"),
        ("get", "secrets"),
        ("watch", "tunnelhosts.culvert.dev"),
        ("watch", "tunnelagents.culvert.dev"),
        ("patch", "tunnelhosts.culvert.dev --subresource=status"),
        ("patch", "tunnelagents.culvert.dev --subresource=status"),
        ("create", "events.events.k8s.io"),
    ];
    for (verb, what) in everywhere {
        assert!(may(verb, what, &["-n", watched]), "it must {verb} {what} where it watches");
        for place in [&["-n", "e2e-unwatched"][..], &["-n", NAMESPACE], &["-n", "kube-system"], &["--all-namespaces"]] {
            assert!(!may(verb, what, place), "it must not {verb} {what} in {place:?}");
        }
    }
    for verb in ["get", "list", "watch"] {
        assert!(!may(verb, "namespaces", &[]), "it must not {verb} namespaces");
    }
    assert!(!may("create", "secrets", &["-n", watched]));
    assert!(may("update", "leases.coordination.k8s.io/culvert", &["-n", NAMESPACE]));
}
