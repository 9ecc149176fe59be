use std::{fmt, str::FromStr, sync::Arc};

use crate::tunnel::target;
pub use crate::tunnel::target::TargetError;

/// What the agent is asked to connect to: `host:port`, or `unix:/path` of a socket on its machine. The host is a name, an IPv4
/// address or a bracketed IPv6 address; names are resolved by the agent, where they mean something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target(Arc<str>);

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
        if target::socket_path(&self.0).is_some() {
            return None;
        }
        let host = self.0.rsplit_once(':').map_or(&*self.0, |(host, _)| host);
        Some(host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host))
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        target::Target::parse(text)?;
        Ok(Self(text.into()))
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
    fn what_agents_dial_goes_over_the_wire_as_it_was_written() {
        for text in ["127.0.0.1:8080", "[::1]:80", "app.lan:443", "my_db:5432", "unix:/run/my-app/a=b.sock"] {
            assert_eq!(text.parse::<Target>().expect(text).as_str(), text);
        }
        assert_eq!("127.1:80".parse::<Target>(), Err(TargetError::Host("127.1".into())));
    }

    #[test]
    fn the_host_is_without_port_and_brackets() {
        let host = |target: &str| target.parse::<Target>().expect(target).host().map(str::to_owned);
        assert_eq!(host("[::1]:443").as_deref(), Some("::1"));
        assert_eq!(host("app.lan:443").as_deref(), Some("app.lan"));
        assert_eq!(host("unix:8080").as_deref(), Some("unix"), "a host of that name");
        assert_eq!(host("unix:/run/app.sock"), None);
    }
}
