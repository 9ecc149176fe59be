//! An edge that visitors can come to, an agent, and what it serves.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use culvert::{
    proxy::{self, Proxy, TrustedProxies},
    routing::{
        Agents, Backend, Certificates, Checks, EntryPoint, Filter, HostRules, Hostname, Listener, LoadBalancing,
        Matches, ObjectName, PassiveHealth, PathMatch, Places, Protocol, RoutingTable, Rule, RuleId, Target, Timeouts,
        TunnelBackend,
    },
    tunnel::{
        self, Incoming, Role, Session,
        registration::{self, Registration},
    },
};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::support::{Edge, PATIENCE, RunningAgent, TOKEN, agents, lab};

/// The host that every stage serves, as TunnelHost `web/shop`.
pub(crate) const HOST: &str = "shop.example.com";

pub(crate) struct Stage {
    pub(crate) edge: Edge,
    pub(crate) proxy: Proxy,
    pub(crate) http: SocketAddr,
    pub(crate) agent: Option<RunningAgent>,
    pub(crate) stop: CancellationToken,
}

/// What may differ between stages.
pub(crate) struct Options {
    pub(crate) config: proxy::Config,
    pub(crate) allow: &'static [&'static str],
    /// How many the agent holds with the edge.
    pub(crate) connections: u32,
}

/// A visitor's connection, byte by byte.
pub(crate) struct Visitor(pub(crate) TcpStream);

/// A response as text, read as far as its `Content-Length`, or to the end of the connection.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { config: proxy::Config::default(), allow: &["127.0.0.1:*"], connections: 1 }
    }
}

impl Options {
    /// Visitors may take nothing for so long.
    pub(crate) fn stalling(stall_timeout: Duration) -> Self {
        Self { config: proxy::Config { stall_timeout, ..proxy::Config::default() }, ..Self::default() }
    }

    /// Visitors come from a proxy that is trusted, so that a test may say where they are from.
    pub(crate) fn behind_proxy() -> Self {
        let trusted_proxies = TrustedProxies::new(vec!["127.0.0.0/8".parse().expect("a network")]);
        Self { config: proxy::Config { trusted_proxies, ..proxy::Config::default() }, ..Self::default() }
    }
}

impl Stage {
    /// A stage whose agent has its session.
    pub(crate) async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    pub(crate) async fn start_with(options: Options) -> Self {
        let edge = Edge::start("r1").await;
        let registry = edge.bridge.registry().clone();
        let proxy = Proxy::new(registry, options.config, &edge.metrics).expect("a proxy");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let http = listener.local_addr().expect("its address");
        let (serving, stop) = (proxy.clone(), CancellationToken::new());
        let stopping = stop.clone();
        tokio::spawn(async move { serving.serve(listener, stopping).await });
        let agent = Some(edge.agent_in_slots(options.allow, options.connections));
        edge.sessions(|sessions| sessions.len() == options.connections as usize).await;
        Self { edge, proxy, http, agent, stop }
    }

    /// Serves [`HOST`] from these targets.
    pub(crate) fn serve(&self, targets: &[&str]) {
        self.serve_rules(vec![rule(targets, Vec::new())], None);
    }

    /// Serves [`HOST`] by these rules; the limit is the agent's.
    pub(crate) fn serve_rules(&self, rules: Vec<Rule>, max_connections: Option<u32>) {
        self.serve_host(HOST, rules, max_connections);
    }

    /// Serves this host by these rules.
    pub(crate) fn serve_host(&self, host: &str, rules: Vec<Rule>, max_connections: Option<u32>) {
        self.serve_table(&[(host, rules)], max_connections);
    }

    /// Serves each of these hosts by its rules.
    pub(crate) fn serve_hosts(&self, hosts: &[(&str, Vec<Rule>)]) {
        self.serve_table(hosts, None);
    }

    fn serve_table(&self, hosts: &[(&str, Vec<Rule>)], max_connections: Option<u32>) {
        let (table, agents) = tables(hosts, max_connections);
        self.serve_to(table, &agents);
    }

    /// Serves [`HOST`] by these rules, through these agents.
    pub(crate) fn serve_agents(&self, agents: &Agents, rules: Vec<Rule>) {
        let (table, _) = tables(&[(HOST, rules)], None);
        self.serve_to(table, agents);
    }

    fn serve_to(&self, table: Arc<RoutingTable>, agents: &Agents) {
        self.edge.checks.send_replace(Arc::new(Checks::of(&table)));
        self.proxy.update(table, agents);
    }

    /// Serves nothing any more.
    pub(crate) fn serve_nothing(&self) {
        self.proxy.update(Arc::default(), &Agents::default());
    }

    /// Puts the agent's side of a session, made by hand, in the agent's place.
    pub(crate) async fn agent_by_hand(&mut self, config: tunnel::Config) -> (Session, Incoming) {
        self.agent.take().expect("an agent").stop().await;
        self.edge.sessions(|sessions| sessions.is_empty()).await;
        let tcp = TcpStream::connect(self.edge.address).await.expect("connected");
        let name = ServerName::try_from("localhost").expect("a name");
        let connector = TlsConnector::from(self.edge.certificate.client());
        let mut stream = connector.connect(name, tcp).await.expect("TLS");
        let registration = Registration {
            agent: "web/lab".to_owned(),
            token: registration::Token::new(TOKEN).expect("a token"),
            instance: "01".to_owned(),
            version: "0.1.0".to_owned(),
            slots: 1,
            met: BTreeMap::new(),
        };
        let registered = registration::register(&mut stream, "localhost", &registration).await.expect("registered");
        let (session, incoming, driver) = Session::start(Role::Agent, stream, registered.early, config);
        tokio::spawn(driver);
        self.edge.session().await;
        (session, incoming)
    }

