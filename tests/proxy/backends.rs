use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use culvert::routing::{Backend, BackendTls, Protocol, Rule, Trust};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    secure::{Body, Http2Visitor, Made, Secure, empty, full, get, text},
    stage::{HOST, Stage, backend, request, rule},
    support::PATIENCE,
};

/// A rule for a backend of this protocol.
fn speaks(target: &str, protocol: Protocol) -> Rule {
    let mut rule = rule(&[target], Vec::new());
    let Backend::Tunnel(backend) = &mut rule.backend else { panic!("a tunnel") };
    backend.protocol = protocol;
    rule
}

/// A backend of HTTP/2, and how many connections it got.
async fn http2_backend<F, R>(builder: http2::Builder<TokioExecutor>, answer: F) -> (String, Arc<AtomicUsize>)
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let target = backend(move |stream| {
        counted.fetch_add(1, Ordering::Relaxed);
        let (builder, answer) = (builder.clone(), answer.clone());
        async move {
            let service = service_fn(move |request| {
                let answered = answer(request);
                async { Ok::<_, Infallible>(answered.await) }
            });
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await;
    (target, connections)
}

fn streamed(frames: impl futures::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + Sync + 'static) -> Body {
    BodyExt::boxed(StreamBody::new(frames))
}

fn any() -> http2::Builder<TokioExecutor> {
    http2::Builder::new(TokioExecutor::new())
}

/// Answers with what it got.
async fn mirror(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let mut seen = format!("{:?} {} {}\n", head.version, head.method, head.uri);
    for (name, value) in &head.headers {
        seen.extend([name.as_str(), ": ", value.to_str().expect("text"), "\n"]);
    }
    let body = body.collect().await.expect("a whole body");
    if let Some(trailers) = body.trailers() {
        seen.extend(["trailers: ", &*format!("{trailers:?}"), "\n"]);
    }
    seen += &String::from_utf8_lossy(&body.to_bytes());
    Response::new(full(seen))
}

#[tokio::test]
async fn visitors_of_http_1_and_2_share_a_connection_to_a_backend_of_http_2() {
    let (target, connections) = http2_backend(any(), mirror).await;
    let secure = Secure::start().await;
    let made = Made::new(&[HOST]);
    secure.serve(vec![speaks(&target, Protocol::H2c)], &[(HOST, &made.secret("shop"))]);
    for _ in 0..3 {
        let answer = secure
            .stage
            .send(&format!(
                "POST /a?b HTTP/1.1\r\nHost: {HOST}\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\
                 Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n"
            ))
            .await;
        assert_eq!(answer.status, 200);
        assert!(answer.body.starts_with(&format!("HTTP/2.0 POST http://{HOST}/a?b\n")), "{}", answer.body);
        assert!(answer.body.ends_with("\none"), "{}", answer.body);
        for absent in ["connection", "x-hop", "transfer-encoding", "host:"] {
            assert!(!answer.body.contains(&format!("\n{absent}")), "{absent} in {}", answer.body);
        }
    }
    let visitor = secure.http2(&made).await;
    let requests = (0..50).map(|number| {
        let mut sender = visitor.sender.clone();
        async move {
            let response = sender.send_request(get(&format!("/{number}"))).await.expect("an answer");
            assert!(text(response).await.starts_with(&format!("HTTP/2.0 GET http://{HOST}/{number}\n")));
        }
    });
    timeout(PATIENCE, futures::future::join_all(requests)).await.expect("in time");
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_full_connection_is_not_waited_for() {
    let (go, wait) = watch::channel(false);
    let mut builder = any();
    builder.max_concurrent_streams(2);
    let (target, connections) = http2_backend(builder, move |request: Request<Incoming>| {
        let mut wait = wait.clone();
        async move {
            if request.uri().path() != "/first" {
                wait.wait_for(|go| *go).await.expect("a word");
            }
            Response::new(full("ok"))
        }
    })
    .await;
    let stage = Stage::start().await;
    stage.serve_rules(vec![speaks(&target, Protocol::H2c)], None);
    let http = stage.http;
    assert_eq!(stage.get("/first").await.status, 200);
    let requests: Vec<_> =
        (0..5).map(|_| tokio::spawn(async move { crate::stage::get(http, "/").await.status })).collect();
    crate::stage::becomes("three connections for five requests", || connections.load(Ordering::Relaxed) == 3).await;
    go.send_replace(true);
    for request in requests {
        assert_eq!(request.await.expect("no panic"), 200);
    }
}

#[tokio::test]
async fn a_connection_that_the_backend_says_goodbye_on_gets_no_more_requests() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let (goodbye, said) = watch::channel(());
    let (go, wait) = watch::channel(false);
    let target = backend(move |stream| {
        counted.fetch_add(1, Ordering::Relaxed);
        let (mut said, wait) = (said.clone(), wait.clone());
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let mut wait = wait.clone();
                async move {
                    if request.uri().path() == "/slow" {
                        wait.wait_for(|go| *go).await.expect("a word");
                    }
                    Ok::<_, Infallible>(Response::new(full("ok")))
                }
            });
            let connection = any().serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => return,
                _ = said.changed() => {}
            }
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    })
    .await;
    let stage = Stage::start().await;
    stage.serve_rules(vec![speaks(&target, Protocol::H2c)], None);
    let http = stage.http;
    let slow = tokio::spawn(async move { crate::stage::get(http, "/slow").await.status });
    stage.edge.metric_becomes("culvert_active_requests{namespace=\"web\",tunnelhost=\"shop\"}", 1).await;
    crate::stage::becomes("one connection", || connections.load(Ordering::Relaxed) == 1).await;
    goodbye.send_replace(());
    // Each of these may still meet the old connection; none of them fails.
    let second = async {
        while connections.load(Ordering::Relaxed) < 2 {
            assert_eq!(stage.get("/").await.status, 200);
        }
    };
    timeout(PATIENCE, second).await.expect("another connection in time");
    go.send_replace(true);
    assert_eq!(slow.await.expect("no panic"), 200);
}

