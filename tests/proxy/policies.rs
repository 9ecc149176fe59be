//! What a request has to pass, and what is changed in it and in its answer.

use std::{num::NonZeroU32, sync::Arc};

use culvert::routing::{
    Access, Backend, ConcurrentRequests, Filter, HeaderRules, Matches, PathMatch, RateKey, Redirect, RedirectPath,
    RequestRate, Rule, RuleId, Scope,
};
use http::{HeaderName, HeaderValue, StatusCode, uri::Scheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    stage::{Answer, HOST, Options, Stage, backend, mirror, read_head, request, rule},
    support::accept,
};

/// So many that a share of one a second is none for the time of a test.
const REPLICAS: u32 = 100_000;

fn rate(burst: u32, per: RateKey, scope: Scope) -> Filter {
    let burst = NonZeroU32::new(burst).expect("a burst");
    Filter::RequestRate(Arc::new(RequestRate { scope, per_second: NonZeroU32::MIN, burst, per }))
}

fn field(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_static(value))
}

async fn get_from(stage: &Stage, visitor: &str) -> Answer {
    stage.send(&request("GET", "/", &format!("X-Forwarded-For: {visitor}\r\n"))).await
}

#[track_caller]
fn is_denied(answer: &Answer, status: u16, details: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    let cause = answer.header("proxy-status").expect("a cause");
    assert!(cause.starts_with("culvert; error=http_request_denied; ") && cause.contains(details), "{cause}");
}

#[tokio::test]
async fn only_allowed_addresses_come_in_and_a_visitor_cannot_make_one_up() {
    let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a network")).collect();
    let access = Access { allow: networks(&["203.0.113.0/24"]), deny: networks(&["203.0.113.9/32"]) };
    let rules = vec![rule(&[&mirror().await], vec![Filter::Access(Arc::new(access))])];
    let stage = Stage::start_with(Options::behind_proxy()).await;
    stage.serve_rules(rules.clone(), None);
    assert_eq!(get_from(&stage, "203.0.113.1").await.status, 200);
    is_denied(&get_from(&stage, "203.0.113.9").await, 403, "203.0.113.9");
    is_denied(&get_from(&stage, "192.0.2.1").await, 403, "192.0.2.1");

    let open = Stage::start().await;
    open.serve_rules(rules, None);
    is_denied(&get_from(&open, "203.0.113.1").await, 403, "127.0.0.1");
}

#[tokio::test]
async fn each_visitor_has_a_rate_that_outlasts_other_changes() {
    let target = mirror().await;
    let stage = Stage::start_with(Options::behind_proxy()).await;
    stage.proxy.set_replicas(REPLICAS);
    let limited = |burst| rule(&[&target], vec![rate(burst, RateKey::ClientIp, Scope::Host)]);
    stage.serve_rules(vec![limited(2 * REPLICAS)], None);
    for _ in 0..2 {
        assert_eq!(get_from(&stage, "203.0.113.1").await.status, 200);
    }
    let refused = get_from(&stage, "203.0.113.1").await;
    is_denied(&refused, 429, "a second");
    let wait: u32 = refused.header("retry-after").expect("when").parse().expect("seconds");
    assert!((REPLICAS - 1000..=REPLICAS).contains(&wait), "{wait}");
    assert_eq!(get_from(&stage, "203.0.113.2").await.status, 200);

    // Another change leaves it as it is; a change of its own begins it anew.
    stage.serve_rules(vec![limited(2 * REPLICAS), other_route(limited(1))], None);
    assert_eq!(get_from(&stage, "203.0.113.1").await.status, 429);
    stage.serve_rules(vec![limited(REPLICAS)], None);
    assert_eq!(get_from(&stage, "203.0.113.1").await.status, 200);
    assert_eq!(get_from(&stage, "203.0.113.1").await.status, 429);
}

/// The same for `/other`, with a limit of its own.
fn other_route(mut rule: Rule) -> Rule {
    rule.id = RuleId { route: 1, ..rule.id };
    rule.matches = Matches::path(PathMatch::prefix("/other"));
    for filter in &mut rule.filters {
        match filter {
            Filter::RequestRate(rate) => Arc::make_mut(rate).scope = Scope::Route(1),
            Filter::ConcurrentRequests(limit) => limit.scope = Scope::Route(1),
            _ => {}
        }
    }
    rule
}

