use std::{borrow::Cow, collections::BTreeMap, fmt, fs, io, path::Path};

use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Namespace, Secret},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::{SignedDuration, Timestamp},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_saphyr::{DefaultMessageFormatter, Localizer, Location, RenderOptions, SnippetMode};

use crate::{
    api::{GROUP, TunnelAgent, TunnelHost, VERSION},
    compile::{Finding, ObjectKind, Schema},
    routing::ObjectName,
};

/// The objects of one text: YAML documents or JSON, as `kubectl apply -f` takes them.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    /// The objects of Culvert's kinds, in their order.
    pub entries: Vec<Entry>,
    /// What else there was, as `apiVersion kind`.
    pub others: Vec<String>,
}

/// One object of a manifest.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its kind, as in `TunnelHost`.
    pub kind: &'static str,
    /// Its namespace (without one, `default`; of a Namespace, its own name) and name.
    pub name: ObjectName,
    /// The line of the text on which its document begins, from 1.
    pub line: usize,
    /// The object, or what an API server would refuse it for.
    pub object: Result<Object, Vec<Finding>>,
}

/// An object of one of the kinds that Culvert reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A TunnelHost.
    TunnelHost(Box<TunnelHost>),
    /// A TunnelAgent.
    TunnelAgent(Box<TunnelAgent>),
    /// A Secret; its `stringData` is part of its `data`.
    Secret(Box<Secret>),
    /// A Namespace, of which only the labels count.
    Namespace(Box<Namespace>),
}

/// The text is no YAML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct SyntaxError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there; it shows nothing of the text.
    pub problem: String,
}

/// Messages without the place of the problem, which [`SyntaxError`] tells by itself: the parser knows only the document.
struct WithoutPlace;

/// Gives creation times to objects without one, as files have them: younger than all that have one, in the order in which
/// they are dated. Nothing shows these times.
#[derive(Debug)]
pub struct Dating(Timestamp);

// === impl Manifest ===

impl Manifest {
    /// Reads a text.
    ///
    /// # Errors
    /// Where one of its documents is no YAML; then nothing of it is used.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let mut manifest = Self::default();
        for (line, document) in documents(text) {
            let value = serde_saphyr::from_str::<Value>(document).map_err(|error| SyntaxError::of(&error, line))?;
            manifest.add(value, line);
        }
        Ok(manifest)
    }

    fn add(&mut self, value: Value, line: usize) {
        let word = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let (api_version, kind) = (word("apiVersion"), word("kind"));
        if value.is_null() {
            return;
        }
        if kind == "List" || (kind.ends_with("List") && value["items"].is_array()) {
            let items = match value {
                Value::Object(mut list) => list.remove("items"),
                _ => None,
            };
            let Some(Value::Array(items)) = items else { return };
            for item in items {
                self.add(item, line);
            }
            return;
        }
        let (kind, object) = match (api_version.split_once('/').unwrap_or(("", &api_version)), kind.as_str()) {
            ((GROUP, VERSION), "TunnelHost") => ("TunnelHost", custom(ObjectKind::TunnelHost, &value, Object::host)),
            ((GROUP, VERSION), "TunnelAgent") => {
                ("TunnelAgent", custom(ObjectKind::TunnelAgent, &value, Object::agent))
            }
            (("", "v1"), "Secret") => ("Secret", secret(&value).map(|secret| Object::Secret(Box::new(secret)))),
            (("", "v1"), "Namespace") => ("Namespace", namespace(&value)),
            _ => {
                self.others.push(format!("{api_version} {kind}"));
                return;
            }
        };
        let name = |field: &str, unset| value["metadata"][field].as_str().unwrap_or(unset).to_owned();
        let name = match kind {
            "Namespace" => ObjectName::new(name("name", ""), name("name", "")),
            _ => ObjectName::new(name("namespace", "default"), name("name", "")),
        };
        self.entries.push(Entry { kind, name, line, object });
    }
}

