use std::net::IpAddr;

use ipnet::IpNet;

/// Destinations that no proxy is used for, as `NO_PROXY` lists them. There is no standard for that list; this is what
/// curl and Go's programs agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Exceptions(Vec<Exception>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Exception {
    host: Host,
    /// Unset, all ports.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Any,
    /// The name, and with it all names under it; in lower case, without dots at its ends.
    Name(String),
    /// An address is a network of its own. Names are not resolved to be compared with it.
    Network(IpNet),
}

// === impl Exceptions ===

impl Exceptions {
    /// Reads a list. Other programs read the same variable and every word is a name to some of them, so none is an error.
    pub(super) fn parse(list: &str) -> Self {
        let words = list.split([',', ' ']).map(str::trim).filter(|word| !word.is_empty());
        Self(words.filter_map(Exception::parse).collect())
    }

    pub(super) fn contain(&self, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        self.0.iter().any(|exception| {
            exception.port.is_none_or(|own| own == port)
                && match (&exception.host, address) {
                    (Host::Any, _) => true,
                    (Host::Network(network), Some(address)) => network.contains(&address.to_canonical()),
                    (Host::Name(name), None) => {
                        host.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                    }
                    (Host::Network(_), None) | (Host::Name(_), Some(_)) => false,
                }
        })
    }
}

// === impl Exception ===

impl Exception {
    fn parse(word: &str) -> Option<Self> {
        if let Some(host) = Host::parse_network(word) {
            return Some(Self { host, port: None });
        }
        let (host, port) = match word.rsplit_once(':') {
            Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (host, Some(port.parse().ok()?))
            }
            _ => (word, None),
        };
        if host == "*" {
            return Some(Self { host: Host::Any, port });
        }
        let host = Host::parse_network(host).or_else(|| {
            let name = host.trim_start_matches('*').trim_matches('.').to_ascii_lowercase();
            (!name.is_empty()).then_some(Host::Name(name))
        })?;
        Some(Self { host, port })
    }
}

// === impl Host ===

impl Host {
    fn parse_network(text: &str) -> Option<Self> {
        let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
        text.parse::<IpNet>().ok().or_else(address).map(Self::Network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_has_what_it_names_and_nothing_else() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            (
                "example.com",
                &["example.com", "a.example.com", "EXAMPLE.com."],
                &["badexample.com", "example.org", "com"],
            ),
            (".example.com", &["example.com", "a.b.example.com"], &["badexample.com"]),
            ("*.example.com", &["a.example.com"], &["badexample.com"]),
            ("10.0.0.0/8", &["10.255.0.1", "::ffff:10.0.0.1"], &["11.0.0.1", "10.0.0.1.nip.io"]),
            ("192.0.2.1", &["192.0.2.1"], &["192.0.2.10"]),
            ("::1, fd00::/8", &["::1", "fd12::3"], &["fe80::1"]),
            ("*", &["anything", "192.0.2.1"], &[]),
            ("", &[], &["anything"]),
            (", .,", &[], &["anything"]),
        ];
        for (list, inside, outside) in cases {
            let exceptions = Exceptions::parse(list);
            assert!(inside.iter().all(|host| exceptions.contain(host, 7443)), "{list}: {inside:?}");
            assert!(!outside.iter().any(|host| exceptions.contain(host, 7443)), "{list}: {outside:?}");
        }
    }

    #[test]
    fn a_port_narrows_it() {
        let exceptions = Exceptions::parse("edge:7443 10.0.0.1:443 [::1]:443");
        for (host, port) in [("edge", 7443), ("10.0.0.1", 443), ("::1", 443)] {
            assert!(exceptions.contain(host, port) && !exceptions.contain(host, 80), "{host}");
        }
    }
}
