//! Visitors who leave, and those who have only no more to say.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{ends, expecting, get, read_exactly};
use crate::{
    secure::{Made, Secure, client},
    stage::{HOST, Stage, mirror, read_head, rule},
    support::{PATIENCE, accept},
};

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
