//! The same faults where the backend speaks HTTP/2, for visitors of both versions.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use culvert::routing::{Backend, Filter, Protocol, Rule};
use h2::{RecvStream, server::SendResponse};
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::Scene;
use crate::{
    secure::{Body, Http2Visitor, full, get},
    stage::{Answer, HOST, backend, request},
    support::PATIENCE,
};

type Asked = (Request<RecvStream>, SendResponse<Bytes>);

/// A backend of HTTP/2 that does this with each request.
async fn answering<F, R>(answer: F) -> String
where
    F: Fn(Asked) -> R + Clone + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    backend(move |stream| {
        let answer = answer.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
            while let Some(Ok(asked)) = connection.accept().await {
                tokio::spawn(answer(asked));
            }
        }
    })
    .await
}

/// One that reads what it gets and never answers.
async fn silent() -> String {
    answering(|(request, _respond)| async move {
        let mut body = request.into_body();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
        }
        std::future::pending::<()>().await;
    })
    .await
}

async fn scene(target: &str, change: impl FnOnce(&mut Rule)) -> Scene {
    let scene = Scene::new().await;
    scene.serve(&[target], |rule| {
        let Backend::Tunnel(backend) = &mut rule.backend else { panic!("a tunnel") };
        backend.protocol = Protocol::H2c;
        change(rule);
    });
    scene
}

async fn visitor(scene: &Scene) -> Http2Visitor {
    Http2Visitor::new(TcpStream::connect(scene.stage.http).await.expect("a connection")).await
}

/// What a visitor of HTTP/2 gets.
async fn ask(scene: &Scene, request: Request<Body>) -> Answer {
    let response = visitor(scene).await.request(request).await.expect("an answer");
    let (head, body) = response.into_parts();
    let mut fields = "HTTP/2\r\n".to_owned();
    for (name, value) in &head.headers {
        fields.extend([name.as_str(), ": ", value.to_str().expect("text"), "\r\n"]);
    }
    let body = timeout(PATIENCE, body.collect()).await.expect("in time").expect("a whole body").to_bytes();
    Answer { status: head.status.as_u16(), head: fields, body: String::from_utf8_lossy(&body).into_owned() }
}

/// Visitors of both versions are told so by the edge that this backend answers.
async fn both_are_told(target: &str, status: u16, error: &str, reason: &str) {
    let change = |rule: &mut Rule| rule.timeouts.response_head = Duration::from_millis(300);
    let first = scene(target, change).await;
    let answer = first.stage.get("/").await;
    first.tells(0, &answer, status, Some(error), reason).await;
    let second = scene(target, change).await;
    let answer = ask(&second, get("/")).await;
    second.tells(0, &answer, status, Some(error), reason).await;
}

// === The response ===

pub(super) async fn a_backend_of_http2_closes_without_an_answer(reason: &str) {
    let target = backend(|stream| async move {
        let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
        let _ = connection.accept().await;
    })
    .await;
    both_are_told(&target, 502, "connection_terminated", reason).await;
}

pub(super) async fn a_backend_of_http2_resets_the_stream(reason: &str) {
    let target = answering(|(_, mut respond)| async move { respond.send_reset(h2::Reason::INTERNAL_ERROR) }).await;
    both_are_told(&target, 502, "connection_terminated", reason).await;
}

pub(super) async fn a_backend_of_http2_says_nothing(reason: &str) {
    both_are_told(&silent().await, 504, "http_response_timeout", reason).await;
}

