use k8s_openapi::{ByteString, apimachinery::pkg::apis::meta::v1::Time};
use serde_json::{Value, json};

use super::*;
use crate::{
    api::{ConditionStatus, ConditionType, SecretType},
    routing::{Backend, Filter, Lookup, Password, RequestInfo},
};

mod certificates;
mod permissions;
mod policies;

/// The metadata of an object that was made so many seconds after the first.
fn metadata(name: &str, namespace: &str, age: i64) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        generation: Some(1),
        creation_timestamp: Some(Time(Timestamp::from_second(1_000_000 + age).expect("a time"))),
        ..ObjectMeta::default()
    }
}

/// A TunnelHost `namespace/name` with a spec that may leave out `path` and `backend`.
fn host(name: &str, age: i64, spec: &Value) -> Arc<TunnelHost> {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    let mut spec = spec.clone();
    for route in spec["routes"].as_array_mut().expect("routes").iter_mut().filter(|r| r.get("redirect").is_none()) {
        let backend = json!({"agents": [{"name": "home"}], "targets": [{"address": "127.0.0.1:80"}]});
        route.as_object_mut().expect("an object").entry("backend").or_insert(backend);
    }
    let spec = serde_json::from_value(spec).expect("a spec");
    Arc::new(TunnelHost { metadata: metadata(name, namespace, age), spec, status: None })
}

/// A TunnelHost with these hostnames and one route, the prefix `/`.
fn plain(name: &str, age: i64, hostnames: &[&str]) -> Arc<TunnelHost> {
    host(name, age, &json!({"hostnames": hostnames, "routes": [{}]}))
}

fn agent(name: &str) -> Arc<TunnelAgent> {
    agent_with(name, &json!({"credentials": [{"secretRef": {"name": "token"}}]}))
}

fn agent_with(name: &str, spec: &Value) -> Arc<TunnelAgent> {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    let spec = serde_json::from_value(spec.clone()).expect("a spec");
    Arc::new(TunnelAgent { metadata: metadata(name, namespace, 0), spec, status: None })
}

fn secret(name: &str, kind: SecretType, data: &[(&str, &str)]) -> Arc<Secret> {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    let data = data.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
    Arc::new(Secret {
        metadata: metadata(name, namespace, 0),
        type_: Some(kind.as_str().to_owned()),
        data: Some(data.collect()),
        ..Secret::default()
    })
}

fn token(name: &str) -> Arc<Secret> {
    secret(name, SecretType::AgentToken, &[("token", "0123456789abcdef")])
}

/// Objects with the agent `home` in the namespaces `web` and `other`.
fn objects(tunnel_hosts: Vec<Arc<TunnelHost>>) -> Objects {
    Objects {
        tunnel_hosts,
        tunnel_agents: vec![agent("web/home"), agent("other/home")],
        secrets: vec![token("web/token"), token("other/token")],
        ..Objects::default()
    }
}

/// The TunnelHost and route that answers, or what is found instead.
#[track_caller]
fn found(compiled: &Compiled, host: &str, path: &str) -> String {
    match compiled.table.lookup(EntryPoint::Http, &RequestInfo::get(host, path)) {
        Lookup::Rule(rule) => match &rule.backend {
            Backend::Tunnel(_) | Backend::Redirect(_) => rule.id.to_string(),
            Backend::Invalid(_) => format!("{} invalid", rule.id),
        },
        other => format!("{other:?}"),
    }
}

#[track_caller]
fn verdict<'a>(compiled: &'a Compiled, kind: ObjectKind, name: &str) -> &'a Verdict {
    let name: ObjectName = name.parse().expect("a name");
    compiled.verdicts.iter().find(|verdict| verdict.kind == kind && verdict.name == name).expect("a verdict")
}

/// The reason and the message of a condition of a TunnelHost.
#[track_caller]
fn judged(compiled: &Compiled, name: &str, condition: ConditionType) -> (Reason, String) {
    judged_of(compiled, ObjectKind::TunnelHost, name, condition)
}

