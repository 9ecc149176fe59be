mod limits;

use std::time::Duration;

use bytes::Bytes;
use culvert::routing::{Backend, Protocol as Speaks, Rule, Timeouts};
use http::{Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::{body::Frame, ext::Protocol};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    secure::{Http2Visitor, Made, Secure, empty, full, get, text},
    stage::{HOST, Options, backend, mirror, read_head, rule},
    support::PATIENCE,
};

/// A stage that serves [`HOST`] from this target, and a visitor over HTTP/2.
async fn visit(target: &str) -> (Secure, Http2Visitor) {
    visit_with(target, Options::default()).await
}

async fn visit_with(target: &str, options: Options) -> (Secure, Http2Visitor) {
    // For a response, it is the rule that says how long it may stand still.
    let timeouts = Timeouts { stream_idle: options.config.stall_timeout, ..Timeouts::default() };
    let secure = Secure::start_with(options, None).await;
    let made = Made::new(&[HOST]);
    let rule = Rule { timeouts, ..rule(&[target], Vec::new()) };
    secure.serve(vec![rule], &[(HOST, &made.secret("shop"))]);
    let visitor = secure.http2(&made).await;
    (secure, visitor)
}

#[tokio::test]
async fn a_backend_of_http_1_gets_a_request_of_http_1() {
    let (secure, mut visitor) = visit(&mirror().await).await;
    let request = Request::get(format!("https://{HOST}/a?b=c"))
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .body(empty())
        .expect("a request");
    let response = visitor.request(request).await.expect("an answer");
    assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_2));
    assert!(!response.headers().contains_key("connection"));
    let seen = text(response).await.to_ascii_lowercase();
    assert!(seen.starts_with("get /a?b=c http/1.1\r\n"), "{seen}");
    for present in
        ["host: shop.example.com\r\n", "cookie: a=1; b=2\r\n", "te: trailers\r\n", "x-forwarded-proto: https\r\n"]
    {
        assert!(seen.contains(present), "{present} in {seen}");
    }
    let series =
        "culvert_requests_total{code=\"200\",method=\"GET\",namespace=\"web\",protocol=\"HTTP/2\",tunnelhost=\"shop\"}";
    secure.stage.edge.metric_becomes(series, 1).await;
}

#[tokio::test]
async fn many_requests_run_at_the_same_time() {
    let (_secure, visitor) = visit(&mirror().await).await;
    let requests = (0..100).map(|number| {
        let mut sender = visitor.sender.clone();
        async move {
            let response = sender.send_request(get(&format!("/{number}"))).await.expect("an answer");
            assert!(text(response).await.starts_with(&format!("GET /{number} ")));
        }
    });
    timeout(PATIENCE, futures::future::join_all(requests)).await.expect("in time");
}

#[tokio::test]
async fn an_upload_arrives_chunked_or_with_its_length() {
    let target = backend(|mut stream| async move {
        let head = read_head(&mut stream).await.to_ascii_lowercase();
        let mut body = Vec::new();
        let end: &[u8] = if head.contains("transfer-encoding: chunked") { b"0\r\n\r\n" } else { b"end" };
        while !body.ends_with(end) {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.expect("the upload");
            body.push(byte[0]);
        }
        let answer = [&head.into_bytes()[..], &body].concat();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", answer.len());
        stream.write_all(head.as_bytes()).await.expect("answered");
        stream.write_all(&answer).await.expect("answered");
    })
    .await;
    let (_secure, mut visitor) = visit(&target).await;
    let post = |body| Request::post(format!("https://{HOST}/")).body(body).expect("a request");
    let seen = text(visitor.request(post(full("until the end"))).await.expect("an answer")).await;
    assert!(seen.contains("content-length: 13\r\n") && seen.ends_with("\r\n\r\nuntil the end"), "{seen}");

    let pieces = ["one", "two"].map(|piece| Ok(Frame::data(Bytes::from(piece))));
    let body = StreamBody::new(futures::stream::iter(pieces)).boxed();
    let seen = text(visitor.request(post(body)).await.expect("an answer")).await;
    assert!(seen.ends_with("3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"), "{seen}");
}