pub(super) async fn a_backend_of_http2_speaks_http1(reason: &str) {
    let target = backend(|mut stream| async move {
        let _ = stream.read_exact(&mut [0; 24]).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    both_are_told(&target, 502, "http_protocol_error", reason).await;
}

pub(super) async fn a_backend_of_http2_sends_a_malformed_head(reason: &str) {
    let target = backend(|mut stream| async move {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.expect("a preface");
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("settings");
        let mut header = [0; 9];
        while header[3] != 1 {
            stream.read_exact(&mut header).await.expect("a frame");
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
            stream.read_exact(&mut vec![0; length as usize]).await.expect("its payload");
        }
        // The status stands behind another field.
        let head = [&[0, 0, 10, 1, 5][..], &header[5..], b"\0\x01a\x01b\x08\x03200"].concat();
        stream.write_all(&head).await.expect("answered");
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    both_are_told(&target, 502, "http_protocol_error", reason).await;
}

pub(super) async fn a_head_over_http2_is_too_large(reason: &str) {
    for fields in [vec![70_000], vec![1; 101]] {
        let target = answering(move |(_, mut respond)| {
            let mut response = Response::new(());
            for (number, length) in fields.iter().enumerate() {
                let name = http::HeaderName::try_from(format!("x-{number}")).expect("a name");
                response.headers_mut().insert(name, "x".repeat(*length).parse().expect("a value"));
            }
            async move { drop(respond.send_response(response, true)) }
        })
        .await;
        both_are_told(&target, 502, "http_response_header_section_size", reason).await;
    }
}

/// Half of a body, and a connection that stays until it is told to end.
async fn half(end: bool) -> String {
    backend(move |stream| async move {
        let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
        let Some(Ok((_, mut respond))) = connection.accept().await else { return };
        let mut body = respond.send_response(Response::new(()), false).expect("answered");
        body.send_data(Bytes::from_static(b"half"), false).expect("sent");
        let rest = async { while connection.accept().await.is_some() {} };
        let patience = if end { Duration::from_millis(300) } else { PATIENCE };
        let _ = timeout(patience, rest).await;
    })
    .await
}

/// Both visitors get a half, and its end.
async fn both_are_cut(target: &str, reason: &str) {
    let change = |rule: &mut Rule| rule.timeouts.stream_idle = Duration::from_secs(1);
    let first = scene(target, change).await;
    let mut cut = first.stage.visit().await;
    cut.send(request("GET", "/", "").as_bytes()).await;
    let rest = String::from_utf8(cut.rest().await).expect("text");
    assert!(rest.contains("half") && !rest.ends_with("0\r\n\r\n"), "{rest}");
    first.logs(0, 200, Some(reason)).await;
    first.counts(reason).await;

    let second = scene(target, change).await;
    let mut cut = visitor(&second).await;
    let response = cut.request(get("/")).await.expect("an answer");
    timeout(PATIENCE, response.into_body().collect()).await.expect("in time").expect_err("cut off");
    second.logs(0, 200, Some(reason)).await;
    second.counts(reason).await;
}

pub(super) async fn a_backend_of_http2_closes_within_its_body(reason: &str) {
    both_are_cut(&half(true).await, reason).await;
}

pub(super) async fn a_body_over_http2_stops_coming(reason: &str) {
    both_are_cut(&half(false).await, reason).await;
}

pub(super) async fn the_agent_is_lost_within_a_body_over_http2(reason: &str) {
    let scene = scene(&half(false).await, |_| {}).await;
    let mut visitor = visitor(&scene).await;
    let response = visitor.request(get("/")).await.expect("an answer");
    scene.stage.edge.agents.send_replace(Arc::default());
    timeout(PATIENCE, response.into_body().collect()).await.expect("in time").expect_err("cut off");
    scene.logs(0, 200, Some(reason)).await;
    scene.counts(reason).await;
}

// === The request ===

pub(super) async fn an_upload_to_http2_stands_still(reason: &str) {
    let scene = scene(&silent().await, |rule| rule.timeouts.response_head = Duration::from_millis(300)).await;
    let mut visitor = scene.stage.visit().await;
    visitor.send(format!("{}half", request("POST", "/", "Content-Length: 8\r\n")).as_bytes()).await;
    let answer = visitor.answer().await;
    scene.tells(0, &answer, 408, Some("http_request_error"), reason).await;
}

async fn half_an_upload(fields: &str, half: &str, reason: &str) {
    let scene = scene(&silent().await, |_| {}).await;
    let mut visitor = scene.stage.visit().await;
    visitor.send(format!("{}{half}", request("POST", "/", fields)).as_bytes()).await;
    visitor.0.shutdown().await.expect("half-closed");
    let answer = visitor.answer().await;
    scene.tells(0, &answer, 400, Some("http_request_error"), reason).await;
}

pub(super) async fn an_upload_to_http2_breaks_off(reason: &str) {
    half_an_upload("Content-Length: 8\r\n", "half", reason).await;
}

pub(super) async fn the_chunks_of_an_upload_to_http2_are_none(reason: &str) {
    half_an_upload("Transfer-Encoding: chunked\r\n", "4\r\nhalf\r\nrest\r\n", reason).await;
}

/// A body without a length.
fn nine_bytes() -> Body {
    let frames = [&b"12345"[..], b"6789"].map(|piece| Ok(Frame::data(Bytes::from_static(piece))));
    BodyExt::boxed(StreamBody::new(futures::stream::iter(frames)))
}

fn post(body: Body) -> Request<Body> {
    Request::post(format!("https://{HOST}/")).body(body).expect("a request")
}

pub(super) async fn a_body_to_http2_is_too_large(reason: &str) {
    let target = silent().await;
    let limit = |rule: &mut Rule| rule.filters.push(Filter::BodySize(8));
    let first = scene(&target, limit).await;
    let chunks = "5\r\n12345\r\n4\r\n6789\r\n0\r\n\r\n";
    let answer = first.stage.send(&(request("POST", "/", "Transfer-Encoding: chunked\r\n") + chunks)).await;
    first.tells(0, &answer, 413, Some("http_request_denied"), reason).await;

    for body in [nine_bytes(), full("123456789")] {
        let second = scene(&target, limit).await;
        let answer = ask(&second, post(body)).await;
        second.tells(0, &answer, 413, Some("http_request_denied"), reason).await;
    }

    let call = Request::post(format!("https://{HOST}/test/Unary")).header("content-type", "application/grpc");
    let third = scene(&target, limit).await;
    let answer = ask(&third, call.body(nine_bytes()).expect("a request")).await;
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("8")), "{answer:?}");
    third.counts(reason).await;
}

/// The response has begun, so that the visitor sees its end alone.
pub(super) async fn a_body_to_http2_becomes_too_large_under_its_response(reason: &str) {
    let target = answering(|(request, mut respond)| async move {
        let _response = respond.send_response(Response::new(()), false).expect("answered");
        let mut body = request.into_body();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
        }
    })
    .await;
    let scene = scene(&target, |rule| rule.filters.push(Filter::BodySize(8))).await;
    let mut visitor = scene.stage.visit().await;
    visitor.send((request("POST", "/", "Transfer-Encoding: chunked\r\n") + "5\r\n12345\r\n").as_bytes()).await;
    assert!(crate::stage::read_head(&mut visitor.0).await.starts_with("HTTP/1.1 200 "));
    visitor.send(b"4\r\n6789\r\n").await;
    let rest = visitor.rest().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
    scene.logs(0, 200, Some(reason)).await;
    scene.counts(reason).await;
}