// === impl SyntaxError ===

impl SyntaxError {
    /// What is wrong with a document that begins on line `first`.
    fn of(error: &serde_saphyr::Error, first: usize) -> Self {
        let before = first.saturating_sub(1);
        let line = error.location().and_then(|location| usize::try_from(location.line()).ok()).unwrap_or(1);
        let formatter = DefaultMessageFormatter.with_localizer(&WithoutPlace);
        let mut options = RenderOptions::new(&formatter);
        // The line may hold a password.
        options.snippets = SnippetMode::Off;
        // Other places that the message names, as of an anchor, are lines of the text, too.
        options.line_offset = before as u64;
        let message = error.without_snippet().render_with_options(options);
        Self { line: before + line, problem: message.lines().next().unwrap_or_default().to_owned() }
    }
}

// === impl WithoutPlace ===

impl Localizer for WithoutPlace {
    fn attach_location<'a>(&self, base: Cow<'a, str>, _: Location) -> Cow<'a, str> {
        base
    }
}

// === impl Object ===

impl Object {
    fn host(mut host: TunnelHost) -> Self {
        in_default_namespace(&mut host.metadata);
        Self::TunnelHost(Box::new(host))
    }

    fn agent(mut agent: TunnelAgent) -> Self {
        in_default_namespace(&mut agent.metadata);
        Self::TunnelAgent(Box::new(agent))
    }

    /// Its metadata.
    #[must_use]
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::TunnelHost(host) => &host.metadata,
            Self::TunnelAgent(agent) => &agent.metadata,
            Self::Secret(secret) => &secret.metadata,
            Self::Namespace(namespace) => &namespace.metadata,
        }
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::TunnelHost(host) => &mut host.metadata,
            Self::TunnelAgent(agent) => &mut agent.metadata,
            Self::Secret(secret) => &mut secret.metadata,
            Self::Namespace(namespace) => &mut namespace.metadata,
        }
    }
}

// === impl Dating ===

impl Dating {
    /// The year 9000, in seconds of Unix time.
    const FIRST: i64 = 221_845_392_000;

    /// Dates the next object.
    pub fn date(&mut self, object: &mut Object) {
        self.0 = self.0.checked_add(SignedDuration::from_millis(1)).unwrap_or(self.0);
        object.metadata_mut().creation_timestamp.get_or_insert(Time(self.0));
    }
}

impl Default for Dating {
    fn default() -> Self {
        Self(Timestamp::from_second(Self::FIRST).unwrap_or(Timestamp::MAX))
    }
}

// === impl Entry ===

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            "Namespace" => write!(f, "{} {}", self.kind, self.name.name),
            _ => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// The names of the files in a folder that are manifests, in order: `*.yaml`, `*.yml` and `*.json`, not those that begin
/// with a dot. Folders in it are not looked into, as `kubectl apply -f` does not.
///
/// # Errors
/// Where the folder cannot be read.
pub fn manifest_names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        let extension = Path::new(&name).extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("yaml" | "yml" | "json")) && !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The documents of a text, each with the number of its first line. Split by hand, as kubectl does, so that there is no
/// limit to their number and each has a place.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut first_line, mut offset) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let marker = line.strip_prefix("---").is_some_and(|rest| rest.trim_start() != rest || rest.is_empty());
        if marker && offset > start {
            documents.push((first_line, &text[start..offset]));
        }
        if marker {
            (start, first_line) = (offset, index + 1);
        }
        offset += line.len();
    }
    documents.push((first_line, &text[start..]));
    documents
}

fn custom<K: DeserializeOwned>(kind: ObjectKind, value: &Value, wrap: fn(K) -> Object) -> Result<Object, Vec<Finding>> {
    let findings = Schema::of(kind).check(value);
    if !findings.is_empty() {
        return Err(findings);
    }
    // What users give as status is dropped, as an API server drops it.
    let mut value = value.clone();
    value.as_object_mut().map(|fields| fields.remove("status"));
    let object = serde_json::from_value(value);
    object.map(wrap).map_err(|error| vec![Finding { field: String::new(), problem: error.to_string() }])
}

