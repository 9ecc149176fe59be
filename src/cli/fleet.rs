//! The replicas of an edge, as its flags describe them: where agents dial each, and which there are without a cluster.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use crate::{
    bridge::MeshPeer,
    controller::Member,
    tunnel::{Replica, target::authority},
};

/// This replica and what it was told of the others.
#[derive(Debug)]
pub(super) struct Fleet {
    /// This replica's id.
    pub(super) own: String,
    pub(super) advertise: Option<Advertise>,
    /// The other replicas, where there is no cluster to ask.
    pub(super) peers: Vec<Peer>,
    /// The port of this replica's mesh, which is that of the others too where nothing else is said; `None`: there is no
    /// mesh.
    pub(super) mesh_port: Option<u16>,
}

/// What agents are told to dial, `HOST:PORT`: for this replica, or, where it has `{replica}` or `{ip}` in it, for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Advertise(String);

/// Another replica, `ID=HOST:PORT`, perhaps with `/PORT` of its mesh behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    /// Its `--replica`.
    pub(super) id: String,
    /// Where agents dial it.
    host: String,
    port: u16,
    mesh_port: Option<u16>,
}

const REPLICA: &str = "{replica}";
const IP: &str = "{ip}";

// === impl Fleet ===

impl Fleet {
    /// This replica, as far as it knows itself.
    pub(super) fn alone(&self) -> Arc<[Replica]> {
        self.replicas(&[Member { id: self.own.clone(), ip: None }])
    }

    /// All replicas, as agents are told of them, in order of their ids.
    pub(super) fn replicas(&self, running: &[Member]) -> Arc<[Replica]> {
        let member = |member: &Member| Replica {
            id: member.id.clone(),
            address: self.advertise.as_ref().and_then(|advertise| advertise.address(member, member.id == self.own)),
        };
        let peer = |peer: &Peer| Replica { id: peer.id.clone(), address: Some(authority(&peer.host, peer.port)) };
        let mut all: Vec<_> = running.iter().map(member).chain(self.peers.iter().map(peer)).collect();
        all.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        all.into()
    }

    /// The other replicas that links can be forwarded to.
    pub(super) fn neighbours(&self, running: &[Member]) -> Arc<[MeshPeer]> {
        let Some(port) = self.mesh_port else { return Arc::default() };
        let others = running.iter().filter(|member| member.id != self.own);
        let member = |member: &Member| {
            let ip = member.ip?;
            Some(MeshPeer { id: member.id.clone(), address: authority(&ip.to_string(), port) })
        };
        let peer = |peer: &Peer| MeshPeer {
            id: peer.id.clone(),
            address: authority(&peer.host, peer.mesh_port.unwrap_or(port)),
        };
        others.filter_map(member).chain(self.peers.iter().map(peer)).collect()
    }

    /// How many replicas share the limits, of which so many were found ready.
    pub(super) fn ready(&self, ready: u32) -> u32 {
        ready.saturating_add(u32::try_from(self.peers.len()).unwrap_or(u32::MAX))
    }
}

// === impl Advertise ===

impl Advertise {
    /// What agents dial for this member; `None` where they are to come by the edge's own address.
    fn address(&self, member: &Member, is_own: bool) -> Option<String> {
        let Self(template) = self;
        if !template.contains(REPLICA) && !template.contains(IP) {
            return is_own.then(|| template.clone());
        }
        let address = template.replace(REPLICA, &member.id);
        if !address.contains(IP) {
            return Some(address);
        }
        let ip = match member.ip? {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Some(address.replace(IP, &ip))
    }
}

impl FromStr for Advertise {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = text.replace(REPLICA, "replica").replace(IP, "192.0.2.1");
        if example.contains(['{', '}']) {
            return Err("only {replica} and {ip} may stand in braces".to_owned());
        }
        host_and_port(&example).ok_or("it is not HOST:PORT, as in bridge-0.example.com:7443")?;
        Ok(Self(text.to_owned()))
    }
}

