//! The agent and what goes over its links: real sockets and real TLS.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![cfg(all(unix, feature = "edge", feature = "agent"))]

#[path = "support/tunnel.rs"]
mod support;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use culvert::{
    agent::{TokenSource, Transport},
    tunnel::{Link, LinkError, RefuseCode, ResetCode},
};
use rustix::process::{Resource, getrlimit, setrlimit};
use support::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, timeout},
};

/// Reads to the end, in time.
async fn read_all(stream: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("an end in time").map(|_| all)
}

/// Sends `message` to an echo and takes it back.
async fn echoed(link: &mut Link, message: &[u8]) {
    link.write_all(message).await.expect("sent");
    let mut answer = vec![0; message.len()];
    timeout(PATIENCE, link.read_exact(&mut answer)).await.expect("in time").expect("an answer");
    assert_eq!(answer, message);
}

/// Waits until the peer has reset a connection that is neither read nor written.
async fn was_reset(stream: &TcpStream) {
    let reset = async {
        loop {
            if let Some(error) = stream.take_error().expect("a socket") {
                return error.kind();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let kind = timeout(PATIENCE, reset).await.expect("a reset in time");
    // The second is what Linux makes of it where the peer's end was already read.
    assert!(matches!(kind, std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe), "{kind:?}");
}

fn pattern(length: usize) -> Vec<u8> {
    (0_u32..).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_be_bytes()).take(length).collect()
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let edge = Edge::start("r1").await;
    let _agent = edge.agent(&["127.0.0.1:*"]);
    let session = edge.session().await;
    let (listener, target) = backend();

    // The visitor's side ends first; the answer comes after.
    let mut link = open(&session, &target);
    link.write_all(b"question").await.expect("sent");
    link.shutdown().await.expect("ended");
    let mut stream = accept(&listener).await;
    assert_eq!(read_all(&mut stream).await.expect("a proper end"), b"question");
    stream.write_all(b"answer").await.expect("sent");
    drop(stream);
    assert_eq!(read_all(&mut link).await.expect("a proper end"), b"answer");

    // The backend's side ends first; what the visitor sends still arrives.
    let mut link = open(&session, &target);
    let mut stream = accept(&listener).await;
    stream.write_all(b"greeting").await.expect("sent");
    stream.shutdown().await.expect("ended");
    assert_eq!(read_all(&mut link).await.expect("a proper end"), b"greeting");
    link.write_all(b"late").await.expect("sent");
    link.shutdown().await.expect("ended");
    assert_eq!(read_all(&mut stream).await.expect("a proper end"), b"late");
}

#[tokio::test]
async fn much_goes_both_ways_at_once() {
    let edge = Edge::start("r1").await;
    let _agent = edge.agent(&["127.0.0.1:*"]);
    let session = edge.session().await;
    let link = open(&session, &echo());
    let (mut read, mut write) = tokio::io::split(link);
    let sent = pattern(8 * 1024 * 1024 + 7);
    let expected = sent.clone();
    let sending = tokio::spawn(async move {
        write.write_all(&sent).await.expect("sent");
        write.shutdown().await.expect("ended");
    });
    let received = read_all(&mut read).await.expect("a proper end");
    assert!(received == expected, "{} bytes of {} came back, or others", received.len(), expected.len());
    sending.await.expect("sent");
}

#[tokio::test]
async fn a_reset_goes_through_in_both_directions() {
    let edge = Edge::start("r1").await;
    let _agent = edge.agent(&["127.0.0.1:*"]);
    let session = edge.session().await;
    let (listener, target) = backend();

    let mut link = open(&session, &target);
    let stream = accept(&listener).await;
    link.opened().await.expect("opened");
    stream.set_zero_linger().expect("an option");
    drop(stream);
    let error = read_all(&mut link).await.expect_err("no proper end");
    assert_eq!(LinkError::from_io(&error), Some(&LinkError::Reset(ResetCode::BackendReset)));

    let mut link = open(&session, &target);
    link.write_all(b"half a requ").await.expect("sent");
    let mut stream = accept(&listener).await;
    stream.read_exact(&mut [0; 11]).await.expect("what came");
    drop(link);
    let error = read_all(&mut stream).await.expect_err("no proper end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    // Also where the visitor had nothing more to say, and goes while the backend still thinks.
    let mut link = open(&session, &target);
    link.write_all(b"question").await.expect("sent");
    link.shutdown().await.expect("ended");
    let mut stream = accept(&listener).await;
    assert_eq!(read_all(&mut stream).await.expect("a proper end"), b"question");
    drop(link);
    was_reset(&stream).await;

    // A backend that takes nothing is left as fast: nobody waits for its buffers.
    let mut link = open(&session, &target);
    let stream = accept(&listener).await;
    let flood = vec![0; 64 * 1024];
    while timeout(Duration::from_millis(300), link.write_all(&flood)).await.is_ok() {}
    link.reset(ResetCode::Cancelled);
    was_reset(&stream).await;
}

#[tokio::test]
async fn an_early_answer_arrives_although_the_request_goes_on() {
    let edge = Edge::start("r1").await;
    let _agent = edge.agent(&["127.0.0.1:*"]);
    let session = edge.session().await;
    let (listener, target) = backend();
    let mut link = open(&session, &target);
    let mut stream = accept(&listener).await;
    stream.write_all(b"413").await.expect("sent");
    stream.shutdown().await.expect("ended");
    assert_eq!(read_all(&mut link).await.expect("a proper end"), b"413");
    // The backend is gone now; the visitor goes on, and nothing breaks.
    drop(stream);
    for _ in 0..100 {
        link.write_all(&[0; 16 * 1024]).await.expect("taken");
    }
    link.shutdown().await.expect("ended");
}

#[tokio::test]
async fn only_allowed_targets_are_connected_to() {
    let edge = Edge::start("r1").await;
    let target = echo();
    let (_other, other) = backend();
    let _agent = edge.agent(&[&target]);
    let session = edge.session().await;
    echoed(&mut open(&session, &target), b"allowed").await;
    let mut link = open(&session, &other);
    let refused = timeout(PATIENCE, link.opened()).await.expect("in time").expect_err("refused");
    let LinkError::Refused { code, text } = refused else { panic!("{refused:?}") };
    assert_eq!(code, RefuseCode::NotAllowed);
    assert!(text.contains(&other) && text.contains("--allow"), "{text}");
    let error = link.read(&mut [0; 1]).await.expect_err("no link");
    assert!(matches!(LinkError::from_io(&error), Some(LinkError::Refused { .. })));
}

#[tokio::test]
async fn a_closed_port_is_refused() {
    let edge = Edge::start("r1").await;
    let _agent = edge.agent(&["127.0.0.1:*"]);
    let (listener, target) = backend();
    drop(listener);
    let session = edge.session().await;
    let mut link = open(&session, &target);
    let refused = timeout(PATIENCE, link.opened()).await.expect("in time").expect_err("refused");
    assert!(matches!(refused, LinkError::Refused { code: RefuseCode::Refused, .. }), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_links_work_side_by_side() {
    // Both ends of each backend connection are in this process.
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the hard limit");
    let edge = Edge::start("r1").await;
    let _agent = edge.agent(&["127.0.0.1:*"]);
    let session = edge.session().await;
    let target = echo();
    let mut links = JoinSet::new();
    // No more wait for the target at a time than one may have waiting.
    let opening = Arc::new(Semaphore::new(256));
    for n in 0..1000_usize {
        let place = timeout(PATIENCE, opening.clone().acquire_owned()).await.expect("in time").expect("a place");
        let mut link = open(&session, &target);
        links.spawn(async move {
            timeout(PATIENCE, link.opened()).await.expect("in time").expect("opened");
            drop(place);
            echoed(&mut link, &pattern(1 + n * 37)).await;
            link
        });
    }
    let mut links = links.join_all().await;
    assert_eq!(session.links(), 1000);
    for link in &mut links {
        echoed(link, b"all of them at once").await;
    }
    drop(links);
    let ended = async {
        while session.links() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, ended).await.expect("all ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_does_not_answer_holds_so_many_sockets_and_no_more() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the hard limit");
    let edge = Edge::start("r1").await;
    let _agent = edge.agent(&["127.0.0.1:*"]);
    let session = edge.session().await;
    let (answers, socket) = (echo(), TcpSocket::new_v4().expect("a socket"));
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    // Nobody accepts, and where its backlog is full Linux drops what else comes.
    let full = socket.listen(1).expect("a listener");
    let target = full.local_addr().expect("its address").to_string();
    let mut links = JoinSet::new();
    for _ in 0..1100 {
        let mut link = open(&session, &target);
        links.spawn(async move { (link.opened().await, link) });
    }
    let mut kept = Vec::new();
    let refused = loop {
        let (opened, link) =
            timeout(PATIENCE, links.join_next()).await.expect("in time").expect("some").expect("joined");
        match opened {
            // Those that the backlog has room for.
            Ok(()) => kept.push(link),
            Err(error) => break error,
        }
    };
    assert!(kept.len() < 10, "{} were opened", kept.len());
    let LinkError::Refused { code: RefuseCode::Overloaded, text } = refused else { panic!("{refused}") };
    assert!(text.contains("512 of them to this target"), "{text}");
    // Others are none the worse for it.
    open(&session, &answers).opened().await.expect("opened");
    // They have their time, and then others have their places.
    let free = async {
        while matches!(
            open(&session, &target).opened().await,
            Err(LinkError::Refused { code: RefuseCode::Overloaded, .. })
        ) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, free).await.expect("free in time");
}

#[tokio::test]
async fn an_agent_comes_back_when_its_edge_does() {
    let certificate = Certificate::new();
    let edge = Edge::start_as("r1", &["r1"], &certificate, ([127, 0, 0, 1], 0).into()).await;
    let address = edge.address;
    let target = echo();
    let agent = RunningAgent::start(&edge.url(), &certificate, &["127.0.0.1:*"]);
    let session = edge.session().await;
    let mut link = open(&session, &target);
    echoed(&mut link, b"before").await;
    drop(link);
    edge.stop().await;
    let edge = Edge::start_as("r1", &["r1"], &certificate, address).await;
    let start = Instant::now();
    let session = edge.session().await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(session.transport, if way().0 == Transport::WebSocket { "websocket" } else { "tls" });
    echoed(&mut open(&session, &target), b"after").await;
    agent.stop().await;
}

#[tokio::test]
async fn a_rotated_token_file_is_read_at_the_next_dial() {
    let edge = Edge::start("r1").await;
    let file = std::env::temp_dir().join(format!("culvert-token-{:016x}", rand::random::<u64>()));
    std::fs::write(&file, "token-of-the-past-0123456789").expect("written");
    let source = TokenSource::File(file.clone());
    let _agent = RunningAgent::start_with(&edge.url(), &edge.certificate, &[], source);
    edge.metric_becomes("culvert_agent_connects_total{result=\"unauthorized\"}", 1).await;
    std::fs::write(&file, format!("{TOKEN}\n")).expect("written");
    edge.session().await;
    std::fs::remove_file(&file).expect("removed");
}

#[tokio::test]
async fn an_agent_trusts_only_the_pinned_key() {
    let edge = Edge::start("r1").await;
    let _agent = RunningAgent::start(&edge.url(), &Certificate::new(), &[]);
    edge.metric_becomes("culvert_bridge_rejected_total{reason=\"tls\"}", 1).await;
    assert!(edge.bridge.registry().sessions().is_empty());
}

/// A balancer: one address, the backends in turn. While `swallows`, it takes all that comes and passes nothing on.
async fn balancer(backends: Vec<SocketAddr>) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let swallows = Arc::new(AtomicBool::new(false));
    let (turn, swallowing) = (AtomicUsize::new(0), swallows.clone());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let backend = backends[turn.fetch_add(1, Ordering::Relaxed) % backends.len()];
            let swallows = swallowing.clone();
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(backend).await else { return };
                let ((client_read, client_write), (server_read, server_write)) =
                    (client.into_split(), server.into_split());
                // Where it swallows it neither ends nor closes, as a network that drops packets.
                let one = pump(client_read, server_write, swallows.clone());
                let other = pump(server_read, client_write, swallows);
                tokio::join!(one, other);
            });
        }
    });
    (address, swallows)
}

