//! Edges and agents in this process, over real sockets and real TLS.

// Each test program takes what it needs.
#![allow(dead_code)]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

pub(crate) mod http_proxy;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use culvert::{
    agent::{self, Agent, AllowList, AllowRule, Proxies, TokenSource, Transport},
    bridge::{AgentSession, Bridge, Config, Security, Sessions},
    routing::{AgentEntry, Agents, Checks, Credential, ObjectName, Token},
    tunnel::{
        Link, Open, Replica, registration,
        tls::{self, Fingerprint, Trust},
    },
};
use rustls::ClientConfig;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub(crate) const TOKEN: &str = "token-0123456789abcdef";

/// Longer than anything here takes, on a machine that is busy: who waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A certificate that replicas of one edge share.
#[derive(Clone)]
pub(crate) struct Certificate {
    pub(crate) pem: String,
    pub(crate) key: String,
    pub(crate) fingerprint: Fingerprint,
}

/// One replica of an edge.
pub(crate) struct Edge {
    pub(crate) bridge: Bridge,
    pub(crate) address: SocketAddr,
    pub(crate) agents: watch::Sender<Arc<Agents>>,
    pub(crate) replicas: watch::Sender<Arc<[Replica]>>,
    pub(crate) checks: watch::Sender<Arc<Checks>>,
    pub(crate) metrics: prometheus::Registry,
    pub(crate) certificate: Certificate,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// A running agent; it stops when this is dropped.
pub(crate) struct RunningAgent {
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
    pub(crate) allow: AllowList,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        Self {
            pem: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
            fingerprint: Fingerprint::of_certificate(made.cert.der()).expect("a fingerprint"),
        }
    }

    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        tls::client(&Trust::Pinned(vec![self.fingerprint])).expect("a configuration")
    }
}

impl Edge {
    pub(crate) async fn start(replica: &str) -> Self {
        Self::start_as(replica, &[replica], &Certificate::new(), "127.0.0.1:0".parse().expect("an address")).await
    }

    pub(crate) async fn start_as(
        replica: &str,
        replicas: &[&str],
        certificate: &Certificate,
        address: SocketAddr,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (agents, agents_seen) = watch::channel(Arc::new(agents(&[("lab", "lab-token", TOKEN)])));
        let (replicas, replicas_seen) = watch::channel(replica_set(replicas));
        let (checks, checks_seen) = watch::channel(Arc::default());
        let config = Config {
            replica: replica.to_owned(),
            security: Security::Tls(
                tls::server(certificate.pem.as_bytes(), certificate.key.as_bytes()).expect("a configuration"),
            ),
            agents: agents_seen,
            replicas: replicas_seen,
            checks: checks_seen,
            drain: Duration::from_secs(10),
        };
        let metrics = prometheus::Registry::new();
        let bridge = Bridge::new(config, &metrics).expect("a bridge");
        let (serving, stop) = (bridge.clone(), CancellationToken::new());
        let stopping = stop.clone();
        let task = tokio::spawn(async move { serving.serve(listener, stopping).await });
        Self { bridge, address, agents, replicas, checks, metrics, certificate: certificate.clone(), stop, task }
    }

    /// Stops it and waits until its port is free.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task).await.expect("stopped in time").expect("stopped");
    }

    /// Begins to stop it.
    pub(crate) fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Waits until its sessions are as they should be.
    pub(crate) async fn sessions(&self, wanted: impl FnMut(&Sessions) -> bool) -> Sessions {
        let mut sessions = self.bridge.registry().watch();
        timeout(PATIENCE, sessions.wait_for(wanted)).await.expect("sessions in time").expect("a registry").clone()
    }

    /// Waits for the one session that there should be.
    pub(crate) async fn session(&self) -> Arc<AgentSession> {
        self.sessions(|sessions| sessions.len() == 1).await[0].clone()
    }

    /// The value of the metric with these labels, as `name{a="b"}`; 0 where there is none.
    pub(crate) fn metric(&self, series: &str) -> u64 {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.metrics.gather()).expect("metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().expect("a number"))
    }

    /// Waits until that metric has this value: what a peer sees may come before what we count.
    pub(crate) async fn metric_becomes(&self, series: &str, wanted: u64) {
        let became = async {
            while self.metric(series) != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = timeout(PATIENCE, became).await;
        assert!(in_time.is_ok(), "{series} is {}, not {wanted}", self.metric(series));
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// An agent for it.
    pub(crate) fn agent(&self, allow: &[&str]) -> RunningAgent {
        RunningAgent::start(&self.url(), &self.certificate, allow)
    }

    /// An agent that holds so many connections with it.
    pub(crate) fn agent_in_slots(&self, allow: &[&str], connections: u32) -> RunningAgent {
        RunningAgent::start_in_slots(&self.url(), &self.certificate, allow, connections)
    }
}

impl RunningAgent {
    pub(crate) fn start(edge: &str, certificate: &Certificate, allow: &[&str]) -> Self {
        Self::start_in_slots(edge, certificate, allow, 1)
    }

    /// One of that name, with the usual token.
    pub(crate) fn start_as(agent: &str, edge: &Edge, allow: &[&str]) -> Self {
        Self::run(agent::Config { agent: agent.to_owned(), ..config(&edge.url(), &edge.certificate, allow) })
    }

    pub(crate) fn start_with(edge: &str, certificate: &Certificate, allow: &[&str], token: TokenSource) -> Self {
        Self::run(agent::Config { token, ..config(edge, certificate, allow) })
    }

    /// One that holds so many connections with each replica.
    pub(crate) fn start_in_slots(edge: &str, certificate: &Certificate, allow: &[&str], connections: u32) -> Self {
        Self::run(agent::Config { connections, ..config(edge, certificate, allow) })
    }

    /// One that dials in this way.
    pub(crate) fn start_over(
        edge: &str,
        certificate: &Certificate,
        allow: &[&str],
        transport: Transport,
        proxies: Proxies,
    ) -> Self {
        Self::run(agent::Config { transport, proxies, ..config(edge, certificate, allow) })
    }

    fn run(config: agent::Config) -> Self {
        let allow = config.allow.clone();
        let stop = CancellationToken::new();
        let task = tokio::spawn(Agent::new(config).run(stop.clone()));
        Self { stop, task, allow }
    }

    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        timeout(PATIENCE, &mut self.task).await.expect("stopped in time").expect("stopped");
    }
}

