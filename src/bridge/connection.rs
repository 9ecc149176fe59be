use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use hyper::{body, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsAcceptor, server::StartHandshake};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Config, Registry, Security,
    brief::Brief,
    instances,
    metrics::Metrics,
    registration::{Accepted, Denied, Registrar},
    registry::NewSession,
    session::{AgentSession, Cause},
    slots::{Promise, Slots},
    throttle::Throttle,
    waiting::{Place, WaitingRoom},
};
use crate::{
    routing::{Agents, ObjectName},
    tunnel::{
        self, CloseReason, Incoming, IncomingEvent, Note, Role, Session, registration::Carrier, socket,
        websocket::WebSocket,
    },
};

/// What the connections of a bridge share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) registrar: Registrar,
    pub(super) slots: Slots,
    pub(super) registry: Registry,
    pub(super) metrics: Metrics,
    pub(super) throttle: Throttle,
    pub(super) brief: Brief,
    pub(super) waiting: WaitingRoom,
    /// The connections, registered or not.
    pub(super) tasks: TaskTracker,
    /// Set once this replica is about to stop.
    pub(super) leaves: AtomicBool,
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
    promise: Promise,
}

/// How long a connection may take to register, its TLS handshake included.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may take for its first byte: an agent speaks first, and at once.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the status calls the transports of each kind of connection: frames directly on it, and in a WebSocket.
const TLS: [&str; 2] = ["tls", "websocket"];
const PLAINTEXT: [&str; 2] = ["plaintext", "plaintext-websocket"];
/// How often a session whose agent leaves is looked at: links tell nobody that they end, and this is once in a session's life.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long an agent waits for its links that leaves and does not say how long.
const USUAL_GRACE: Duration = Duration::from_secs(5);

/// How much earlier links that could go on for ever are asked to end: they have something to say to both sides.
const GOODBYE: Duration = Duration::from_secs(3);

/// The longest head of a registration, in bytes.
const MAX_HEAD: usize = 16 * 1024;

// === impl Shared ===

impl Shared {
    /// Takes a connection from its first byte to its registration, and starts its session.
    pub(super) async fn connection(self: Arc<Self>, tcp: TcpStream, source: SocketAddr, place: Place) {
        // Options only make it faster; a connection that is gone already is noticed soon enough.
        let _ = socket::configure(&tcp);
        let rejected = match &self.config.security {
            Security::Tls(config) => {
                let register = async {
                    first_byte(&tcp, &place).await?;
                    let tls = TlsAcceptor::from(config.clone()).accept(tcp).await.map_err(|_| Rejected::Tls)?;
                    self.register(tls, source, &place).await
                };
                self.session_of(timeout(REGISTRATION_TIMEOUT, register).await, TLS, source).await
            }
            Security::InsecurePlaintext => {
                let register = async {
                    first_byte(&tcp, &place).await?;
                    self.register(tcp, source, &place).await
                };
                self.session_of(timeout(REGISTRATION_TIMEOUT, register).await, PLAINTEXT, source).await
            }
        };
        self.count(rejected, source);
    }

    /// Takes a connection that came in elsewhere, from its `ClientHello` on, and has until `deadline` to register.
    pub(super) async fn handed_over<T>(
        self: Arc<Self>,
        handshake: StartHandshake<T>,
        source: SocketAddr,
        deadline: Instant,
        place: Place,
    ) where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let register = async {
            let Security::Tls(config) = &self.config.security else { return Err(Rejected::Tls) };
            let tls = handshake.into_stream(config.clone()).await.map_err(|_| Rejected::Tls)?;
            self.register(tls, source, &place).await
        };
        let rejected = self.session_of(timeout_at(deadline, register).await, TLS, source).await;
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

