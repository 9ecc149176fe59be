//! What a TunnelHost's fields come to in its rules.

use std::{num::NonZeroU32, time::Duration};

use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::*;
use crate::routing::{
    CheckTls, HeaderRules, HealthCheck, LoadBalancing, Member, PassiveHealth, PathMatch, Places, Probe, Protocol,
    ProxyProtocol, RateKey, RedirectPath, Scope, Target, Timeouts, Trust,
};

/// The rules of one TunnelHost `web/a` for `a.com`, by the place of their route; other fields are given.
fn rules(fields: &Value) -> (Compiled, Vec<Arc<Rule>>) {
    compiled(fields, &[])
}

fn compiled(fields: &Value, secrets: &[Arc<Secret>]) -> (Compiled, Vec<Arc<Rule>>) {
    let mut spec = json!({"hostnames": ["a.com"], "routes": [{}]});
    for (name, value) in fields.as_object().expect("an object") {
        spec[name] = value.clone();
    }
    let mut objects = objects(vec![host("web/a", 1, &spec)]);
    objects.secrets.extend_from_slice(secrets);
    let compiled = compile(&objects, None);
    let mut rules: Vec<_> = compiled.rules.values().cloned().collect();
    rules.sort_by_key(|rule| rule.id.route);
    (compiled, rules)
}

fn users() -> Arc<Secret> {
    secret("web/users", SecretType::BasicAuth, &[("username", "ann"), ("password", "secret")])
}

fn kinds(rule: &Rule) -> Vec<&'static str> {
    let kind = |filter: &Filter| match filter {
        Filter::RequireTls => "RequireTls",
        Filter::Hsts(_) => "Hsts",
        Filter::Access(_) => "Access",
        Filter::RequestRate(_) => "RequestRate",
        Filter::ConcurrentRequests(_) => "ConcurrentRequests",
        Filter::BasicAuth(_) => "BasicAuth",
        Filter::BodySize(_) => "BodySize",
        Filter::RequestHeaders(_) => "RequestHeaders",
        Filter::ResponseHeaders(_) => "ResponseHeaders",
        Filter::ReplacePrefix(_) => "ReplacePrefix",
    };
    rule.filters.iter().map(kind).collect()
}

fn everything() -> Value {
    json!({
        "tls": {"hsts": {"maxAge": "1h", "includeSubdomains": true}},
        "auth": {"basic": {"secretRef": {"name": "users"}}},
        "access": {"allow": ["203.0.113.7/24", "2001:db8::1"], "deny": ["203.0.113.66"]},
        "limits": {"requests": {"perSecond": 5}, "concurrentRequests": 9, "bodySize": "1Ki"},
        "headers": {"request": {"set": {"X-A": "1"}, "remove": ["X-B"]}, "response": {"add": {"X-C": "2"}}},
        "timeouts": {"connect": "2s", "upgradeIdle": "2h"},
        "retries": {"attempts": 1},
    })
}

#[test]
fn policies_become_filters_in_their_order() {
    let mut fields = everything();
    fields["routes"] = json!([{"path": {"value": "/api"}, "rewrite": {"prefix": "/v2"}}]);
    let (compiled, rules) = compiled(&fields, &[users()]);
    assert_eq!(judged(&compiled, "web/a", Accepted).0, Reason::Accepted);
    assert_eq!(judged(&compiled, "web/a", ResolvedRefs).0, Reason::ResolvedRefs);
    assert_eq!(
        kinds(&rules[0]),
        [
            "RequireTls",
            "Hsts",
            "Access",
            "RequestRate",
            "BasicAuth",
            "ConcurrentRequests",
            "BodySize",
            "RequestHeaders",
            "ResponseHeaders",
            "ReplacePrefix",
        ]
    );
    let value = HeaderValue::from_static("max-age=3600; includeSubDomains");
    assert!(rules[0].filters.contains(&Filter::Hsts(value)));
    let Some(Filter::Access(access)) = rules[0].filters.get(2) else { panic!("no access") };
    assert!(access.allows("203.0.113.1".parse().expect("an address")));
    assert!(access.allows("2001:db8::1".parse().expect("an address")));
    assert!(!access.allows("203.0.113.66".parse().expect("an address")));
    let Some(Filter::RequestRate(rate)) = rules[0].filters.get(3) else { panic!("no rate") };
    assert_eq!((rate.per_second.get(), rate.burst.get(), rate.per), (5, 5, RateKey::ClientIp));
    assert!(rules[0].filters.contains(&Filter::BodySize(1024)));
    let Some(Filter::RequestHeaders(headers)) = rules[0].filters.get(7) else { panic!("no header rules") };
    let expected = HeaderRules {
        remove: vec!["x-b".parse().expect("a name")],
        set: vec![("x-a".parse().expect("a name"), HeaderValue::from_static("1"))],
        add: vec![],
    };
    assert_eq!(**headers, expected);
    let defaults = Timeouts::default();
    let (connect, upgrade_idle) = (Duration::from_secs(2), Duration::from_hours(2));
    assert_eq!(rules[0].timeouts, Timeouts { connect, upgrade_idle, ..defaults });
    let Backend::Tunnel(tunnel) = &rules[0].backend else { panic!("no tunnel") };
    assert_eq!(tunnel.attempts, 1);
}