#[tokio::test]
async fn http_2_with_prior_knowledge_is_taken_without_tls() {
    let secure = Secure::start().await;
    secure.serve(vec![rule(&[&mirror().await], Vec::new())], &[]);
    let mut visitor = Http2Visitor::new(TcpStream::connect(secure.stage.http).await.expect("a connection")).await;
    let (status, seen) = visitor.get("/a").await;
    assert_eq!(status, 200);
    assert!(seen.to_ascii_lowercase().contains("x-forwarded-proto: http\r\n"), "{seen}");
}

#[tokio::test]
async fn the_preface_may_come_in_pieces() {
    let secure = Secure::start().await;
    secure.serve(vec![rule(&[&mirror().await], Vec::new())], &[]);
    let mut stream = TcpStream::connect(secure.stage.http).await.expect("a connection");
    stream.set_nodelay(true).expect("an option");
    for piece in [&b"PRI"[..], b" * HTTP/2.0\r\n\r\nSM", b"\r\n\r\n", b"\0\0\0\x04\0\0\0\0\0"] {
        stream.write_all(piece).await.expect("sent");
        tokio::task::yield_now().await;
    }
    // SETTINGS come back, and nothing of HTTP/1.1.
    let mut head = [0; 9];
    timeout(PATIENCE, stream.read_exact(&mut head)).await.expect("in time").expect("a frame");
    assert_eq!((head[3], &head[5..]), (4, &[0; 4][..]));

    // A method that begins in the same way is one of HTTP/1.1 all the same.
    let answer = secure.stage.send(&format!("PRINT / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")).await;
    assert!(answer.body.starts_with("PRINT / HTTP/1.1\r\n"), "{}", answer.body);
}

#[tokio::test]
async fn a_host_field_must_be_the_authority() {
    let (_secure, mut visitor) = visit(&mirror().await).await;
    for (host, status) in [(HOST, 200), ("other.example.com", 400)] {
        let request = Request::get(format!("https://{HOST}/")).header("host", host).body(empty()).expect("a request");
        assert_eq!(visitor.request(request).await.expect("an answer").status().as_u16(), status, "{host}");
    }
    let request = Request::get(format!("https://{HOST}:123456/")).body(empty()).expect("a request");
    assert_eq!(visitor.request(request).await.expect("an answer").status(), 400, "a port that is none");
}

#[tokio::test]
async fn a_backend_of_http_2_is_not_asked_for_a_websocket() {
    let secure = Secure::start().await;
    let made = Made::new(&[HOST]);
    let mut rule = rule(&["127.0.0.1:1"], Vec::new());
    if let Backend::Tunnel(backend) = &mut rule.backend {
        backend.protocol = Speaks::H2c;
    }
    secure.serve(vec![rule], &[(HOST, &made.secret("shop"))]);
    let mut visitor = secure.http2(&made).await;
    let response = visitor.request(websocket()).await.expect("an answer");
    assert_eq!(response.status(), 502);
    assert!(response.headers()["proxy-status"].to_str().expect("text").contains("not asked to switch protocols"));
}

#[tokio::test]
async fn a_connect_is_refused() {
    let (_secure, mut visitor) = visit(&mirror().await).await;
    let connect = Request::connect(format!("{HOST}:443")).body(empty()).expect("a request");
    assert_eq!(visitor.request(connect).await.expect("an answer").status(), 405);
    let mut other = websocket();
    other.extensions_mut().insert(Protocol::from_static("connect-udp"));
    assert_eq!(visitor.request(other).await.expect("an answer").status(), 405);
}

fn websocket() -> Request<crate::secure::Body> {
    Request::builder()
        .method(Method::CONNECT)
        .uri(format!("https://{HOST}/ws"))
        .version(Version::HTTP_2)
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .extension(Protocol::from_static("websocket"))
        .body(empty())
        .expect("a request")
}

