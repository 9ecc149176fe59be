//! Hosts with their ports, as they stand in a request and in objects.

use std::net::Ipv6Addr;

/// A host, and the port where there is one, as both are written: an IPv6 address keeps its brackets, and a port may be empty.
#[must_use]
pub fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// Whether a text may stand in a `Host` field: `uri-host [ ":" port ]` (RFC 9110, 7.2), without the characters that no name in use
/// has. What visitors may ask for and what backends may be told is the same.
#[must_use]
pub fn is_authority(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let (host, port) = split_port(text);
    let host_is_good = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b)),
    };
    host_is_good && port.is_none_or(is_port)
}

/// A port may be empty, which is the scheme's own (RFC 3986, 3.2.3).
fn is_port(digits: &str) -> bool {
    let is_number = digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok();
    digits.is_empty() || is_number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_stands_behind_the_last_colon_outside_brackets() {
        for (authority, host, port) in [
            ("a", "a", None),
            ("a:80", "a", Some("80")),
            ("a:", "a", Some("")),
            ("[::1]", "[::1]", None),
            ("[::1]:80", "[::1]", Some("80")),
        ] {
            assert_eq!(split_port(authority), (host, port));
        }
    }

    #[test]
    fn an_authority_is_a_name_or_an_address_and_a_port() {
        for authority in [
            "a",
            "A.example",
            "a.",
            "a:80",
            "a:",
            "a:00080",
            "a:65535",
            "my_db",
            "a~b",
            "[::1]",
            "[2001:db8::1]:80",
            "[::1]:",
            "127.0.0.1",
            "xn--bcher-kva.example",
        ] {
            assert!(is_authority(authority.as_bytes()), "{authority}");
        }
        for wrong in [
            "",
            ":80",
            "a b",
            "a/b",
            "a@b",
            "a:b",
            "a:+80",
            "a:80:80",
            "a:65536",
            "a:999999",
            "a:000080",
            "[::1",
            "[a]",
            "[::1%1]",
            "::1",
            "[]",
            "a,b",
            "[::1]x",
            "[::1]:x",
            "b\u{fc}cher",
        ] {
            assert!(!is_authority(wrong.as_bytes()), "{wrong}");
        }
        assert!(!is_authority(b"a\xff"));
    }
}
