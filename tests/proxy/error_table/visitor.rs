//! Visitors who leave, and connections that come to no request.

use std::time::Duration;

use culvert::proxy::{self, TrustedProxies};
use http::Request;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use super::Scene;
use crate::{
    stage::{HOST, Options, backend, mirror, read_head, request},
    support::{PATIENCE, accept},
};

pub(super) async fn the_visitor_leaves_before_the_response(reason: &str) {
    let (listener, target) = crate::support::backend();
    let scene = Scene::of(&target).await;
    let mut visitor = scene.stage.visit().await;
    visitor.send(request("GET", "/", "").as_bytes()).await;
    let mut held = accept(&listener).await;
    read_head(&mut held).await;
    drop(visitor);
    scene.logs(0, 499, Some(reason)).await;
}

pub(super) async fn the_visitor_leaves_during_the_response(reason: &str) {
    let (listener, target) = crate::support::backend();
    let scene = Scene::of(&target).await;
    let mut visitor = scene.stage.visit().await;
    visitor.send(request("GET", "/", "").as_bytes()).await;
    let mut held = accept(&listener).await;
    read_head(&mut held).await;
    held.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await.expect("sent");
    assert!(read_head(&mut visitor.0).await.starts_with("HTTP/1.1 200 "));
    drop(visitor);
    scene.logs(0, 200, Some(reason)).await;
}

pub(super) async fn the_visitor_takes_nothing_for_as_long_as_its_rule_allows(reason: &str) {
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n").await;
        while stream.write_all(&[7; 1 << 14]).await.is_ok() {}
    })
    .await;
    let scene = Scene::new().await;
    scene.serve(&[&target], |rule| rule.timeouts.stream_idle = Duration::from_millis(500));
    let mut visitor = scene.stage.visit().await;
    visitor.send(request("GET", "/", "").as_bytes()).await;
    scene.counts(reason).await;
    scene.logs(0, 200, Some(reason)).await;
}

pub(super) async fn the_heads_rest_does_not_come(reason: &str) {
    let mut options = Options::default();
    options.config = proxy::Config { header_timeout: Duration::from_millis(300), ..options.config };
    let scene = Scene::with(options).await;
    let mut visitor = scene.stage.visit().await;
    visitor.send(b"GET / HTTP/1.1\r\nHost: sho").await;
    let answer = visitor.answer().await;
    assert_eq!(answer.status, 408);
    assert!(answer.header("proxy-status").expect("a cause").starts_with("culvert; error=http_request_error; "));
    scene.counts(reason).await;
    assert!(visitor.rest().await.is_empty());
}

pub(super) async fn the_head_is_too_large(reason: &str) {
    let mut options = Options::default();
    options.config = proxy::Config { max_headers: 3, max_header_bytes: 10_000, ..options.config };
    let scene = Scene::with(options).await;
    let answer = scene.stage.send(&request("GET", "/", "A: 1\r\nB: 2\r\n")).await;
    assert_eq!(answer.status, 431);
    scene.counts(reason).await;
    let mut visitor = scene.stage.visit().await;
    visitor.send(request("GET", "/", &format!("A: {}\r\n", "x".repeat(9_950))).as_bytes()).await;
    let all = visitor.rest().await;
    assert!(all.is_empty() || all.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&all));
    scene.stage.edge.metric_becomes("culvert_errors_total{reason=\"head_too_large\"}", 2).await;
}

#[tokio::test]
async fn a_connection_without_a_request_ends_in_silence() {
    let mut options = Options::default();
    options.config = proxy::Config { idle_timeout: Duration::from_millis(300), ..options.config };
    let scene = Scene::with(options).await;
    scene.stage.serve(&[&mirror().await]);
    let mut unused = scene.stage.visit().await;
    let mut used = scene.stage.visit().await;
    used.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await;
    assert_eq!(used.answer().await.status, 200);
    assert!(unused.rest().await.is_empty() && used.rest().await.is_empty());
    assert_eq!(scene.stage.edge.metric("culvert_errors_total{reason=\"head_timeout\"}"), 0);
}

