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
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::{timeout, timeout_at},
};
use tokio_rustls::{TlsAcceptor, server::StartHandshake};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Config, Registry, Security,
    metrics::Metrics,
    registration::{Accepted, Registrar},
    registry::{AgentSession, Cause, NewSession},
    throttle::Throttle,
};
use crate::{
    routing::Agents,
    tunnel::{self, CloseReason, Incoming, IncomingEvent, Note, Role, Session, socket},
};

/// What the connections of a bridge share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) registrar: Registrar,
    pub(super) registry: Registry,
    pub(super) metrics: Metrics,
    pub(super) throttle: Throttle,
    /// The connections, registered or not.
    pub(super) tasks: TaskTracker,
    /// Ends those that have not registered yet.
    pub(super) abort: CancellationToken,
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

// === impl Shared ===

impl Shared {
    /// Takes a connection from its first byte to its registration, and starts its session.
    pub(super) async fn connection(self: Arc<Self>, tcp: TcpStream, source: SocketAddr) {
        // Options only make it faster; a connection that is gone already is noticed soon enough.
        let _ = socket::configure(&tcp);
        let rejected = match &self.config.security {
            Security::Tls(config) => {
                let register = async {
                    let tls = TlsAcceptor::from(config.clone()).accept(tcp).await.map_err(|_| Rejected::Tls)?;
                    self.register(tls, source).await
                };
                self.session_of(timeout(REGISTRATION_TIMEOUT, register).await, "tls", source)
            }
            Security::InsecurePlaintext => {
                let register = self.register(tcp, source);
                self.session_of(timeout(REGISTRATION_TIMEOUT, register).await, "plaintext", source)
            }
        };
        self.count(rejected, source);
    }

    /// Takes a connection that came in elsewhere, from its `ClientHello` on, and has until `deadline` to register.
    pub(super) async fn handed_over<T>(
        self: Arc<Self>,
        handshake: StartHandshake<T>,
        source: SocketAddr,
        deadline: tokio::time::Instant,
    ) where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let register = async {
            let Security::Tls(config) = &self.config.security else { return Err(Rejected::Tls) };
            let tls = handshake.into_stream(config.clone()).await.map_err(|_| Rejected::Tls)?;
            self.register(tls, source).await
        };
        let rejected = self.session_of(timeout_at(deadline, register).await, "tls", source);
        self.count(rejected, source);
    }

    fn count(&self, rejected: Option<Rejected>, source: SocketAddr) {
        match rejected {
            None | Some(Rejected::Answered) => {}
            Some(rejected) => {
                self.metrics.reject(rejected.reason());
                tracing::debug!(%source, reason = rejected.reason(), "an agent's connection was rejected");
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
        session.ask(&self.config.checks.borrow());
        // Who was revoked between the check and the list was not yet in the list when it was gone through.
        end_if_revoked(&session, &self.config.agents.borrow().clone());
        // The driver is a task of its own, so that what wakes it for every byte wakes nothing else.
        let driver = tokio::spawn(driver);
        self.tasks.spawn(self.clone().run(session, incoming, driver));
        None
    }

    async fn run(self: Arc<Self>, session: Arc<AgentSession>, mut incoming: Incoming, driver: JoinHandle<CloseReason>) {
        let AgentSession { id, agent, instance, version, remote_address: source, .. } = &*session;
        tracing::info!(session = id, %agent, %instance, %version, %source, "agent connected");
        while let Some(event) = incoming.next().await {
            match event {
                IncomingEvent::Note(Note::Drain) => self.registry.retire(&session),
                IncomingEvent::Note(Note::Health { reports }) => self.registry.reported(&session, reports),
                // Links are the edge's to open, and other notes have no meaning from an agent.
                IncomingEvent::Note(_) | IncomingEvent::Open(_) => {}
            }
        }
        // It fails only with the runtime.
        let reason = driver.await.unwrap_or(CloseReason::Closed);
        self.registry.remove(&session);
        let label = reason_label(&reason, session.cause());
        self.metrics.session_ended(agent, label);
        tracing::info!(session = id, %agent, %instance, %source, reason = label, "agent disconnected: {reason}");
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
}

/// Ends a session whose credential is none of its agent's any more.
pub(super) fn end_if_revoked(session: &AgentSession, agents: &Agents) {
    let entry = agents.get(&session.agent);
    if !entry.is_some_and(|entry| entry.credentials.contains(session.credential())) {
        session.close(Cause::Revoked);
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
