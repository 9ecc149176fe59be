//! Writes `docs/crds.md`: what people need of the CustomResourceDefinitions, in a form that they can read.
//!
//! It is made of the definitions as JSON, so that it can only say what an API server is told. The words for conditions and
//! reasons come with their doc comments from the enums.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write as _,
};

use schemars::{JsonSchema, schema_for};
use serde_json::Value;

use super::{
    ConditionStatus::{self, False, True, Unknown},
    ConditionType, Reason, SecretType, crds,
};

const INTRODUCTION: &str = "<!-- Made from src/api by `CULVERT_GENERATE=1 cargo test --lib api`; edit the types there. -->

# The objects

Group `culvert.dev`, version `v1alpha1`. The API server refuses what breaks a bound or a rule of these tables, and
`culvert check` refuses the same offline; what needs other objects is told by [conditions](#conditions). `kubectl explain`
has the same texts. A field is here only if it works.
";

const SECRETS: &str = "
## Secrets

They are in the namespace of the object that refers to them. One of any other type is the same as none.

| type | what |
|---|---|
";

const CONDITIONS: &str = "
## Conditions

They have the form that all of Kubernetes uses (`metav1.Condition`): `type`, `status`, `reason`, `message`,
`lastTransitionTime`, `observedGeneration`. The message names object, field and remedy. Of several problems, what is wrong gives
the reason before what is missing, and the message lists up to five. `kubectl wait --for=condition=Ready` waits for all
that does not depend on an agent's being online.

| condition | of | holds if |
|---|---|---|
";

const REASONS: &str = "
A condition that is True has the reason that is called like it (`AgentConnected`: `Connected`, `BackendReachable`: `Reachable`). The others
(`Invalid` of `Accepted` is what `culvert check` says of an object that an API server would refuse):

| condition | status | reason | means |
|---|---|---|---|
";

/// Which reasons a condition has, as the rooms `compile` and `controller` give them.
const GIVEN: [(ConditionType, ConditionStatus, &[Reason]); 12] = [
    (ConditionType::Accepted, True, &[Reason::Accepted]),
    (ConditionType::Accepted, Unknown, &[Reason::Pending]),
    (
        ConditionType::Accepted,
        False,
        &[Reason::HostnameConflict, Reason::RouteConflict, Reason::UnsupportedValue, Reason::Invalid],
    ),
    (ConditionType::ResolvedRefs, True, &[Reason::ResolvedRefs]),
    (
        ConditionType::ResolvedRefs,
        False,
        &[
            Reason::RefNotPermitted,
            Reason::InvalidSecret,
            Reason::InvalidCertificate,
            Reason::SecretNotFound,
            Reason::AgentNotFound,
        ],
    ),
    (ConditionType::Programmed, True, &[Reason::Programmed]),
    (ConditionType::Programmed, False, &[Reason::Invalid]),
    (ConditionType::AgentConnected, True, &[Reason::Connected]),
    (ConditionType::AgentConnected, False, &[Reason::NoSession]),
    (ConditionType::BackendReachable, True, &[Reason::Reachable]),
    (ConditionType::BackendReachable, Unknown, &[Reason::Pending, Reason::NoSession]),
    (
        ConditionType::BackendReachable,
        False,
        &[Reason::Refused, Reason::Timeout, Reason::Unreachable, Reason::Unhealthy, Reason::TargetNotAllowed],
    ),
];

/// The whole document.
pub(super) fn markdown() -> String {
    let mut page = INTRODUCTION.to_owned();
    for crd in crds() {
        kind(&mut page, &serde_json::to_value(crd).expect("JSON"));
    }
    secrets(&mut page);
    conditions(&mut page);
    page
}

fn kind(page: &mut String, crd: &Value) {
    let (names, version) = (&crd["spec"]["names"], &crd["spec"]["versions"][0]);
    let schema = &version["schema"]["openAPIV3Schema"];
    let kind = text(&names["kind"]);
    write!(
        page,
        "\n## {kind}\n\n{}\n\n`kubectl get {}`, short `{}`; namespaced; in the category `{}`.\n",
        cell(&schema["description"]),
        text(&names["plural"]),
        text(&names["shortNames"][0]),
        text(&names["categories"][0]),
    )
    .expect("text");
    let mut told = HashMap::new();
    for part in ["spec", "status"] {
        let (path, schema) = (format!("{kind}.{part}"), &schema["properties"][part]);
        object(page, &path, schema, &description(schema), &mut told);
    }
    page.push_str("\n### Columns of `kubectl get ");
    page.push_str(text(&names["plural"]));
    page.push_str("`\n\n| column | shows | what |\n|---|---|---|\n");
    for column in list(&version["additionalPrinterColumns"]) {
        let (name, path) = (text(&column["name"]), text(&column["jsonPath"]));
        writeln!(page, "| {name} | `{path}` | {} |", cell(&column["description"])).expect("text");
    }
}

/// One section for an object, and after it those for the objects in it, except for those that have been `told`: what may
/// stand in several places is told at the first.
fn object(page: &mut String, path: &str, schema: &Value, introduction: &str, told: &mut HashMap<String, String>) {
    write!(page, "\n### {path}\n").expect("text");
    if !introduction.is_empty() {
        write!(page, "\n{introduction}\n").expect("text");
    }
    page.push_str("\n| field | type | default | what |\n|---|---|---|---|\n");
    let required = list(&schema["required"]);
    let mut inner = Vec::new();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let (items, below) = match field.get("items") {
            Some(items) => (items, format!("{path}.{name}[]")),
            None => (field, format!("{path}.{name}")),
        };
        let mut kind = kind_of(field);
        let mut what = description(field);
        if name == "conditions" {
            kind = "[Condition[]](#conditions)".to_owned();
        } else if items.get("properties").is_some() {
            let first = told.entry(items["properties"].to_string()).or_insert_with(|| {
                // What an object is for stands in its field's row already; items have a text of their own.
                let introduction = if field.get("items").is_some() { description(items) } else { String::new() };
                inner.push((below.clone(), items, introduction));
                below
            });
            kind = format!("[{kind}](#{})", anchor(first));
        } else if field.get("items").is_some() {
            what = format!("{what} {}", rules(items, "Each"));
        }
        let default = match field.get("default") {
            _ if required.contains(&Value::from(name.as_str())) => "**required**".to_owned(),
            Some(default) if name == "conditions" => {
                let word = |key| text(&default[0][key]);
                format!("`{}` is {}, `{}`", word("type"), word("status"), word("reason"))
            }
            Some(default) => format!("`{default}`"),
            None => String::new(),
        };
        writeln!(page, "| `{name}` | {kind} | {default} | {} |", what.trim_end()).expect("text");
    }
    for (path, schema, introduction) in inner {
        object(page, &path, schema, &introduction, told);
    }
}

