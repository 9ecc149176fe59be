//! The chart as files: what Helm and the API server think of it, in the shapes that its values give it.

use std::process::Command;

use crate::harness::{Culvert, NAMESPACE, attempt, chart, helm, project};

/// The chart of the agent, as a folder.
fn agent_chart() -> String {
    project().join("charts/culvert-agent").display().to_string()
}

/// Each a set of values that renders other manifests than the defaults do.
const SHAPES: [&[&str]; 7] = [
    &[],
    &["--set=watchNamespaces={default,kube-system}"],
    &["--set=https.enabled=false"],
    &["--set=http.service.type=NodePort,http.service.nodePort=30080,bridge.service.type=ClusterIP,replicas=1"],
    &["--set=crds.keep=false,bridge.certificate.existingSecret=mine,trustedProxies={10.0.0.0/8,fd00::/8}"],
    &[
        "--set=bridge.certificate.hostnames={tunnel.example.com,203.0.113.7},http.service.loadBalancerClass=example.com/lb",
    ],
    &[
        "--set=http.service.type=NodePort,https.port=8443,https.nodePort=30443,https.defaultCertificate=default-tls",
        "--set=https.publicPort=444,bridge.hostname=tunnel.example.com,log.access=clf",
        "--set=proxyProtocol.enabled=true,proxyProtocol.from={10.0.0.0/8,fd00::/8},extraArgs={--max-headers=20}",
    ],
];

/// The same for the agent's chart, which has no defaults for whom to dial.
const AGENT_SHAPES: [&[&str]; 3] = [
    &["--set=edge={https://edge.example.com:7443},agent=web/lab,token.secret=lab-token"],
    &[
        "--set=edge={https://a.example.com,https://b.example.com:7443},agent=web/lab,token.secret=lab-token",
        "--set=trust.fingerprints={sha256:00},allow={shop.web.svc:8080},transport=websocket,replicas=1",
        "--set=proxy.url=http://proxy:3128,proxy.exceptions={10.0.0.0/8,localhost},extraArgs={--edge-fingerprint=sha256:11}",
    ],
    &["--set=edge={https://e:1},agent=web/lab,token.secret=lab-token,trust.caConfigMap=edge-ca,proxy.secret=proxy"],
];

