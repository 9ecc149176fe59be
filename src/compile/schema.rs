use std::{collections::HashSet, fmt, sync::LazyLock};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::cel::{CompiledSchema, Validator, apply_defaults, compile_schema};
use serde_json::{Map, Value};

use super::ObjectKind;
use crate::api;

/// The schema of a kind: what the API server refuses before the controller ever sees it, judged without an API server.
///
/// It covers what the generated schemas use: types, required and unknown fields, enums, bounds, lists that are sets or
/// maps, and the CEL rules.
pub struct Schema {
    root: Value,
    rules: CompiledSchema,
}

/// One thing that the API server would refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The field, as in `spec.routes[1].backend`.
    pub field: String,
    /// What is wrong with it, and what it must be.
    pub problem: String,
}

static SCHEMAS: LazyLock<[Schema; 2]> = LazyLock::new(|| api::crds().map(|crd| Schema::new(&crd)));

// === impl Schema ===

impl Schema {
    /// The schema of objects of that kind.
    #[must_use]
    pub fn of(kind: ObjectKind) -> &'static Self {
        let [host, agent] = &*SCHEMAS;
        match kind {
            ObjectKind::TunnelHost => host,
            ObjectKind::TunnelAgent => agent,
        }
    }

    fn new(crd: &CustomResourceDefinition) -> Self {
        let schema = crd.spec.versions.first().and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref());
        // A schema that did not serialize would be empty and let everything pass; a test checks that it refuses.
        let root = schema.and_then(|schema| serde_json::to_value(schema).ok()).unwrap_or_default();
        let rules = compile_schema(&root);
        Self { root, rules }
    }

    /// What the API server would refuse of `object`; empty if nothing. `status` is not looked at: it is not the user's.
    #[must_use]
    pub fn check(&self, object: &Value) -> Vec<Finding> {
        let mut findings = Vec::new();
        let Some(fields) = object.as_object() else {
            return vec![Finding { field: String::new(), problem: "must be an object".to_owned() }];
        };
        check_metadata(fields.get("metadata"), &mut findings);
        for (name, value) in fields {
            match name.as_str() {
                "apiVersion" | "kind" | "metadata" | "status" => {}
                "spec" => walk(&self.root["properties"]["spec"], value, "spec", &mut findings),
                _ => findings.push(Finding::unknown(name)),
            }
        }
        if !fields.contains_key("spec") {
            findings.push(Finding::required("spec"));
        }
        // As in the API server, rules are asked only of what has the right form.
        if findings.is_empty() {
            let object = apply_defaults(&self.root, object);
            if let Err(errors) = Validator::new().validate_compiled(&self.rules, &object, None) {
                let finding = |error: kube::core::cel::ValidationError| Finding {
                    field: error.field_path.trim_start_matches('.').to_owned(),
                    problem: error.message,
                };
                findings.extend(errors.into_vec().into_iter().map(finding));
            }
        }
        findings
    }
}

// === impl Finding ===

impl Finding {
    fn new(field: &str, problem: impl Into<String>) -> Self {
        Self { field: field.to_owned(), problem: problem.into() }
    }

    fn unknown(field: &str) -> Self {
        Self::new(field, "unknown field; correct or remove it")
    }

    fn required(field: &str) -> Self {
        Self::new(field, "required, and missing")
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(&self.problem) } else { write!(f, "{}: {}", self.field, self.problem) }
    }
}

