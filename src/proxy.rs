//! The proxy: visitors' connections, and each request's way to a backend.
//!
//! [`service`] is that way on one page; the other files are its stages and what they need.

mod account;
mod answer;
mod backend;
mod choose;
mod config;
mod error;
mod forward;
mod gate;
mod http2_frames;
mod idle;
mod joiner;
mod live;
mod message;
mod metrics;
mod reachability;
mod service;
mod visitor;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::FutureExt;
use prometheus::Registry as MetricsRegistry;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::coop::unconstrained,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    backend::tls::BackendConfigs,
    gate::Passwords,
    live::{Live, Makers, places::PlaceStates},
    metrics::{HostMetrics, Metrics},
    reachability::Gauge,
    visitor::{connection::Accepted, pacer::Pacer, socket},
};
pub use self::{
    config::Config,
    error::Reason,
    reachability::{Failing, HostBackends, Reachability},
    visitor::{
        identity::TrustedProxies,
        tls::{Tls, TlsOptions},
    },
};
use crate::{
    bridge::Registry,
    flow::{Connections, Flow},
    routing::{Agents, RoutingTable},
    tunnel::accept::{AcceptErrors, is_gone},
};

/// How often idle connections to backends are looked over.
const SWEEP: Duration = Duration::from_secs(5);
/// How many connections that wait at the end are still taken: as many as a listener's backlog can hold (Linux: somaxconn).
const LAST_ACCEPTED: usize = 4096;

/// The proxy; cheap to clone, all clones are one.
#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
}

/// What all requests share.
struct Shared {
    live: ArcSwap<Live>,
    registry: Registry,
    makers: Makers,
    /// For requests that no TunnelHost gets.
    unrouted: Arc<HostMetrics>,
    passwords: Passwords,
    backend_configs: BackendConfigs,
    config: Config,
    /// Of requests that trickle in.
    pacer: Arc<Pacer>,
    /// How many replicas share the limits.
    replicas: AtomicU32,
    gauge: Gauge,
    reachability: watch::Sender<Arc<Reachability>>,
}

// === impl Proxy ===

impl Proxy {
    /// A proxy that serves nothing yet, for the agents' sessions of `registry`.
    ///
    /// # Errors
    /// Where `metrics` has the proxy's metrics already.
    pub fn new(registry: Registry, config: Config, metrics: &MetricsRegistry) -> prometheus::Result<Self> {
        let makers = Makers {
            flow: Flow::new(metrics)?,
            connections: Connections::new(metrics)?,
            metrics: Arc::new(Metrics::new(metrics)?),
            places: PlaceStates::default(),
            reach_news: watch::Sender::new(()),
        };
        let unrouted = Arc::new(makers.metrics.host("", ""));
        let shared = Shared {
            live: ArcSwap::from_pointee(Live::empty()),
            registry,
            makers,
            unrouted,
            passwords: Passwords::new(),
            backend_configs: BackendConfigs::default(),
            config,
            pacer: Arc::new(Pacer::new()),
            replicas: AtomicU32::new(1),
            gauge: Gauge::new(metrics)?,
            reachability: watch::Sender::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Serves this table from now on; requests in progress go on with the one they found.
    pub fn update(&self, table: Arc<RoutingTable>, agents: &Agents) {
        let next = self.shared.live.load().next(table, agents, &self.shared.makers);
        self.shared.live.store(Arc::new(next));
        self.shared.backend_configs.forget_unused();
        self.shared.makers.reach_news.send_replace(());
    }

    /// Follows what is known of backends, while [`serve`](Self::serve) runs: a new value whenever that has changed, once a second
    /// at most.
    #[must_use]
    pub fn reachability(&self) -> watch::Receiver<Arc<Reachability>> {
        self.shared.reachability.subscribe()
    }

    /// How many replicas share the limits of TunnelHosts and agents, this one included.
    pub fn set_replicas(&self, replicas: u32) {
        self.shared.replicas.store(replicas, Ordering::Relaxed);
    }

    /// Accepts visitors until `shutdown`, then lets the requests in progress end. Joins go on; they end with their tunnels.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) {
        let mut sessions = self.shared.registry.watch();
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let upkeep = async {
            loop {
                tokio::select! {
                    Ok(()) = sessions.changed() => {
                        self.shared.live.load().drop_pools(|process| !self.shared.registry.is_active(process));
                    }
                    _ = sweep.tick() => {
                        self.shared.live.load().sweep(Instant::now());
                        self.shared.makers.places.sweep();
                    }
                }
            }
        };
        tokio::select! {
            () = self.accept(listener, None, shutdown) => {}
            () = async { tokio::join!(upkeep, self.shared.follow_reachability()); } => {}
        }
        self.drop_idle();
    }

    /// Drops the connections to backends that nobody uses, once no more visitors come: who waits for the last link does not
    /// wait for them.
    pub fn drop_idle(&self) {
        self.shared.live.load().drop_pools(|_| true);
    }

    /// Accepts visitors over TLS, beside [`serve`](Self::serve) and until the same `shutdown`; then it lets the requests in
    /// progress end.
    pub async fn serve_tls(&self, listener: TcpListener, tls: Arc<Tls>, shutdown: CancellationToken) {
        self.accept(listener, Some(tls), shutdown).await;
    }

    async fn accept(&self, listener: TcpListener, tls: Option<Arc<Tls>>, shutdown: CancellationToken) {
        let connections = TaskTracker::new();
        let welcome = |tcp: TcpStream, peer: SocketAddr| {
            if self.shared.config.max_connections.is_some_and(|most| connections.len() >= most) {
                self.shared.makers.metrics.failed(Reason::TooManyConnections);
                tracing::debug!(%peer, "there are too many visitors' connections already; this one is closed");
                return;
            }
            let (shared, tls, shutdown) = (self.shared.clone(), tls.clone(), shutdown.clone());
            let accepted = Accepted { shared, tcp, peer, tls, shutdown, token: connections.token() };
            // On the heap before it is a task, which is moved ten times on its way there and back.
            tokio::spawn(Box::pin(accepted.serve()));
        };
        socket::configure(&listener);
        let mut errors = AcceptErrors::new("visitors");
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((tcp, peer)) => welcome(tcp, peer),
                    Err(error) => errors.pause(&error).await,
                },
            }
        }
        // Who has been let in by the kernel already is still taken, beyond what a task may do at once; who goes on coming does not
        // put the end off.
        for _ in 0..LAST_ACCEPTED {
            match unconstrained(listener.accept()).now_or_never() {
                Some(Ok((tcp, peer))) => welcome(tcp, peer),
                Some(Err(error)) if is_gone(&error) => {}
                Some(Err(_)) | None => break,
            }
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }
}

// === impl Shared ===

impl Shared {
    fn replicas(&self) -> u32 {
        self.replicas.load(Ordering::Relaxed)
    }
}
