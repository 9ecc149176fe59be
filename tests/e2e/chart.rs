//! The chart as files: what Helm and the API server think of it, in the shapes that its values give it.

use std::process::Command;

use crate::harness::{Culvert, NAMESPACE, attempt, chart, helm};

/// Each a set of values that renders other manifests than the defaults do.
const SHAPES: [&[&str]; 6] = [
    &[],
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

#[test]
fn helm_lint_is_clean() {
    for values in SHAPES {
        let report = attempt(Command::new("helm").args(["lint", "--strict", &chart()]).args(values), "").unwrap();
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
        dry_run.args(["apply", "--dry-run=server", "--namespace", NAMESPACE, "-f", "-"]);
        let taken = attempt(&mut dry_run, &manifests).unwrap_or_else(|error| panic!("{values:?}: {error}"));
        assert!(taken.contains("deployment.apps/dry-culvert"), "{values:?}: {taken}");
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
    }
    let contradiction = "https.enabled=false,bridge.hostname=tunnel.example.com";
    let refusal = attempt(Command::new("helm").args(["template", "dry", &chart(), "--set", contradiction]), "");
    assert!(refusal.unwrap_err().contains("set https.enabled"));
}
