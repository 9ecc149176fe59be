//! Several replicas, and visitors who come to one that has no session with the agent.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use culvert::{
    bridge::{Mesh, MeshConfig, MeshIdentity, MeshPeer},
    proxy::{self, Proxy},
    routing::RoutingTable,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    balancer::Balancer,
    sessions::Holding,
    stage::{self, Answer, HOST, Visitor, backend, becomes, mirror, rule},
    support::{Edge, PATIENCE, RunningAgent, lab},
};

/// A replica with all of its data plane.
struct Node {
    name: &'static str,
    edge: Edge,
    proxy: Proxy,
    http: SocketAddr,
    mesh: SocketAddr,
    peers: watch::Sender<Arc<[MeshPeer]>>,
    table: watch::Sender<Arc<RoutingTable>>,
    between: Mesh,
    stop: CancellationToken,
}

impl Node {
    async fn start(name: &'static str, key: &str) -> Self {
        let edge = Edge::start(name).await;
        let registry = edge.bridge.registry().clone();
        let proxy = Proxy::new(registry.clone(), proxy::Config::default(), &edge.metrics).expect("a proxy");
        let (peers, table) = (watch::Sender::default(), watch::Sender::default());
        let config = MeshConfig {
            identity: MeshIdentity::new(name, key).expect("an identity"),
            peers: peers.subscribe(),
            table: table.subscribe(),
            drain: Duration::from_secs(10),
        };
        let mesh = Mesh::new(config, registry, &edge.metrics).expect("a mesh");
        let (http_listener, http) = listener().await;
        let (mesh_listener, mesh_address) = listener().await;
        let stop = CancellationToken::new();
        let (visitors, stopping) = (proxy.clone(), stop.clone());
        tokio::spawn(async move { visitors.serve(http_listener, stopping).await });
        let (serving, stopping) = (mesh.clone(), stop.clone());
        tokio::spawn(async move { serving.serve(mesh_listener, stopping).await });
        Self { name, edge, proxy, http, mesh: mesh_address, peers, table, between: mesh, stop }
    }

    /// Routes [`HOST`] to this target.
    fn serve(&self, target: &str) {
        let (table, agents) = stage::tables(&[(HOST, vec![rule(&[target], Vec::new())])], None);
        self.table.send_replace(table.clone());
        self.proxy.update(table, &agents);
    }

    fn peer(&self) -> MeshPeer {
        MeshPeer { id: self.name.to_owned(), address: self.mesh.to_string() }
    }

    fn knows(&self, peers: &[MeshPeer]) {
        self.peers.send_replace(peers.into());
    }

    async fn get(&self) -> Answer {
        stage::get(self.http, "/").await
    }

