//! The bridge, as agents and others on its port see it: real sockets and real TLS.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![cfg(all(feature = "edge", feature = "agent"))]

#[path = "support/tunnel.rs"]
mod support;

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use culvert::{
    routing::{AgentEntry, Agents},
    tunnel::{
        CloseReason, Config, Driver, Incoming, IncomingEvent, Note, Role, Session,
        registration::{self, RegisterError, Registration},
    },
};
use rustls_pki_types::ServerName;
use support::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

async fn connect(edge: &Edge) -> TlsStream<TcpStream> {
    connect_from(edge, Ipv4Addr::LOCALHOST).await
}

/// A connection from another of this machine's own addresses.
async fn connect_from(edge: &Edge, source: Ipv4Addr) -> TlsStream<TcpStream> {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((source, 0).into()).expect("a port");
    let tcp = socket.connect(edge.address).await.expect("connected");
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(edge.certificate.client()).connect(name, tcp).await.expect("TLS")
}

/// What a request gets, up to the end of the connection. Each comes from an address of its own, as failures of one are slowed
/// down.
async fn answer(edge: &Edge, request: &str) -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    answer_from(edge, Ipv4Addr::new(127, 0, 1, NEXT.fetch_add(1, Ordering::Relaxed)), request).await
}

async fn answer_from(edge: &Edge, source: Ipv4Addr, request: &str) -> String {
    let mut stream = connect_from(edge, source).await;
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("an answer and a proper end");
    answer
}

/// One that wants two sessions and holds those with the replicas that are `met`.
fn registration(instance: &str, met: &[&str]) -> Registration {
    Registration {
        agent: "web/lab".to_owned(),
        token: registration::Token::new(TOKEN).expect("a token"),
        instance: instance.to_owned(),
        version: "0.1.0".to_owned(),
        slots: 2,
        met: met.iter().map(|&id| (id.to_owned(), [0, 1].into())).collect(),
    }
}

/// An agent's side of a session, made by hand.
struct Peer {
    session: Session,
    incoming: Incoming,
    driver: tokio::task::JoinHandle<CloseReason>,
}

impl Peer {
    async fn register(edge: &Edge, registration: &Registration) -> Result<Self, RegisterError> {
        Self::register_from(edge, Ipv4Addr::LOCALHOST, registration).await
    }

    async fn register_from(edge: &Edge, source: Ipv4Addr, registration: &Registration) -> Result<Self, RegisterError> {
        let mut stream = connect_from(edge, source).await;
        let registered = registration::register(&mut stream, "localhost", registration).await?;
        let (session, incoming, driver): (_, _, Driver<_>) =
            Session::start(Role::Agent, stream, registered.early, Config::default());
        Ok(Self { session, incoming, driver: tokio::spawn(driver) })
    }

    async fn note(&mut self) -> Note {
        match timeout(PATIENCE, self.incoming.next()).await.expect("in time") {
            Some(IncomingEvent::Note(note)) => note,
            Some(IncomingEvent::Open(_)) => panic!("a link instead of a note"),
            None => panic!("the session is over"),
        }
    }

    async fn over(self) -> CloseReason {
        timeout(PATIENCE, self.driver).await.expect("in time").expect("no panic")
    }
}