impl Drop for RunningAgent {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What an agent of these tests is told where nothing else is said.
fn config(edge: &str, certificate: &Certificate, allow: &[&str]) -> agent::Config {
    let (transport, proxies) = way();
    agent::Config {
        edges: vec![edge.parse().expect("a URL")],
        agent: "web/lab".to_owned(),
        token: TokenSource::Given(registration::Token::new(TOKEN).expect("a token")),
        allow: allow.iter().map(|rule| rule.parse::<AllowRule>().expect(rule)).collect(),
        security: agent::Security::Tls(certificate.client()),
        proxies,
        transport,
        connect_timeout: Duration::from_secs(5),
        grace: Duration::from_secs(5),
        connections: 1,
    }
}

/// How the agents of a test program dial: as by default, but in the one that is named after it.
pub(crate) fn way() -> (Transport, Proxies) {
    if env!("CARGO_CRATE_NAME") != "agent_behind_proxy" {
        return (Transport::Auto, Proxies::default());
    }
    let proxy = std::env::var("CULVERT_TEST_PROXY").unwrap_or_else(|_| http_proxy::of_this_program());
    (Transport::WebSocket, Proxies::new(proxy.parse().expect("a proxy"), ""))
}

/// Agents in the namespace `web`: name, Secret, token. One name may come several times.
pub(crate) fn agents(entries: &[(&str, &str, &str)]) -> Agents {
    let mut agents: Vec<AgentEntry> = Vec::new();
    for &(name, secret, token) in entries {
        let credential = Credential { secret: secret.into(), token: Token::new(token.as_bytes()).expect("a token") };
        let name = ObjectName::new("web", name);
        match agents.iter_mut().find(|agent| agent.name == name) {
            Some(agent) => agent.credentials.push(credential),
            None => agents.push(AgentEntry {
                name,
                credentials: vec![credential],
                max_connections: None,
                max_instances: 256,
                allowed_sources: None,
            }),
        }
    }
    agents.into_iter().collect()
}

pub(crate) fn replica_set(ids: &[&str]) -> Arc<[Replica]> {
    ids.iter().map(|&id| Replica { id: id.to_owned(), address: None }).collect()
}

pub(crate) fn lab() -> ObjectName {
    ObjectName::new("web", "lab")
}

pub(crate) fn open(session: &AgentSession, target: &str) -> Link {
    let open = Open { target: target.to_owned(), tunnel_host: "web/shop".to_owned(), ..Open::default() };
    session.open(&open).expect("a session that lives")
}

/// A listener on a free port, and its address as a target. A thousand connections at once fit its backlog: beyond it, Linux
/// answers with SYN cookies, and resets some of them.
pub(crate) fn backend() -> (TcpListener, String) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let listener = socket.listen(4096).expect("a listener");
    let target = listener.local_addr().expect("its address").to_string();
    (listener, target)
}

pub(crate) async fn accept(listener: &TcpListener) -> TcpStream {
    timeout(PATIENCE, listener.accept()).await.expect("a connection in time").expect("a connection").0
}

/// A backend that sends back what it gets, and ends when its peer ends.
pub(crate) fn echo() -> String {
    let (listener, target) = backend();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    target
}
