use std::{fmt, net::IpAddr, ops::RangeInclusive, str::FromStr, sync::Arc};

use ipnet::IpNet;
use tokio::sync::watch;

/// What an agent may connect to. Empty: nothing. Cheap to clone; all clones are one list, also when it is replaced.
#[derive(Clone, Debug)]
pub struct AllowList(watch::Sender<Arc<[AllowRule]>>);

/// One permission, `[NAMESPACE=]HOST:PORT` or `[NAMESPACE=]unix:/PATH`. With a namespace it holds for the TunnelHosts of that
/// namespace only. The host is a name, all names under one (`*.web.svc.cluster.local`), an address or a network (`10.0.0.0/8`;
/// IPv6 in brackets), the port a number, a range (`8000-8100`) or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowRule {
    /// `None`: any.
    namespace: Option<String>,
    place: AllowPlace,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum AllowPlace {
    Tcp {
        host: AllowHost,
        ports: RangeInclusive<u16>,
    },
    /// The path of a socket.
    Unix(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum AllowHost {
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

/// Where a link wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    Tcp {
        host: Host<'a>,
        port: u16,
    },
    /// The path of a socket.
    Unix(&'a str),
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
    /// Only those of its addresses that [`AllowList::allows_address`], and where `elsewhere`, those that are neither this
    /// machine nor its link.
    ByAddress { elsewhere: bool },
    /// Not at all; there is no need to ask the resolver.
    Denied,
}

// === impl AllowList ===

impl AllowList {
    /// Whether it allows nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// The rules as they are now.
    #[must_use]
    pub fn rules(&self) -> Arc<[AllowRule]> {
        self.0.borrow().clone()
    }

    /// Puts other rules in the place of those that it has. What they do not allow any more is ended.
    pub fn replace(&self, rules: impl IntoIterator<Item = AllowRule>) {
        self.0.send_replace(rules.into_iter().collect());
    }

    /// Changes when the rules are replaced.
    pub(super) fn changes(&self) -> watch::Receiver<Arc<[AllowRule]>> {
        self.0.subscribe()
    }

    /// Whether a TunnelHost of that namespace may have a link to `target`.
    pub(super) fn verdict(&self, target: &Target<'_>, namespace: &str) -> Verdict {
        let rules = self.0.borrow();
        let mut rules = rules.iter().filter(|rule| rule.is_for(namespace)).map(|rule| &rule.place);
        match target {
            Target::Unix(path) => {
                let allowed = rules.any(|place| matches!(place, AllowPlace::Unix(allowed) if allowed == path));
                if allowed { Verdict::Allowed } else { Verdict::Denied }
            }
            Target::Tcp { host: Host::Address(address), port } => {
                let allowed = rules.any(|place| place.covers(address.to_canonical(), *port));
                if allowed { Verdict::Allowed } else { Verdict::Denied }
            }
            Target::Tcp { host: Host::Name(name), port } => {
                let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
                let mut verdict = Verdict::Denied;
                for place in rules {
                    let AllowPlace::Tcp { host, ports } = place else { continue };
                    match host {
                        _ if !ports.contains(port) => {}
                        AllowHost::Name(allowed) if *allowed == name => return Verdict::Allowed,
                        AllowHost::Suffix(suffix) if name.len() > suffix.len() && name.ends_with(suffix) => {
                            verdict = Verdict::ByAddress { elsewhere: true };
                        }
                        AllowHost::Network(_) if verdict == Verdict::Denied => {
                            verdict = Verdict::ByAddress { elsewhere: false };
                        }
                        AllowHost::Name(_) | AllowHost::Suffix(_) | AllowHost::Network(_) => {}
                    }
                }
                verdict
            }
        }
    }

    /// Whether a name with that verdict may be dialled at this address, which it resolved to.
    pub(super) fn allows_address(&self, verdict: Verdict, address: IpAddr, port: u16, namespace: &str) -> bool {
        // An IPv4 address in IPv6 clothes (::ffff:a.b.c.d) reaches the same place.
        let address = address.to_canonical();
        match verdict {
            Verdict::Allowed => true,
            Verdict::ByAddress { elsewhere: true } if is_elsewhere(address) => true,
            Verdict::ByAddress { .. } => {
                let rules = self.0.borrow();
                rules.iter().any(|rule| rule.is_for(namespace) && rule.place.covers(address, port))
            }
            Verdict::Denied => false,
        }
    }
}

impl Default for AllowList {
    fn default() -> Self {
        Self(watch::Sender::new(Arc::from([])))
    }
}

impl PartialEq for AllowList {
    fn eq(&self, other: &Self) -> bool {
        self.rules() == other.rules()
    }
}

impl FromIterator<AllowRule> for AllowList {
    fn from_iter<I: IntoIterator<Item = AllowRule>>(rules: I) -> Self {
        Self(watch::Sender::new(rules.into_iter().collect()))
    }
}

/// Whether an address is neither this machine nor what is on its link. Who may choose names under a suffix is often another
/// than who runs the agent, and must not reach by them what trusts its own machine, or a cloud's metadata.
fn is_elsewhere(address: IpAddr) -> bool {
    let here = address.is_loopback() || address.is_unspecified() || address.is_multicast();
    let on_link = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !here && !on_link
}

// === impl AllowRule ===

impl AllowRule {
    /// Whether it holds for the TunnelHosts of one namespace only.
    pub(super) fn is_of_namespace(&self) -> bool {
        self.namespace.is_some()
    }

    fn is_for(&self, namespace: &str) -> bool {
        self.namespace.as_ref().is_none_or(|own| own == namespace)
    }
}

impl FromStr for AllowRule {
    type Err = AllowRuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, place) = match text.split_once('=') {
            Some((namespace, place)) if is_namespace(namespace) => (Some(namespace.to_owned()), place),
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
    fn covers(&self, address: IpAddr, port: u16) -> bool {
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
        if let Some(path) = text.strip_prefix("unix:").filter(|path| path.starts_with('/')) {
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

/// The name of a namespace (RFC 1123).
fn is_namespace(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.len() <= 63 && text.bytes().all(inner)
}

/// A whole path in one spelling: without `.`, `..` and empty parts, so that rules and targets can be compared as text, and
/// as long as the system takes it.
fn is_socket_path(text: &str) -> bool {
    const MAX: usize = 107;
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"._@%+=~:-".contains(&b);
    let part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(inner);
    text.len() <= MAX && text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(part))
}

/// Underscores are no DNS names, but container networks resolve them.
fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    !text.is_empty() && text.len() <= 253 && !text.starts_with('.') && text.bytes().all(inner)
}

// === impl Target ===

impl<'a> Target<'a> {
    /// Reads `host:port` or `unix:/path`; `None` where it is something else.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| path.starts_with('/')) {
            return is_socket_path(path).then_some(Self::Unix(path));
        }
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
        Some(Self::Tcp { host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BY_NETWORK: Verdict = Verdict::ByAddress { elsewhere: false };
    const ELSEWHERE: Verdict = Verdict::ByAddress { elsewhere: true };

    fn list(rules: &[&str]) -> AllowList {
        rules.iter().map(|rule| rule.parse::<AllowRule>().expect(rule)).collect()
    }

    fn verdict_for(namespace: &str, rules: &[&str], target: &str) -> Verdict {
        list(rules).verdict(&Target::parse(target).expect(target), namespace)
    }

    fn verdict(rules: &[&str], target: &str) -> Verdict {
        verdict_for("web", rules, target)
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
        assert_eq!(verdict(&["10.0.0.0/8:80"], "app.lan:80"), BY_NETWORK);
        assert_eq!(verdict(&["10.0.0.0/8:80"], "app.lan:81"), Verdict::Denied);
        assert_eq!(verdict(&["10.0.0.0/8:80", "app.lan:80"], "app.lan:80"), Verdict::Allowed);
        // A rule for the name says nothing about the address it has.
        assert_eq!(verdict(&["localhost:80"], "127.0.0.1:80"), Verdict::Denied);
    }

    #[test]
    fn names_under_a_suffix_lead_elsewhere_only() {
        let rules = &["*.web.svc.cluster.local:80"];
        assert_eq!(verdict(rules, "shop.web.svc.cluster.local:80"), ELSEWHERE);
        assert_eq!(verdict(rules, "a.b.Web.svc.cluster.local.:80"), ELSEWHERE);
        for other in ["web.svc.cluster.local:80", "shop.web.svc.cluster.local:81", "xweb.svc.cluster.local:80", "a:80"]
        {
            assert_eq!(verdict(rules, other), Verdict::Denied, "{other}");
        }
        let allows = |rules: &[&str], address: &str| {
            list(rules).allows_address(ELSEWHERE, address.parse().expect(address), 80, "web")
        };
        assert!(allows(rules, "10.96.0.7") && allows(rules, "fd00::7"));
        for here in [
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "::ffff:127.0.0.1",
            "169.254.169.254",
            "fe80::1",
            "0.0.0.0",
            "::",
            "ff02::1",
        ] {
            assert!(!allows(rules, here), "{here}");
        }
        // Who wants that says it by the address.
        assert!(allows(&[rules[0], "127.0.0.0/8:80"], "127.0.0.1"));
        assert!(!allows(&[rules[0], "127.0.0.0/8:81"], "127.0.0.1"));
        // The name itself is another rule, and whatever it resolves to.
        assert_eq!(
            verdict(&[rules[0], "shop.web.svc.cluster.local:80"], "shop.web.svc.cluster.local:80"),
            Verdict::Allowed
        );
    }

    #[test]
    fn a_rule_of_a_namespace_holds_for_its_tunnel_hosts_only() {
        let rules = &["web=127.0.0.1:80", "web=*.lan:80", "web=unix:/run/a=b.sock", "10.0.0.1:80"];
        assert_eq!(verdict_for("web", rules, "127.0.0.1:80"), Verdict::Allowed);
        assert_eq!(verdict_for("shop", rules, "127.0.0.1:80"), Verdict::Denied);
        assert_eq!(verdict_for("shop", rules, "10.0.0.1:80"), Verdict::Allowed);
        assert_eq!(verdict_for("web", rules, "a.lan:80"), ELSEWHERE);
        assert_eq!(verdict_for("shop", rules, "a.lan:80"), BY_NETWORK, "it may still resolve to 10.0.0.1");
        let list = list(rules);
        assert!(!list.allows_address(BY_NETWORK, [127, 0, 0, 1].into(), 80, "shop"));
        assert!(list.allows_address(BY_NETWORK, [10, 0, 0, 1].into(), 80, "shop"));
        assert_eq!(verdict_for("web", rules, "unix:/run/a=b.sock"), Verdict::Allowed);
        assert_eq!(verdict_for("shop", rules, "unix:/run/a=b.sock"), Verdict::Denied);
    }

    #[test]
    fn sockets_are_allowed_by_their_path() {
        assert_eq!(verdict(&["unix:/run/app.sock"], "unix:/run/app.sock"), Verdict::Allowed);
        assert_eq!(verdict(&["unix:/run/app.sock"], "unix:/run/other.sock"), Verdict::Denied);
        assert_eq!(verdict(&["[::/0]:*", "0.0.0.0/0:*"], "unix:/run/app.sock"), Verdict::Denied);
        assert_eq!(verdict(&["unix:/run/app.sock"], "127.0.0.1:80"), Verdict::Denied);
        for path in ["/", "/run/", "/run//app", "/run/../app", "/./app", "/a b", "/a,b"] {
            assert_eq!(Target::parse(&format!("unix:{path}")), None, "{path}");
            let error = format!("unix:{path}").parse::<AllowRule>().expect_err(path);
            assert_eq!(error, AllowRuleError::Path(path.into()));
        }
        assert_eq!(Target::parse("unix:run/app.sock"), None);
        assert_eq!(verdict(&["unix:80"], "unix:80"), Verdict::Allowed, "a host of that name");
        assert_eq!(Target::parse(&format!("unix:/{}", "a".repeat(107))), None, "longer than the system takes");
    }

    #[test]
    fn rules_can_be_replaced_for_all_who_have_the_list() {
        let list = list(&["127.0.0.1:80"]);
        let other = list.clone();
        list.replace(["10.0.0.1:80".parse().expect("a rule")]);
        let target = Target::parse("127.0.0.1:80").expect("a target");
        assert_eq!(other.verdict(&target, "web"), Verdict::Denied);
        list.replace([]);
        assert!(other.is_empty());
    }

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

    #[test]
    fn targets_are_names_or_addresses_with_a_port() {
        assert_eq!(Target::parse("app:80"), Some(Target::Tcp { host: Host::Name("app"), port: 80 }));
        for text in ["", "app", "app:", "app:0", "::1:80", "[app]:80", "unix:app.sock", "a/b:80", ":80"] {
            assert_eq!(Target::parse(text), None, "{text}");
        }
    }
}
