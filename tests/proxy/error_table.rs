//! What is told of each fault: to the visitor, in the access log and in the metrics, of one cause. The faults are real ones.

use std::{sync::Arc, time::Duration};

use culvert::{
    proxy,
    routing::{
        Access, Backend, BasicAuth, ConcurrentRequests, Filter, Matches, Password, PathMatch, RateKey, RequestRate,
        Rule, Scope, Timeouts, User,
    },
    telemetry::access_log::{AccessLogFormat, AccessLogWriter},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{
    access_log::Written,
    secure::{Made, Secure, client},
    stage::{Answer, HOST, Options, Stage, backend, mirror, read_head, request, rule},
    support::{PATIENCE, accept},
};

/// A stage with an access log.
struct Scene {
    stage: Stage,
    written: Written,
    _writer: AccessLogWriter,
}

impl Scene {
    async fn new() -> Self {
        Self::with(Options::default()).await
    }

    async fn with(options: Options) -> Self {
        let (options, written, writer) = Written::log(AccessLogFormat::Json, options);
        Self { stage: Stage::start_with(options).await, written, _writer: writer }
    }

    /// One that serves this target.
    async fn of(target: &str) -> Self {
        let scene = Self::new().await;
        scene.stage.serve(&[target]);
        scene
    }

    fn serve(&self, targets: &[&str], change: impl FnOnce(&mut Rule)) {
        let mut rule = rule(targets, Vec::new());
        change(&mut rule);
        self.stage.serve_rules(vec![rule], None);
    }

    /// The visitor is told this status and error, the log's last line and the metrics tell the same.
    async fn tells(&self, line: usize, answer: &Answer, status: u16, error: Option<&str>, reason: &str) {
        assert_eq!(answer.status, status, "{answer:?}");
        let cause = answer.header("proxy-status").expect("Proxy-Status");
        let expected =
            error.map_or("culvert; details=\"".to_owned(), |error| format!("culvert; error={error}; details=\""));
        assert!(cause.starts_with(&expected), "{cause}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        let problem: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(problem["status"], status);

        let line = self.logs(line, status, Some(reason)).await;
        assert_eq!(line["sent"], answer.body.len());
        for id in [answer.header("x-request-id"), problem["requestId"].as_str()] {
            assert_eq!(line["request_id"].as_str(), id);
        }
        self.counts(reason).await;
    }

    /// That line of the log says so, and the requests' metric with it.
    async fn logs(&self, line: usize, status: u16, reason: Option<&str>) -> Value {
        let line = self.written.json(line).await;
        assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(status.into()), reason), "{line}");
        let (namespace, name) = line["tunnelhost"].as_str().and_then(|name| name.split_once('/')).unwrap_or_default();
        let method = match line["method"].as_str() {
            Some(method @ ("GET" | "POST" | "TRACE")) => method,
            other => panic!("{other:?}"),
        };
        let series = format!(
            "culvert_requests_total{{code=\"{status}\",method=\"{method}\",namespace=\"{namespace}\",protocol=\"HTTP/1.1\",tunnelhost=\"{name}\"}}"
        );
        self.stage.edge.metric_becomes(&series, 1).await;
        line
    }

    async fn counts(&self, reason: &str) {
        self.stage.edge.metric_becomes(&format!("culvert_errors_total{{reason=\"{reason}\"}}"), 1).await;
    }
}

// === Nothing to serve it ===

#[tokio::test]
async fn nobody_has_the_host() {
    let scene = Scene::new().await;
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 404, Some("destination_not_found"), "unknown_host").await;
}

#[tokio::test]
async fn no_route_matches() {
    let scene = Scene::new().await;
    scene.serve(&["127.0.0.1:1"], |rule| rule.matches = Matches::path(PathMatch::exact("/a")));
    let answer = scene.stage.get("/b").await;
    scene.tells(0, &answer, 404, Some("destination_not_found"), "no_route").await;
}

#[tokio::test]
async fn the_route_is_misconfigured() {
    let scene = Scene::new().await;
    scene.serve(&["127.0.0.1:1"], |rule| rule.backend = Backend::Invalid("no Secret visitors".into()));
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 500, Some("proxy_configuration_error"), "misconfigured").await;
}

