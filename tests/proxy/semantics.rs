//! What messages mean on their way through: what a backend behind the edge may say and hear as if it were there itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    recorder::Recorder,
    secure::{Made, Secure, client},
    stage::{HOST, Stage, backend, mirror, read_head, request, rule},
    support::{PATIENCE, accept},
};

/// A backend that answers each request with these bytes; whether it then keeps its connection open.
async fn answering(answer: impl Into<Vec<u8>>, keeps: bool) -> String {
    let answer: Arc<[u8]> = answer.into().into();
    backend(move |mut stream| {
        let answer = answer.clone();
        async move {
            while !read_head(&mut stream).await.is_empty() {
                // The edge may have had enough of it.
                let _ = stream.write_all(&answer).await;
                if !keeps {
                    return;
                }
            }
        }
    })
    .await
}

/// Everything that one request gets, as text; `Connection: close` is to be in it.
async fn exchange(stage: &Stage, request: &str) -> String {
    let mut visitor = stage.visit().await;
    visitor.send(request.as_bytes()).await;
    String::from_utf8_lossy(&visitor.rest().await).into_owned()
}

fn get() -> String {
    format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")
}

fn expecting(length: usize) -> String {
    format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n")
}

async fn read_exactly(stream: &mut TcpStream, length: usize) -> String {
    let mut bytes = vec![0; length];
    timeout(PATIENCE, stream.read_exact(&mut bytes)).await.expect("bytes in time").expect("bytes");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits until the other side has closed or reset.
async fn ends(stream: &mut TcpStream) {
    let mut byte = [0; 4096];
    loop {
        match timeout(PATIENCE, stream.read(&mut byte)).await.expect("an end in time") {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

// === 100-continue ===

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

// === responses ===

#[tokio::test]
async fn other_interim_responses_do_not_disturb() {
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
                 HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let stage = Stage::start().await;
    stage.serve(&[&answering(early, true).await]);
    for _ in 0..3 {
        let answer = exchange(&stage, &get()).await;
        assert!(answer.contains("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok"), "{answer}");
    }
}

#[tokio::test]
async fn interim_responses_without_end_are_no_response() {
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
        let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n".repeat(1000);
        while stream.write_all(&hints).await.is_ok() {}
    })
    .await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    for fields in ["", "Content-Length: 0\r\n", "Content-Length: 5\r\n"] {
        let answer = stage.send(&format!("{}hello", request("POST", "/", fields))).await;
        assert_eq!(answer.status, 502);
        let cause = answer.header("proxy-status").expect("a cause");
        assert!(cause.contains("http_protocol_error") && cause.contains("interim responses"), "{cause}");
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let target = backend(|mut stream| async move {
        let head = read_head(&mut stream).await.to_ascii_lowercase();
        assert!(head.contains("trailer: x-sum\r\n") && head.contains("te: trailers\r\n"), "{head}");
        assert!(!head.contains("connection"), "{head}");
        let body = "5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n";
        assert_eq!(read_exactly(&mut stream, body.len()).await.to_ascii_lowercase(), body);
        let answer =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 2\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.expect("answered");
    })
    .await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let answer = exchange(
        &stage,
        &format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close, TE\r\nTE: trailers\r\nTrailer: X-Sum\r\n\
             Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
        ),
    )
    .await
    .to_ascii_lowercase();
    assert!(answer.contains("trailer: x-sum\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n2\r\nok\r\n0\r\nx-sum: 2\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn trailers_say_nothing_that_only_a_head_may_say() {
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
        let body = "0\r\nx-sum: 1\r\n\r\n";
        assert_eq!(read_exactly(&mut stream, body.len()).await.to_ascii_lowercase(), body);
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Keep-Alive, Content-Type, X-Sum\r\n\r\n\
                      0\r\nKeep-Alive: timeout=5\r\nContent-Type: text/html\r\nX-Sum: 2\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.expect("answered");
    })
    .await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let names = ["X-Forwarded-For", "X_Real_IP", "Forwarded", "True-Client-IP", "Via", "Keep-Alive", "Proxy", "X-Sum"];
    let trailers = names.map(|name| format!("{name}: 1\r\n")).concat();
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close, TE\r\nTE: trailers\r\nTrailer: {}\r\n\
         Transfer-Encoding: chunked\r\n\r\n0\r\n{trailers}\r\n",
        names.join(", ")
    );
    let answer = exchange(&stage, &request).await.to_ascii_lowercase();
    assert!(answer.ends_with("\r\n\r\n0\r\nx-sum: 2\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_visitor_who_did_not_ask_for_trailers_gets_the_whole_body_without() {
    let answer =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 2\r\n\r\n";
    let stage = Stage::start().await;
    stage.serve(&[&answering(answer, true).await]);
    let answer = exchange(&stage, &get()).await;
    assert!(answer.ends_with("2\r\nok\r\n0\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn an_upload_that_moves_keeps_a_silent_answer_alive() {
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe").await.expect("begun");
        read_exactly(&mut stream, 10).await;
        stream.write_all(b"llo").await.expect("answered");
    })
    .await;
    let stage = Stage::start().await;
    let mut rule = rule(&[&target], Vec::new());
    rule.timeouts.stream_idle = Duration::from_millis(1500);
    stage.serve_rules(vec![rule], None);
    let mut visitor = stage.visit().await;
    visitor.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 10\r\n\r\n").as_bytes()).await;
    // What is tested is time: longer than the timeout in all, and never as long at once.
    for byte in b"0123456789" {
        tokio::time::sleep(Duration::from_millis(250)).await;
        visitor.send(&[*byte]).await;
    }
    let answer = visitor.answer().await;
    assert_eq!((answer.status, &*answer.body), (200, "hello"));
}

#[tokio::test]
async fn messages_without_content_end_with_their_head() {
    for (method, answer, present) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", "content-length: 1000\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ""),
        ("HEAD", "HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\n", "404 Not Found\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", "204 No Content\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", "204 No Content\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n", "etag: \"a\"\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "304 Not Modified\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "content-length: 0\r\n"),
        ("DELETE", "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", "205 Reset Content\r\n"),
    ] {
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let target = backend(move |mut stream| {
            counted.fetch_add(1, Ordering::Relaxed);
            async move {
                while !read_head(&mut stream).await.is_empty() {
                    stream.write_all(answer.as_bytes()).await.expect("answered");
                }
            }
        })
        .await;
        let stage = Stage::start().await;
        stage.serve(&[&target]);
        let request = format!("{method} / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        let mut visitor = stage.visit().await;
        for _ in 0..3 {
            visitor.send(request.as_bytes()).await;
            let head = timeout(PATIENCE, read_head(&mut visitor.0)).await.expect("a head in time");
            assert!(head.contains(present), "{answer:?}: {head}");
            let no_content = head.starts_with("HTTP/1.1 204");
            assert!(!no_content || !head.contains("content-length"), "{head}");
        }
        assert_eq!(connections.load(Ordering::Relaxed), 1, "{answer:?}");
        visitor.0.shutdown().await.expect("ended");
        assert!(visitor.rest().await.is_empty(), "{answer:?}");
    }
}

#[tokio::test]
async fn one_length_that_is_told_twice_is_told_once() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2, 2\r\n\r\nok";
    let stage = Stage::start().await;
    stage.serve(&[&answering(answer, true).await]);
    let answer = exchange(&stage, &get()).await;
    assert!(answer.matches("content-length: ").count() == 1 && answer.contains("content-length: 2\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
}

#[tokio::test]
async fn fields_that_the_backends_connection_names_stay_behind() {
    let answer = "HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
                  Proxy-Authenticate: Basic\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\nok";
    let stage = Stage::start().await;
    stage.serve(&[&answering(answer, true).await]);
    let answer = exchange(&stage, &get()).await.to_ascii_lowercase();
    assert!(answer.contains("x-kept: 1\r\n") && answer.ends_with("\r\n\r\nok"), "{answer}");
    for absent in ["x-hop", "keep-alive", "proxy-", "upgrade"] {
        assert!(!answer.contains(absent), "{absent} in {answer}");
    }
}

#[tokio::test]
async fn several_cookies_stay_several_and_in_order() {
    let answer = "HTTP/1.1 200 Fine By Me\r\nSet-Cookie: a=1, b\r\nSet-Cookie: c=2\r\nSet-Cookie: a=3\r\nContent-Length: 0\r\n\r\n";
    let stage = Stage::start().await;
    stage.serve(&[&answering(answer, true).await]);
    let answer = exchange(&stage, &get()).await;
    assert!(answer.contains("set-cookie: a=1, b\r\nset-cookie: c=2\r\nset-cookie: a=3\r\n"), "{answer}");
    assert!(answer.starts_with("HTTP/1.1 200 Fine By Me\r\n"), "{answer}");
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_gets_chunks() {
    let stage = Stage::start().await;
    for (answer, body) in [
        ("HTTP/1.1 200 OK\r\n\r\nhello", "5\r\nhello\r\n0\r\n\r\n"),
        ("HTTP/1.0 200 OK\r\n\r\nhello", "5\r\nhello\r\n0\r\n\r\n"),
        ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello"),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", "hello"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", "hello"),
    ] {
        stage.serve(&[&answering(answer, false).await]);
        let got = exchange(&stage, &get()).await;
        assert!(got.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:?}: {got}");
        assert!(got.ends_with(&format!("\r\n\r\n{body}")), "{answer:?}: {got}");
    }
}

#[tokio::test]
async fn an_http_1_0_visitor_gets_no_chunks() {
    let stage = Stage::start().await;
    for answer in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\n\r\nhello",
    ] {
        stage.serve(&[&answering(answer, false).await]);
        let got = exchange(&stage, &format!("GET / HTTP/1.0\r\nHost: {HOST}\r\n\r\n")).await;
        assert!(got.starts_with("HTTP/1.0 200 OK\r\n") && got.ends_with("\r\n\r\nhello"), "{got}");
        assert!(!got.contains("transfer-encoding"), "{got}");
    }
}

#[tokio::test]
async fn an_http_1_0_visitor_may_keep_its_connection() {
    let (recorder, target) = Recorder::start().await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;
    for _ in 0..3 {
        visitor.send(format!("GET / HTTP/1.0\r\nHost: {HOST}\r\nConnection: keep-alive\r\n\r\n").as_bytes()).await;
        let answer = visitor.answer().await;
        assert_eq!((&*answer.body, answer.header("connection")), ("ok", Some("keep-alive")));
    }
    assert_eq!(recorder.text().matches("GET / HTTP/1.1\r\n").count(), 3);
}

/// A response that breaks off where nothing but the end of the connection tells its end must not look whole.
#[tokio::test]
async fn a_body_that_breaks_off_does_not_look_whole() {
    let stage = Stage::start().await;
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA\r\nhello",
    ] {
        stage.serve(&[&answering(answer, false).await]);
        let got = exchange(&stage, &get()).await;
        assert!(got.starts_with("HTTP/1.1 200 OK\r\n") && !got.ends_with("\r\n0\r\n\r\n"), "{answer:?}: {got}");
        assert!(!got.contains("content-length: 10") || got.ends_with("\r\n\r\nhello"), "{answer:?}: {got}");
    }
}

/// Answers that nobody can be sure of.
const AMBIGUOUS: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nX-A: \0\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nX-A: 1\r2\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nX-A\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\n: 1\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "ICY 200 OK\r\nContent-Length: 2\r\n\r\nok",
    " HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "hello\r\n\r\n",
    "\0\0\0\0\r\n\r\n",
    "220 ESMTP\r\n\r\n",
];

#[tokio::test]
async fn an_ambiguous_answer_is_502() {
    let stage = Stage::start().await;
    let mut wrong = Vec::new();
    let huge = format!("HTTP/1.1 200 OK\r\nX-A: {}\r\nContent-Length: 2\r\n\r\nok", "a".repeat(70_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\nok", "X-A: 1\r\n".repeat(101));
    let ambiguous = AMBIGUOUS.iter().map(|answer| (*answer, "error=http_protocol_error"));
    let too_large = [&*huge, &*many].map(|answer| (answer, "error=http_response_header_section_size"));
    for (answer, error) in ambiguous.chain(too_large) {
        stage.serve(&[&answering(answer, true).await]);
        let got = stage.send(&get()).await;
        let cause = got.header("proxy-status").unwrap_or_default().to_owned();
        if got.status != 502 || !cause.contains(error) {
            wrong.push(format!("{:?}: {} {cause}", &answer[..answer.len().min(99)], got.status));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn an_answer_that_ends_in_its_head_is_502() {
    let stage = Stage::start().await;
    for answer in ["", "HTTP/1.1", "HTTP/1.1 200 OK\r\nContent-Le"] {
        stage.serve(&[&answering(answer, false).await]);
        let got = stage.send(&get()).await;
        assert_eq!(got.status, 502, "{answer:?}");
        assert!(got.header("proxy-status").expect("a cause").contains("connection_terminated"), "{answer:?}");
    }
}

#[tokio::test]
async fn surplus_bytes_are_nobodys_next_answer() {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let stage = Stage::start().await;
    for first in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n",
    ] {
        stage.serve(&[&answering(format!("{first}{evil}"), true).await]);
        for _ in 0..5 {
            let got = exchange(&stage, &get()).await;
            assert!(!got.contains("evil") && got.matches("HTTP/1.1 ").count() == 1, "{first:?}: {got}");
        }
    }
    // A body that a HEAD does not have.
    stage.serve(&[&answering("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", true).await]);
    for _ in 0..5 {
        let got = exchange(&stage, &get().replace("GET", "HEAD")).await;
        assert!(got.starts_with("HTTP/1.1 200 OK\r\n") && got.ends_with("\r\n\r\n"), "{got}");
    }
}

// === requests ===

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let stage = Stage::start().await;
    stage.serve(&[&mirror().await]);
    let mut visitor = stage.visit().await;
    let request = |number| format!("GET /{number} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    visitor.send((0..50).map(request).collect::<String>().as_bytes()).await;
    for number in 0..50 {
        let answer = visitor.answer().await;
        assert!(answer.body.starts_with(&format!("GET /{number} HTTP/1.1\r\n")), "{}", answer.body);
    }
}

#[tokio::test]
async fn bodies_and_requests_may_come_in_one_write() {
    let stage = Stage::start().await;
    let (recorder, target) = Recorder::start().await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;
    let requests = format!(
        "POST /a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\n\r\nhello\
         POST /b HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nworld\r\n0\r\n\r\n\
         GET /c HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
    );
    visitor.send(requests.as_bytes()).await;
    for _ in 0..3 {
        assert_eq!(visitor.answer().await.body, "ok");
    }
    let seen = recorder.text();
    for part in ["POST /a HTTP/1.1\r\n", "\r\n\r\nhello", "POST /b HTTP/1.1\r\n", "\r\n\r\n5\r\nworld\r\n0\r\n\r\n"] {
        assert_eq!(seen.matches(part).count(), 1, "{part} in {seen}");
    }
    assert!(seen.contains("GET /c HTTP/1.1\r\n"), "{seen}");
}

#[tokio::test]
async fn options_of_the_server_itself_arrive_as_such() {
    let stage = Stage::start().await;
    stage.serve(&[&mirror().await]);
    let answer = stage.send(&format!("OPTIONS * HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.starts_with("OPTIONS * HTTP/1.1\r\n"), "{}", answer.body);
}

#[tokio::test]
async fn a_name_of_another_script_is_its_a_label() {
    let stage = Stage::start().await;
    stage.serve_host("xn--bcher-kva.example", vec![rule(&[&mirror().await], Vec::new())], None);
    for host in ["xn--bcher-kva.example", "XN--BCHER-KVA.example:80", "xn--bcher-kva.example."] {
        let answer = stage.send(&format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(answer.status, 200, "{host}");
        assert!(answer.body.contains(&format!("host: {host}\r\n")), "{}", answer.body);
    }
}

#[tokio::test]
async fn an_address_is_a_host_that_nobody_has() {
    let stage = Stage::start().await;
    stage.serve(&[&mirror().await]);
    for host in ["[::1]", "[::1]:8080", "[2001:db8::1]:80", "127.0.0.1", "127.0.0.1:80"] {
        let answer = stage.send(&format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(answer.status, 404, "{host}");
    }
}

#[tokio::test]
async fn an_early_answer_ends_an_upload_that_nobody_reads() {
    let (listener, target) = crate::support::backend();
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;
    visitor.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000000\r\n\r\nhello").as_bytes()).await;
    let mut held = accept(&listener).await;
    read_head(&mut held).await;
    let answer = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno";
    held.write_all(answer).await.expect("answered");
    held.shutdown().await.expect("ended");
    let answer = visitor.answer().await;
    assert_eq!((answer.status, &*answer.body), (413, "no"));
}

// === those who leave, and those who have only no more to say ===

#[tokio::test]
async fn a_visitor_that_ended_its_side_gets_its_answer() {
    let (listener, target) = crate::support::backend();
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    for (request, body) in [
        (format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n"), ""),
        (format!("GET / HTTP/1.0\r\nHost: {HOST}\r\n\r\n"), ""),
        (format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\n\r\nhello"), "hello"),
        (
            format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            "5\r\nhello\r\n0\r\n\r\n",
        ),
    ] {
        let mut visitor = stage.visit().await;
        visitor.send(request.as_bytes()).await;
        visitor.0.shutdown().await.expect("ended");
        let mut held = accept(&listener).await;
        read_head(&mut held).await;
        assert_eq!(read_exactly(&mut held, body.len()).await, body);
        // The edge has long read the end.
        let (answer, rest) = (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 10\r\n\r\nhello", b"world");
        held.write_all(answer).await.expect("begun");
        let begun = timeout(PATIENCE, read_head(&mut visitor.0)).await.expect("a head in time");
        assert!(begun.contains(" 200 OK\r\n"), "{begun}");
        held.write_all(rest).await.expect("answered");
        assert_eq!(String::from_utf8_lossy(&visitor.rest().await), "helloworld", "{request}");
    }
}

#[tokio::test]
async fn over_tls_a_visitor_that_ended_its_side_gets_its_answer_and_one_that_left_is_noticed() {
    let (listener, target) = crate::support::backend();
    let secure = Secure::start().await;
    let made = Made::new(&[HOST]);
    secure.serve(vec![rule(&[&target], Vec::new())], &[(HOST, &made.secret("shop"))]);
    for leaves in [false, true] {
        let mut visitor = secure.connect(client(&[&made], &["http/1.1"]), HOST).await.expect("a handshake");
        visitor.write_all(get().as_bytes()).await.expect("sent");
        visitor.shutdown().await.expect("ended");
        let mut held = accept(&listener).await;
        read_head(&mut held).await;
        if leaves {
            drop(visitor);
            ends(&mut held).await;
        } else {
            held.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.expect("answered");
            let mut answer = String::new();
            timeout(PATIENCE, visitor.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
            assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
        }
    }
}

#[tokio::test]
async fn requests_before_the_end_of_a_visitors_side_are_all_answered() {
    let stage = Stage::start().await;
    stage.serve(&[&mirror().await]);
    let mut visitor = stage.visit().await;
    let request = |number| format!("GET /{number} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    visitor.send((0..20).map(request).collect::<String>().as_bytes()).await;
    visitor.0.shutdown().await.expect("ended");
    let answers = String::from_utf8_lossy(&visitor.rest().await).into_owned();
    for number in 0..20 {
        assert!(answers.contains(&format!("GET /{number} HTTP/1.1\r\n")), "{number} in {answers}");
    }
}

#[tokio::test]
async fn a_visitor_who_leaves_in_its_upload_frees_the_backend() {
    let (listener, target) = crate::support::backend();
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    for body in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let mut visitor = stage.visit().await;
        visitor.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n{body}").as_bytes()).await;
        let mut held = accept(&listener).await;
        read_head(&mut held).await;
        drop(visitor);
        ends(&mut held).await;
    }
}

#[tokio::test]
async fn a_visitor_who_leaves_in_its_download_frees_the_backend() {
    let (listener, target) = crate::support::backend();
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    for (head, chunk) in [
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "5\r\nhello\r\n"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", "hello"),
        ("HTTP/1.1 200 OK\r\n\r\n", "hello"),
    ] {
        let mut visitor = stage.visit().await;
        visitor.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await;
        let mut held = accept(&listener).await;
        read_head(&mut held).await;
        held.write_all(format!("{head}{chunk}").as_bytes()).await.expect("begun");
        assert!(read_head(&mut visitor.0).await.starts_with("HTTP/1.1 200 "));
        drop(visitor);
        // Silent from here on: that the visitor left is noticed all the same.
        ends(&mut held).await;
    }
}

#[tokio::test]
async fn a_backend_hears_nothing_of_a_visitor_who_left_while_it_waited() {
    let (listener, target) = crate::support::backend();
    let stage = Stage::start().await;
    stage.serve_rules(vec![rule(&[&target], Vec::new())], Some(1));
    let mut visitor = stage.visit().await;
    visitor.send(expecting(5).as_bytes()).await;
    let mut held = accept(&listener).await;
    read_head(&mut held).await;
    drop(visitor);
    ends(&mut held).await;
    stage.edge.metric_becomes("culvert_agent_connections{agent=\"lab\",namespace=\"web\"}", 0).await;
}