#[tokio::test]
async fn what_a_backend_refuses_unseen_is_asked_again() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let target = backend(move |stream| {
        let seen = counted.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                if seen.fetch_add(1, Ordering::Relaxed) == 0 {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                } else {
                    respond.send_response(Response::new(()), true).expect("answered");
                }
            }
        }
    })
    .await;
    let stage = Stage::start().await;
    stage.serve_rules(vec![speaks(&target, Protocol::H2c)], None);
    // It is no matter what would have become of it: nothing did.
    assert_eq!(stage.send(&request("POST", "/", "Content-Length: 0\r\n")).await.status, 200);
    assert_eq!(seen.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn interim_responses_without_end_over_http2_end_the_connection() {
    const HEADERS: u8 = 1;
    let (tell, mut heard) = mpsc::unbounded_channel();
    let target = backend(move |mut stream| {
        let tell = tell.clone();
        async move {
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await.expect("a preface");
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("settings");
            let mut header = [0; 9];
            while header[3] != HEADERS {
                stream.read_exact(&mut header).await.expect("a frame");
                let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
                stream.read_exact(&mut vec![0; length as usize]).await.expect("its payload");
            }
            // 103, as a literal; END_HEADERS.
            let hint = [&[0, 0, 5, HEADERS, 4][..], &header[5..], b"\x08\x03103"].concat();
            while stream.write_all(&hint.repeat(1000)).await.is_ok() {}
            let _ = tell.send("ended");
        }
    })
    .await;
    let stage = Stage::start().await;
    stage.serve_rules(vec![speaks(&target, Protocol::H2c)], None);
    let answer = stage.send(&request("POST", "/", "Content-Length: 0\r\n")).await;
    assert_eq!(answer.status, 502);
    let status = answer.header("proxy-status").expect("a cause");
    assert!(status.starts_with("culvert; error=http_protocol_error; "), "{status}");
    assert_eq!(timeout(PATIENCE, heard.recv()).await.expect("in time"), Some("ended"));
}

#[tokio::test]
async fn a_visitor_who_leaves_ends_its_stream_alone() {
    struct Told(mpsc::UnboundedSender<&'static str>);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send("ended");
        }
    }
    let (tell, mut heard) = mpsc::unbounded_channel();
    let (target, connections) = http2_backend(any(), move |request: Request<Incoming>| {
        let tell = tell.clone();
        async move {
            match request.uri().path() {
                "/head" => {
                    let _told = Told(tell.clone());
                    let _ = tell.send("asked");
                    std::future::pending().await
                }
                "/body" => {
                    let _ = tell.send("asked");
                    let told = Told(tell);
                    let endless = futures::stream::pending().map(move |()| {
                        let _ = &told;
                        Ok(Frame::data(Bytes::new()))
                    });
                    let first = futures::stream::once(async { Ok(Frame::data(Bytes::from_static(b"first"))) });
                    Response::new(streamed(first.chain(endless)))
                }
                _ => Response::new(full("ok")),
            }
        }
    })
    .await;
    let secure = Secure::start().await;
    let made = Made::new(&[HOST]);
    secure.serve(vec![speaks(&target, Protocol::H2c)], &[(HOST, &made.secret("shop"))]);
    let mut visitor = secure.http2(&made).await;
    let request = tokio::spawn(visitor.sender.send_request(get("/head")));
    assert_eq!(timeout(PATIENCE, heard.recv()).await.expect("in time"), Some("asked"));
    request.abort();
    assert_eq!(timeout(PATIENCE, heard.recv()).await.expect("in time"), Some("ended"));

    let mut response = visitor.request(get("/body")).await.expect("an answer");
    let first = timeout(PATIENCE, response.frame()).await.expect("in time").expect("a frame").expect("a good one");
    assert_eq!(first.into_data().expect("data"), "first");
    assert_eq!(heard.recv().await, Some("asked"));
    drop(response);
    assert_eq!(timeout(PATIENCE, heard.recv()).await.expect("in time"), Some("ended"));

    // The same from HTTP/1.1.
    let mut leaving = secure.stage.visit().await;
    leaving.send(format!("GET /head HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await;
    assert_eq!(timeout(PATIENCE, heard.recv()).await.expect("in time"), Some("asked"));
    drop(leaving);
    assert_eq!(timeout(PATIENCE, heard.recv()).await.expect("in time"), Some("ended"));

    assert_eq!(visitor.get("/").await, (200, "ok".to_owned()));
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

// === gRPC ===

/// A message as gRPC frames it.
fn message(text: &str) -> Bytes {
    let length = u32::try_from(text.len()).expect("short").to_be_bytes();
    [&[0][..], &length, text.as_bytes()].concat().into()
}

fn trailers(status: &'static str) -> HeaderMap {
    HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static(status))])
}