async fn pump(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, swallows: Arc<AtomicBool>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        if swallows.load(Ordering::Relaxed) {
            if read == 0 {
                return std::future::pending().await;
            }
        } else if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}

#[tokio::test]
async fn one_agent_meets_both_replicas_through_one_balancer() {
    let certificate = Certificate::new();
    let replicas = ["r1", "r2"];
    let one = Edge::start_as("r1", &replicas, &certificate, ([127, 0, 0, 1], 0).into()).await;
    let two = Edge::start_as("r2", &replicas, &certificate, ([127, 0, 0, 1], 0).into()).await;
    // Three of four dials lead to the first, so that it has to say that it is already met.
    let (address, _) = balancer(vec![one.address, one.address, one.address, two.address]).await;
    let _agent = RunningAgent::start(&format!("https://{address}"), &certificate, &["127.0.0.1:*"]);
    let sessions = [one.session().await, two.session().await];
    assert_eq!(sessions[0].instance, sessions[1].instance);
    assert!(one.metric("culvert_agent_connects_total{result=\"already_met\"}") >= 1);
    let target = echo();
    for session in &sessions {
        echoed(&mut open(session, &target), b"either").await;
    }
    // All are met: nobody is dialled any more, until there is a third.
    let dials = one.metric("culvert_agent_connects_total{result=\"already_met\"}");
    let three = Edge::start_as("r3", &["r1", "r2", "r3"], &certificate, ([127, 0, 0, 1], 0).into()).await;
    let replica = |id: &str, address: Option<SocketAddr>| culvert::tunnel::Replica {
        id: id.to_owned(),
        address: address.map(|address| address.to_string()),
    };
    one.replicas.send_replace([replica("r1", None), replica("r2", None), replica("r3", Some(three.address))].into());
    assert_eq!(three.session().await.instance, sessions[0].instance);
    assert_eq!(one.metric("culvert_agent_connects_total{result=\"already_met\"}"), dials);
    assert_eq!(one.session().await.id, sessions[0].id, "the others stay as they are");
}