#[test]
fn without_policies_a_rule_has_no_filters() {
    let (_, rules) = rules(&json!({}));
    assert!(rules[0].filters.is_empty());
    assert_eq!(rules[0].timeouts, Timeouts::default());
    let Backend::Tunnel(tunnel) = &rules[0].backend else { panic!("no tunnel") };
    assert_eq!((tunnel.attempts, &tunnel.protocol, tunnel.proxy_protocol), (3, &Protocol::Http, None));
}

#[test]
fn a_routes_member_replaces_the_hosts_same_member_and_the_others_stay() {
    let mut fields = everything();
    fields["routes"] = json!([
        {},
        {
            "path": {"value": "/own"},
            "auth": {"disabled": true},
            "access": {"deny": ["10.0.0.0/8"]},
            "limits": {"requests": {"perSecond": 1, "burst": 3, "per": "All"}, "bodySize": 0},
            "headers": {"response": {}},
            "timeouts": {"connect": "3s", "streamIdle": "1m"},
            "retries": {"attempts": 2},
        },
    ]);
    let (_, rules) = compiled(&fields, &[users()]);
    let scopes = |rule: &Rule| {
        let scope = |filter: &Filter| match filter {
            Filter::RequestRate(rate) => Some(rate.scope),
            Filter::ConcurrentRequests(limit) => Some(limit.scope),
            _ => None,
        };
        rule.filters.iter().filter_map(scope).collect::<Vec<_>>()
    };
    assert_eq!(scopes(&rules[0]), [Scope::Host, Scope::Host]);
    assert_eq!(scopes(&rules[1]), [Scope::Route(1), Scope::Host]);
    assert_eq!(
        kinds(&rules[1]),
        ["RequireTls", "Hsts", "Access", "RequestRate", "ConcurrentRequests", "RequestHeaders"]
    );
    let Some(Filter::Access(access)) = rules[1].filters.get(2) else { panic!("no access") };
    assert!(access.allow.is_empty(), "the whole of it is replaced");
    let Some(Filter::RequestRate(rate)) = rules[1].filters.get(3) else { panic!("no rate") };
    assert_eq!((rate.burst, rate.per), (NonZeroU32::new(3).expect("3"), RateKey::All));
    let timeouts = rules[1].timeouts;
    assert_eq!(timeouts.connect, Duration::from_secs(3));
    assert_eq!(timeouts.stream_idle, Duration::from_mins(1));
    assert_eq!(timeouts.upgrade_idle, Duration::from_hours(2));
    let Backend::Tunnel(tunnel) = &rules[1].backend else { panic!("no tunnel") };
    assert_eq!(tunnel.attempts, 2);
    let (with_secret, without_secret) = (compiled(&fields, &[users()]).0, rules_without(&fields));
    assert_eq!(found(&with_secret, "a.com", "/own"), "web/a routes[1]");
    assert_eq!(found(&without_secret, "a.com", "/own"), "web/a routes[1]", "it needs no Secret");
    assert_eq!(found(&without_secret, "a.com", "/"), "web/a routes[0] invalid");
}

fn rules_without(fields: &Value) -> Compiled {
    rules(fields).0
}

