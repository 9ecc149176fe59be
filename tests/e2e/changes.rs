//! What is applied takes effect at once, and what is wrong is explained.

use std::time::Duration;

use crate::harness::{Culvert, Site, all_see, apply, eventually, kubectl};

/// How soon a change shows, from the moment that kubectl has returned.
const AT_ONCE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_host_is_gone_at_once() {
    let culvert = Culvert::installed().await;
    let site = Site::new(&culvert, "deleted", "here\n").await;
    site.publish(&culvert, "shop", "deleted.example.com").await;
    let visitors = culvert.visitors("deleted.example.com");

    site.delete("tunnelhost", "shop");
    let answer = all_see(&visitors, 404, AT_ONCE).await;
    answer.is_edges_own("destination_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_secret_changes_who_gets_in_at_once() {
    let culvert = Culvert::installed().await;
    let site = Site::new(&culvert, "secret", "members only\n").await;
    let users = |password: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: users, namespace: {}}}\ntype: kubernetes.io/basic-auth\n\
             stringData: {{username: anna, password: {password}}}\n",
            site.namespace
        )
    };
    apply(&users("first-password")).unwrap();
    let auth = "auth: {basic: {secretRef: {name: users}}}";
    apply(&site.host("shop", "secret.example.com", auth)).unwrap();
    site.wait_ready("shop");
    let strangers = culvert.visitors("secret.example.com");
    let with = |password: &str| strangers.iter().map(|s| s.with_credentials("anna", password)).collect::<Vec<_>>();
    all_see(&with("first-password"), 200, AT_ONCE).await;
    let answer = all_see(&strangers, 401, AT_ONCE).await;
    assert!(answer.headers.contains_key("www-authenticate"), "{answer:?}");

    apply(&users("second-password")).unwrap();
    all_see(&with("second-password"), 200, AT_ONCE).await;
    all_see(&with("first-password"), 401, AT_ONCE).await;

    // Without the Secret nobody can be told from anybody: nobody gets in, and it is not the visitor's fault.
    site.delete("secret", "users");
    let answer = all_see(&with("second-password"), 500, AT_ONCE).await;
    answer.is_edges_own("proxy_configuration_error");
    all_see(&strangers, 500, AT_ONCE).await;
    let (reason, message) = site.condition("shop", "ResolvedRefs", "False").await;
    assert_eq!(reason, "SecretNotFound");
    assert!(message.contains("users"), "{message}");

    apply(&users("third-password")).unwrap();
    all_see(&with("third-password"), 200, AT_ONCE).await;
    all_see(&strangers, 401, AT_ONCE).await;
    site.wait_ready("shop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_object_is_refused_or_explained() {
    let culvert = Culvert::installed().await;
    let site = Site::new(&culvert, "wrong", "right\n").await;
    site.publish(&culvert, "right", "right.example.com").await;

    let right = site.host("wrong", "wrong.example.com", "");
    let target = site.backend.address.to_string();
    for (yaml, named) in [
        (right.replace("wrong.example.com", "no_such name"), "hostnames"),
        (right.replace("wrong.example.com", "'*.*.example.com'"), "hostnames"),
        (right.replace(&target, "nowhere"), "targets"),
        (right.replace("name: home", "name: nobody"), "nobody"),
        (right.replace("targets:", "target:"), "target"),
        (right.replace("- backend:", "- path: {value: no-slash}\n    backend:"), "path"),
        (site.host("wrong", "wrong.example.com", "auth: {basic: {secretRef: {name: lost}}}"), "lost"),
    ] {
        let objection = site.objection("wrong", &yaml).await;
        assert!(objection.contains(named), "{yaml}\nwas answered with: {objection}");
        println!("{objection}");
        kubectl(["-n", &site.namespace, "delete", "tunnelhost", "wrong", "--ignore-not-found"]);
    }
    // And nothing else has changed.
    all_see(&culvert.visitors("right.example.com"), 200, AT_ONCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostname_belongs_to_the_older_namespace() {
    let culvert = Culvert::installed().await;
    let owner = Site::new(&culvert, "owner", "owner\n").await;
    let rival = Site::new(&culvert, "rival", "rival\n").await;
    owner.publish(&culvert, "first", "contested.example.com").await;

    apply(&rival.host("second", "contested.example.com", "")).unwrap();
    let (reason, message) = rival.condition("second", "Accepted", "False").await;
    assert_eq!(reason, "HostnameConflict");
    assert!(message.contains("contested.example.com") && message.contains("e2e-owner"), "{message}");
    let visitors = culvert.visitors("contested.example.com");
    assert_eq!(all_see(&visitors, 200, AT_ONCE).await.body, "owner\n");

    owner.delete("tunnelhost", "first");
    for visitor in &visitors {
        let what = "the rival's page, once the owner is gone";
        let page = async || match visitor.get("/").await {
            Ok(answer) if answer.body == "rival\n" => Ok(()),
            other => Err(format!("{other:?}")),
        };
        let ((), took) = eventually(what, AT_ONCE, page).await;
        println!("taken over after {took:?}");
    }
    rival.wait_ready("second");
}
