use std::{fmt, net::IpAddr, ops::RangeInclusive, str::FromStr, sync::Arc};

use ipnet::IpNet;

/// What an agent may connect to. Empty: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList(Vec<AllowRule>);

/// One permission, `HOST:PORT`: the host is a name, an address or a network (`10.0.0.0/8`; IPv6 in brackets), the port a
/// number, a range (`8000-8100`) or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowRule {
    host: AllowHost,
    ports: RangeInclusive<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum AllowHost {
    /// Lowercase, without a dot at the end.
    Name(String),
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
}

/// Where a link wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    pub(super) host: Host<'a>,
    pub(super) port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host<'a> {
    Name(&'a str),
    Address(IpAddr),
}

/// What the list says of a target before its name is resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Whatever it resolves to.
    Allowed,
    /// Only those of its addresses that [`AllowList::allows_address`].
    ByAddress,
    /// Not at all; there is no need to ask the resolver.
    Denied,
}

// === impl AllowList ===

impl AllowList {
    /// Whether it allows nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What it allows now.
    #[must_use]
    pub fn rules(&self) -> Arc<[AllowRule]> {
        self.0.as_slice().into()
    }

    pub(super) fn verdict(&self, target: &Target<'_>) -> Verdict {
        match target.host {
            Host::Address(address) if self.allows_address(address, target.port) => Verdict::Allowed,
            Host::Address(_) => Verdict::Denied,
            Host::Name(name) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                let mut verdict = Verdict::Denied;
                for rule in self.0.iter().filter(|rule| rule.ports.contains(&target.port)) {
                    match &rule.host {
                        AllowHost::Name(allowed) if allowed.eq_ignore_ascii_case(name) => return Verdict::Allowed,
                        AllowHost::Name(_) => {}
                        AllowHost::Network(_) => verdict = Verdict::ByAddress,
                    }
                }
                verdict
            }
        }
    }

    /// Whether a rule with an address or a network covers this one.
    pub(super) fn allows_address(&self, address: IpAddr, port: u16) -> bool {
        // An IPv4 address in IPv6 clothes (::ffff:a.b.c.d) reaches the same place.
        let address = address.to_canonical();
        self.0.iter().any(|rule| match &rule.host {
            AllowHost::Network(network) => rule.ports.contains(&port) && network.contains(&address),
            AllowHost::Name(_) => false,
        })
    }
}

impl FromIterator<AllowRule> for AllowList {
    fn from_iter<I: IntoIterator<Item = AllowRule>>(rules: I) -> Self {
        Self(rules.into_iter().collect())
    }
}

// === impl AllowRule ===

impl FromStr for AllowRule {
    type Err = AllowRuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
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
        Ok(Self { host: parse_host(host).ok_or_else(|| AllowRuleError::Host(host.to_owned()))?, ports })
    }
}

impl fmt::Display for AllowRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            AllowHost::Name(name) => write!(f, "{name}:")?,
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
        match (*self.ports.start(), *self.ports.end()) {
            (1, u16::MAX) => f.write_str("*"),
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

/// A number from 1 to 65535 without sign.
fn parse_port(text: &str) -> Option<u16> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
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
        None => is_name(text).then(|| AllowHost::Name(text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase())),
    }
}

/// Underscores are no DNS names, but container networks resolve them.
fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    !text.is_empty() && text.len() <= 253 && !text.starts_with('.') && text.bytes().all(inner)
}

// === impl Target ===