/// The four kinds of calls, as a server of gRPC answers them.
async fn grpc_server(request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let timeout = request.headers().get("grpc-timeout").cloned();
    let te = request.headers().get("te").cloned();
    let mut body = request.into_body();
    let response = Response::builder().header("content-type", "application/grpc");
    let frames: std::pin::Pin<Box<dyn futures::Stream<Item = Frame<Bytes>> + Send + Sync>> = match &*path {
        "/test/Unary" => {
            let sent = body.collect().await.expect("a message").to_bytes();
            assert_eq!(te.expect("TE"), "trailers");
            let known = timeout.expect("a deadline");
            assert_eq!((sent, known), (message("question"), HeaderValue::from_static("5S")));
            Box::pin(futures::stream::iter([Frame::data(message("answer")), Frame::trailers(trailers("0"))]))
        }
        "/test/ServerStream" => {
            let numbers = (0..1000).map(|number| Frame::data(message(&number.to_string())));
            Box::pin(futures::stream::iter(numbers.chain([Frame::trailers(trailers("0"))])))
        }
        "/test/ClientStream" => {
            let sent = body.collect().await.expect("messages").to_bytes();
            let count = message(&sent.len().to_string());
            Box::pin(futures::stream::iter([Frame::data(count), Frame::trailers(trailers("0"))]))
        }
        "/test/Both" => Box::pin(futures::stream::unfold(Some(body), |body| async {
            let mut body = body?;
            match body.frame().await {
                Some(frame) => Some((frame.expect("a good frame"), Some(body))),
                None => Some((Frame::trailers(trailers("0")), None)),
            }
        })),
        _ => {
            // Trailers-Only.
            let _ = body.frame().await;
            return response.header("grpc-status", "5").body(empty()).expect("a response");
        }
    };
    response.body(streamed(frames.map(Ok))).expect("a response")
}