#[tokio::test]
async fn every_answer_has_its_status_and_says_what_to_do() {
    let edge = Edge::start("r1").await;
    let request =
        |headers: &str| format!("GET /v1/tunnel HTTP/1.1\r\nHost: edge\r\nConnection: Upgrade\r\n{headers}\r\n");
    let agent = |token: &str, agent: &str, more: &str| {
        request(&format!(
            "Upgrade: culvert/1\r\nAuthorization: Bearer {token}\r\nCulvert-Agent: {agent}\r\n\
             Culvert-Instance: 0a\r\nCulvert-Version: 0.1.0\r\nCulvert-Slots: 2\r\n{more}"
        ))
    };
    let body = |answer: &str| answer.split_once("\r\n\r\n").expect("a body").1.to_owned();

    let not_found = answer(&edge, "GET / HTTP/1.1\r\nHost: edge\r\n\r\n").await;
    assert!(not_found.starts_with("HTTP/1.1 404 Not Found\r\n"), "{not_found}");
    assert!(body(&not_found).contains("/v1/tunnel"), "{not_found}");

    let protocol = answer(&edge, &request("Upgrade: culvert/9\r\n")).await;
    assert!(protocol.starts_with("HTTP/1.1 426 Upgrade Required\r\n"), "{protocol}");
    assert!(protocol.contains("\r\nupgrade: culvert/1\r\n"), "{protocol}");

    let malformed = answer(&edge, &agent(TOKEN, "lab", "")).await;
    assert!(malformed.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{malformed}");
    assert!(body(&malformed).contains("culvert-agent"), "{malformed}");

    let wrong = answer(&edge, &agent("wrong-token-0123456789", "web/lab", "")).await;
    assert!(wrong.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{wrong}");
    assert!(wrong.contains("\r\nwww-authenticate: Bearer\r\n"), "{wrong}");
    assert!(!wrong.contains("wrong-token"), "{wrong}");
    let unknown = answer(&edge, &agent(TOKEN, "web/other", "")).await;
    let without_date =
        |text: &str| text.lines().filter(|line| !line.starts_with("date:")).collect::<Vec<_>>().join("\n");
    assert_eq!(without_date(&unknown), without_date(&wrong), "nobody learns which agents there are");

    let met = answer(&edge, &agent(TOKEN, "web/lab", "Culvert-Met: r0, r1\r\n")).await;
    assert!(met.starts_with("HTTP/1.1 409 Conflict\r\n"), "{met}");
    assert!(met.contains("\r\nculvert-replica: r1\r\n"), "{met}");

    for answer in [&not_found, &protocol, &malformed, &wrong, &met] {
        assert!(answer.contains("\r\ncontent-type: text/plain; charset=utf-8\r\n"), "{answer}");
        assert_eq!(body(answer).matches('\n').count(), 1, "one line: {answer}");
    }
    for (result, count) in
        [("not_found", 1), ("protocol", 1), ("malformed", 1), ("unauthorized", 2), ("already_met", 1)]
    {
        let series = format!("culvert_agent_connects_total{{result=\"{result}\"}}");
        assert_eq!(edge.metric(&series), count, "{series}");
    }
    assert!(edge.bridge.registry().sessions().is_empty());
}

#[tokio::test]
async fn who_is_accepted_is_welcomed_and_listed() {
    let edge = Edge::start_as("r1", &["r1", "r2"], &Certificate::new(), ([127, 0, 0, 1], 0).into()).await;
    let mut peer = Peer::register(&edge, &registration("0a", &["r0"])).await.expect("registered");
    let Note::Welcome { replica, replicas, .. } = peer.note().await else { panic!("no welcome") };
    assert_eq!(replica, "r1");
    assert_eq!(replicas, *replica_set(&["r1", "r2"]));
    let session = edge.session().await;
    assert_eq!((&session.agent, &*session.instance, session.transport), (&lab(), "0a", "tls"));
    assert_eq!((&*session.version, &*session.secret), ("0.1.0", "lab-token"));
    assert!(session.remote_address.ip().is_loopback());
    assert!(edge.bridge.registry().is_active(session.process));
    let gauge = "culvert_agent_sessions{agent=\"lab\",namespace=\"web\"}";
    edge.metric_becomes(gauge, 1).await;

    edge.replicas.send_replace(replica_set(&["r1", "r3"]));
    assert_eq!(peer.note().await, Note::Replicas { replicas: replica_set(&["r1", "r3"]).to_vec() });

    peer.session.close();
    timeout(PATIENCE, session.closed()).await.expect("its end is seen");
    assert!(edge.bridge.registry().choose(&lab()).is_none());
    assert!(!edge.bridge.registry().is_active(session.process));
    edge.metric_becomes(gauge, 0).await;
    edge.metric_becomes("culvert_agent_disconnects_total{reason=\"peer_closed\"}", 1).await;
}

#[tokio::test]
async fn instances_are_used_in_turn_and_one_that_leaves_is_not() {
    let edge = Edge::start("r1").await;
    let one = Peer::register(&edge, &registration("01", &[])).await.expect("registered");
    let two = Peer::register(&edge, &registration("02", &[])).await.expect("registered");
    let sessions = edge.sessions(|sessions| sessions.len() == 2).await;
    let registry = edge.bridge.registry();
    let process =
        |instance: &str| sessions.iter().find(|session| &*session.instance == instance).expect("its session").process;
    let mut changes = registry.watch();
    let chosen: Vec<_> = (0..6).map(|_| registry.choose(&lab()).expect("a session").instance.clone()).collect();
    assert_eq!(chosen.iter().filter(|instance| &***instance == "01").count(), 3, "{chosen:?}");
    assert!(chosen.windows(2).all(|pair| pair[0] != pair[1]), "{chosen:?}");

    let leaving = sessions.iter().find(|session| &*session.instance == "01").expect("its session");
    let link = open(leaving, "127.0.0.1:80");
    one.session.note(&Note::Drain { seconds: None }).expect("told");
    timeout(PATIENCE, changes.changed()).await.expect("taken out, and said so").expect("a registry");
    assert_eq!((registry.is_active(process("01")), registry.is_active(process("02"))), (false, true));
    assert!((0..4).all(|_| &*registry.choose(&lab()).expect("a session").instance == "02"));
    assert_eq!(registry.sessions().len(), 2, "it is still there for its links");
    drop(link);
    assert_eq!(one.over().await, CloseReason::PeerClosed, "the edge ends it with its last link");
    edge.sessions(|sessions| sessions.len() == 1).await;
    two.session.close();
    edge.sessions(|sessions| sessions.is_empty()).await;
    assert!(registry.choose(&lab()).is_none());
}

#[tokio::test]
async fn a_process_that_dials_again_replaces_its_old_session() {
    let edge = Edge::start("r1").await;
    // It wants one session, and says that it has none: so this is the only slot there is to give.
    let one = Registration { slots: 1, ..registration("01", &[]) };
    let old = Peer::register(&edge, &one).await.expect("registered");
    let first = edge.session().await;
    let _new = Peer::register(&edge, &one).await.expect("registered");
    assert_eq!(old.over().await, CloseReason::PeerClosed);
    timeout(PATIENCE, first.closed()).await.expect("ended");
    assert_ne!(edge.session().await.id, first.id);
    edge.metric_becomes("culvert_agent_disconnects_total{reason=\"replaced\"}", 1).await;
}

#[tokio::test]
async fn a_token_that_is_taken_back_ends_only_its_own_sessions() {
    let edge = Edge::start("r1").await;
    let other = "token-of-the-other-secret";
    edge.agents.send_replace(Arc::new(agents(&[("lab", "lab-token", TOKEN), ("lab", "other-token", other)])));
    let revoked = Peer::register(&edge, &registration("01", &[])).await.expect("registered");
    let with_other =
        Registration { token: registration::Token::new(other).expect("a token"), ..registration("02", &[]) };
    let _kept = Peer::register(&edge, &with_other).await.expect("registered");
    edge.sessions(|sessions| sessions.len() == 2).await;

    let start = Instant::now();
    edge.agents.send_replace(Arc::new(agents(&[("lab", "other-token", other)])));
    assert_eq!(revoked.over().await, CloseReason::PeerClosed);
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(&*edge.session().await.instance, "02");
    edge.metric_becomes("culvert_agent_disconnects_total{reason=\"revoked\"}", 1).await;
    let again = Peer::register(&edge, &registration("01", &[])).await;
    assert!(matches!(again, Err(RegisterError::Rejected(rejection)) if rejection.status == 401));

    edge.agents.send_replace(Arc::default());
    edge.sessions(|sessions| sessions.is_empty()).await;
}

#[tokio::test]
async fn what_is_no_agent_is_closed_and_disturbs_nobody() {
    let edge = Edge::start("r1").await;
    let agent = edge.agent(&["127.0.0.1:*"]);
    let session = edge.session().await;
    let target = echo();

    // Ten seconds is what they have; all of them wait side by side.
    let start = Instant::now();
    let mut silent = Vec::new();
    for first in ["", "GET /v1/tunnel HT", "\u{16}\u{3}\u{1}"] {
        let mut stream = TcpStream::connect(edge.address).await.expect("connected");
        stream.write_all(first.as_bytes()).await.expect("sent");
        silent.push(tokio::spawn(async move {
            let mut rest = Vec::new();
            let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("closed in time");
        }));
    }
    let mut half = connect(&edge).await;
    half.write_all(b"GET /v1/tunnel HTTP/1.1\r\nHost: e").await.expect("sent");
    silent.push(tokio::spawn(async move {
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, half.read_to_end(&mut rest)).await.expect("closed in time");
    }));

    let garbage: Vec<u8> = (0..10_000).map(|_| rand::random()).collect();
    let mut plain = TcpStream::connect(edge.address).await.expect("connected");
    let _ = plain.write_all(&garbage).await;
    let _ = timeout(PATIENCE, plain.read_to_end(&mut Vec::new())).await.expect("closed in time");
    let mut inside = connect(&edge).await;
    let _ = inside.write_all(&garbage).await;
    let _ = timeout(PATIENCE, inside.read_to_end(&mut Vec::new())).await.expect("closed in time");
    assert!(start.elapsed() < Duration::from_secs(5), "garbage is closed when it is seen");

    // Behind a registration it ends the session.
    let mut liar = connect(&edge).await;
    registration::register(&mut liar, "localhost", &registration("0b", &[])).await.expect("registered");
    let _ = liar.write_all(&[0xff; 10_000]).await;
    let _ = timeout(PATIENCE, liar.read_to_end(&mut Vec::new())).await.expect("closed in time");

    for stream in silent {
        stream.await.expect("closed");
    }
    let waited = start.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(14)).contains(&waited), "{waited:?}");

    let mut link = open(&session, &target);
    link.write_all(b"still here").await.expect("sent");
    let mut answer = [0; 10];
    timeout(PATIENCE, link.read_exact(&mut answer)).await.expect("in time").expect("an answer");
    assert_eq!(&answer, b"still here");
    drop(link);
    edge.metric_becomes("culvert_bridge_rejected_total{reason=\"timeout\"}", 3).await;
    edge.metric_becomes("culvert_bridge_rejected_total{reason=\"http\"}", 1).await;
    assert!(edge.metric("culvert_bridge_rejected_total{reason=\"tls\"}") >= 2);
    assert_eq!(edge.metric("culvert_agent_disconnects_total{reason=\"protocol\"}"), 1);
    agent.stop().await;
}

