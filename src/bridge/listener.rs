use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use hyper::{body, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Registry,
    metrics::Metrics,
    registration::{Accepted, Registrar},
    registry::{AgentSession, Cause, NewSession},
    throttle::Throttle,
};
use crate::{
    routing::Agents,
    tunnel::{self, CloseReason, Incoming, IncomingEvent, Note, Replica, Role, Session, socket},
};

/// What a bridge needs to know.
#[derive(Debug)]
pub struct Config {
    /// This replica's id; printable ASCII without spaces and commas. In a cluster the pod's name.
    pub replica: String,
    /// How connections are protected.
    pub security: Security,
    /// Who may register. A change ends the sessions whose credential is gone.
    pub agents: watch::Receiver<Arc<Agents>>,
    /// All replicas of the edge, this one among them. Agents are told of a change.
    pub replicas: watch::Receiver<Arc<[Replica]>>,
    /// How long the links of a bridge that stops may go on. Default in `culvert serve`: 30 s.
    pub drain: Duration,
}

/// How the agents' connections are protected.
#[derive(Clone, Debug)]
pub enum Security {
    /// By TLS, as in [`tunnel::tls::server`].
    Tls(Arc<ServerConfig>),
    /// Not at all: tokens and traffic can be read on the way. Only where the operator asked for it.
    InsecurePlaintext,
}

/// Why there is no bridge.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The replica's id cannot be sent.
    #[error("the replica id {0:?} cannot be sent to agents; use printable ASCII without spaces and commas")]
    Replica(String),
    /// A metric of that name exists already.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// Where agents dial in and register; their sessions are in its [`Registry`].
#[derive(Clone, Debug)]
pub struct Bridge(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: Config,
    registrar: Registrar,
    registry: Registry,
    metrics: Metrics,
    throttle: Throttle,
}

/// Why a connection ended without becoming a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rejected {
    /// It had not registered in time.
    Timeout,
    /// No TLS came about.
    Tls,
    /// What came was no HTTP, or broke off.
    Http,
    /// It got an answer, and that was counted.
    Answered,
}

/// A registered connection.
struct Registered<T> {
    io: T,
    /// What was read behind the registration.
    early: Bytes,
    accepted: Accepted,
}

/// How long a connection may take to register, its TLS handshake included. Who says nothing is closed then.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest head of a registration, in bytes.
const MAX_HEAD: usize = 16 * 1024;

// === impl Bridge ===

impl Bridge {
    /// Makes a bridge, and lists its metrics in `metrics`.
    pub fn new(config: Config, metrics: &prometheus::Registry) -> Result<Self, BridgeError> {
        let registrar =
            Registrar::new(&config.replica).ok_or_else(|| BridgeError::Replica(config.replica.clone()))?;
        let metrics = Metrics::new(metrics)?;
        metrics.follow(&config.agents.borrow());
        let registry = Registry::new();
        Ok(Self(Arc::new(Shared { config, registrar, registry, metrics, throttle: Throttle::default() })))
    }

    /// The sessions of the agents that registered here.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// Serves agents until `stop`. Then it takes no more of them, tells those that it has, waits for their links, at
    /// most as long as the configuration says, and ends the sessions.
    pub async fn serve(&self, listener: TcpListener, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let abort = CancellationToken::new();
        let revoke = self.revoke();
        let announce = self.announce();
        let accept = self.accept(listener, &tasks, &abort);
        tokio::select! {
            () = accept => {}
            () = revoke => {}
            () = announce => {}
            () = stop.cancelled() => {}
        }
        // Those that have not registered yet are sent away; they dial another replica.
        abort.cancel();
        self.drain().await;
        tasks.close();
        tasks.wait().await;
    }