fn call(method: &str, body: Body) -> Request<Body> {
    Request::post(format!("https://{HOST}/test/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "5S")
        .body(body)
        .expect("a request")
}

fn messages(messages: impl IntoIterator<Item = Bytes, IntoIter: Send + Sync + 'static>) -> Body {
    streamed(futures::stream::iter(messages.into_iter().map(|message| Ok(Frame::data(message)))))
}

async fn grpc_visitor() -> (Secure, Http2Visitor) {
    let (target, _) = http2_backend(any(), grpc_server).await;
    let secure = Secure::start().await;
    let made = Made::new(&[HOST]);
    secure.serve(vec![speaks(&target, Protocol::H2c)], &[(HOST, &made.secret("shop"))]);
    let visitor = secure.http2(&made).await;
    (secure, visitor)
}

#[tokio::test]
async fn all_kinds_of_grpc_calls_pass_with_their_trailers() {
    let (_secure, mut visitor) = grpc_visitor().await;
    let mut answer = async |method: &str, body: Body| {
        let response = visitor.request(call(method, body)).await.expect("an answer");
        assert_eq!(response.headers()["content-type"], "application/grpc");
        let body = timeout(PATIENCE, response.into_body().collect()).await.expect("in time").expect("a whole body");
        assert_eq!(body.trailers().expect("trailers")["grpc-status"], "0");
        body.to_bytes()
    };
    assert_eq!(answer("Unary", full(message("question"))).await, message("answer"));
    let numbers: Vec<u8> = (0..1000).flat_map(|number: u32| message(&number.to_string())).collect();
    assert_eq!(answer("ServerStream", full(message("how many"))).await, numbers);
    let sent = (0..1000).map(|_| message("0123456789"));
    assert_eq!(answer("ClientStream", messages(sent)).await, message("15000"));
    let sent = (0..1000).map(|_| message("0123456789"));
    assert_eq!(answer("Both", messages(sent)).await.len(), 15_000);
}

#[tokio::test]
async fn each_message_of_a_grpc_call_passes_at_once() {
    let (_secure, mut visitor) = grpc_visitor().await;
    let (say, said) = mpsc::unbounded_channel::<Bytes>();
    let body = futures::stream::unfold(said, |mut said| async {
        said.recv().await.map(|message| (Ok(Frame::data(message)), said))
    });
    say.send(message("first")).expect("open");
    let mut response = visitor.request(call("Both", streamed(body))).await.expect("an answer");
    for text in ["first", "second", "third"] {
        let frame = timeout(PATIENCE, response.frame()).await.expect("in time").expect("a frame").expect("a good one");
        assert_eq!(frame.into_data().expect("data"), message(text));
        if text == "first" {
            say.send(message("second")).expect("open");
        } else if text == "second" {
            say.send(message("third")).expect("open");
        }
    }
    drop(say);
    let end = timeout(PATIENCE, response.frame()).await.expect("in time").expect("a frame").expect("a good one");
    assert_eq!(end.into_trailers().expect("trailers")["grpc-status"], "0");
}

#[tokio::test]
async fn ten_thousand_small_messages_pass_in_both_directions_whoever_is_slow() {
    let (go, wait) = watch::channel(false);
    let mut builder = any();
    // By this h2 measures how many small frames may wait.
    builder.initial_connection_window_size(16 << 20);
    let (target, _) = http2_backend(builder, move |request: Request<Incoming>| {
        let mut wait = wait.clone();
        async move {
            let head = wait.wait_for(|go| *go).await.is_ok();
            assert!(head);
            grpc_server(request).await
        }
    })
    .await;
    let secure = Secure::start().await;
    let made = Made::new(&[HOST]);
    secure.serve(vec![speaks(&target, Protocol::H2c)], &[(HOST, &made.secret("shop"))]);
    let mut visitor = secure.http2(&made).await;
    let sent = (0..10_000).map(|_| message("0123456789"));
    let request = tokio::spawn(visitor.sender.send_request(call("Both", messages(sent))));
    // The backend takes nothing yet, so that the upload waits in the edge and in the tunnel.
    secure.stage.edge.metric_becomes("culvert_active_requests{namespace=\"web\",tunnelhost=\"shop\"}", 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    go.send_replace(true);
    let response = timeout(PATIENCE, request).await.expect("in time").expect("no panic").expect("an answer");
    // And now the visitor takes nothing for a while.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let body = timeout(PATIENCE, response.into_body().collect()).await.expect("in time").expect("a whole body");
    assert_eq!(body.trailers().expect("trailers")["grpc-status"], "0");
    assert_eq!(body.to_bytes().len(), 150_000);
    assert_eq!(visitor.request(call("Nothing", full(message("?")))).await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn an_error_of_a_grpc_server_without_a_body_passes() {
    let (_secure, mut visitor) = grpc_visitor().await;
    let response = visitor.request(call("Nothing", full(message("question")))).await.expect("an answer");
    assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &HeaderValue::from_static("5")));
    assert!(hyper::body::Body::is_end_stream(response.body()));
}

#[tokio::test]
async fn an_error_of_the_edge_is_a_grpc_status_for_a_grpc_call() {
    let secure = Secure::start().await;
    let made = Made::new(&[HOST]);
    let (listener, refusing) = crate::support::backend();
    drop(listener);
    secure.serve(vec![speaks(&refusing, Protocol::H2c)], &[(HOST, &made.secret("shop"))]);
    let mut visitor = secure.http2(&made).await;
    let response = visitor.request(call("Unary", full(message("question")))).await.expect("an answer");
    let header = |name: &str| response.headers()[name].to_str().expect("text").to_owned();
    assert_eq!((response.status().as_u16(), header("grpc-status").as_str()), (200, "14"));
    assert_eq!(header("content-type"), "application/grpc");
    assert!(header("grpc-message").starts_with("the backend refused the connection"), "{}", header("grpc-message"));
    assert!(header("proxy-status").starts_with("culvert; error=connection_refused"));
    assert!(hyper::body::Body::is_end_stream(response.body()));

    secure.serve(Vec::new(), &[(HOST, &made.secret("shop"))]);
    let response = visitor.request(call("Unary", full(message("question")))).await.expect("an answer");
    assert_eq!(response.headers()["grpc-status"], "12");
    assert_eq!(visitor.get("/").await.0, 404, "others get HTTP's");
}

// === HTTPS ===

/// A backend behind TLS that speaks one of these protocols, and mirrors requests.
pub(crate) async fn https_backend(made: &Made, alpn: &'static [&'static str]) -> String {
    let key = PrivateKeyDer::try_from(made.pkcs8.clone()).expect("a key");
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.der.clone()], key)
        .expect("a pair");
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    backend(move |stream: TcpStream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            serve(stream, speaks_http2).await;
        }
    })
    .await
}

