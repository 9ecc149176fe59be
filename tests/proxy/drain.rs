//! Agents and edges that stop, and what becomes of what is in progress.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use culvert::agent::TokenSource;
use futures::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_tungstenite::{
    accept_async, client_async,
    tungstenite::{Message, protocol::frame::coding::CloseCode},
};
use tokio_util::sync::CancellationToken;

use crate::{
    stage::{HOST, Stage, backend, get, read_head, request},
    support::{PATIENCE, RunningAgent, TOKEN, accept, agents},
};

const WEBSOCKET: &str =
    "GET /ws HTTP/1.1\r\nHost: shop.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
/// A request after which the connection is kept.
const KEPT: &str = "GET / HTTP/1.1\r\nHost: shop.example.com\r\n\r\n";
/// A Close frame of a server that says 1001.
const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];
const OTHER_TOKEN: &str = "token-of-the-other-secret";

/// The code of a Close frame of a visitor.
async fn masked_close(stream: &mut (impl AsyncReadExt + Unpin)) -> u16 {
    let mut frame = [0; 8];
    timeout(PATIENCE, stream.read_exact(&mut frame)).await.expect("in time").expect("a frame");
    let [0x88, 0x82, a, b, _, _, high, low] = frame else { panic!("no masked Close frame: {frame:?}") };
    u16::from_be_bytes([high ^ a, low ^ b])
}

/// A backend that answers with 101 and gives what it then has to `serve`.
async fn switching<F, R>(serve: F) -> String
where
    F: Fn(tokio::net::TcpStream) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    backend(move |mut stream| {
        let serve = serve.clone();
        async move {
            read_head(&mut stream).await;
            stream.write_all(SWITCHED).await.expect("switched");
            serve(stream).await;
        }
    })
    .await
}

/// A second agent beside the stage's, whose token can be taken back by itself.
async fn second_agent(stage: &Stage) -> RunningAgent {
    let both = agents(&[("lab", "lab-token", TOKEN), ("lab", "other-token", OTHER_TOKEN)]);
    stage.edge.agents.send_replace(Arc::new(both));
    let token = TokenSource::Given(culvert::tunnel::registration::Token::new(OTHER_TOKEN).expect("a token"));
    let agent = RunningAgent::start_with(&stage.edge.url(), &stage.edge.certificate, &["127.0.0.1:*"], token);
    stage.edge.sessions(|sessions| sessions.len() == 2).await;
    agent
}

/// Ends the session of the stage's own agent at once, as if the process was gone.
fn lose_first(stage: &Stage) {
    stage.edge.agents.send_replace(Arc::new(agents(&[("lab", "other-token", OTHER_TOKEN)])));
}

#[tokio::test]
async fn a_websocket_ends_between_two_frames_and_both_sides_are_told() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let target = switching(move |mut stream| {
        let tell = tell.clone();
        async move {
            stream.write_all(&[0x82, 5, b'a', b'b']).await.expect("half a frame");
            let code = masked_close(&mut stream).await;
            // Its frame goes on, and what comes behind it is too late.
            stream.write_all(b"cde\x82\x01x").await.expect("the rest");
            let end = stream.read_to_end(&mut Vec::new()).await;
            tell.send((code, end.map_err(|error| error.kind()))).expect("somebody waits");
        }
    })
    .await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;
    visitor.send(WEBSOCKET.as_bytes()).await;
    assert_eq!(visitor.answer().await.status, 101);
    let mut half = [0; 4];
    visitor.0.read_exact(&mut half).await.expect("half a frame");
    stage.edge.bridge.registry().end_links();
    let mut rest = Vec::new();
    timeout(PATIENCE, visitor.0.read_to_end(&mut rest)).await.expect("in time").expect("an orderly end");
    assert_eq!(rest, [&b"cde"[..], &GOING_AWAY].concat());
    assert_eq!(timeout(PATIENCE, told.recv()).await.expect("in time"), Some((1001, Ok(0))));
}