#[tokio::test]
async fn no_agent_has_a_session() {
    let mut scene = Scene::of(&mirror().await).await;
    scene.stage.agent.take().expect("an agent").stop().await;
    scene.stage.edge.sessions(|sessions| sessions.is_empty()).await;
    let answer = scene.stage.get("/").await;
    assert_eq!(answer.header("retry-after"), Some("1"));
    scene.tells(0, &answer, 503, Some("destination_unavailable"), "no_session").await;
}

// === The request ===

#[tokio::test]
async fn the_host_is_malformed() {
    let scene = Scene::new().await;
    let answer = scene.stage.send("GET / HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n").await;
    scene.tells(0, &answer, 400, Some("http_request_error"), "bad_host").await;
}

#[tokio::test]
async fn the_path_leads_elsewhere() {
    let scene = Scene::of("127.0.0.1:1").await;
    let answer = scene.stage.get("/a/%2e%2e/b").await;
    scene.tells(0, &answer, 400, Some("http_request_error"), "bad_path").await;
}

#[tokio::test]
async fn the_method_is_not_forwarded() {
    let scene = Scene::of("127.0.0.1:1").await;
    let answer = scene.stage.send(&request("TRACE", "/", "")).await;
    scene.tells(0, &answer, 405, Some("http_request_error"), "method").await;
}

#[tokio::test]
async fn the_upload_stands_still() {
    let target = backend(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let scene = Scene::new().await;
    scene.serve(&[&target], |rule| rule.timeouts.response_head = Duration::from_millis(300));
    let mut visitor = scene.stage.visit().await;
    visitor.send(format!("{}half", request("POST", "/", "Content-Length: 8\r\n")).as_bytes()).await;
    let answer = visitor.answer().await;
    scene.tells(0, &answer, 408, Some("http_request_error"), "request_timeout").await;
}

#[tokio::test]
async fn the_heads_rest_does_not_come() {
    let mut options = Options::default();
    options.config = proxy::Config { header_timeout: Duration::from_millis(300), ..options.config };
    let scene = Scene::with(options).await;
    let mut visitor = scene.stage.visit().await;
    visitor.send(b"GET / HTTP/1.1\r\nHost: sho").await;
    let answer = visitor.answer().await;
    assert_eq!(answer.status, 408);
    assert!(answer.header("proxy-status").expect("a cause").starts_with("culvert; error=http_request_error; "));
    scene.counts("head_timeout").await;
    assert!(visitor.rest().await.is_empty());
}

#[tokio::test]
async fn over_tls_the_same_is_told() {
    let mut options = Options::default();
    options.config = proxy::Config { header_timeout: Duration::from_millis(500), ..options.config };
    let (options, written, _writer) = Written::log(AccessLogFormat::Json, options);
    let secure = Secure::start_with(options, None).await;
    let made = Made::new(&[HOST]);
    let hsts = Filter::Hsts("max-age=1".parse().expect("a value"));
    secure.serve(vec![rule(&["127.0.0.1:1"], vec![Filter::RequireTls, hsts])], &[(HOST, &made.secret("shop"))]);

    let mut visitor = secure.connect(client(&[&made], &[]), HOST).await.expect("a handshake");
    visitor.write_all(b"GET / HTTP/1.1\r\nHost: sho").await.expect("sent");
    let mut answer = String::new();
    timeout(PATIENCE, visitor.read_to_string(&mut answer)).await.expect("in time").expect("an end in order");
    assert!(
        answer.starts_with("HTTP/1.1 408 ") && answer.contains("Proxy-Status: culvert; error=http_request_error; "),
        "{answer}"
    );

    for (host, status, reason) in [(HOST, 502, "backend_refused"), ("elsewhere.example.com", 421, "misdirected")] {
        let mut visitor = secure.connect(client(&[&made], &[]), HOST).await.expect("a handshake");
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        visitor.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        timeout(PATIENCE, visitor.read_to_string(&mut answer)).await.expect("in time").expect("an end in order");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert_eq!(
            answer.to_ascii_lowercase().contains("\r\nstrict-transport-security: max-age=1\r\n"),
            host == HOST,
            "{answer}"
        );
        let line = written.json(usize::from(host != HOST)).await;
        assert_eq!((line["reason"].as_str(), line["tls"].as_str()), (Some(reason), Some("TLSv1.3")), "{line}");
    }
}

#[tokio::test]
async fn the_head_is_too_large() {
    let mut options = Options::default();
    options.config = proxy::Config { max_headers: 3, max_header_bytes: 10_000, ..options.config };
    let scene = Scene::with(options).await;
    let answer = scene.stage.send(&request("GET", "/", "A: 1\r\nB: 2\r\n")).await;
    assert_eq!(answer.status, 431);
    scene.counts("head_too_large").await;
    let mut visitor = scene.stage.visit().await;
    visitor.send(request("GET", "/", &format!("A: {}\r\n", "x".repeat(9_950))).as_bytes()).await;
    let all = visitor.rest().await;
    assert!(all.is_empty() || all.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&all));
    scene.stage.edge.metric_becomes("culvert_errors_total{reason=\"head_too_large\"}", 2).await;
}

