//! What is told of each fault: to the visitor, in the access log, in the metrics and to operators in the documentation, of one
//! cause. The faults are real ones.

mod backend;
mod over_http2;
mod policies;
mod request;
mod response;
mod routes;
mod visitor;

use std::collections::BTreeSet;

use culvert::{
    proxy::Reason,
    routing::Rule,
    telemetry::access_log::{AccessLogFormat, AccessLogWriter},
};
use serde_json::Value;

use crate::{
    access_log::Written,
    stage::{Answer, Options, Stage, request, rule},
};

/// Makes a test of each fault, and has the compiler refuse a table without one for each reason.
macro_rules! table {
    ($($reason:ident => $($scenes:ident::$fault:ident),+;)+) => {
        $($(
            #[tokio::test]
            async fn $fault() {
                $scenes::$fault(Reason::$reason.label()).await;
            }
        )+)+

        const _: fn(Reason) = |reason| match reason {
            $(Reason::$reason)|+ => {}
        };
    };
}

table! {
    UnknownHost => routes::nobody_has_the_host;
    NoRoute => routes::no_route_matches;
    Misconfigured => routes::the_route_is_misconfigured;
    NoSession => routes::no_agent_has_a_session;
    Drained => routes::every_target_has_the_weight_0;

    BadHost => request::the_host_is_malformed;
    BadPath => request::the_path_leads_elsewhere;
    Method => request::the_method_is_not_forwarded;
    MalformedRequest => request::the_target_is_none, request::the_request_is_no_http;
    UnknownCoding => request::the_body_is_coded_otherwise;
    RequestTimeout => request::the_upload_stands_still, over_http2::an_upload_to_http2_stands_still;
    RequestBody => request::the_upload_breaks_off, request::the_uploads_chunks_are_none,
        over_http2::an_upload_to_http2_breaks_off, over_http2::the_chunks_of_an_upload_to_http2_are_none;
    Misdirected => request::over_tls_the_same_is_told;

    Unauthorized => policies::credentials_are_wrong;
    TooManyLogins => policies::the_passwords_of_others_take_too_long;
    AccessDenied => policies::the_address_is_denied;
    RequestRate => policies::the_rate_is_used_up;
    ConcurrentRequests => policies::too_many_requests_are_in_progress;
    BodySize => policies::the_body_is_too_large, over_http2::a_body_to_http2_is_too_large,
        over_http2::a_body_to_http2_becomes_too_large_under_its_response;
    ConnectionLimit => policies::the_agents_limit_is_reached;

    AgentOverloaded => backend::the_agent_has_too_many_links;
    TargetNotAllowed => backend::the_agent_may_not_go_there;
    BackendRefused => backend::the_backend_refuses;
    BackendUnreachable => backend::the_backends_name_leads_nowhere;
    ConnectTimeout => backend::the_backend_takes_no_connection;
    BackendCertificate => backend::the_backends_certificate_is_not_accepted;
    BackendTls => backend::the_backend_speaks_no_tls;
    SessionLost => backend::the_session_is_lost_before_the_response, response::the_agent_is_lost_within_a_body,
        over_http2::the_agent_is_lost_within_a_body_over_http2;

    ResponseTimeout => response::the_backend_says_nothing, over_http2::a_backend_of_http2_says_nothing;
    BackendClosed => response::the_backend_closes_without_an_answer, response::the_backend_resets,
        response::the_backend_closes_within_its_body, over_http2::a_backend_of_http2_closes_without_an_answer,
        over_http2::a_backend_of_http2_resets_the_stream, over_http2::a_backend_of_http2_closes_within_its_body;
    InvalidResponse => response::the_backend_speaks_no_http, over_http2::a_backend_of_http2_speaks_http1,
        over_http2::a_backend_of_http2_sends_a_malformed_head;
    ResponseHeadTooLarge => response::the_responses_head_is_too_large, over_http2::a_head_over_http2_is_too_large;
    StreamIdle => response::the_body_stops_coming, over_http2::a_body_over_http2_stops_coming;
    UpgradeIdle => response::nothing_moves_in_an_upgraded_connection;
    GoingAway => response::the_edge_stops_under_an_upgraded_connection;

    VisitorLeft => visitor::the_visitor_leaves_before_the_response, visitor::the_visitor_leaves_during_the_response;
    VisitorClosed => visitor::the_visitors_connection_is_reset;
    VisitorStalled => visitor::the_visitor_takes_nothing_for_as_long_as_its_rule_allows;
    HeadTimeout => visitor::the_heads_rest_does_not_come;
    HeadTooLarge => visitor::the_head_is_too_large;
    IncompleteRequest => visitor::the_request_breaks_off_in_its_head;
    TooManyConnections => visitor::there_are_too_many_connections;
    Http2Flood => visitor::a_flood_of_requests_that_are_taken_back_ends_the_connection;
    ProxyProtocolUntrusted => visitor::a_proxy_is_not_trusted;
    ProxyProtocolMalformed => visitor::no_proxy_header_comes;
    ProxyProtocolTimeout => visitor::the_proxy_headers_rest_does_not_come;
}

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
        assert!(
            documented().contains(&(reason.to_owned(), Some((status, error.unwrap_or("–").to_owned())))),
            "{reason}"
        );
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
        let protocol = line["protocol"].as_str().expect("a protocol");
        let series = format!(
            "culvert_requests_total{{code=\"{status}\",method=\"{method}\",namespace=\"{namespace}\",protocol=\"{protocol}\",tunnelhost=\"{name}\"}}"
        );
        self.stage.edge.metric_becomes(&series, 1).await;
        line
    }

    async fn counts(&self, reason: &str) {
        self.stage.edge.metric_becomes(&format!("culvert_errors_total{{reason=\"{reason}\"}}"), 1).await;
    }
}

// === The documentation ===

/// What operators read: each reason and, where the visitor gets an answer for it, that answer's status and error.
fn documented() -> BTreeSet<(String, Option<(u16, String)>)> {
    let text = include_str!("../../docs/operations.md");
    let (_, section) = text.split_once("\n## What a visitor gets when something is wrong\n").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("another section");
    let rows = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| situation"));
    rows.flat_map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let answer = (cells.len() == 4).then(|| {
            let status = cells[1].get(..3).and_then(|status| status.parse().ok());
            (status.unwrap_or_else(|| panic!("no status: {row}")), cells[2].trim_matches('`').to_owned())
        });
        let reasons = cells[cells.len() - 1].split('`').skip(1).step_by(2);
        reasons.map(|reason| (reason.to_owned(), answer.clone())).collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn operators_read_of_each_reason_and_of_no_other() {
    let documented: BTreeSet<_> = documented().into_iter().map(|(reason, _)| reason).collect();
    let all: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.label().to_owned()).collect();
    let missing: Vec<_> = all.difference(&documented).collect();
    let invented: Vec<_> = documented.difference(&all).collect();
    assert!(missing.is_empty() && invented.is_empty(), "missing: {missing:?}, not there: {invented:?}");
    assert_eq!(all.len(), Reason::ALL.len(), "two reasons have one name");
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
