use std::{fmt, net::IpAddr, ops::RangeInclusive, str::FromStr};

use ipnet::IpNet;

use crate::tunnel::{
    name::is_label,
    target::{is_name, is_socket_path, parse_port, socket_path},
};

/// One permission, `[NAMESPACE=]HOST:PORT` or `[NAMESPACE=]unix:/PATH`. With a namespace it holds for the TunnelHosts of that
/// namespace only. The host is a name, all names under one (`*.web.svc.cluster.local`), an address or a network (`10.0.0.0/8`;
/// IPv6 in brackets), the port a number, a range (`8000-8100`) or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowRule {
    /// `None`: any.
    namespace: Option<String>,
    pub(super) place: AllowPlace,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AllowPlace {
    Tcp {
        host: AllowHost,
        ports: RangeInclusive<u16>,
    },
    /// The path of a socket.
    Unix(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AllowHost {
    /// Lowercase, without a dot at the end.
    Name(String),
    /// All names that end in this, which begins with a dot.
    Suffix(String),
    Network(IpNet),
}

/// Why a text is no [`AllowRule`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllowRuleError {
    /// There is no `:PORT`.
    #[error("it has no port; write HOST:PORT, HOST:FIRST-LAST or HOST:*, as in 127.0.0.1:8080")]
    NoPort,
    /// The port is none.
    #[error("the port {0:?} is neither a number from 1 to 65535, a range FIRST-LAST of them, nor *")]
    Port(String),
    /// The host is none.
    #[error(
        "the host {0:?} is neither a name, an address nor a network; IPv6 is written in brackets, as in [::1]:8080"
    )]
    Host(String),
    /// The path of a Unix socket is none.
    #[error("{0:?} is no path of a socket; write it as in unix:/run/app.sock, whole and without \"..\"")]
    Path(String),
}

// === impl AllowRule ===

impl AllowRule {
    /// Whether it holds for the TunnelHosts of one namespace only.
    pub(in crate::agent) fn is_of_namespace(&self) -> bool {
        self.namespace.is_some()
    }

    pub(super) fn is_for(&self, namespace: &str) -> bool {
        self.namespace.as_ref().is_none_or(|own| own == namespace)
    }
}

impl FromStr for AllowRule {
    type Err = AllowRuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, place) = match text.split_once('=') {
            Some((namespace, place)) if is_label(namespace) => (Some(namespace.to_owned()), place),
            _ => (None, text),
        };
        Ok(Self { namespace, place: place.parse()? })
    }
}

impl fmt::Display for AllowRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}=")?;
        }
        write!(f, "{}", self.place)
    }
}

// === impl AllowPlace ===

impl AllowPlace {
    /// Whether it is a network with this address.
    pub(super) fn covers(&self, address: IpAddr, port: u16) -> bool {
        match self {
            Self::Tcp { host: AllowHost::Network(network), ports } => {
                ports.contains(&port) && network.contains(&address)
            }
            Self::Tcp { .. } | Self::Unix(_) => false,
        }
    }
}

impl FromStr for AllowPlace {
    type Err = AllowRuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = socket_path(text) {
            let valid = is_socket_path(path);
            return if valid { Ok(Self::Unix(path.to_owned())) } else { Err(AllowRuleError::Path(path.to_owned())) };
        }
        let (host, ports) = text.rsplit_once(':').ok_or(AllowRuleError::NoPort)?;
        // The last colon of a bare or bracketed IPv6 address is not in front of a port.
        if ports.ends_with(']') {
            return Err(AllowRuleError::NoPort);
        }
        let port_error = || AllowRuleError::Port(ports.to_owned());
        let ports = match ports.split_once('-') {
            _ if ports == "*" => 1..=u16::MAX,
            Some((first, last)) => {
                parse_port(first).ok_or_else(port_error)?..=parse_port(last).ok_or_else(port_error)?
            }
            None => {
                let port = parse_port(ports).ok_or_else(port_error)?;
                port..=port
            }
        };
        if ports.is_empty() {
            return Err(port_error());
        }
        let host = parse_host(host).ok_or_else(|| AllowRuleError::Host(host.to_owned()))?;
        Ok(Self::Tcp { host, ports })
    }
}

impl fmt::Display for AllowPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, ports) = match self {
            Self::Tcp { host, ports } => (host, ports),
            Self::Unix(path) => return write!(f, "unix:{path}"),
        };
        match host {
            AllowHost::Name(name) => write!(f, "{name}:")?,
            AllowHost::Suffix(suffix) => write!(f, "*{suffix}:")?,
            AllowHost::Network(network) => {
                let single = network.prefix_len() == network.max_prefix_len();
                match (network, single) {
                    (IpNet::V4(network), true) => write!(f, "{}:", network.addr())?,
                    (IpNet::V4(network), false) => write!(f, "{network}:")?,
                    (IpNet::V6(network), true) => write!(f, "[{}]:", network.addr())?,
                    (IpNet::V6(network), false) => write!(f, "[{network}]:")?,
                }
            }
        }
        match (*ports.start(), *ports.end()) {
            (1, u16::MAX) => f.write_str("*"),
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

fn parse_host(text: &str) -> Option<AllowHost> {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = bracketed.unwrap_or(text);
    let network = match address.parse::<IpAddr>() {
        Ok(address) => Some(IpNet::from(address.to_canonical())),
        Err(_) => address.parse::<IpNet>().ok(),
    };
    match network {
        // Brackets and IPv6 go together, else the port could not be told from the address.
        Some(network) => (bracketed.is_some() == address.contains(':')).then_some(AllowHost::Network(network.trunc())),
        None if bracketed.is_some() => None,
        None => {
            let lowercase = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            match text.strip_prefix('*') {
                Some(suffix) => {
                    let under = suffix.strip_prefix('.').filter(|name| is_name(name));
                    under.map(|name| AllowHost::Suffix(format!(".{}", lowercase(name))))
                }
                None => is_name(text).then(|| AllowHost::Name(lowercase(text))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_make_no_sense_say_so() {
        let error = |text: &str| text.parse::<AllowRule>().expect_err(text);
        assert_eq!(error("8080"), AllowRuleError::NoPort);
        assert_eq!(error("[::1]"), AllowRuleError::NoPort);
        for port in ["", "0", "+80", "70000", "80-", "-80", "90-80", "**", "80,81"] {
            assert_eq!(error(&format!("127.0.0.1:{port}")), AllowRuleError::Port(port.into()));
        }
        for host in [
            "",
            "*",
            "a b",
            "::1",
            "[app.lan]",
            "[127.0.0.1]",
            "10.0.0.0/33",
            "http://app",
            "fd00::/8",
            "*.",
            "*app",
            "a.*.b",
            "**.a",
            "app..",
            "*.a..b",
            "127.1",
            "7.0.0.0.",
            "*.web.0x7f",
            "-web-=127.0.0.1",
            "Web=127.0.0.1",
        ] {
            assert_eq!(error(&format!("{host}:80")), AllowRuleError::Host(host.into()));
        }
    }

    #[test]
    fn rules_are_printed_as_they_are_written() {
        let address = ["127.0.0.1:80", "10.0.0.0/8:8000-8100", "[::1]:*", "[fd00::/8]:1-2", "app.lan:443"];
        for text in address.into_iter().chain(["*.web.svc:80", "web=127.0.0.1:80", "web=unix:/run/app.sock"]) {
            assert_eq!(text.parse::<AllowRule>().expect(text).to_string(), text);
        }
    }
}
