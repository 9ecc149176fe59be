//! What one visitor of HTTP/2 may have of the edge.

use std::time::Duration;

use culvert::proxy;
use futures::SinkExt;
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_tungstenite::tungstenite::Message;

use super::{large_answer, visit, visit_with};
use crate::{
    secure::{Http2Visitor, get},
    stage::{HOST, Options, Stage, backend, becomes, mirror, read_head},
    support::PATIENCE,
};

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// A visitor of HTTP/2, frame by frame.
struct Bare(TcpStream);

impl Bare {
    async fn new(stage: &Stage) -> Self {
        let mut stream = TcpStream::connect(stage.http).await.expect("a connection");
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("sent");
        Self(stream)
    }

    async fn send(&mut self, frame: &[u8]) {
        self.0.write_all(frame).await.expect("sent");
    }

    /// The kind and the flags of the next frame; `None` at the end of the connection.
    async fn frame(&mut self) -> Option<(u8, u8)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        self.0.read_exact(&mut vec![0; length as usize]).await.ok()?;
        Some((head[3], head[4]))
    }

    /// All frames to the end of the connection.
    async fn rest(&mut self) -> Vec<(u8, u8)> {
        let rest = async {
            let mut frames = Vec::new();
            while let Some(frame) = self.frame().await {
                frames.push(frame);
            }
            frames
        };
        timeout(PATIENCE, rest).await.expect("an end in time")
    }
}

#[tokio::test]
async fn a_flood_of_frames_that_ask_for_nothing_ends_the_connection() {
    let ping = [0, 0, 8, PING, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8].to_vec();
    let answer_to_a_ping = [0, 0, 8, PING, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8].to_vec();
    let settings = [0, 0, 0, SETTINGS, 0, 0, 0, 0, 0].to_vec();
    let priority = [0, 0, 5, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 16].to_vec();
    let stage = Stage::start().await;
    stage.serve(&[&mirror().await]);
    for (number, frame) in (1..).zip([ping, answer_to_a_ping, settings, priority]) {
        let mut flood = Bare::new(&stage).await;
        let (mut read, mut write) = flood.0.split();
        let sent = async {
            let mut sent = 0;
            while write.write_all(&frame).await.is_ok() {
                sent += 1;
                assert!(sent < 1_000_000, "it goes on");
            }
        };
        let mut answers = Vec::new();
        let (_, ()) = timeout(PATIENCE, async { tokio::join!(read.read_to_end(&mut answers), sent) })
            .await
            .expect("an end in time");
        assert!(answers.len() < 2000 * 17, "{}", answers.len());
        stage.edge.metric_becomes("culvert_errors_total{reason=\"http2_flood\"}", number).await;
        assert_eq!(stage.get("/").await.status, 200, "others are served");
    }
}

#[tokio::test]
async fn a_visitor_who_pings_now_and_then_is_served() {
    let stage = Stage::start().await;
    stage.serve(&[&mirror().await]);
    let stream = TcpStream::connect(stage.http).await.expect("a connection");
    let (sender, mut connection) = h2::client::handshake(stream).await.expect("a connection");
    let mut pings = connection.ping_pong().expect("a way to ping");
    let connection = tokio::spawn(connection);
    // As many as a client of one a second sends in ten minutes.
    for _ in 0..600 {
        timeout(PATIENCE, pings.ping(h2::Ping::opaque())).await.expect("in time").expect("an answer");
    }
    let mut sender = sender.ready().await.expect("ready");
    let request = Request::get(format!("http://{HOST}/")).body(()).expect("a request");
    let (response, _) = sender.send_request(request, true).expect("sent");
    assert_eq!(timeout(PATIENCE, response).await.expect("in time").expect("an answer").status(), 200);
    connection.abort();
}

