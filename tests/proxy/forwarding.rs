use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use culvert::{
    routing::{BasicAuth, Filter, Password, User},
    tunnel::{self, IncomingEvent, RefuseCode},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    stage::{HOST, Options, Stage, backend, mirror, read_head, rule},
    support::PATIENCE,
};

#[tokio::test]
async fn requests_of_one_visitor_share_a_backend_connection() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let target = backend(move |mut stream| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            while !read_head(&mut stream).await.is_empty() {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.expect("answered");
            }
        }
    })
    .await;
    // However many sessions the agent has: the turn of a new link is another one's, an idle connection is anybody's.
    let stage = Stage::start_with(Options { connections: 3, ..Options::default() }).await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;
    for _ in 0..20 {
        visitor.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await;
        assert_eq!(visitor.answer().await.body, "ok");
    }
    for _ in 0..5 {
        assert_eq!(stage.get("/").await.body, "ok");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_backend_hears_who_the_visitor_is_and_no_hop_by_hop_field() {
    let stage = Stage::start().await;
    stage.serve(&[&mirror().await]);
    let answer = stage
        .send(&format!(
            "GET /a?b=c HTTP/1.1\r\nHost: {HOST}\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 1\r\n\
             X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Kept: 1\r\n\r\n"
        ))
        .await;
    let seen = answer.body.to_ascii_lowercase();
    assert!(seen.starts_with("get /a?b=c http/1.1\r\n"), "{seen}");
    for present in
        ["host: shop.example.com\r\n", "x-forwarded-for: 127.0.0.1\r\n", "x-forwarded-proto: http\r\n", "x-kept: 1"]
    {
        assert!(seen.contains(present), "{present} in {seen}");
    }
    for absent in ["x-hop", "keep-alive", "10.0.0.1", "connection:"] {
        assert!(!seen.contains(absent), "{absent} in {seen}");
    }
}

#[tokio::test]
async fn an_upload_and_its_answer_run_at_the_same_time() {
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.expect("answered");
        // Each chunk of the upload is answered before the next one is sent.
        let mut chunk = [0; 6];
        for _ in 0..10 {
            stream.read_exact(&mut chunk).await.expect("a chunk");
            stream.write_all(&chunk).await.expect("answered");
        }
        let mut end = [0; 5];
        stream.read_exact(&mut end).await.expect("the end");
        stream.write_all(&end).await.expect("answered");
    })
    .await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;
    visitor.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n").as_bytes()).await;
    assert!(read_head(&mut visitor.0).await.starts_with("HTTP/1.1 200"));
    for _ in 0..10 {
        visitor.send(b"1\r\nx\r\n").await;
        let mut chunk = [0; 6];
        visitor.0.read_exact(&mut chunk).await.expect("the answer to this chunk");
        assert_eq!(&chunk, b"1\r\nx\r\n");
    }
    visitor.send(b"0\r\n\r\n").await;
    let mut end = [0; 5];
    visitor.0.read_exact(&mut end).await.expect("the end");
    assert_eq!(&end, b"0\r\n\r\n");
}

#[tokio::test]
async fn targets_take_turns() {
    let named = |name: &'static str| {
        backend(move |mut stream| async move {
            while !read_head(&mut stream).await.is_empty() {
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}");
                stream.write_all(answer.as_bytes()).await.expect("answered");
            }
        })
    };
    let (a, b) = (named("a").await, named("b").await);
    let stage = Stage::start().await;
    stage.serve(&[&a, &b]);
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push(stage.get("/").await.body);
    }
    assert_eq!(answers.iter().filter(|answer| **answer == "a").count(), 3, "{answers:?}");
}