#[track_caller]
fn judged_of(compiled: &Compiled, kind: ObjectKind, name: &str, condition: ConditionType) -> (Reason, String) {
    let judgement = verdict(compiled, kind, name).condition(condition).expect("the condition");
    let holds = matches!(judgement.reason, Reason::Accepted | Reason::ResolvedRefs);
    assert_eq!(holds, judgement.status == ConditionStatus::True, "{judgement:?}");
    (judgement.reason, judgement.message.clone())
}

use crate::api::Reason;
use ConditionType::{Accepted, ResolvedRefs};

#[test]
fn what_is_right_is_accepted_and_routed() {
    let compiled = compile(&objects(vec![plain("web/shop", 1, &["shop.example.com", "*.shop.example.com"])]), None);
    assert_eq!(judged(&compiled, "web/shop", Accepted), (Reason::Accepted, "2 hostnames and 1 route".into()));
    assert_eq!(judged(&compiled, "web/shop", ResolvedRefs), (Reason::ResolvedRefs, "1 agent found".into()));
    assert_eq!(found(&compiled, "shop.example.com", "/x"), "web/shop routes[0]");
    assert_eq!(found(&compiled, "a.b.shop.example.com", "/"), "web/shop routes[0]");
    let verdict = verdict(&compiled, ObjectKind::TunnelHost, "web/shop");
    assert_eq!((verdict.routes, verdict.generation), (1, Some(1)));
    assert_eq!(verdict.agents, [ObjectName::new("web", "home")]);
    assert_eq!(compiled.rule_count(), 1);
}

#[test]
fn the_namespace_of_the_oldest_object_owns_the_hostname() {
    let older = plain("web/shop", 1, &["shop.example.com"]);
    let younger = plain("other/shop", 2, &["shop.example.com", "free.example.com"]);
    let compiled = compile(&objects(vec![younger.clone(), older]), None);
    assert_eq!(found(&compiled, "shop.example.com", "/"), "web/shop routes[0]");
    assert_eq!(found(&compiled, "free.example.com", "/"), "other/shop routes[0]");
    assert_eq!(judged(&compiled, "web/shop", Accepted).0, Reason::Accepted);
    assert_eq!(
        judged(&compiled, "other/shop", Accepted),
        (
            Reason::HostnameConflict,
            "spec.hostnames[0]: \"shop.example.com\" belongs to namespace \"web\", whose TunnelHost web/shop is older; \
             choose another hostname, or have that one removed"
                .into()
        )
    );
    // The owner goes: the other takes over.
    let compiled = compile(&objects(vec![younger]), Some(&compiled));
    assert_eq!(found(&compiled, "shop.example.com", "/"), "other/shop routes[0]");
    assert_eq!(judged(&compiled, "other/shop", Accepted).0, Reason::Accepted);
}

#[test]
fn of_objects_of_one_second_the_first_by_name_is_the_older() {
    let hosts = vec![plain("web/b", 1, &["a.com"]), plain("web/a", 1, &["a.com"]), plain("other/z", 1, &["a.com"])];
    let compiled = compile(&objects(hosts), None);
    assert_eq!(found(&compiled, "a.com", "/"), "other/z routes[0]");
    assert_eq!(judged(&compiled, "web/a", Accepted).0, Reason::HostnameConflict);
}

#[test]
fn who_owns_a_wildcard_owns_the_names_under_it_except_older_ones() {
    let hosts = vec![
        plain("other/early", 1, &["early.example.com"]),
        plain("web/wildcard", 2, &["*.example.com"]),
        plain("other/late", 3, &["late.example.com", "*.sub.example.com"]),
        plain("web/own", 4, &["own.example.com"]),
    ];
    let compiled = compile(&objects(hosts), None);
    assert_eq!(found(&compiled, "early.example.com", "/"), "other/early routes[0]");
    assert_eq!(found(&compiled, "late.example.com", "/"), "web/wildcard routes[0]");
    assert_eq!(found(&compiled, "x.sub.example.com", "/"), "web/wildcard routes[0]");
    assert_eq!(found(&compiled, "own.example.com", "/"), "web/own routes[0]");
    let (reason, message) = judged(&compiled, "other/late", Accepted);
    assert_eq!(reason, Reason::HostnameConflict);
    assert!(
        message.starts_with(
            "spec.hostnames[0]: \"late.example.com\" belongs to namespace \"web\" by \"*.example.com\", whose \
             TunnelHost web/wildcard is older"
        ),
        "{message}"
    );
    assert_eq!(verdict(&compiled, ObjectKind::TunnelHost, "other/late").routes, 0);
}

