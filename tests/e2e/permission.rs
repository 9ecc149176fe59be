//! Who may use whose agents, and what is told of a new process.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Culvert, Site, all_see, apply, eventually, kubectl};

/// How soon a change shows, from the moment that kubectl has returned.
const AT_ONCE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_used_from_another_namespace_as_long_as_that_is_admitted() {
    let culvert = Culvert::installed().await;
    let owner = Site::new(&culvert, "lender", "lent\n").await;
    let guest = Site::new(&culvert, "borrower", "own\n").await;
    let reference = format!("[{{name: home, namespace: {}}}]", owner.namespace);
    let host = guest.host("shop", "lent.example.com", "").replace("[{name: home}]", &reference);
    let host = host.replace(&guest.backend.address.to_string(), &owner.backend.address.to_string());
    let visitors = culvert.visitors("lent.example.com");

    apply(&host).unwrap();
    let (reason, message) = guest.condition("shop", "ResolvedRefs", "False").await;
    assert_eq!(reason, "RefNotPermitted");
    assert!(message.contains("allowedNamespaces"), "{message}");
    all_see(&visitors, 500, AT_ONCE).await.is_edges_own("proxy_configuration_error");
    // Nor is told whether there is such an agent at all.
    apply(&host.replace("name: home", "name: nobody")).unwrap();
    eventually("the same of an agent that does not exist", Duration::from_secs(10), async || {
        let (reason, other) = guest.condition("shop", "ResolvedRefs", "False").await;
        let same = reason == "RefNotPermitted" && other == message.replace("\"home\"", "\"nobody\"");
        if same { Ok(()) } else { Err(other) }
    })
    .await;
    apply(&host).unwrap();

    let patch = |allowed: &str| {
        let patch = format!("{{\"spec\":{{\"allowedNamespaces\":{allowed}}}}}");
        kubectl(["-n", &owner.namespace, "patch", "tunnelagent", "home", "--type=merge", "-p", &patch]);
    };
    patch(r#"{"from":"Selector","selector":{"matchLabels":{"may-borrow":"yes"}}}"#);
    kubectl(["label", "namespace", &guest.namespace, "may-borrow=yes"]);
    assert_eq!(all_see(&visitors, 200, AT_ONCE).await.body, "lent\n");
    guest.wait_ready("shop");
    kubectl(["label", "namespace", &guest.namespace, "may-borrow-"]);
    all_see(&visitors, 500, AT_ONCE).await;
    patch(r#"{"from":"All","selector":null}"#);
    assert_eq!(all_see(&visitors, 200, AT_ONCE).await.body, "lent\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_of_an_agent_is_an_event() {
    let culvert = Culvert::installed().await;
    let mut site = Site::new(&culvert, "event", "here\n").await;
    let notes = |site: &Site| {
        let events = kubectl(["-n", &site.namespace, "get", "events.events.k8s.io", "-o", "json"]);
        let events: Value = serde_json::from_str(&events).unwrap();
        let events = events["items"].as_array().cloned().unwrap_or_default();
        let about = |event: &&Value| event["regarding"]["name"] == "home" && event["reason"] == "NewInstance";
        events.iter().filter(about).map(|event| event["note"].to_string()).collect::<String>()
    };
    site.agent.restart();
    // An Event about one agent comes twice a minute at most.
    let within = Duration::from_secs(45);
    eventually("an Event names the process", within, async || {
        let agent = kubectl(["-n", &site.namespace, "get", "tunnelagent", "home", "-o", "json"]);
        let agent: Value = serde_json::from_str(&agent).unwrap();
        let instance = agent["status"]["sessions"][0]["instance"].as_str().unwrap_or("none yet").to_owned();
        let notes = notes(&site);
        if notes.contains(&instance) { Ok(()) } else { Err(format!("{instance} is not in {notes}")) }
    })
    .await;
}