    pub(crate) async fn visit(&self) -> Visitor {
        Visitor(TcpStream::connect(self.http).await.expect("a connection"))
    }

    /// One request on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        get(self.http, path).await
    }

    /// These bytes on a connection of their own.
    pub(crate) async fn send(&self, request: &str) -> Answer {
        send(self.http, request).await
    }
}

/// What serves each of these hosts by its rules; the limit is the agent's.
pub(crate) fn tables(hosts: &[(&str, Vec<Rule>)], max_connections: Option<u32>) -> (Arc<RoutingTable>, Agents) {
    let entry = agents(&[("lab", "lab-token", crate::support::TOKEN)]);
    let entries = entry.iter().map(|entry| {
        let mut entry = (**entry).clone();
        entry.max_connections = max_connections;
        entry
    });
    let agents: Agents = entries.collect();
    let hosts = hosts.iter().map(|(host, rules)| {
        let rules = rules.iter().cloned().map(Arc::new).collect();
        (host.parse::<Hostname>().expect("a hostname"), HostRules { owner: "web".into(), rules })
    });
    let listener = Arc::new(Listener::new(None, hosts));
    let table = RoutingTable::new([(EntryPoint::Http, listener)], Certificates::default());
    (Arc::new(table), agents)
}

/// One request to that edge, on a connection of its own.
pub(crate) async fn get(edge: SocketAddr, path: &str) -> Answer {
    send(edge, &format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")).await
}

async fn send(edge: SocketAddr, request: &str) -> Answer {
    let mut visitor = Visitor(TcpStream::connect(edge).await.expect("a connection"));
    visitor.send(request.as_bytes()).await;
    visitor.answer().await
}

/// A request with these fields, each with its line's end; it is the last on its connection.
pub(crate) fn request(method: &str, path: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{fields}\r\n")
}

/// A rule for all paths of [`HOST`].
pub(crate) fn rule(targets: &[&str], filters: Vec<Filter>) -> Rule {
    let targets: Vec<_> = targets.iter().map(|target| target.parse::<Target>().expect("a target").into()).collect();
    Rule {
        id: RuleId { object: ObjectName::new("web", "shop"), route: 0 },
        matches: Matches::path(PathMatch::prefix("/")),
        filters,
        timeouts: Timeouts::default(),
        backend: Backend::Tunnel(TunnelBackend {
            places: Places::new(&[lab().into()], &targets),
            balancing: LoadBalancing::RoundRobin,
            health_check: None,
            passive_health: PassiveHealth::default(),
            protocol: Protocol::Http,
            host_header: None,
            proxy_protocol: None,
            attempts: 3,
        }),
    }
}

impl Visitor {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("sent");
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        timeout(PATIENCE, Answer::read(&mut self.0)).await.expect("an answer in time")
    }

    /// All bytes until the edge closes.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let read = timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.expect("an end in time");
        // A reset is an end too; what came before it counts.
        let _ = read;
        rest
    }
}

impl Answer {
    /// Reads one answer and not a byte more.
    pub(crate) async fn read(stream: &mut TcpStream) -> Self {
        let head = read_head(stream).await;
        let status =
            head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no head: {head:?}"));
        let mut answer = Self { status, head, body: String::new() };
        let mut body = match answer.header("content-length") {
            Some(length) => vec![0; length.parse().expect("a length")],
            None => Vec::new(),
        };
        if answer.header("content-length").is_some() {
            stream.read_exact(&mut body).await.expect("the whole body");
        } else if status != 101 && status != 204 {
            stream.read_to_end(&mut body).await.expect("a body");
        }
        answer.body = String::from_utf8_lossy(&body).into_owned();
        answer
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Reads as far as the empty line; the empty text where the connection ends before.
pub(crate) async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            _ => return String::new(),
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// A backend that gets each connection and does with it what it likes. Returns its address as a target.
pub(crate) async fn backend<F, R>(serve: F) -> String
where
    F: Fn(TcpStream) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let (listener, target) = crate::support::backend();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    target
}

/// A backend that answers each request on a connection with the head it got.
pub(crate) async fn mirror() -> String {
    backend(|mut stream| async move {
        loop {
            let head = read_head(&mut stream).await;
            if head.is_empty() {
                return;
            }
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
            stream.write_all(answer.as_bytes()).await.expect("answered");
        }
    })
    .await
}

/// A backend that answers each request with this name.
pub(crate) async fn named(name: &'static str) -> String {
    backend(move |mut stream| async move {
        while !read_head(&mut stream).await.is_empty() {
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
            stream.write_all(answer.as_bytes()).await.expect("answered");
        }
    })
    .await
}

/// Waits until something is so.
pub(crate) async fn becomes(what: &str, mut so: impl FnMut() -> bool) {
    let became = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, became).await.is_ok(), "{what}");
}