/// A Secret, read by hand: the messages of a generic decoder show values.
fn secret(value: &Value) -> Result<Secret, Vec<Finding>> {
    let mut findings = Vec::new();
    let mut finding = |field: &str, problem: &str| {
        findings.push(Finding { field: field.to_owned(), problem: problem.to_owned() });
    };
    let empty = Map::new();
    let mut data = BTreeMap::new();
    for (field, value) in value.as_object().unwrap_or(&empty) {
        match field.as_str() {
            "data" | "stringData" if value.is_object() || value.is_null() => {}
            "data" | "stringData" => finding(field, "must be a map of keys and values"),
            "type" if value.is_string() || value.is_null() => {}
            "type" => finding(field, "must be text"),
            "apiVersion" | "kind" | "metadata" | "immutable" => {}
            _ => finding(field, "unknown field; correct or remove it"),
        }
    }
    for (key, value) in value["data"].as_object().unwrap_or(&empty) {
        match value.as_str().map(|text| BASE64_STANDARD.decode(text.split_ascii_whitespace().collect::<String>())) {
            Some(Ok(bytes)) => drop(data.insert(key.clone(), ByteString(bytes))),
            Some(Err(_)) => finding(&format!("data.{key}"), "is not base64; plain text goes into stringData"),
            None => finding(&format!("data.{key}"), "must be base64 text"),
        }
    }
    for (key, value) in value["stringData"].as_object().unwrap_or(&empty) {
        match value.as_str() {
            Some(text) => drop(data.insert(key.clone(), ByteString(text.as_bytes().to_vec()))),
            None => finding(&format!("stringData.{key}"), "must be text; put it in quotes"),
        }
    }
    let metadata = match serde_json::from_value::<ObjectMeta>(value["metadata"].clone()) {
        Ok(metadata) if metadata.name.as_deref().is_some_and(|name| !name.is_empty()) => Some(metadata),
        Ok(_) => {
            finding("metadata.name", "required, and missing");
            None
        }
        Err(error) => {
            finding("metadata", &error.to_string());
            None
        }
    };
    match metadata {
        Some(mut metadata) if findings.is_empty() => {
            in_default_namespace(&mut metadata);
            let type_ = value["type"].as_str().map(str::to_owned);
            Ok(Secret { metadata, data: Some(data), type_, ..Secret::default() })
        }
        _ => Err(findings),
    }
}

/// A Namespace; whatever it has but metadata is of no interest.
fn namespace(value: &Value) -> Result<Object, Vec<Finding>> {
    let finding = |field: &str, problem: String| vec![Finding { field: field.to_owned(), problem }];
    let metadata = serde_json::from_value::<ObjectMeta>(value["metadata"].clone())
        .map_err(|error| finding("metadata", error.to_string()))?;
    if metadata.name.as_deref().is_none_or(str::is_empty) {
        return Err(finding("metadata.name", "required, and missing".to_owned()));
    }
    Ok(Object::Namespace(Box::new(Namespace { metadata, ..Namespace::default() })))
}

