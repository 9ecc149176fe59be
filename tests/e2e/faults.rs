//! Faults: the API server away, a pod killed, an agent killed or silent.

use std::{
    io,
    process::Command,
    time::{Duration, Instant},
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::harness::{Culvert, Replica, Site, Visitor, all_see, apply, cluster, eventually, output};

/// One request of the load: when it ran and what came of it.
#[derive(Debug)]
struct Sample {
    start: Instant,
    end: Instant,
    outcome: Outcome,
}

/// The API server is stopped as long as this lives, and starts again also where the test fails.
struct ApiServerAway;

impl ApiServerAway {
    fn stop() -> Self {
        let away = Self;
        cluster(["stop", "apiserver"]);
        away
    }
}

impl Drop for ApiServerAway {
    fn drop(&mut self) {
        cluster(["start", "apiserver"]);
    }
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Answered,
    /// No connection came about: kube-proxy still led to a pod that was gone. The request reached no edge.
    NotConnected,
    Failed(String),
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_goes_on_without_the_api_server() {
    let culvert = Culvert::installed().await;
    let mut site = Site::new(&culvert, "api-away", "still here\n").await;
    site.publish(&culvert, "shop", "api-away.example.com").await;
    let visitors = culvert.visitors("api-away.example.com");
    let before = culvert.replicas();
    let later = site.host("later", "later.example.com", "");

    let api_server = ApiServerAway::stop();
    let away = Instant::now();
    while away.elapsed() < Duration::from_secs(5) {
        for visitor in &visitors {
            assert_eq!(visitor.get("/").await.unwrap().status, 200);
            visitor.echoes("without the API server").await;
        }
    }
    // An agent that comes back meanwhile is known, too.
    site.agent.restart();
    all_see(&visitors, 200, Duration::from_secs(5)).await;

    drop(api_server);
    let asked = async || apply(&later);
    eventually("the API server takes objects again", Duration::from_mins(1), asked).await;
    all_see(&culvert.visitors("later.example.com"), 200, Duration::from_secs(30)).await;
    site.wait_ready("later");
    site.agent.meets(&culvert).await;
    let restarts = |replicas: Vec<Replica>| replicas.iter().map(|replica| replica.restarts).sum::<u64>();
    assert_eq!(restarts(culvert.replicas()), restarts(before), "an edge did not outlive the API server's absence");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_pod_fails_only_what_was_in_flight_on_it() {
    let culvert = Culvert::installed().await;
    let site = Site::new(&culvert, "killed", "alive\n").await;
    site.publish(&culvert, "shop", "killed.example.com").await;

    let stop = CancellationToken::new();
    let samples = tokio::spawn(light_load(culvert.visitor("killed.example.com"), stop.clone()));
    let [killed, survivor] = <[_; 2]>::try_from(culvert.replicas()).unwrap();
    let direct = tokio::spawn(light_load(survivor.visitor("killed.example.com"), stop.clone()));
    tokio::time::sleep(Duration::from_secs(2)).await; // the load before the fault
    let at = Instant::now();
    output(Command::new("kill").args(["-9", &killed.pid().to_string()]));
    // A process that is killed still has its sockets for a moment; who came until then was in flight on it.
    killed.refuses().await;
    let gone = Instant::now();
    eventually("the killed pod is ready again", Duration::from_secs(90), async || {
        let replicas = culvert.replicas();
        let again = replicas.iter().any(|replica| replica.name == killed.name && replica.restarts > killed.restarts);
        if again { Ok(()) } else { Err(format!("{replicas:?}")) }
    })
    .await;
    site.agent.meets(&culvert).await;
    tokio::time::sleep(Duration::from_secs(2)).await; // the load after it
    stop.cancel();

    let (samples, direct) = (samples.await.unwrap(), direct.await.unwrap());
    let unanswered: Vec<_> = direct.iter().filter(|sample| sample.outcome != Outcome::Answered).collect();
    assert!(unanswered.is_empty(), "the surviving pod failed {unanswered:?}");
    let in_flight = |sample: &&Sample| sample.start <= gone && sample.end >= at;
    let count = |wanted: fn(&Outcome) -> bool| samples.iter().filter(|sample| wanted(&sample.outcome)).count();
    println!(
        "{} requests through the Service: {} in flight in the {:?} from the kill, {} failed, {} not connected",
        samples.len(),
        samples.iter().filter(in_flight).count(),
        gone.saturating_duration_since(at),
        count(|outcome| matches!(outcome, Outcome::Failed(_))),
        count(|outcome| *outcome == Outcome::NotConnected),
    );
    for sample in samples.iter().filter(|sample| sample.outcome != Outcome::Answered) {
        // Signed: a request in flight began before the kill.
        let offset = |moment: Instant| {
            moment.saturating_duration_since(at).as_secs_f64() - (at.saturating_duration_since(moment)).as_secs_f64()
        };
        println!("{:+.3} s to {:+.3} s: {:?}", offset(sample.start), offset(sample.end), sample.outcome);
    }
    for sample in &samples {
        match &sample.outcome {
            Outcome::Answered => {}
            Outcome::Failed(error) => assert!(in_flight(&sample), "not in flight at the kill, yet failed: {error}"),
            Outcome::NotConnected => {
                let after = sample.start.saturating_duration_since(at);
                assert!(
                    sample.start >= at && after < Duration::from_secs(15),
                    "not connected {after:?} after the kill"
                );
            }
        }
    }
    assert!(samples.len() > 100, "a load of {} requests shows nothing", samples.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_is_missed_at_once_and_comes_back_by_itself() {
    let culvert = Culvert::installed().await;
    let mut site = Site::new(&culvert, "agent-killed", "home\n").await;
    site.publish(&culvert, "shop", "agent-killed.example.com").await;
    let visitors = culvert.visitors("agent-killed.example.com");

    site.agent.kill();
    let answer = all_see(&visitors, 503, Duration::from_secs(1)).await;
    answer.is_edges_own("destination_unavailable");
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
    let (reason, _) = site.condition("shop", "AgentConnected", "False").await;
    assert_eq!(reason, "NoSession");
    assert_eq!(site.agent.condition("AgentConnected"), "False");
    // An agent that is away must not hang a pipeline.
    site.wait_ready("shop");

    site.agent.restart();
    all_see(&visitors, 200, Duration::from_secs(5)).await;
    site.condition("shop", "AgentConnected", "True").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_agent_is_noticed_within_ten_seconds() {
    let culvert = Culvert::installed().await;
    let site = Site::new(&culvert, "agent-silent", "home\n").await;
    site.publish(&culvert, "shop", "agent-silent.example.com").await;
    let visitors = culvert.visitors("agent-silent.example.com");

    site.agent.freeze();
    let frozen = Instant::now();
    // Who asks while nobody knows yet is answered, too, and by then.
    let early = futures::future::join_all(visitors.iter().map(|visitor| visitor.get("/"))).await;
    for answer in early {
        let answer = answer.unwrap();
        assert!((500..=504).contains(&answer.status), "{answer:?}");
        assert!(answer.headers.contains_key("proxy-status"), "{answer:?}");
    }
    let left = Duration::from_secs(10).checked_sub(frozen.elapsed()).expect("answered within 10 s of the silence");
    let answer = all_see(&visitors, 503, left).await;
    answer.is_edges_own("destination_unavailable");
    site.condition("shop", "AgentConnected", "False").await;

    site.agent.thaw();
    all_see(&visitors, 200, Duration::from_secs(10)).await;
    site.condition("shop", "AgentConnected", "True").await;
}

/// Asks for a page that takes 200 ms, twenty times a second, until told to stop.
async fn light_load(visitor: Visitor, stop: CancellationToken) -> Vec<Sample> {
    let (samples, mut collected) = tokio::sync::mpsc::unbounded_channel();
    let running = TaskTracker::new();
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let (visitor, samples) = (visitor.clone(), samples.clone());
        running.spawn(async move {
            let start = Instant::now();
            let outcome = match visitor.get("/slow").await {
                Ok(answer) if answer.status == 200 => Outcome::Answered,
                Ok(answer) => Outcome::Failed(format!("{} {}", answer.status, answer.body)),
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut) => {
                    Outcome::NotConnected
                }
                Err(error) => Outcome::Failed(error.to_string()),
            };
            // The receiver outlives all senders.
            let _ = samples.send(Sample { start, end: Instant::now(), outcome });
        });
    }
    running.close();
    running.wait().await;
    drop(samples);
    let mut all = Vec::new();
    while let Some(sample) = collected.recv().await {
        all.push(sample);
    }
    all
}