/// What GitHub makes of a heading for links to it, as far as ours go.
fn anchor(heading: &str) -> String {
    heading.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect()
}

/// The type of a field with its bounds, as in `string[], 1 to 16, no two alike; each 1 to 253 characters`.
fn kind_of(schema: &Value) -> String {
    let int_or_string = schema["x-kubernetes-int-or-string"] == true;
    let kind = if int_or_string { "integer or string" } else { schema["type"].as_str().unwrap_or("any") };
    let range = |least: &str, most: &str, unit: &str| match (schema[least].as_f64(), schema[most].as_f64()) {
        (Some(least), Some(most)) => format!(", {least} to {most}{unit}"),
        (Some(least), None) => format!(", at least {least}{unit}"),
        (None, Some(most)) => format!(", at most {most}{unit}"),
        (None, None) => String::new(),
    };
    match kind {
        "array" => {
            let items = kind_of(&schema["items"]);
            let (item, bounds) = items.split_once(", ").unwrap_or((&items, ""));
            let keys: Vec<String> =
                list(&schema["x-kubernetes-list-map-keys"]).iter().map(|key| format!("`{}`", text(key))).collect();
            let unique = match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => ", no two alike".to_owned(),
                Some("map") => format!(", no two with one {}", keys.join(" and ")),
                _ => String::new(),
            };
            let each = if bounds.is_empty() { String::new() } else { format!("; each {bounds}") };
            format!("{item}[]{}{unique}{each}", range("minItems", "maxItems", ""))
        }
        "object" if schema["additionalProperties"].is_object() => {
            let values = kind_of(&schema["additionalProperties"]);
            format!("map of names to values{}; each {values}", range("minProperties", "maxProperties", ""))
        }
        "string" if schema["enum"].is_array() => {
            let values: Vec<String> = list(&schema["enum"]).iter().map(|value| format!("`{}`", text(value))).collect();
            values.join(" or ")
        }
        "string" if schema["format"] == "date-time" => "string, RFC 3339".to_owned(),
        "string" => format!("string{}", range("minLength", "maxLength", " characters")),
        _ => format!("{kind}{}", range("minimum", "maximum", "")),
    }
}

