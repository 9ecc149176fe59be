use std::net::IpAddr;

/// Where a link wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Target<'a> {
    Tcp {
        host: Host<'a>,
        port: u16,
    },
    /// The path of a socket.
    Unix(&'a str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Host<'a> {
    Name(&'a str),
    Address(IpAddr),
}

// === impl Target ===

impl<'a> Target<'a> {
    /// Reads `host:port` or `unix:/path`; `None` where it is something else.
    pub(in crate::agent) fn parse(text: &'a str) -> Option<Self> {
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

/// A number from 1 to 65535 without sign.
pub(super) fn parse_port(text: &str) -> Option<u16> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}

/// A whole path in one spelling: without `.`, `..` and empty parts, so that rules and targets can be compared as text, and
/// as long as the system takes it.
pub(super) fn is_socket_path(text: &str) -> bool {
    const MAX: usize = 107;
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"._@%+=~:-".contains(&b);
    let part = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(inner);
    text.len() <= MAX && text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(part))
}

/// Underscores are no DNS names, but container networks resolve them.
pub(super) fn is_name(text: &str) -> bool {
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
        assert_eq!(Target::parse("app:80"), Some(Target::Tcp { host: Host::Name("app"), port: 80 }));
        for text in
            ["", "app", "app:", "app:0", "::1:80", "[app]:80", "unix:app.sock", "a/b:80", ":80", "app..:80", "a..b:80"]
        {
            assert_eq!(Target::parse(text), None, "{text}");
        }
        for text in ["127.1:80", "2130706433:80", "0x7f.0X1:80", "127.0.0.1.:80", "app.0x:80"] {
            assert_eq!(Target::parse(text), None, "{text} may be an address");
        }
        assert_eq!(Target::parse("app.x1:80"), Some(Target::Tcp { host: Host::Name("app.x1"), port: 80 }));
    }
}
