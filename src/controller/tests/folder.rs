//! The whole controller over a folder of real files.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::nothing_observed;
use crate::{
    api::{ConditionType, Reason},
    compile::Compiled,
    controller::{Controller, Outputs},
    routing::{Backend, EntryPoint, Lookup, ObjectName, RequestInfo},
};

/// A folder that is removed with the test, and a controller that follows it.
struct Folder {
    dir: PathBuf,
    outputs: Option<Outputs>,
    stop: CancellationToken,
}

// === impl Folder ===

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("culvert-folder-{}-{number}", std::process::id()));
        fs::create_dir(&dir).expect("a folder");
        Self { dir, outputs: None, stop: CancellationToken::new() }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.join(name), text).expect("a file");
    }

    fn start(&mut self) {
        let controller = controller(&self.dir).expect("a controller");
        self.outputs = Some(controller.outputs());
        tokio::spawn(controller.run(self.stop.clone()));
    }

    /// Waits for a table of that kind.
    async fn until(&mut self, wanted: impl Fn(&Compiled) -> bool) -> Arc<Compiled> {
        let compiled = &mut self.outputs.as_mut().expect("it runs").compiled;
        let compiled = compiled.wait_for(|compiled| compiled.as_deref().is_some_and(&wanted));
        let compiled = tokio::time::timeout(Duration::from_secs(20), compiled).await.expect("no such table");
        compiled.expect("the controller runs").clone().expect("waited for")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn controller(dir: &Path) -> Result<Controller, Box<dyn std::error::Error + Send + Sync>> {
    Controller::folder(dir, "edge-1", nothing_observed(), &prometheus::Registry::new())
}

fn host(name: &str, hostname: &str, target: &str) -> String {
    format!(
        "---
apiVersion: culvert.dev/v1alpha1
kind: TunnelHost
metadata: {{name: {name}}}
spec:
  hostnames: [{hostname}]
  routes: [{{backend: {{agents: [{{name: home}}], targets: [{{address: \"{target}\"}}]}}}}]
"
    )
}

const AGENT: &str = "
apiVersion: culvert.dev/v1alpha1
kind: TunnelAgent
metadata: {name: home}
spec: {credentials: [{secretRef: {name: home}}]}
---
apiVersion: v1
kind: Secret
metadata: {name: home}
type: culvert.dev/agent-token
data: {other: eA==}
stringData: {token: 0123456789abcdef}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: ignored}
";

/// The first target of the rule for a host; empty if there is none.
fn target(compiled: &Compiled, host: &str) -> String {
    match compiled.table.lookup(EntryPoint::Http, &RequestInfo::get(host, "/")) {
        Lookup::Rule(rule) => match &rule.backend {
            Backend::Tunnel(tunnel) => tunnel.places.all()[0].target.to_string(),
            other => format!("{other:?}"),
        },
        _ => String::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_followed_as_they_come_change_and_go() {
    let mut folder = Folder::new();
    folder.write("agent.yaml", AGENT);
    folder.write("a.yml", &host("a", "a.com", "a:1"));
    folder.write("notes.txt", "not: [yaml");
    folder.start();
    let compiled = folder.until(|_| true).await;
    assert_eq!(target(&compiled, "a.com"), "a:1");
    let agent = compiled.agents.get(&ObjectName::new("default", "home")).expect("the agent");
    assert!(agent.credentials[0].token.verify(b"0123456789abcdef"));

    folder.write("b.json", &serde_json::to_string(&json_host("b", "b.com")).expect("JSON"));
    folder.until(|compiled| target(compiled, "b.com") == "b:1").await;
    folder.write("a.yml", &host("a", "a.com", "a:2"));
    let compiled = folder.until(|compiled| target(compiled, "a.com") == "a:2").await;
    assert_eq!(target(&compiled, "b.com"), "b:1");
    fs::rename(folder.dir.join("b.json"), folder.dir.join("b.off")).expect("renamed");
    folder.until(|compiled| target(compiled, "b.com").is_empty()).await;
}

fn json_host(name: &str, hostname: &str) -> serde_json::Value {
    let text = host(name, hostname, &format!("{name}:1"));
    serde_saphyr::from_str(text.trim_start_matches("---\n")).expect("YAML")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_spoilt_keeps_its_last_good_objects() {
    let mut folder = Folder::new();
    folder.write("agent.yaml", AGENT);
    folder.write("a.yaml", &host("a", "a.com", "a:1"));
    folder.start();
    folder.until(|compiled| target(compiled, "a.com") == "a:1").await;

    folder.write("a.yaml", "spec: [unclosed");
    folder.write("b.yaml", &host("b", "b.com", "b:1"));
    let compiled = folder.until(|compiled| target(compiled, "b.com") == "b:1").await;
    assert_eq!(target(&compiled, "a.com"), "a:1");

    folder.write("a.yaml", &host("a", "a.com", "a:2"));
    folder.until(|compiled| target(compiled, "a.com") == "a:2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_an_api_server_would_refuse_keeps_its_last_good_version() {
    let mut folder = Folder::new();
    folder.write("agent.yaml", AGENT);
    folder.write("a.yaml", &(host("a", "a.com", "a:1") + &host("b", "b.com", "b:1")));
    folder.start();
    folder.until(|compiled| target(compiled, "a.com") == "a:1").await;

    folder.write(
        "a.yaml",
        &(host("a", "a.com", "no port") + &host("b", "b.com", "b:2") + &host("c", "under_score", "c:1")),
    );
    let compiled = folder.until(|compiled| target(compiled, "b.com") == "b:2").await;
    assert_eq!(target(&compiled, "a.com"), "a:1");
    assert_eq!(compiled.verdicts.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn undated_objects_are_ordered_by_file_and_place_and_the_first_of_twins_is_used() {
    let mut folder = Folder::new();
    folder.write("0-agent.yaml", AGENT);
    folder.write("2.yaml", &(host("zz", "x.com", "later:1") + &host("twin", "twin.com", "later:1")));
    folder.write(
        "1.yaml",
        &(host("yy", "x.com", "first:1") + &host("aa", "x.com", "second:1") + &host("twin", "twin.com", "first:1")),
    );
    let dated = host("dated", "dated.com", "oldest:1")
        .replace("name: dated", "name: dated, creationTimestamp: 2020-01-01T00:00:00Z");
    folder.write("3.yaml", &(host("undated", "dated.com", "younger:1") + &dated));
    folder.start();
    let compiled = folder.until(|_| true).await;
    assert_eq!(target(&compiled, "x.com"), "first:1");
    assert_eq!(target(&compiled, "twin.com"), "first:1");
    assert_eq!(target(&compiled, "dated.com"), "oldest:1");
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let error = controller(&PathBuf::from("/nonexistent/folder")).err().expect("no folder");
    assert!(error.to_string().starts_with("the folder /nonexistent/folder cannot be watched: "), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_in_the_folder_is_shown_and_outlives_a_bad_one() {
    let secret = || {
        let issued = rcgen::generate_simple_self_signed(["a.com".to_owned()]).expect("a certificate");
        let indented = |pem: String| format!("    {}\n", pem.trim_end().replace('\n', "\n    "));
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: a-tls}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: \
             |\n{}  tls.key: |\n{}",
            indented(issued.cert.pem()),
            indented(issued.signing_key.serialize_pem())
        )
    };
    let shown = |compiled: &Compiled| compiled.table.certificates().find("a.com").cloned();
    let mut folder = Folder::new();
    folder.write("a.yaml", &host("a", "a.com", "a:1").replace("spec:", "spec:\n  tls: {secretRef: {name: a-tls}}"));
    folder.write("tls.yaml", &secret());
    folder.start();
    let first = shown(&*folder.until(|_| true).await).expect("a certificate");
    folder.write("tls.yaml", &secret());
    let second = folder.until(|compiled| shown(compiled).is_some_and(|now| now != first)).await;
    let second = shown(&second).expect("a certificate");
    folder.write("tls.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: a-tls}\ntype: kubernetes.io/tls\n");
    let wrong = |compiled: &Compiled| {
        let message = compiled.verdicts.iter().filter_map(|verdict| verdict.condition(ConditionType::ResolvedRefs));
        message.into_iter().any(|judgement| judgement.reason == Reason::InvalidCertificate)
    };
    let broken = folder.until(wrong).await;
    assert_eq!(shown(&broken), Some(second));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_in_the_folder_lends_its_labels_to_who_may_use_an_agent() {
    let mut folder = Folder::new();
    let agent = AGENT.replace(
        "{name: home}\nspec: {",
        "{name: home, namespace: shared}\nspec: {allowedNamespaces: {from: \
                               Selector, selector: {matchLabels: {team: a}}}, ",
    );
    let namespace =
        |team: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: default, labels: {{team: {team}}}}}");
    folder.write("agent.yaml", &agent);
    folder.write("a.yaml", &host("a", "a.com", "a:1").replace("[{name: home}]", "[{name: home, namespace: shared}]"));
    folder.start();
    let refused = |compiled: &Compiled| target(compiled, "a.com").starts_with("Invalid(");
    assert!(refused(&*folder.until(|_| true).await));
    folder.write("namespaces.yaml", &namespace("a"));
    folder.until(|compiled| target(compiled, "a.com") == "a:1").await;
    folder.write("namespaces.yaml", &namespace("b"));
    folder.until(refused).await;
}