#[tokio::test]
async fn a_route_with_a_limit_of_its_own_counts_by_itself() {
    let target = mirror().await;
    let stage = Stage::start().await;
    stage.proxy.set_replicas(REPLICAS);
    let of_host = rule(&[&target], vec![rate(1, RateKey::All, Scope::Host)]);
    stage.serve_rules(vec![other_route(of_host.clone()), of_host], None);
    assert_eq!(stage.get("/").await.status, 200);
    assert_eq!(stage.get("/").await.status, 429);
    assert_eq!(stage.get("/other").await.status, 200);
    assert_eq!(stage.get("/other").await.status, 429);
}

#[tokio::test]
async fn no_more_requests_and_joins_than_the_limit_are_in_progress() {
    let (listener, target) = crate::support::backend();
    let limit = Filter::ConcurrentRequests(ConcurrentRequests { scope: Scope::Host, most: 3 });
    let stage = Stage::start().await;
    // A share of two.
    stage.proxy.set_replicas(2);
    stage.serve_rules(vec![rule(&[&target], vec![limit])], None);

    let mut joined = stage.visit().await;
    let upgrade = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    joined.send(upgrade.as_bytes()).await;
    let mut join = accept(&listener).await;
    read_head(&mut join).await;
    join.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
        .await
        .expect("sent");
    assert_eq!(joined.answer().await.status, 101);

    let mut downloading = stage.visit().await;
    downloading.send(request("GET", "/", "").as_bytes()).await;
    let mut download = accept(&listener).await;
    read_head(&mut download).await;
    download.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha").await.expect("sent");
    assert!(read_head(&mut downloading.0).await.starts_with("HTTP/1.1 200 "));

    let refused = stage.get("/").await;
    is_denied(&refused, 429, "at a time");
    assert_eq!(refused.header("retry-after"), Some("1"));

    // The end of the download makes room, and then that of the join.
    download.write_all(b"lf").await.expect("sent");
    assert!(downloading.rest().await.ends_with(b"half"));
    drop(download);
    let mut waiting = stage.visit().await;
    waiting.send(request("GET", "/", "").as_bytes()).await;
    let mut held = accept(&listener).await;
    read_head(&mut held).await;
    assert_eq!(stage.get("/").await.status, 429);
    drop((joined, join));
    stage.edge.metric_becomes("culvert_active_joins{namespace=\"web\",tunnelhost=\"shop\"}", 0).await;
    let mut last = stage.visit().await;
    last.send(request("GET", "/", "").as_bytes()).await;
    read_head(&mut accept(&listener).await).await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_at_once_or_when_it_becomes_so() {
    let (listener, target) = crate::support::backend();
    let stage = Stage::start().await;
    stage.serve_rules(vec![rule(&[&target], vec![Filter::BodySize(8)])], None);

    // Said beforehand: nothing of it gets to the backend.
    let said = stage.send(&request("POST", "/", "Content-Length: 9\r\n")).await;
    is_denied(&said, 413, "8 bytes");

    // Found out on the way: the backend is freed.
    let mut visitor = stage.visit().await;
    visitor.send(request("POST", "/", "Transfer-Encoding: chunked\r\n").as_bytes()).await;
    visitor.send(b"8\r\n12345678\r\n").await;
    let mut backend = accept(&listener).await;
    let head = read_head(&mut backend).await;
    assert!(head.starts_with("POST / "), "{head}");
    visitor.send(b"1\r\n9\r\n").await;
    is_denied(&visitor.answer().await, 413, "8 bytes");
    let mut body = Vec::new();
    let _ = backend.read_to_end(&mut body).await;
    assert!(!String::from_utf8_lossy(&body).contains('9'), "{body:?}");

    // Exactly as large as it may be.
    stage.serve_rules(vec![rule(&[&mirror().await], vec![Filter::BodySize(8)])], None);
    let head = request("POST", "/", "Content-Length: 8\r\n");
    assert_eq!(stage.send(&format!("{head}12345678")).await.status, 200);
}

#[tokio::test]
async fn a_visitor_that_still_sends_gets_its_refusal_and_no_reset() {
    let stage = Stage::start().await;
    stage.serve_rules(vec![rule(&[&mirror().await], vec![Filter::BodySize(8)])], None);
    let mut visitor = stage.visit().await;
    let body = vec![b'x'; 8 << 20];
    visitor
        .send(request("POST", "/", &format!("Content-Length: {}\r\nConnection: close\r\n", body.len())).as_bytes())
        .await;
    // All of it, before the first look at the answer, as simple clients do.
    visitor.send(&body).await;
    is_denied(&visitor.answer().await, 413, "8 bytes");
    assert_eq!(visitor.rest().await, b"");
}

#[tokio::test]
async fn header_rules_remove_set_and_add_in_this_order() {
    let target = backend(|mut stream| async move {
        let head = read_head(&mut stream).await;
        // What the edge adds is no field of the backend's hop.
        let fields = "Connection: X-Frame-Options\r\nX-Powered-By: php\r\nX-Frame-Options: none\r\nVary: a\r\n";
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{fields}\r\n{head}", head.len());
        stream.write_all(answer.as_bytes()).await.expect("answered");
    })
    .await;
    let to_backend = HeaderRules {
        remove: vec![HeaderName::from_static("cookie")],
        set: vec![field("x-forwarded-user", "ada"), field("x-team", "a")],
        add: vec![field("x-team", "b")],
    };
    let to_visitor = HeaderRules {
        remove: vec![HeaderName::from_static("x-powered-by")],
        set: vec![field("x-frame-options", "DENY")],
        add: vec![field("vary", "b")],
    };
    let filters = vec![Filter::RequestHeaders(Arc::new(to_backend)), Filter::ResponseHeaders(Arc::new(to_visitor))];
    let stage = Stage::start().await;
    stage.serve_rules(vec![rule(&[&target], filters)], None);
    let answer =
        stage.send(&request("GET", "/", "Cookie: a=1\r\nX-Team: z\r\nX_Team: z\r\nX-Forwarded-User: root\r\n")).await;
    let seen = answer.body.to_ascii_lowercase();
    assert!(!seen.contains("cookie") && !seen.contains(": z\r\n") && !seen.contains("root"), "{seen}");
    assert!(
        ["x-team: a\r\n", "x-team: b\r\n", "x-forwarded-user: ada\r\n"].iter().all(|line| seen.contains(line)),
        "{seen}"
    );
    assert_eq!(answer.header("x-powered-by"), None);
    assert_eq!(answer.header("x-frame-options"), Some("DENY"));
    let head = answer.head.to_ascii_lowercase();
    assert!(head.contains("vary: a\r\n") && head.contains("vary: b\r\n"), "{head}");
}

#[tokio::test]
async fn header_rules_hold_for_every_spelling_that_cgi_takes_for_the_same() {
    let rules = HeaderRules {
        remove: vec![HeaderName::from_static("x_old_name"), HeaderName::from_static("x-team-secret")],
        set: vec![field("x-auth-role", "user"), field("x_plain_name", "edge")],
        add: Vec::new(),
    };
    let stage = Stage::start().await;
    stage.serve_rules(vec![rule(&[&mirror().await], vec![Filter::RequestHeaders(Arc::new(rules))])], None);
    for spelling in [
        "X-Auth-Role",
        "X_Auth_Role",
        "X-Auth_Role",
        "X_Auth-Role",
        "X_Old_Name",
        "X-Old-Name",
        "X-Old_Name",
        "X-Team-Secret",
        "X_Team_Secret",
        "X_Team-Secret",
        "X-Plain-Name",
        "X_Plain_Name",
        "X-Plain_Name",
    ] {
        let answer = stage.send(&request("GET", "/", &format!("{spelling}: forged\r\nX-Kept_Name: kept\r\n"))).await;
        let seen = answer.body.to_ascii_lowercase();
        assert!(!seen.contains("forged"), "{spelling}: {seen}");
        for present in ["x-auth-role: user\r\n", "x_plain_name: edge\r\n", "x-kept_name: kept\r\n"] {
            assert!(seen.contains(present), "{spelling}: {present} in {seen}");
        }
    }
}

#[tokio::test]
async fn what_header_rules_hold_does_not_come_as_a_trailer() {
    let target = backend(|mut stream| async move {
        let head = read_head(&mut stream).await.to_ascii_lowercase();
        assert!(head.contains("x-auth-role: user\r\n"), "{head}");
        let mut body = Vec::new();
        while !body.ends_with(b"\r\n\r\n") {
            body.push(stream.read_u8().await.expect("the whole body"));
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(answer.as_bytes()).await.expect("answered");
        stream.write_all(&body).await.expect("answered");
    })
    .await;
    let rules = HeaderRules {
        remove: vec![HeaderName::from_static("x-team")],
        set: vec![field("x-auth-role", "user")],
        add: vec![field("x-more", "edge")],
    };
    let stage = Stage::start().await;
    stage.serve_rules(vec![rule(&[&target], vec![Filter::RequestHeaders(Arc::new(rules))])], None);
    let names = ["X-Team", "x_team", "X-Auth-Role", "X_Auth-Role", "X-More", "X-Sum"];
    let trailers = names.map(|name| format!("{name}: visitor\r\n")).concat();
    let fields = format!("Transfer-Encoding: chunked\r\nTrailer: {}\r\n", names.join(", "));
    let answer = stage.send(&format!("{}2\r\nok\r\n0\r\n{trailers}\r\n", request("POST", "/", &fields))).await;
    let arrived = answer.body.to_ascii_lowercase();
    let trailers = arrived.strip_prefix("2\r\nok\r\n0\r\n").expect("the body");
    let mut trailers: Vec<&str> = trailers.split_terminator("\r\n").collect();
    trailers.sort_unstable();
    assert_eq!(trailers, ["", "x-more: visitor", "x-sum: visitor"]);
}

#[tokio::test]
async fn header_rules_hold_for_what_the_edge_adds_too() {
    let stage = Stage::start().await;
    let name = HeaderName::from_static;
    let changed = async |rules: HeaderRules| {
        stage.serve_rules(vec![rule(&[&mirror().await], vec![Filter::RequestHeaders(Arc::new(rules))])], None);
        stage.send(&request("GET", "/", "Via: 1.0 cache\r\n")).await.body.to_ascii_lowercase()
    };
    let set =
        HeaderRules { set: vec![field("x-request-id", "own"), field("via", "1.1 own")], ..HeaderRules::default() };
    let seen = changed(set).await;
    for (field, expected) in [("x-request-id: ", "x-request-id: own"), ("via: ", "via: 1.1 own")] {
        let lines: Vec<&str> = seen.lines().filter(|line| line.starts_with(field)).collect();
        assert_eq!(lines, [expected], "{seen}");
    }
    let remove = vec![name("x-request-id"), name("via"), name("x-forwarded-for")];
    let seen = changed(HeaderRules { remove, ..HeaderRules::default() }).await;
    assert!(["x-request-id:", "via:", "x-forwarded-for:"].iter().all(|field| !seen.contains(field)), "{seen}");
    let add = HeaderRules { add: vec![field("via", "1.1 more")], ..HeaderRules::default() };
    let seen = changed(add).await;
    assert!(seen.contains("via: 1.0 cache\r\nvia: 1.1 culvert\r\nvia: 1.1 more\r\n"), "{seen}");
}

#[tokio::test]
async fn over_plain_http_visitors_are_sent_to_tls_and_over_tls_told_to_stay() {
    let hsts = Filter::Hsts(HeaderValue::from_static("max-age=31536000"));
    let nobody = Filter::Access(Arc::new(Access {
        deny: vec!["203.0.113.9/32".parse().expect("a network")],
        ..Access::default()
    }));
    let filters = vec![Filter::RequireTls, nobody, hsts];
    let stage = Stage::start_with(Options::behind_proxy()).await;
    stage.serve_rules(vec![rule(&[&mirror().await], filters)], None);

    let answer = stage.send(&request("POST", "/a%2Fb?c=d&e", "Content-Length: 0\r\n")).await;
    assert_eq!(answer.status, 308);
    assert_eq!(answer.header("location"), Some("https://shop.example.com/a%2Fb?c=d&e"));
    assert_eq!(answer.header("strict-transport-security"), None);

    let over_tls = "X-Forwarded-Proto: https\r\n";
    let answer = stage.send(&request("GET", "/", over_tls)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000"));
    let refused = stage.send(&request("GET", "/", &format!("{over_tls}X-Forwarded-For: 203.0.113.9\r\n"))).await;
    assert_eq!(refused.status, 403);
    assert_eq!(refused.header("strict-transport-security"), Some("max-age=31536000"));

    let untrusting = Stage::start().await;
    untrusting.serve_rules(vec![rule(&[&mirror().await], vec![Filter::RequireTls])], None);
    assert_eq!(untrusting.send(&request("GET", "/", over_tls)).await.status, 308);
}

#[tokio::test]
async fn a_prefix_is_rewritten_and_the_rest_arrives_as_it_was_sent() {
    let stage = Stage::start().await;
    let mut rewriting = rule(&[&mirror().await], vec![Filter::ReplacePrefix("/v2".into())]);
    rewriting.matches = Matches::path(PathMatch::prefix("/api"));
    stage.serve_rules(vec![rewriting], None);
    for (path, arrives) in [("/api/a%2Fb//c?d=%20", "/v2/a%2Fb//c?d=%20"), ("/%61pi", "/v2"), ("/api?x", "/v2?x")] {
        let answer = stage.get(path).await;
        assert!(answer.body.starts_with(&format!("GET {arrives} HTTP/1.1\r\n")), "{}", answer.body);
    }
}

#[tokio::test]
async fn the_server_as_a_whole_has_no_prefix() {
    let stage = Stage::start().await;
    let target = mirror().await;
    stage.serve_rules(vec![rule(&[&target], vec![Filter::ReplacePrefix("/v2".into())])], None);
    let answer = stage.send(&request("OPTIONS", "*", "")).await;
    assert!(answer.body.starts_with("OPTIONS * HTTP/1.1\r\n"), "{}", answer.body);
}

#[tokio::test]
async fn what_cannot_be_rewritten_does_not_go_on_as_it_came() {
    let stage = Stage::start().await;
    let deep = Filter::ReplacePrefix(format!("/{}", "deep/".repeat(200)).into());
    stage.serve_rules(vec![rule(&[&mirror().await], vec![deep])], None);
    let answer = stage.get(&format!("/admin?{}", "x".repeat(65_000))).await;
    assert_eq!(answer.status, 400, "{}", answer.body);
}

#[tokio::test]
async fn a_redirect_needs_no_backend_but_passes_the_gate() {
    let stage = Stage::start().await;
    let mut elsewhere = rule(&["127.0.0.1:1"], Vec::new());
    elsewhere.backend = Backend::Redirect(Redirect {
        status: StatusCode::FOUND,
        scheme: Some(Scheme::HTTPS),
        hostname: Some("new.example.com".into()),
        port: None,
        path: Some(RedirectPath::ReplacePrefix("/x".into())),
    });
    stage.serve_rules(vec![elsewhere.clone()], None);
    let answer = stage.get("/a?b").await;
    assert_eq!((answer.status, answer.header("location")), (302, Some("https://new.example.com/x/a?b")));
    assert_eq!(answer.header("proxy-status"), None, "it is no error");
    let series = "culvert_requests_total{code=\"302\",method=\"GET\",namespace=\"web\",protocol=\"HTTP/1.1\",tunnelhost=\"shop\"}";
    stage.edge.metric_becomes(series, 1).await;

    let all = Access { deny: vec!["127.0.0.0/8".parse().expect("a network")], ..Access::default() };
    elsewhere.filters.push(Filter::Access(Arc::new(all)));
    stage.serve_rules(vec![elsewhere], None);
    assert_eq!(stage.get("/").await.status, 403);
}