#[test]
fn helm_lint_is_clean() {
    let both =
        SHAPES.map(|values| (chart(), values)).into_iter().chain(AGENT_SHAPES.map(|values| (agent_chart(), values)));
    for (chart, values) in both {
        let report = attempt(Command::new("helm").args(["lint", "--strict", &chart]).args(values), "").unwrap();
        let findings = |line: &&str| line.contains("[WARNING]") || line.contains("[ERROR]");
        assert_eq!(report.lines().find(findings), None, "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_would_take_every_manifest() {
    let _culvert = Culvert::installed().await;
    for values in SHAPES {
        let mut render = Command::new("helm");
        render.args(["template", "dry", &chart(), "--namespace", NAMESPACE]).args(values);
        let manifests = attempt(&mut render, "").unwrap();
        let mut dry_run = Command::new("kubectl");
        // Each object names its namespace, which may be another than the release's.
        dry_run.args(["apply", "--dry-run=server", "-f", "-"]);
        let taken = attempt(&mut dry_run, &manifests).unwrap_or_else(|error| panic!("{values:?}: {error}"));
        assert!(taken.contains("deployment.apps/dry-culvert"), "{values:?}: {taken}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_would_take_the_agents_manifest() {
    let _culvert = Culvert::installed().await;
    for values in AGENT_SHAPES {
        let mut render = Command::new("helm");
        render.args(["template", "dry", &agent_chart(), "--namespace", NAMESPACE]).args(values);
        let manifests = attempt(&mut render, "").unwrap();
        let mut dry_run = Command::new("kubectl");
        dry_run.args(["apply", "--dry-run=server", "--namespace", NAMESPACE, "-f", "-"]);
        let taken = attempt(&mut dry_run, &manifests).unwrap_or_else(|error| panic!("{values:?}: {error}"));
        assert!(taken.contains("deployment.apps/dry-culvert-agent"), "{values:?}: {taken}");
    }
}

#[test]
fn the_agents_chart_says_what_is_missing() {
    let render =
        |values: &str| attempt(Command::new("helm").args(["template", "dry", &agent_chart(), "--set", values]), "");
    for (values, missing) in [
        ("agent=web/lab,token.secret=t", "edge is required"),
        ("edge={https://e},token.secret=t", "agent is required"),
        ("edge={https://e},agent=web/lab", "token.secret is required"),
        ("edge={e:7443},agent=web/lab,token.secret=t", "edge"),
        ("edge={https://e},agent=lab,token.secret=t", "agent"),
        ("edge={https://e},agent=web/lab,token.secret=t,transport=quic", "transport"),
        ("edge={https://e},agent=web/lab,token.secret=t,proxy.url=a,proxy.secret=b", "exclude each other"),
    ] {
        let refusal = render(values).unwrap_err();
        assert!(refusal.contains(missing), "{values}: {refusal}");
    }
}

#[test]
fn a_misspelt_value_is_refused() {
    let render = |value: &str| attempt(Command::new("helm").args(["template", "dry", &chart(), "--set", value]), "");
    for (value, name) in [
        ("replica=3", "replica"),
        ("http.service.kind=NodePort", "kind"),
        ("replicas=many", "replicas"),
        ("trustedProxies={everyone}", "trustedProxies"),
        ("proxyProtocol.from={everyone}", "proxyProtocol"),
        ("https.nodeport=30443", "nodeport"),
        ("log.access=xml", "access"),
        ("extraArgs={max-headers=20}", "extraArgs"),
        ("watchNamespaces={Web}", "watchNamespaces"),
        ("watchNamespaces={web,web}", "watchNamespaces"),
    ] {
        let refusal = render(value).unwrap_err();
        assert!(refusal.contains(name), "{value}: {refusal}");
    }
    assert!(helm(["template", "dry", &chart(), "--set", "replicas=3"]).contains("replicas: 3"));
}

#[test]
fn plain_http_is_redirected_to_the_port_that_visitors_come_to() {
    for (values, port) in [
        ("replicas=2", 443),
        ("https.port=8443", 8443),
        ("https.port=8443,https.publicPort=443", 443),
        ("https.publicPort=444", 444),
    ] {
        let manifests = helm(["template", "dry", &chart(), "--set", values]);
        assert!(manifests.contains(&format!("- --public-https-port={port}\n")), "{values}: {manifests}");
    }
}

#[test]
fn without_tls_there_is_no_port_for_it() {
    for (value, present) in [("https.enabled=false", false), ("https.enabled=true", true)] {
        let manifests = helm(["template", "dry", &chart(), "--set", value]);
        for line in ["- --https=0.0.0.0:8443\n", "- name: https\n", "containerPort: 8443\n", "targetPort: https\n"] {
            assert_eq!(manifests.contains(line), present, "{value}: {line}");
        }
        assert_eq!(manifests.contains("- --https=off\n"), !present, "{value}");
    }
    let contradiction = "https.enabled=false,bridge.hostname=tunnel.example.com";
    let refusal = attempt(Command::new("helm").args(["template", "dry", &chart(), "--set", contradiction]), "");
    assert!(refusal.unwrap_err().contains("set https.enabled"));
}

#[test]
fn an_edge_that_watches_some_namespaces_has_roles_there_and_no_cluster_role() {
    let manifests =
        helm(["template", "dry", &chart(), "--namespace", NAMESPACE, "--set", "watchNamespaces={web,shop}"]);
    assert!(!manifests.contains("kind: ClusterRole"), "{manifests}");
    assert!(manifests.contains("- --watch-namespaces=web,shop\n"), "{manifests}");
    let objects: Vec<&str> = manifests.split("\n---\n").collect();
    let of_kind = |kind: &str| {
        let of_kind = objects.iter().filter(|object| object.contains(&format!("\nkind: {kind}\n")));
        let mut namespaces: Vec<&str> =
            of_kind.map(|object| object.split("\n  namespace: ").nth(1).unwrap().lines().next().unwrap()).collect();
        namespaces.sort_unstable();
        namespaces
    };
    assert_eq!(of_kind("Role"), [NAMESPACE, "shop", "web"]);
    assert_eq!(of_kind("RoleBinding"), [NAMESPACE, "shop", "web"]);
    let secrets = objects.iter().filter(|object| object.contains("resources: [secrets]"));
    assert!(secrets.clone().all(|role| role.contains("namespace: web") || role.contains("namespace: shop")));
    assert_eq!(secrets.count(), 2);
    let all = helm(["template", "dry", &chart(), "--namespace", NAMESPACE]);
    assert!(all.contains("kind: ClusterRole\n") && !all.contains("- --watch-namespaces"));
}
