//! Several replicas of an edge, and how agents meet them: real bridges and agents, real sockets and real TLS.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![cfg(all(feature = "edge", feature = "agent"))]

#[path = "support/balancer.rs"]
mod balancer;
#[path = "support/tunnel.rs"]
mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use balancer::Balancer;
use culvert::tunnel::{Link, Replica};
use support::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep, timeout},
};

/// How many connections each agent of these tests holds with each replica.
const SLOTS: u32 = 2;

/// Replicas behind a balancer that leads to them in turn.
struct Replicas {
    edges: BTreeMap<u32, Edge>,
    balancer: Balancer,
    certificate: Certificate,
    /// Whether agents are told the replicas' own addresses.
    addresses: bool,
    /// Registrations that were answered by those that have stopped.
    before: Registrations,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Registrations {
    accepted: u64,
    already_met: u64,
}

impl Replicas {
    async fn start(count: u32, addresses: bool) -> Self {
        let mut replicas = Self {
            edges: BTreeMap::new(),
            balancer: Balancer::start().await,
            certificate: Certificate::new(),
            addresses,
            before: Registrations::default(),
        };
        replicas.scale(count).await;
        replicas
    }

    /// From now on there are so many.
    async fn scale(&mut self, count: u32) {
        for id in 0..count {
            if !self.edges.contains_key(&id) {
                let name = format!("r{id}");
                let any = ([127, 0, 0, 1], 0).into();
                self.edges.insert(id, Edge::start_as(&name, &[&name], &self.certificate, any).await);
            }
        }
        let leaving = self.edges.split_off(&count);
        self.balancer.lead_to(self.edges.values().map(|edge| edge.address).collect());
        let replica = |(id, edge): (&u32, &Edge)| Replica {
            id: format!("r{id}"),
            address: self.addresses.then(|| edge.address.to_string()),
        };
        let set: Arc<[Replica]> = self.edges.iter().map(replica).collect();
        for edge in self.edges.values() {
            edge.replicas.send_replace(set.clone());
            // They hear of it one after the other: agents meet new ones that know of themselves only.
            sleep(Duration::from_millis(20)).await;
        }
        // Together, as when a set is scaled: one that stayed would still name the others.
        for edge in leaving.values() {
            edge.begin_stop();
        }
        for edge in leaving.into_values() {
            let registrations = registrations(&edge);
            self.before.accepted += registrations.accepted;
            self.before.already_met += registrations.already_met;
            edge.stop().await;
        }
    }

    fn agents(&self, count: usize) -> Vec<RunningAgent> {
        let url = format!("https://{}", self.balancer.address);
        (0..count).map(|_| RunningAgent::start_in_slots(&url, &self.certificate, &["127.0.0.1:*"], SLOTS)).collect()
    }

    /// Waits until each agent holds each of its slots with each replica.
    async fn all_met(&self, agents: usize) {
        for edge in self.edges.values() {
            let sessions = edge.sessions(|sessions| sessions.len() == agents * SLOTS as usize).await;
            let mut processes: Vec<_> = sessions.iter().map(|session| session.process).collect();
            processes.sort_unstable();
            processes.dedup();
            assert_eq!(processes.len(), agents);
            // They are counted a moment after they are listed.
            let listed = (agents * SLOTS as usize) as u64;
            edge.metric_becomes("culvert_agent_sessions{agent=\"lab\",namespace=\"web\"}", listed).await;
        }
    }

