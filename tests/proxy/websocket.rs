use std::time::Duration;

use culvert::routing::{Rule, Timeouts};
use futures::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, accept_async, client_async,
    tungstenite::{Message, Utf8Bytes},
};

use crate::{
    stage::{HOST, Stage, backend, read_head, rule},
    support::PATIENCE,
};

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: shop.example.com\r\nConnection: keep-alive, Upgrade\r\n\
                       Upgrade: echo\r\n\r\n";
const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";

async fn echo_server() -> String {
    backend(|stream| async move {
        let Ok(mut socket) = accept_async(stream).await else { return };
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                return;
            }
        }
    })
    .await
}

async fn connect(stage: &Stage) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(stage.http).await.expect("a connection");
    timeout(PATIENCE, client_async(format!("ws://{HOST}/ws"), stream)).await.expect("in time").expect("a WebSocket").0
}

async fn next(socket: &mut WebSocketStream<TcpStream>) -> Message {
    timeout(PATIENCE, socket.next()).await.expect("a message in time").expect("a message").expect("a good message")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_open_websockets_echo() {
    let stage = Stage::start().await;
    stage.serve(&[&echo_server().await]);
    let mut sockets = Vec::new();
    for _ in 0..1000 {
        sockets.push(connect(&stage).await);
    }
    stage.edge.metric_becomes("culvert_active_joins{namespace=\"web\",tunnelhost=\"shop\"}", 1000).await;
    let mut echoes = JoinSet::new();
    for (number, mut socket) in sockets.into_iter().enumerate() {
        echoes.spawn(async move {
            let said = Utf8Bytes::from(format!("socket {number}"));
            socket.send(Message::Text(said.clone())).await.expect("sent");
            assert_eq!(next(&mut socket).await, Message::Text(said));
            socket.close(None).await.expect("closed");
            while timeout(PATIENCE, socket.next()).await.expect("an end in time").is_some() {}
        });
    }
    while let Some(echoed) = echoes.join_next().await {
        echoed.expect("an echo");
    }
    stage.edge.metric_becomes("culvert_active_joins{namespace=\"web\",tunnelhost=\"shop\"}", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_16_mib_arrives_whole() {
    let stage = Stage::start().await;
    stage.serve(&[&echo_server().await]);
    let socket = connect(&stage).await;
    let message: Vec<u8> = (0_u32..4 << 20).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_be_bytes()).collect();
    let (mut sink, mut stream) = socket.split();
    let sent = Message::binary(message.clone());
    let sending = tokio::spawn(async move { sink.send(sent).await.expect("sent") });
    let echo = timeout(PATIENCE, stream.next()).await.expect("in time").expect("a message").expect("a good one");
    sending.await.expect("sent");
    assert!(echo.into_data() == message, "the echo differs");
}

#[tokio::test]
async fn what_the_backend_says_after_the_visitors_end_arrives() {
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(SWITCHED).await.expect("switched");
        let mut question = Vec::new();
        stream.read_to_end(&mut question).await.expect("the visitor's end");
        stream.write_all(&question).await.expect("answered");
    })
    .await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;
    visitor.send(UPGRADE.as_bytes()).await;
    assert_eq!(visitor.answer().await.status, 101);
    visitor.send(b"question").await;
    visitor.0.shutdown().await.expect("half-closed");
    assert_eq!(visitor.rest().await, b"question");
}

#[tokio::test]
async fn what_the_visitor_says_after_the_backends_end_arrives() {
    let (tell, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let target = backend(move |mut stream| {
        let tell = tell.clone();
        async move {
            read_head(&mut stream).await;
            stream.write_all(SWITCHED).await.expect("switched");
            stream.shutdown().await.expect("half-closed");
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.expect("the visitor's end");
            tell.send(rest).expect("somebody waits");
        }
    })
    .await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;
    visitor.send(UPGRADE.as_bytes()).await;
    assert_eq!(visitor.answer().await.status, 101);
    assert!(visitor.rest().await.is_empty());
    visitor.send(b"one more thing").await;
    drop(visitor);
    assert_eq!(timeout(PATIENCE, heard.recv()).await.expect("in time").expect("the rest"), b"one more thing");
}

#[tokio::test]
async fn bytes_right_behind_either_handshake_are_not_lost() {
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
        // One write: the switch, and what comes first in the new protocol.
        stream.write_all(&[SWITCHED, b"welcome "].concat()).await.expect("switched");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.expect("the visitor's end");
        stream.write_all(&rest).await.expect("answered");
    })
    .await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;
    visitor.send(&[UPGRADE.as_bytes(), b"early"].concat()).await;
    assert_eq!(visitor.answer().await.status, 101);
    visitor.0.shutdown().await.expect("half-closed");
    assert_eq!(visitor.rest().await, b"welcome early");
}

#[tokio::test]
async fn a_refused_upgrade_arrives_with_its_body() {
    let target = backend(|mut stream| async move {
        while !read_head(&mut stream).await.is_empty() {
            stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\n\r\nnot you").await.expect("answered");
        }
    })
    .await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;
    for _ in 0..2 {
        visitor.send(UPGRADE.as_bytes()).await;
        let answer = visitor.answer().await;
        assert_eq!((answer.status, &*answer.body), (403, "not you"));
    }
}

#[tokio::test]
async fn http_2_is_no_upgrade() {
    let stage = Stage::start().await;
    stage.serve(&[&crate::stage::mirror().await]);
    let answer = stage
        .send(&format!(
            "GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
             HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
        ))
        .await;
    let seen = answer.body.to_ascii_lowercase();
    assert_eq!(answer.status, 200);
    assert!(!seen.contains("upgrade") && !seen.contains("http2-settings"), "{seen}");
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_502() {
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(SWITCHED).await.expect("switched");
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    assert_eq!(stage.get("/").await.status, 502);
}

#[tokio::test]
async fn an_idle_join_ends_and_a_lost_one_is_reset() {
    let timeouts = Timeouts { upgrade_idle: Duration::from_millis(200), ..Timeouts::default() };
    let stage = Stage::start().await;
    stage.serve_rules(vec![Rule { timeouts, ..rule(&[&echo_server().await], Vec::new()) }], None);
    let mut socket = connect(&stage).await;
    socket.send(Message::text("hello")).await.expect("sent");
    assert_eq!(next(&mut socket).await, Message::text("hello"));
    let end = timeout(PATIENCE, socket.next()).await.expect("an end in time").expect("a reason");
    assert!(end.is_err(), "a reset is no orderly end: {end:?}");
}
