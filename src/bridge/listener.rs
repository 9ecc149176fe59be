use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::watch,
    time::{Instant, timeout},
};
use tokio_rustls::server::StartHandshake;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Registry,
    brief::Brief,
    connection::Shared,
    metrics::Metrics,
    registration::Registrar,
    slots::Slots,
    source::Source,
    throttle::Throttle,
    waiting::{Place, WaitingRoom},
};
use crate::{
    routing::{Agents, Checks},
    tunnel::{Note, Replica, accept::AcceptErrors},
};

/// What a bridge needs to know.
#[derive(Debug)]
pub struct Config {
    /// This replica's id; printable ASCII without spaces and commas. In a cluster the pod's name.
    pub replica: String,
    /// How connections are protected.
    pub security: Security,
    /// Who may register. A change ends the sessions of those who may not any more.
    pub agents: watch::Receiver<Arc<Agents>>,
    /// All replicas of the edge, this one among them. Agents are told of a change.
    pub replicas: watch::Receiver<Arc<[Replica]>>,
    /// What the agents check. They are told of a change.
    pub checks: watch::Receiver<Arc<Checks>>,
    /// How long the links of a bridge that stops may go on. In `culvert serve` they were asked to end before, and have 3 s.
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
    #[error("the replica id {0:?} cannot be sent to agents; use printable ASCII without spaces, commas and `=`")]
    Replica(String),
    /// A metric of that name exists already.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// Where agents dial in and register; their sessions are in its [`Registry`].
#[derive(Clone, Debug)]
pub struct Bridge(Arc<Shared>);

// === impl Bridge ===

impl Bridge {
    /// Makes a bridge, and lists its metrics in `metrics`.
    pub fn new(config: Config, metrics: &prometheus::Registry) -> Result<Self, BridgeError> {
        let registrar = Registrar::new(&config.replica).ok_or_else(|| BridgeError::Replica(config.replica.clone()))?;
        let metrics = Metrics::new(metrics)?;
        metrics.follow(&config.agents.borrow());
        let registry = Registry::new();
        Ok(Self(Arc::new(Shared {
            config,
            registrar,
            slots: Slots::default(),
            registry,
            metrics,
            throttle: Throttle::default(),
            brief: Brief::default(),
            waiting: WaitingRoom::default(),
            tasks: TaskTracker::new(),
            leaves: AtomicBool::new(false),
            abort: CancellationToken::new(),
        })))
    }

    /// The sessions of the agents that registered here.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// Tells the agents that this replica is about to stop, and takes no more of them: they have time to go elsewhere before
    /// their sessions end.
    pub fn leave(&self) {
        if !self.0.leaves.swap(true, Ordering::SeqCst) {
            for session in self.0.registry.sessions().iter() {
                session.tell(&Note::Drain { seconds: None });
            }
        }
    }

    /// Waits until there is no link any more.
    pub async fn idle(&self) {
        // Links tell nobody that they end, and this is once in the life of a process.
        while self.0.registry.sessions().iter().any(|session| session.links() > 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Serves agents until `stop`. Then it takes no more of them, tells those that it has, waits for their links, at
    /// most as long as the configuration says, and ends the sessions behind what they have yet to send.
    pub async fn serve(&self, listener: TcpListener, stop: CancellationToken) {
        let revoke = self.revoke();
        let announce = self.announce();
        let check = self.check();
        let accept = self.listen(listener);
        tokio::select! {
            () = accept => {}
            () = revoke => {}
            () = announce => {}
            () = check => {}
            () = stop.cancelled() => {}
        }
        // Those that have not registered yet are sent away; they dial another replica.
        self.0.abort.cancel();
        self.drain().await;
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Takes an agent's connection that came in by another listener, which has read its `ClientHello`; it has until `deadline`
    /// to register, and is served by a task of its own. It is shown the bridge's own certificate; a bridge without TLS
    /// takes none.
    pub fn accept<T>(&self, handshake: StartHandshake<T>, source: SocketAddr, deadline: Instant)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.spawn(source, |place| {
            place.speaks();
            self.0.clone().handed_over(handshake, source, deadline, place)
        });
    }

    /// Runs a connection until it is registered or sent away.
    fn spawn<F>(&self, source: SocketAddr, connection: impl FnOnce(Place) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let place = self.0.waiting.enter(Source::of(source.ip()));
        let (shared, sent_away) = (self.0.clone(), place.sent_away());
        let connection = connection(place);
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = connection => {}
                () = shared.abort.cancelled() => {}
                () = sent_away.cancelled() => shared.metrics.reject("crowded"),
            }
        });
    }

    async fn listen(&self, listener: TcpListener) {
        let mut errors = AcceptErrors::new("agents");
        loop {
            match listener.accept().await {
                Ok((tcp, source)) => self.spawn(source, |place| self.0.clone().connection(tcp, source, place)),
                Err(error) => errors.pause(&error).await,
            }
        }
    }

    /// Ends the sessions of those who could not register any more. Never returns, unless nobody can change the agents any more.
    async fn revoke(&self) {
        let mut agents = self.0.config.agents.clone();
        while agents.changed().await.is_ok() {
            let agents = agents.borrow_and_update().clone();
            self.0.metrics.follow(&agents);
            self.0.end_forbidden(&agents);
        }
        std::future::pending::<()>().await;
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
        std::future::pending::<()>().await;
    }

    /// Tells the agents when the set of checks changes.
    async fn check(&self) {
        let mut checks = self.0.config.checks.clone();
        while checks.changed().await.is_ok() {
            let checks = checks.borrow_and_update().clone();
            for session in self.0.registry.sessions().iter() {
                session.ask(&checks);
            }
        }
        std::future::pending::<()>().await;
    }

    async fn drain(&self) {
        self.leave();
        let _ = timeout(self.0.config.drain, self.idle()).await;
        for session in self.0.registry.sessions().iter() {
            session.finish();
        }
    }
}
