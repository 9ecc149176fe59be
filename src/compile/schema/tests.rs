use serde_json::json;

use super::*;
use crate::routing::{OF_FRAMING, OF_HOP, PROXY, is_authority, is_never_routed, is_protected};

fn host() -> Value {
    json!({
        "apiVersion": "culvert.dev/v1alpha1",
        "kind": "TunnelHost",
        "metadata": {"name": "shop", "namespace": "web"},
        "spec": {
            "hostnames": ["shop.example.com", "*.shop.example.com"],
            "routes": [{"backend": {"agents": [{"name": "home"}], "targets": [{"address": "[::1]:8080"}]}}],
        },
    })
}

/// What is found where `value` is put at a JSON pointer of a right TunnelHost.
#[track_caller]
fn with(pointer: &str, value: Value) -> Vec<String> {
    let mut object = host();
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    match object.pointer_mut(parent).expect("a parent") {
        Value::Array(items) => items[key.parse::<usize>().expect("an index")] = value,
        parent => parent[key] = value,
    }
    Schema::of(ObjectKind::TunnelHost).check(&object).iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_right_passes() {
    assert_eq!(Schema::of(ObjectKind::TunnelHost).check(&host()), []);
    assert!(with("/status", json!({"anything": 1})).is_empty());
    let route = json!({"path": {"type": "Exact", "value": "/a%20b"}, "backend": {
        "agents": [{"name": "a"}], "targets": [{"address": "my_db:5432"}], "hostHeader": "a:80"}});
    assert!(with("/spec/routes/0", route).is_empty());
    let agent = json!({
        "metadata": {"name": "home"},
        "spec": {"credentials": [{"secretRef": {"name": "t"}}], "limits": {"connections": 1}},
    });
    assert_eq!(Schema::of(ObjectKind::TunnelAgent).check(&agent), []);
}

#[test]
fn the_rules_of_an_agents_namespaces_are_judged() {
    let judged = |allowed: Value| {
        let spec = json!({"credentials": [{"secretRef": {"name": "t"}}], "allowedNamespaces": allowed});
        let findings = Schema::of(ObjectKind::TunnelAgent).check(&json!({"metadata": {"name": "home"}, "spec": spec}));
        findings.into_iter().map(|finding| finding.field).collect::<Vec<_>>()
    };
    let expression = |operator: &str, values: &[&str]| {
        let selector = json!({"matchExpressions": [{"key": "team", "operator": operator, "values": values}]});
        judged(json!({"from": "Selector", "selector": selector}))
    };
    assert!(judged(json!({})).is_empty() && judged(json!({"from": "All"})).is_empty());
    assert!(expression("In", &["a"]).is_empty() && expression("Exists", &[]).is_empty());
    assert_eq!(judged(json!({"from": "Selector"})), ["spec.allowedNamespaces"]);
    assert_eq!(judged(json!({"from": "All", "selector": {}})), ["spec.allowedNamespaces"]);
    assert_eq!(judged(json!({"from": "None"})), ["spec.allowedNamespaces.from"]);
    for wrong in [expression("NotIn", &[]), expression("DoesNotExist", &["a"])] {
        assert_eq!(wrong, ["spec.allowedNamespaces.selector.matchExpressions[0]"]);
    }
}

#[test]
fn the_form_is_judged_like_an_api_server_judges_it() {
    assert_eq!(with("/spec/hostnames", json!("a.com")), ["spec.hostnames: must be of type array, not string"]);
    assert_eq!(with("/spec/hostnames", json!([])), ["spec.hostnames: must have at least 1 items"]);
    assert_eq!(
        with("/spec/hostnames", json!(["a.com", "a.com"])),
        ["spec.hostnames[1]: \"a.com\" is there twice; remove one"]
    );
    assert_eq!(with("/spec/nosuch", json!(1)), ["spec.nosuch: unknown field; correct or remove it"]);
    assert_eq!(with("/spec/auth", json!({"basic": {}})), ["spec.auth.basic.secretRef: required, and missing"]);
    assert_eq!(
        with("/spec/routes/0/path", json!({"type": "Suffix"})),
        ["spec.routes[0].path.type: \"Suffix\" is not supported; must be one of \"Prefix\", \"Exact\", \"Regex\""]
    );
    assert_eq!(
        with("/spec/routes/0/backend/agents", json!([{"name": "a"}, {"name": "a"}])),
        ["spec.routes[0].backend.agents[1]: \"a\" is there twice; remove one"]
    );
    assert_eq!(
        with("/spec/routes/0/backend/agents", json!([{"name": "a"}, {"name": "a", "namespace": ""}])),
        ["spec.routes[0].backend.agents[1]: \"a\" is there twice; remove one"]
    );
    assert!(with("/spec/routes/0/backend/agents", json!([{"name": "a"}, {"name": "a", "namespace": "b"}])).is_empty());
    assert_eq!(with("/spec/routes/0/backend/agents", json!([{"name": "a", "namespace": "B/c"}])).len(), 1);
    let sockets =
        |path: &str| with("/spec/routes/0/backend/targets", json!([{"address": format!("unix:{path}")}])).len();
    assert_eq!([sockets("/run/a.b/app.sock"), sockets("/.a/..b/c:1"), sockets("8080")], [0, 0, 0]);
    for path in ["", "run/app", "/", "/a//b", "/a/../b", "/a/.", "/a b", &format!("/{}", "a".repeat(107))] {
        assert_eq!(sockets(path), 1, "{path}");
    }
    assert_eq!(with("/metadata/name", json!("Shop")).len(), 1);
    assert_eq!(
        with("/metadata/name", json!(true)),
        ["metadata.name: must be of type string, not boolean; put it in quotes"]
    );
    assert_eq!(with("/metadata/namespace", json!("a/b")).len(), 1);
    let agent = json!({
        "metadata": {"name": "home"},
        "spec": {"credentials": [{"secretRef": {"name": "t"}}], "limits": {"connections": 0}},
    });
    let found = Schema::of(ObjectKind::TunnelAgent).check(&agent);
    assert_eq!(found[0].to_string(), "spec.limits.connections: must be at least 1");
}

#[test]
fn every_rule_of_the_schema_is_asked() {
    for schema in &*SCHEMAS {
        assert!(!schema.rules.has_errors(), "{:?}", schema.rules.compilation_errors());
    }
    let dns = "must be a DNS name in lower case, with or without one leading \"*.\"";
    for wrong in ["Shop.example.com", "a..b", "a_b.com", "*", "*.", "a.*.com", "-a.com"] {
        assert_eq!(with("/spec/hostnames", json!(["a.com", wrong])), [format!("spec.hostnames[1]: {dns}")], "{wrong}");
    }
    assert_eq!(
        with("/spec/hostnames/0", json!("10.0.0.1")),
        ["spec.hostnames[0]: must be a DNS name; an IP address cannot be matched"]
    );
    assert_eq!(with("/spec/auth", json!({})).len(), 1);
    assert_eq!(with("/spec/auth", json!({"basic": {"secretRef": {"name": "a"}, "realm": "a\"b"}})).len(), 1);
    for wrong in ["api", "/a?b", "/a#b", "/a b"] {
        assert_eq!(with("/spec/routes/0/path", json!({"value": wrong})).len(), 1, "{wrong}");
    }
    for wrong in ["localhost", "a:0", "a:70000", "http://a:80", "::1:80", "a:80/x"] {
        let found = with("/spec/routes/0/backend/targets/0/address", json!(wrong));
        assert_eq!(found.len(), 1, "{wrong}: {found:?}");
        assert!(found[0].starts_with("spec.routes[0].backend.targets[0].address: must be HOST:PORT"), "{found:?}");
    }
    assert_eq!(with("/spec/routes/0/backend/hostHeader", json!("a b")).len(), 1);
    assert!(with("/spec/routes/0/backend/hostHeader", json!("")).is_empty());
}

/// A right TunnelHost with all fields.
fn everything() -> Value {
    json!({
        "metadata": {"name": "shop"},
        "spec": {
            "hostnames": ["a.com"],
            "tls": {"secretRef": {"name": "a"}, "redirect": false, "hsts": {"includeSubdomains": true, "preload": true}},
            "auth": {"basic": {"secretRef": {"name": "users"}}},
            "access": {"allow": ["203.0.113.0/24"], "deny": []},
            "limits": {
                "requests": {"perSecond": 100, "burst": 200, "per": "All"}, "concurrentRequests": 5, "bodySize": "10Mi",
            },
            "headers": {"request": {"set": {"X-A": "1"}, "add": {}, "remove": ["X-B"]}, "response": {}},
            "timeouts": {"connect": "5s", "responseHeader": "1m", "streamIdle": "5m30s", "upgradeIdle": "1.5h"},
            "retries": {"attempts": 1},
            "routes": [
                {
                    "path": {"value": "/a"},
                    "match": {
                        "methods": ["GET", "PROPFIND"],
                        "headers": [{"name": "X-A", "value": "1"}, {"name": "X-B", "type": "Regex", "value": "a|b"}],
                        "query": [{"name": "a", "value": ""}],
                    },
                    "auth": {"disabled": true},
                    "limits": {"bodySize": 0},
                    "rewrite": {"prefix": "/"},
                    "backend": {
                        "agents": [{"name": "home"}], "targets": [{"address": "a:1"}], "protocol": "HTTPS",
                        "tls": {"caSecretRef": {"name": "ca"}, "serverName": "a.lan"}, "proxyProtocol": "V2",
                    },
                },
                {
                    "path": {"type": "Regex", "value": ".*[.](php|asp)$"},
                    "redirect": {
                        "scheme": "https", "hostname": "b.com", "port": 8443, "path": {"value": "/x"}, "statusCode": 308,
                    },
                },
            ],
        },
    })
}

#[test]
fn all_fields_pass_and_each_rule_refuses_what_it_is_for() {
    let schema = Schema::of(ObjectKind::TunnelHost);
    assert_eq!(schema.check(&everything()), []);
    for (pointer, value, field, problem) in [
        ("/spec/tls/hsts", json!({"maxAge": "1y"}), "spec.tls.hsts.maxAge", "must be a duration from 0s to 87600h"),
        ("/spec/tls/hsts/maxAge", json!("1h"), "spec.tls.hsts", "'preload' needs 'includeSubdomains'"),
        ("/spec/auth", json!({}), "spec.auth", "must have either 'basic'"),
        ("/spec/auth/disabled", json!(true), "spec.auth", "must have either 'basic'"),
        ("/spec/access", json!({}), "spec.access", "must have an entry in 'allow' or 'deny'"),
        ("/spec/limits/bodySize", json!("10 Mi"), "spec.limits.bodySize", "\"10 Mi\" does not have the form"),
        ("/spec/limits/bodySize", json!(true), "spec.limits.bodySize", "must be of type integer or string"),
        ("/spec/limits/requests/perSecond", json!(0), "spec.limits.requests.perSecond", "must be at least 1"),
        ("/spec/headers/request/set", json!({"X-A": 1}), "spec.headers.request.set.X-A", "must be of type string"),
        (
            "/spec/headers/request/set",
            json!({"Host": ""}),
            "spec.headers.request.set",
            "must be names of header fields",
        ),
        ("/spec/headers/request/add", json!({"A b": ""}), "spec.headers.request.add", "must be names of header fields"),
        (
            "/spec/headers/request/remove",
            json!(["X-A", "transfer-Encoding"]),
            "spec.headers.request.remove",
            "must be names of header fields",
        ),
        ("/spec/timeouts/connect", json!("5"), "spec.timeouts.connect", "must be a duration from 100ms to 1m"),
        ("/spec/timeouts/connect", json!("2m"), "spec.timeouts.connect", "must be a duration from 100ms to 1m"),
        ("/spec/timeouts/upgradeIdle", json!("169h"), "spec.timeouts.upgradeIdle", "must be a duration from 1s"),
        ("/spec/retries/attempts", json!(0), "spec.retries.attempts", "must be at least 1"),
        ("/spec/routes/0/match/methods", json!(["get"]), "spec.routes[0].match.methods", "must be methods in"),
        ("/spec/routes/0/match/headers/0/name", json!("a b"), "spec.routes[0].match.headers[0].name", "must be the"),
        (
            "/spec/routes/0/match/headers/0/name",
            json!("Upgrade"),
            "spec.routes[0].match.headers[0].name",
            "must be the name of a header field that does not belong to the connection",
        ),
        ("/spec/routes/0/path/type", json!("Exact"), "spec.routes[0]", "'rewrite' needs a path of type Prefix"),
        ("/spec/routes/0/path/value", json!("a"), "spec.routes[0].path.value", "must begin with '/'"),
        ("/spec/routes/0/rewrite/prefix", json!("a"), "spec.routes[0].rewrite.prefix", "must begin with '/'"),
        ("/spec/routes/0/redirect", json!({"port": 1}), "spec.routes[0]", "must have either 'backend' or 'redirect'"),
        ("/spec/routes/0/backend/protocol", json!("H2C"), "spec.routes[0].backend", "'tls' needs 'protocol: HTTPS'"),
        (
            "/spec/routes/0/backend",
            json!({"agents": [{"name": "a"}], "targets": [{"address": "unix:/a.sock"}], "protocol": "HTTPS"}),
            "spec.routes[0].backend",
            "'protocol: HTTPS' with a target 'unix:/PATH' needs",
        ),
        (
            "/spec/routes/0/backend/tls/insecureSkipVerify",
            json!(true),
            "spec.routes[0].backend.tls",
            "'insecureSkipVerify' would make",
        ),
        ("/spec/routes/1/redirect", json!({}), "spec.routes[1].redirect", "must have 'scheme', 'hostname'"),
        ("/spec/routes/1/redirect/statusCode", json!(304), "spec.routes[1].redirect.statusCode", "must be 301"),
        ("/spec/routes/1/redirect/hostname", json!("b:1"), "spec.routes[1].redirect.hostname", "must be a DNS name"),
        (
            "/spec/routes/1/redirect/path/type",
            json!("ReplacePrefix"),
            "spec.routes[1]",
            "a redirect with a path of type ReplacePrefix needs",
        ),
    ] {
        let mut object = everything();
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        object.pointer_mut(parent).expect("a parent")[key] = value.clone();
        let findings = schema.check(&object);
        assert_eq!(findings.len(), 1, "{pointer} {value}: {findings:?}");
        assert_eq!(findings[0].field, field, "{pointer} {value}");
        assert!(findings[0].problem.starts_with(problem), "{findings:?}");
    }
}

#[test]
fn what_the_schema_takes_the_compiler_takes_too() {
    // The two must agree: a value that only one of them refuses would be a surprise to somebody.
    for name in ["a.com", "*.a.com", "xn--bcher-kva.example", "1.2.3.a", "a.b.c.d.e"] {
        assert!(with("/spec/hostnames/0", json!(name)).is_empty(), "{name}");
        assert!(name.parse::<crate::routing::Hostname>().is_ok(), "{name}");
    }
    for address in ["127.0.0.1:8080", "[::1]:80", "app.lan:443", "my_db:5432", "unix:/run/app.sock"] {
        assert!(with("/spec/routes/0/backend/targets/0/address", json!(address)).is_empty(), "{address}");
        assert!(address.parse::<crate::routing::Target>().is_ok(), "{address}");
    }
}

/// The names of fields in the rules of the schema are those that the proxy goes by.
#[test]
fn the_fields_that_are_not_for_rules_are_those_of_the_proxy() {
    let schema = Schema::of(ObjectKind::TunnelHost).root.to_string();
    let mut lists: Vec<Vec<&str>> = schema
        .split("(?i)^(")
        .skip(1)
        .map(|rest| {
            let mut names: Vec<&str> = rest.split_once(')').expect("an end").0.split('|').collect();
            names.sort_unstable();
            names
        })
        .collect();
    lists.sort();
    lists.dedup();
    let sorted = |names: &[&[&'static str]]| {
        let mut names = names.concat();
        names.sort_unstable();
        names
    };
    let changed = sorted(&[&OF_HOP, &[PROXY], &OF_FRAMING]);
    let matched = sorted(&[&OF_HOP, &[PROXY]]);
    assert!(changed.iter().all(|name| is_protected(name)) && matched.iter().all(|name| is_never_routed(name)));
    assert_eq!(lists, [changed, matched]);
}

/// What the schema lets through as a host is what visitors may ask for, too; it cannot count, neither ports nor an address's pieces.
#[test]
fn the_hosts_of_the_schema_are_those_of_the_proxy() {
    for host in [
        "a", "a:80", "a:", "a.", "my_db", "a~b", "[::1]:80", "a b", "a/b", "a:b", "a:80:80", "a:999999", "::1", "[x]",
        "a,b",
    ] {
        let is_good = is_authority(host.as_bytes());
        assert_eq!(with("/spec/routes/0/backend/hostHeader", json!(host)).is_empty(), is_good, "{host}");
        let check = json!({"http": {"path": "/", "host": host}});
        assert_eq!(with("/spec/routes/0/backend/healthCheck", check).is_empty(), is_good, "{host}");
    }
}
