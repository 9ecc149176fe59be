//! The response of a backend, and its end.

use std::{sync::Arc, time::Duration};

use culvert::routing::Timeouts;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Scene;
use crate::{
    stage::{HOST, backend, read_head, request},
    support::accept,
};

pub(super) async fn the_backend_closes_without_an_answer(reason: &str) {
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
    })
    .await;
    let scene = Scene::of(&target).await;
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 502, Some("connection_terminated"), reason).await;
}

pub(super) async fn the_backend_resets(reason: &str) {
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
        stream.set_zero_linger().expect("a reset");
    })
    .await;
    let scene = Scene::of(&target).await;
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 502, Some("connection_terminated"), reason).await;
}

pub(super) async fn the_backend_says_nothing(reason: &str) {
    let target = backend(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let scene = Scene::new().await;
    scene.serve(&[&target], |rule| rule.timeouts.response_head = Duration::from_millis(300));
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 504, Some("http_response_timeout"), reason).await;
}

/// A backend that answers each request with these bytes, and then waits for its peer's end.
async fn answering(bytes: impl Into<Vec<u8>>) -> String {
    let bytes: Arc<Vec<u8>> = Arc::new(bytes.into());
    backend(move |mut stream| {
        let bytes = bytes.clone();
        async move {
            read_head(&mut stream).await;
            // The edge may have read enough before the end.
            let _ = stream.write_all(&bytes).await;
            let _ = stream.read(&mut [0]).await;
        }
    })
    .await
}

pub(super) async fn the_backend_speaks_no_http(reason: &str) {
    let scene = Scene::of(&answering("220 mail.example.com ESMTP\r\n\r\n").await).await;
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 502, Some("http_protocol_error"), reason).await;
}

pub(super) async fn the_responses_head_is_too_large(reason: &str) {
    let head = format!("HTTP/1.1 200 OK\r\nX-Large: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(70_000));
    let scene = Scene::of(&answering(head).await).await;
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 502, Some("http_response_header_section_size"), reason).await;
}

pub(super) async fn the_backend_closes_within_its_body(reason: &str) {
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await.expect("answered");
    })
    .await;
    let scene = Scene::of(&target).await;
    let mut visitor = scene.stage.visit().await;
    visitor.send(request("GET", "/", "").as_bytes()).await;
    assert!(visitor.rest().await.ends_with(b"\r\n\r\nhalf"));
    let line = scene.logs(0, 200, Some(reason)).await;
    assert_eq!((&line["sent"], &line["backend_status"]), (&Value::from(4), &Value::from(200)));
    scene.counts(reason).await;
}

pub(super) async fn the_agent_is_lost_within_a_body(reason: &str) {
    let (listener, target) = crate::support::backend();
    let scene = Scene::of(&target).await;
    let mut visitor = scene.stage.visit().await;
    visitor.send(request("GET", "/", "").as_bytes()).await;
    let mut held = accept(&listener).await;
    read_head(&mut held).await;
    held.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await.expect("sent");
    assert!(read_head(&mut visitor.0).await.starts_with("HTTP/1.1 200 "));
    scene.stage.edge.agents.send_replace(Arc::default());
    let rest = visitor.rest().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
    scene.logs(0, 200, Some(reason)).await;
    scene.counts(reason).await;
}

pub(super) async fn the_body_stops_coming(reason: &str) {
    let scene = Scene::new().await;
    let target = answering("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
    let timeouts = Timeouts { stream_idle: Duration::from_millis(300), ..Timeouts::default() };
    scene.serve(&[&target], |rule| rule.timeouts = timeouts);
    let mut visitor = scene.stage.visit().await;
    visitor.send(request("GET", "/", "").as_bytes()).await;
    assert!(visitor.rest().await.ends_with(b"\r\n\r\nhalf"));
    scene.logs(0, 200, Some(reason)).await;
    scene.counts(reason).await;
}

pub(super) async fn nothing_moves_in_an_upgraded_connection(reason: &str) {
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
        let switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
        stream.write_all(switched).await.expect("switched");
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let scene = Scene::new().await;
    scene.serve(&[&target], |rule| rule.timeouts.upgrade_idle = Duration::from_millis(300));
    let mut visitor = scene.stage.visit().await;
    let upgrade = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    visitor.send(upgrade.as_bytes()).await;
    assert_eq!(visitor.answer().await.status, 101);
    assert!(visitor.rest().await.is_empty());
    scene.logs(0, 101, Some(reason)).await;
}

pub(super) async fn the_edge_stops_under_an_upgraded_connection(reason: &str) {
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
        let switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(switched).await.expect("switched");
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let scene = Scene::of(&target).await;
    let mut visitor = scene.stage.visit().await;
    let upgrade = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    visitor.send(upgrade.as_bytes()).await;
    assert_eq!(visitor.answer().await.status, 101);
    scene.stage.edge.bridge.registry().end_links();
    assert_eq!(visitor.rest().await, [0x88, 2, 0x03, 0xe9], "a Close frame that says 1001");
    scene.logs(0, 101, Some(reason)).await;
}