fn in_default_namespace(metadata: &mut ObjectMeta) {
    metadata.namespace.get_or_insert_with(|| "default".to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";

    #[track_caller]
    fn only(text: &str) -> Entry {
        let mut manifest = Manifest::parse(text).expect("YAML");
        assert_eq!(manifest.entries.len(), 1);
        manifest.entries.remove(0)
    }

    fn findings(text: &str) -> Vec<String> {
        only(text).object.expect_err("findings").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn documents_are_told_apart_and_have_their_lines() {
        let text = format!(
            "# first\n{SECRET}---\n\n---\n# nothing\n--- # second\n{SECRET}...\n---\nkind: Pod\napiVersion: v1\n"
        );
        let manifest = Manifest::parse(&text).expect("YAML");
        assert_eq!(manifest.entries.iter().map(|entry| entry.line).collect::<Vec<_>>(), [1, 9]);
        assert_eq!(manifest.others, ["v1 Pod"]);
        assert_eq!(manifest.entries[0].to_string(), "Secret default/s");
        assert!(Manifest::parse("").expect("nothing").entries.is_empty());
    }

    #[test]
    fn json_and_lists_are_manifests_too() {
        let secret = r#"{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "n"}}"#;
        assert_eq!(only(secret).to_string(), "Secret n/s");
        let list = format!(r#"{{"apiVersion": "v1", "kind": "List", "items": [{secret}]}}"#);
        assert_eq!(only(&list).to_string(), "Secret n/s");
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_line_and_without_its_text() {
        let error =
            Manifest::parse(&format!("{SECRET}---\n{SECRET}stringData:\n  a: [hunter2\n")).expect_err("unclosed");
        assert_eq!(error.to_string(), "line 9: unclosed bracket '['");
        let error = Manifest::parse(&format!("{SECRET}stringData: {{password: 'hunter2}}\n")).expect_err("unclosed");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn plain_and_encoded_values_of_a_secret_are_merged() {
        let text = format!("{SECRET}type: t\ndata: {{a: Zmlyc3Q=, b: Zmlyc3Q=}}\nstringData: {{b: second}}\n");
        let Ok(Object::Secret(secret)) = only(&text).object else { panic!("not a Secret") };
        let data = secret.data.expect("data");
        assert_eq!((&data["a"].0[..], &data["b"].0[..]), (&b"first"[..], &b"second"[..]));
        assert_eq!((secret.type_.as_deref(), secret.metadata.namespace.as_deref()), (Some("t"), Some("default")));
    }

    #[test]
    fn a_wrong_secret_is_told_by_key_and_never_by_value() {
        assert_eq!(
            findings(&format!("{SECRET}data: {{a: hunter2}}\n")),
            ["data.a: is not base64; plain text goes into stringData"]
        );
        assert_eq!(
            findings(&format!("{SECRET}stringData: {{a: 4711}}\n")),
            ["stringData.a: must be text; put it in quotes"]
        );
        assert_eq!(
            findings(&format!("{SECRET}stringdata: {{a: b}}\n")),
            ["stringdata: unknown field; correct or remove it"]
        );
        assert_eq!(findings("apiVersion: v1\nkind: Secret\nmetadata: {}\n"), ["metadata.name: required, and missing"]);
    }

    #[test]
    fn a_namespace_is_its_name_and_its_labels() {
        let entry = only("apiVersion: v1\nkind: Namespace\nmetadata: {name: web, labels: {team: a}}\nspec: {x: y}\n");
        assert_eq!(entry.to_string(), "Namespace web");
        let Ok(Object::Namespace(namespace)) = entry.object else { panic!("no Namespace") };
        assert_eq!(namespace.metadata.labels.expect("labels")["team"], "a");
        let wrong = "apiVersion: v1\nkind: Namespace\nmetadata: {}\n";
        assert_eq!(findings(wrong), ["metadata.name: required, and missing"]);
    }

    #[test]
    fn undated_objects_are_dated_in_order_and_after_all_others() {
        let mut dating = Dating::default();
        let mut date = |text: &str| {
            let mut object = only(text).object.expect("a Secret");
            dating.date(&mut object);
            object.metadata().creation_timestamp.clone().expect("a time").0
        };
        let (first, second) = (date(SECRET), date(SECRET));
        let dated = date(&SECRET.replace("{name: s}", "{name: s, creationTimestamp: \"2026-01-01T00:00:00Z\"}"));
        assert!(dated < first && first < second);
    }
}
