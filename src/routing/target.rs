use std::{fmt, net::Ipv6Addr, str::FromStr, sync::Arc};

/// What the agent is asked to connect to: `host:port`, or `unix:/path` of a socket on its machine. The host is a name, an IPv4
/// address or a bracketed IPv6 address; names are resolved by the agent, where they mean something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target(Arc<str>);

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

impl Target {
    /// The `host:port` as it goes over the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host without brackets; `None` of a socket.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        if self.0.starts_with(UNIX) {
            return None;
        }
        let host = self.0.rsplit_once(':').map_or(&*self.0, |(host, _)| host);
        Some(host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host))
    }
}

/// How the target that is a socket begins. Without the slash, it is a host of that name.
const UNIX: &str = "unix:/";

/// A whole path in one spelling, so that agents can compare it as text, and as long as their systems take it.
fn is_socket_path(text: &str) -> bool {
    const MAX: usize = 107;
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"._@%+=~:-".contains(&b);
    let part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(inner);
    text.len() <= MAX && text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(part))
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with(UNIX) {
            let path = &text[UNIX.len() - 1..];
            return if is_socket_path(path) { Ok(Self(text.into())) } else { Err(TargetError::Path(path.to_owned())) };
        }
        let (host, port) = text.rsplit_once(':').ok_or(TargetError::NoPort)?;
        if !port.bytes().all(|b| b.is_ascii_digit()) || port.parse::<u16>().unwrap_or(0) == 0 {
            return Err(TargetError::Port(port.to_owned()));
        }
        let valid = if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            address.parse::<Ipv6Addr>().is_ok()
        } else {
            // Underscores are no DNS names, but container networks resolve them.
            let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
            !host.is_empty() && host.len() <= 253 && host.bytes().all(inner)
        };
        if valid { Ok(Self(text.into())) } else { Err(TargetError::Host(host.to_owned())) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_with_a_port_are_targets() {
        for text in ["127.0.0.1:8080", "[::1]:80", "app.lan:443", "my_db:5432"] {
            assert_eq!(text.parse::<Target>().expect(text).as_str(), text);
        }
    }

    #[test]
    fn sockets_are_targets_by_their_whole_path() {
        let target = "unix:/run/my-app/a=b.sock".parse::<Target>().expect("a target");
        assert_eq!((target.as_str(), target.host()), ("unix:/run/my-app/a=b.sock", None));
        let long = format!("/{}", "a".repeat(107));
        for path in ["/", "/run/", "/run//app", "/run/../app", "/run/./app", "/a b", "/a,b", &long] {
            assert_eq!(format!("unix:{path}").parse::<Target>(), Err(TargetError::Path(path.into())));
        }
        assert!("unix:run/app".parse::<Target>().is_err());
        assert_eq!("unix:8080".parse::<Target>().expect("a host of that name").host(), Some("unix"));
    }

    #[test]
    fn the_host_is_without_port_and_brackets() {
        let host = |target: &str| target.parse::<Target>().expect(target).host().map(str::to_owned);
        assert_eq!(host("[::1]:443").as_deref(), Some("::1"));
        assert_eq!(host("app.lan:443").as_deref(), Some("app.lan"));
    }

    #[test]
    fn others_say_what_is_wrong() {
        let error = |text: &str| text.parse::<Target>().expect_err(text);
        assert_eq!(error("localhost"), TargetError::NoPort);
        assert_eq!(error("localhost:"), TargetError::Port(String::new()));
        assert_eq!(error("localhost:0"), TargetError::Port("0".into()));
        assert_eq!(error("localhost:+80"), TargetError::Port("+80".into()));
        assert_eq!(error("localhost:70000"), TargetError::Port("70000".into()));
        assert_eq!(error("::1:80"), TargetError::Host("::1".into()));
        assert_eq!(error(":80"), TargetError::Host(String::new()));
        assert_eq!(error("http://a:80"), TargetError::Host("http://a".into()));
    }
}
