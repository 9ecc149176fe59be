//! Which of several agents and targets a request goes to.

use std::{collections::HashMap, sync::Arc};

use culvert::routing::{Agents, Backend, LoadBalancing, Member, ObjectName, Places, Rule, Target};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use crate::{
    stage::{Options, Stage, Visitor, backend, becomes, named, read_head, request, rule},
    support::{RunningAgent, TOKEN, agents, lab},
};

fn target(address: &str, weight: u32, priority: u32) -> Member<Target> {
    Member { item: address.parse().expect("a target"), weight, priority }
}

fn hut() -> ObjectName {
    ObjectName::new("web", "hut")
}

fn balanced(balancing: LoadBalancing, agents: &[Member<ObjectName>], targets: &[Member<Target>]) -> Rule {
    let mut rule = rule(&[], Vec::new());
    let Backend::Tunnel(tunnel) = &mut rule.backend else { panic!("{rule:?}") };
    (tunnel.balancing, tunnel.places) = (balancing, Places::new(agents, targets));
    rule
}

/// Serves from these targets through the one agent.
fn serve(stage: &Stage, balancing: LoadBalancing, targets: &[Member<Target>]) {
    stage.serve_rules(vec![balanced(balancing, &[lab().into()], targets)], None);
}

/// How often each backend answered so many requests.
async fn counts(stage: &Stage, requests: usize) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for _ in 0..requests {
        *counts.entry(stage.get("/").await.body).or_default() += 1;
    }
    counts
}

/// What answers the visitors from so many addresses.
async fn by_visitor(stage: &Stage, visitors: u8) -> Vec<String> {
    let mut answers = Vec::new();
    for visitor in 0..visitors {
        let request = request("GET", "/", &format!("X-Forwarded-For: 203.0.113.{visitor}\r\n"));
        answers.push(stage.send(&request).await.body);
    }
    answers
}

/// Both agents, `lab` and `hut`, may register and be routed to.
fn admit_hut(stage: &Stage) -> Agents {
    let both = agents(&[("lab", "lab-token", TOKEN), ("hut", "hut-token", TOKEN)]);
    stage.edge.agents.send_replace(Arc::new(both.clone()));
    both
}

#[tokio::test]
async fn targets_get_requests_by_their_weight() {
    let stage = Stage::start().await;
    let targets = [target(&named("heavy").await, 3, 0), target(&named("light").await, 1, 0)];
    serve(&stage, LoadBalancing::RoundRobin, &targets);
    let turns = counts(&stage, 40).await;
    assert!((28..=32).contains(&turns["heavy"]) && turns["heavy"] + turns["light"] == 40, "{turns:?}");
    // Five standard deviations of chance.
    serve(&stage, LoadBalancing::Random, &targets);
    let chance = counts(&stage, 100).await;
    assert!((53..=97).contains(&chance["heavy"]) && chance["heavy"] + chance["light"] == 100, "{chance:?}");
}

#[tokio::test]
async fn a_target_without_weight_is_drained() {
    let stage = Stage::start().await;
    let (stays, goes) = (named("stays").await, named("goes").await);
    serve(&stage, LoadBalancing::RoundRobin, &[target(&stays, 1, 0), target(&goes, 0, 0)]);
    assert_eq!(counts(&stage, 4).await, HashMap::from([("stays".to_owned(), 4)]));
    serve(&stage, LoadBalancing::RoundRobin, &[target(&stays, 0, 0), target(&goes, 0, 0)]);
    let answer = stage.get("/").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    let cause = answer.header("proxy-status").expect("a cause");
    assert!(cause.starts_with("culvert; error=destination_unavailable; ") && cause.contains("weight 0"), "{cause}");
    stage.edge.metric_becomes("culvert_errors_total{reason=\"drained\"}", 1).await;
}

#[tokio::test]
async fn a_target_of_a_lower_tier_is_used_when_the_better_one_fails() {
    let stage = Stage::start().await;
    let refusing = {
        let (listener, address) = crate::support::backend();
        drop(listener);
        address
    };
    let targets = [target(&named("spare").await, 1, 1), target(&named("first").await, 1, 0)];
    serve(&stage, LoadBalancing::RoundRobin, &targets);
    assert_eq!(counts(&stage, 3).await, HashMap::from([("first".to_owned(), 3)]));
    let targets = [targets[0].clone(), target(&refusing, 1, 0)];
    serve(&stage, LoadBalancing::RoundRobin, &targets);
    assert_eq!(counts(&stage, 3).await, HashMap::from([("spare".to_owned(), 3)]));
}

