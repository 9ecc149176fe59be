//! The edge put together: controller, proxy, bridge and admin listener, and who hears what from whom.

use std::{future::Future, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use futures::FutureExt;
use kube::Client;
use prometheus::Registry as MetricsRegistry;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Failure, backends, certificate::FollowedCertificate, fleet::Fleet, remembered::Remembered, signals, wiring,
};
use crate::{
    bridge::{self, Bridge, Mesh, MeshConfig, MeshIdentity, MeshPeer},
    controller::{Backends, ClusterConfig, Controller, Observed, Sessions},
    proxy::{self, Proxy, Tls, TlsOptions},
    routing::{Agents, Checks, RoutingTable},
    telemetry::{
        self,
        access_log::{AccessLog, AccessLogFormat, AccessLogWriter},
    },
    tunnel::Replica,
};

/// How long upgraded connections that were asked to end may take for it: WebSockets say goodbye to both sides.
const GOODBYE: Duration = Duration::from_secs(3);
/// How long the tunnels may take for the last of what is on its way.
const FAREWELL: Duration = Duration::from_secs(3);
/// How long what only watches may take to stop, as to give the lease back.
const REST: Duration = Duration::from_secs(5);

/// What an edge is made of.
pub(super) struct EdgeConfig {
    pub(super) source: Source,
    /// Which replica it is, and what it was told of others.
    pub(super) fleet: Fleet,
    pub(super) http: SocketAddr,
    /// `None`: no visitors over TLS.
    pub(super) https: Option<SocketAddr>,
    pub(super) bridge: SocketAddr,
    pub(super) admin: SocketAddr,
    /// Where other replicas come in, and what they know this one by; `None`: nothing is forwarded between replicas.
    pub(super) mesh: Option<(SocketAddr, MeshIdentity)>,
    pub(super) security: bridge::Security,
    /// What visitors over TLS are shown for hosts that have no certificate of their own.
    pub(super) default_certificate: Option<FollowedCertificate>,
    /// The hostname by which agents may register on the visitors' port.
    pub(super) bridge_hostname: Option<String>,
    /// Its `access_log` is made of the format below.
    pub(super) visitors: proxy::Config,
    /// How requests are logged on standard output, if they are.
    pub(super) access_log: Option<AccessLogFormat>,
    /// Where an edge without a cluster keeps which agents it had, to wait for them after a restart.
    pub(super) state: Option<PathBuf>,
    /// How long visitors are still taken after readiness is gone.
    pub(super) drain_delay: Duration,
    /// How long requests in progress and upgraded connections may go on after that.
    pub(super) drain_timeout: Duration,
}

/// Where the objects come from.
pub(super) enum Source {
    Cluster { client: Client, config: ClusterConfig },
    Folder(PathBuf),
}

/// An edge whose listeners are bound.
pub(super) struct Edge {
    pub(super) addresses: Addresses,
    listeners: Listeners,
    metrics: MetricsRegistry,
    controller: Controller,
    proxy: Proxy,
    tls: Arc<Tls>,
    default_certificate: Option<FollowedCertificate>,
    bridge: Bridge,
    mesh: Option<(TcpListener, Mesh)>,
    table: watch::Sender<Arc<RoutingTable>>,
    neighbours: watch::Sender<Arc<[MeshPeer]>>,
    agents: watch::Sender<Arc<Agents>>,
    replicas: watch::Sender<Arc<[Replica]>>,
    checks: watch::Sender<Arc<Checks>>,
    sessions: watch::Sender<Arc<Sessions>>,
    backends: watch::Sender<Arc<Backends>>,
    fleet: Fleet,
    remembered: Option<Remembered>,
    drain_delay: Duration,
    drain_timeout: Duration,
    /// Writes what is left when the edge has ended.
    access_log_writer: Option<AccessLogWriter>,
}

/// What is bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) http: SocketAddr,
    pub(super) https: Option<SocketAddr>,
    pub(super) bridge: SocketAddr,
    pub(super) admin: SocketAddr,
}

struct Listeners {
    http: TcpListener,
    https: Option<TcpListener>,
    bridge: TcpListener,
    admin: TcpListener,
}

// === impl Edge ===

