use std::{num::NonZeroU32, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;

/// A policy of a rule: what a request has to pass before it is forwarded, or what is changed in it or in its response.
/// Filters are applied in the order of [`super::Rule::filters`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Over TLS only: a request that came without is answered 308 to the same place under `https`.
    RequireTls,
    /// Visitors from these addresses only; else 403.
    Access(Arc<Access>),
    /// At most so many requests a second; else 429 and `Retry-After`.
    RequestRate(Arc<RequestRate>),
    /// At most so many requests at a time; else 429 and `Retry-After`.
    ConcurrentRequests(ConcurrentRequests),
    /// HTTP Basic authentication (RFC 7617); else 401.
    BasicAuth(Arc<BasicAuth>),
    /// A request's body of at most so many bytes; else 413.
    BodySize(u64),
    /// Changes to the request's header fields.
    RequestHeaders(Arc<HeaderRules>),
    /// Changes to the header fields of the backend's response.
    ResponseHeaders(Arc<HeaderRules>),
    /// `Strict-Transport-Security` (RFC 6797) with this value on every response that goes over TLS, the edge's own too.
    Hsts(HeaderValue),
    /// Puts another prefix in the place of the one that the rule's path matched.
    ReplacePrefix(Arc<str>),
}

/// For which routes a policy counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// For all routes of its TunnelHost that have no policy of their own.
    Host,
    /// For this one of `spec.routes`.
    Route(usize),
}

/// From where visitors may come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Only these networks; empty, all.
    pub allow: Vec<IpNet>,
    /// Not these, even where `allow` has them.
    pub deny: Vec<IpNet>,
}

/// How many requests a second are let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRate {
    /// What is counted together.
    pub scope: Scope,
    /// Requests a second, on average.
    pub per_second: NonZeroU32,
    /// How many may come at once.
    pub burst: NonZeroU32,
    /// Whose requests are counted together.
    pub per: RateKey,
}

/// Whose requests are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RateKey {
    /// Those of one visitor's address; of IPv6, of one /64.
    ClientIp,
    /// All.
    All,
}

/// How many requests are in progress at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConcurrentRequests {
    /// What is counted together.
    pub scope: Scope,
    /// Requests in progress and upgraded connections, over all replicas.
    pub most: u32,
}

/// Changes to header fields: first those removed, then those set, then those added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRules {
    /// Fields that go.
    pub remove: Vec<HeaderName>,
    /// Fields that get this one value, whatever they had.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Fields that get this value too.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

/// Who gets in with HTTP Basic authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicAuth {
    /// The realm that the visitor's browser shows.
    pub realm: Arc<str>,
    /// Those who may enter.
    pub users: Vec<User>,
}

/// A visitor's name and the password that proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name, compared byte by byte.
    pub name: Arc<str>,
    /// The password.
    pub password: Password,
}

/// A visitor's password, in the form that its Secret holds. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// As is, from a Secret of type `kubernetes.io/basic-auth`.
    Plain(Arc<str>),
    /// A bcrypt hash, from a line of a Secret of type `culvert.dev/htpasswd`.
    Bcrypt(Arc<str>),
}

/// How long a request may wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the backend to take a connection; default 5 s.
    pub connect: Duration,
    /// For the head of a response, from the end of the request's upload; default 60 s.
    pub response_head: Duration,
    /// For the next byte of either body once the response has begun; default 5 min.
    pub stream_idle: Duration,
    /// For the next byte in either direction of an upgraded connection; default 1 h.
    pub upgrade_idle: Duration,
}

// === impl Access ===

impl Access {
    /// Whether a visitor with this address may come in.
    #[must_use]
    pub fn allows(&self, address: std::net::IpAddr) -> bool {
        let address = address.to_canonical();
        let among = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        (self.allow.is_empty() || among(&self.allow)) && !among(&self.deny)
    }
}

// === impl HeaderRules ===

impl HeaderRules {
    /// Whether the rules alone say what stands in the field of that name, in lower case: they remove it or set it, in this spelling
    /// or in one that a backend may take for the same.
    ///
    /// A backend that follows CGI cannot tell `X_Auth-Role` from `X-Auth-Role` (RFC 3875, 4.1.18), so that a visitor could put
    /// back under the one name what a rule takes away or sets under the other.
    #[must_use]
    pub fn governs(&self, name: &str) -> bool {
        let set = self.set.iter().map(|(name, _)| name);
        self.remove.iter().chain(set).any(|ruled| is_same_variable(ruled.as_str(), name))
    }
}

/// Whether both names come to the same variable of a CGI program.
fn is_same_variable(one: &str, other: &str) -> bool {
    let same = |(a, b): (u8, u8)| a == b || matches!((a, b), (b'-', b'_') | (b'_', b'-'));
    one.len() == other.len() && one.bytes().zip(other.bytes()).all(same)
}

// === impl Password ===

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain(…)",
            Self::Bcrypt(_) => "Bcrypt(…)",
        })
    }
}

// === impl Timeouts ===

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            response_head: Duration::from_mins(1),
            stream_idle: Duration::from_mins(5),
            upgrade_idle: Duration::from_hours(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_denied_is_denied_even_where_it_is_allowed() {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a network")).collect();
        let access = Access { allow: networks(&["10.0.0.0/8"]), deny: networks(&["10.1.0.0/16"]) };
        let allows = |address: &str| access.allows(address.parse().expect("an address"));
        assert!(allows("10.2.0.1"));
        assert!(allows("::ffff:10.2.0.1"), "as a dual-stack listener sees it");
        assert!(!allows("10.1.0.1"));
        assert!(!allows("192.0.2.1"));
        let deny_only = Access { allow: Vec::new(), ..access.clone() };
        assert!(deny_only.allows("2001:db8::1".parse().expect("an address")));
    }

    #[test]
    fn what_is_removed_or_set_is_so_in_every_spelling() {
        let name = HeaderName::from_static;
        let rules = HeaderRules {
            remove: vec![name("x-team"), name("x_old-name")],
            set: vec![(name("x-auth-role"), HeaderValue::from_static("user"))],
            add: vec![(name("x-more"), HeaderValue::from_static("1"))],
        };
        for governed in ["x-team", "x_team", "x-auth-role", "x_auth_role", "x-auth_role", "x-old-name", "x_old_name"] {
            assert!(rules.governs(governed), "{governed}");
        }
        // What is added stands beside what the visitor says.
        for free in ["x-more", "x_more", "x-teams", "xteam", "x.team", "team"] {
            assert!(!rules.governs(free), "{free}");
        }
        assert!(!HeaderRules::default().governs("x-team"));
    }
}
