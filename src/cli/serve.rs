use std::{
    collections::BTreeSet,
    fmt,
    net::{AddrParseError, IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

use kube::Client;

use super::{
    Failure,
    certificate::{self, BridgeCertificate, FollowedCertificate},
    edge::{Edge, EdgeConfig, Source},
    fleet::{Advertise, Fleet, Peer},
    signals,
    visitors::{VisitorArgs, any_duration},
};
use crate::{
    bridge::{self, MeshIdentity},
    controller::{ClusterConfig, NamespaceName},
    routing::Hostname,
};

/// Runs the edge: controller, proxy and bridge in one process.
///
/// In a cluster it follows the objects of the API server. With --manifests it follows the same YAML in a folder, and
/// needs no cluster.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A folder with TunnelHosts, TunnelAgents and Secrets as YAML or JSON, followed as its files change. Without it
    /// the objects come from the API server of the cluster.
    #[arg(long, value_name = "DIR", env = "CULVERT_MANIFESTS")]
    manifests: Option<PathBuf>,
    /// Where visitors come in, over HTTP. As for each listener, port 0 asks for a free one; what is bound is logged.
    #[arg(long, value_name = "ADDRESS", default_value_t = any(8080), env = "CULVERT_HTTP")]
    http: SocketAddr,
    /// Where visitors come in, over TLS, with HTTP/1.1 or HTTP/2; `off` for no such listener, as behind a balancer that ends TLS.
    #[arg(long, value_name = "ADDRESS", default_value_t = Listen::At(any(8443)), env = "CULVERT_HTTPS")]
    https: Listen,
    /// A PEM file with the certificate that visitors over TLS are shown for hosts without one of their own. It is read again
    /// when it changes, and on SIGHUP. Without it such visitors get no connection.
    #[arg(long, value_name = "FILE", env = "CULVERT_DEFAULT_CERT", requires = "default_key")]
    default_cert: Option<PathBuf>,
    /// A PEM file with the private key of --default-cert.
    #[arg(long, value_name = "FILE", env = "CULVERT_DEFAULT_KEY", requires = "default_cert")]
    default_key: Option<PathBuf>,
    /// A hostname under which agents may also dial the --https address, for networks that let out port 443 only. They are
    /// shown the bridge's certificate there. No TunnelHost gets visitors over TLS under this name.
    #[arg(long, value_name = "NAME", env = "CULVERT_BRIDGE_HOSTNAME", conflicts_with = "insecure_plaintext")]
    bridge_hostname: Option<Hostname>,
    /// Where agents dial in.
    #[arg(long, value_name = "ADDRESS", default_value_t = any(7443), env = "CULVERT_BRIDGE")]
    bridge: SocketAddr,
    /// Where /livez, /readyz and /metrics are. Keep it away from visitors.
    #[arg(long, value_name = "ADDRESS", default_value_t = local(9090), env = "CULVERT_ADMIN")]
    admin: SocketAddr,
    #[command(flatten)]
    visitors: VisitorArgs,
    /// How long visitors are still taken after the process was asked to stop and says that it is not ready, since balancers
    /// hear of it late. Without it 5s in a cluster, and not at all with --manifests.
    #[arg(long, value_name = "DURATION", value_parser = any_duration, env = "CULVERT_DRAIN_DELAY")]
    drain_delay: Option<Duration>,
    /// How long requests in progress and upgraded connections may go on after that, while agents and visitors go elsewhere. What
    /// is left then is cut; WebSockets are closed as "going away" (1001) between two frames.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "30s",
        value_parser = any_duration,
        env = "CULVERT_DRAIN_TIMEOUT"
    )]
    drain_timeout: Duration,
    /// The address that agents are told to dial for this replica, HOST:PORT, where it has one of its own. With {replica}
    /// in it, which stands for the replica's name, or {ip}, for its pod's address, it is that of each replica. Without
    /// it agents dial the address that they know again, until they have met every replica; so they do where an address
    /// cannot be reached from where they are.
    #[arg(long, value_name = "HOST:PORT", env = "CULVERT_ADVERTISE")]
    advertise: Option<Advertise>,
    /// The other replicas, each with its --replica and the address where agents dial it. They share the limits, and
    /// agents hold sessions with all of them. Only with --manifests: in a cluster the replicas find each other. Where the
    /// port of a replica's --mesh is not that of this one's, it follows behind a slash: REPLICA=HOST:PORT/MESH-PORT.
    #[arg(
        long,
        value_name = "REPLICA=HOST:PORT",
        env = "CULVERT_PEERS",
        value_delimiter = ',',
        requires = "manifests"
    )]
    peers: Vec<Peer>,
    /// Where the other replicas come in, as in 0.0.0.0:7444: a replica without a session to an agent forwards requests to
    /// one that has it, by mutual TLS. Without it visitors of such a replica get 503 for that agent.
    #[arg(long, value_name = "ADDRESS", env = "CULVERT_MESH", requires = "mesh_key")]
    mesh: Option<SocketAddr>,
    /// A PEM file with the private key that all replicas share, and nobody else has: with it each signs the certificate
    /// that the others know it by.
    #[arg(long, value_name = "FILE", env = "CULVERT_MESH_KEY", requires = "mesh")]
    mesh_key: Option<PathBuf>,
    /// A folder for what must outlive a restart: the bridge's certificate, where --bridge-cert is not given, and with --manifests
    /// the names of the agents that were connected, which a restarted edge waits for (5s at most) before it takes visitors.
    #[arg(long, value_name = "DIR", default_value = "culvert-state", env = "CULVERT_STATE")]
    state: PathBuf,
    /// A PEM file with the bridge's certificate, the same on all replicas. Without it one is made, and kept in --state.
    #[arg(long, value_name = "FILE", env = "CULVERT_BRIDGE_CERT", requires = "bridge_key")]
    bridge_cert: Option<PathBuf>,
    /// A PEM file with the private key of --bridge-cert.
    #[arg(long, value_name = "FILE", env = "CULVERT_BRIDGE_KEY", requires = "bridge_cert")]
    bridge_key: Option<PathBuf>,
    /// Do not encrypt the tunnels: tokens and traffic can be read on the way. Agents need the same flag.
    #[arg(long, env = "CULVERT_INSECURE_PLAINTEXT", conflicts_with_all = ["bridge_cert", "bridge_key"])]
    insecure_plaintext: bool,
    /// The id of this replica: in a cluster the name of its pod.
    #[arg(long, value_name = "NAME", default_value = "edge", env = "CULVERT_REPLICA")]
    replica: String,
    /// The namespace of the edge itself, for its Lease and its Services. Only in a cluster.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "culvert",
        env = "CULVERT_NAMESPACE",
        conflicts_with = "manifests"
    )]
    namespace: String,
    /// The headless Service of the bridge, whose endpoints are the replicas. Only in a cluster.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "culvert-bridge-headless",
        env = "CULVERT_BRIDGE_SERVICE",
        conflicts_with = "manifests"
    )]
    bridge_service: String,
    /// The Lease whose holder writes the objects' conditions. Only in a cluster.
    #[arg(long, value_name = "NAME", default_value = "culvert", env = "CULVERT_LEASE", conflicts_with = "manifests")]
    lease: String,
    /// The namespaces whose TunnelHosts, TunnelAgents and Secrets count, as in web,shop: the edge asks for nothing of any other, and
    /// needs no right there. Namespaces themselves are not read then, so an agent's `allowedNamespaces` can be Same or All, and
    /// not Selector. Without it, all. Only in a cluster.
    #[arg(
        long,
        value_name = "NAMES",
        env = "CULVERT_WATCH_NAMESPACES",
        value_delimiter = ',',
        conflicts_with = "manifests"
    )]
    watch_namespaces: Vec<NamespaceName>,
}

