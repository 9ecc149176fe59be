//! What is wrong with a request.

use std::time::Duration;

use culvert::{proxy, routing::Filter, telemetry::access_log::AccessLogFormat};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::Scene;
use crate::{
    access_log::Written,
    secure::{Made, Secure, client},
    stage::{Answer, HOST, Options, backend, request, rule},
    support::PATIENCE,
};

pub(super) async fn the_host_is_malformed(reason: &str) {
    let scene = Scene::new().await;
    let answer = scene.stage.send("GET / HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n").await;
    scene.tells(0, &answer, 400, Some("http_request_error"), reason).await;
}

pub(super) async fn the_path_leads_elsewhere(reason: &str) {
    let scene = Scene::of("127.0.0.1:1").await;
    let answer = scene.stage.get("/a/%2e%2e/b").await;
    scene.tells(0, &answer, 400, Some("http_request_error"), reason).await;
}

pub(super) async fn the_method_is_not_forwarded(reason: &str) {
    let scene = Scene::of("127.0.0.1:1").await;
    let answer = scene.stage.send(&request("TRACE", "/", "")).await;
    scene.tells(0, &answer, 405, Some("http_request_error"), reason).await;
}

pub(super) async fn the_upload_stands_still(reason: &str) {
    let target = backend(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let scene = Scene::new().await;
    scene.serve(&[&target], |rule| rule.timeouts.response_head = Duration::from_millis(300));
    let mut visitor = scene.stage.visit().await;
    visitor.send(format!("{}half", request("POST", "/", "Content-Length: 8\r\n")).as_bytes()).await;
    let answer = visitor.answer().await;
    scene.tells(0, &answer, 408, Some("http_request_error"), reason).await;
}

pub(super) async fn over_tls_the_same_is_told(reason: &str) {
    let mut options = Options::default();
    options.config = proxy::Config { header_timeout: Duration::from_millis(500), ..options.config };
    let (options, written, _writer) = Written::log(AccessLogFormat::Json, options);
    let secure = Secure::start_with(options, None).await;
    let made = Made::new(&[HOST]);
    let hsts = Filter::Hsts("max-age=1".parse().expect("a value"));
    secure.serve(vec![rule(&["127.0.0.1:1"], vec![Filter::RequireTls, hsts])], &[(HOST, &made.secret("shop"))]);

    let mut visitor = secure.connect(client(&[&made], &[]), HOST).await.expect("a handshake");
    visitor.write_all(b"GET / HTTP/1.1\r\nHost: sho").await.expect("sent");
    let mut answer = String::new();
    timeout(PATIENCE, visitor.read_to_string(&mut answer)).await.expect("in time").expect("an end in order");
    assert!(
        answer.starts_with("HTTP/1.1 408 ") && answer.contains("Proxy-Status: culvert; error=http_request_error; "),
        "{answer}"
    );

    for (host, status, reason) in [(HOST, 502, "backend_refused"), ("elsewhere.example.com", 421, reason)] {
        let mut visitor = secure.connect(client(&[&made], &[]), HOST).await.expect("a handshake");
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        visitor.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        timeout(PATIENCE, visitor.read_to_string(&mut answer)).await.expect("in time").expect("an end in order");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert_eq!(
            answer.to_ascii_lowercase().contains("\r\nstrict-transport-security: max-age=1\r\n"),
            host == HOST,
            "{answer}"
        );
        let line = written.json(usize::from(host != HOST)).await;
        assert_eq!((line["reason"].as_str(), line["tls"].as_str()), (Some(reason), Some("TLSv1.3")), "{line}");
    }
}

pub(super) async fn the_target_is_none(reason: &str) {
    let scene = Scene::of("127.0.0.1:1").await;
    let answer = scene.stage.send(&request("GET", "*", "")).await;
    scene.tells(0, &answer, 400, Some("http_request_error"), reason).await;
}

/// What hyper cannot read it answers by itself.
pub(super) async fn the_request_is_no_http(reason: &str) {
    let scene = Scene::of("127.0.0.1:1").await;
    let mut visitor = scene.stage.visit().await;
    visitor.send(b"EHLO shop.example.com\r\n\r\n").await;
    let answer = String::from_utf8(visitor.rest().await).expect("text");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    scene.counts(reason).await;
}

pub(super) async fn the_body_is_coded_otherwise(reason: &str) {
    let scene = Scene::of("127.0.0.1:1").await;
    let answer = scene.stage.send(&request("POST", "/", "Transfer-Encoding: gzip, chunked\r\n")).await;
    scene.tells(0, &answer, 501, Some("http_request_error"), reason).await;
}

/// What a visitor gets that sends so much of a body and then ends its side.
async fn half_an_upload(fields: &str, half: &str) -> (Scene, Answer) {
    let target = backend(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let scene = Scene::of(&target).await;
    let mut visitor = scene.stage.visit().await;
    visitor.send(format!("{}{half}", request("POST", "/", fields)).as_bytes()).await;
    visitor.0.shutdown().await.expect("half-closed");
    let answer = visitor.answer().await;
    (scene, answer)
}

pub(super) async fn the_upload_breaks_off(reason: &str) {
    let (scene, answer) = half_an_upload("Content-Length: 8\r\n", "half").await;
    scene.tells(0, &answer, 400, Some("http_request_error"), reason).await;
}

pub(super) async fn the_uploads_chunks_are_none(reason: &str) {
    let (scene, answer) = half_an_upload("Transfer-Encoding: chunked\r\n", "4\r\nhalf\r\nrest\r\n").await;
    scene.tells(0, &answer, 400, Some("http_request_error"), reason).await;
}