#[test]
fn the_nearest_wildcard_decides_who_owns_a_name() {
    let hosts = vec![
        plain("web/near", 1, &["*.b.example.com"]),
        plain("other/far", 2, &["*.example.com"]),
        plain("web/mine", 3, &["x.b.example.com"]),
        plain("other/theirs", 4, &["y.b.example.com"]),
    ];
    let compiled = compile(&objects(hosts), None);
    assert_eq!(judged(&compiled, "web/mine", Accepted).0, Reason::Accepted);
    assert_eq!(judged(&compiled, "other/theirs", Accepted).0, Reason::HostnameConflict);
}

#[test]
fn a_hostname_that_was_refused_claims_nothing() {
    let hosts = vec![
        plain("web/first", 1, &["a.com"]),
        plain("other/loser", 2, &["a.com", "*.a.com"]),
        plain("web/second", 3, &["b.a.com"]),
    ];
    let compiled = compile(&objects(hosts), None);
    // other/loser got *.a.com all the same, and with it b.a.com.
    assert_eq!(found(&compiled, "b.a.com", "/"), "other/loser routes[0]");
    assert_eq!(judged(&compiled, "web/second", Accepted).0, Reason::HostnameConflict);
}

#[test]
fn objects_of_the_owner_share_a_hostname_and_the_most_specific_path_wins() {
    let routes = |routes: Value| json!({"hostnames": ["a.com"], "routes": routes});
    let hosts = vec![
        host("web/app", 1, &routes(json!([{}, {"path": {"value": "/api/"}}]))),
        host("web/acme", 2, &routes(json!([{"path": {"type": "Exact", "value": "/.well-known/x"}}]))),
        host("web/deep", 3, &routes(json!([{"path": {"value": "/api/v1"}}]))),
    ];
    let compiled = compile(&objects(hosts), None);
    assert_eq!(found(&compiled, "a.com", "/"), "web/app routes[0]");
    assert_eq!(found(&compiled, "a.com", "/.well-known/x"), "web/acme routes[0]");
    assert_eq!(found(&compiled, "a.com", "/api"), "web/app routes[1]");
    assert_eq!(found(&compiled, "a.com", "/api/v1/x"), "web/deep routes[0]");
    assert_eq!(found(&compiled, "a.com", "/api/v2"), "web/app routes[1]");
}

#[test]
fn of_two_equal_paths_the_older_wins_and_the_other_is_told() {
    let hosts = vec![
        host("web/new", 2, &json!({"hostnames": ["a.com"], "routes": [{}, {"path": {"value": "/new"}}]})),
        plain("web/old", 1, &["a.com"]),
    ];
    let compiled = compile(&objects(hosts), None);
    assert_eq!(found(&compiled, "a.com", "/"), "web/old routes[0]");
    assert_eq!(found(&compiled, "a.com", "/new"), "web/new routes[1]");
    assert_eq!(
        judged(&compiled, "web/new", Accepted),
        (
            Reason::RouteConflict,
            "spec.routes[0]: Prefix \"/\" of \"a.com\" is taken by spec.routes[0] of TunnelHost web/old, which is \
             older; choose another path or match"
                .into()
        )
    );
}

#[test]
fn a_path_that_is_twice_in_one_object_is_told() {
    let routes = json!([{"path": {"value": "/a"}}, {"path": {"value": "/a/"}}]);
    let compiled = compile(&objects(vec![host("web/a", 1, &json!({"hostnames": ["a.com"], "routes": routes}))]), None);
    assert_eq!(found(&compiled, "a.com", "/a/x"), "web/a routes[0]");
    assert_eq!(
        judged(&compiled, "web/a", Accepted).1,
        "spec.routes[1]: Prefix \"/a\" of \"a.com\" is taken by spec.routes[0] of this object, which comes first; \
         choose another path or match"
    );
}

