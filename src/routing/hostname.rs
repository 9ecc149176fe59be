use std::{borrow::Cow, fmt, net::IpAddr, str::FromStr, sync::Arc};

use super::split_port;
use crate::tunnel::name::is_label;

/// What a TunnelHost claims: one DNS name, or all names under one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hostname {
    /// This name alone, in lower case.
    Exact(Arc<str>),
    /// `*.` and this suffix: one or more labels in front of it, never the bare suffix.
    Wildcard(Arc<str>),
}

/// Why a text is no hostname.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    /// Nothing is left of it.
    #[error("it is empty")]
    Empty,
    /// RFC 1035, 2.3.4.
    #[error("it is longer than 253 characters")]
    TooLong,
    /// A label breaks the syntax of RFC 1123.
    #[error("the label {0:?} is not 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit")]
    Label(String),
    /// `*` stands somewhere else than in front of the first dot.
    #[error("'*' may stand only as the whole first label, as in \"*.example.com\"")]
    Asterisk,
    /// An address is no name: there is nothing to match by.
    #[error("it is an IP address, not a DNS name")]
    Address,
}

// === impl Hostname ===

impl Hostname {
    /// Whether a normalized host is this name or, for a wildcard, under it.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Wildcard(suffix) => {
                host.strip_suffix(&**suffix).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
            }
        }
    }
}

impl FromStr for Hostname {
    type Err = HostnameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.to_ascii_lowercase();
        let (wildcard, name) = match lower.strip_prefix("*.") {
            Some(suffix) => (true, suffix),
            None => (false, &*lower),
        };
        if name.is_empty() {
            return Err(HostnameError::Empty);
        }
        if lower.len() > 253 {
            return Err(HostnameError::TooLong);
        }
        if name.contains('*') {
            return Err(HostnameError::Asterisk);
        }
        if name.parse::<IpAddr>().is_ok() {
            return Err(HostnameError::Address);
        }
        if let Some(label) = name.split('.').find(|label| !is_label(label)) {
            return Err(HostnameError::Label(label.to_owned()));
        }
        let name = Arc::from(name);
        Ok(if wildcard { Self::Wildcard(name) } else { Self::Exact(name) })
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

/// The part of a `Host` header (or an authority) that is matched: without port and trailing dot, in lower case.
///
/// Borrows where nothing has to change. An IPv6 literal keeps its brackets, as RFC 3986 writes it.
#[must_use]
pub fn normalize_host(authority: &str) -> Cow<'_, str> {
    let (host, _) = split_port(authority);
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn host(text: &str) -> Hostname {
        text.parse().expect("a hostname")
    }

    #[test]
    fn a_wildcard_stands_for_one_or_more_labels() {
        let wildcard = host("*.Example.com");
        assert!(wildcard.matches("a.example.com"));
        assert!(wildcard.matches("a.b.example.com"));
        assert!(!wildcard.matches("example.com"));
        assert!(!wildcard.matches(".example.com"));
        assert!(!wildcard.matches("badexample.com"));
    }

    #[test]
    fn bad_names_say_why() {
        let error = |text: &str| text.parse::<Hostname>().expect_err("not a hostname");
        assert_eq!(error(""), HostnameError::Empty);
        assert_eq!(error("*."), HostnameError::Empty);
        assert_eq!(error("a.*.com"), HostnameError::Asterisk);
        assert_eq!(error("*"), HostnameError::Asterisk);
        assert_eq!(error("under_score.com"), HostnameError::Label("under_score".into()));
        assert_eq!(error("a..b"), HostnameError::Label(String::new()));
        assert_eq!(error("-a.com"), HostnameError::Label("-a".into()));
        assert_eq!(error("10.0.0.1"), HostnameError::Address);
        assert_eq!(error(&"a.".repeat(130)), HostnameError::TooLong);
    }

    #[test]
    fn a_host_header_loses_port_case_and_dot() {
        assert_eq!(normalize_host("Shop.Example.com:8080"), "shop.example.com");
        assert_eq!(normalize_host("shop.example.com."), "shop.example.com");
        assert_eq!(normalize_host("[::1]:80"), "[::1]");
        assert_eq!(normalize_host("[::1]"), "[::1]");
    }
}
