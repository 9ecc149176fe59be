//! Between replicas: what a replica cannot do for want of a session, it asks another one that has it to do, once.
//!
//! Each replica holds a session of the tunnel's protocol with each other one, and hears by it which agents are held
//! there. The registry then yields ways to agents by such a neighbour as it yields agents' own sessions, where this
//! replica has none. The neighbour takes a link only for what its own table routes, and goes on only by a session of
//! its own, so that no link makes a second hop.
//!
//! Both sides prove by a certificate that they are replicas of one edge, and which ([`MeshIdentity`]).

mod dial;
mod identity;
mod metrics;
mod relay;
mod routes;
mod serve;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{net::TcpListener, sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::identity::{MeshError, MeshIdentity};
use self::{metrics::Metrics, routes::Routes};
use super::Registry;
use crate::{routing::RoutingTable, tunnel::Session};

/// What a mesh needs to know.
#[derive(Debug)]
pub struct MeshConfig {
    /// Who this replica is.
    pub identity: MeshIdentity,
    /// All other replicas that have an address.
    pub peers: watch::Receiver<Arc<[MeshPeer]>>,
    /// What this replica routes: for nothing else does it take links.
    pub table: watch::Receiver<Arc<RoutingTable>>,
    /// How long links may take to end once it stops. Default in `culvert serve`: 3 s.
    pub drain: Duration,
}

/// Another replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MeshPeer {
    /// Its id, which its certificate must have.
    pub id: String,
    /// Where its mesh listens, `host:port`.
    pub address: String,
}

/// The sessions with the other replicas.
#[derive(Clone, Debug)]
pub struct Mesh(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    identity: MeshIdentity,
    peers: watch::Receiver<Arc<[MeshPeer]>>,
    routes: Routes,
    drain: Duration,
    registry: Registry,
    metrics: Metrics,
    tasks: TaskTracker,
    /// The sessions that this replica opens links on, by their number.
    dialled: Mutex<HashMap<u64, Session>>,
    /// Set once this replica is about to stop: for how long links may go on.
    leaves: watch::Sender<Option<Duration>>,
}

// === impl Mesh ===

impl Mesh {
    /// A mesh for the sessions of `registry`.
    ///
    /// # Errors
    /// Where `metrics` has its metrics already.
    pub fn new(config: MeshConfig, registry: Registry, metrics: &prometheus::Registry) -> prometheus::Result<Self> {
        let MeshConfig { identity, peers, table, drain } = config;
        let (routes, metrics) = (Routes::new(table), Metrics::new(metrics)?);
        Ok(Self(Arc::new(Shared {
            identity,
            peers,
            routes,
            drain,
            registry,
            metrics,
            tasks: TaskTracker::new(),
            dialled: Mutex::default(),
            leaves: watch::Sender::new(None),
        })))
    }

    /// Tells the other replicas that this one is about to stop, and how long their links may go on: they open no more.
    pub fn leave(&self, links: Duration) {
        self.0.leaves.send_replace(Some(links));
    }

    /// Waits until this replica has no link by another one any more.
    pub async fn idle(&self) {
        // Links tell nobody that they end, and this is once in the life of a process.
        while self.0.dialled().values().any(|session| session.links() > 0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Dials the other replicas and serves those that dial, until `stop`; then their links may end.
    pub async fn serve(&self, listener: TcpListener, stop: CancellationToken) {
        tokio::join!(self.0.accept(listener, &stop), self.0.dial(&stop));
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

// === impl Shared ===

impl Shared {
    fn dialled(&self) -> MutexGuard<'_, HashMap<u64, Session>> {
        self.dialled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a session once its links have ended, or at the end of the drain.
    async fn finish(&self, session: &Session) {
        let idle = async {
            // Links tell nobody that they end, and this is once in the life of a process.
            while session.links() > 0 && !session.is_closed() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = timeout(self.drain, idle).await;
        session.finish();
    }
}
