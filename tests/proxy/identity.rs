//! What backends are told of visitors, and visitors of the way.

use culvert::proxy;

use crate::stage::{Options, Stage, mirror, request};

/// The fields of that name that the backend got, as it showed them.
fn got(seen: &str, name: &str) -> Vec<String> {
    let lines = seen.lines().skip(1).filter_map(|line| line.split_once(": "));
    lines.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).collect()
}

#[tokio::test]
async fn a_visitor_cannot_say_who_it_is() {
    let stage = Stage::start().await;
    stage.serve(&[&mirror().await]);
    let forged = "X-Forwarded-For: 10.0.0.1\r\nX_Forwarded_For: 10.0.0.1\r\nX-Forwarded-User: root\r\nX-Real-IP: 10.0.0.1\r\n\
                  True-Client-IP: 10.0.0.1\r\nCF-Connecting-IP: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\nProxy: evil\r\n\
                  X-Forwarded-Proto: https\r\nX-Request-Id: mine\r\nX-Kept: 1\r\n";
    let seen = stage.send(&request("GET", "/", forged)).await.body;
    for (name, expected) in [
        ("x-forwarded-for", &["127.0.0.1"][..]),
        ("x-real-ip", &["127.0.0.1"]),
        ("x-forwarded-proto", &["http"]),
        ("x-forwarded-host", &["shop.example.com"]),
        ("x-forwarded-port", &["80"]),
        ("via", &["1.1 culvert"]),
        ("x-kept", &["1"]),
        ("x_forwarded_for", &[]),
        ("x-forwarded-user", &[]),
        ("true-client-ip", &[]),
        ("cf-connecting-ip", &[]),
        ("forwarded", &[]),
        ("proxy", &[]),
    ] {
        assert_eq!(got(&seen, name), expected, "{name} in {seen}");
    }
    let id = got(&seen, "x-request-id");
    assert!(id.len() == 1 && id[0].len() == 32, "{id:?}");
}

#[tokio::test]
async fn a_trusted_proxys_word_is_continued() {
    let mut options = Options::behind_proxy();
    options.config = proxy::Config { forwarded: true, ..options.config };
    let stage = Stage::start_with(options).await;
    stage.serve(&[&mirror().await]);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let said = format!(
        "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Request-Id: theirs\r\nVia: 2 front\r\n\
         Traceparent: {trace}\r\n"
    );
    let seen = stage.send(&request("GET", "/", &said)).await.body;
    for (name, expected) in [
        ("x-forwarded-for", &["203.0.113.9, 127.0.0.1"][..]),
        ("x-real-ip", &["203.0.113.9"]),
        ("x-forwarded-proto", &["https"]),
        ("x-forwarded-port", &["443"]),
        ("forwarded", &["for=127.0.0.1;host=\"shop.example.com\";proto=http"]),
        ("x-request-id", &["theirs"]),
        ("via", &["2 front", "1.1 culvert"]),
        ("traceparent", &[trace]),
    ] {
        assert_eq!(got(&seen, name), expected, "{name} in {seen}");
    }
}

#[tokio::test]
async fn an_answer_says_that_it_came_through_the_edge() {
    let stage = Stage::start().await;
    stage.serve(&[&mirror().await]);
    assert_eq!(stage.get("/").await.header("via"), Some("1.1 culvert"));
    let broken = "Traceparent: 00-nonsense\r\nTracestate: a=1\r\n";
    let seen = stage.send(&request("GET", "/", broken)).await.body.to_ascii_lowercase();
    assert!(!seen.contains("traceparent") && !seen.contains("tracestate"), "{seen}");
}