#[tokio::test]
async fn a_connection_without_a_request_ends_in_silence() {
    let mut options = Options::default();
    options.config = proxy::Config { idle_timeout: Duration::from_millis(300), ..options.config };
    let scene = Scene::with(options).await;
    scene.stage.serve(&[&mirror().await]);
    let mut unused = scene.stage.visit().await;
    let mut used = scene.stage.visit().await;
    used.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await;
    assert_eq!(used.answer().await.status, 200);
    assert!(unused.rest().await.is_empty() && used.rest().await.is_empty());
    assert_eq!(scene.stage.edge.metric("culvert_errors_total{reason=\"head_timeout\"}"), 0);
}

#[tokio::test]
async fn there_are_too_many_connections() {
    let mut options = Options::default();
    options.config = proxy::Config { max_connections: Some(1), ..options.config };
    let scene = Scene::with(options).await;
    scene.stage.serve(&[&mirror().await]);
    let mut first = scene.stage.visit().await;
    first.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await;
    assert_eq!(first.answer().await.status, 200);
    assert!(scene.stage.visit().await.rest().await.is_empty());
    scene.counts("too_many_connections").await;
}

// === Policies ===

#[tokio::test]
async fn credentials_are_wrong() {
    let scene = Scene::new().await;
    let users = vec![User { name: "ada".into(), password: Password::Plain("lovelace".into()) }];
    let auth = Filter::BasicAuth(Arc::new(BasicAuth { realm: "Shop".into(), users }));
    scene.serve(&["127.0.0.1:1"], |rule| rule.filters.push(auth));
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 401, None, "unauthorized").await;
}

#[tokio::test]
async fn the_address_is_denied() {
    let scene = Scene::new().await;
    let access = Access { deny: vec!["127.0.0.0/8".parse().expect("a network")], ..Access::default() };
    scene.serve(&["127.0.0.1:1"], |rule| rule.filters.push(Filter::Access(Arc::new(access))));
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 403, Some("http_request_denied"), "access_denied").await;
}

#[tokio::test]
async fn the_rate_is_used_up() {
    let scene = Scene::new().await;
    let one = std::num::NonZeroU32::MIN;
    let rate = RequestRate { scope: Scope::Host, per_second: one, burst: one, per: RateKey::ClientIp };
    scene.stage.proxy.set_replicas(1000);
    scene.serve(&[&mirror().await], |rule| rule.filters.push(Filter::RequestRate(Arc::new(rate))));
    assert_eq!(scene.stage.get("/").await.status, 200);
    let answer = scene.stage.get("/").await;
    scene.tells(1, &answer, 429, Some("http_request_denied"), "request_rate").await;
}

#[tokio::test]
async fn too_many_requests_are_in_progress() {
    let scene = Scene::new().await;
    let none = ConcurrentRequests { scope: Scope::Host, most: 0 };
    scene.serve(&["127.0.0.1:1"], |rule| rule.filters.push(Filter::ConcurrentRequests(none)));
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 429, Some("http_request_denied"), "concurrent_requests").await;
}

#[tokio::test]
async fn the_body_is_too_large() {
    let scene = Scene::new().await;
    scene.serve(&["127.0.0.1:1"], |rule| rule.filters.push(Filter::BodySize(8)));
    let answer = scene.stage.send(&request("POST", "/", "Content-Length: 9\r\n")).await;
    scene.tells(0, &answer, 413, Some("http_request_denied"), "body_size").await;
}