#[test]
fn wrong_values_are_told_and_the_rest_is_routed() {
    let spec = json!({
        "hostnames": ["under_score.com", "a.com"],
        "routes": [
            {},
            {"path": {"value": "no-slash"}},
            {"path": {"value": "/half"}, "backend": {
                "agents": [{"name": "home"}], "targets": [{"address": "nowhere"}, {"address": "127.0.0.1:81"}]}},
            {"path": {"value": "/none"}, "backend": {
                "agents": [{"name": "home"}], "targets": [{"address": "127.0.0.1:0"}]}},
            {"path": {"value": "/header"}, "backend": {
                "agents": [{"name": "home"}], "targets": [{"address": "b:1"}], "hostHeader": "a\r\nX: y"}},
        ],
    });
    let compiled = compile(&objects(vec![host("web/a", 1, &spec)]), None);
    assert_eq!(found(&compiled, "a.com", "/"), "web/a routes[0]");
    assert_eq!(found(&compiled, "a.com", "/half"), "web/a routes[2]");
    // Not the prefix "/": a broken route never falls through.
    assert_eq!(found(&compiled, "a.com", "/none"), "web/a routes[3] invalid");
    assert_eq!(found(&compiled, "a.com", "/header"), "web/a routes[4] invalid");
    let (reason, message) = judged(&compiled, "web/a", Accepted);
    assert_eq!(reason, Reason::UnsupportedValue);
    let problems: Vec<&str> = message.split("; ").filter(|part| part.starts_with("spec.")).collect();
    assert_eq!(
        problems,
        [
            "spec.hostnames[0]: \"under_score.com\" is no hostname: the label \"under_score\" is not 1 to 63 of a-z, 0-9 and \
         '-', beginning and ending with a letter or digit",
            "spec.routes[1].path.value: \"no-slash\" is no path: it must begin with '/'",
            "spec.routes[2].backend.targets[0].address: \"nowhere\": it has no port",
            "spec.routes[3].backend.targets[0].address: \"127.0.0.1:0\": the port \"0\" is not a number from 1 to 65535",
            "spec.routes[4].backend.hostHeader: \"a\\r\\nX: y\" is not HOST or HOST:PORT",
        ]
    );
    assert_eq!(judged(&compiled, "web/a", ResolvedRefs).0, Reason::ResolvedRefs);
}

#[test]
fn a_long_list_of_problems_is_cut() {
    let routes: Vec<Value> = (0..20).map(|n| json!({"path": {"value": format!("wrong{n}")}})).collect();
    let compiled = compile(&objects(vec![host("web/a", 1, &json!({"hostnames": ["a.com"], "routes": routes}))]), None);
    let message = judged(&compiled, "web/a", Accepted).1;
    assert!(message.ends_with("; and 15 more"), "{message}");
}

#[test]
fn a_route_keeps_the_agents_that_exist() {
    let backend = |agents: Value| json!({"agents": agents, "targets": [{"address": "127.0.0.1:80"}]});
    let spec = json!({"hostnames": ["a.com"], "routes": [
        {"backend": backend(json!([{"name": "gone"}, {"name": "home"}]))},
        {"path": {"value": "/broken"}, "backend": backend(json!([{"name": "gone"}]))},
    ]});
    let compiled = compile(&objects(vec![host("web/a", 1, &spec)]), None);
    let Lookup::Rule(rule) = compiled.table.lookup(EntryPoint::Http, &RequestInfo::get("a.com", "/")) else {
        panic!("no rule")
    };
    let Backend::Tunnel(tunnel) = &rule.backend else { panic!("{rule:?}") };
    let agents: Vec<_> = tunnel.places.all().iter().map(|place| &place.agent).collect();
    assert_eq!(agents, [&ObjectName::new("web", "home")]);
    assert_eq!(found(&compiled, "a.com", "/broken"), "web/a routes[1] invalid");
    let (reason, message) = judged(&compiled, "web/a", ResolvedRefs);
    assert_eq!(reason, Reason::AgentNotFound);
    assert_eq!(
        message,
        "spec.routes[0].backend.agents[0].name: no TunnelAgent \"gone\" in namespace \"web\"; create it, or correct the \
         name; spec.routes[1].backend.agents[0].name: no TunnelAgent \"gone\" in namespace \"web\"; create it, or correct \
         the name"
    );
}

