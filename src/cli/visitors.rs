//! What `serve` asks of all visitors alike, and grants them.

use std::{num::NonZeroUsize, time::Duration};

use ipnet::IpNet;

use super::Failure;
use crate::{
    proxy::{self, TrustedProxies},
    telemetry::access_log::AccessLogFormat,
};

/// The least that hyper can be told to read a head into.
const LEAST_HEADER_BYTES: u32 = 8192;

#[derive(Debug, clap::Args)]
pub(super) struct VisitorArgs {
    /// Networks of the proxies in front of the edge, whose X-Forwarded-* and X-Request-Id are believed.
    #[arg(long, value_name = "CIDR", env = "CULVERT_TRUSTED_PROXIES", value_delimiter = ',')]
    trusted_proxies: Vec<IpNet>,
    /// Visitors come through a balancer that begins each connection with a header of the PROXY protocol, version 1 or 2, on
    /// --http and --https. A connection without one is closed, and so is one that does not come from --proxy-protocol-from.
    #[arg(long, env = "CULVERT_PROXY_PROTOCOL")]
    proxy_protocol: bool,
    /// Networks of the balancers that send PROXY headers. Without it they are those of --trusted-proxies.
    #[arg(
        long,
        value_name = "CIDR",
        env = "CULVERT_PROXY_PROTOCOL_FROM",
        value_delimiter = ',',
        requires = "proxy_protocol"
    )]
    proxy_protocol_from: Vec<IpNet>,
    /// Tell backends of the visitor by Forwarded (RFC 7239) too, beside X-Forwarded-*.
    #[arg(long, env = "CULVERT_FORWARDED")]
    forwarded: bool,
    /// The port where visitors find the edge with TLS, for those whom a TunnelHost sends there.
    #[arg(long, value_name = "PORT", default_value_t = 443, env = "CULVERT_PUBLIC_HTTPS_PORT")]
    public_https_port: u16,
    /// A line for each request on standard output: as JSON with all that is known, in the Common Log Format, or none.
    /// Passwords are never written, and query parameters such as `token` without their values.
    #[arg(long, value_enum, default_value_t, env = "CULVERT_ACCESS_LOG")]
    access_log: AccessLogArg,
    /// How long a visitor may take for a request's head, from its first byte (then it is answered 408), and for a TLS
    /// handshake; as in 10s or 1m30s.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, env = "CULVERT_HEADER_TIMEOUT")]
    header_timeout: Duration,
    /// How long a connection may stay without a request.
    #[arg(long, value_name = "DURATION", default_value = "75s", value_parser = duration, env = "CULVERT_IDLE_TIMEOUT")]
    idle_timeout: Duration,
    /// The largest head of a request, in bytes, at least 8192; more is answered 431.
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 65_536,
        value_parser = clap::value_parser!(u32).range(i64::from(LEAST_HEADER_BYTES)..),
        env = "CULVERT_MAX_HEADER_BYTES"
    )]
    max_header_bytes: u32,
    /// The most fields in a request's head; more are answered 431. Over HTTP/2 the bytes alone count.
    #[arg(long, value_name = "NUMBER", default_value = "100", env = "CULVERT_MAX_HEADERS")]
    max_headers: NonZeroUsize,
    /// The most connections of visitors at a time, of each listener; one more is closed at once. Without it, any number.
    /// WebSockets over HTTP/1.1 do not count.
    #[arg(long, value_name = "NUMBER", env = "CULVERT_MAX_CONNECTIONS")]
    max_connections: Option<NonZeroUsize>,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum AccessLogArg {
    Off,
    #[default]
    Json,
    Clf,
}

// === impl VisitorArgs ===

impl VisitorArgs {
    /// How requests are logged, if they are.
    pub(super) fn access_log(&self) -> Option<AccessLogFormat> {
        match self.access_log {
            AccessLogArg::Off => None,
            AccessLogArg::Json => Some(AccessLogFormat::Json),
            AccessLogArg::Clf => Some(AccessLogFormat::Clf),
        }
    }