#[tokio::test]
async fn a_visitor_who_pings_for_each_piece_of_a_websocket_is_served() {
    let target = backend(|stream| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
        while socket.send(Message::text("news")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let stream = TcpStream::connect(stage.http).await.expect("a connection");
    let (sender, mut connection) = h2::client::handshake(stream).await.expect("a connection");
    let mut pings = connection.ping_pong().expect("a way to ping");
    let connection = tokio::spawn(connection);
    // Behind its answer the edge's settings are known.
    pings.ping(h2::Ping::opaque()).await.expect("an answer");
    let mut sender = sender.ready().await.expect("ready");
    let request = Request::connect(format!("http://{HOST}/"))
        .header("sec-websocket-version", "13")
        .extension(h2::ext::Protocol::from_static("websocket"))
        .body(())
        .expect("a request");
    let (response, _open) = sender.send_request(request, false).expect("sent");
    let mut news = timeout(PATIENCE, response).await.expect("in time").expect("an answer").into_body();
    for _ in 0..500 {
        let piece = timeout(PATIENCE, news.data()).await.expect("in time").expect("more").expect("a piece");
        news.flow_control().release_capacity(piece.len()).expect("released");
        for _ in 0..3 {
            timeout(PATIENCE, pings.ping(h2::Ping::opaque())).await.expect("in time").expect("an answer");
        }
    }
    connection.abort();
}

#[tokio::test]
async fn the_rest_of_a_head_has_its_time() {
    let options = || {
        let config = proxy::Config { header_timeout: Duration::from_millis(300), ..proxy::Config::default() };
        Options { config, ..Options::default() }
    };
    // A frame that does not come to its end, and a head of which more frames should come.
    for begun in [&[0, 0, 100, 1, 4, 0, 0, 0, 1, 0x82][..], &[0, 0, 1, 1, 1, 0, 0, 0, 1, 0x82]] {
        let stage = Stage::start_with(options()).await;
        stage.serve(&[&mirror().await]);
        let (mut slow, begin) = (Bare::new(&stage).await, Instant::now());
        slow.send(begun).await;
        let frames = slow.rest().await;
        assert!((Duration::from_millis(300)..Duration::from_secs(5)).contains(&begin.elapsed()));
        assert!(frames.iter().any(|(kind, _)| *kind == GOAWAY), "{frames:?}");
        stage.edge.metric_becomes("culvert_errors_total{reason=\"head_timeout\"}", 1).await;
    }
    // One that comes in time is none of it, however long its answer takes.
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    })
    .await;
    let (_secure, mut visitor) = visit_with(&target, options()).await;
    assert_eq!(visitor.get("/").await, (200, "ok".to_owned()));
}

#[tokio::test]
async fn two_hundred_requests_are_in_progress_at_once() {
    const ACTIVE: &str = "culvert_active_requests{namespace=\"web\",tunnelhost=\"shop\"}";
    let (go, wait) = tokio::sync::watch::channel(false);
    let target = backend(move |mut stream| {
        let mut wait = wait.clone();
        async move {
            read_head(&mut stream).await;
            let _ = wait.wait_for(|go| *go).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let (secure, mut visitor) = visit(&target).await;
    // The first one brings the edge's settings.
    let first = tokio::spawn(visitor.sender.send_request(get("/")));
    secure.stage.edge.metric_becomes(ACTIVE, 1).await;
    let others: Vec<_> = (0..249).map(|_| tokio::spawn(visitor.sender.send_request(get("/")))).collect();
    secure.stage.edge.metric_becomes(ACTIVE, 200).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(secure.stage.edge.metric(ACTIVE), 200);
    go.send_replace(true);
    for request in others.into_iter().chain([first]) {
        let response = timeout(PATIENCE, request).await.expect("in time").expect("no panic").expect("an answer");
        assert_eq!(response.status(), 200);
    }
}

#[tokio::test]
async fn a_response_that_waits_for_its_visitor_stays_with_the_backend() {
    const SENT: &str =
        "culvert_flow_bytes_total{agent=\"lab\",direction=\"sent\",namespace=\"web\",tunnelhost=\"shop\"}";
    let (secure, mut visitor) = visit(&large_answer().await).await;
    let response = visitor.request(get("/")).await.expect("an answer");
    let edge = &secure.stage.edge;
    becomes("more than the visitor's window is there", || edge.metric(SENT) > 65_535).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let sent = edge.metric(SENT);
    // The window, what waits for it, and what was read of the link before it showed.
    assert!(sent < 4 * 65_536, "{sent}");
    drop(response);
}

#[tokio::test(start_paused = true)]
async fn a_visitor_who_answers_no_ping_is_gone() {
    let stage = Stage::start().await;
    let (mut silent, start) = (Bare::new(&stage).await, Instant::now());
    let mut pinged = None;
    while let Some((kind, flags)) = silent.frame().await {
        if (kind, flags) == (PING, 0) {
            pinged.get_or_insert(start.elapsed());
        }
    }
    let (pinged, gone) = (pinged.expect("a ping").as_secs(), start.elapsed().as_secs());
    assert!((29..=31).contains(&pinged) && (49..=52).contains(&gone), "{pinged} s, {gone} s");

    // One who does is kept, until it has had no request for too long.
    let start = Instant::now();
    let answering = Http2Visitor::new(TcpStream::connect(stage.http).await.expect("a connection")).await;
    answering.connection.await.expect("no panic").expect("an orderly end");
    assert!(start.elapsed() > Duration::from_secs(74));
}
