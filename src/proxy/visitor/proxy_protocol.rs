//! The PROXY protocol, versions 1 and 2: who a visitor is, as a balancer in front of the edge says, and as the edge tells a
//! backend.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use proxy_protocol_rs::{HeaderBuilder, ParseError, ProxyInfo, parse};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{identity::TrustedProxies, socket::Socket};
use crate::{proxy::error::Reason, routing::ProxyProtocol};

/// The longest header that is read. Addresses take up to 232 bytes, and what balancers add is short.
const MAX_HEADER: usize = 4 * 1024;

/// Why a connection has no visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    /// Its other end may not say who the visitor is.
    Untrusted,
    /// It does not begin with a header, or with a broken one.
    Malformed,
    /// The header did not come in time.
    Timeout,
    /// It ended before.
    Closed,
}

/// Reads the header that a connection must begin with, sent by one of `trusted`. Returns both ends of the visitor's connection
/// as the header has them; `None` where it has none, as when a balancer checks whether the edge is there.
pub(super) async fn read(
    socket: &mut Socket,
    peer: SocketAddr,
    trusted: &TrustedProxies,
    limit: Duration,
) -> Result<Option<(SocketAddr, SocketAddr)>, Rejected> {
    if !trusted.contains(peer.ip()) {
        return Err(Rejected::Untrusted);
    }
    let info = timeout(limit, header(socket)).await.map_err(|_| Rejected::Timeout)??;
    Ok(info.source_inet().zip(info.destination_inet()))
}

async fn header(socket: &mut Socket) -> Result<ProxyInfo, Rejected> {
    loop {
        match parse(socket.early()) {
            Ok((info, length)) => {
                socket.forget(length);
                return Ok(info);
            }
            Err(ParseError::Incomplete) if socket.early().len() < MAX_HEADER => {
                if socket.read_ahead().await.map_err(|_| Rejected::Closed)? == 0 {
                    return Err(Rejected::Closed);
                }
            }
            Err(_) => return Err(Rejected::Malformed),
        }
    }
}

/// Tells a backend who the visitor is, before anything else: `visitor`, who came to `local`.
pub(in crate::proxy) async fn write<W: AsyncWrite + Unpin>(
    sink: &mut W,
    version: ProxyProtocol,
    visitor: SocketAddr,
    local: SocketAddr,
) -> io::Result<()> {
    let (visitor, local) = of_one_family(visitor, local);
    let header = match version {
        ProxyProtocol::V1 => HeaderBuilder::v1_proxy(visitor, local),
        ProxyProtocol::V2 => HeaderBuilder::v2_proxy(visitor, local),
    };
    sink.write_all(&header.build()).await?;
    sink.flush().await
}

/// A header has addresses of one family.
fn of_one_family(mut a: SocketAddr, mut b: SocketAddr) -> (SocketAddr, SocketAddr) {
    a.set_ip(a.ip().to_canonical());
    b.set_ip(b.ip().to_canonical());
    if a.is_ipv4() != b.is_ipv4() {
        let mapped = |ip| match ip {
            IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
            ip @ IpAddr::V6(_) => ip,
        };
        a.set_ip(mapped(a.ip()));
        b.set_ip(mapped(b.ip()));
    }
    (a, b)
}

// === impl Rejected ===

impl Rejected {
    /// The label of `culvert_errors_total`; `None` where nothing was wrong.
    pub(super) fn reason(self) -> Option<Reason> {
        match self {
            Self::Untrusted => Some(Reason::ProxyProtocolUntrusted),
            Self::Malformed => Some(Reason::ProxyProtocolMalformed),
            Self::Timeout => Some(Reason::ProxyProtocolTimeout),
            Self::Closed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn header(version: ProxyProtocol, visitor: &str, local: &str) -> Vec<u8> {
        let address = |text: &str| text.parse().expect("an address");
        let mut written = Vec::new();
        write(&mut written, version, address(visitor), address(local)).await.expect("written");
        written
    }

    #[tokio::test]
    async fn a_header_names_both_ends_in_one_family() {
        let line = header(ProxyProtocol::V1, "203.0.113.9:4000", "192.0.2.1:443").await;
        assert_eq!(line, b"PROXY TCP4 203.0.113.9 192.0.2.1 4000 443\r\n");
        let line = header(ProxyProtocol::V1, "[::ffff:203.0.113.9]:4000", "[::ffff:192.0.2.1]:443").await;
        assert_eq!(line, b"PROXY TCP4 203.0.113.9 192.0.2.1 4000 443\r\n");
        let binary = header(ProxyProtocol::V2, "203.0.113.9:0", "[2001:db8::1]:443").await;
        let (info, length) = parse(&binary).expect("a header");
        assert_eq!(length, binary.len());
        assert_eq!(info.source_inet().expect("an address").to_string(), "[::ffff:203.0.113.9]:0");
        assert_eq!(info.destination_inet().expect("an address").to_string(), "[2001:db8::1]:443");
    }
}