/// A schema's text and the rules beside its bounds.
fn description(schema: &Value) -> String {
    format!("{} {}", cell(&schema["description"]), rules(schema, "It")).trim_end().to_owned()
}

fn rules(schema: &Value, subject: &str) -> String {
    let rules = list(&schema["x-kubernetes-validations"]);
    let sentence = |rule: &Value| {
        let message = cell(&rule["message"]);
        if message.starts_with("must ") { format!("{subject} {message}.") } else { format!("Rule: {message}.") }
    };
    rules.iter().map(sentence).collect::<Vec<_>>().join(" ")
}

fn secrets(page: &mut String) {
    page.push_str(SECRETS);
    for (kind, (_, meaning)) in SecretType::ALL.iter().zip(words::<SecretType>()) {
        writeln!(page, "| `{}` | {meaning} |", kind.as_str()).expect("text");
    }
}

fn conditions(page: &mut String) {
    page.push_str(CONDITIONS);
    for (name, meaning) in words::<ConditionType>() {
        let of_hosts = [ConditionType::Programmed, ConditionType::BackendReachable].map(ConditionType::as_str);
        let of = if of_hosts.contains(&&*name) { "TunnelHost" } else { "both" };
        writeln!(page, "| `{name}` | {of} | {meaning} |").expect("text");
    }
    page.push_str(REASONS);
    let meanings = words::<Reason>();
    for (condition, status, reasons) in GIVEN.iter().filter(|(_, status, _)| *status != True) {
        for reason in *reasons {
            let (name, meaning) =
                meanings.iter().find(|(name, _)| name == reason.as_str()).expect("a described reason");
            let (condition, status) = (condition.as_str(), status.as_str());
            writeln!(page, "| `{condition}` | {status} | `{name}` | {meaning} |").expect("text");
        }
    }
    page.push_str(
        "\n`Ready` that is not True has the status, reason and message of the first of `Accepted`, `ResolvedRefs` and \
         `Programmed` that is\nnot.\n",
    );
}

/// The words of an enum with their meanings, from its doc comments.
fn words<T: JsonSchema>() -> Vec<(String, String)> {
    let schema = schema_for!(T).to_value();
    let word = |word: &Value| (text(&word["const"]).to_owned(), cell(&word["description"]));
    list(&schema["oneOf"]).iter().map(word).collect()
}

/// Text for a cell of a table: on one line, and outside of code nothing that Markdown would take for its own.
fn cell(value: &Value) -> String {
    let line = value.as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    let mut escaped = String::with_capacity(line.len());
    let mut code = false;
    for c in line.chars() {
        code ^= c == '`';
        if c == '|' || (!code && matches!(c, '\\' | '*' | '_' | '<' | '[')) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[test]
fn every_condition_and_reason_is_told() {
    let names = |words: Vec<(String, String)>| words.into_iter().map(|(name, _)| name).collect::<BTreeSet<_>>();
    let given = GIVEN.iter().flat_map(|(_, _, reasons)| reasons.iter()).chain([&Reason::Ready]);
    assert_eq!(given.map(|reason| reason.as_str().to_owned()).collect::<BTreeSet<_>>(), names(words::<Reason>()));
    let judged = GIVEN.iter().map(|(condition, ..)| condition).chain([&ConditionType::Ready]);
    let judged: BTreeSet<_> = judged.map(|condition| condition.as_str().to_owned()).collect();
    assert_eq!(judged, names(words::<ConditionType>()));
}

#[test]
fn every_link_leads_to_a_heading() {
    let page = markdown();
    let headings: BTreeSet<_> =
        page.lines().filter_map(|line| line.split_once("# ")).map(|(_, heading)| anchor(heading)).collect();
    let links: Vec<_> = page.split("](#").skip(1).filter_map(|rest| rest.split_once(')')).collect();
    assert!(links.len() > 10, "only {} links", links.len());
    for (link, _) in links {
        assert!(headings.contains(link), "{link} is no heading of {headings:?}");
    }
}