async fn serve<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: T, speaks_http2: bool) {
    let service = service_fn(async |request: Request<Incoming>| {
        let switches = request.headers().contains_key("upgrade");
        Ok::<_, Infallible>(if switches { switch(request) } else { mirror(request).await })
    });
    let io = TokioIo::new(stream);
    if speaks_http2 {
        let _ = any().serve_connection(io, service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(io, service).with_upgrades().await;
    }
}

/// Switches to a protocol that sends back what it gets.
fn switch(mut request: Request<Incoming>) -> Response<Body> {
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded.await.expect("a stream")));
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    });
    let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
    response.body(empty()).expect("a response")
}

fn https(server_name: Option<&str>, trust: Trust) -> Protocol {
    Protocol::Https(Arc::new(BackendTls { server_name: server_name.map(Into::into), trust }))
}

#[tokio::test]
async fn a_backend_behind_tls_is_verified() {
    let (made, other) = (Made::new(&["backend.test"]), Made::new(&["backend.test"]));
    let authorities = |made: &Made| Trust::Authorities(vec![made.der.clone()]);
    for (alpn, version) in [(&["h2", "http/1.1"][..], "HTTP/2.0"), (&["http/1.1"], "HTTP/1.1"), (&[], "HTTP/1.1")] {
        let target = https_backend(&made, alpn).await;
        let stage = Stage::start().await;
        let get = async |protocol: Protocol| {
            stage.serve_rules(vec![speaks(&target, protocol)], None);
            stage.get("/a").await
        };
        for protocol in [https(Some("backend.test"), authorities(&made)), https(None, Trust::Insecure)] {
            for _ in 0..2 {
                let answer = get(protocol.clone()).await;
                assert_eq!(answer.status, 200, "{protocol:?}: {answer:?}");
                assert!(answer.body.starts_with(&format!("{version} GET ")), "{answer:?}");
                assert!(answer.body.contains(HOST), "{answer:?}");
            }
        }
        for (protocol, cause) in [
            (https(Some("backend.test"), authorities(&other)), "BadSignature"),
            (https(Some("backend.test"), Trust::WebRoots), "UnknownIssuer"),
            (https(Some("another.test"), authorities(&made)), "not valid for name"),
            (https(None, authorities(&made)), "not valid for name"),
        ] {
            let answer = get(protocol.clone()).await;
            assert_eq!(answer.status, 502, "{protocol:?}: {answer:?}");
            let status = answer.header("proxy-status").expect("Proxy-Status");
            assert!(status.starts_with("culvert; error=tls_certificate_error"), "{status}");
            assert!(status.contains(cause), "{status}");
        }
    }
}