pub(super) async fn there_are_too_many_connections(reason: &str) {
    let mut options = Options::default();
    options.config = proxy::Config { max_connections: Some(1), ..options.config };
    let scene = Scene::with(options).await;
    scene.stage.serve(&[&mirror().await]);
    let mut first = scene.stage.visit().await;
    first.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await;
    assert_eq!(first.answer().await.status, 200);
    assert!(scene.stage.visit().await.rest().await.is_empty());
    scene.counts(reason).await;
}

pub(super) async fn the_visitors_connection_is_reset(reason: &str) {
    let (listener, target) = crate::support::backend();
    let scene = Scene::of(&target).await;
    let mut visitor = scene.stage.visit().await;
    visitor.send(request("GET", "/", "").as_bytes()).await;
    let mut held = accept(&listener).await;
    read_head(&mut held).await;
    held.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await.expect("sent");
    assert!(read_head(&mut visitor.0).await.starts_with("HTTP/1.1 200 "));
    visitor.0.set_zero_linger().expect("an option");
    drop(visitor);
    scene.counts(reason).await;
    scene.logs(0, 200, Some("visitor_left")).await;
}

pub(super) async fn the_request_breaks_off_in_its_head(reason: &str) {
    let scene = Scene::new().await;
    let mut visitor = scene.stage.visit().await;
    visitor.send(b"GET / HTTP/1.1\r\nHost: sho").await;
    visitor.0.shutdown().await.expect("half-closed");
    assert!(visitor.rest().await.is_empty());
    scene.counts(reason).await;
}

pub(super) async fn a_flood_of_requests_that_are_taken_back_ends_the_connection(reason: &str) {
    let scene = Scene::of(&mirror().await).await;
    let stream = TcpStream::connect(scene.stage.http).await.expect("a connection");
    let (mut sender, connection) = h2::client::handshake(stream).await.expect("a connection");
    let connection = tokio::spawn(connection);
    let flood = async {
        loop {
            let Ok(mut ready) = sender.clone().ready().await else { return };
            for _ in 0..50 {
                let request = Request::get(format!("http://{HOST}/")).body(()).expect("a request");
                let Ok((_, mut stream)) = ready.send_request(request, true) else { break };
                stream.send_reset(h2::Reason::CANCEL);
            }
            sender = ready;
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, flood).await.expect("an end in time");
    let end = timeout(PATIENCE, connection).await.expect("in time").expect("no panic").expect_err("an error");
    assert_eq!(end.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM), "{end}");
    scene.counts(reason).await;
    assert_eq!(scene.stage.get("/").await.status, 200, "others are served");
}

/// A scene whose visitors have to come from a proxy of this network, and what one of them gets that sends these bytes.
async fn behind_proxy(network: &str, bytes: &[u8]) -> (Scene, Vec<u8>) {
    let mut options = Options::default();
    let trusted = TrustedProxies::new(vec![network.parse().expect("a network")]);
    let header_timeout = Duration::from_millis(300);
    options.config = proxy::Config { proxy_protocol: Some(trusted), header_timeout, ..options.config };
    let scene = Scene::with(options).await;
    let mut visitor = scene.stage.visit().await;
    visitor.send(bytes).await;
    let rest = visitor.rest().await;
    (scene, rest)
}

pub(super) async fn a_proxy_is_not_trusted(reason: &str) {
    let header = b"PROXY TCP4 203.0.113.9 192.0.2.1 4000 443\r\n";
    let (scene, rest) = behind_proxy("192.0.2.0/24", header).await;
    assert!(rest.is_empty());
    scene.counts(reason).await;
}

pub(super) async fn no_proxy_header_comes(reason: &str) {
    let (scene, rest) = behind_proxy("127.0.0.0/8", request("GET", "/", "").as_bytes()).await;
    assert!(rest.is_empty());
    scene.counts(reason).await;
}

pub(super) async fn the_proxy_headers_rest_does_not_come(reason: &str) {
    let (scene, rest) = behind_proxy("127.0.0.0/8", b"PROXY TCP4 203.").await;
    assert!(rest.is_empty());
    scene.counts(reason).await;
}
