//! What agents find out of targets, and what that means for visitors.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use culvert::{
    bridge::{AgentSession, Health},
    routing::{Backend, Check, HealthCheck, ObjectName, Probe, Rule},
    tunnel::health::HealthReason,
};
use tokio::{io::AsyncWriteExt, sync::watch, time::timeout};

use crate::{
    stage::{Options, Stage, backend, becomes, read_head, rule},
    support::PATIENCE,
};

/// A target that answers `name`, and its health check with a status that may change.
struct Checked {
    target: String,
    status: watch::Sender<u16>,
    checks: Arc<AtomicUsize>,
}

impl Checked {
    async fn start(name: &'static str, status: u16) -> Self {
        let (status, current) = watch::channel(status);
        let checks = Arc::new(AtomicUsize::new(0));
        let counted = checks.clone();
        let target = backend(move |mut stream| {
            let (current, counted) = (current.clone(), counted.clone());
            async move {
                loop {
                    let head = read_head(&mut stream).await;
                    if head.is_empty() {
                        return;
                    }
                    let status = if head.starts_with("GET /healthz ") {
                        counted.fetch_add(1, Ordering::Relaxed);
                        *current.borrow()
                    } else {
                        200
                    };
                    let length = name.len();
                    let answer = format!("HTTP/1.1 {status} So\r\nContent-Length: {length}\r\n\r\n{name}");
                    // Who checks does not wait for the body.
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        })
        .await;
        Self { target, status, checks }
    }
}

fn how() -> Arc<HealthCheck> {
    Arc::new(HealthCheck {
        probe: Probe::Http { path: "/healthz".into(), host: None, expected: vec![200..=299], tls: None },
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(5),
        unhealthy_after: 1,
        healthy_after: 1,
    })
}

fn checked(targets: &[&str]) -> Rule {
    let mut rule = rule(targets, Vec::new());
    let Backend::Tunnel(tunnel) = &mut rule.backend else { panic!("{rule:?}") };
    tunnel.health_check = Some(how());
    rule
}

/// Waits until the session's agent says this of a target.
async fn told(stage: &Stage, session: &AgentSession, target: &str, so: impl Fn(&Health) -> bool) -> Health {
    let check = Check::new(&ObjectName::new("web", "shop"), &target.parse().expect("a target"), &how());
    let mut news = stage.edge.bridge.registry().watch_health();
    let told = async {
        loop {
            news.mark_unchanged();
            if let Some(health) = session.health(&check).filter(&so) {
                return health;
            }
            news.changed().await.expect("a registry");
        }
    };
    timeout(PATIENCE, told).await.expect("told in time")
}

fn healthy(health: &Health) -> bool {
    *health == Health::Healthy
}

fn unhealthy(health: &Health) -> bool {
    !healthy(health)
}

#[tokio::test]
async fn requests_go_to_healthy_targets() {
    let stage = Stage::start().await;
    let session = stage.edge.session().await;
    let [well, ill] = [Checked::start("well", 200).await, Checked::start("ill", 200).await];
    stage.serve_rules(vec![checked(&[&well.target, &ill.target])], None);
    told(&stage, &session, &well.target, healthy).await;
    told(&stage, &session, &ill.target, healthy).await;
    assert_eq!([stage.get("/").await.body, stage.get("/").await.body], ["well", "ill"]);
    ill.status.send_replace(503);
    let Health::Unhealthy(problem) = told(&stage, &session, &ill.target, unhealthy).await else { panic!("healthy") };
    assert_eq!(problem.reason, HealthReason::Unexpected);
    assert!(problem.text.ends_with("answered the check with status 503"), "{}", problem.text);
    for _ in 0..6 {
        assert_eq!(stage.get("/").await.body, "well");
    }
    ill.status.send_replace(204);
    told(&stage, &session, &ill.target, healthy).await;
    let mut answers = [stage.get("/").await.body, stage.get("/").await.body];
    answers.sort();
    assert_eq!(answers, ["ill", "well"]);
}

#[tokio::test]
async fn an_unhealthy_target_is_better_than_none() {
    let stage = Stage::start().await;
    let session = stage.edge.session().await;
    let ill = Checked::start("ill", 500).await;
    stage.serve_rules(vec![checked(&[&ill.target])], None);
    told(&stage, &session, &ill.target, unhealthy).await;
    let answer = stage.get("/").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "ill"));
}

#[tokio::test]
async fn an_agent_that_does_not_allow_a_target_says_so_and_does_not_check_it() {
    let stage = Stage::start_with(Options { allow: &["127.0.0.1:1"], ..Options::default() }).await;
    let session = stage.edge.session().await;
    let target = Checked::start("private", 200).await;
    stage.serve_rules(vec![checked(&[&target.target])], None);
    let Health::Unhealthy(problem) = told(&stage, &session, &target.target, unhealthy).await else { panic!("healthy") };
    assert_eq!(problem.reason, HealthReason::NotAllowed);
    assert!(problem.text.contains(&format!("--allow {}", target.target)), "{}", problem.text);
    assert_eq!(target.checks.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_check_ends_with_the_rule_that_asks_for_it() {
    let stage = Stage::start().await;
    let session = stage.edge.session().await;
    let [stays, goes] = [Checked::start("stays", 200).await, Checked::start("goes", 200).await];
    stage.serve_rules(vec![checked(&[&stays.target, &goes.target])], None);
    told(&stage, &session, &goes.target, healthy).await;
    stage.serve_rules(vec![checked(&[&stays.target])], None);
    // Two rounds of the one that stays are more than one of the other would be.
    let seen = stays.checks.load(Ordering::Relaxed);
    becomes("the news are with the agent", || stays.checks.load(Ordering::Relaxed) > seen).await;
    let (before, seen) = (goes.checks.load(Ordering::Relaxed), stays.checks.load(Ordering::Relaxed));
    becomes("checked twice more", || stays.checks.load(Ordering::Relaxed) > seen + 1).await;
    assert_eq!(goes.checks.load(Ordering::Relaxed), before);
}
