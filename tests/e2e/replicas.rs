//! How agents meet the replicas, and what a replica does that an agent has not met.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Culvert, OtherValues, Site, all_see, eventually, kubectl};

/// The replicas that the status of the site's agent names, with the number of connections to each.
fn met(site: &Site) -> Vec<(String, i64)> {
    let agent = kubectl(["-n", &site.namespace, "get", "tunnelagent", "home", "-o", "json"]);
    let agent: Value = serde_json::from_str(&agent).unwrap();
    let sessions = agent["status"]["sessions"].as_array().into_iter().flatten();
    let entry = |session: &Value| {
        let replica = session["replica"].as_str().unwrap_or_default();
        (replica.to_owned(), session["connections"].as_i64().unwrap_or_default())
    };
    sessions.map(entry).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_an_agent_cannot_reach_forwards_to_one_that_it_can() {
    let culvert = Culvert::installed().await;
    let mut site = Site::new(&culvert, "mesh", "from the other replica\n").await;
    site.publish(&culvert, "shop", "mesh.example.com").await;
    let [near, far] = <[_; 2]>::try_from(culvert.replicas()).unwrap();

    // The agent knows one pod only, and is told of no other address.
    site.agent.dial(&format!("https://{}:7443", near.address));
    eventually("the agent is at one replica only", Duration::from_secs(30), async || {
        let met = met(&site);
        if met == [(near.name.clone(), 2)] { Ok(()) } else { Err(format!("{met:?}")) }
    })
    .await;
    let visitors = culvert.visitors("mesh.example.com");
    all_see(&visitors, 200, Duration::from_secs(5)).await;
    far.visitor("mesh.example.com").echoes("by way of the other replica").await;
    assert!(near.counted("culvert_mesh_links_total", &["result=\"opened\""]).await >= 1.0);
    let namespace = format!("namespace=\"{}\"", site.namespace);
    assert!(far.counted("culvert_flow_bytes_total", &[&namespace, "direction=\"sent\""]).await > 0.0);

    // Without the agent, both say so.
    site.agent.kill();
    let answer = all_see(&visitors, 503, Duration::from_secs(5)).await;
    answer.is_edges_own("destination_unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_agents_are_told_the_pods_addresses_no_dial_is_in_vain() {
    let culvert = Culvert::installed().await;
    let mut site = Site::new(&culvert, "advertised", "here\n").await;
    let values = OtherValues::set(&culvert, r"bridge.advertise=\{ip\}:7443").await;
    site.agent.meets(&culvert).await;
    let in_vain = async || {
        let mut sum = 0.0;
        for replica in culvert.replicas() {
            sum += replica.counted("culvert_agent_connects_total", &["result=\"already_met\""]).await;
        }
        sum
    };
    let before = in_vain().await;
    for _ in 0..5 {
        site.agent.restart();
        site.agent.meets(&culvert).await;
        eventually("both connections to both replicas", Duration::from_secs(10), async || {
            let met = met(&site);
            let whole = met.len() == 2 && met.iter().all(|(_, connections)| *connections == 2);
            if whole { Ok(()) } else { Err(format!("{met:?}")) }
        })
        .await;
    }
    assert_eq!(in_vain().await.to_bits(), before.to_bits(), "each dial led to the replica that it was for");
    drop(values);
}
