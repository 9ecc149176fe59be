use std::{collections::HashSet, fmt, sync::LazyLock};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::cel::{CompiledSchema, Validator, apply_defaults, compile_schema};
use serde_json::{Map, Value};

use super::ObjectKind;
use crate::{
    api,
    routing::{is_label, is_object},
};

/// The schema of a kind: what the API server refuses before the controller ever sees it, judged without an API server.
///
/// It covers what the generated schemas use: types, required and unknown fields, enums, bounds, patterns, lists that are
/// sets or maps, maps, and the CEL rules.
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
    let int_or_string = schema["x-kubernetes-int-or-string"] == true;
    let expected = if int_or_string { "integer or string" } else { schema["type"].as_str().unwrap_or("object") };
    let fits = match expected {
        "integer or string" => value.is_i64() || value.is_u64() || value.is_string(),
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
            if let Some(pattern) = schema["pattern"].as_str()
                && !regex::Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text))
            {
                findings.push(Finding::new(field, format!("{value} does not have the form {pattern}")));
            }
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
        match properties.and_then(|properties| properties.get(name)).or(schema.get("additionalProperties")) {
            Some(schema) => walk(schema, value, &field, findings),
            None => findings.push(Finding::unknown(&field)),
        }
    }
    check_bounds(schema, fields.len(), ["minProperties", "maxProperties"], "entries", field, findings);
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
        let key: Vec<&Value> = match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => vec![item],
            Some("map") => {
                let keys =
                    schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str);
                keys.map(|key| item.get(key).unwrap_or(&schema["items"]["properties"][key]["default"])).collect()
            }
            _ => continue,
        };
        let shown = || {
            let told = key.iter().filter(|part| **part != "" && !part.is_null());
            told.map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        if seen.contains(&key) {
            findings.push(Finding::new(&field, format!("{} is there twice; remove one", shown())));
        }
        seen.insert(key);
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
    match metadata["name"].as_str() {
        Some(name) if is_object(name) => {}
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
        Value::String(namespace) if is_label(namespace) => {}
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
mod tests;
