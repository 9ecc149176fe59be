//! A backend that stops, and comes back: what its TunnelHost says meanwhile.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use crate::harness::{Backend, Culvert, Site, Visitor, all_see, apply, eventually, kubectl};

/// Longer than a failure is said at least, and than any replica needs to hear of another one's.
const SOON: Duration = Duration::from_mins(1);

/// A TunnelHost's conditions by their types, and what replicas say of its backends.
fn status(site: &Site, host: &str) -> (BTreeMap<String, Value>, Value) {
    let object = kubectl(["-n", &site.namespace, "get", "tunnelhost", host, "-o", "json"]);
    let mut object: Value = serde_json::from_str(&object).unwrap();
    let conditions = object["status"]["conditions"].as_array().unwrap();
    let by_type = |condition: &Value| (condition["type"].as_str().unwrap().to_owned(), condition.clone());
    (conditions.iter().map(by_type).collect(), object["status"]["unreachable"].take())
}

/// Waits until `BackendReachable` of a TunnelHost is so, while these visitors come, and gives it and all other conditions.
async fn reachable(site: &Site, host: &str, is: &str, visitors: &[Visitor]) -> (Value, BTreeMap<String, Value>) {
    let what = format!("BackendReachable={is} of {host}");
    let (found, _) = eventually(&what, SOON, async || {
        for visitor in visitors {
            visitor.get("/").await.unwrap();
        }
        let (mut conditions, _) = status(site, host);
        let condition = conditions.remove("BackendReachable").ok_or("no such condition")?;
        if condition["status"] == is { Ok((condition, conditions)) } else { Err(condition.to_string()) }
    })
    .await;
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_a_backend_changes_one_condition_alone() {
    let culvert = Culvert::installed().await;
    let mut site = Site::new(&culvert, "health", "well\n").await;
    // One is known by its visitors alone, the other one by its checks alone.
    site.publish(&culvert, "visited", "visited.example.com").await;
    let visitors = culvert.visitors("visited.example.com");
    let check = "healthCheck: {tcp: {}, interval: 1s, unhealthyAfter: 1, healthyAfter: 1}\n      targets:";
    apply(&site.host("checked", "checked.example.com", "").replace("targets:", check)).unwrap();
    site.wait_ready("checked");
    let (_, visited_before) = reachable(&site, "visited", "True", &visitors).await;
    let (_, checked_before) = reachable(&site, "checked", "True", &[]).await;

    let address = site.backend.address.to_string();
    site.backend.stop().await;
    for (host, visitors, before) in [("checked", &[][..], &checked_before), ("visited", &visitors[..], &visited_before)]
    {
        let (condition, others) = reachable(&site, host, "False", visitors).await;
        assert_eq!(condition["reason"], "Refused", "{condition}");
        let message = condition["message"].as_str().unwrap();
        assert!(message.contains(&format!("{}/home", site.namespace)) && message.contains(&address), "{message}");
        assert_eq!(others, *before, "of {host}");
    }

    site.backend = Backend::start(&address, "well again\n").await;
    all_see(&visitors, 200, Duration::from_secs(5)).await;
    for (host, visitors, before) in [("checked", &[][..], &checked_before), ("visited", &visitors[..], &visited_before)]
    {
        let (_, others) = reachable(&site, host, "True", visitors).await;
        assert_eq!(others, *before, "of {host}");
        eventually("all replicas have taken back what they said", SOON, async || {
            let (_, unreachable) = status(&site, host);
            if unreachable.as_array().is_none_or(Vec::is_empty) { Ok(()) } else { Err(unreachable.to_string()) }
        })
        .await;
    }
}
