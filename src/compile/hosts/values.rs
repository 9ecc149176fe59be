//! Texts of objects as values. Each error says what is wrong and what to write instead.

use std::{borrow::Cow, net::IpAddr, ops::RangeInclusive, time::Duration};

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::routing::{is_never_routed, is_protected, normalize_path};

/// What a duration may be, as the schema has it: a resource that an API server took is never refused here.
pub(super) const HSTS_MAX_AGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(87600);
pub(super) const CONNECT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_mins(1);
pub(super) const RESPONSE_HEADER: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(24);
pub(super) const STREAM_IDLE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);
pub(super) const CHECK_INTERVAL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);
pub(super) const CHECK_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_mins(1);
pub(super) const RETRY_AFTER: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);
pub(super) const UPGRADE_IDLE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(168);

/// A duration as Go writes them, of hours, minutes, seconds and milliseconds, within bounds.
pub(super) fn duration(text: &str, bounds: RangeInclusive<Duration>) -> Result<Duration, String> {
    let value = parse_duration(text).ok_or_else(|| {
        format!("{text:?} is no duration; write numbers with the units h, m, s or ms, as in \"1h30m\" or \"2.5s\"")
    })?;
    if bounds.contains(&value) {
        return Ok(value);
    }
    Err(format!("{text:?} is not from {:?} to {:?}", bounds.start(), bounds.end()))
}

fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = rest.split_at(end);
        let end = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        let (unit, after) = unit.split_at(end);
        let millis = match unit {
            "h" => 3_600_000.0,
            "m" => 60_000.0,
            "s" => 1000.0,
            "ms" => 1.0,
            _ => return None,
        };
        let number: f64 = number.parse().ok()?;
        total = total.checked_add(Duration::try_from_secs_f64(number * millis / 1000.0).ok()?)?;
        rest = after;
    }
    (!text.is_empty()).then_some(total)
}

/// A network, or a single address as the network of it alone.
pub(in crate::compile) fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let network = network
        .map_err(|_| format!("{text:?} is no network; write it as in \"203.0.113.0/24\" or \"2001:db8::/32\""))?;
    // Addresses are compared in their own family.
    match network {
        IpNet::V6(network) if network.addr().to_ipv4_mapped().is_some() => {
            Err(format!("{text:?} stands for IPv4 addresses; write them as such, as in \"203.0.113.0/24\""))
        }
        network => Ok(network.trunc()),
    }
}

/// The name of a header field that may be changed.
pub(super) fn header_name(name: &str) -> Result<HeaderName, String> {
    let parsed = field_name(name)?;
    match parsed.as_str() {
        "host" => Err(format!("{name:?} cannot be changed here; set backend.hostHeader")),
        lower if is_protected(lower) => Err(format!(
            "{name:?} belongs to the connection or to the framing of the message, and cannot be changed; remove it here"
        )),
        _ => Ok(parsed),
    }
}

/// The name of a header field that a request may have to have.
pub(super) fn matched_name(name: &str) -> Result<HeaderName, String> {
    let parsed = field_name(name)?;
    if is_never_routed(parsed.as_str()) {
        return Err(format!(
            "{name:?} belongs to the connection and is gone before routes are looked at, so that it would never match; \
             remove it here"
        ));
    }
    Ok(parsed)
}

fn field_name(name: &str) -> Result<HeaderName, String> {
    HeaderName::try_from(name)
        .map_err(|_| format!("{name:?} is no name of a header field; write letters, digits and '-'"))
}

/// The value of a header field; its text is not repeated, since it may be a password.
pub(super) fn header_value(text: &str) -> Result<HeaderValue, String> {
    let plain = text.bytes().all(|b| matches!(b, b'\t' | b' '..=b'~'));
    let value = HeaderValue::from_str(text.trim_matches([' ', '\t'])).ok().filter(|_| plain);
    value.ok_or_else(|| "the value must be printable ASCII".to_owned())
}

/// A path in the form that requests' paths are compared in.
pub(super) fn path(value: &str) -> Result<Cow<'_, str>, String> {
    url_path(value).map_err(|problem| format!("{value:?} is no path: {problem}"))?;
    normalize_path(value).ok_or_else(|| format!("{value:?} is no path: it must not have a segment '.' or '..'"))
}

/// A path as it stands in a URL.
pub(super) fn url_path(value: &str) -> Result<&str, &'static str> {
    let plain = |b: u8| b.is_ascii_graphic() && b != b'?' && b != b'#';
    if !value.starts_with('/') {
        Err("it must begin with '/'")
    } else if value.bytes().all(plain) {
        Ok(value)
    } else {
        Err("it must be printable ASCII without spaces, '?' and '#'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        let parsed = |text: &str| parse_duration(text);
        assert_eq!(parsed("1h30m"), Some(Duration::from_mins(90)));
        assert_eq!(parsed("2.5s"), Some(Duration::from_millis(2500)));
        assert_eq!(parsed("1m500ms"), Some(Duration::from_millis(60_500)));
        for wrong in ["", "5", "s", "5 s", "-5s", "5d", "1h30", "1..5s", "1e3s", "99999999999999999999h", "5µs", "5é"]
        {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
        assert_eq!(duration("0s", CONNECT).expect_err("too short"), "\"0s\" is not from 100ms to 60s");
    }

    #[test]
    fn networks_and_addresses_are_networks() {
        let network = |text: &str| network(text).map(|network| network.to_string());
        assert_eq!(network("203.0.113.7/24").as_deref(), Ok("203.0.113.0/24"));
        assert_eq!(network("203.0.113.7").as_deref(), Ok("203.0.113.7/32"));
        assert_eq!(network("2001:db8::1").as_deref(), Ok("2001:db8::1/128"));
        for wrong in ["", "203.0.113", "203.0.113.0/33", "example.com", "::ffff:10.0.0.0/104"] {
            assert!(network(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_gone_before_routing_cannot_be_asked_for() {
        for name in ["X-Team", "TE", "Host", "Content-Length", "Expect"] {
            assert!(matched_name(name).is_ok(), "{name}");
        }
        for wrong in ["Upgrade", "connection", "HTTP2-Settings", "Proxy", "Proxy-Authorization", "Transfer-Encoding"] {
            assert!(matched_name(wrong).expect_err(wrong).contains("never match"), "{wrong}");
        }
        assert!(matched_name("a b").expect_err("no name").contains("is no name"));
    }

    #[test]
    fn what_frames_a_message_cannot_be_changed() {
        assert_eq!(header_name("X-Team").expect("a name"), "x-team");
        assert!(header_name("Host").expect_err("protected").contains("backend.hostHeader"));
        for wrong in ["Content-Length", "transfer-encoding", "Connection", "Upgrade", "TE", "Keep-Alive"] {
            assert!(header_name(wrong).expect_err(wrong).contains("framing"), "{wrong}");
        }
        for wrong in [":path", "a b", "", "a\r\nb"] {
            assert!(header_name(wrong).expect_err(wrong).contains("is no name"), "{wrong}");
        }
        for wrong in ["a\r\nb: c", "a\0", "ä"] {
            assert!(header_value(wrong).is_err(), "{wrong}");
        }
    }
}
