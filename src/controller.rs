//! Follows the objects, of a cluster or of a folder, and keeps the routing table and their status up to date.
//!
//! ```text
//! source ─▶ stores ─▶ compile ─▶ Outputs ─▶ proxy, bridge
//!    ▲                   └─▶ conditions, Events (by the lease holder)
//!    └── API server ◀──────────── sessions, backends (by every replica)
//! ```
//!
//! Nothing is published before all lists have been read once, and nothing is taken back when the API server goes away:
//! the edge routes on from the last table.

mod events;
mod lease;
mod membership;
mod metrics;
mod namespaces;
mod pauses;
mod reconcile;
mod report;
mod source;
mod status;
mod stores;
mod tls_secrets;

use std::{collections::HashMap, path::Path, str::FromStr, sync::Arc};

use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{
    events::EventWriter,
    membership::Members,
    metrics::Metrics,
    reconcile::Published,
    source::Source,
    status::{BackendWriter, ConditionWriter, SessionWriter},
    stores::Stores,
};
pub use self::{
    membership::{Member, Replicas},
    source::{Dating, Entry, FolderError, Manifest, Object, SyntaxError, manifest_names},
};
use crate::{
    api::{AgentSession, Reason},
    compile::Compiled,
    routing::{ObjectName, is_label},
};

/// The sessions that this replica holds, by agent.
pub type Sessions = HashMap<ObjectName, Vec<AgentSession>>;

/// What this replica knows of the backends of TunnelHosts. One that nothing is known of is not in it.
pub type Backends = HashMap<ObjectName, BackendState>;

/// What a replica knows of the backends of a TunnelHost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendState {
    /// Whether each of its routes has a target that is reached.
    pub reachable: bool,
    /// Why, for programs.
    pub reason: Reason,
    /// Why, for people: agent, target, and the agent's words.
    pub message: String,
}

/// What this replica sees of agents and backends, for the status of their objects.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The sessions that it holds.
    pub sessions: watch::Receiver<Arc<Sessions>>,
    /// What it knows of backends.
    pub backends: watch::Receiver<Arc<Backends>>,
}

/// What a controller is made of; it does nothing until it runs.
pub struct Controller {
    source: Source,
    stores: Stores,
    metrics: Arc<Metrics>,
    compiled: watch::Sender<Option<Arc<Compiled>>>,
    members: watch::Sender<Members>,
    replicas: watch::Sender<Replicas>,
    expected: watch::Sender<Arc<[ObjectName]>>,
    observed: Observed,
    cluster: Option<Cluster>,
}

/// What a controller tells the rest of the process.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// The last compilation: routing table, agents and verdicts. `None` until all objects have been listed once; from
    /// then on the replica is ready to serve.
    pub compiled: watch::Receiver<Option<Arc<Compiled>>>,
    /// The replicas of the edge.
    pub replicas: watch::Receiver<Replicas>,
    /// The agents that had a session, with any replica, when the objects were first listed: those that a replica which
    /// starts can expect to come to it, too. Empty until then.
    pub expected: watch::Receiver<Arc<[ObjectName]>>,
}

/// Who this replica is in its cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// The replica's id: its pod's name.
    pub replica: String,
    /// The namespace of the edge, of its Lease and of its Services.
    pub namespace: String,
    /// The name of the Lease whose holder writes conditions; it is created when there is none.
    pub lease: String,
    /// The name of the headless Service of the bridge, whose endpoints are the replicas.
    pub bridge_service: String,
    /// The namespaces whose objects count, so that the edge may read no others; empty: all. Where they are named, no Namespace is
    /// read, and `allowedNamespaces` by labels is refused.
    pub watch_namespaces: Vec<NamespaceName>,
}

/// The name of a namespace: a DNS label (RFC 1123).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamespaceName(String);

struct Cluster {
    client: Client,
    config: ClusterConfig,
}

// === impl Controller ===

impl Controller {
    /// A controller of the objects of a cluster. What is `observed` is written to the status of the
    /// objects.
    ///
    /// # Errors
    /// Where the registry has metrics of these names already.
    pub fn cluster(
        client: Client,
        config: ClusterConfig,
        observed: Observed,
        registry: &prometheus::Registry,
    ) -> Result<Self, prometheus::Error> {
        let metrics = Arc::new(Metrics::register(registry)?);
        let source = source::cluster(&client, &config.watch_namespaces, &metrics);
        let replica = config.replica.clone();
        Ok(Self::new(source, metrics, &replica, observed, Some(Cluster { client, config })))
    }

