//! The charts against the program and against themselves. What Helm and an API server think of it is in `tests/e2e`.
#![cfg(feature = "edge")]
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

const CHARTS: [&str; 2] = ["culvert", "culvert-agent"];

fn read(chart: &str, file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts").join(chart).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn versions_are_the_programs() {
    for name in CHARTS {
        let chart: Value = serde_saphyr::from_str(&read(name, "Chart.yaml")).unwrap();
        assert_eq!(chart["name"], name);
        assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"), "{name}");
        assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"), "the default image's tag of {name}");
    }
}

#[test]
fn every_value_is_in_the_schema_and_every_property_has_a_value() {
    for name in CHARTS {
        let values: Value = serde_saphyr::from_str(&read(name, "values.yaml")).unwrap();
        let schema: Value = serde_json::from_str(&read(name, "values.schema.json")).unwrap();
        let mut compared = 0;
        compare(&values, &schema, &schema, name, &mut compared);
        assert!(compared > 5, "compared {compared} objects only");
    }
}

/// Compares the keys of an object with its schema's properties, and so on inside it.
fn compare(value: &Value, schema: &Value, root: &Value, place: &str, compared: &mut usize) {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).expect("the schema's own reference"),
        None => schema,
    };
    // An object of free keys, such as annotations, has no properties to compare.
    let (Some(values), Some(properties)) = (value.as_object(), schema["properties"].as_object()) else { return };
    assert_eq!(schema["additionalProperties"], false, "a misspelt key is let through at {place:?}");
    let has: BTreeSet<_> = values.keys().collect();
    // `global` is Helm's own, and is there where this is a subchart.
    let known: BTreeSet<_> = properties.keys().filter(|key| *key != "global").collect();
    assert_eq!(has, known, "values and schema differ at {place:?}");
    *compared += 1;
    for (key, value) in values {
        compare(value, &properties[key], root, &format!("{place}.{key}"), compared);
    }
}

/// The flags that the agent's chart and the unit of systemd give are flags of the program.
#[cfg(feature = "agent")]
#[test]
fn the_agents_flags_are_the_programs() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/culvert-agent.service");
    let unit = fs::read_to_string(unit).expect("the unit");
    let unit = unit.lines().find(|line| line.starts_with("ExecStart=")).expect("a command").to_owned();
    are_flags_of("agent", &[&arguments("culvert-agent"), &unit]);
}

#[test]
fn the_edges_flags_are_the_programs() {
    are_flags_of("serve", &[&arguments("culvert")]);
}

/// The part of a chart's Deployment that gives the program its arguments.
fn arguments(chart: &str) -> String {
    let deployment = read(chart, "templates/deployment.yaml");
    let arguments = deployment.split_once("args:").and_then(|(_, rest)| rest.split_once("env:"));
    arguments.expect("arguments").0.to_owned()
}

fn are_flags_of(command: &str, texts: &[&str]) {
    let help = Command::new(env!("CARGO_BIN_EXE_culvert")).args([command, "--help"]).output();
    let help = String::from_utf8(help.expect("it ran").stdout).expect("text");
    let given: BTreeSet<&str> = texts
        .iter()
        .flat_map(|text| text.lines())
        .flat_map(|line| line.split(['"', ' ']))
        .filter_map(|word| word.strip_prefix("--")?.split('=').next())
        .collect();
    assert!(given.len() > 8, "{given:?}");
    for flag in given {
        // One without a value ends its line.
        let known = help.contains(&format!("--{flag} ")) || help.contains(&format!("--{flag}\n"));
        assert!(known, "--{flag} is no flag of culvert {command}");
    }
}

/// A file of rules that is named in the arguments is mounted, and where it is looked for.
#[test]
fn the_agents_rules_may_come_from_a_config_map() {
    let deployment = read("culvert-agent", "templates/deployment.yaml");
    let asked = "{{- if .Values.allowConfigMap.name }}\n        - ";
    for part in [
        format!("{asked}--allow-file=/etc/culvert/allow/{{{{ .Values.allowConfigMap.key }}}}\n"),
        format!("{asked}name: allow\n          mountPath: /etc/culvert/allow\n"),
        "{{- with .Values.allowConfigMap.name }}\n      - name: allow\n        configMap:\n          name: {{ . }}\n"
            .to_owned(),
    ] {
        assert!(deployment.contains(&part), "{part}");
    }
}

/// An edge of some namespaces has no right in the whole cluster; what Helm makes of it is in `tests/e2e`.
#[test]
fn rights_in_the_whole_cluster_are_only_those_of_an_edge_that_watches_all_of_it() {
    let rbac = read("culvert", "templates/rbac.yaml");
    let (of_some, rest) = rbac.split_once("{{- else }}").expect("two forms");
    assert!(of_some.contains("{{- range $namespace := .Values.watchNamespaces }}"));
    assert!(of_some.contains("kind: Role\n") && !of_some.contains("ClusterRole"), "{of_some}");
    let (of_all, own) = rest.split_once("{{- end }}").expect("an end");
    assert!(of_all.contains("kind: ClusterRole\n") && of_all.contains("resources: [namespaces]"), "{of_all}");
    assert!(!own.contains("ClusterRole") && !own.contains("secrets"), "{own}");
    assert!(!of_some.contains("namespaces]") && !own.contains("namespaces]"));
}

/// Whether visitors may come over TLS is said in both cases: the program's own default is that they may.
#[test]
fn an_edge_without_https_is_told_so() {
    let arguments = arguments("culvert");
    let (with, without) = arguments
        .split_once("{{- if .Values.https.enabled }}")
        .and_then(|(_, rest)| rest.split_once("{{- else }}"))
        .expect("two forms");
    assert!(with.contains("- --https=0.0.0.0:8443\n") && !with.contains("--https=off"), "{with}");
    assert!(without.trim_start().starts_with("- --https=off\n"), "{without}");

    let folder = std::env::temp_dir().join(format!("culvert-chart-{:016x}", rand::random::<u64>()));
    fs::create_dir(&folder).expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
    command.env_clear().current_dir(&folder).stdout(Stdio::null()).stderr(Stdio::piped());
    command.args(["serve", "--manifests=.", "--https=off", "--http=127.0.0.1:0", "--bridge=127.0.0.1:0"]);
    let mut edge = command.arg("--admin=127.0.0.1:0").spawn().expect("a process");
    let log = BufReader::new(edge.stderr.take().expect("its log"));
    let listening = log.lines().map_while(Result::ok).find(|line| line.contains("listening"));
    edge.kill().expect("killed");
    edge.wait().expect("its end");
    let _ = fs::remove_dir_all(&folder);
    let listening = listening.expect("what is bound");
    assert!(listening.contains("http=") && !listening.contains("https="), "{listening}");
}