#[tokio::test]
async fn a_frame_that_does_not_end_is_cut() {
    let target = switching(|mut stream| async move {
        stream.write_all(&[0x82, 5, b'a', b'b']).await.expect("half a frame");
        assert_eq!(masked_close(&mut stream).await, 1001);
        let _ = stream.read_to_end(&mut Vec::new()).await;
        std::future::pending::<()>().await;
    })
    .await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;
    visitor.send(WEBSOCKET.as_bytes()).await;
    assert_eq!(visitor.answer().await.status, 101);
    visitor.0.read_exact(&mut [0; 4]).await.expect("half a frame");
    stage.edge.bridge.registry().end_links();
    let end = timeout(PATIENCE, visitor.0.read_to_end(&mut Vec::new())).await.expect("in time");
    assert_eq!(end.expect_err("no orderly end").kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn who_has_said_goodbye_is_told_nothing_more() {
    let target = switching(|mut stream| async move {
        stream.write_all(&[0x88, 2, 0x03, 0xe8]).await.expect("a goodbye of its own");
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;
    visitor.send(WEBSOCKET.as_bytes()).await;
    assert_eq!(visitor.answer().await.status, 101);
    let mut goodbye = [0; 4];
    visitor.0.read_exact(&mut goodbye).await.expect("a goodbye");
    assert_eq!(goodbye, [0x88, 2, 0x03, 0xe8]);
    stage.edge.bridge.registry().end_links();
    assert!(visitor.rest().await.is_empty());
}

#[tokio::test]
async fn what_is_no_websocket_is_cut() {
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
        let switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
        stream.write_all(switched).await.expect("switched");
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;
    visitor.send(WEBSOCKET.replace("websocket", "echo").as_bytes()).await;
    assert_eq!(visitor.answer().await.status, 101);
    stage.edge.bridge.registry().end_links();
    let end = timeout(PATIENCE, visitor.0.read_to_end(&mut Vec::new())).await.expect("in time");
    assert!(end.is_err(), "{end:?}");
}

#[tokio::test]
async fn websockets_of_an_agent_that_stops_are_told_before_it_is_gone() {
    let target = backend(|stream| async move {
        let Ok(mut socket) = accept_async(stream).await else { return };
        while let Some(Ok(_)) = socket.next().await {}
    })
    .await;
    let mut stage = Stage::start().await;
    stage.serve(&[&target]);
    let stream = stage.visit().await.0;
    let (mut socket, _) = client_async(format!("ws://{HOST}/ws"), stream).await.expect("a WebSocket");
    let agent = stage.agent.take().expect("an agent");
    agent.stop.cancel();
    let goodbye = timeout(PATIENCE, socket.next()).await.expect("in time").expect("a message").expect("a good one");
    let Message::Close(Some(close)) = goodbye else { panic!("{goodbye:?}") };
    assert_eq!(close.code, CloseCode::Away);
    // An orderly end, and not a reset.
    assert!(timeout(PATIENCE, socket.next()).await.expect("in time").is_none_or(|end| end.is_ok()));
    agent.stop().await;
    stage.edge.metric_becomes("culvert_agent_disconnects_total{reason=\"drained\"}", 1).await;
}

/// An agent is replaced by another process of the same identity while requests come and a download runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_replaced_and_nobody_notices() {
    let (go, wait) = watch::channel(false);
    let target = backend(move |mut stream| {
        let mut wait = wait.clone();
        async move {
            loop {
                let head = read_head(&mut stream).await;
                if head.is_empty() {
                    return;
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf").await.expect("answered");
                if head.starts_with("GET /download") {
                    wait.wait_for(|go| *go).await.expect("a word");
                }
                stream.write_all(b"half").await.expect("answered");
            }
        }
    })
    .await;
    let mut stage = Stage::start().await;
    stage.serve(&[&target]);
    let mut download = stage.visit().await;
    download.send(request("GET", "/download", "").as_bytes()).await;
    let head = timeout(PATIENCE, read_head(&mut download.0)).await.expect("in time");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let _new = stage.edge.agent(&["127.0.0.1:*"]);
    stage.edge.sessions(|sessions| sessions.len() == 2).await;
    let (http, over) = (stage.http, watch::Sender::new(false));
    let visitors: Vec<_> = (0..4)
        .map(|_| {
            let over = over.subscribe();
            tokio::spawn(async move {
                let mut answered = 0;
                while !*over.borrow() {
                    assert_eq!(get(http, "/").await.status, 200);
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    let old = stage.agent.take().expect("an agent");
    old.stop.cancel();
    // The old one takes no more, and is there for the download alone.
    let one_is_left = || {
        let sessions = stage.edge.bridge.registry().sessions();
        sessions.iter().filter(|session| stage.edge.bridge.registry().is_active(session.process)).count() == 1
    };
    crate::stage::becomes("one session takes requests", one_is_left).await;
    assert_eq!(stage.edge.bridge.registry().sessions().len(), 2);
    go.send_replace(true);
    assert_eq!(download.rest().await, b"halfhalf");
    old.stop().await;
    stage.edge.sessions(|sessions| sessions.len() == 1).await;
    over.send_replace(true);
    for visitor in visitors {
        assert!(visitor.await.expect("no failure") > 0);
    }
}

#[tokio::test]
async fn a_request_that_may_be_repeated_goes_to_another_session_when_its_own_is_lost() {
    let (listener, target) = crate::support::backend();
    let stage = Stage::start().await;
    let _second = second_agent(&stage).await;
    stage.serve(&[&target]);
    // Whichever session is chosen: both of them have a request that waits.
    let http = stage.http;
    let requests: Vec<_> = (0..2).map(|_| tokio::spawn(async move { get(http, "/").await.status })).collect();
    let mut waiting = [accept(&listener).await, accept(&listener).await];
    for stream in &mut waiting {
        read_head(stream).await;
    }
    lose_first(&stage);
    let mut moved = accept(&listener).await;
    read_head(&mut moved).await;
    for stream in waiting.iter_mut().chain([&mut moved]) {
        // To one of them nobody listens any more.
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    }
    for request in requests {
        assert_eq!(request.await.expect("no panic"), 200);
    }
}

#[tokio::test]
async fn a_request_that_may_not_be_repeated_is_sent_once() {
    let posts = Arc::new(AtomicUsize::new(0));
    let (counted, (tell, mut told)) = (posts.clone(), mpsc::unbounded_channel());
    let target = backend(move |mut stream| {
        let (counted, tell) = (counted.clone(), tell.clone());
        async move {
            read_head(&mut stream).await;
            counted.fetch_add(1, Ordering::Relaxed);
            tell.send(()).expect("somebody waits");
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
    .await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let _second = second_agent(&stage).await;
    let http = stage.http;
    let post = |fields: &'static str| {
        tokio::spawn(async move {
            let mut visitor = crate::stage::Visitor(tokio::net::TcpStream::connect(http).await.expect("a connection"));
            visitor.send(request("POST", "/", fields).as_bytes()).await;
            visitor.answer().await.status
        })
    };
    // One of each kind through each of the two sessions.
    let posted = [
        post(""),
        post("Content-Length: 0\r\n"),
        post("Content-Length: 2\r\n\r\nok"),
        post("Content-Length: 2\r\n\r\nok"),
    ];
    for _ in 0..posted.len() {
        timeout(PATIENCE, told.recv()).await.expect("in time").expect("a request");
    }
    stage.edge.agents.send_replace(Arc::default());
    for post in posted {
        assert_eq!(timeout(PATIENCE, post).await.expect("in time").expect("no panic"), 502);
    }
    assert_eq!(posts.load(Ordering::Relaxed), 4, "each was sent once");
}

#[tokio::test]
async fn an_edge_that_is_about_to_stop_takes_no_more_agents_and_serves_on() {
    let stage = Stage::start().await;
    stage.serve(&[&crate::stage::mirror().await]);
    stage.edge.bridge.leave();
    let _late = stage.edge.agent(&["127.0.0.1:*"]);
    let refused = || stage.edge.metric("culvert_agent_connects_total{result=\"leaving\"}") > 0;
    crate::stage::becomes("told to go elsewhere", refused).await;
    assert_eq!(stage.get("/").await.status, 200);
    assert_eq!(stage.edge.bridge.registry().sessions().len(), 1);
    timeout(Duration::from_secs(5), async {
        stage.proxy.drop_idle();
        stage.edge.bridge.idle().await;
    })
    .await
    .expect("idle");
}

#[tokio::test]
async fn a_connection_in_use_is_told_by_its_next_answer_that_it_is_the_last() {
    let stage = Stage::start().await;
    stage.serve(&[&crate::stage::mirror().await]);
    let [mut used, mut idle, mut new] = [stage.visit().await, stage.visit().await, stage.visit().await];
    for visitor in [&mut used, &mut idle] {
        visitor.send(KEPT.as_bytes()).await;
        let answer = visitor.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (200, None));
    }
    stage.stop.cancel();
    // Neither the one that had its turn, nor the one that has not said anything yet, can know.
    for visitor in [&mut used, &mut new] {
        visitor.send(KEPT.as_bytes()).await;
    }
    for visitor in [&mut used, &mut new] {
        let answer = visitor.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        assert!(visitor.rest().await.is_empty());
    }
    // Who says nothing more is not waited for.
    assert!(idle.rest().await.is_empty());
}

#[tokio::test]
async fn who_waits_in_the_backlog_when_the_edge_stops_is_still_answered() {
    let stage = Stage::start().await;
    stage.serve(&[&crate::stage::mirror().await]);
    // More than a task takes in one go (tokio: 128).
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let listener = socket.listen(512).expect("a listener");
    let address = listener.local_addr().expect("its address");
    let mut waiting = Vec::new();
    for _ in 0..200 {
        let mut visitor = crate::stage::Visitor(tokio::net::TcpStream::connect(address).await.expect("a connection"));
        visitor.send(KEPT.as_bytes()).await;
        waiting.push(visitor);
    }
    let (proxy, stop) = (stage.proxy.clone(), CancellationToken::new());
    stop.cancel();
    let serving = tokio::spawn(async move { proxy.serve(listener, stop).await });
    for visitor in &mut waiting {
        assert_eq!(visitor.answer().await.status, 200);
    }
    drop(waiting);
    timeout(PATIENCE, serving).await.expect("it ends").expect("no panic");
}

#[tokio::test]
async fn a_websocket_may_still_begin_on_a_connection_that_was_open_when_the_edge_stopped() {
    let target = switching(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;
    stage.stop.cancel();
    visitor.send(WEBSOCKET.as_bytes()).await;
    let answer = visitor.answer().await;
    assert_eq!(
        (answer.status, answer.header("connection").map(str::to_ascii_lowercase)),
        (101, Some("upgrade".to_owned()))
    );
}