#[tokio::test]
async fn a_bridge_that_stops_lets_links_finish() {
    let edge = Edge::start("r1").await;
    let _agent = edge.agent(&["127.0.0.1:*"]);
    let session = edge.session().await;
    let mut link = open(&session, &echo());
    link.opened().await.expect("opened");
    edge.begin_stop();
    let refused = async {
        while TcpStream::connect(edge.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refused).await.expect("its port is closed");
    link.write_all(b"last words").await.expect("sent");
    link.shutdown().await.expect("ended");
    let mut answer = Vec::new();
    timeout(PATIENCE, link.read_to_end(&mut answer)).await.expect("in time").expect("an answer");
    assert_eq!(answer, b"last words");
    drop(link);
    timeout(PATIENCE, session.closed()).await.expect("ended");
    edge.metric_becomes("culvert_agent_disconnects_total{reason=\"drained\"}", 1).await;
}

/// The agent `web/lab` with these rules.
fn lab_with(change: impl FnOnce(&mut AgentEntry)) -> Arc<Agents> {
    let mut entry = (**agents(&[("lab", "lab-token", TOKEN)]).get(&lab()).expect("the agent")).clone();
    change(&mut entry);
    Arc::new([entry].into_iter().collect())
}

fn rejected(registered: Result<Peer, RegisterError>) -> registration::Rejection {
    match registered {
        Err(RegisterError::Rejected(rejection)) => rejection,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("registered"),
    }
}

#[tokio::test]
async fn a_token_of_one_agent_registers_no_other() {
    let edge = Edge::start("r1").await;
    let other = "token-of-another-agent";
    edge.agents.send_replace(Arc::new(agents(&[("lab", "lab-token", TOKEN), ("hut", "hut-token", other)])));
    let claims = |agent: &str, token: &str| Registration {
        agent: agent.to_owned(),
        token: registration::Token::new(token).expect("a token"),
        ..registration("0a", &[])
    };
    for (agent, token) in [("web/hut", TOKEN), ("web/lab", other), ("other/lab", TOKEN)] {
        let rejection = rejected(Peer::register(&edge, &claims(agent, token)).await);
        assert_eq!(rejection.status, 401, "{agent}");
        assert!(!rejection.reason.contains("hut"), "{}", rejection.reason);
    }
    assert!(edge.bridge.registry().sessions().is_empty());
    let _own = Peer::register(&edge, &claims("web/hut", other)).await.expect("registered");
    assert_eq!(&*edge.session().await.agent.name, "hut");
}

#[tokio::test]
async fn an_agent_comes_only_from_where_it_may_and_is_ended_where_it_may_no_longer() {
    let edge = Edge::start("r1").await;
    let here = |network: &str| {
        let network = network.parse().expect("a network");
        lab_with(|entry| entry.allowed_sources = Some(vec![network]))
    };
    edge.agents.send_replace(here("127.0.0.2/32"));
    let rejection = rejected(Peer::register(&edge, &registration("01", &[])).await);
    assert_eq!(rejection.status, 403);
    assert!(rejection.reason.contains("web/lab may not register from 127.0.0.1"), "{}", rejection.reason);
    let good = Ipv4Addr::new(127, 0, 0, 2);
    let moved = Peer::register_from(&edge, good, &registration("02", &[])).await.expect("registered");
    edge.session().await;
    edge.metric_becomes("culvert_agent_connects_total{result=\"source\"}", 1).await;

    let start = Instant::now();
    edge.agents.send_replace(here("127.0.0.1/32"));
    assert_eq!(moved.over().await, CloseReason::PeerClosed);
    assert!(start.elapsed() < Duration::from_secs(2));
    edge.metric_becomes("culvert_agent_disconnects_total{reason=\"source\"}", 1).await;
    let _back = Peer::register(&edge, &registration("02", &[])).await.expect("registered");
    assert_eq!(edge.session().await.remote_address.ip(), IpAddr::from(Ipv4Addr::LOCALHOST));
    edge.agents.send_replace(lab_with(|entry| entry.allowed_sources = Some(Vec::new())));
    edge.sessions(|sessions| sessions.is_empty()).await;
}

#[tokio::test]
async fn a_session_gets_the_lowest_slot_that_the_process_does_not_name() {
    let edge = Edge::start("r1").await;
    let holding = |slots: &[u32]| {
        let met = [("r1".to_owned(), slots.iter().copied().collect())].into();
        Registration { slots: 3, met, ..registration("01", &[]) }
    };
    let mut stream = connect(&edge).await;
    let given = registration::register(&mut stream, "localhost", &holding(&[1])).await.expect("registered");
    assert_eq!((&*given.replica, given.slot), ("r1", 0));
    let second = Peer::register(&edge, &holding(&[0])).await.expect("registered");
    let third = Peer::register(&edge, &holding(&[0, 1])).await.expect("registered");
    edge.sessions(|sessions| sessions.len() == 3).await;
    assert_eq!(rejected(Peer::register(&edge, &holding(&[0, 1, 2])).await).status, 409);

    // The process knows better which it holds: the one that it does not name is dead.
    let again = Peer::register(&edge, &holding(&[0, 2])).await.expect("registered");
    assert_eq!(second.over().await, CloseReason::PeerClosed);
    edge.metric_becomes("culvert_agent_disconnects_total{reason=\"replaced\"}", 1).await;
    edge.sessions(|sessions| sessions.len() == 3).await;
    drop((stream, third, again));
}

#[tokio::test]
async fn two_dials_that_know_nothing_of_each_other_get_two_slots() {
    let edge = Edge::start("r1").await;
    let two = registration("01", &[]);
    let mut streams = (connect(&edge).await, connect(&edge).await);
    let (first, second) = tokio::join!(
        registration::register(&mut streams.0, "localhost", &two),
        registration::register(&mut streams.1, "localhost", &two),
    );
    let mut slots = [first, second].map(|registered| registered.expect("registered").slot);
    slots.sort_unstable();
    assert_eq!(slots, [0, 1]);
    edge.sessions(|sessions| sessions.len() == 2).await;
    // As long as there is a slot that nobody holds, whoever does not name the others gets that.
    let mut third = connect(&edge).await;
    let three = Registration { slots: 3, ..two };
    assert_eq!(registration::register(&mut third, "localhost", &three).await.expect("registered").slot, 2);
    edge.sessions(|sessions| sessions.len() == 3).await;
    drop((streams, third));
}

#[tokio::test]
async fn no_more_processes_than_may_run_as_one_agent() {
    let edge = Edge::start("r1").await;
    let most = |most: u32| lab_with(|entry| entry.max_instances = most);
    edge.agents.send_replace(most(2));
    let first = Peer::register(&edge, &registration("01", &[])).await.expect("registered");
    let second = registration("02", &[]);
    let _second = Peer::register(&edge, &second).await.expect("registered");
    let again = Registration { met: [("r1".to_owned(), [0].into())].into(), ..second };
    let _again = Peer::register(&edge, &again).await.expect("another connection of the same process");
    edge.sessions(|sessions| sessions.len() == 3).await;
    let rejection = rejected(Peer::register(&edge, &registration("03", &[])).await);
    assert_eq!((rejection.status.as_u16(), rejection.retry_after), (429, Some(Duration::from_secs(5))));
    assert!(rejection.reason.contains("2 other processes run as TunnelAgent web/lab"), "{}", rejection.reason);

    // One that is leaving makes room before it is gone.
    first.session.note(&Note::Drain { seconds: None }).expect("told");
    let mut third = Peer::register_from(&edge, Ipv4Addr::new(127, 0, 0, 2), &registration("03", &[])).await;
    for source in 3..100 {
        if third.is_ok() {
            break;
        }
        third = Peer::register_from(&edge, Ipv4Addr::new(127, 0, 0, source), &registration("03", &[])).await;
    }
    let third = third.expect("the place of the one that leaves");
    edge.sessions(|sessions| sessions.len() == 4).await;

    // Who came last goes first.
    edge.agents.send_replace(most(1));
    assert_eq!(third.over().await, CloseReason::PeerClosed);
    let left = edge.sessions(|sessions| sessions.len() == 3).await;
    assert!(left.iter().all(|session| &*session.instance != "03"), "{left:?}");
    edge.metric_becomes("culvert_agent_disconnects_total{reason=\"surplus\"}", 1).await;
}

/// Counts the lines that are logged while it lives, on this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn follow(&self) -> tracing::subscriber::DefaultGuard {
        let lines = self.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || lines.clone()).with_ansi(false);
        // Else whether anybody wants an event would be asked of that thread alone that comes there first, as another test's.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::fmt().with_writer(io::sink).finish());
        tracing::subscriber::set_default(subscriber.finish())
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no panic").clone()).expect("text")
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_storm_of_wrong_tokens_is_slowed_down_and_an_agent_beside_it_is_not() {
    let lines = Lines::default();
    let _guard = lines.follow();
    let edge = Arc::new(Edge::start("r1").await);
    let wrong = Registration {
        token: registration::Token::new("secret-that-is-wrong").expect("a token"),
        ..registration("0b", &[])
    };
    // Each dials again as soon as it has its answer, or is sent away without one.
    let mut storm = JoinSet::new();
    let answers = Arc::new(Mutex::new(Vec::new()));
    let start = Instant::now();
    for _ in 0..30 {
        let (edge, wrong, answers) = (edge.clone(), wrong.clone(), answers.clone());
        storm.spawn(async move {
            loop {
                if let Err(RegisterError::Rejected(rejection)) = Peer::register(&edge, &wrong).await {
                    assert_eq!(rejection.status, 401);
                    answers.lock().expect("no panic").push(start.elapsed());
                }
            }
        });
    }
    // Its turn would come after a second at the earliest; a valid token has none to wait for.
    let mut slowest = Duration::ZERO;
    for instance in ["01", "02", "03", "04", "05"] {
        sleep(Duration::from_millis(600)).await;
        let dialled = Instant::now();
        let _peer = Peer::register(&edge, &registration(instance, &[])).await.expect("registered");
        slowest = slowest.max(dialled.elapsed());
    }
    let passed = start.elapsed();
    storm.shutdown().await;
    println!("beside the storm a valid token waited for {slowest:?} at most");
    assert!(slowest < Duration::from_secs(1), "a valid token waited for {slowest:?}");
    let answers = answers.lock().expect("no panic");
    assert!(answers.len() >= 2, "{answers:?}");
    assert!(answers.len() as u64 <= passed.as_secs() + 1, "{passed:?}: {answers:?}");
    assert!(edge.metric("culvert_bridge_rejected_total{reason=\"crowded\"}") > 0, "few wait at a time");
    let text = lines.text();
    let logged = text.lines().filter(|line| line.contains("agent refused")).count();
    assert!((1..=passed.as_secs() + 1).contains(&(logged as u64)), "{logged} lines in {passed:?}");
    assert!(text.contains("source=127.0.0.1:") && !text.contains("secret-that-is-wrong"), "{text}");
}

