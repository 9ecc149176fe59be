//! Backends of HTTP/2.

mod grpc;
pub(crate) mod tls;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use culvert::routing::{Backend, Protocol, Rule};
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, watch},
    time::timeout,
};

use crate::{
    secure::{Body, Made, Secure, full, get, text},
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
async fn what_may_be_repeated_is_asked_again_where_a_used_connection_ends_without_goodbye() {
    for reset in [false, true] {
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let target = backend(move |stream| {
            let first = counted.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                if reset {
                    stream.set_zero_linger().expect("an option");
                }
                let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
                let mut answered = 0;
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    if first && answered == 1 {
                        return;
                    }
                    answered += 1;
                    respond.send_response(Response::new(()), true).expect("answered");
                }
            }
        })
        .await;
        let stage = Stage::start().await;
        stage.serve_rules(vec![speaks(&target, Protocol::H2c)], None);
        assert_eq!(stage.get("/").await.status, 200);
        assert_eq!(stage.get("/").await.status, 200, "reset: {reset}");
        assert_eq!(connections.load(Ordering::Relaxed), 2);
    }
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