#[tokio::test]
async fn a_target_that_refuses_is_passed_over() {
    let (listener, refusing) = crate::support::backend();
    drop(listener);
    let stage = Stage::start().await;
    stage.serve(&[&refusing, &mirror().await]);
    for _ in 0..4 {
        assert_eq!(stage.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn a_connection_that_the_backend_closed_meanwhile_costs_no_request() {
    let target = backend(|mut stream| async move {
        // One request a connection, though it does not say so.
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.expect("answered");
    })
    .await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    for _ in 0..20 {
        assert_eq!(stage.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn a_protected_host_lets_in_who_knows_the_password() {
    let stage = Stage::start().await;
    let users = vec![User { name: "ada".into(), password: Password::Plain("lovelace".into()) }];
    let auth = Filter::BasicAuth(Arc::new(BasicAuth { realm: "Shop".into(), users }));
    stage.serve_rules(vec![rule(&[&mirror().await], vec![auth])], None);
    let answer = stage.get("/").await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"Shop\", charset=\"UTF-8\""));
    let request = |credentials| {
        format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Basic {credentials}\r\nConnection: close\r\n\r\n")
    };
    assert_eq!(stage.send(&request("YWRhOndyb25n")).await.status, 401);
    let answer = stage.send(&request("YWRhOmxvdmVsYWNl")).await;
    assert_eq!(answer.status, 200);
    assert!(!answer.body.to_ascii_lowercase().contains("authorization"), "{}", answer.body);
}

#[tokio::test]
async fn no_more_requests_than_the_agents_limit_are_in_progress() {
    let (listener, target) = crate::support::backend();
    let stage = Stage::start().await;
    stage.serve_rules(vec![rule(&[&target], Vec::new())], Some(1));
    let mut first = stage.visit().await;
    first.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await;
    let mut held = crate::support::accept(&listener).await;
    read_head(&mut held).await;

    let answer = stage.get("/").await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(answer.header("proxy-status").expect("a cause").contains("http_request_denied"));

    held.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.expect("answered");
    assert_eq!(first.answer().await.body, "ok");
    stage.edge.metric_becomes("culvert_agent_connections{agent=\"lab\",namespace=\"web\"}", 0).await;
    stage.serve_rules(vec![rule(&[&mirror().await], Vec::new())], Some(1));
    assert_eq!(stage.get("/").await.status, 200);
}

#[tokio::test]
async fn a_visitor_who_leaves_frees_the_backend() {
    let (listener, target) = crate::support::backend();
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;
    visitor.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await;
    let mut held = crate::support::accept(&listener).await;
    read_head(&mut held).await;
    drop(visitor);
    let left = held.read(&mut [0]).await;
    assert!(matches!(left, Ok(0) | Err(_)), "{left:?}");
    let series = "culvert_requests_total{code=\"499\",method=\"GET\",namespace=\"web\",protocol=\"HTTP/1.1\",tunnelhost=\"shop\"}";
    stage.edge.metric_becomes(series, 1).await;
}

#[tokio::test]
async fn a_visitor_cannot_name_what_the_edge_says_as_its_own_hops() {
    let stage = Stage::start().await;
    stage.serve(&[&mirror().await]);
    let answer = stage
        .send(&format!(
            "GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close, X-Forwarded-For, X-Forwarded-Proto, X-Request-Id\r\n\
             X-Forwarded-User: root\r\nX_Forwarded_User: root\r\n\r\n"
        ))
        .await;
    let seen = answer.body.to_ascii_lowercase();
    for present in ["x-forwarded-for: 127.0.0.1\r\n", "x-forwarded-proto: http\r\n", "x-request-id: "] {
        assert!(seen.contains(present), "{present} in {seen}");
    }
    assert!(!seen.contains("root"), "{seen}");
}

#[tokio::test]
async fn a_chunked_body_of_a_get_arrives() {
    let target = backend(|mut stream| async move {
        let head = read_head(&mut stream).await.to_ascii_lowercase();
        assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
        let mut body = [0; 15];
        stream.read_exact(&mut body).await.expect("the body");
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{}", String::from_utf8_lossy(&body));
        stream.write_all(answer.as_bytes()).await.expect("answered");
    })
    .await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let answer = stage
        .send(&format!(
            "GET / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        ))
        .await;
    assert_eq!((answer.status, &*answer.body), (200, "5\r\nhello\r\n0\r\n\r\n"));
}

/// Rounds of requests at the same time, each of which must be answered.
async fn all_answered(stage: &Stage, parallel: usize) {
    for _ in 0..5 {
        let mut requests = tokio::task::JoinSet::new();
        for _ in 0..parallel {
            let http = stage.http;
            requests.spawn(async move { crate::stage::get(http, "/").await.status });
        }
        let statuses = requests.join_all().await;
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        // The place of a request is free a moment after its last byte.
        stage.edge.metric_becomes("culvert_agent_connections{agent=\"lab\",namespace=\"web\"}", 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_target_costs_no_request_under_load() {
    let (listener, refusing) = crate::support::backend();
    drop(listener);
    let stage = Stage::start().await;
    stage.serve(&[&refusing, &mirror().await]);
    all_answered(&stage, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_may_not_connect_costs_no_request_even_at_the_limit() {
    let stage = Stage::start().await;
    let _idle = stage.edge.agent(&["127.0.0.1:1"]);
    stage.edge.sessions(|sessions| sessions.len() == 2).await;
    let target = mirror().await;
    stage.serve(&[&target]);
    all_answered(&stage, 12).await;
    stage.serve_rules(vec![rule(&[&target], Vec::new())], Some(1));
    all_answered(&stage, 1).await;
}

#[tokio::test]
async fn connect_and_trace_are_not_forwarded() {
    let stage = Stage::start().await;
    stage.serve(&[&mirror().await]);
    for request in [format!("CONNECT {HOST}:443 HTTP/1.1"), "TRACE / HTTP/1.1".to_owned()] {
        let answer = stage.send(&format!("{request}\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(answer.status, 405);
        assert!(answer.header("allow").is_some());
    }
}

#[tokio::test]
async fn an_edge_that_stops_does_not_wait_for_idle_connections() {
    let stage = Stage::start().await;
    stage.serve(&[&mirror().await]);
    assert_eq!(stage.get("/").await.status, 200);
    let session = stage.edge.session().await;
    assert_eq!(session.links(), 1, "a pooled link");
    stage.stop.cancel();
    crate::stage::becomes("the pooled link ends with the proxy", || session.links() == 0).await;
}

#[tokio::test]
async fn an_agent_hears_whose_link_it_is_where_that_is_one_visitors() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut stage = Stage::start().await;
    let (_session, mut incoming) = stage.agent_by_hand(tunnel::Config::default()).await;
    stage.serve(&["127.0.0.1:1"]);
    for (fields, traceparent) in [
        ("Connection: upgrade\r\nUpgrade: echo\r\n", Some(TRACE)),
        ("Connection: upgrade\r\nUpgrade: echo\r\n", None),
        ("", Some(TRACE)),
    ] {
        let of_one = !fields.is_empty();
        let trace = traceparent.map(|trace| format!("Traceparent: {trace}\r\n")).unwrap_or_default();
        let mut visitor = stage.visit().await;
        visitor.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{fields}{trace}\r\n").as_bytes()).await;
        let opening = loop {
            match timeout(PATIENCE, incoming.next()).await.expect("in time").expect("a session") {
                IncomingEvent::Open(opening) => break opening,
                IncomingEvent::Note(_) => {}
            }
        };
        assert_eq!(opening.request.traceparent.as_deref(), traceparent.filter(|_| of_one));
        assert_eq!(opening.request.request_id.is_some(), of_one);
        assert_eq!(opening.request.visitor.is_some(), of_one);
        opening.refuse(RefuseCode::Refused, "nobody is at home");
        let answer = visitor.answer().await;
        assert_eq!(answer.status, 502, "{answer:?}");
    }
}