#[tokio::test]
async fn a_backend_without_tls_where_tls_is_due_is_502() {
    let target = backend(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
    })
    .await;
    let stage = Stage::start().await;
    stage.serve_rules(vec![speaks(&target, https(Some("backend.test"), Trust::Insecure))], None);
    let answer = stage.get("/").await;
    assert_eq!(answer.status, 502);
    assert!(answer.header("proxy-status").expect("a status").starts_with("culvert; error=tls_protocol_error"));
}

#[tokio::test]
async fn an_upgrade_passes_to_a_backend_behind_tls() {
    let made = Made::new(&["backend.test"]);
    // It speaks HTTP/2 too, which has no upgrades.
    let target = https_backend(&made, &["h2", "http/1.1"]).await;
    let stage = Stage::start().await;
    stage.serve_rules(vec![speaks(&target, https(None, Trust::Insecure))], None);
    assert_eq!(stage.get("/").await.status, 200);
    let mut visitor = stage.visit().await;
    let upgrade = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly ");
    visitor.send(upgrade.as_bytes()).await;
    assert_eq!(visitor.answer().await.status, 101);
    let long = vec![b'x'; 300_000];
    let (mut read, mut write) = visitor.0.split();
    let sending = async {
        write.write_all(&long).await.expect("sent");
        write.shutdown().await.expect("half-closed");
    };
    let mut echo = Vec::new();
    let (read, ()) = tokio::join!(timeout(PATIENCE, read.read_to_end(&mut echo)), sending);
    read.expect("in time").expect("an end");
    assert_eq!(echo.len(), 6 + long.len());
    assert!(echo.starts_with(b"early xxx"));
}