#[tokio::test]
async fn a_thousand_silent_sockets_delay_no_agent_and_are_closed() {
    let edge = Edge::start("r1").await;
    let start = Instant::now();
    let mut silent = JoinSet::new();
    for n in 0..1000_u32 {
        let socket = TcpSocket::new_v4().expect("a socket");
        // From one address, as most of them would be, and some from others.
        let source = if n % 10 == 0 { Ipv4Addr::new(127, 0, 2, 1) } else { Ipv4Addr::LOCALHOST };
        socket.bind((source, 0).into()).expect("a port");
        let mut stream = socket.connect(edge.address).await.expect("connected");
        silent.spawn(async move {
            let _ = timeout(PATIENCE, stream.read(&mut [0])).await.expect("closed in time");
            start.elapsed()
        });
    }
    let opened = start.elapsed();
    let dialled = Instant::now();
    let mut peer = Peer::register(&edge, &registration("01", &[])).await.expect("registered");
    assert!(matches!(peer.note().await, Note::Welcome { .. }));
    let waited = dialled.elapsed();
    println!("beside 1,000 silent sockets an agent waited for {waited:?}");
    assert!(waited < Duration::from_secs(1), "an agent waited for {waited:?}");
    let closed = silent.join_all().await;
    let last = closed.iter().max().expect("some");
    assert!(*last < opened + Duration::from_secs(14), "the last was closed after {last:?}");
    edge.metric_becomes("culvert_bridge_rejected_total{reason=\"timeout\"}", 1000).await;
}

#[tokio::test]
async fn who_speaks_is_not_pushed_out_by_who_is_silent() {
    let edge = Edge::start("r1").await;
    let mut half = connect(&edge).await;
    half.write_all(b"GET /v1/tunnel HTTP/1.1\r\n").await.expect("sent");
    let mut silent = Vec::new();
    for _ in 0..1100 {
        silent.push(TcpStream::connect(edge.address).await.expect("connected"));
    }
    edge.metric_becomes("culvert_bridge_rejected_total{reason=\"crowded\"}", 77).await;
    half.write_all(b"Host: edge\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    timeout(PATIENCE, half.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 426 Upgrade Required\r\n"), "{answer}");
}