/// A TunnelHost that asks for a password, with the Secret `users` if there is one.
fn protected(secret: Option<Arc<Secret>>) -> Compiled {
    let auth = json!({"basic": {"secretRef": {"name": "users"}, "realm": "Shop"}});
    let spec = json!({"hostnames": ["a.com"], "auth": auth, "routes": [{}, {"path": {"value": "/x"}}]});
    let mut objects = objects(vec![host("web/a", 1, &spec)]);
    objects.secrets.extend(secret);
    compile(&objects, None)
}

#[test]
fn users_of_both_types_of_secret_may_enter() {
    let plain = secret("web/users", SecretType::BasicAuth, &[("username", "ann"), ("password", "secret")]);
    let hash = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";
    let lines = format!("# people\n\nann:{hash}\n bob:{hash}\n");
    let hashed = secret("web/users", SecretType::Htpasswd, &[("auth", &lines)]);
    for (secret, names) in [(plain, vec!["ann"]), (hashed, vec!["ann", "bob"])] {
        let compiled = protected(Some(secret));
        assert_eq!(judged(&compiled, "web/a", ResolvedRefs).0, Reason::ResolvedRefs);
        let Lookup::Rule(rule) = compiled.table.lookup(EntryPoint::Http, &RequestInfo::get("a.com", "/")) else {
            panic!("no rule")
        };
        let [Filter::BasicAuth(auth)] = &rule.filters[..] else { panic!("{rule:?}") };
        assert_eq!(&*auth.realm, "Shop");
        assert_eq!(auth.users.iter().map(|user| &*user.name).collect::<Vec<_>>(), names);
        assert_eq!(matches!(auth.users[0].password, Password::Plain(_)), names.len() == 1);
    }
}

#[test]
fn without_its_secret_a_protected_host_answers_500_and_is_never_open() {
    let wrong_type = secret("web/users", SecretType::AgentToken, &[("token", "0123456789abcdef")]);
    let elsewhere = secret("other/users", SecretType::BasicAuth, &[("username", "ann"), ("password", "secret")]);
    let missing = "no Secret \"users\" of type kubernetes.io/basic-auth or culvert.dev/htpasswd in namespace \"web\"; \
                   create it, or correct the name";
    let other_type = "Secret \"users\" in namespace \"web\" is of type culvert.dev/agent-token, not \
                      kubernetes.io/basic-auth or culvert.dev/htpasswd; a type cannot be changed: delete it and create \
                      it anew";
    for (secret, reason, problem) in [
        (None, Reason::SecretNotFound, missing),
        (Some(wrong_type), Reason::InvalidSecret, other_type),
        (Some(elsewhere), Reason::SecretNotFound, missing),
    ] {
        let compiled = protected(secret);
        assert_eq!(found(&compiled, "a.com", "/"), "web/a routes[0] invalid");
        assert_eq!(found(&compiled, "a.com", "/x"), "web/a routes[1] invalid");
        assert_eq!(
            judged(&compiled, "web/a", ResolvedRefs),
            (
                reason,
                format!("spec.auth.basic.secretRef.name: {problem}; until then all routes that it covers answer 500")
            )
        );
        assert_eq!(judged(&compiled, "web/a", Accepted).0, Reason::Accepted);
    }
}