/// Where a listener is, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listen {
    At(SocketAddr),
    Off,
}

/// How long a replica of a cluster that is no longer ready still takes visitors, where nothing else is said.
const DRAIN_DELAY: Duration = Duration::from_secs(5);

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let stop = signals::stop_token()?;
    let https = https(&args)?;
    let security = security(&args)?;
    let default_certificate = match (args.default_cert, args.default_key) {
        (Some(certificate), Some(key)) => Some(FollowedCertificate::read(certificate, key)?),
        _ => None,
    };
    let bridge_hostname = match args.bridge_hostname {
        Some(Hostname::Wildcard(_)) => return Err("--bridge-hostname is one name, without \"*\"".into()),
        Some(Hostname::Exact(name)) => Some(name.to_string()),
        None => None,
    };
    // In a cluster the objects' status tells.
    let state = args.manifests.is_some().then(|| args.state.clone());
    if let Some(same) = args.peers.iter().find(|peer| peer.id == args.replica) {
        return Err(format!("--peers: {same} has the name of this replica; give each another --replica").into());
    }
    let (source, usual_delay) = if let Some(dir) = args.manifests {
        (Source::Folder(dir), Duration::ZERO)
    } else {
        let client = Client::try_default().await.map_err(|error| {
            format!("there is no cluster to follow ({error}); give its kubeconfig, or --manifests DIR")
        })?;
        let config = ClusterConfig {
            replica: args.replica.clone(),
            namespace: args.namespace,
            lease: args.lease,
            bridge_service: args.bridge_service,
            watch_namespaces: BTreeSet::from_iter(args.watch_namespaces).into_iter().collect(),
        };
        (Source::Cluster { client, config }, DRAIN_DELAY)
    };
    let edge = Edge::bind(EdgeConfig {
        source,
        mesh: mesh(&args.replica, args.mesh, args.mesh_key.as_deref())?,
        fleet: Fleet { own: args.replica, advertise: args.advertise, peers: args.peers, mesh_port: None },
        http: args.http,
        https,
        bridge: args.bridge,
        admin: args.admin,
        security,
        default_certificate,
        bridge_hostname,
        access_log: args.visitors.access_log(),
        visitors: args.visitors.into_config()?,
        state,
        drain_delay: args.drain_delay.unwrap_or(usual_delay),
        drain_timeout: args.drain_timeout,
    })?;
    edge.run(stop).await?;
    Ok(ExitCode::SUCCESS)
}