impl Edge {
    /// Binds the listeners and makes the parts. Errors name the flag to change.
    pub(super) fn bind(config: EdgeConfig) -> Result<Self, Failure> {
        let listeners = Listeners {
            http: bind("--http", config.http)?,
            https: match config.https {
                Some(address) => Some(bind("--https", address)?),
                None => None,
            },
            bridge: bind("--bridge", config.bridge)?,
            admin: bind("--admin", config.admin)?,
        };
        let addresses = Addresses {
            http: listeners.http.local_addr()?,
            https: listeners.https.as_ref().map(TcpListener::local_addr).transpose()?,
            bridge: listeners.bridge.local_addr()?,
            admin: listeners.admin.local_addr()?,
        };
        let Addresses { http, https, bridge, admin } = addresses;
        tracing::info!(%http, https = https.map(tracing::field::display), %bridge, %admin, "listening");

        let metrics = MetricsRegistry::new();
        telemetry::register_build_info(&metrics)?;
        let mut fleet = config.fleet;
        let agents = watch::Sender::new(Arc::new(Agents::default()));
        let replicas = watch::Sender::new(fleet.alone());
        let checks = watch::Sender::new(Arc::new(Checks::default()));
        let bridge = Bridge::new(
            bridge::Config {
                replica: fleet.own.clone(),
                security: config.security,
                agents: agents.subscribe(),
                replicas: replicas.subscribe(),
                checks: checks.subscribe(),
                drain: GOODBYE,
            },
            &metrics,
        )?;
        let (table, neighbours) = (watch::Sender::default(), watch::Sender::default());
        let mesh = match config.mesh {
            None => None,
            Some((address, identity)) => {
                let listener = bind("--mesh", address)?;
                let address = listener.local_addr()?;
                tracing::info!(mesh = %address, "listening");
                fleet.mesh_port = Some(address.port());
                let (peers, table) = (neighbours.subscribe(), table.subscribe());
                let config = MeshConfig { identity, peers, table, drain: GOODBYE };
                Some((listener, Mesh::new(config, bridge.registry().clone(), &metrics)?))
            }
        };
        let (access_log, access_log_writer) = match config.access_log {
            Some(format) => {
                let (log, writer) = AccessLog::start(format, std::io::stdout(), &metrics)?;
                (Some(log), Some(writer))
            }
            None => (None, None),
        };
        let visitors = proxy::Config { access_log, ..config.visitors };
        let proxy = Proxy::new(bridge.registry().clone(), visitors, &metrics)?;
        let tls = Tls::new(
            &proxy,
            TlsOptions {
                default_certificate: match &config.default_certificate {
                    Some(certificate) => certificate.subscribe(),
                    None => watch::Sender::new(None).subscribe(),
                },
                bridge: config.bridge_hostname.map(|hostname| (hostname, bridge.clone())),
            },
        )?;
        let sessions = watch::Sender::new(Arc::new(Sessions::new()));
        let backends = watch::Sender::new(Arc::new(Backends::new()));
        let observed = Observed { sessions: sessions.subscribe(), backends: backends.subscribe() };
        let controller = match config.source {
            Source::Cluster { client, config } => Controller::cluster(client, config, observed, &metrics)?,
            Source::Folder(dir) => Controller::folder(&dir, &fleet.own, observed, &metrics)?,
        };
        let EdgeConfig { drain_delay, drain_timeout, .. } = config;
        Ok(Self {
            addresses,
            listeners,
            metrics,
            controller,
            proxy,
            tls: Arc::new(tls),
            default_certificate: config.default_certificate,
            bridge,
            mesh,
            table,
            neighbours,
            agents,
            replicas,
            checks,
            sessions,
            backends,
            fleet,
            remembered: config.state.as_deref().map(Remembered::read),
            drain_delay,
            drain_timeout,
            access_log_writer,
        })
    }

    /// Follows the agents' sessions.
    pub(super) fn sessions(&self) -> watch::Receiver<bridge::Sessions> {
        self.bridge.registry().watch()
    }