    /// The proxy's configuration, as yet without a log.
    pub(super) fn into_config(self) -> Result<proxy::Config, Failure> {
        let proxy_protocol = self.proxy_protocol()?;
        Ok(proxy::Config {
            proxy_protocol,
            trusted_proxies: TrustedProxies::new(self.trusted_proxies),
            forwarded: self.forwarded,
            public_https_port: self.public_https_port,
            header_timeout: self.header_timeout,
            idle_timeout: self.idle_timeout,
            max_header_bytes: usize::try_from(self.max_header_bytes).unwrap_or(usize::MAX),
            max_headers: self.max_headers.get(),
            max_connections: self.max_connections.map(NonZeroUsize::get),
            ..proxy::Config::default()
        })
    }

    /// Whose PROXY headers are taken, where connections have them.
    fn proxy_protocol(&self) -> Result<Option<TrustedProxies>, Failure> {
        if !self.proxy_protocol {
            return Ok(None);
        }
        let own = !self.proxy_protocol_from.is_empty();
        let networks = if own { &self.proxy_protocol_from } else { &self.trusted_proxies };
        if networks.is_empty() {
            return Err("--proxy-protocol would close every connection: say whose header is believed, with \
                        --proxy-protocol-from or --trusted-proxies"
                .into());
        }
        Ok(Some(TrustedProxies::new(networks.clone())))
    }
}

/// As Go writes them, and more than none.
fn duration(text: &str) -> Result<Duration, String> {
    match any_duration(text)? {
        Duration::ZERO => Err("it must be more than zero".to_owned()),
        duration => Ok(duration),
    }
}

/// A duration that may be zero.
pub(super) fn any_duration(text: &str) -> Result<Duration, String> {
    let parsed: kube::core::Duration = text.parse().map_err(|error| format!("{error}; write it as in 10s or 1m30s"))?;
    if parsed.is_negative() { Err("it must not be negative".to_owned()) } else { Ok(parsed.into()) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        visitors: VisitorArgs,
    }

    #[test]
    fn without_flags_it_is_the_proxys_own_default() {
        let line = Line::try_parse_from(["serve"]).expect("a command line").visitors.into_config().expect("valid");
        assert_eq!(format!("{line:?}"), format!("{:?}", proxy::Config::default()));
    }

    #[test]
    fn a_proxy_header_needs_somebody_to_believe() {
        let config = |flags: &[&str]| {
            Line::try_parse_from(["serve"].iter().chain(flags)).expect("a command line").visitors.into_config()
        };
        let error = config(&["--proxy-protocol"]).expect_err("nobody is believed").to_string();
        assert!(error.contains("--proxy-protocol-from"), "{error}");
        let trusts = |flags: &[&str], peer: &str| {
            let trusted = config(flags).expect("valid").proxy_protocol.expect("on");
            trusted.contains(peer.parse().expect("an address"))
        };
        assert!(trusts(&["--proxy-protocol", "--trusted-proxies", "10.0.0.0/8"], "10.1.1.1"));
        let both = ["--proxy-protocol", "--trusted-proxies", "10.0.0.0/8", "--proxy-protocol-from", "192.0.2.0/24"];
        assert!(trusts(&both, "192.0.2.1") && !trusts(&both, "10.1.1.1"));
    }

    #[test]
    fn limits_that_would_shut_everybody_out_are_refused() {
        for flags in [
            ["--header-timeout", "0s"],
            ["--idle-timeout", "-1s"],
            ["--header-timeout", "ten"],
            ["--max-header-bytes", "10"],
            ["--max-headers", "0"],
            ["--max-connections", "0"],
        ] {
            assert!(Line::try_parse_from(["serve"].iter().chain(&flags)).is_err(), "{flags:?}");
        }
        let line = Line::try_parse_from(["serve", "--header-timeout", "1m30s"]).expect("a command line");
        assert_eq!(line.visitors.header_timeout, Duration::from_secs(90));
    }
}
