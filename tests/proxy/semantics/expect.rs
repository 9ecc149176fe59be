//! `Expect: 100-continue`: who waits for whom before a body.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use bytes::Bytes;
use culvert::routing::{Backend, Protocol};
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{exchange, expecting, get, read_exactly};
use crate::{
    recorder::Recorder,
    secure::{Http2Visitor, full},
    stage::{HOST, Stage, backend, read_head, rule},
    support::{PATIENCE, accept},
};

#[tokio::test]
async fn the_backends_own_continue_reaches_the_visitor() {
    let (listener, target) = crate::support::backend();
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;
    visitor.send(expecting(5).as_bytes()).await;
    let mut held = accept(&listener).await;
    let request = read_head(&mut held).await.to_ascii_lowercase();
    assert!(request.contains("expect: 100-continue\r\n"), "{request}");
    // The backend has said nothing yet, and so has the edge.
    let early = visitor.0.try_read(&mut [0; 64]);
    assert!(early.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "{early:?}");
    held.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.expect("continued");
    assert_eq!(read_exactly(&mut visitor.0, 25).await, "HTTP/1.1 100 Continue\r\n\r\n");
    visitor.send(b"hello").await;
    assert_eq!(read_exactly(&mut held, 5).await, "hello");
    held.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.expect("answered");
    assert_eq!(visitor.answer().await.body, "ok");
    // The connections of both sides go on.
    visitor.send(get().as_bytes()).await;
    assert!(!timeout(PATIENCE, read_head(&mut held)).await.expect("the next request in time").is_empty());
}

#[tokio::test]
async fn a_refusal_comes_before_the_body_which_is_never_read() {
    let (listener, target) = crate::support::backend();
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    for status in ["417 Expectation Failed", "401 Unauthorized", "413 Content Too Large"] {
        let mut visitor = stage.visit().await;
        visitor.send(expecting(5).as_bytes()).await;
        let mut held = accept(&listener).await;
        read_head(&mut held).await;
        held.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno").as_bytes()).await.expect("answered");
        let answer = visitor.answer().await;
        assert_eq!((answer.status.to_string().as_str(), &*answer.body), (&status[..3], "no"));
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(visitor.rest().await.is_empty());
        // Not a byte of a body, and no other request either.
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, held.read_to_end(&mut rest)).await.expect("an end in time");
        assert!(rest.is_empty(), "{rest:?}");
    }
}

#[tokio::test]
async fn a_backend_that_does_not_know_of_expectations_gets_the_body() {
    let (recorder, target) = Recorder::start().await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;
    visitor.send(expecting(5).as_bytes()).await;
    assert_eq!(read_exactly(&mut visitor.0, 25).await, "HTTP/1.1 100 Continue\r\n\r\n");
    visitor.send(b"hello").await;
    assert_eq!(visitor.answer().await.body, "ok");
    assert!(recorder.text().ends_with("\r\n\r\nhello"), "{}", recorder.text());
}

#[tokio::test]
async fn a_visitor_need_not_wait() {
    let (recorder, target) = Recorder::start().await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;
    visitor.send(format!("{}hello", expecting(5)).as_bytes()).await;
    let answer = timeout(PATIENCE, async {
        let mut head = read_head(&mut visitor.0).await;
        while head.starts_with("HTTP/1.1 100 ") {
            head = read_head(&mut visitor.0).await;
        }
        head
    });
    assert!(answer.await.expect("an answer in time").starts_with("HTTP/1.1 200 "));
    assert!(recorder.text().ends_with("\r\n\r\nhello"), "{}", recorder.text());
}

#[tokio::test]
async fn a_backend_may_answer_with_success_before_it_reads() {
    let (listener, target) = crate::support::backend();
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;
    visitor.send(expecting(5).as_bytes()).await;
    let mut held = accept(&listener).await;
    read_head(&mut held).await;
    held.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.expect("answered");
    assert!(read_head(&mut visitor.0).await.starts_with("HTTP/1.1 200 "));
    visitor.send(b"hello").await;
    assert_eq!(read_exactly(&mut held, 5).await, "hello");
    held.write_all(b"2\r\nok\r\n0\r\n\r\n").await.expect("answered");
    assert_eq!(read_exactly(&mut visitor.0, 12).await, "2\r\nok\r\n0\r\n\r\n");
}

