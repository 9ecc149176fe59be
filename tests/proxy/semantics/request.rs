//! What a visitor asks, as it reaches the backend.

use tokio::io::AsyncWriteExt;

use crate::{
    recorder::Recorder,
    stage::{HOST, Stage, mirror, read_head, rule},
    support::accept,
};

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