#[tokio::test]
async fn when_a_replica_stops_its_agent_goes_elsewhere_before_the_session_ends() {
    let certificate = Certificate::new();
    let one = Edge::start_as("r1", &["r1"], &certificate, ([127, 0, 0, 1], 0).into()).await;
    let two = Edge::start_as("r2", &["r2"], &certificate, ([127, 0, 0, 1], 0).into()).await;
    let (address, _) = balancer(vec![one.address, two.address]).await;
    let _agent = RunningAgent::start(&format!("https://{address}"), &certificate, &["127.0.0.1:*"]);
    let leaving = one.session().await;
    let target = echo();
    let mut link = open(&leaving, &target);
    echoed(&mut link, b"before").await;
    one.begin_stop();
    let session = two.session().await;
    assert_eq!(session.instance, leaving.instance);
    echoed(&mut open(&session, &target), b"elsewhere").await;
    echoed(&mut link, b"and still here").await;
    drop(link);
    timeout(PATIENCE, leaving.closed()).await.expect("ended");
}

#[tokio::test]
async fn silence_is_noticed_on_both_sides_within_ten_seconds() {
    let certificate = Certificate::new();
    let edge = Edge::start_as("r1", &["r1"], &certificate, ([127, 0, 0, 1], 0).into()).await;
    let (address, swallows) = balancer(vec![edge.address]).await;
    let _agent = RunningAgent::start(&format!("https://{address}"), &certificate, &["127.0.0.1:*"]);
    let session = edge.session().await;
    let (listener, target) = backend();
    let mut link = open(&session, &target);
    let mut stream = accept(&listener).await;
    link.opened().await.expect("opened");

    swallows.store(true, Ordering::Relaxed);
    let start = Instant::now();
    // The agent noticed when it lets go of the backend, the edge when the session ends.
    let (agent, ()) = tokio::join!(read_all(&mut stream), async {
        timeout(PATIENCE, session.closed()).await.expect("an end in time");
    });
    assert_eq!(agent.expect_err("no proper end").kind(), std::io::ErrorKind::ConnectionReset);
    let error = link.read(&mut [0; 1]).await.expect_err("no link");
    assert_eq!(LinkError::from_io(&error), Some(&LinkError::SessionLost));
    assert!(start.elapsed() < Duration::from_secs(11), "{:?}", start.elapsed());
    edge.metric_becomes("culvert_agent_disconnects_total{reason=\"silence\"}", 1).await;

    swallows.store(false, Ordering::Relaxed);
    let healed = Instant::now();
    let session = edge.session().await;
    assert!(healed.elapsed() < Duration::from_secs(12), "{:?}", healed.elapsed());
    echoed(&mut open(&session, &echo()), b"healed").await;
}

#[tokio::test]
async fn an_agent_that_stops_lets_links_finish_and_takes_no_more() {
    let edge = Edge::start("r1").await;
    let agent = edge.agent(&["127.0.0.1:*"]);
    let session = edge.session().await;
    let target = echo();
    let mut link = open(&session, &target);
    echoed(&mut link, b"before").await;
    agent.stop.cancel();
    let registry = edge.bridge.registry();
    let left = async {
        while registry.choose(&lab()).is_some() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, left).await.expect("out of the turn");
    let refused = timeout(PATIENCE, open(&session, &target).opened()).await.expect("in time").expect_err("refused");
    assert!(matches!(refused, LinkError::Refused { code: RefuseCode::Draining, .. }), "{refused:?}");
    echoed(&mut link, b"while it stops").await;
    let start = Instant::now();
    drop(link);
    agent.stop().await;
    assert!(start.elapsed() < Duration::from_secs(4), "it does not wait longer than its links");
}
