//! gRPC through the edge.

use std::time::Duration;

use bytes::Bytes;
use culvert::routing::Protocol;
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::{any, http2_backend, speaks, streamed};
use crate::{
    secure::{Body, Http2Visitor, Made, Secure, empty, full},
    stage::HOST,
    support::PATIENCE,
};

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