#[tokio::test]
async fn an_expectation_without_a_body_or_of_http_1_0_is_none() {
    let (recorder, target) = Recorder::start().await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    for request in [
        format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"),
        format!("POST / HTTP/1.0\r\nHost: {HOST}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"),
    ] {
        let answer = exchange(&stage, &request).await;
        assert!(answer.contains(" 200 OK\r\n") && !answer.contains(" 100 "), "{answer}");
    }
    assert!(!recorder.text().contains("expect"), "{}", recorder.text());
}

#[tokio::test]
async fn an_error_of_the_edge_comes_before_the_body_too() {
    let stage = Stage::start().await;
    let mut visitor = stage.visit().await;
    visitor.send(expecting(5).as_bytes()).await;
    let answer = visitor.answer().await;
    assert_eq!(answer.status, 404);
    assert!(visitor.rest().await.is_empty());
}

/// Over HTTP/2 nobody hears of the backend's 100, so that nobody waits for it.
#[tokio::test]
async fn the_body_does_not_wait_for_a_backend_of_http2() {
    let target = backend(|stream| async move {
        let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let expects = request.headers().contains_key("expect");
                let mut body = request.into_body();
                let first = body.data().await.expect("a body").expect("a good one");
                assert!(expects && first == "hello");
                drop(respond.send_response(http::Response::new(()), true));
            });
        }
    })
    .await;
    let stage = Stage::start().await;
    let mut rule = rule(&[&target], Vec::new());
    let Backend::Tunnel(tunnel) = &mut rule.backend else { panic!("a tunnel") };
    tunnel.protocol = Protocol::H2c;
    stage.serve_rules(vec![rule], None);
    for _ in 0..3 {
        let begin = Instant::now();
        let mut visitor = stage.visit().await;
        visitor.send(expecting(5).as_bytes()).await;
        assert_eq!(read_exactly(&mut visitor.0, 25).await, "HTTP/1.1 100 Continue\r\n\r\n");
        visitor.send(b"hello").await;
        assert!(read_head(&mut visitor.0).await.starts_with("HTTP/1.1 200 "));
        assert!(begin.elapsed() < Duration::from_millis(900), "{:?}", begin.elapsed());
    }
}

/// hyper cannot send them a 100; they get everything else.
#[tokio::test]
async fn a_visitor_of_http2_gets_a_refusal_or_sends_its_body_unasked() {
    let (listener, target) = crate::support::backend();
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let mut visitor = Http2Visitor::new(TcpStream::connect(stage.http).await.expect("a connection")).await;
    let post = |body| {
        let request = Request::post(format!("http://{HOST}/")).header("expect", "100-continue");
        request.body(body).expect("a request")
    };
    // Of the first body nothing ever comes.
    let never = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, Infallible>>());
    let asking = tokio::spawn(visitor.sender.send_request(post(BodyExt::boxed(never))));
    let mut held = accept(&listener).await;
    assert!(read_head(&mut held).await.to_ascii_lowercase().contains("expect: 100-continue\r\n"));
    held.write_all(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n").await.expect("answered");
    let refused = timeout(PATIENCE, asking).await.expect("in time").expect("no panic").expect("an answer");
    assert_eq!(refused.status(), 417);

    let asking = tokio::spawn(visitor.sender.send_request(post(full("hello"))));
    let mut held = accept(&listener).await;
    read_head(&mut held).await;
    held.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.expect("continued");
    assert_eq!(read_exactly(&mut held, 5).await, "hello");
    held.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.expect("answered");
    let answer = timeout(PATIENCE, asking).await.expect("in time").expect("no panic").expect("an answer");
    assert_eq!(answer.status(), 200);
}