fn walk(schema: &Value, value: &Value, field: &str, findings: &mut Vec<Finding>) {
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    let expected = schema["type"].as_str().unwrap_or("object");
    let fits = match expected {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => true,
    };
    if !fits {
        // YAML takes `yes`, `on` and `y` for truth, and an address without dots for a number.
        let remedy = if expected == "string" && !value.is_null() { "; put it in quotes" } else { "" };
        findings.push(Finding::new(field, format!("must be of type {expected}, not {}{remedy}", type_of(value))));
        return;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let allowed: Vec<String> = allowed.iter().filter(|value| !value.is_null()).map(Value::to_string).collect();
        findings.push(Finding::new(field, format!("{value} is not supported; must be one of {}", allowed.join(", "))));
    }
    match value {
        Value::Object(fields) => walk_object(schema, fields, field, findings),
        Value::Array(items) => walk_array(schema, items, field, findings),
        Value::String(text) => {
            let length = text.chars().count();
            check_bounds(schema, length, ["minLength", "maxLength"], "characters", field, findings);
        }
        Value::Number(number) => {
            let bound = |name: &str| schema[name].as_f64();
            let number = number.as_f64().unwrap_or_default();
            if let Some(least) = bound("minimum").filter(|least| number < *least) {
                findings.push(Finding::new(field, format!("must be at least {least}")));
            }
            if let Some(most) = bound("maximum").filter(|most| number > *most) {
                findings.push(Finding::new(field, format!("must be at most {most}")));
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

fn walk_object(schema: &Value, fields: &Map<String, Value>, field: &str, findings: &mut Vec<Finding>) {
    let properties = schema["properties"].as_object();
    for (name, value) in fields {
        let field = format!("{field}.{name}");
        match properties.and_then(|properties| properties.get(name)) {
            Some(schema) => walk(schema, value, &field, findings),
            None => findings.push(Finding::unknown(&field)),
        }
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            findings.push(Finding::required(&format!("{field}.{name}")));
        }
    }
}

fn walk_array(schema: &Value, items: &[Value], field: &str, findings: &mut Vec<Finding>) {
    check_bounds(schema, items.len(), ["minItems", "maxItems"], "items", field, findings);
    let mut seen = HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let field = format!("{field}[{index}]");
        walk(&schema["items"], item, &field, findings);
        let key = match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => item.to_string(),
            Some("map") => {
                let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
                keys.filter_map(Value::as_str).map(|key| item[key].to_string()).collect::<Vec<_>>().join(" ")
            }
            _ => continue,
        };
        if !seen.insert(key.clone()) {
            findings.push(Finding::new(&field, format!("{key} is there twice; remove one")));
        }
    }
}

fn check_bounds(
    schema: &Value,
    length: usize,
    [least, most]: [&str; 2],
    unit: &str,
    field: &str,
    findings: &mut Vec<Finding>,
) {
    let bound = |name: &str| schema[name].as_u64().and_then(|bound| usize::try_from(bound).ok());
    if bound(least).is_some_and(|least| length < least) {
        findings.push(Finding::new(field, format!("must have at least {} {unit}", schema[least])));
    }
    if bound(most).is_some_and(|most| length > most) {
        findings.push(Finding::new(field, format!("must have at most {} {unit}", schema[most])));
    }
}

/// Name and namespace, by the rules for all objects (RFC 1123); the rest of the metadata has no effect here.
fn check_metadata(metadata: Option<&Value>, findings: &mut Vec<Finding>) {
    let metadata = metadata.unwrap_or(&Value::Null);
    let label = |text: &str| {
        let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        (1..=63).contains(&text.len()) && text.bytes().all(fine) && !text.starts_with('-') && !text.ends_with('-')
    };
    match metadata["name"].as_str() {
        Some(name) if name.len() <= 253 && name.split('.').all(label) => {}
        Some(name) => {
            let problem = format!("{name:?} must be of a-z, 0-9, '-' and '.', with a letter or digit at both ends");
            findings.push(Finding::new("metadata.name", problem));
        }
        None if metadata["name"].is_null() => findings.push(Finding::required("metadata.name")),
        None => {
            let problem = format!("must be of type string, not {}; put it in quotes", type_of(&metadata["name"]));
            findings.push(Finding::new("metadata.name", problem));
        }
    }
    match &metadata["namespace"] {
        Value::Null => {}
        Value::String(namespace) if label(namespace) => {}
        other => {
            let problem = format!("{other} must be up to 63 of a-z, 0-9 and '-', with a letter or digit at both ends");
            findings.push(Finding::new("metadata.namespace", problem));
        }
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
            assert_eq!(
                with("/spec/hostnames", json!(["a.com", wrong])),
                [format!("spec.hostnames[1]: {dns}")],
                "{wrong}"
            );
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

    #[test]
    fn what_the_schema_takes_the_compiler_takes_too() {
        // The two must agree: a value that only one of them refuses would be a surprise to somebody.
        for name in ["a.com", "*.a.com", "xn--bcher-kva.example", "1.2.3.a", "a.b.c.d.e"] {
            assert!(with("/spec/hostnames/0", json!(name)).is_empty(), "{name}");
            assert!(name.parse::<crate::routing::Hostname>().is_ok(), "{name}");
        }
        for address in ["127.0.0.1:8080", "[::1]:80", "app.lan:443", "my_db:5432"] {
            assert!(with("/spec/routes/0/backend/targets/0/address", json!(address)).is_empty(), "{address}");
            assert!(address.parse::<crate::routing::Target>().is_ok(), "{address}");
        }
    }
}
