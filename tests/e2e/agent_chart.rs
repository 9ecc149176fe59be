//! The agent as pods of its own chart, which dial the bridge by its name in the cluster's DNS.

use std::{process::Command, time::Duration};

use crate::harness::{Backend, Culvert, NAMESPACE, Site, all_see, apply, attempt, eventually, helm, kubectl, project};

/// The release of the chart; it goes with this value.
struct Pods<'a>(&'a str);

impl Drop for Pods<'_> {
    fn drop(&mut self) {
        // A test that has failed must not panic once more.
        let _ = attempt(Command::new("helm").args(["uninstall", "home", "--namespace", self.0, "--wait"]), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_of_the_chart_serve_and_the_object_counts_the_replicas_that_they_met() {
    let culvert = Culvert::installed().await;
    let mut site = Site::new(&culvert, "pods", "from outside\n").await;
    site.agent.kill();
    let node =
        kubectl(["get", "nodes", "-o", "jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}"]);
    let backend = Backend::start(&format!("{node}:0"), "from pods\n").await;
    let secret_path = "jsonpath={.spec.credentials[0].secretRef.name}";
    let secret = kubectl(["-n", &site.namespace, "get", "tunnelagent", "home", "-o", secret_path]);
    let pods = Pods(&site.namespace);
    let chart = project().join("charts/culvert-agent").display().to_string();
    let edge = format!("edge={{https://culvert-bridge.{NAMESPACE}.svc:7443}},agent={}/home", site.namespace);
    let trust = format!("trust.fingerprints={{{}}},token.secret={secret}", culvert.fingerprint);
    let allow = format!("allow={{{}}},replicas=2", backend.address);
    let values = format!("{edge},{trust},{allow}");
    helm(["install", "home", &chart, "-n", &site.namespace, "--set", &values, "--wait", "--timeout", "120s"]);

    let host = site.host("shop", "pods.example.com", "");
    apply(&host.replace(&site.backend.address.to_string(), &backend.address.to_string())).unwrap();
    site.wait_ready("shop");
    let answer = all_see(&culvert.visitors("pods.example.com"), 200, Duration::from_secs(10)).await;
    assert_eq!(answer.body, "from pods\n");

    // What a person sees: with how many replicas it is connected, of how many, by what and in which version.
    let row = ["-n", &site.namespace, "get", "ta", "home", "--no-headers"];
    eventually("the columns", Duration::from_secs(20), async || {
        let row = kubectl(row);
        let columns: Vec<&str> = row.split_whitespace().take(6).collect();
        let expected = ["home", "True", "2", "2", "tls", env!("CARGO_PKG_VERSION")];
        if columns == expected { Ok(()) } else { Err(row) }
    })
    .await;
    let deployment = "deployment/home-culvert-agent";
    let status = kubectl(["-n", &site.namespace, "exec", deployment, "--", "/culvert", "agent", "status"]);
    for replica in culvert.replicas() {
        assert!(status.contains(&replica.name), "{}: {status}", replica.name);
    }
    kubectl(["-n", &site.namespace, "scale", deployment, "--replicas=0"]);
    eventually("nobody is connected any more", Duration::from_mins(1), async || {
        let row = kubectl(row);
        if row.split_whitespace().nth(2) == Some("0") { Ok(()) } else { Err(row) }
    })
    .await;
    drop(pods);
}
