//! The path of a newcomer: the quickstart, as its own comments say.

use std::{process::Command, time::Duration};

use crate::harness::{Agent, Backend, Culvert, all_see, attempt, kubectl, output, project};

#[tokio::test(flavor = "multi_thread")]
async fn the_quickstart_answers_on_both_replicas() {
    let culvert = Culvert::installed().await;
    let quickstart = project().join("examples/quickstart.yaml");
    let apply = || output(Command::new("kubectl").args(["apply", "-f"]).arg(&quickstart));
    // What an earlier run left must not be what this one sees.
    let delete = || output(Command::new("kubectl").args(["delete", "--ignore-not-found", "-f"]).arg(&quickstart));
    delete();

    apply();
    let _backend = Backend::start("127.0.0.1:8080", "hello from behind NAT\n").await;
    let agent = Agent::start(&culvert, "default", "home-lab", "127.0.0.1:8080".parse().unwrap()).await;
    kubectl(["wait", "--for=condition=Ready", "tunnelhost/hello", "--timeout=20s"]);
    assert_eq!(agent.condition("Ready"), "True");

    let answer = all_see(&culvert.visitors("hello.example.com"), 200, Duration::from_secs(5)).await;
    assert_eq!(answer.body, "hello from behind NAT\n");
    for visitor in culvert.visitors("hello.example.com") {
        visitor.echoes("through this very pod").await;
    }

    // Through the Service kube-proxy picks the replica: ask until each of them has served a page and a WebSocket.
    let replicas = culvert.replicas();
    let visitor = culvert.visitor("hello.example.com");
    for replica in &replicas {
        for (what, code) in [("page", "code=\"200\""), ("WebSocket", "code=\"101\"")] {
            let labels = ["tunnelhost=\"hello\"", code];
            let before = replica.counted("culvert_requests_total", &labels).await;
            let mut tries = 0;
            while replica.counted("culvert_requests_total", &labels).await <= before {
                tries += 1;
                assert!(tries < 60, "{} served no {what} of 60 that entered at the Service", replica.name);
                assert_eq!(visitor.get("/").await.unwrap().status, 200);
                visitor.echoes("through the Service").await;
            }
        }
    }

    let listed = kubectl(["get", "tunnelhosts,tunnelagents"]);
    assert!(listed.contains("hello.example.com") && listed.contains("home-lab"), "{listed}");
    delete();
    all_see(&culvert.visitors("hello.example.com"), 404, Duration::from_secs(2)).await;
    attempt(Command::new("kubectl").args(["delete", "secret", "home-lab-token"]), "").unwrap();
}