#[test]
fn what_protects_and_cannot_be_read_closes_the_routes_that_it_covers() {
    let own = json!([{}, {"path": {"value": "/own"}, "access": {"allow": ["0.0.0.0/0"]}}]);
    let (compiled, _) = rules(&json!({"access": {"allow": ["10.0.0.0/8", "10.0.0/8"]}, "routes": own}));
    assert_eq!(found(&compiled, "a.com", "/"), "web/a routes[0] invalid");
    assert_eq!(found(&compiled, "a.com", "/own"), "web/a routes[1]");
    assert_eq!(
        judged(&compiled, "web/a", Accepted),
        (
            Reason::UnsupportedValue,
            "spec.access.allow[1]: \"10.0.0/8\" is no network; write it as in \"203.0.113.0/24\" or \"2001:db8::/32\"; until \
             then all routes that it covers answer 500"
                .into()
        )
    );
    let (compiled, _) = rules(&json!({"routes": [{}, {"path": {"value": "/a"}, "access": {"deny": ["x"]}}]}));
    assert_eq!(found(&compiled, "a.com", "/"), "web/a routes[0]");
    assert_eq!(found(&compiled, "a.com", "/a"), "web/a routes[1] invalid");
    // What the schema refuses, and an older one might not have.
    for empty in [json!({"auth": {}}), json!({"access": {}})] {
        assert_eq!(found(&rules(&empty).0, "a.com", "/"), "web/a routes[0] invalid", "{empty}");
    }
}