#[tokio::test]
async fn the_agents_limit_is_reached() {
    let scene = Scene::new().await;
    scene.stage.serve_rules(vec![rule(&["127.0.0.1:1"], Vec::new())], Some(0));
    let answer = scene.stage.get("/").await;
    assert_eq!(answer.header("retry-after"), Some("1"));
    scene.tells(0, &answer, 429, Some("http_request_denied"), "connection_limit").await;
}

// === The way to the backend ===

#[tokio::test]
async fn the_agent_may_not_go_there() {
    let scene = Scene::with(Options { allow: &["127.0.0.1:1"], ..Options::default() }).await;
    scene.stage.serve(&[&mirror().await]);
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 502, Some("connection_refused"), "target_not_allowed").await;
}

#[tokio::test]
async fn the_backend_refuses() {
    let (listener, target) = crate::support::backend();
    drop(listener);
    let scene = Scene::of(&target).await;
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 502, Some("connection_refused"), "backend_refused").await;
}

#[tokio::test]
async fn the_backends_name_leads_nowhere() {
    let scene = Scene::with(Options { allow: &["nowhere.invalid:80"], ..Options::default() }).await;
    scene.stage.serve(&["nowhere.invalid:80"]);
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 502, Some("destination_ip_unroutable"), "backend_unreachable").await;
}

#[tokio::test]
async fn the_backend_takes_no_connection() {
    // Nobody accepts, and its backlog is full.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let listener = socket.listen(1).expect("a listener");
    let address = listener.local_addr().expect("its address");
    let mut filling = Vec::new();
    while let Ok(connected) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        filling.push(connected.expect("a connection"));
    }
    let scene = Scene::new().await;
    scene.serve(&[&address.to_string()], |rule| rule.timeouts.connect = Duration::from_millis(300));
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 504, Some("connection_timeout"), "connect_timeout").await;
}

#[tokio::test]
async fn the_session_is_lost_before_the_response() {
    let (listener, target) = crate::support::backend();
    let scene = Scene::of(&target).await;
    let mut visitor = scene.stage.visit().await;
    visitor.send(request("POST", "/", "Content-Length: 0\r\n").as_bytes()).await;
    let mut held = accept(&listener).await;
    read_head(&mut held).await;
    // Removing its credential ends the agent's session at once.
    scene.stage.edge.agents.send_replace(Arc::default());
    let answer = visitor.answer().await;
    scene.tells(0, &answer, 502, Some("connection_terminated"), "session_lost").await;
}

// === The response ===

#[tokio::test]
async fn the_backend_closes_without_an_answer() {
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
    })
    .await;
    let scene = Scene::of(&target).await;
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 502, Some("connection_terminated"), "backend_closed").await;
}

#[tokio::test]
async fn the_backend_resets() {
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
        stream.set_zero_linger().expect("a reset");
    })
    .await;
    let scene = Scene::of(&target).await;
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 502, Some("connection_terminated"), "backend_closed").await;
}

#[tokio::test]
async fn the_backend_says_nothing() {
    let target = backend(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let scene = Scene::new().await;
    scene.serve(&[&target], |rule| rule.timeouts.response_head = Duration::from_millis(300));
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 504, Some("http_response_timeout"), "response_timeout").await;
}

/// A backend that answers each request with these bytes, and then waits for its peer's end.
async fn answering(bytes: impl Into<Vec<u8>>) -> String {
    let bytes: Arc<Vec<u8>> = Arc::new(bytes.into());
    backend(move |mut stream| {
        let bytes = bytes.clone();
        async move {
            read_head(&mut stream).await;
            // The edge may have read enough before the end.
            let _ = stream.write_all(&bytes).await;
            let _ = stream.read(&mut [0]).await;
        }
    })
    .await
}

#[tokio::test]
async fn the_backend_speaks_no_http() {
    let scene = Scene::of(&answering("220 mail.example.com ESMTP\r\n\r\n").await).await;
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 502, Some("http_protocol_error"), "invalid_response").await;
}

