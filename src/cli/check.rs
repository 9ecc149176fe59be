use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use super::Failure;
use crate::{
    api::{ConditionStatus, ConditionType, Reason},
    compile::{Judgement, Objects, compile},
    controller::{Dating, Manifest, Object, manifest_names},
};

/// Validates manifests offline: the verdicts that the controller would give.
///
/// Reads TunnelHosts, TunnelAgents, Secrets and Namespaces (for their labels) from files, from all *.yaml, *.yml and *.json of a folder, or from standard
/// input (-), judges them by the schema that the API server would use and by the compilation that the edge would make, and
/// prints one line for each condition. Exit code 1 if something is wrong. A reference to an object that is not in the
/// input is only a warning, as the object may be in the cluster; with --strict it is wrong, too.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Files or folders of manifests; - is standard input.
    #[arg(required = true, value_name = "FILE|DIR|-")]
    paths: Vec<PathBuf>,
    /// Fail where a reference is not in the input.
    #[arg(long, env = "CULVERT_STRICT")]
    strict: bool,
}

/// A text with its name.
struct Input {
    name: String,
    text: String,
}

/// One line of the table.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    object: String,
    judgement: Judgement,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut inputs = Vec::new();
    for path in &args.paths {
        read(path, &mut inputs)?;
    }
    let Some(lines) = judge(&inputs) else {
        return Err("there are no TunnelHosts, TunnelAgents or Secrets in the input".into());
    };
    io::stdout().write_all(table(&lines).as_bytes())?;
    let missing = lines.iter().filter(|line| line.is_missing()).count();
    if missing > 0 && !args.strict {
        eprintln!("culvert: warning: {missing} with references that are not in the input; --strict makes it a failure");
    }
    let fails = |line: &Line| line.judgement.status != ConditionStatus::True && (args.strict || !line.is_missing());
    Ok(if lines.iter().any(fails) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn read(path: &Path, inputs: &mut Vec<Input>) -> Result<(), Failure> {
    let failed = |path: &Path, error: &io::Error| format!("{}: {error}", path.display());
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map_err(|error| failed(Path::new("standard input"), &error))?;
        inputs.push(Input { name: "-".to_owned(), text });
    } else if path.is_dir() {
        for name in manifest_names(path).map_err(|error| failed(path, &error))? {
            let path = path.join(name);
            if !path.is_dir() {
                read(&path, inputs)?;
            }
        }
    } else {
        let text = fs::read_to_string(path).map_err(|error| failed(path, &error))?;
        inputs.push(Input { name: path.display().to_string(), text });
    }
    Ok(())
}

/// What an API server refuses first, then what the controller says of the rest; `None` if there is nothing to judge.
fn judge(inputs: &[Input]) -> Option<Vec<Line>> {
    let refused = |object: String, message: String| Line {
        object,
        judgement: Judgement::fails(ConditionType::Accepted, Reason::Invalid, message),
    };
    let mut lines = Vec::new();
    let mut objects = Objects::default();
    let mut dating = Dating::default();
    let mut seen = HashMap::new();
    let mut empty = true;
    for Input { name, text } in inputs {
        let manifest = match Manifest::parse(text) {
            Ok(manifest) => manifest,
            Err(error) => {
                empty = false;
                lines.push(refused(name.clone(), error.to_string()));
                continue;
            }
        };
        for entry in manifest.entries {
            empty = false;
            let (object, place) = (entry.to_string(), format!("{name}, line {}", entry.line));
            if let Some(first) = seen.insert(object.clone(), place.clone()) {
                lines.push(refused(object, format!("it is there twice, in {first} and in {place}; remove one")));
                continue;
            }
            match entry.object {
                Ok(mut object) => {
                    dating.date(&mut object);
                    match object {
                        Object::TunnelHost(host) => objects.tunnel_hosts.push(Arc::new(*host)),
                        Object::TunnelAgent(agent) => objects.tunnel_agents.push(Arc::new(*agent)),
                        Object::Secret(secret) => objects.secrets.push(Arc::new(*secret)),
                        Object::Namespace(namespace) => {
                            let metadata = namespace.metadata;
                            let labels = metadata.labels.unwrap_or_default();
                            objects.namespaces.insert(metadata.name.unwrap_or_default(), labels);
                        }
                    }
                }
                Err(findings) => {
                    let findings: Vec<String> = findings.iter().map(ToString::to_string).collect();
                    lines.push(refused(object, format!("{place}: {}", findings.join("; "))));
                }
            }
        }
    }
    for verdict in compile(&objects, None).verdicts {
        let object = format!("{} {}", verdict.kind.as_str(), verdict.name);
        let line = |judgement| Line { object: object.clone(), judgement };
        lines.extend(verdict.conditions.into_iter().map(line));
    }
    (!empty).then_some(lines)
}