#[test]
fn a_wrong_auth_secret_is_told_by_key_and_line_without_its_values() {
    let costly = "$2y$31$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";
    let fine = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";
    let htpasswd = |text: &str| secret("web/users", SecretType::Htpasswd, &[("auth", text)]);
    let cases = [
        (htpasswd("ann:$2y$05$short"), "line 1 has no bcrypt hash (a bcrypt hash that is cut off or misspelt)"),
        (htpasswd(&format!("ann:{fine}\nbob:hunter2")), "line 2 has no bcrypt hash (plain text or DES"),
        (htpasswd("# x\nann:$apr1$hunter2$x"), "line 2 has no bcrypt hash (MD5, which is refused)"),
        (htpasswd("ann:{SHA}hunter2"), "line 1 has no bcrypt hash (SHA-1, which is refused)"),
        (htpasswd(&format!("ann:{costly}")), "line 1 has a bcrypt cost of 31, the most is 14"),
        (htpasswd(&format!("ann:{fine}\nann:{fine}")), "line 2 is for the same user as line 1"),
        (htpasswd("hunter2"), "line 1 is not USER:HASH"),
        (htpasswd("\n# nobody\n"), "it has no line USER:HASH"),
        (secret("web/users", SecretType::BasicAuth, &[("username", "ann")]), "has no key \"password\""),
        (
            secret("web/users", SecretType::BasicAuth, &[("username", "a:b"), ("password", "hunter2")]),
            "key \"username\": a user's name cannot have ':'",
        ),
    ];
    for (secret, expected) in cases {
        let compiled = protected(Some(secret));
        let (reason, message) = judged(&compiled, "web/a", ResolvedRefs);
        assert_eq!(reason, Reason::InvalidSecret, "{message}");
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        assert!(!message.contains("hunter2") && !message.contains("c4WoMPo"), "{message:?} shows a value");
        assert_eq!(found(&compiled, "a.com", "/"), "web/a routes[0] invalid");
    }
}

#[test]
fn an_agent_has_the_credentials_that_are_right() {
    let spec = json!({
        "credentials": [{"secretRef": {"name": "gone"}}, {"secretRef": {"name": "token"}}, {"secretRef": {"name": "short"}}],
        "limits": {"connections": 7},
    });
    let mut objects = objects(vec![]);
    objects.tunnel_agents = vec![agent_with("web/home", &spec)];
    objects.secrets.push(secret("web/short", SecretType::AgentToken, &[("token", "hunter2")]));
    let compiled = compile(&objects, None);
    let entry = compiled.agents.get(&ObjectName::new("web", "home")).expect("the agent");
    assert_eq!(entry.max_connections, Some(7));
    let names: Vec<&str> = entry.credentials.iter().map(|credential| &*credential.secret).collect();
    assert_eq!(names, ["token"]);
    assert!(entry.credentials[0].token.verify(b"0123456789abcdef"));
    let (reason, message) = judged_of(&compiled, ObjectKind::TunnelAgent, "web/home", ResolvedRefs);
    // What is wrong comes before what is missing.
    assert_eq!(reason, Reason::InvalidSecret);
    assert_eq!(
        message,
        "spec.credentials[2].secretRef.name: Secret \"short\", key \"token\": it is shorter than 16 bytes; `culvert token` \
         makes a good one; spec.credentials[0].secretRef.name: no Secret \"gone\" of type culvert.dev/agent-token in \
         namespace \"web\"; create it, or correct the name"
    );
}

#[test]
fn a_senseless_limit_is_not_no_limit() {
    let spec = json!({"credentials": [{"secretRef": {"name": "token"}}], "limits": {"connections": -1}});
    let mut objects = objects(vec![]);
    objects.tunnel_agents = vec![agent_with("web/home", &spec)];
    let compiled = compile(&objects, None);
    assert_eq!(compiled.agents.get(&ObjectName::new("web", "home")).expect("the agent").max_connections, Some(0));
    assert_eq!(judged_of(&compiled, ObjectKind::TunnelAgent, "web/home", Accepted).0, Reason::UnsupportedValue);
}