    /// A controller of the objects of a folder. There are no other replicas; verdicts go to the log, and so does what is new of
    /// `sessions`, those that this replica holds.
    ///
    /// # Errors
    /// Where the folder cannot be watched, or the registry has metrics of these names already.
    pub fn folder(
        dir: &Path,
        replica: &str,
        observed: Observed,
        registry: &prometheus::Registry,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let metrics = Arc::new(Metrics::register(registry)?);
        Ok(Self::new(source::folder(dir)?, metrics, replica, observed, None))
    }

    fn new(source: Source, metrics: Arc<Metrics>, replica: &str, observed: Observed, cluster: Option<Cluster>) -> Self {
        let members = Members::alone(replica);
        Self {
            stores: Stores::new(&source, metrics.clone()),
            source,
            metrics,
            compiled: watch::Sender::new(None),
            replicas: watch::Sender::new(members.replicas.clone()),
            members: watch::Sender::new(members),
            expected: watch::Sender::new(Arc::from([])),
            observed,
            cluster,
        }
    }

    /// What it tells the rest of the process; any number of times.
    #[must_use]
    pub fn outputs(&self) -> Outputs {
        Outputs {
            compiled: self.compiled.subscribe(),
            replicas: self.replicas.subscribe(),
            expected: self.expected.subscribe(),
        }
    }

    /// Runs until `shutdown`, then gives the lease back.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { source, stores, metrics, compiled, members, replicas, expected, observed, cluster } = self;
        let Observed { sessions, backends } = observed;
        let touched = watch::Sender::new(());
        let Some(Cluster { client, config }) = cluster else {
            let report = report::follow(compiled.subscribe());
            let reachable = report::backends(backends);
            let newcomers = events::log(sessions);
            let reconcile = reconcile::run(source, stores, Published { compiled, expected, touched }, metrics);
            tokio::select! {
                () = async { tokio::join!(reconcile, report, reachable, newcomers); } => {}
                () = shutdown.cancelled() => {}
            }
            return;
        };

        let (hosts, agents) = stores.readers();
        let holder = watch::Sender::new(false);
        let conditions = ConditionWriter {
            client: client.clone(),
            hosts: hosts.clone(),
            agents: agents.clone(),
            replica: config.replica.clone(),
            compiled: compiled.subscribe(),
            touched: touched.subscribe(),
            observed: Observed { sessions: sessions.clone(), backends: backends.clone() },
            members: members.subscribe(),
            holder: holder.subscribe(),
            metrics: metrics.clone(),
        };
        let own_sessions = SessionWriter {
            client: client.clone(),
            replica: config.replica.clone(),
            objects: agents,
            known: sessions,
            touched: touched.subscribe(),
            metrics: metrics.clone(),
        };
        let own_backends = BackendWriter {
            client: client.clone(),
            replica: config.replica.clone(),
            objects: hosts,
            known: backends,
            touched: touched.subscribe(),
            metrics: metrics.clone(),
        };
        let newcomers = EventWriter {
            client: client.clone(),
            replica: config.replica.clone(),
            agents: own_sessions.objects.clone(),
            touched: touched.subscribe(),
            holder: holder.subscribe(),
        };
        let published_members = members.subscribe();
        let ClusterConfig { replica, namespace, lease, bridge_service, .. } = &config;
        let membership =
            membership::follow(client.clone(), namespace, bridge_service, replica, members, metrics.clone());
        let reconcile = reconcile::run(source, stores, Published { compiled, expected, touched }, metrics);
        let lease = lease::compete(client, namespace, lease, replica, holder, shutdown.clone());
        let work = async {
            tokio::join!(
                reconcile,
                conditions.run(),
                own_sessions.run(),
                own_backends.run(),
                newcomers.run(),
                membership,
                show(published_members, replicas)
            );
        };
        // The lease has its own way to end; all others may be dropped anywhere.
        tokio::join!(lease, async {
            tokio::select! {
                () = work => {}
                () = shutdown.cancelled() => {}
            }
        });
    }
}

// === impl NamespaceName ===

impl NamespaceName {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NamespaceName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if is_label(name) {
            return Ok(Self(name.to_owned()));
        }
        Err(format!("{name:?} is no name of a namespace: up to 63 of a-z, 0-9 and '-', with no '-' at an end"))
    }
}

/// Shows those of the members that are not on their way out, for ever.
async fn show(mut members: watch::Receiver<Members>, replicas: watch::Sender<Replicas>) {
    loop {
        let now = members.borrow_and_update().replicas.clone();
        replicas.send_if_modified(|last| {
            let changed = *last != now;
            *last = now;
            changed
        });
        if members.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