// === impl Line ===

impl Line {
    /// Whether all that is wrong is a reference that leads out of the input.
    fn is_missing(&self) -> bool {
        self.judgement.missing
    }
}

fn table(lines: &[Line]) -> String {
    let cells: Vec<[&str; 5]> = lines
        .iter()
        .map(|Line { object, judgement }| {
            let (condition, status) = (judgement.condition.as_str(), judgement.status.as_str());
            [object, condition, status, judgement.reason.as_str(), &judgement.message]
        })
        .collect();
    let header = ["OBJECT", "CONDITION", "STATUS", "REASON", "MESSAGE"];
    let width = |column: usize| cells.iter().chain([&header]).map(|row| row[column].chars().count()).max().unwrap_or(0);
    let [object, condition, status, reason] = [width(0), width(1), width(2), width(3)];
    let mut table = String::new();
    for [a, b, c, d, e] in [header].into_iter().chain(cells.iter().copied()) {
        // Writing to a String cannot fail.
        let _ = writeln!(table, "{a:object$}  {b:condition$}  {c:status$}  {d:reason$}  {e}");
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const AGENT: &str = "
apiVersion: culvert.dev/v1alpha1
kind: TunnelAgent
metadata: {name: home, namespace: web}
spec: {credentials: [{secretRef: {name: home-token}}]}
";
    const SECRET: &str = "
apiVersion: v1
kind: Secret
metadata: {name: home-token, namespace: web}
type: culvert.dev/agent-token
stringData: {token: 0123456789abcdef0123456789abcdef}
";
    const HOST: &str = "
apiVersion: culvert.dev/v1alpha1
kind: TunnelHost
metadata: {name: shop, namespace: web}
spec:
  hostnames: [shop.example.com]
  routes: [{backend: {agents: [{name: home}], targets: [{address: 127.0.0.1:80}]}}]
";

    fn verdicts(texts: &[&str]) -> Vec<(String, &'static str, &'static str)> {
        let input = |(index, text): (usize, &&str)| Input { name: format!("{index}.yaml"), text: (*text).to_owned() };
        let inputs: Vec<Input> = texts.iter().enumerate().map(input).collect();
        let line = |line: Line| (line.object, line.judgement.condition.as_str(), line.judgement.reason.as_str());
        judge(&inputs).into_iter().flatten().map(line).collect()
    }

    #[test]
    fn what_is_right_is_accepted() {
        let text = [AGENT, SECRET, HOST].join("---");
        assert_eq!(
            verdicts(&[&text]),
            [
                ("TunnelAgent web/home".into(), "Accepted", "Accepted"),
                ("TunnelAgent web/home".into(), "ResolvedRefs", "ResolvedRefs"),
                ("TunnelHost web/shop".into(), "Accepted", "Accepted"),
                ("TunnelHost web/shop".into(), "ResolvedRefs", "ResolvedRefs"),
            ]
        );
    }

    #[test]
    fn a_reference_out_of_the_input_is_told_apart_from_an_error() {
        let missing = |texts: &[&str]| {
            let input = |text: &&str| Input { name: String::new(), text: (*text).to_owned() };
            let inputs: Vec<Input> = texts.iter().map(input).collect();
            let lines = judge(&inputs).expect("something to judge");
            let line = lines.iter().find(|line| line.object == "TunnelHost web/shop" && line.judgement.missing);
            line.is_some()
        };
        assert!(missing(&[HOST]) && !missing(&[HOST, AGENT]));
        // Of another namespace, it depends on what is not there.
        let shared = HOST.replace("{name: home}", "{name: home, namespace: shared}");
        let agent = |spec: &str| AGENT.replace("namespace: web", "namespace: shared").replace("spec: {", spec);
        let closed = agent("spec: {");
        let chosen = agent("spec: {allowedNamespaces: {from: Selector, selector: {matchLabels: {team: a}}}, ");
        let namespace = "\napiVersion: v1\nkind: Namespace\nmetadata: {name: web, labels: {team: b}}\n";
        assert!(missing(&[&shared]) && !missing(&[&shared, &closed]));
        assert!(missing(&[&shared, &chosen]) && !missing(&[&shared, &chosen, namespace]));
        assert_eq!(
            verdicts(&[&shared, &chosen, &namespace.replace("team: b", "team: a")])[3],
            ("TunnelHost web/shop".into(), "ResolvedRefs", "ResolvedRefs")
        );
        assert_eq!(verdicts(&[HOST])[1], ("TunnelHost web/shop".into(), "ResolvedRefs", "AgentNotFound"));
    }

    #[test]
    fn a_secret_of_another_type_in_the_input_is_an_error_and_not_missing() {
        for (kind, named) in
            [("type: Opaque", "Opaque"), ("", "Opaque"), ("type: kubernetes.io/tls", "kubernetes.io/tls")]
        {
            let text = [AGENT, &SECRET.replace("type: culvert.dev/agent-token", kind)].join("---");
            let lines = judge(&[Input { name: "a.yaml".to_owned(), text }]).expect("something to judge");
            let line = lines.iter().find(|line| line.judgement.condition == ConditionType::ResolvedRefs).expect("it");
            assert_eq!(line.judgement.reason, Reason::InvalidSecret);
            assert!(!line.is_missing());
            let message = &line.judgement.message;
            assert!(message.contains(&format!("is of type {named}, not culvert.dev/agent-token")), "{message}");
        }
    }

    #[test]
    fn what_the_api_server_refuses_is_refused_with_its_place() {
        let text = format!("{AGENT}---{}", HOST.replace("routes:", "rotues:"));
        let lines = judge(&[Input { name: "a.yaml".to_owned(), text }]).expect("something to judge");
        assert_eq!(lines[0].object, "TunnelHost web/shop");
        let message = &lines[0].judgement.message;
        assert_eq!(
            message,
            "a.yaml, line 6: spec.rotues: unknown field; correct or remove it; spec.routes: required, and missing"
        );
        assert_eq!(verdicts(&["a: [", SECRET])[0], ("0.yaml".into(), "Accepted", "Invalid"));
        assert_eq!(judge(&[Input { name: "b.yaml".to_owned(), text: SECRET.to_owned() }]), Some(vec![]));
        assert_eq!(judge(&[Input { name: "c.yaml".to_owned(), text: "# nothing".to_owned() }]), None);
        assert_eq!(verdicts(&[SECRET, SECRET])[0], ("Secret web/home-token".into(), "Accepted", "Invalid"));
    }

    #[test]
    fn the_examples_are_right() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let quickstart = examples.join("quickstart.yaml");
        let mut judged = 0;
        for name in manifest_names(&examples).expect("the folder") {
            let mut inputs = Vec::new();
            // The agent of all of them.
            for path in HashSet::from([&quickstart, &examples.join(&name)]) {
                read(path, &mut inputs).expect("a file");
            }
            for Line { object, judgement } in judge(&inputs).expect("objects") {
                let secret_is_yours = judgement.reason == Reason::SecretNotFound;
                assert!(
                    judgement.status == ConditionStatus::True || secret_is_yours,
                    "{name}: {object}: {judgement:?}"
                );
                judged += 1;
            }
        }
        assert!(judged > 20, "only {judged} lines");
    }

    #[test]
    fn the_table_is_aligned() {
        let line = |object: &str| Line {
            object: object.to_owned(),
            judgement: Judgement::holds(ConditionType::Accepted, Reason::Accepted, "fine"),
        };
        assert_eq!(
            table(&[line("a"), line("a long one")]),
            "OBJECT      CONDITION  STATUS  REASON    MESSAGE\n\
             a           Accepted   True    Accepted  fine\n\
             a long one  Accepted   True    Accepted  fine\n"
        );
    }
}
