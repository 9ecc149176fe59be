//! Visitors over TLS: whose certificate they are shown, while it is rotated, broken, or not there yet.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tokio::time::MissedTickBehavior;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::harness::{
    Answer, Certificate, Culvert, Http, NAMESPACE, OtherValues, Replica, SecureVisitor, Site, all_see, apply, create,
    eventually, kubectl,
};

/// How soon a change shows, from the moment that kubectl has returned.
const AT_ONCE: Duration = Duration::from_secs(1);
const TLS: &str = "tls: {secretRef: {name: shop-tls}}";

/// Visitors that come one after the other, each by a connection of its own.
struct Load {
    samples: Arc<Mutex<Vec<Sample>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// One visit of the load: when it began and ended, and what certificate it was shown.
struct Sample {
    at: SocketAddr,
    start: Instant,
    end: Instant,
    shown: Result<CertificateDer<'static>, String>,
    /// Whether the session may have been resumed: then the certificate is that of its first handshake.
    resuming: bool,
}

// === impl Load ===

impl Load {
    /// Lets each visitor come up to forty times a second, those of the second list with their sessions.
    fn start(fresh: Vec<SecureVisitor>, resuming: Vec<SecureVisitor>) -> Self {
        let load = Self { samples: Arc::default(), stop: CancellationToken::new(), tasks: TaskTracker::new() };
        let resuming = resuming.into_iter().map(|visitor| (visitor.resuming(), true));
        for (visitor, resuming) in fresh.into_iter().map(|visitor| (visitor, false)).chain(resuming) {
            let (samples, stop) = (load.samples.clone(), load.stop.clone());
            load.tasks.spawn(async move {
                let mut tick = tokio::time::interval(Duration::from_millis(25));
                tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
                while stop.run_until_cancelled(tick.tick()).await.is_some() {
                    let start = Instant::now();
                    let shown = match visitor.get("/").await {
                        Ok(seen) if seen.answer.status == 200 => Ok(seen.certificate),
                        Ok(seen) => Err(format!("{:?}", seen.answer)),
                        Err(error) => Err(error.to_string()),
                    };
                    let sample = Sample { at: visitor.at, start, end: Instant::now(), shown, resuming };
                    samples.lock().unwrap().push(sample);
                }
            });
        }
        load.tasks.close();
        load
    }

    /// Waits for so many more visits.
    async fn goes_on(&self, visits: usize) {
        let count = || self.samples.lock().unwrap().len();
        let enough = count() + visits;
        eventually("the load goes on", Duration::from_secs(30), async || {
            if count() >= enough { Ok(()) } else { Err(format!("{} of {enough} visits", count())) }
        })
        .await;
    }