    /// Reads one HTTP request and answers it: a registration that is accepted at once, others as their source's turn comes.
    async fn register<T>(&self, io: T, source: SocketAddr, place: &Place) -> Result<Registered<T>, Rejected>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let accepted = OnceLock::new();
        let service = service_fn(async |request: Request<body::Incoming>| {
            let agents = self.config.agents.borrow().clone();
            let others =
                |agent: &ObjectName, instance: &str| instances::others(&self.registry.sessions_of(agent), instance);
            let decision = if self.leaves.load(Ordering::Relaxed) {
                Err(Denied::Leaving)
            } else {
                self.registrar.decide(&request, source.ip(), &agents, others)
            };
            let decision = decision.and_then(|accepted| {
                let Accepted { agent, registration, .. } = &accepted;
                let sessions = || self.registry.sessions_of(agent);
                let promise = self.slots.promise(agent, registration, &self.config.replica, sessions);
                promise.map(|promise| (accepted, promise)).ok_or(Denied::AlreadyMet)
            });
            Ok::<_, Infallible>(match decision {
                Ok(registration) => {
                    let answer = self.registrar.welcome(&registration.0.carrier, registration.1.slot());
                    let _ = accepted.set(registration);
                    answer
                }
                Err(denied) => {
                    self.metrics.connect(denied.result());
                    self.hold(&denied, source, place).await;
                    self.registrar.refusal(&denied)
                }
            })
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
        if let Some((accepted, promise)) = accepted.into_inner() {
            return Ok(Registered { io, early, accepted, promise });
        }
        let _ = io.shutdown().await;
        Err(Rejected::Answered)
    }

    /// Waits until the source of a failed registration may have its next answer.
    async fn hold(&self, denied: &Denied, source: SocketAddr, place: &Place) {
        if !denied.is_failure() {
            return;
        }
        let failed = self.throttle.failed(place.source(), Instant::now());
        if failed.log {
            denied.log(source);
        }
        place.refused();
        failed.turn().await;
    }

    /// Starts the session of a connection that registered, in what its registration asks for.
    async fn session_of<T>(
        self: &Arc<Self>,
        registered: Result<Result<Registered<T>, Rejected>, tokio::time::error::Elapsed>,
        [direct, websocket]: [&'static str; 2],
        source: SocketAddr,
    ) -> Option<Rejected>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Registered { io, early, accepted, promise } = match registered {
            Ok(Ok(registered)) => registered,
            Ok(Err(rejected)) => return Some(rejected),
            Err(_) => return Some(Rejected::Timeout),
        };
        match accepted.carrier {
            Carrier::Direct => self.start(Registered { io, early, accepted, promise }, direct, source),
            Carrier::WebSocket { .. } => {
                let io = WebSocket::start(Role::Edge, io, early).await;
                self.start(Registered { io, early: Bytes::new(), accepted, promise }, websocket, source);
            }
        }
        None
    }

    /// Runs a session as a task of its own: what the registration needed is freed.
    fn start<T>(self: &Arc<Self>, registered: Registered<T>, transport: &'static str, source: SocketAddr)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Registered { io, early, accepted, promise } = registered;
        let Accepted { agent, credential, registration, .. } = accepted;
        let (session, incoming, driver) = Session::start(Role::Edge, io, early, tunnel::Config::default());
        let remote_address = source;
        let slot = promise.slot();
        let new = NewSession { agent, credential, registration, slot, transport, remote_address, session };
        let session = self.registry.insert(new);
        drop(promise);
        self.metrics.connect("accepted");
        self.metrics.session_started(&session.agent);
        self.welcome(&session);
        session.ask(&self.config.checks.borrow());
        // Who came between the first look and the list was not yet in the list when all were told.
        if self.leaves.load(Ordering::SeqCst) {
            session.tell(&Note::Drain { seconds: None });
        }
        // What has changed between the check and the list did not find it in the list.
        let agents = self.config.agents.borrow().clone();
        end_if_forbidden(&session, &agents);
        self.end_surplus(&session.agent, &agents);
        // The driver is a task of its own, so that what wakes it for every byte wakes nothing else.
        let driver = tokio::spawn(driver);
        self.tasks.spawn(self.clone().run(session, incoming, driver));
    }

    async fn run(self: Arc<Self>, session: Arc<AgentSession>, mut incoming: Incoming, driver: JoinHandle<CloseReason>) {
        let AgentSession { id, agent, instance, version, remote_address: source, .. } = &*session;
        let started = Instant::now();
        let is_news = self.brief.is_news(agent, started);
        if is_news {
            tracing::info!(session = id, %agent, %instance, %version, %source, "agent connected");
        }
        let mut leaves = None;
        loop {
            let next = incoming.next();
            let event = if let Some(links_end) = leaves {
                let Ok(event) = timeout(LOOK_AGAIN, next).await else {
                    session.leaves(links_end);
                    continue;
                };
                event
            } else {
                next.await
            };
            match event {
                Some(IncomingEvent::Note(Note::Drain { seconds })) => {
                    self.registry.retire(&session);
                    leaves.get_or_insert_with(|| links_end(seconds));
                }
                Some(IncomingEvent::Note(Note::Health { reports })) => self.registry.reported(&session, reports),
                // Links are the edge's to open, and other notes have no meaning from an agent.
                Some(IncomingEvent::Note(_) | IncomingEvent::Open(_)) => {}
                None => break,
            }
        }
        // It fails only with the runtime.
        let reason = driver.await.unwrap_or(CloseReason::Closed);
        self.registry.remove(&session);
        let label = reason_label(&reason, session.cause());
        self.metrics.session_ended(agent, label);
        self.brief.ended(agent, started, Instant::now());
        if is_news {
            tracing::info!(session = id, %agent, %instance, %source, reason = label, "agent disconnected: {reason}");
        } else {
            tracing::debug!(session = id, %agent, %instance, %source, reason = label, "agent disconnected: {reason}");
        }
    }

    /// Ends the sessions of those who could not register any more.
    pub(super) fn end_forbidden(&self, agents: &Agents) {
        for session in self.registry.sessions().iter() {
            end_if_forbidden(session, agents);
        }
        for agent in agents.iter() {
            self.end_surplus(&agent.name, agents);
        }
    }

    /// Ends the sessions of the processes that are too many; those that came first stay.
    fn end_surplus(&self, agent: &ObjectName, agents: &Agents) {
        let Some(most) = agents.get(agent).map(|entry| entry.max_instances) else { return };
        for session in instances::surplus(&self.registry.sessions_of(agent), most) {
            session.close(Cause::Surplus);
        }
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

/// When the links by one that leaves in so many seconds, an agent or a replica, have to be asked to end.
pub(super) fn links_end(seconds: Option<u32>) -> Instant {
    let grace = seconds.map_or(USUAL_GRACE, |seconds| Duration::from_secs(seconds.into()));
    Instant::now() + grace.saturating_sub(GOODBYE).max(grace / 2)
}

/// Ends a session whose credential is none of its agent's any more, or that comes from where it may not come from.
fn end_if_forbidden(session: &AgentSession, agents: &Agents) {
    let Some(credential) = session.credential() else { return };
    match agents.get(&session.agent) {
        Some(entry) if !entry.credentials.contains(credential) => session.close(Cause::Revoked),
        Some(entry) if !entry.admits(session.remote_address.ip()) => session.close(Cause::Source),
        Some(_) => {}
        None => session.close(Cause::Revoked),
    }
}

/// Waits for the first byte, before anything is made for what may never speak.
async fn first_byte(tcp: &TcpStream, place: &Place) -> Result<(), Rejected> {
    let there = timeout(SILENCE_TIMEOUT, tcp.peek(&mut [0])).await.map_err(|_| Rejected::Timeout)?;
    let there = there.map_err(|_| Rejected::Http)?;
    if there == 0 {
        return Err(Rejected::Http);
    }
    place.speaks();
    Ok(())
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
        (CloseReason::Closed, Some(Cause::Source)) => "source",
        (CloseReason::Closed, Some(Cause::Surplus)) => "surplus",
        (CloseReason::Closed, Some(Cause::Replaced)) => "replaced",
        (CloseReason::Closed, Some(Cause::Drained) | None) => "drained",
    }
}