#[tokio::test]
async fn a_websocket_over_http_2_is_one_of_http_1_for_the_backend() {
    use futures::{SinkExt, StreamExt};
    use tokio_tungstenite::{
        WebSocketStream, accept_hdr_async,
        tungstenite::{
            Message,
            handshake::server::{Request, Response},
            protocol::Role,
        },
    };
    let target = backend(|stream| async move {
        #[expect(clippy::result_large_err, reason = "tungstenite's own")]
        let choose = |request: &Request, mut response: Response| {
            let asked = request.headers()["sec-websocket-protocol"].clone();
            response.headers_mut().insert("sec-websocket-protocol", asked);
            Ok(response)
        };
        let Ok(mut socket) = accept_hdr_async(stream, choose).await else { return };
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                return;
            }
        }
    })
    .await;
    let (secure, mut visitor) = visit(&target).await;
    let joins = "culvert_active_joins{namespace=\"web\",tunnelhost=\"shop\"}";
    let mut sockets = Vec::new();
    for _ in 0..3 {
        let response = visitor.request(websocket()).await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
        for absent in ["sec-websocket-accept", "upgrade", "connection"] {
            assert!(!response.headers().contains_key(absent), "{absent}");
        }
        let upgraded = timeout(PATIENCE, hyper::upgrade::on(response)).await.expect("in time").expect("a stream");
        sockets.push(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await);
    }
    secure.stage.edge.metric_becomes(joins, 3).await;
    // Others go on beside it, on the same connection.
    for (number, socket) in sockets.iter_mut().enumerate() {
        let message = Message::binary(vec![u8::try_from(number).expect("small"); 300_000]);
        socket.send(message.clone()).await.expect("sent");
        let echo = timeout(PATIENCE, socket.next()).await.expect("in time").expect("an echo").expect("a good one");
        assert!(echo == message, "the echo differs");
    }
    for mut socket in sockets {
        socket.close(None).await.expect("closed");
        while timeout(PATIENCE, socket.next()).await.expect("an end in time").is_some_and(|message| message.is_ok()) {}
    }
    secure.stage.edge.metric_becomes(joins, 0).await;
}

#[tokio::test]
async fn each_direction_of_a_websocket_over_http_2_ends_by_itself() {
    let target = backend(|mut stream| async move {
        let head = read_head(&mut stream).await;
        let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).expect("a key");
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        let switched = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\nearly "
        );
        stream.write_all(switched.as_bytes()).await.expect("switched");
        let mut question = Vec::new();
        stream.read_to_end(&mut question).await.expect("the visitor's end");
        stream.write_all(&question).await.expect("answered");
    })
    .await;
    let (_secure, mut visitor) = visit(&target).await;
    let response = visitor.request(websocket()).await.expect("an answer");
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.expect("a stream"));
    stream.write_all(b"question").await.expect("sent");
    stream.shutdown().await.expect("half-closed");
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time").expect("an end");
    assert_eq!(answer, b"early question");
}

#[tokio::test]
async fn a_websocket_over_http_2_that_has_to_end_is_told() {
    let target = backend(|mut stream| async move {
        let head = read_head(&mut stream).await;
        let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).expect("a key");
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        let switched = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        stream.write_all(switched.as_bytes()).await.expect("switched");
        // An empty frame, and the beginning of another.
        stream.write_all(&[0x82, 0, 0x82, 3, b'a']).await.expect("sent");
        let mut goodbye = [0; 8];
        stream.read_exact(&mut goodbye).await.expect("a goodbye");
        assert_eq!(goodbye[..2], [0x88, 0x82]);
        stream.write_all(b"bc").await.expect("the rest");
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let (secure, mut visitor) = visit(&target).await;
    let response = visitor.request(websocket()).await.expect("an answer");
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.expect("a stream"));
    stream.read_exact(&mut [0; 5]).await.expect("what came first");
    // The edge stops: the connection takes no more requests, and the WebSocket on it ends in its own time.
    secure.stage.stop.cancel();
    secure.stage.edge.bridge.registry().end_links();
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("in time").expect("an end");
    assert_eq!(rest, [b'b', b'c', 0x88, 2, 0x03, 0xe9]);
}

#[tokio::test]
async fn a_websocket_that_the_backend_does_not_take_is_no_success() {
    for (answer, status) in [
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\n\r\nnot you", 403),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 502),
        (
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: bm90IHRoZSBhbnN3ZXI=\r\n\r\n",
            502,
        ),
    ] {
        let target = backend(move |mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.expect("answered");
            let _ = stream.read(&mut [0]).await;
        })
        .await;
        let (_secure, mut visitor) = visit(&target).await;
        assert_eq!(visitor.request(websocket()).await.expect("an answer").status(), status);
    }
}

