use std::time::Duration;

use culvert::routing::{Backend, Rule, Timeouts};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use crate::stage::{Answer, HOST, Options, Stage, backend, mirror, read_head, rule};

/// What every answer of the edge's own has.
#[track_caller]
fn is_ours(answer: &Answer, status: u16, error: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    let cause = answer.header("proxy-status").expect("Proxy-Status");
    assert!(cause.starts_with(&format!("culvert; error={error}; details=\"")), "{cause}");
    assert!(answer.header("x-request-id").is_some());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
}

#[tokio::test]
async fn an_unknown_host_is_404() {
    let stage = Stage::start().await;
    is_ours(&stage.get("/").await, 404, "destination_not_found");
    stage.serve(&[&mirror().await]);
    assert_eq!(stage.get("/").await.status, 200);
    stage.serve_nothing();
    is_ours(&stage.get("/").await, 404, "destination_not_found");
}

#[tokio::test]
async fn a_broken_reference_is_500() {
    let stage = Stage::start().await;
    let mut rule = rule(&["127.0.0.1:1"], Vec::new());
    rule.backend = Backend::Invalid("spec.auth.basic: no Secret visitors".into());
    stage.serve_rules(vec![rule], None);
    let answer = stage.get("/").await;
    is_ours(&answer, 500, "proxy_configuration_error");
    assert!(!answer.body.contains("visitors"), "a visitor is not told of Secrets: {}", answer.body);
}

#[tokio::test]
async fn no_session_is_503_with_retry_after() {
    let mut stage = Stage::start().await;
    stage.serve(&[&mirror().await]);
    assert_eq!(stage.get("/").await.status, 200);
    stage.agent.take().expect("an agent").stop().await;
    stage.edge.sessions(|sessions| sessions.is_empty()).await;
    let started = Instant::now();
    let answer = stage.get("/").await;
    is_ours(&answer, 503, "destination_unavailable");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_target_outside_the_allow_list_is_502_that_says_so() {
    let stage = Stage::start_with(Options { allow: &["127.0.0.1:1"], ..Options::default() }).await;
    stage.serve(&[&mirror().await]);
    let answer = stage.get("/").await;
    is_ours(&answer, 502, "connection_refused");
    assert!(answer.header("proxy-status").expect("a cause").contains("allow-list"), "{answer:?}");
}

#[tokio::test]
async fn a_refusing_backend_is_502() {
    let (listener, target) = crate::support::backend();
    drop(listener);
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    is_ours(&stage.get("/").await, 502, "connection_refused");
}

#[tokio::test]
async fn a_backend_that_closes_without_an_answer_is_502() {
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
    })
    .await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    is_ours(&stage.get("/").await, 502, "connection_terminated");
}

#[tokio::test]
async fn a_backend_that_does_not_speak_http_is_502() {
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"220 mail.example.com ESMTP\r\n\r\n").await.expect("written");
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    is_ours(&stage.get("/").await, 502, "http_protocol_error");
}

#[tokio::test]
async fn a_backend_that_says_nothing_is_504() {
    let timeouts = Timeouts { response_head: Duration::from_millis(200), ..Timeouts::default() };
    let target = backend(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let stage = Stage::start().await;
    stage.serve_rules(vec![Rule { timeouts, ..rule(&[&target], Vec::new()) }], None);
    is_ours(&stage.get("/").await, 504, "http_response_timeout");
}

#[tokio::test]
async fn a_response_cut_short_is_cut_short_for_the_visitor_too() {
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await.expect("answered");
    })
    .await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;
    visitor.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await;
    let all = visitor.rest().await;
    assert!(all.ends_with(b"\r\n\r\nhalf"), "{}", String::from_utf8_lossy(&all));
    stage.edge.metric_becomes("culvert_errors_total{reason=\"backend_closed\"}", 1).await;
}

#[tokio::test]
async fn a_session_lost_while_waiting_is_502() {
    let (listener, target) = crate::support::backend();
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;
    visitor.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await;
    let mut held = crate::support::accept(&listener).await;
    read_head(&mut held).await;
    // Removing its credential ends the agent's session at once.
    stage.edge.agents.send_replace(std::sync::Arc::default());
    is_ours(&visitor.answer().await, 502, "connection_terminated");
}