    /// Waits until a request here gets this status.
    async fn answers(&self, status: u16) {
        let answered = async {
            while self.get().await.status != status {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(timeout(PATIENCE, answered).await.is_ok(), "{status} in time");
    }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    (listener, address)
}

fn key() -> String {
    rcgen::KeyPair::generate().expect("a key").serialize_pem()
}

/// Two replicas that know each other and route to the target; the agent is with the first one only.
async fn pair(target: &str) -> (Node, Node, RunningAgent) {
    let key = key();
    let (one, two) = (Node::start("r1", &key).await, Node::start("r2", &key).await);
    one.knows(&[two.peer()]);
    two.knows(&[one.peer()]);
    one.serve(target);
    two.serve(target);
    let agent = one.edge.agent(&["127.0.0.1:*"]);
    one.edge.session().await;
    (one, two, agent)
}

#[tokio::test]
async fn a_replica_without_a_session_asks_one_that_has_it() {
    let (one, two, agent) = pair(&mirror().await).await;
    two.answers(200).await;
    assert!(two.edge.bridge.registry().sessions().is_empty(), "no session of its own");
    assert_eq!(one.edge.metric("culvert_mesh_links_total{result=\"opened\"}"), 1);
    for _ in 0..10 {
        assert_eq!(two.get().await.status, 200);
    }
    assert_eq!(one.edge.metric("culvert_mesh_links_total{result=\"opened\"}"), 1, "the link is kept for the next one");

    // Flow is counted where the visitor is, and only there.
    let sent = "culvert_flow_bytes_total{agent=\"lab\",direction=\"sent\",namespace=\"web\",tunnelhost=\"shop\"}";
    assert!(two.edge.metric(sent) > 0);
    assert_eq!(one.edge.metric(sent), 0);

    // An agent that leaves is nobody's: not asked for any more, and well-formed told.
    agent.stop().await;
    becomes("the first hears that it left", || one.edge.bridge.registry().sessions().is_empty()).await;
    two.answers(503).await;
    let answer = two.get().await;
    assert!(answer.header("proxy-status").is_some_and(|status| status.contains("destination_unavailable")));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(one.edge.metric("culvert_mesh_replicas"), 1);
}

/// A backend that switches to sending back what it gets.
async fn upgraded_echo() -> String {
    backend(|mut stream| async move {
        let head = stage::read_head(&mut stream).await;
        let answer = if head.to_ascii_lowercase().contains("upgrade: echo") {
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
        } else {
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        };
        stream.write_all(answer.as_bytes()).await.expect("answered");
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    })
    .await
}

/// A visitor of that replica who is joined with such a backend.
async fn joined(node: &Node) -> TcpStream {
    node.answers(200).await;
    let mut visitor = Visitor(TcpStream::connect(node.http).await.expect("connected"));
    let ask = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    visitor.send(ask.as_bytes()).await;
    assert_eq!(visitor.answer().await.status, 101);
    visitor.0
}

async fn echoed(stream: &mut TcpStream, message: &[u8]) {
    stream.write_all(message).await.expect("sent");
    let mut answer = vec![0; message.len()];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("in time").expect("an answer");
    assert_eq!(answer, message);
}

#[tokio::test]
async fn much_goes_through_both_hops_in_both_directions_and_ends_by_itself() {
    const LENGTH: usize = 8 * 1024 * 1024;
    let (_one, two, _agent) = pair(&upgraded_echo().await).await;
    let stream = joined(&two).await;
    let (mut read, mut write) = stream.into_split();
    let sent: Vec<u8> = (0_u32..).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_be_bytes()).take(LENGTH).collect();
    let expected = sent.clone();
    let sending = tokio::spawn(async move {
        write.write_all(&sent).await.expect("sent");
        write.shutdown().await.expect("ended");
    });
    let mut received = Vec::new();
    timeout(PATIENCE, read.read_to_end(&mut received)).await.expect("in time").expect("a proper end");
    assert!(received == expected, "{} bytes of {LENGTH} came back, or others", received.len());
    sending.await.expect("sent");
}

#[tokio::test]
async fn a_visitor_who_leaves_frees_the_backend_behind_both_hops() {
    let (gone, mut was_freed) = watch::channel(false);
    let gone = Arc::new(gone);
    let target = backend(move |mut stream| {
        let gone = gone.clone();
        async move {
            let _ = stage::read_head(&mut stream).await;
            let _ = stream.read(&mut [0; 1]).await;
            gone.send_replace(true);
        }
    })
    .await;
    let (_one, two, _agent) = pair(&target).await;
    let mut visitor = Visitor(TcpStream::connect(two.http).await.expect("connected"));
    becomes("the agent is known", || two.edge.bridge.registry().choose(&lab()).is_some()).await;
    visitor.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await;
    drop(visitor);
    timeout(PATIENCE, was_freed.wait_for(|gone| *gone)).await.expect("freed in time").expect("a backend");
}

#[tokio::test]
async fn nothing_makes_a_second_hop() {
    let key = key();
    let target = mirror().await;
    let [one, two, three] =
        [Node::start("r1", &key).await, Node::start("r2", &key).await, Node::start("r3", &key).await];
    // The first knows the second, which knows the third, which has the agent. They even lead in a circle.
    one.knows(&[two.peer()]);
    two.knows(&[three.peer()]);
    three.knows(&[one.peer()]);
    for node in [&one, &two, &three] {
        node.serve(&target);
    }
    let _agent = three.edge.agent(&["127.0.0.1:*"]);
    two.answers(200).await;
    becomes("the first and the second are connected", || one.edge.metric("culvert_mesh_replicas") == 1).await;
    for _ in 0..5 {
        let answer = one.get().await;
        assert_eq!(answer.status, 503);
    }
    assert_eq!(two.edge.metric("culvert_mesh_links_total{result=\"opened\"}"), 0);
    assert_eq!(two.edge.metric("culvert_mesh_links_total{result=\"refused\"}"), 0, "it is not even asked");
}

#[tokio::test]
async fn a_replica_takes_links_only_for_what_it_routes_itself() {
    let target = mirror().await;
    let (one, two, _agent) = pair(&target).await;
    two.answers(200).await;
    // It routes to another target from now on; the other replica has not heard of that.
    one.serve(&mirror().await);
    two.serve(&mirror().await);
    let answer = two.get().await;
    assert_eq!(answer.status, 503);
    assert_eq!(one.edge.metric("culvert_mesh_links_total{result=\"refused\"}"), 1);
}

#[tokio::test]
async fn a_route_that_comes_a_moment_later_is_waited_for() {
    let (one, two, _agent) = pair(&mirror().await).await;
    two.answers(200).await;
    let new = mirror().await;
    two.serve(&new);
    let late = async {
        // So late it is.
        tokio::time::sleep(Duration::from_millis(100)).await;
        one.serve(&new);
    };
    let (answer, ()) = tokio::join!(two.get(), late);
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn when_a_replica_goes_another_one_that_has_the_agent_is_asked() {
    let key = key();
    let target = mirror().await;
    let [one, two, three] =
        [Node::start("r1", &key).await, Node::start("r2", &key).await, Node::start("r3", &key).await];
    let ways = [Balancer::start().await, Balancer::start().await];
    for (way, node) in ways.iter().zip([&one, &two]) {
        way.lead_to(vec![node.mesh]);
    }
    let through = |way: &Balancer, node: &Node| MeshPeer { address: way.address.to_string(), ..node.peer() };
    three.knows(&[through(&ways[0], &one), through(&ways[1], &two)]);
    for node in [&one, &two, &three] {
        node.serve(&target);
    }
    let _agents = [one.edge.agent(&["127.0.0.1:*"]), two.edge.agent(&["127.0.0.1:*"])];
    three.answers(200).await;
    becomes("both are neighbours", || three.edge.metric("culvert_mesh_replicas") == 2).await;
    // Both have said that they hold it once each has carried a request.
    let carried = |node: &Node| node.edge.metric("culvert_mesh_links_total{result=\"opened\"}") > 0;
    while !(carried(&one) && carried(&two)) {
        assert_eq!(three.get().await.status, 200);
    }

    // As a process that is killed: its connections end, and nobody listens.
    let (_, nowhere) = listener().await;
    ways[0].lead_to(vec![nowhere]);
    ways[0].cut(0);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        assert_eq!(three.get().await.status, 200);
    }
    ways[1].lead_to(vec![nowhere]);
    ways[1].cut(0);
    three.answers(503).await;

    // Back again.
    ways[1].lead_to(vec![two.mesh]);
    three.answers(200).await;
}

/// A GET is on its way over both hops, and one of the two sessions of the agent dies. Returns how often the backend got it.
async fn cut_behind_the_second_hop(cut: usize) -> usize {
    let key = key();
    let backend = Holding::start().await;
    let (one, two) = (Node::start("r1", &key).await, Node::start("r2", &key).await);
    two.knows(&[one.peer()]);
    one.serve(&backend.target);
    two.serve(&backend.target);
    let balancer = Balancer::start().await;
    balancer.lead_to(vec![one.edge.address]);
    let address = format!("https://{}", balancer.address);
    let _agent = RunningAgent::start_in_slots(&address, &one.edge.certificate, &["127.0.0.1:*"], 2);
    one.edge.sessions(|sessions| sessions.len() == 2).await;
    becomes("the agent is known", || two.edge.bridge.registry().choose(&lab()).is_some()).await;
    // Over a link of its own: no earlier request has left a connection.
    backend.held_while_cut(two.http, &one.edge, &balancer, cut, "two hops").await
}

#[tokio::test]
async fn a_session_that_is_lost_behind_the_second_hop_is_as_one_lost_here() {
    let sent = [cut_behind_the_second_hop(0).await, cut_behind_the_second_hop(1).await];
    assert!(matches!(sent, [1, 2] | [2, 1]), "{sent:?}");
}

#[tokio::test]
async fn a_replica_that_leaves_is_asked_for_nothing_more_and_lets_links_end() {
    let (one, two, _agent) = pair(&upgraded_echo().await).await;
    let mut stream = joined(&two).await;
    one.between.leave(Duration::from_mins(1));
    two.answers(503).await;
    echoed(&mut stream, b"still here").await;
    assert!(timeout(Duration::from_millis(50), two.between.idle()).await.is_err(), "a link is open");
    one.stop.cancel();
    echoed(&mut stream, b"and here").await;
    drop(stream);
    timeout(PATIENCE, two.between.idle()).await.expect("the link ended");
    becomes("it has let go", || two.edge.metric("culvert_mesh_replicas") == 0).await;
}

#[tokio::test]
async fn who_has_another_key_or_another_name_is_no_replica() {
    let target = mirror().await;
    let shared = key();
    let one = Node::start("r1", &shared).await;
    let stranger = Node::start("r2", &key()).await;
    let renamed = Node::start("r3", &shared).await;
    let _agent = one.edge.agent(&["127.0.0.1:*"]);
    one.edge.session().await;
    for node in [&one, &stranger, &renamed] {
        node.serve(&target);
    }
    stranger.knows(&[one.peer()]);
    renamed.knows(&[MeshPeer { id: "r9".to_owned(), ..one.peer() }]);

    let third = Node::start("r4", &shared).await;
    third.serve(&target);
    third.knows(&[one.peer()]);
    third.answers(200).await;
    for node in [&stranger, &renamed] {
        assert_eq!(node.get().await.status, 503);
        assert_eq!(node.edge.metric("culvert_mesh_replicas"), 0);
    }
}