    /// Runs until `stop`. Then readiness goes first, then the listeners, and agents are told to go elsewhere. Requests in
    /// progress end, and upgraded connections at the deadline, before the tunnels that they need, and those before what only
    /// watches.
    pub(super) async fn run(self, stop: CancellationToken) -> Result<(), Failure> {
        let Self { listeners, metrics, controller, proxy, tls, default_certificate, bridge, mesh, .. } = self;
        let Self { drain_delay, drain_timeout, access_log_writer, .. } = self;
        let (known, ready) = (watch::Sender::new(false), watch::Sender::new(false));
        let [stop_visitors, stop_agents, stop_rest] = [(); 3].map(|()| CancellationToken::new());
        let outputs = controller.outputs();

        let mut rest = JoinSet::new();
        let admin = telemetry::serve_admin(listeners.admin, metrics, ready.subscribe(), stop_rest.clone());
        rest.spawn(admin.map(Ok));
        rest.spawn(controller.run(stop_rest.clone()).map(Ok));
        if let Some(certificate) = default_certificate {
            let (asked, stop) = (signals::reload()?, stop_rest.clone());
            rest.spawn(async move {
                stop.run_until_cancelled(certificate.follow(asked)).await;
                Ok(())
            });
        }
        let mut data = JoinSet::new();
        let (visitors, agents) = (proxy.clone(), bridge.clone());
        let over_tls = proxy.clone();
        let visitors_listeners = 1 + usize::from(listeners.https.is_some());
        // Until the objects are known, no agent is answered, and until the agents are there, no visitor: whoever comes
        // earlier waits in the listener's backlog, and is not told that there is no such agent or host.
        data.spawn(once(ready.subscribe(), stop_visitors.clone(), move |stop| async move {
            visitors.serve(listeners.http, stop).await;
        }));
        if let Some(listener) = listeners.https {
            data.spawn(once(ready.subscribe(), stop_visitors.clone(), move |stop| async move {
                over_tls.serve_tls(listener, tls, stop).await;
            }));
        }
        data.spawn(once(known.subscribe(), stop_agents.clone(), move |stop| async move {
            agents.serve(listeners.bridge, stop).await;
        }));
        let mesh = mesh.map(|(listener, mesh)| {
            let serving = mesh.clone();
            data.spawn(once(known.subscribe(), stop_agents.clone(), move |stop| async move {
                serving.serve(listener, stop).await;
            }));
            mesh
        });

        let expected = match &self.remembered {
            Some(remembered) => watch::Sender::new(remembered.agents.clone()).subscribe(),
            None => outputs.expected,
        };
        let published = wiring::Published { agents: &self.agents, table: &self.table, checks: &self.checks };
        let wiring = async {
            tokio::join!(
                wiring::publish(outputs.compiled, &proxy, published, &known),
                wiring::settle(known.subscribe(), expected, bridge.registry().watch(), &ready),
                wiring::follow_replicas(outputs.replicas, &self.fleet, &proxy, &self.replicas, &self.neighbours),
                wiring::follow_sessions(bridge.registry().watch(), &self.fleet.own, &self.sessions),
                backends::follow(proxy.reachability(), &self.backends),
                wiring::remember(ready.subscribe(), bridge.registry().watch(), self.remembered.as_ref()),
            );
            // What they follow ends only with the process.
            std::future::pending::<()>().await;
        };
        let ended = tokio::select! {
            () = stop.cancelled() => Ok(()),
            () = wiring => Ok(()),
            ended = rest.join_next() => Err(early(ended)),
            ended = data.join_next() => Err(early(ended.map(|ended| ended.map(Ok)))),
        };

        ready.send_replace(false);
        if ended.is_ok() {
            tracing::info!("stopping");
            sleep(drain_delay).await;
        }
        stop_visitors.cancel();
        bridge.leave();
        if let Some(mesh) = &mesh {
            mesh.leave(drain_timeout);
        }
        let drained = timeout(drain_timeout, async {
            for _ in 0..visitors_listeners {
                data.join_next().await;
            }
            proxy.drop_idle();
            bridge.idle().await;
            if let Some(mesh) = &mesh {
                mesh.idle().await;
            }
        });
        if drained.await.is_err() {
            tracing::warn!("some requests or upgraded connections did not end within {drain_timeout:?} and are ended");
            proxy.drop_idle();
            bridge.registry().end_links();
        }
        stop_agents.cancel();
        let _ = timeout(GOODBYE + FAREWELL, async { while data.join_next().await.is_some() {} }).await;
        stop_rest.cancel();
        let _ = timeout(REST, async { while rest.join_next().await.is_some() {} }).await;
        // Requests are over; their last lines are still to be written.
        drop(access_log_writer);
        ended
    }
}

/// Starts a part when it is time, unless the edge stops before.
async fn once<F: Future<Output = ()>>(
    mut time: watch::Receiver<bool>,
    stop: CancellationToken,
    serve: impl FnOnce(CancellationToken) -> F,
) {
    let come = stop.run_until_cancelled(time.wait_for(|come| *come)).await.is_some_and(|come| come.is_ok());
    if come {
        serve(stop).await;
    }
}

/// A part ended while the others still run.
fn early(ended: Option<Result<Result<(), Failure>, JoinError>>) -> Failure {
    match ended {
        Some(Ok(Err(failure))) => failure,
        Some(Err(error)) => format!("a part of the edge failed: {error}").into(),
        Some(Ok(Ok(()))) | None => "a part of the edge ended".into(),
    }
}

/// How many connections may wait to be accepted, as far as the kernel allows (`net.core.somaxconn`). All of a fleet's agents, or of a
/// page's visitors, come at once; who finds no room asks again a second later.
const BACKLOG: u32 = 4096;

fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // Of an edge that has just ended, connections may linger on the same port.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|error| format!("cannot listen on {address}: {error}; choose another address with {flag}").into())
}
