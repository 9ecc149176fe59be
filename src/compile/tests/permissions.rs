//! Agents of one namespace that are used from another.

use super::*;

const HOST: &str = "shop.example.com";

/// Objects with an agent `shared/home` of that permission, and TunnelHost `web/shop` whose one route leads to it.
fn shared(allowed: &Value) -> Objects {
    let spec = json!({"credentials": [{"secretRef": {"name": "token"}}], "allowedNamespaces": allowed});
    let backend = json!({
        "agents": [{"name": "home", "namespace": "shared"}],
        "targets": [{"address": "127.0.0.1:80"}],
    });
    let routes = json!([{"path": {"value": "/shared"}, "backend": backend}, {}]);
    Objects {
        tunnel_hosts: vec![host("web/shop", 1, &json!({"hostnames": [HOST], "routes": routes}))],
        tunnel_agents: vec![agent("web/home"), agent_with("shared/home", &spec)],
        secrets: vec![token("web/token"), token("shared/token")],
        ..Objects::default()
    }
}

fn with_labels(mut objects: Objects, labels: &[(&str, &str)]) -> Objects {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    objects.namespaces.insert("web".to_owned(), labels);
    objects
}

#[track_caller]
fn permitted(objects: &Objects) -> bool {
    let compiled = compile(objects, None);
    let (reason, _) = judged(&compiled, "web/shop", ResolvedRefs);
    let found = found(&compiled, HOST, "/shared");
    match reason {
        Reason::ResolvedRefs => assert_eq!(found, "web/shop routes[0]"),
        Reason::RefNotPermitted => assert_eq!(found, "web/shop routes[0] invalid", "it must not fall through"),
        other => panic!("{other:?}"),
    }
    reason == Reason::ResolvedRefs
}

#[test]
fn a_namespace_uses_agents_of_another_only_where_it_is_admitted() {
    assert!(!permitted(&shared(&Value::Null)));
    assert!(!permitted(&shared(&json!({"from": "Same"}))));
    assert!(permitted(&shared(&json!({"from": "All"}))));
    let of_team_a = json!({"from": "Selector", "selector": {"matchLabels": {"team": "a"}}});
    assert!(!permitted(&shared(&of_team_a)));
    assert!(permitted(&with_labels(shared(&of_team_a), &[("team", "a")])));
    assert!(!permitted(&with_labels(shared(&of_team_a), &[("team", "b")])));
    // Each namespace has its name as a label, also where nothing else is known of it.
    let by_name = json!({"from": "Selector", "selector": {"matchLabels": {"kubernetes.io/metadata.name": "web"}}});
    assert!(permitted(&shared(&by_name)));
}

#[test]
fn the_agents_own_namespace_needs_no_permission() {
    let mut objects = shared(&json!({"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}));
    let routes = json!({"hostnames": ["own.example.com"], "routes": [{}]});
    objects.tunnel_hosts.push(host("shared/own", 2, &routes));
    let compiled = compile(&objects, None);
    assert_eq!(judged(&compiled, "shared/own", ResolvedRefs).0, Reason::ResolvedRefs);
    assert_eq!(found(&compiled, "own.example.com", "/"), "shared/own routes[0]");
}

#[test]
fn whether_an_agent_of_another_namespace_exists_is_not_told() {
    let refused = compile(&shared(&Value::Null), None);
    let mut objects = shared(&Value::Null);
    objects.tunnel_agents.pop();
    let absent = compile(&objects, None);
    let told = |compiled: &Compiled| judged(compiled, "web/shop", ResolvedRefs);
    assert_eq!(told(&refused), told(&absent));
    let (reason, message) = told(&refused);
    assert_eq!(reason, Reason::RefNotPermitted);
    assert_eq!(
        message,
        "spec.routes[0].backend.agents[0]: there is no TunnelAgent \"home\" in namespace \"shared\" that admits namespace \
         \"web\"; have that added to its spec.allowedNamespaces, or correct the reference"
    );
    assert!(
        verdict(&refused, ObjectKind::TunnelHost, "web/shop").agents.iter().all(|agent| &*agent.namespace == "web")
    );
    // What only a reader of files cares for: whether the missing object may be elsewhere.
    let missing = |compiled: &Compiled| {
        verdict(compiled, ObjectKind::TunnelHost, "web/shop").condition(ResolvedRefs).expect("it").missing
    };
    assert!(!missing(&refused) && missing(&absent));
    let of_team_a = json!({"from": "Selector", "selector": {"matchLabels": {"team": "a"}}});
    assert!(missing(&compile(&shared(&of_team_a), None)));
    assert!(!missing(&compile(&with_labels(shared(&of_team_a), &[]), None)));
}

#[test]
fn an_agent_that_may_not_be_used_leaves_the_others_of_its_route() {
    let mut objects = shared(&Value::Null);
    let backend = json!({
        "agents": [{"name": "home", "namespace": "shared"}, {"name": "home"}],
        "targets": [{"address": "127.0.0.1:80"}],
    });
    objects.tunnel_hosts = vec![host("web/shop", 1, &json!({"hostnames": [HOST], "routes": [{"backend": backend}]}))];
    let compiled = compile(&objects, None);
    assert_eq!(judged(&compiled, "web/shop", ResolvedRefs).0, Reason::RefNotPermitted);
    assert_eq!(found(&compiled, HOST, "/"), "web/shop routes[0]");
    assert_eq!(verdict(&compiled, ObjectKind::TunnelHost, "web/shop").agents, [ObjectName::new("web", "home")]);
}

#[test]
fn where_namespaces_are_not_read_a_selector_is_refused_and_all_else_holds() {
    let unread = |allowed: &Value| Objects { namespaces_unread: true, ..shared(allowed) };
    assert!(!permitted(&unread(&json!({"from": "Same"}))));
    assert!(permitted(&unread(&json!({"from": "All"}))));
    // By name too: what a selector means must not depend on which labels it names.
    for labels in [json!({"team": "a"}), json!({"kubernetes.io/metadata.name": "web"}), json!({})] {
        let objects = unread(&json!({"from": "Selector", "selector": {"matchLabels": labels}}));
        assert!(!permitted(&objects));
        let compiled = compile(&objects, None);
        let agent = verdict(&compiled, ObjectKind::TunnelAgent, "shared/home");
        let accepted = agent.condition(Accepted).expect("it");
        assert_eq!((accepted.status, accepted.reason), (ConditionStatus::False, Reason::UnsupportedValue));
        assert!(
            accepted.message.starts_with("spec.allowedNamespaces.from: Selector")
                && accepted.message.contains("--watch-namespaces")
                && accepted.message.contains("set it to Same, or to All"),
            "{}",
            accepted.message
        );
        // Its own namespace and its processes have it as before.
        assert_eq!(compiled.agents.iter().filter(|agent| agent.name == ObjectName::new("shared", "home")).count(), 1);
    }
}