#[test]
fn where_agents_may_come_from_and_how_many_is_kept_and_what_is_wrong_admits_nobody() {
    let compiled_with = |spec: Value| {
        let mut spec = spec;
        spec["credentials"] = json!([{"secretRef": {"name": "token"}}]);
        let mut objects = objects(vec![]);
        objects.tunnel_agents = vec![agent_with("web/home", &spec)];
        let compiled = compile(&objects, None);
        let entry = compiled.agents.get(&ObjectName::new("web", "home")).expect("the agent").clone();
        (entry, judged_of(&compiled, ObjectKind::TunnelAgent, "web/home", Accepted))
    };
    let (unset, _) = compiled_with(json!({}));
    assert_eq!((&unset.allowed_sources, unset.max_instances), (&None, 256));
    assert!(unset.admits([203, 0, 113, 7].into()));
    let (set, _) = compiled_with(json!({"allowedSources": ["203.0.113.0/24", "2001:db8::1"], "maxInstances": 2}));
    assert_eq!(set.max_instances, 2);
    for (source, admitted) in [
        ("203.0.113.7", true),
        ("::ffff:203.0.113.7", true),
        ("203.0.114.7", false),
        ("2001:db8::1", true),
        ("::1", false),
    ] {
        assert_eq!(set.admits(source.parse().expect(source)), admitted, "{source}");
    }
    let (wrong, judged) = compiled_with(json!({"allowedSources": ["203.0.113/24"], "maxInstances": 0}));
    assert!(!wrong.admits([203, 0, 113, 7].into()));
    assert_eq!((wrong.max_instances, judged.0), (0, Reason::UnsupportedValue));
    assert!(judged.1.contains("spec.allowedSources[0]: \"203.0.113/24\" is no network"), "{}", judged.1);
}

fn rule(compiled: &Compiled, host: &str) -> Arc<Rule> {
    match compiled.table.lookup(EntryPoint::Http, &RequestInfo::get(host, "/")) {
        Lookup::Rule(rule) => rule.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn unchanged_rules_are_taken_over_and_changed_ones_are_not() {
    let stays = plain("web/stays", 1, &["stays.com"]);
    let changes = |target: &str| {
        let backend = json!({"agents": [{"name": "home"}], "targets": [{"address": target}]});
        host("web/changes", 2, &json!({"hostnames": ["changes.com"], "routes": [{"backend": backend}]}))
    };
    let first = compile(&objects(vec![stays.clone(), changes("a:1")]), None);
    let second = compile(&objects(vec![stays, changes("a:2"), plain("web/new", 3, &["new.com"])]), Some(&first));
    assert!(Arc::ptr_eq(&rule(&first, "stays.com"), &rule(&second, "stays.com")));
    assert!(!Arc::ptr_eq(&rule(&first, "changes.com"), &rule(&second, "changes.com")));
    let Backend::Tunnel(tunnel) = &rule(&second, "changes.com").backend else { panic!("not a tunnel") };
    assert_eq!(tunnel.places.all()[0].target.as_str(), "a:2");
    assert!(Arc::ptr_eq(&first.agents, &second.agents));
    let third = compile(&Objects::default(), Some(&second));
    assert!(third.agents.iter().next().is_none());
}

#[test]
fn a_changed_password_changes_the_rule() {
    let users = |password: &str| {
        Some(secret("web/users", SecretType::BasicAuth, &[("username", "ann"), ("password", password)]))
    };
    let (first, second) = (protected(users("one")), protected(users("two")));
    assert_ne!(rule(&first, "a.com"), rule(&second, "a.com"));
    assert_eq!(rule(&first, "a.com"), rule(&protected(users("one")), "a.com"));
}

#[test]
fn many_hosts_under_one_wildcard_and_one_hostname_take_no_quadratic_time() {
    let mut hosts = vec![plain("web/all", 0, &["*.example.com"])];
    for n in 0..5_000 {
        hosts.push(plain(&format!("web/h{n}"), n + 1, &[&format!("h{n}.example.com")]));
        let shared = json!({"hostnames": ["shared.com"], "routes": [{"path": {"value": format!("/{n}")}}]});
        hosts.push(host(&format!("web/s{n}"), n + 1, &shared));
    }
    let objects = objects(hosts);
    let started = std::time::Instant::now();
    let compiled = compile(&objects, None);
    // 10,000 objects take some 0.1 s unoptimized; comparing each with each would take minutes.
    assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(found(&compiled, "h4999.example.com", "/"), "web/h4999 routes[0]");
    assert_eq!(found(&compiled, "shared.com", "/4999/x"), "web/s4999 routes[0]");
    assert_eq!(compiled.rule_count(), 10_001);
}
