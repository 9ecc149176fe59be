//! What a backend says, as it reaches the visitor.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{io::AsyncWriteExt, time::timeout};

use super::{answering, exchange, get, read_exactly};
use crate::{
    recorder::Recorder,
    stage::{HOST, Stage, backend, read_head, request, rule},
    support::PATIENCE,
};

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