#[tokio::test]
async fn a_visitor_who_takes_a_request_back_frees_its_backend_and_keeps_the_connection() {
    let (tell, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let target = backend(move |mut stream| {
        let tell = tell.clone();
        async move {
            let request = read_head(&mut stream).await;
            if request.starts_with("GET /fast") {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.expect("answered");
                return;
            }
            tell.send("asked").expect("somebody waits");
            let _ = stream.read(&mut [0]).await;
            tell.send("gone").expect("somebody waits");
        }
    })
    .await;
    let (_secure, mut visitor) = visit(&target).await;
    let request = tokio::spawn(visitor.sender.send_request(get("/slow")));
    assert_eq!(timeout(PATIENCE, heard.recv()).await.expect("in time"), Some("asked"));
    request.abort();
    assert_eq!(timeout(PATIENCE, heard.recv()).await.expect("in time"), Some("gone"));
    assert_eq!(visitor.get("/fast").await, (200, "ok".to_owned()));
}

/// A backend whose answer is larger than what waits for a visitor anywhere on the way.
async fn large_answer() -> String {
    backend(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await.expect("answered");
        let _ = stream.write_all(&vec![b'x'; 1_000_000]).await;
        let _ = stream.read(&mut [0]).await;
    })
    .await
}

#[tokio::test]
async fn a_visitor_whose_window_stays_shut_is_left() {
    let target = large_answer().await;
    let options = Options::stalling(Duration::from_millis(300));
    let (secure, mut visitor) = visit_with(&target, options).await;
    let response = visitor.request(get("/")).await.expect("an answer");
    // Nothing is read, so that the window is never opened again.
    secure.stage.edge.metric_becomes("culvert_errors_total{reason=\"visitor_stalled\"}", 1).await;
    let end = timeout(PATIENCE, visitor.connection).await.expect("an end in time");
    drop(response);
    drop(end);
}

#[tokio::test]
async fn a_slow_visitor_that_moves_is_served_to_the_end() {
    let target = large_answer().await;
    let options = Options::stalling(Duration::from_millis(500));
    let (_secure, mut visitor) = visit_with(&target, options).await;
    let mut response = visitor.request(get("/")).await.expect("an answer");
    let (mut received, mut next) = (0, 0);
    while let Some(frame) = response.frame().await {
        received += frame.expect("a good frame").into_data().map_or(0, |data| data.len());
        // What is tested is time: longer than the timeout in all, and never as long at once.
        if received > next {
            tokio::time::sleep(Duration::from_millis(250)).await;
            next = received + 250_000;
        }
    }
    assert_eq!(received, 1_000_000);
}

#[tokio::test]
async fn too_many_fields_are_refused() {
    let (_secure, mut visitor) = visit(&mirror().await).await;
    let mut request = get("/");
    for number in 0..20 {
        let name: http::HeaderName = format!("x-field-{number}").parse().expect("a name");
        request.headers_mut().insert(name, "x".repeat(4000).parse().expect("a value"));
    }
    let refused = visitor.request(request).await;
    assert!(refused.as_ref().map_or(true, |answer| answer.status() == 431), "{refused:?}");
    assert_eq!(visitor.get("/").await.0, 200);
}

#[tokio::test]
async fn a_proxy_that_stops_lets_requests_end_and_says_goodbye() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let target = backend(move |mut stream| {
        let mut wait = wait.clone();
        async move {
            read_head(&mut stream).await;
            wait.wait_for(|go| *go).await.expect("a word");
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.expect("answered");
        }
    })
    .await;
    let (secure, mut visitor) = visit(&target).await;
    let request = tokio::spawn(visitor.sender.send_request(get("/")));
    secure.stage.edge.metric_becomes("culvert_active_requests{namespace=\"web\",tunnelhost=\"shop\"}", 1).await;
    secure.stage.stop.cancel();
    go.send_replace(true);
    let response = request.await.expect("no panic").expect("an answer");
    assert_eq!(text(response).await, "ok");
    // Not the visitor ends it: it could still ask.
    timeout(PATIENCE, visitor.connection).await.expect("an end in time").expect("no panic").expect("an orderly end");
    assert!(visitor.sender.send_request(get("/")).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_requests_is_told_to_end() {
    let secure = Secure::start().await;
    let start = tokio::time::Instant::now();
    let visitor = Http2Visitor::new(TcpStream::connect(secure.stage.http).await.expect("a connection")).await;
    visitor.connection.await.expect("no panic").expect("an orderly end");
    let idle = start.elapsed();
    assert!((Duration::from_secs(74)..Duration::from_secs(80)).contains(&idle), "{idle:?}");
}