#[tokio::test]
async fn the_responses_head_is_too_large() {
    let head = format!("HTTP/1.1 200 OK\r\nX-Large: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(70_000));
    let scene = Scene::of(&answering(head).await).await;
    let answer = scene.stage.get("/").await;
    scene.tells(0, &answer, 502, Some("http_response_header_section_size"), "response_head_too_large").await;
}

#[tokio::test]
async fn the_backend_closes_within_its_body() {
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await.expect("answered");
    })
    .await;
    let scene = Scene::of(&target).await;
    let mut visitor = scene.stage.visit().await;
    visitor.send(request("GET", "/", "").as_bytes()).await;
    assert!(visitor.rest().await.ends_with(b"\r\n\r\nhalf"));
    let line = scene.logs(0, 200, Some("backend_closed")).await;
    assert_eq!((&line["sent"], &line["backend_status"]), (&Value::from(4), &Value::from(200)));
    scene.counts("backend_closed").await;
}

#[tokio::test]
async fn the_agent_is_lost_within_a_body() {
    let (listener, target) = crate::support::backend();
    let scene = Scene::of(&target).await;
    let mut visitor = scene.stage.visit().await;
    visitor.send(request("GET", "/", "").as_bytes()).await;
    let mut held = accept(&listener).await;
    read_head(&mut held).await;
    held.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await.expect("sent");
    assert!(read_head(&mut visitor.0).await.starts_with("HTTP/1.1 200 "));
    scene.stage.edge.agents.send_replace(Arc::default());
    let rest = visitor.rest().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{}", String::from_utf8_lossy(&rest));
    scene.logs(0, 200, Some("session_lost")).await;
    scene.counts("session_lost").await;
}

#[tokio::test]
async fn the_body_stops_coming() {
    let scene = Scene::new().await;
    let target = answering("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
    let timeouts = Timeouts { stream_idle: Duration::from_millis(300), ..Timeouts::default() };
    scene.serve(&[&target], |rule| rule.timeouts = timeouts);
    let mut visitor = scene.stage.visit().await;
    visitor.send(request("GET", "/", "").as_bytes()).await;
    assert!(visitor.rest().await.ends_with(b"\r\n\r\nhalf"));
    scene.logs(0, 200, Some("stream_idle")).await;
    scene.counts("stream_idle").await;
}

// === The visitor ===

#[tokio::test]
async fn the_visitor_leaves_before_the_response() {
    let (listener, target) = crate::support::backend();
    let scene = Scene::of(&target).await;
    let mut visitor = scene.stage.visit().await;
    visitor.send(request("GET", "/", "").as_bytes()).await;
    let mut held = accept(&listener).await;
    read_head(&mut held).await;
    drop(visitor);
    scene.logs(0, 499, Some("visitor_left")).await;
}

#[tokio::test]
async fn the_visitor_leaves_during_the_response() {
    let (listener, target) = crate::support::backend();
    let scene = Scene::of(&target).await;
    let mut visitor = scene.stage.visit().await;
    visitor.send(request("GET", "/", "").as_bytes()).await;
    let mut held = accept(&listener).await;
    read_head(&mut held).await;
    held.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await.expect("sent");
    assert!(read_head(&mut visitor.0).await.starts_with("HTTP/1.1 200 "));
    drop(visitor);
    scene.logs(0, 200, Some("visitor_left")).await;
}

#[tokio::test]
async fn the_visitor_takes_nothing_for_as_long_as_its_rule_allows() {
    let target = backend(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n").await;
        while stream.write_all(&[7; 1 << 14]).await.is_ok() {}
    })
    .await;
    let scene = Scene::new().await;
    scene.serve(&[&target], |rule| rule.timeouts.stream_idle = Duration::from_millis(500));
    let mut visitor = scene.stage.visit().await;
    visitor.send(request("GET", "/", "").as_bytes()).await;
    scene.counts("visitor_stalled").await;
    scene.logs(0, 200, Some("visitor_stalled")).await;
}

// === The form of an answer ===

#[tokio::test]
async fn an_answer_has_the_form_that_was_asked_for() {
    let stage = Stage::start().await;
    let browser = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n";
    let page = stage.send(&request("GET", "/", browser)).await;
    assert_eq!((page.status, page.header("content-type")), (404, Some("text/html; charset=utf-8")));
    assert!(page.body.starts_with("<!doctype html>"), "{}", page.body);

    let mut visitor = stage.visit().await;
    visitor.send(request("HEAD", "/", browser).as_bytes()).await;
    let head = String::from_utf8(visitor.rest().await).expect("text").to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 404 ") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(head.contains(&format!("content-length: {}\r\n", page.body.len())), "{head}");
}