// === impl Peer ===

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, address) = text.split_once('=').unwrap_or_default();
        let address = address.strip_prefix("https://").unwrap_or(address);
        let (address, mesh_port) = match address.split_once('/') {
            None | Some((_, "")) => (address.trim_end_matches('/'), Ok(None)),
            Some((address, port)) => (address, port.parse().map(Some)),
        };
        match (host_and_port(address), mesh_port) {
            (Some((host, port)), Ok(mesh_port)) if !id.is_empty() && mesh_port != Some(0) => {
                Ok(Self { id: id.to_owned(), host, port, mesh_port })
            }
            _ => Err("it is not REPLICA=HOST:PORT or REPLICA=HOST:PORT/MESH-PORT, as in edge-b=b.example.com:7443"
                .to_owned()),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.id, authority(&self.host, self.port))
    }
}

/// The parts of `HOST:PORT`, IPv6 in brackets there and without here.
fn host_and_port(text: &str) -> Option<(String, u16)> {
    let authority: http::uri::Authority = text.parse().ok()?;
    let port = authority.port_u16().filter(|port| *port != 0)?;
    let host = authority.host();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (!host.is_empty() && !text.contains('@')).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, ip: Option<&str>) -> Member {
        Member { id: id.to_owned(), ip: ip.map(|ip| ip.parse().expect(ip)) }
    }

    fn addresses(advertise: &str, peers: &[&str]) -> Vec<(String, Option<String>)> {
        let fleet = Fleet {
            own: "b".to_owned(),
            advertise: Some(advertise.parse().expect(advertise)),
            peers: peers.iter().map(|peer| peer.parse().expect(peer)).collect(),
            mesh_port: None,
        };
        let running = [member("a", Some("10.0.0.1")), member("b", Some("fd00::2")), member("c", None)];
        fleet.replicas(&running).iter().map(|replica| (replica.id.clone(), replica.address.clone())).collect()
    }

    fn shown<const N: usize>(all: [(&str, Option<&str>); N]) -> Vec<(String, Option<String>)> {
        all.map(|(id, address)| (id.to_owned(), address.map(str::to_owned))).to_vec()
    }

    #[test]
    fn an_address_is_this_replicas_and_a_pattern_everybodys() {
        let own = shown([("a", None), ("b", Some("b.example.com:7443")), ("c", None)]);
        assert_eq!(addresses("b.example.com:7443", &[]), own);
        let names =
            shown([("a", Some("a.example.com:7")), ("b", Some("b.example.com:7")), ("c", Some("c.example.com:7"))]);
        assert_eq!(addresses("{replica}.example.com:7", &[]), names);
        let ips = shown([("a", Some("10.0.0.1:7443")), ("b", Some("[fd00::2]:7443")), ("c", None)]);
        assert_eq!(addresses("{ip}:7443", &[]), ips);
    }

    #[test]
    fn peers_are_replicas_too() {
        let fleet = Fleet {
            own: "b".to_owned(),
            advertise: None,
            mesh_port: Some(7444),
            peers: vec![
                "a=https://a.example.com:7443/".parse().expect("a peer"),
                "c=[::1]:7443/8444".parse().expect("a peer"),
            ],
        };
        let replicas = fleet.alone();
        let all: Vec<_> = replicas.iter().map(|replica| (&*replica.id, replica.address.as_deref())).collect();
        assert_eq!(all, [("a", Some("a.example.com:7443")), ("b", None), ("c", Some("[::1]:7443"))]);
        assert_eq!(fleet.ready(1), 3);
        let neighbours = |running: &[Member]| -> Vec<String> {
            fleet.neighbours(running).iter().map(|peer| format!("{} {}", peer.id, peer.address)).collect()
        };
        assert_eq!(neighbours(&[member("b", None)]), ["a a.example.com:7444", "c [::1]:8444"]);
        let in_cluster = Fleet { peers: Vec::new(), ..fleet };
        let running = [member("a", Some("10.0.0.1")), member("b", Some("10.0.0.2")), member("c", None)];
        let neighbours = in_cluster.neighbours(&running);
        assert_eq!(neighbours.iter().map(|peer| &*peer.address).collect::<Vec<_>>(), ["10.0.0.1:7444"]);
    }

    #[test]
    fn what_is_malformed_says_so() {
        for text in ["", "host", "host:", ":7443", "host:0", "host:70000", "u@host:1", "{pod}.example.com:1"] {
            text.parse::<Advertise>().expect_err(text);
        }
        for text in ["", "a", "a=", "=host:1", "a=host", "a=http://host:1", "a=https://host:1/path", "a=host:1/0"] {
            text.parse::<Peer>().expect_err(text);
        }
    }
}