    /// The registrations that were answered so far.
    fn registrations(&self) -> Registrations {
        self.edges.values().map(registrations).fold(self.before, |sum, one| Registrations {
            accepted: sum.accepted + one.accepted,
            already_met: sum.already_met + one.already_met,
        })
    }
}

fn registrations(edge: &Edge) -> Registrations {
    let of = |result: &str| edge.metric(&format!("culvert_agent_connects_total{{result=\"{result}\"}}"));
    Registrations { accepted: of("accepted"), already_met: of("already_met") }
}

/// Sends `message` to an echo and takes it back.
async fn echoed(link: &mut Link, message: &[u8]) {
    link.write_all(message).await.expect("sent");
    let mut answer = vec![0; message.len()];
    timeout(PATIENCE, link.read_exact(&mut answer)).await.expect("in time").expect("an answer");
    assert_eq!(answer, message);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_addresses_each_session_is_dialled_once_as_replicas_come_and_go() {
    const AGENTS: usize = 10;
    let mut replicas = Replicas::start(5, true).await;
    let _agents = replicas.agents(AGENTS);
    replicas.all_met(AGENTS).await;
    let needed = AGENTS as u64 * u64::from(SLOTS);
    assert_eq!(replicas.registrations(), Registrations { accepted: 5 * needed, already_met: 0 });
    assert_eq!(replicas.balancer.dials(), AGENTS, "only the first dial of each agent goes to the balancer");

    let stay: Vec<_> = replicas.edges[&0].bridge.registry().sessions().iter().map(|session| session.id).collect();
    replicas.scale(2).await;
    replicas.all_met(AGENTS).await;
    replicas.scale(5).await;
    replicas.all_met(AGENTS).await;
    assert_eq!(replicas.registrations(), Registrations { accepted: (5 + 3) * needed, already_met: 0 });
    let stayed: Vec<_> = replicas.edges[&0].bridge.registry().sessions().iter().map(|session| session.id).collect();
    assert_eq!(stayed, stay, "those with other replicas are left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_one_balancer_at_most_three_dials_are_made_for_each_session() {
    const AGENTS: usize = 20;
    let mut replicas = Replicas::start(5, false).await;
    let _agents = replicas.agents(AGENTS);
    replicas.all_met(AGENTS).await;
    replicas.scale(2).await;
    replicas.all_met(AGENTS).await;
    replicas.scale(5).await;
    replicas.all_met(AGENTS).await;
    let needed = AGENTS * SLOTS as usize * (5 + 3);
    assert_eq!(replicas.registrations().accepted, needed as u64, "each session once");
    let dials = replicas.balancer.dials();
    assert!(dials <= 3 * needed, "{dials} dials for {needed} sessions");
    println!("{dials} dials for {needed} sessions");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_address_leads_nowhere_is_met_through_the_balancer() {
    let replicas = Replicas::start(2, true).await;
    // A port that is closed: it was somebody's a moment ago.
    let (listener, closed) = backend();
    drop(listener);
    let replica = |id: &str, address: &str| Replica { id: id.to_owned(), address: Some(address.to_owned()) };
    let set: Arc<[Replica]> = [replica("r0", &closed), replica("r1", &closed)].into();
    for edge in replicas.edges.values() {
        edge.replicas.send_replace(set.clone());
    }
    let _agents = replicas.agents(1);
    replicas.all_met(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_lost_or_stalls_leaves_the_others_serving() {
    let replicas = Replicas::start(1, false).await;
    let edge = &replicas.edges[&0];
    let _agents = replicas.agents(1);
    replicas.all_met(1).await;
    let target = echo();
    let sessions = edge.bridge.registry().sessions();
    let mut links: Vec<Link> = sessions.iter().map(|session| open(session, &target)).collect();
    for link in &mut links {
        echoed(link, b"both serve").await;
    }

    // One is cut: its links end, the other's go on, and it is dialled again as a session of the same process.
    replicas.balancer.cut(0);
    let cut = sessions.iter().position(|session| session.remote_address == replicas.balancer.local(0));
    let cut = cut.expect("one of the two");
    timeout(PATIENCE, sessions[cut].closed()).await.expect("noticed");
    let mut kept = links.swap_remove(1 - cut);
    echoed(&mut kept, b"still serves").await;
    replicas.all_met(1).await;
    assert_eq!(edge.bridge.registry().sessions()[0].process, sessions[0].process);
    assert_eq!(replicas.balancer.dials(), 3, "one dial for the one that was lost");

    // One stalls: as long as nobody knows, the other one answers as before.
    let stalled = replicas.balancer.local(1);
    replicas.balancer.stall(1);
    let sessions = edge.bridge.registry().sessions();
    let (silent, other): (Vec<_>, Vec<_>) =
        sessions.iter().cloned().partition(|session| session.remote_address == stalled);
    let begin = Instant::now();
    let mut waiting = open(&silent[0], &target);
    waiting.write_all(b"nobody hears this").await.expect("sent");
    while begin.elapsed() < Duration::from_secs(1) {
        echoed(&mut open(&other[0], &target), b"not disturbed").await;
    }
    timeout(PATIENCE, silent[0].closed()).await.expect("noticed");
    assert!(begin.elapsed() < Duration::from_secs(11), "{:?}", begin.elapsed());
    waiting.read(&mut [0; 1]).await.expect_err("the link went with it");
    replicas.all_met(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_links_go_over_all_connections_of_a_process_in_turn() {
    let replicas = Replicas::start(1, false).await;
    let edge = &replicas.edges[&0];
    let _agents = replicas.agents(2);
    replicas.all_met(2).await;
    let registry = edge.bridge.registry();
    let mut chosen = BTreeMap::<(u64, u64), usize>::new();
    for _ in 0..40 {
        let session = registry.choose(&lab()).expect("a session");
        *chosen.entry((session.process, session.id)).or_default() += 1;
    }
    assert_eq!(chosen.values().copied().collect::<Vec<_>>(), [10; 4], "{chosen:?}");
}
