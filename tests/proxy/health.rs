//! What agents find out of targets and what connects to them come to, and what that means for visitors.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use culvert::{
    bridge::{AgentSession, Health},
    proxy::HostBackends,
    routing::{Backend, Check, HealthCheck, Member, ObjectName, PassiveHealth, Places, Probe, Rule},
    tunnel::{
        Config, Incoming, IncomingEvent, Link, Note, RefuseCode, Session,
        health::{HealthProblem, HealthReason, HealthReport},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    time::timeout,
};

use crate::{
    stage::{Options, Stage, backend, becomes, read_head, rule},
    support::{PATIENCE, lab},
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

/// A stage with an agent made by hand: every target answers with its own name, but those that are refused.
struct Ways {
    stage: Stage,
    told: Told,
    session: Session,
}

/// What the agent made by hand is told by the test, and by the edge.
#[derive(Clone, Default)]
struct Told {
    refused: Arc<Mutex<HashMap<&'static str, RefuseCode>>>,
    asked: Arc<Mutex<HashMap<String, usize>>>,
    /// The numbers of the checks, by target.
    checks: Arc<Mutex<HashMap<String, u32>>>,
}

impl Ways {
    async fn start() -> Self {
        let mut stage = Stage::start().await;
        let (session, incoming) = stage.agent_by_hand(Config::default()).await;
        let told = Told::default();
        tokio::spawn(run(incoming, told.clone()));
        Self { stage, told, session }
    }

    fn refuse(&self, target: &'static str, code: RefuseCode) {
        self.told.refused.lock().expect("a lock").insert(target, code);
    }

    fn admit(&self, target: &str) {
        self.told.refused.lock().expect("a lock").remove(target);
    }

    /// How many links to a target there were to be.
    fn asked(&self, target: &str) -> usize {
        self.told.asked.lock().expect("a lock").get(target).copied().unwrap_or(0)
    }

    fn serve(&self, targets: &[&str], passive: PassiveHealth) {
        let mut rule = rule(targets, Vec::new());
        let Backend::Tunnel(tunnel) = &mut rule.backend else { panic!("{rule:?}") };
        tunnel.passive_health = passive;
        self.stage.serve_rules(vec![rule], None);
    }

    /// Says what a check has come to, once it was ordered.
    async fn report(&self, target: &str, problem: Option<HealthReason>) {
        let ordered = || self.told.checks.lock().expect("a lock").get(target).copied();
        becomes("the check is ordered", || ordered().is_some()).await;
        let problem = problem.map(|reason| HealthProblem::new(reason, "no"));
        for note in Note::health(vec![HealthReport { id: ordered().expect("it is"), problem }]) {
            self.session.note(&note).expect("a session");
        }
    }

    /// The answers to so many requests, each of which is to be served.
    async fn served(&self, requests: usize) -> HashSet<String> {
        let mut answers = HashSet::new();
        for _ in 0..requests {
            let answer = self.stage.get("/").await;
            assert_eq!(answer.status, 200, "{answer:?}");
            answers.insert(answer.body);
        }
        answers
    }

    /// Waits until this is known of the TunnelHost.
    async fn known(&self, so: impl Fn(&HostBackends) -> bool) -> HostBackends {
        let mut known = self.stage.proxy.reachability();
        let shop = ObjectName::new("web", "shop");
        let waiting = known.wait_for(|all| all.get(&shop).is_some_and(&so));
        timeout(PATIENCE, waiting).await.expect("known in time").expect("a proxy")[&shop].clone()
    }

    fn ejections(&self, target: &str) -> u64 {
        self.stage.edge.metric(&series("culvert_backend_ejections_total", target))
    }
}

fn series(metric: &str, target: &str) -> String {
    format!("{metric}{{agent=\"lab\",namespace=\"web\",target=\"{target}\",tunnelhost=\"shop\"}}")
}

/// The agent made by hand.
async fn run(mut incoming: Incoming, Told { refused, asked, checks }: Told) {
    while let Some(event) = incoming.next().await {
        let opening = match event {
            IncomingEvent::Open(opening) => opening,
            IncomingEvent::Note(Note::Checks { start, .. }) => {
                let ordered = start.into_iter().map(|order| (order.check.target, order.id));
                checks.lock().expect("a lock").extend(ordered);
                continue;
            }
            IncomingEvent::Note(_) => continue,
        };
        let target = opening.request.target.clone();
        *asked.lock().expect("a lock").entry(target.clone()).or_default() += 1;
        match refused.lock().expect("a lock").get(&*target) {
            Some(code) => opening.refuse(*code, &format!("the agent cannot connect to {target}")),
            None => drop(tokio::spawn(answer(opening.accept(), target))),
        }
    }
}

/// Answers one request with this name; the next one comes by another link.
async fn answer(mut link: Link, name: String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match link.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let length = name.len();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{name}");
    let _ = link.write_all(answer.as_bytes()).await;
    let _ = link.shutdown().await;
    // Dropped before, it would be reset, and what the edge has not read yet with it.
    let _ = link.read_to_end(&mut head).await;
}

/// Ejected places stay so for longer than the test.
fn long() -> PassiveHealth {
    PassiveHealth { retry_after: Duration::from_hours(1), ..PassiveHealth::default() }
}

const ONE: &str = "one:80";
const TWO: &str = "two:80";
const THREE: &str = "three:80";
const FOUR: &str = "four:80";

#[tokio::test]
async fn a_target_that_takes_no_connections_is_tried_no_more() {
    let ways = Ways::start().await;
    ways.serve(&[ONE, TWO], long());
    assert_eq!(ways.served(4).await.len(), 2);
    let both = ways.known(|backends| backends.reachable).await;
    assert_eq!(both.failing, []);
    ways.refuse(ONE, RefuseCode::Refused);
    let before = ways.asked(ONE);
    assert_eq!(ways.served(20).await, HashSet::from([TWO.to_owned()]));
    assert_eq!(ways.asked(ONE), before + 3);
    assert_eq!((ways.ejections(ONE), ways.ejections(TWO)), (1, 0));
    // What is left serves, and what is wrong is known.
    let one = ways.known(|backends| !backends.failing.is_empty()).await;
    assert!(one.reachable, "{one:?}");
    assert_eq!((&one.failing[0].agent, one.failing[0].target.as_str()), (&lab(), ONE));
    assert_eq!(one.failing[0].problem.reason, HealthReason::Refused);
    assert!(one.failing[0].problem.text.contains(ONE), "{one:?}");
    let edge = &ways.stage.edge;
    assert_eq!(edge.metric(&series("culvert_backend_healthy", TWO)), 1);
    assert_eq!(edge.metric(&series("culvert_backend_healthy", ONE)), 0);
    // The series end with the object.
    ways.stage.serve_nothing();
    becomes("the series are gone", || {
        let families = edge.metrics.gather();
        !families.iter().any(|family| family.name().starts_with("culvert_backend_"))
    })
    .await;
}

#[tokio::test]
async fn an_ejected_target_comes_back_with_its_first_success() {
    let ways = Ways::start().await;
    ways.serve(&[ONE, TWO], PassiveHealth { retry_after: Duration::from_millis(100), ..PassiveHealth::default() });
    ways.refuse(ONE, RefuseCode::Timeout);
    becomes_served(&ways, |ways| ways.ejections(ONE) >= 1).await;
    ways.admit(ONE);
    becomes_served(&ways, |ways| ways.asked(ONE) > 3).await;
    assert_eq!(ways.served(2).await.len(), 2, "it does not get its turn");
}

#[tokio::test]
async fn a_check_that_succeeds_again_knows_better_than_connects_before() {
    let ways = Ways::start().await;
    let mut rule = checked(&[ONE, TWO]);
    let Backend::Tunnel(tunnel) = &mut rule.backend else { panic!("{rule:?}") };
    tunnel.passive_health = long();
    ways.stage.serve_rules(vec![rule], None);
    ways.report(ONE, None).await;
    let (edge, of_one) = (&ways.stage.edge, series("culvert_backend_healthy", ONE));
    edge.metric_becomes(&of_one, 1).await;
    ways.refuse(ONE, RefuseCode::Refused);
    assert_eq!(ways.served(10).await, HashSet::from([TWO.to_owned()]));
    // The check found nothing wrong, and that was before.
    edge.metric_becomes(&of_one, 0).await;
    ways.admit(ONE);
    ways.report(ONE, Some(HealthReason::Refused)).await;
    ways.report(ONE, None).await;
    edge.metric_becomes(&of_one, 1).await;
    assert_eq!(ways.served(2).await.len(), 2, "it is still ejected");
}

/// Sends requests until it is so. Those that a target does not take in time are not tried elsewhere.
async fn becomes_served(ways: &Ways, so: impl Fn(&Ways) -> bool) {
    let sending = async {
        while !so(ways) {
            ways.stage.get("/").await;
        }
    };
    timeout(PATIENCE, sending).await.expect("in time");
}

#[tokio::test]
async fn the_only_target_is_always_tried() {
    let ways = Ways::start().await;
    ways.serve(&[ONE], long());
    ways.refuse(ONE, RefuseCode::Refused);
    for _ in 0..10 {
        assert_eq!(ways.stage.get("/").await.status, 502);
    }
    assert_eq!((ways.asked(ONE), ways.ejections(ONE)), (10, 0));
    let backends = ways.known(|backends| !backends.reachable).await;
    assert_eq!(backends.failing.len(), 1);
    ways.admit(ONE);
    ways.served(1).await;
    // Said a while later, so that a target that comes and goes is not news each time.
    ways.known(|backends| backends.reachable).await;
}

#[tokio::test]
async fn only_a_share_of_the_targets_is_ejected() {
    let ways = Ways::start().await;
    ways.serve(&[ONE, TWO, THREE, FOUR], long());
    for dead in [ONE, TWO, THREE] {
        ways.refuse(dead, RefuseCode::Unreachable);
    }
    // Attempts may all meet dead ones until two are out of the way.
    becomes_served(&ways, |ways| [ONE, TWO, THREE].iter().all(|dead| ways.asked(dead) >= 3)).await;
    let asked = || [ONE, TWO, THREE].map(|dead| ways.asked(dead));
    let before = asked();
    assert_eq!(ways.served(20).await, HashSet::from([FOUR.to_owned()]));
    let tried = asked().iter().zip(before).filter(|(now, before)| **now > *before).count();
    assert_eq!(tried, 1, "{before:?} {:?}", asked());
}

#[tokio::test]
async fn ejected_targets_are_better_than_none() {
    let ways = Ways::start().await;
    ways.serve(&[ONE, TWO], PassiveHealth { max_ejected_percent: 100, ..long() });
    for dead in [ONE, TWO] {
        ways.refuse(dead, RefuseCode::Refused);
    }
    for _ in 0..4 {
        assert_eq!(ways.stage.get("/").await.status, 502);
    }
    assert_eq!((ways.ejections(ONE), ways.ejections(TWO)), (1, 1));
    ways.admit(ONE);
    ways.admit(TWO);
    ways.served(1).await;
}

#[tokio::test]
async fn the_only_target_of_a_tier_is_ejected_where_there_is_another_tier() {
    let ways = Ways::start().await;
    let mut rule = rule(&[], Vec::new());
    let Backend::Tunnel(tunnel) = &mut rule.backend else { panic!("{rule:?}") };
    let target = |address: &str, priority| Member { item: address.parse().expect("a target"), weight: 1, priority };
    tunnel.places = Places::new(&[lab().into()], &[target(ONE, 0), target(TWO, 1)]);
    tunnel.passive_health = long();
    ways.stage.serve_rules(vec![rule], None);
    assert_eq!(ways.served(3).await, HashSet::from([ONE.to_owned()]));
    ways.refuse(ONE, RefuseCode::Refused);
    assert_eq!(ways.served(10).await, HashSet::from([TWO.to_owned()]));
    assert_eq!(ways.asked(ONE), 3 + 3);
}

#[tokio::test]
async fn what_an_allow_list_lacks_is_known_and_not_ejected() {
    let ways = Ways::start().await;
    ways.serve(&[ONE, TWO], long());
    ways.refuse(ONE, RefuseCode::NotAllowed);
    ways.served(10).await;
    assert_eq!((ways.asked(ONE), ways.ejections(ONE)), (5, 0));
    let backends = ways.known(|backends| !backends.failing.is_empty()).await;
    assert_eq!(backends.failing[0].problem.reason, HealthReason::NotAllowed);
}

#[tokio::test]
async fn what_checks_find_is_known_without_a_request() {
    let stage = Stage::start().await;
    let checked_target = Checked::start("shop", 500).await;
    stage.serve_rules(vec![checked(&[&checked_target.target])], None);
    let mut known = stage.proxy.reachability();
    let shop = ObjectName::new("web", "shop");
    let fails = known.wait_for(|all| all.get(&shop).is_some_and(|backends| !backends.reachable));
    let fails = timeout(PATIENCE, fails).await.expect("known in time").expect("a proxy")[&shop].clone();
    assert_eq!(fails.failing[0].problem.reason, HealthReason::Unexpected);
    checked_target.status.send_replace(200);
    let well = known.wait_for(|all| all.get(&shop).is_some_and(|backends| backends.reachable));
    let well = timeout(PATIENCE, well).await.expect("known in time").expect("a proxy")[&shop].clone();
    assert_eq!(well.failing, []);
    // Of an agent that is gone nothing is known.
    stage.agent.expect("an agent").stop().await;
    let nothing = known.wait_for(|all| all.is_empty());
    timeout(PATIENCE, nothing).await.expect("known in time").expect("a proxy");
}