/// Where visitors come in over TLS. What is only for them would be of no effect without.
fn https(args: &Args) -> Result<Option<SocketAddr>, Failure> {
    let useless =
        [("--default-cert", args.default_cert.is_some()), ("--bridge-hostname", args.bridge_hostname.is_some())];
    match (args.https, useless.iter().find(|(_, is_given)| *is_given)) {
        (Listen::At(address), _) => Ok(Some(address)),
        (Listen::Off, None) => Ok(None),
        (Listen::Off, Some((flag, _))) => {
            Err(format!("{flag} is for visitors and agents over TLS: give --https an address, or leave it out").into())
        }
    }
}

fn security(args: &Args) -> Result<bridge::Security, Failure> {
    if args.insecure_plaintext {
        return Ok(bridge::Security::InsecurePlaintext);
    }
    let BridgeCertificate { config, fingerprint } = match (&args.bridge_cert, &args.bridge_key) {
        (Some(certificate), Some(key)) => certificate::read(certificate, key)?,
        _ => certificate::read_or_make(&args.state)?,
    };
    tracing::info!("agents can trust this edge with --edge-fingerprint {fingerprint}");
    Ok(bridge::Security::Tls(config))
}

fn mesh(
    replica: &str,
    address: Option<SocketAddr>,
    key: Option<&Path>,
) -> Result<Option<(SocketAddr, MeshIdentity)>, Failure> {
    let (Some(address), Some(file)) = (address, key) else { return Ok(None) };
    let shown = file.display();
    let key = std::fs::read_to_string(file).map_err(|error| format!("--mesh-key: cannot read {shown}: {error}"))?;
    let identity = MeshIdentity::new(replica, &key).map_err(|error| format!("--mesh-key: {shown}: {error}"))?;
    Ok(Some((address, identity)))
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

// === impl Listen ===

impl FromStr for Listen {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" { Ok(Self::Off) } else { text.parse().map(Self::At) }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Off => f.write_str("off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        serve: Args,
    }

    #[track_caller]
    fn parsed(flags: &[&str]) -> Args {
        Line::try_parse_from(["serve"].iter().chain(flags)).expect("a command line").serve
    }

    #[test]
    fn visitors_over_tls_can_be_left_out() {
        let found = |flags: &[&str]| https(&parsed(flags)).map_err(|failure| failure.to_string());
        assert_eq!(found(&[]), Ok(Some(any(8443))));
        assert_eq!(found(&["--https", "127.0.0.1:0"]), Ok(Some(local(0))));
        assert_eq!(found(&["--https=off"]), Ok(None));
        for useless in [["--bridge-hostname=a.example", "--manifests=a"], ["--default-cert=a", "--default-key=b"]] {
            let problem = found(&[&["--https=off"], &useless[..]].concat()).expect_err("useless");
            assert!(problem.contains("--https"), "{problem}");
        }
        assert!(Line::try_parse_from(["serve", "--https=on"]).is_err());
    }
}
