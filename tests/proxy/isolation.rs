//! What one TunnelHost or visitor does to the others of the same session.

use std::time::Duration;

use culvert::routing::{ObjectName, Rule, RuleId, Timeouts};
use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::{
    stage::{Stage, mirror, rule},
    support::PATIENCE,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_whose_target_takes_no_connection_does_not_stand_before_the_others() {
    // Nobody accepts, and its backlog is full.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let listener = socket.listen(1).expect("a listener");
    let address = listener.local_addr().expect("its address");
    let mut filling = Vec::new();
    while let Ok(connected) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        filling.push(connected.expect("a connection"));
    }
    let stage = Stage::start().await;
    let rule_of = |name: &str, target: &str| Rule {
        id: RuleId { object: ObjectName::new("web", name), route: 0 },
        timeouts: Timeouts { connect: Duration::from_secs(20), ..Timeouts::default() },
        ..rule(&[target], Vec::new())
    };
    let dead = rule_of("dead", &address.to_string());
    let alive = rule_of("alive", &mirror().await);
    stage.serve_hosts(&[("dead.example.com", vec![dead]), ("alive.example.com", vec![alive])]);
    let mut waiting = JoinSet::new();
    for _ in 0..400 {
        let mut visitor = stage.visit().await;
        visitor.send(b"GET / HTTP/1.1\r\nHost: dead.example.com\r\n\r\n").await;
        waiting.spawn(async move { visitor.rest().await });
    }
    let active = "culvert_active_requests{namespace=\"web\",tunnelhost=\"dead\"}";
    stage.edge.metric_becomes(active, 400).await;
    let session = stage.edge.session().await;
    crate::stage::becomes("as many opens as one host may have", || session.links() == 128).await;
    let answered = stage.send("GET / HTTP/1.1\r\nHost: alive.example.com\r\nConnection: close\r\n\r\n");
    assert_eq!(timeout(PATIENCE, answered).await.expect("in time").status, 200);
    assert_eq!(session.links(), 129, "no more of the first, and a pooled one of the second");
    // Visitors who leave make room for those who still wait.
    waiting.shutdown().await;
    stage.edge.metric_becomes(active, 0).await;
    crate::stage::becomes("their links end", || session.links() == 1).await;
}