    async fn end(self) -> Vec<Sample> {
        self.stop.cancel();
        self.tasks.wait().await;
        std::mem::take(&mut self.samples.lock().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_rotated_under_load_without_a_failed_handshake() {
    let culvert = Culvert::installed().await;
    let site = Site::new(&culvert, "rotated", "secure\n").await;
    let name = "rotated.example.com";
    let [first, second, third] = [2031, 2032, 2033].map(|year| Certificate::new(&[name], year));
    apply(&first.secret(&site.namespace, "shop-tls")).unwrap();
    apply(&site.host("shop", name, TLS)).unwrap();
    site.wait_ready("shop");
    let replicas = culvert.replicas();
    let trusted = [&first, &second, &third];
    let visitors = |at: SocketAddr| Http::ALL.map(|http| SecureVisitor::new(at, name, http, &trusted));
    for replica in &replicas {
        for visitor in visitors(replica.https()) {
            visits(&visitor, &first, AT_ONCE).await;
        }
    }

    let fresh = replicas.iter().map(Replica::https).chain([culvert.https]).flat_map(visitors).collect();
    let load = Load::start(fresh, visitors(culvert.https).into());
    load.goes_on(200).await;
    let (begun, rotated) = change(&second.secret(&site.namespace, "shop-tls"));
    load.goes_on(400).await;

    let (_, broken) = change(&third.with_key_of(&second).secret(&site.namespace, "shop-tls"));
    let (reason, message) = site.condition("shop", "ResolvedRefs", "False").await;
    println!("{message}");
    assert_eq!(reason, "InvalidCertificate");
    for part in [
        "Secret \"shop-tls\", key \"tls.key\": it is not the key of the first certificate of \"tls.crt\"",
        "the last good certificate, valid until 2032-01-01T00:00:00Z, is still shown",
    ] {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
    assert_eq!(site.condition("shop", "Ready", "False").await.0, "InvalidCertificate");
    load.goes_on(200).await;
    for replica in &replicas {
        tells_the_end_of(replica, &site, &second).await;
    }

    let (repairing, repaired) = change(&third.secret(&site.namespace, "shop-tls"));
    let (_, message) = site.condition("shop", "ResolvedRefs", "True").await;
    assert!(message.contains("valid until 2033-01-01T00:00:00Z"), "{message}");
    site.wait_ready("shop");
    load.goes_on(200).await;
    let samples = load.end().await;
    for replica in &replicas {
        tells_the_end_of(replica, &site, &third).await;
    }

    let failed: Vec<&String> = samples.iter().filter_map(|sample| sample.shown.as_ref().err()).collect();
    println!("{} handshakes, each with a request, {} failed", samples.len(), failed.len());
    assert!(failed.is_empty(), "{failed:?}");
    for replica in &replicas {
        let here = |sample: &&Sample| sample.at == replica.https();
        let here: Vec<&Sample> = samples.iter().filter(here).collect();
        for (what, at, before, after) in
            [("rotated", (begun, rotated), &first, &second), ("repaired", (repairing, repaired), &second, &third)]
        {
            let shown = turnover(&here, before, after);
            let [since_begun, took] = [at.0, at.1].map(|at| shown.saturating_duration_since(at));
            println!(
                "{what}, shown on {}: {since_begun:?} after kubectl began, {took:?} after it returned",
                replica.name
            );
            assert!(took <= AT_ONCE, "{what} on {} after {took:?}", replica.name);
        }
        let meanwhile = here.iter().filter(|sample| sample.start > broken && sample.end < repairing);
        let meanwhile: Vec<_> = meanwhile.map(|sample| sample.shown.as_ref().unwrap()).collect();
        assert!(meanwhile.len() >= 20, "{} visits to {} while it was broken", meanwhile.len(), replica.name);
        assert!(meanwhile.iter().all(|shown| **shown == second.der), "not the last good one on {}", replica.name);
    }
    // Through the Service nobody can tell the replicas apart; but once both have it, nobody sees the old one.
    let late = |sample: &&Sample| sample.start > rotated + AT_ONCE && !sample.resuming;
    assert!(samples.iter().filter(late).all(|sample| sample.shown.as_ref().unwrap() != &first.der));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_hostname_has_its_certificate_on_both_replicas() {
    let culvert = Culvert::installed().await;
    let site = Site::new(&culvert, "secure", "secure\n").await;
    let names = ["one.secure.example.com", "two.secure.example.com"];
    let certificates = [Certificate::new(&names[..1], 2031), Certificate::new(&["*.secure.example.com"], 2031)];
    for ((hostname, secret), certificate) in
        [names[0], "*.secure.example.com"].into_iter().zip(["one", "wild"]).zip(&certificates)
    {
        apply(&certificate.secret(&site.namespace, secret)).unwrap();
        apply(&site.host(secret, &format!("'{hostname}'"), &format!("tls: {{secretRef: {{name: {secret}}}}}")))
            .unwrap();
        site.wait_ready(secret);
    }

    for replica in culvert.replicas() {
        for http in Http::ALL {
            // Who trusts one alone fails to shake hands where another is shown.
            for (name, certificate) in names.iter().zip(&certificates) {
                let visitor = SecureVisitor::new(replica.https(), name, http, &[certificate]);
                assert_eq!(visits(&visitor, certificate, AT_ONCE).await.body, "secure\n");
            }
            let visitor = SecureVisitor::new(replica.https(), names[0], http, &[&certificates[0]]);
            assert_eq!(visitor.with_host(names[1]).get("/").await.unwrap().answer.status, 421);
            let stranger = SecureVisitor::new(replica.https(), "elsewhere.example.com", http, &[]);
            let refusal = stranger.get("/").await.unwrap_err().to_string();
            assert!(refusal.contains("AccessDenied"), "{refusal}");
        }
        let redirect = replica.visitor(names[0]).get("/cart?of=anna&page=2").await.unwrap();
        assert_eq!(redirect.status, 308);
        assert_eq!(redirect.headers["location"], format!("https://{}/cart?of=anna&page=2", names[0]));
    }

    // Through the Service kube-proxy picks the replica: ask until each of them has answered by both versions.
    for http in Http::ALL {
        let visitor = SecureVisitor::new(culvert.https, names[0], http, &[&certificates[0]]);
        let protocol = format!("protocol=\"{}\"", http.name());
        let labels = ["namespace=\"e2e-secure\"", "code=\"200\"", &protocol];
        for replica in culvert.replicas() {
            let before = replica.counted("culvert_requests_total", &labels).await;
            let mut tries = 0;
            while replica.counted("culvert_requests_total", &labels).await <= before {
                tries += 1;
                assert!(tries < 60, "{} answered none of 60 by {http:?} that entered at the Service", replica.name);
                assert_eq!(visitor.get("/").await.unwrap().answer.status, 200);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_comes_after_its_host_is_shown_at_once() {
    let culvert = Culvert::installed().await;
    let site = Site::new(&culvert, "late-tls", "secure\n").await;
    let name = "late-tls.example.com";
    let certificate = Certificate::new(&[name], 2031);
    apply(&site.host("shop", name, TLS)).unwrap();
    let (reason, message) = site.condition("shop", "ResolvedRefs", "False").await;
    assert_eq!(reason, "SecretNotFound");
    assert!(message.contains("shop-tls") && message.contains("kubernetes.io/tls"), "{message}");
    let replicas = culvert.replicas();
    let visitors: Vec<SecureVisitor> =
        replicas.iter().map(|replica| SecureVisitor::new(replica.https(), name, Http::Two, &[&certificate])).collect();
    for visitor in &visitors {
        let refusal = visitor.get("/").await.unwrap_err().to_string();
        assert!(refusal.contains("AccessDenied"), "{refusal}");
    }
    // Who comes by plain HTTP is not served it instead.
    all_see(&culvert.visitors(name), 308, AT_ONCE).await;

    let (begun, returned) = change(&certificate.secret(&site.namespace, "shop-tls"));
    futures::future::join_all(visitors.iter().map(|visitor| visits(visitor, &certificate, AT_ONCE))).await;
    println!(
        "shown on both replicas {:?} after kubectl returned, {:?} after it began",
        returned.elapsed(),
        begun.elapsed()
    );
    site.condition("shop", "ResolvedRefs", "True").await;
    site.wait_ready("shop");

    // With its object a certificate is forgotten.
    site.delete("tunnelhost", "shop");
    for (visitor, replica) in visitors.iter().zip(&replicas) {
        eventually("the certificate is forgotten", AT_ONCE, async || match visitor.get("/").await {
            Err(error) if error.to_string().contains("AccessDenied") => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        assert!(!replica.metrics().await.contains("namespace=\"e2e-late-tls\",secret=\"shop-tls\""));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_secrets_that_are_referred_to_come_into_the_process() {
    let culvert = Culvert::installed().await;
    let site = Site::new(&culvert, "unrelated", "secure\n").await;
    let name = "unrelated.example.com";
    let [used, unused] = [2031, 2032].map(|year| Certificate::new(&[name], year));
    for (secret, certificate) in [("unrelated-tls", &unused), ("shop-tls", &used)] {
        // Not by `apply`, which leaves a copy of the key in an annotation.
        create(&certificate.secret(&site.namespace, secret)).unwrap();
    }
    apply(&site.host("shop", name, TLS)).unwrap();
    site.wait_ready("shop");
    for replica in culvert.replicas() {
        visits(&SecureVisitor::new(replica.https(), name, Http::One, &[&used]), &used, AT_ONCE).await;
        assert!(replica.holds(used.line_of_key()), "the key that is used cannot be found, so this test shows nothing");
        assert!(!replica.holds(unused.line_of_key()), "{} holds a key that nobody refers to", replica.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_pod_has_a_line_for_each_request_and_all_are_json() {
    let culvert = Culvert::installed().await;
    let site = Site::new(&culvert, "log", "secure\n").await;
    let name = "log.example.com";
    let certificate = Certificate::new(&[name], 2031);
    apply(&certificate.secret(&site.namespace, "shop-tls")).unwrap();
    apply(&site.host("shop", name, TLS)).unwrap();
    site.wait_ready("shop");
    for replica in culvert.replicas() {
        for (http, nonce) in Http::ALL.into_iter().zip(0_u8..) {
            let path = format!("/log-{}-{nonce}", replica.name);
            let visitor = SecureVisitor::new(replica.https(), name, http, &[&certificate]);
            visits(&visitor, &certificate, AT_ONCE).await;
            visitor.get(&format!("{path}?page=2&token=hunter2")).await.unwrap();
            let (line, _) = eventually("a line of the access log", Duration::from_secs(5), async || {
                let log = kubectl(["-n", NAMESPACE, "logs", &replica.name]);
                let lines =
                    log.lines().map(|line| serde_json::from_str(line).map_err(|error| format!("{line}: {error}")));
                let lines: Vec<Value> = lines.collect::<Result<_, _>>()?;
                assert!(!log.contains("hunter2") && !log.contains(certificate.line_of_key()), "a secret in the log");
                let wanted = |line: &Value| line["path"].as_str().is_some_and(|logged| logged.starts_with(&path));
                lines.into_iter().find(wanted).ok_or_else(|| format!("no line for {path}"))
            })
            .await;
            println!("{line}");
            for (field, value) in [
                ("path", format!("{path}?page=2&token=REDACTED")),
                ("host", name.into()),
                ("method", "GET".into()),
                ("protocol", http.name().into()),
                ("tls", "TLSv1.3".into()),
                ("tunnelhost", "e2e-log/shop".into()),
                ("agent", "home".into()),
                ("target", site.backend.address.to_string()),
            ] {
                assert_eq!(line[field], value, "{field} of {line}");
            }
            assert_eq!((&line["status"], &line["sent"]), (&200.into(), &7.into()), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_charts_values_give_a_default_certificate_and_a_way_in_for_agents() {
    let culvert = Culvert::installed().await;
    let mut site = Site::new(&culvert, "default-tls", "secure\n").await;
    let name = "default-tls.example.com";
    let certificate = Certificate::new(&[name], 2031);
    apply(&certificate.secret(NAMESPACE, "default-tls")).unwrap();
    apply(&site.host("shop", name, "tls: {}")).unwrap();
    // A name of this machine's own, so that an agent can look it up.
    let values = OtherValues::set(
        &culvert,
        "https.defaultCertificate=default-tls,https.publicPort=8443,bridge.hostname=localhost",
    )
    .await;
    site.agent.dial(&culvert.https_node_port("localhost"));
    site.agent.meets(&culvert).await;

    for replica in culvert.replicas() {
        for http in Http::ALL {
            let visitor = SecureVisitor::new(replica.https(), name, http, &[&certificate]);
            assert_eq!(visits(&visitor, &certificate, AT_ONCE).await.body, "secure\n");
        }
        let redirect = replica.visitor(name).get("/cart").await.unwrap();
        assert_eq!(redirect.headers["location"], format!("https://{name}:8443/cart"));
        assert!(replica.counted("culvert_tls_handshakes_total", &["result=\"agent\""]).await > 0.0, "{}", replica.name);
    }
    drop(values);
    kubectl(["-n", NAMESPACE, "delete", "secret", "default-tls"]);
}

/// The first visit that is shown the certificate and answered 200.
async fn visits(visitor: &SecureVisitor, certificate: &Certificate, within: Duration) -> Answer {
    let what = format!("{} shows the certificate that is expected", visitor.at);
    let (answer, _) = eventually(&what, within, async || match visitor.get("/").await {
        Ok(seen) if seen.certificate == certificate.der && seen.answer.status == 200 => Ok(seen.answer),
        other => Err(format!("{other:?}")),
    })
    .await;
    answer
}

/// Applies an object and tells when that began and ended.
fn change(yaml: &str) -> (Instant, Instant) {
    let begun = Instant::now();
    apply(yaml).unwrap();
    (begun, Instant::now())
}

/// When the first visit ended that was shown the new certificate; the old one must not come back.
fn turnover(visits: &[&Sample], before: &Certificate, after: &Certificate) -> Instant {
    let shows = |sample: &Sample, certificate: &Certificate| sample.shown.as_ref().unwrap() == &certificate.der;
    let old = visits.iter().filter(|sample| shows(sample, before)).count();
    assert!(old >= 20, "{old} visits before the change show little");
    let new = visits.iter().filter(|sample| shows(sample, after)).map(|sample| sample.end);
    let first = new.min().expect("a visit that is shown the new certificate");
    let late = visits.iter().filter(|sample| sample.start > first && shows(sample, before)).count();
    assert_eq!(late, 0, "the old certificate was shown again");
    first
}

/// Asserts that the metrics of a replica have the end of this certificate.
async fn tells_the_end_of(replica: &Replica, site: &Site, certificate: &Certificate) {
    let (namespace, ends) = (&site.namespace, certificate.ends);
    let series = format!(
        "culvert_certificate_not_after_timestamp_seconds{{namespace=\"{namespace}\",secret=\"shop-tls\"}} {ends}\n"
    );
    let metrics = replica.metrics().await;
    assert!(metrics.contains(&series), "{} has no {series}", replica.name);
}