#[tokio::test]
async fn an_agent_of_a_lower_tier_is_used_while_the_better_one_is_away() {
    let mut stage = Stage::start().await;
    let both = admit_hut(&stage);
    let (near, far) = (named("near").await, named("far").await);
    stage.agent.take().expect("an agent").stop().await;
    stage.edge.sessions(|sessions| sessions.is_empty()).await;
    // Each agent may reach one of the targets alone, so that the answer tells the agent.
    let _hut = RunningAgent::start_as("web/hut", &stage.edge, &[&far]);
    let lab_agent = RunningAgent::start_as("web/lab", &stage.edge, &[&near]);
    stage.edge.sessions(|sessions| sessions.len() == 2).await;
    let spare = Member { item: hut(), weight: 1, priority: 1 };
    let rule = balanced(LoadBalancing::RoundRobin, &[spare, lab().into()], &[target(&near, 1, 0), target(&far, 1, 0)]);
    stage.serve_agents(&both, vec![rule]);
    assert_eq!(counts(&stage, 4).await, HashMap::from([("near".to_owned(), 4)]));
    lab_agent.stop().await;
    stage.edge.session().await;
    assert_eq!(counts(&stage, 4).await, HashMap::from([("far".to_owned(), 4)]));
    let _back = RunningAgent::start_as("web/lab", &stage.edge, &[&near]);
    stage.edge.sessions(|sessions| sessions.len() == 2).await;
    assert_eq!(counts(&stage, 4).await, HashMap::from([("near".to_owned(), 4)]));
}

#[tokio::test]
async fn a_target_with_less_to_do_is_preferred() {
    let stage = Stage::start().await;
    let (released, wait) = watch::channel(false);
    let (taken, mut busy) = watch::channel(0);
    let slow = backend(move |mut stream| {
        let (mut wait, taken) = (wait.clone(), taken.clone());
        async move {
            let _ = read_head(&mut stream).await;
            taken.send_modify(|taken| *taken += 1);
            let _ = wait.wait_for(|released| *released).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow").await;
        }
    })
    .await;
    let targets = [target(&slow, 1, 0), target(&named("fast").await, 1, 0)];
    serve(&stage, LoadBalancing::LeastRequests, &targets);
    // One of two idle ones by chance, until the slow one has a request.
    let mut visitors: Vec<Visitor> = Vec::new();
    while *busy.borrow() == 0 {
        let mut visitor = stage.visit().await;
        visitor.send(request("GET", "/", "").as_bytes()).await;
        tokio::select! {
            answer = visitor.answer() => assert_eq!(answer.body, "fast"),
            taken = busy.changed() => {
                taken.expect("a backend");
                visitors.push(visitor);
            }
        }
    }
    assert_eq!(counts(&stage, 20).await, HashMap::from([("fast".to_owned(), 20)]));
    released.send_replace(true);
    assert_eq!(visitors[0].answer().await.body, "slow");
    let mut seen = HashMap::new();
    while seen.len() < 2 {
        *seen.entry(stage.get("/").await.body).or_insert(0) += 1;
    }
}

#[tokio::test]
async fn a_visitor_stays_with_its_target() {
    let stage = Stage::start_with(Options::behind_proxy()).await;
    let names = [named("a").await, named("b").await, named("c").await];
    let targets: Vec<_> = names.iter().map(|name| target(name, 1, 0)).collect();
    serve(&stage, LoadBalancing::ClientHash, &targets);
    let first = by_visitor(&stage, 30).await;
    assert_eq!(by_visitor(&stage, 30).await, first);
    for name in ["a", "b", "c"] {
        assert!(first.iter().any(|answer| answer == name), "{first:?}");
    }
    serve(&stage, LoadBalancing::ClientHash, &targets[..2]);
    let second = by_visitor(&stage, 30).await;
    for (before, after) in first.iter().zip(&second) {
        assert!(before == after || before == "c", "{first:?} {second:?}");
    }
}

#[tokio::test]
async fn a_visitor_stays_with_one_process_of_an_agent() {
    let mut stage = Stage::start_with(Options::behind_proxy()).await;
    stage.agent.take().expect("an agent").stop().await;
    stage.edge.sessions(|sessions| sessions.is_empty()).await;
    let [here, there] = [named("here").await, named("there").await];
    // Two processes of one agent that reach another backend each.
    let _one = RunningAgent::start_as("web/lab", &stage.edge, &[&here]);
    let two = RunningAgent::start_as("web/lab", &stage.edge, &[&there]);
    stage.edge.sessions(|sessions| sessions.len() == 2).await;
    let targets = [target(&here, 1, 0), target(&there, 1, 0)];
    serve(&stage, LoadBalancing::ClientHash, &targets);
    let first = by_visitor(&stage, 20).await;
    assert_eq!(by_visitor(&stage, 20).await, first);
    assert!(first.iter().any(|answer| answer == "here") && first.iter().any(|answer| answer == "there"), "{first:?}");
    two.stop().await;
    stage.edge.session().await;
    assert_eq!(by_visitor(&stage, 20).await, vec!["here"; 20]);
}

#[tokio::test]
async fn a_new_table_does_not_begin_the_turns_anew() {
    let stage = Stage::start().await;
    let targets = [target(&named("one").await, 1, 0), target(&named("two").await, 1, 0)];
    let mut seen = HashMap::new();
    for _ in 0..6 {
        serve(&stage, LoadBalancing::RoundRobin, &targets);
        *seen.entry(stage.get("/").await.body).or_insert(0) += 1;
    }
    assert_eq!(seen, HashMap::from([("one".to_owned(), 3), ("two".to_owned(), 3)]));
    becomes("all requests are over", || {
        stage.edge.metric("culvert_agent_connections{agent=\"lab\",namespace=\"web\"}") == 0
    })
    .await;
}
