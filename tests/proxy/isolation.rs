//! What one TunnelHost or visitor does to the others of the same session.

use std::time::Duration;

use culvert::routing::{ObjectName, Rule, RuleId, Timeouts};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    stage::{HOST, Stage, backend, mirror, read_head, rule},
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_that_trickle_in_at_once_arrive_whole() {
    const VISITORS: u32 = 400;
    let stage = Stage::start().await;
    let echo = backend(|mut stream| async move {
        while !read_head(&mut stream).await.is_empty() {
            let mut body = [0; 8];
            stream.read_exact(&mut body).await.expect("a body");
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n").await.expect("answered");
            stream.write_all(&body).await.expect("answered");
        }
    });
    stage.serve(&[&echo.await]);
    let head = format!("POST /slow HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 8\r\n\r\n");
    let body = |number: u32| format!("{number:08}");
    let (mut slow_bodies, mut slow_heads) = (Vec::new(), Vec::new());
    for number in 0..VISITORS / 2 {
        let mut visitor = stage.visit().await;
        visitor.send(format!("{head}{}", &body(number)[..3]).as_bytes()).await;
        slow_bodies.push(visitor);
        let mut visitor = stage.visit().await;
        visitor.send(&head.as_bytes()[..20]).await;
        slow_heads.push(visitor);
    }
    // So long that they are read at a pace.
    sleep(Duration::from_millis(600)).await;
    for (number, (with_body, with_head)) in (0..).zip(slow_bodies.iter_mut().zip(&mut slow_heads)) {
        with_body.send(&body(number).as_bytes()[3..]).await;
        with_head.send(format!("{}{}", &head[20..], body(number)).as_bytes()).await;
    }
    for (number, (mut with_body, mut with_head)) in (0..).zip(slow_bodies.into_iter().zip(slow_heads)) {
        assert_eq!(with_body.answer().await.body, body(number));
        assert_eq!(with_head.answer().await.body, body(number));
    }
}