    async fn accept(&self, listener: TcpListener, tasks: &TaskTracker, abort: &CancellationToken) {
        loop {
            match listener.accept().await {
                Ok((tcp, source)) => {
                    let (bridge, tasks, abort) = (self.0.clone(), tasks.clone(), abort.clone());
                    tasks.clone().spawn(async move {
                        tokio::select! {
                            () = bridge.connection(tcp, source, &tasks) => {}
                            () = abort.cancelled() => {}
                        }
                    });
                }
                // The connection's own trouble, over with it.
                Err(error) if is_of_connection(&error) => {}
                Err(error) => {
                    tracing::error!("cannot accept agents: {error}");
                    // Out of file descriptors, most likely: some have to be closed first.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Ends the sessions whose credential is gone. Never returns, unless nobody can change the agents any more.
    async fn revoke(&self) {
        let mut agents = self.0.config.agents.clone();
        while agents.changed().await.is_ok() {
            let agents = agents.borrow_and_update().clone();
            self.0.metrics.follow(&agents);
            for session in self.0.registry.sessions().iter() {
                self.0.end_if_revoked(session, &agents);
            }
        }
        std::future::pending().await
    }

    /// Tells the agents when the set of replicas changes.
    async fn announce(&self) {
        let mut replicas = self.0.config.replicas.clone();
        while replicas.changed().await.is_ok() {
            let note = Note::Replicas { replicas: replicas.borrow_and_update().to_vec() };
            for session in self.0.registry.sessions().iter() {
                session.tell(&note);
            }
        }
        std::future::pending().await
    }

    async fn drain(&self) {
        for session in self.0.registry.sessions().iter() {
            session.tell(&Note::Drain);
        }
        let idle = async {
            // Links tell nobody that they end, and this is once in the life of a process.
            while self.0.registry.sessions().iter().any(|session| session.links() > 0) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = timeout(self.0.config.drain, idle).await;
        for session in self.0.registry.sessions().iter() {
            session.close(Cause::Drained);
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Takes a connection from its first byte to its registration, and starts its session.
    async fn connection(self: &Arc<Self>, tcp: TcpStream, source: SocketAddr, tasks: &TaskTracker) {
        // Options only make it faster; a connection that is gone already is noticed soon enough.
        let _ = socket::configure(&tcp);
        let rejected = match &self.config.security {
            Security::Tls(config) => {
                let register = async {
                    let tls = TlsAcceptor::from(config.clone()).accept(tcp).await.map_err(|_| Rejected::Tls)?;
                    self.register(tls, source).await
                };
                self.session_of(timeout(REGISTRATION_TIMEOUT, register).await, "tls", source, tasks)
            }
            Security::InsecurePlaintext => {
                let register = self.register(tcp, source);
                self.session_of(timeout(REGISTRATION_TIMEOUT, register).await, "plaintext", source, tasks)
            }
        };
        match rejected {
            None | Some(Rejected::Answered) => {}
            Some(rejected) => {
                self.metrics.reject(rejected.reason());
                tracing::debug!(%source, reason = rejected.reason(), "connection to the agents' port rejected");
            }
        }
    }

    /// Reads one HTTP request and answers it.
    async fn register<T>(&self, io: T, source: SocketAddr) -> Result<Registered<T>, Rejected>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let accepted = OnceLock::new();
        let service = service_fn(|request: Request<body::Incoming>| {
            let agents = self.config.agents.borrow().clone();
            let decision = self.registrar.decide(&request, &agents);
            let response = match decision {
                Ok(registration) => {
                    let _ = accepted.set(registration);
                    self.registrar.welcome()
                }
                Err(denied) => {
                    self.metrics.connect(denied.result());
                    if self.throttle.allow(source.ip(), Instant::now()) {
                        denied.log(source);
                    }
                    self.registrar.refusal(&denied)
                }
            };
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let connection = http1::Builder::new()
            .keep_alive(false)
            .max_buf_size(MAX_HEAD)
            // The deadline of the whole registration stands for it.
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(io), service);
        // hyper returns the connection once the answer is written, and what it read behind the request.
        let parts = connection.without_shutdown().await.map_err(|_| Rejected::Http)?;
        let (mut io, early) = (parts.io.into_inner(), parts.read_buf);
        drop(parts.service);
        if let Some(accepted) = accepted.into_inner() {
            return Ok(Registered { io, early, accepted });
        }
        let _ = io.shutdown().await;
        Err(Rejected::Answered)
    }

    /// Runs the session of a connection that registered, as a task of its own: what the registration needed is freed.
    fn session_of<T>(
        self: &Arc<Self>,
        registered: Result<Result<Registered<T>, Rejected>, tokio::time::error::Elapsed>,
        transport: &'static str,
        source: SocketAddr,
        tasks: &TaskTracker,
    ) -> Option<Rejected>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Registered { io, early, accepted } = match registered {
            Ok(Ok(registered)) => registered,
            Ok(Err(rejected)) => return Some(rejected),
            Err(_) => return Some(Rejected::Timeout),
        };
        let Accepted { agent, credential, registration } = accepted;
        let (session, incoming, driver) = Session::start(Role::Edge, io, early, tunnel::Config::default());
        let remote_address = source;
        let new = NewSession { agent, credential, registration, transport, remote_address, session };
        let session = self.registry.insert(new);
        self.metrics.connect("accepted");
        self.metrics.session_started(&session.agent);
        self.welcome(&session);
        // Who was revoked between the check and the list was not yet in the list when it was gone through.
        self.end_if_revoked(&session, &self.config.agents.borrow().clone());
        tasks.spawn(self.clone().run(session, incoming, driver));
        None
    }

    async fn run(self: Arc<Self>, session: Arc<AgentSession>, mut incoming: Incoming, driver: impl Future<Output = CloseReason>) {
        let AgentSession { agent, instance, remote_address, version, .. } = &*session;
        tracing::info!(%agent, %instance, source = %remote_address, version = %version, session = session.id, "agent connected");
        let mut driver = std::pin::pin!(driver);
        let reason = loop {
            tokio::select! {
                reason = &mut driver => break reason,
                Some(event) = incoming.next() => match event {
                    IncomingEvent::Note(Note::Drain) => self.registry.retire(&session),
                    // Links are the edge's to open, and other notes have no meaning from an agent.
                    IncomingEvent::Note(_) | IncomingEvent::Open(_) => {}
                },
            }
        };
        self.registry.remove(&session);
        let label = reason_label(&reason, session.cause());
        self.metrics.session_ended(agent, label);
        tracing::info!(%agent, %instance, source = %remote_address, session = session.id, reason = label, "agent disconnected: {reason}");
    }

    fn welcome(&self, session: &AgentSession) {
        // Held while it is sent: a change is announced to this session after the welcome, never before.
        let replicas = self.config.replicas.borrow();
        session.tell(&Note::Welcome {
            replica: self.config.replica.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            replicas: replicas.to_vec(),
        });
    }

    fn end_if_revoked(&self, session: &AgentSession, agents: &Agents) {
        let entry = agents.get(&session.agent);
        if !entry.is_some_and(|entry| entry.credentials.contains(session.credential())) {
            session.close(Cause::Revoked);
        }
    }
}

// === impl Rejected ===

impl Rejected {
    fn reason(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Answered => "answered",
        }
    }
}

fn reason_label(reason: &CloseReason, cause: Option<Cause>) -> &'static str {
    match (reason, cause) {
        (CloseReason::PeerClosed, _) => "peer_closed",
        (CloseReason::Silence, _) => "silence",
        (CloseReason::Protocol(_), _) => "protocol",
        (CloseReason::Io(_), _) => "io",
        (CloseReason::Closed, Some(Cause::Revoked)) => "revoked",
        (CloseReason::Closed, Some(Cause::Replaced)) => "replaced",
        (CloseReason::Closed, Some(Cause::Drained) | None) => "drained",
    }
}

fn is_of_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