impl<'a> Target<'a> {
    /// Reads `host:port`; `None` where it is something else.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = parse_port(port)?;
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(address) => Host::Address(IpAddr::V6(address.parse().ok()?)),
            None => match host.parse() {
                Ok(IpAddr::V4(address)) => Host::Address(IpAddr::V4(address)),
                Err(_) if is_name(host) => Host::Name(host),
                Ok(IpAddr::V6(_)) | Err(_) => return None,
            },
        };
        Some(Self { host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(rules: &[&str]) -> AllowList {
        rules.iter().map(|rule| rule.parse::<AllowRule>().expect(rule)).collect()
    }

    fn verdict(rules: &[&str], target: &str) -> Verdict {
        list(rules).verdict(&Target::parse(target).expect(target))
    }

    #[test]
    fn an_empty_list_allows_nothing() {
        assert!(AllowList::default().is_empty());
        assert_eq!(verdict(&[], "127.0.0.1:80"), Verdict::Denied);
        assert_eq!(verdict(&[], "localhost:80"), Verdict::Denied);
    }

    #[test]
    fn addresses_networks_and_ports_must_match() {
        let cases = [
            ("127.0.0.1:8080", "127.0.0.1:8080", true),
            ("127.0.0.1:8080", "127.0.0.1:8081", false),
            ("127.0.0.1:8080", "127.0.0.2:8080", false),
            ("10.0.0.0/8:8000-8100", "10.9.8.7:8000", true),
            ("10.0.0.0/8:8000-8100", "10.9.8.7:8100", true),
            ("10.0.0.0/8:8000-8100", "10.9.8.7:8101", false),
            ("10.0.0.0/8:*", "11.0.0.1:1", false),
            ("10.0.0.7/8:*", "10.1.1.1:65535", true),
            ("[::1]:80", "[::1]:80", true),
            ("[fd00::/8]:80", "[fd12::1]:80", true),
            ("[fd00::/8]:80", "[fe80::1]:80", false),
            ("127.0.0.1:80", "[::ffff:127.0.0.1]:80", true),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
            ("[::/0]:80", "[::ffff:127.0.0.1]:80", false),
        ];
        for (rule, target, allowed) in cases {
            let expected = if allowed { Verdict::Allowed } else { Verdict::Denied };
            assert_eq!(verdict(&[rule], target), expected, "{rule} for {target}");
        }
    }

    #[test]
    fn names_match_by_name_or_are_left_to_their_addresses() {
        assert_eq!(verdict(&["App.lan:80"], "app.LAN.:80"), Verdict::Allowed);
        assert_eq!(verdict(&["app.lan.:80"], "app.lan:80"), Verdict::Allowed);
        assert_eq!(verdict(&["app.lan:80"], "app.lan:81"), Verdict::Denied);
        assert_eq!(verdict(&["app.lan:80"], "www.app.lan:80"), Verdict::Denied);
        assert_eq!(verdict(&["10.0.0.0/8:80"], "app.lan:80"), Verdict::ByAddress);
        assert_eq!(verdict(&["10.0.0.0/8:80"], "app.lan:81"), Verdict::Denied);
        assert_eq!(verdict(&["10.0.0.0/8:80", "app.lan:80"], "app.lan:80"), Verdict::Allowed);
        // A rule for the name says nothing about the address it has.
        assert_eq!(verdict(&["localhost:80"], "127.0.0.1:80"), Verdict::Denied);
    }

    #[test]
    fn rules_that_make_no_sense_say_so() {
        let error = |text: &str| text.parse::<AllowRule>().expect_err(text);
        assert_eq!(error("8080"), AllowRuleError::NoPort);
        assert_eq!(error("[::1]"), AllowRuleError::NoPort);
        for port in ["", "0", "+80", "70000", "80-", "-80", "90-80", "**", "80,81"] {
            assert_eq!(error(&format!("127.0.0.1:{port}")), AllowRuleError::Port(port.into()));
        }
        for host in ["", "*", "a b", "::1", "[app.lan]", "[127.0.0.1]", "10.0.0.0/33", "http://app", "fd00::/8"] {
            assert_eq!(error(&format!("{host}:80")), AllowRuleError::Host(host.into()));
        }
    }

    #[test]
    fn rules_are_printed_as_they_are_written() {
        for text in ["127.0.0.1:80", "10.0.0.0/8:8000-8100", "[::1]:*", "[fd00::/8]:1-2", "app.lan:443"] {
            assert_eq!(text.parse::<AllowRule>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn targets_are_names_or_addresses_with_a_port() {
        assert_eq!(Target::parse("app:80"), Some(Target { host: Host::Name("app"), port: 80 }));
        for text in ["", "app", "app:", "app:0", "::1:80", "[app]:80", "unix:/run/app.sock", "a/b:80", ":80"] {
            assert_eq!(Target::parse(text), None, "{text}");
        }
    }
}
