//! What an agent may connect to: rules, and what they say of a target.

mod rule;

use std::{net::IpAddr, sync::Arc};

use tokio::sync::watch;

use self::rule::{AllowHost, AllowPlace};
pub use self::rule::{AllowRule, AllowRuleError};
use crate::tunnel::target::{Host, Target};

/// What an agent may connect to. Empty: nothing. Cheap to clone; all clones are one list, also when it is replaced.
#[derive(Clone, Debug)]
pub struct AllowList(watch::Sender<Arc<[AllowRule]>>);

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
            let error = format!("unix:{path}").parse::<AllowRule>().expect_err(path);
            assert_eq!(error, AllowRuleError::Path(path.into()));
        }
        assert_eq!(verdict(&["unix:80"], "unix:80"), Verdict::Allowed, "a host of that name");
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
}
