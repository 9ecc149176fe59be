//! What a link leads to, as OPEN has it: `host:port`, or `unix:/path` of a socket on the agent's machine.
//!
//! The edge reads it where people write it, the agent where it is dialled; so that none is accepted that the other refuses, both read
//! it here.

use std::net::{IpAddr, Ipv6Addr};

/// Where a link leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// `host:port`.
    Tcp {
        /// What is in front of the port.
        host: Host<'a>,
        /// From 1.
        port: u16,
    },
    /// The path of a socket.
    Unix(&'a str),
}

/// The host of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host<'a> {
    /// One to be resolved.
    Name(&'a str),
    /// An address; that of IPv6 was in brackets.
    Address(IpAddr),
}

/// Why a text is no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// There is no `:port` at the end.
    #[error("it has no port; write HOST:PORT, as in \"127.0.0.1:8080\"")]
    NoPort,
    /// The path of the socket is none.
    #[error("{0:?} is no path of a socket; write a whole one without \"..\", as in \"unix:/run/app.sock\"")]
    Path(String),
    /// The port is not 1 to 65535.
    #[error("the port {0:?} is not a number from 1 to 65535")]
    Port(String),
    /// The host is neither a name nor an address.
    #[error("the host {0:?} is neither a name, an IPv4 address nor an IPv6 address in brackets")]
    Host(String),
}

// === impl Target ===

impl<'a> Target<'a> {
    /// Reads a target.
    ///
    /// # Errors
    ///
    /// [`TargetError`], where it is something else.
    pub fn parse(text: &'a str) -> Result<Self, TargetError> {
        if let Some(path) = socket_path(text) {
            return if is_socket_path(path) { Ok(Self::Unix(path)) } else { Err(TargetError::Path(path.to_owned())) };
        }
        let (host, port) = text.rsplit_once(':').ok_or(TargetError::NoPort)?;
        let port = parse_port(port).ok_or_else(|| TargetError::Port(port.to_owned()))?;
        let host = Host::parse(host).ok_or_else(|| TargetError::Host(host.to_owned()))?;
        Ok(Self::Tcp { host, port })
    }
}

// === impl Host ===

impl<'a> Host<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return Some(Self::Address(address.parse::<Ipv6Addr>().ok()?.into()));
        }
        match text.parse() {
            Ok(IpAddr::V4(address)) => Some(Self::Address(address.into())),
            Err(_) if is_name(text) => Some(Self::Name(text)),
            Ok(IpAddr::V6(_)) | Err(_) => None,
        }
    }
}

/// The path, where a text is meant to be a socket. Without the slash, it is a host of that name.
pub(crate) fn socket_path(text: &str) -> Option<&str> {
    text.strip_prefix("unix:").filter(|path| path.starts_with('/'))
}

/// `host:port`, with brackets around an address of IPv6, which is given without.
#[must_use]
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A number from 1 to 65535 without sign.
pub(crate) fn parse_port(text: &str) -> Option<u16> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}

/// A whole path in one spelling: without `.`, `..` and empty parts, so that rules and targets can be compared as text, and
/// as long as the system takes it.
pub(crate) fn is_socket_path(text: &str) -> bool {
    const MAX: usize = 107;
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"._@%+=~:-".contains(&b);
    let part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(inner);
    text.len() <= MAX && text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(part))
}

/// Underscores are no DNS names, but container networks resolve them.
pub(crate) fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    // No part but the last, behind a dot at the end, is empty.
    let parts = !text.starts_with('.') && !text.contains("..");
    !text.is_empty() && text.len() <= 253 && parts && text.bytes().all(inner) && !ends_in_number(text)
}

/// Whether the last part is a number, as no domain's is (RFC 1123, 2.1): resolvers take `127.1` and `0x7f.1` for addresses.
fn ends_in_number(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let last = text.rsplit_once('.').map_or(text, |(_, last)| last);
    let hexadecimal = last.strip_prefix("0x").or(last.strip_prefix("0X"));
    last.bytes().all(|b| b.is_ascii_digit())
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_names_or_addresses_with_a_port() {
        let tcp = |host, port| Ok(Target::Tcp { host, port });
        for name in ["app", "app.lan", "app.lan.", "my_db", "app.x1", "unix"] {
            assert_eq!(Target::parse(&format!("{name}:80")), tcp(Host::Name(name), 80));
        }
        assert_eq!(Target::parse("127.0.0.1:8080"), tcp(Host::Address([127, 0, 0, 1].into()), 8080));
        assert_eq!(Target::parse("[::1]:65535"), tcp(Host::Address(Ipv6Addr::LOCALHOST.into()), 65535));
    }

    #[test]
    fn sockets_are_targets_by_their_whole_path() {
        assert_eq!(Target::parse("unix:/run/my-app/a=b.sock"), Ok(Target::Unix("/run/my-app/a=b.sock")));
        let long = format!("/{}", "a".repeat(107));
        for path in ["/", "/run/", "/run//app", "/run/../app", "/run/./app", "/./app", "/a b", "/a,b", &long] {
            assert_eq!(Target::parse(&format!("unix:{path}")), Err(TargetError::Path(path.into())));
        }
    }

    #[test]
    fn others_say_what_is_wrong() {
        let error = |text: &str| Target::parse(text).expect_err(text);
        for text in ["", "localhost"] {
            assert_eq!(error(text), TargetError::NoPort);
        }
        for port in ["", "0", "+80", "70000", "http", "/run"] {
            assert_eq!(error(&format!("localhost:{port}")), TargetError::Port(port.into()));
        }
        assert_eq!(error("unix:run/app.sock"), TargetError::Port("run/app.sock".into()), "a host of that name");
        for host in ["", "::1", "[app]", "[127.0.0.1]", "http://a", "a/b", "app..", "a..b", ".a"] {
            assert_eq!(error(&format!("{host}:80")), TargetError::Host(host.into()));
        }
        for host in ["127.1", "2130706433", "0x7f.0X1", "127.0.0.1.", "app.0x", "010.0.0.1"] {
            assert_eq!(error(&format!("{host}:80")), TargetError::Host(host.into()), "it may be an address");
        }
    }
}