#[test]
fn other_policies_that_cannot_be_read_are_told_and_the_rest_goes_on() {
    let (compiled, rules) = rules(&json!({
        "tls": {"hsts": {"maxAge": "1 year"}},
        "limits": {"requests": {"perSecond": 0}, "bodySize": "ten"},
        "headers": {"request": {"set": {"Host": "x", "X-Fine": "1", "X-Bad": "a\nb"}, "remove": ["Transfer-Encoding"]}},
        "timeouts": {"connect": "5", "streamIdle": "2s"},
    }));
    assert_eq!(found(&compiled, "a.com", "/"), "web/a routes[0]");
    assert_eq!(kinds(&rules[0]), ["RequireTls", "RequestRate", "RequestHeaders"]);
    let Some(Filter::RequestRate(rate)) = rules[0].filters.get(1) else { panic!("no rate") };
    assert_eq!(rate.per_second, NonZeroU32::MIN, "a senseless limit is not no limit");
    assert_eq!(rules[0].timeouts, Timeouts { stream_idle: Duration::from_secs(2), ..Timeouts::default() });
    let (reason, message) = judged(&compiled, "web/a", Accepted);
    assert_eq!(reason, Reason::UnsupportedValue);
    for part in [
        "spec.tls.hsts.maxAge: \"1 year\" is no duration",
        "spec.limits.requests.perSecond: it is below 1; 1 is used",
        "spec.limits.bodySize: \"ten\" is no number of bytes",
        "spec.headers.request.set[\"Host\"]: \"Host\" cannot be changed here; set backend.hostHeader",
        "spec.headers.request.set[\"X-Bad\"]: the value must be printable ASCII",
        "and 2 more",
    ] {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn requests_are_told_apart_by_all_of_a_match() {
    let (compiled, rules) = rules(&json!({"routes": [
        {},
        {"match": {"methods": ["PUT", "POST"]}},
        {"match": {"headers": [{"name": "X-Team", "type": "Regex", "value": "a|b"}]}},
        {"match": {"query": [{"name": "v", "value": "2"}]}},
        {"path": {"type": "Regex", "value": "/v[0-9]+"}},
        {"match": {"headers": [{"name": "x-team", "type": "Regex", "value": "a|b"}]}},
        {"match": {"methods": ["POST", "PUT"]}},
        {"path": {"type": "Regex", "value": "/v["}},
        {"match": {"query": [{"name": "v", "type": "Regex", "value": "("}]}},
    ]}));
    assert_eq!(rules.iter().map(|rule| rule.id.route).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert!(matches!(rules[4].matches.path, PathMatch::Regex(_)));
    let mut headers = HeaderMap::new();
    headers.insert("x-team", HeaderValue::from_static("b"));
    let get = RequestInfo::get("a.com", "/");
    for (request, route) in [
        (get, 0),
        (RequestInfo { method: &Method::PUT, ..get }, 1),
        (RequestInfo { headers: &headers, ..get }, 2),
        (RequestInfo { query: Some("v=2"), ..get }, 3),
    ] {
        let Lookup::Rule(rule) = compiled.table.lookup(EntryPoint::Https, &request) else { panic!("no rule") };
        assert_eq!(rule.id.route, route);
    }
    let (reason, message) = judged(&compiled, "web/a", Accepted);
    assert_eq!(reason, Reason::RouteConflict, "the first problem gives the reason");
    for part in [
        "spec.routes[5]: Prefix \"/\" with header x-team Regex \"a|b\" of \"a.com\" is taken by spec.routes[2] of this object",
        "spec.routes[6]: Prefix \"/\" with method POST or PUT of \"a.com\" is taken by spec.routes[1]",
        "spec.routes[7].path.value: \"/v[\" is no regular expression: unclosed character class; correct it",
        "spec.routes[8].match.query[0].value: \"(\" is no regular expression: unclosed group; correct it",
    ] {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

/// The backend of a route with these fields of its own.
fn backend(fields: &Value, secrets: &[Arc<Secret>]) -> (Backend, String, Reason) {
    let mut backend = json!({"agents": [{"name": "home"}], "targets": [{"address": "b:1"}]});
    for (name, value) in fields.as_object().expect("an object") {
        backend[name] = value.clone();
    }
    let (compiled, rules) = compiled(&json!({"routes": [{"backend": backend}]}), secrets);
    let (reason, message) = match judged(&compiled, "web/a", Accepted) {
        (Reason::Accepted, _) => judged(&compiled, "web/a", ResolvedRefs),
        wrong => wrong,
    };
    (rules[0].backend.clone(), message, reason)
}

#[test]
fn a_backend_speaks_what_its_protocol_says() {
    let protocol = |fields: Value| match backend(&fields, &[]).0 {
        Backend::Tunnel(tunnel) => tunnel.protocol,
        other => panic!("{other:?}"),
    };
    assert_eq!(protocol(json!({"protocol": "HTTP"})), Protocol::Http);
    assert_eq!(protocol(json!({"protocol": "H2C"})), Protocol::H2c);
    assert_eq!(protocol(json!({"protocol": "GRPC"})), Protocol::H2c);
    let tls = |fields: Value| match protocol(fields) {
        Protocol::Https(tls) => tls,
        other => panic!("{other:?}"),
    };
    assert_eq!(tls(json!({"protocol": "HTTPS"})).trust, Trust::WebRoots);
    let named = tls(json!({"protocol": "HTTPS", "tls": {"serverName": "b.lan", "insecureSkipVerify": true}}));
    assert_eq!((named.server_name.as_deref(), &named.trust), (Some("b.lan"), &Trust::Insecure));
    let Backend::Tunnel(tunnel) = backend(&json!({"proxyProtocol": "V2"}), &[]).0 else { panic!("no tunnel") };
    assert_eq!(tunnel.proxy_protocol, Some(ProxyProtocol::V2));
}

#[test]
fn agents_and_targets_share_the_requests_as_they_are_told() {
    let tunnel = |fields: Value| match backend(&fields, &[]) {
        (Backend::Tunnel(tunnel), message, reason) => (tunnel, message, reason),
        other => panic!("{other:?}"),
    };
    let target = |address: &str, weight, priority| Member {
        item: address.parse::<Target>().expect("a target"),
        weight,
        priority,
    };
    let home = [Member::from(ObjectName::new("web", "home"))];
    let (plain, ..) = tunnel(json!({}));
    assert_eq!(plain.balancing, LoadBalancing::RoundRobin);
    assert_eq!(plain.places, Places::new(&home, &[target("b:1", 1, 0)]));
    for (text, balancing) in [
        ("Random", LoadBalancing::Random),
        ("LeastRequests", LoadBalancing::LeastRequests),
        ("ClientHash", LoadBalancing::ClientHash),
    ] {
        assert_eq!(tunnel(json!({"loadBalancing": text})).0.balancing, balancing);
    }
    let targets = json!([{"address": "b:1", "weight": 5}, {"address": "b:2", "priority": 1}]);
    let (shared, _, reason) = tunnel(json!({"targets": targets}));
    assert_eq!(reason, Reason::ResolvedRefs);
    assert_eq!(shared.places, Places::new(&home, &[target("b:1", 5, 0), target("b:2", 1, 1)]));
    let targets = json!([{"address": "b:1", "weight": -1}, {"address": "b:2", "priority": 101}]);
    let (unreadable, message, reason) = tunnel(json!({"targets": targets}));
    assert_eq!(reason, Reason::UnsupportedValue);
    assert_eq!(
        message,
        "spec.routes[0].backend.targets[0].weight: -1 is not from 0 to 1000; 1 is used; \
         spec.routes[0].backend.targets[1].priority: 101 is not from 0 to 100; 0 is used"
    );
    assert_eq!(unreadable.places, Places::new(&home, &[target("b:1", 1, 0), target("b:2", 1, 0)]));
}

#[test]
fn targets_are_checked_as_the_backend_says() {
    let check = |fields: Value| match backend(&fields, &[]) {
        (Backend::Tunnel(tunnel), message, _) => (tunnel.health_check, message),
        other => panic!("{other:?}"),
    };
    let probe = |fields: Value| check(fields).0.expect("a check").probe.clone();
    assert_eq!(check(json!({})).0, None);
    let defaults = check(json!({"healthCheck": {"tcp": {}}})).0.expect("a check");
    let [interval, timeout] = [10, 2].map(Duration::from_secs);
    let tcp = HealthCheck { probe: Probe::Tcp, interval, timeout, unhealthy_after: 3, healthy_after: 2 };
    assert_eq!(*defaults, tcp);
    let http = |host: Option<&str>, expected: &[std::ops::RangeInclusive<u16>], tls: Option<CheckTls>| {
        let host = host.map(Arc::from);
        Probe::Http { path: "/healthz?full".into(), host, expected: expected.to_vec(), tls }
    };
    let plain = json!({"http": {"path": "/healthz?full"}});
    assert_eq!(probe(json!({"healthCheck": plain})), http(None, &[200..=399], None));
    let fields = json!({"healthCheck": plain, "hostHeader": "app.lan"});
    assert_eq!(probe(fields), http(Some("app.lan"), &[200..=399], None));
    let own = json!({"path": "/healthz?full", "host": "check.lan", "expectedStatuses": ["204", "300-499"]});
    let fields = json!({"healthCheck": {"http": own}, "hostHeader": "app.lan", "protocol": "HTTPS"});
    let tls = Some(CheckTls { server_name: None });
    assert_eq!(probe(fields), http(Some("check.lan"), &[204..=204, 300..=499], tls));
    for (fields, part) in [
        (json!({"healthCheck": {}}), "healthCheck: it must have either 'http' or 'tcp'"),
        (json!({"healthCheck": plain, "protocol": "GRPC"}), "healthCheck.http: it speaks HTTP/1.1"),
        (json!({"healthCheck": {"http": {"path": "healthz"}}}), "healthCheck.http.path: \"healthz\" is no path"),
        (json!({"healthCheck": {"http": {"path": "/", "host": "a b"}}}), "http.host: \"a b\" is not HOST"),
        (json!({"healthCheck": {"http": {"path": "/", "expectedStatuses": ["2xx"]}}}), "expectedStatuses[0]: \"2xx\""),
        (json!({"healthCheck": {"http": {"path": "/", "expectedStatuses": ["399-200"]}}}), "is no status"),
    ] {
        let (none, message) = check(fields);
        assert_eq!(none, None, "{message}");
        assert!(message.contains(part) && message.contains("nothing is checked"), "{message}");
    }
    let (wrong, message) = check(json!({"healthCheck": {"tcp": {}, "interval": "1ms", "unhealthyAfter": 0}}));
    assert_eq!(*wrong.expect("a check"), HealthCheck { unhealthy_after: 1, ..tcp });
    assert!(message.contains("healthCheck.interval: \"1ms\" is not from 1s"), "{message}");
    assert!(message.contains("healthCheck.unhealthyAfter: it is below 1; 1 is used"), "{message}");
}

#[test]
fn failed_connects_mean_what_the_backend_says() {
    let passive = |fields: Value| match backend(&fields, &[]) {
        (Backend::Tunnel(tunnel), message, _) => (tunnel.passive_health, message),
        other => panic!("{other:?}"),
    };
    let defaults = PassiveHealth::default();
    assert_eq!(passive(json!({})).0, defaults);
    assert_eq!(passive(json!({"passiveHealth": {}})).0, defaults);
    let all = json!({"passiveHealth": {"unhealthyAfter": 5, "retryAfter": "1m", "maxEjectedPercent": 0}});
    let set = PassiveHealth { unhealthy_after: 5, retry_after: Duration::from_mins(1), max_ejected_percent: 0 };
    assert_eq!(passive(all).0, set);
    let wrong = json!({"passiveHealth": {"unhealthyAfter": 0, "retryAfter": "1ms", "maxEjectedPercent": 101}});
    let (read, message) = passive(wrong);
    assert_eq!(read, PassiveHealth { unhealthy_after: 1, ..defaults });
    assert!(message.contains("passiveHealth.unhealthyAfter: it is below 1; 1 is used"), "{message}");
    assert!(message.contains("passiveHealth.retryAfter: \"1ms\" is not from 1s"), "{message}");
    assert!(message.contains("passiveHealth.maxEjectedPercent: 101 is not from 0 to 100; 50 is used"), "{message}");
}

#[test]
fn a_backend_whose_tls_cannot_be_checked_is_not_asked() {
    let tls = json!({"protocol": "HTTPS", "tls": {"caSecretRef": {"name": "ca"}}});
    let pem = certificates::issue(&["ca.lan"]).chain;
    let ca = |text: &str| secret("web/ca", SecretType::CaCertificates, &[("ca.crt", text)]);
    let (fine, ..) = backend(&tls, &[ca(&format!("{pem}{pem}"))]);
    let Backend::Tunnel(tunnel) = fine else { panic!("{fine:?}") };
    let Protocol::Https(fine) = &tunnel.protocol else { panic!("{tunnel:?}") };
    assert!(matches!(&fine.trust, Trust::Authorities(authorities) if authorities.len() == 2));
    for (secret, expected, part) in [
        (None, Reason::SecretNotFound, "no Secret \"ca\" of type culvert.dev/ca-certificates"),
        (Some(ca("nothing")), Reason::InvalidSecret, "key \"ca.crt\": it has no certificate in PEM form"),
        (
            Some(ca("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")),
            Reason::InvalidSecret,
            "key \"ca.crt\": certificate 1 cannot be read",
        ),
    ] {
        let (backend, message, reason) = backend(&tls, &secret.into_iter().collect::<Vec<_>>());
        assert!(matches!(backend, Backend::Invalid(_)), "{backend:?}");
        assert_eq!(reason, expected);
        assert!(message.starts_with("spec.routes[0].backend.tls.caSecretRef.name: "), "{message}");
        assert!(message.contains(part) && message.ends_with("until then the route answers 500"), "{message}");
    }
    let (without, message, _) = backend(&json!({"tls": {"serverName": "b.lan"}}), &[]);
    assert!(matches!(without, Backend::Invalid(_)), "{message}");
}

#[test]
fn a_redirect_needs_no_backend() {
    let (compiled, rules) = rules(&json!({"routes": [
        {"redirect": {"scheme": "https", "hostname": "b.com", "port": 8443, "path": {"value": "/x"}, "statusCode": 301}},
        {"path": {"value": "/old"}, "redirect": {"path": {"type": "ReplacePrefix", "value": "/new"}}},
        {"path": {"value": "/loop"}, "redirect": {}},
        {"path": {"type": "Exact", "value": "/e"}, "redirect": {"path": {"type": "ReplacePrefix", "value": "/new"}}},
    ]}));
    let Backend::Redirect(redirect) = &rules[0].backend else { panic!("{:?}", rules[0]) };
    assert_eq!(redirect.status, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(redirect.scheme, Some(http::uri::Scheme::HTTPS));
    assert_eq!((redirect.hostname.as_deref(), redirect.port), (Some("b.com"), Some(8443)));
    assert_eq!(redirect.path, Some(RedirectPath::Full("/x".into())));
    let Backend::Redirect(redirect) = &rules[1].backend else { panic!("{:?}", rules[1]) };
    assert_eq!(redirect.status, StatusCode::FOUND);
    assert_eq!(redirect.path, Some(RedirectPath::ReplacePrefix("/new".into())));
    for broken in &rules[2..] {
        assert!(matches!(broken.backend, Backend::Invalid(_)), "{broken:?}");
    }
    assert_eq!(judged(&compiled, "web/a", Accepted).0, Reason::UnsupportedValue);
}
