use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use super::{Host, values};
use crate::{
    api,
    routing::{CheckTls, HealthCheck, PassiveHealth, Probe, Protocol, is_authority},
};

const INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(2);
const UNHEALTHY_AFTER: u32 = 3;
const HEALTHY_AFTER: u32 = 2;
/// The longest path of a check in bytes: many checks have to fit what an agent is told.
const MAX_PATH: usize = 256;

// === impl Host ===

impl Host<'_> {
    /// How a backend's targets are checked; what cannot be read is told, and then nothing is checked. `host` is the `Host`
    /// that the backend gets.
    pub(super) fn health_check(
        &mut self,
        field: &str,
        check: &api::HealthCheck,
        protocol: &Protocol,
        host: Option<&Arc<str>>,
    ) -> Option<Arc<HealthCheck>> {
        let probe = match (&check.http, &check.tcp) {
            (Some(http), None) => http_probe(&format!("{field}.http"), http, protocol, host),
            (None, Some(_)) => Ok(Probe::Tcp),
            _ => Err(format!("{field}: it must have either 'http' or 'tcp'; until then nothing is checked")),
        };
        let probe = probe.map_err(|problem| self.unsupported(problem)).ok();
        let mut duration = |name: &str, text: &Option<String>, bounds, unset| match text {
            None => unset,
            Some(text) => self.accept(&format!("{field}.{name}"), values::duration(text, bounds)).unwrap_or(unset),
        };
        let interval = duration("interval", &check.interval, values::CHECK_INTERVAL, INTERVAL);
        let timeout = duration("timeout", &check.timeout, values::CHECK_TIMEOUT, TIMEOUT);
        let mut times = |name: &str, number: Option<i32>, unset| {
            number.map_or(unset, |number| self.at_least_one(&format!("{field}.{name}"), number).get())
        };
        let unhealthy_after = times("unhealthyAfter", check.unhealthy_after, UNHEALTHY_AFTER);
        let healthy_after = times("healthyAfter", check.healthy_after, HEALTHY_AFTER);
        Some(Arc::new(HealthCheck { probe: probe?, interval, timeout, unhealthy_after, healthy_after }))
    }

    /// What failed connects mean; what cannot be read is told, and as if unset.
    pub(super) fn passive_health(&mut self, field: &str, passive: &api::PassiveHealth) -> PassiveHealth {
        let mut read = PassiveHealth::default();
        if let Some(times) = passive.unhealthy_after {
            read.unhealthy_after = self.at_least_one(&format!("{field}.unhealthyAfter"), times).get();
        }
        if let Some(text) = &passive.retry_after {
            let pause = self.accept(&format!("{field}.retryAfter"), values::duration(text, values::RETRY_AFTER));
            read.retry_after = pause.unwrap_or(read.retry_after);
        }
        if let Some(percent) = passive.max_ejected_percent {
            match u8::try_from(percent) {
                Ok(percent) if percent <= 100 => read.max_ejected_percent = percent,
                _ => drop(self.unsupported(format!(
                    "{field}.maxEjectedPercent: {percent} is not from 0 to 100; {} is used",
                    read.max_ejected_percent
                ))),
            }
        }
        read
    }
}

fn http_probe(
    field: &str,
    http: &api::HttpHealthCheck,
    protocol: &Protocol,
    host: Option<&Arc<str>>,
) -> Result<Probe, String> {
    let tls = match protocol {
        Protocol::Http => None,
        Protocol::Https(tls) => Some(CheckTls { server_name: tls.server_name.clone() }),
        Protocol::H2c => {
            return Err(format!(
                "{field}: it speaks HTTP/1.1, which backends of H2C and GRPC need not; use 'tcp' instead, until then nothing \
                 is checked"
            ));
        }
    };
    let path = http.path.as_str();
    let plain = path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if !plain || path.len() > MAX_PATH {
        return Err(format!(
            "{field}.path: {path:?} is no path of up to {MAX_PATH} characters that begins with '/'; until it is corrected, \
             nothing is checked"
        ));
    }
    let host = match &http.host {
        None => host.cloned(),
        Some(host) if is_authority(host.as_bytes()) => Some(host.as_str().into()),
        Some(host) => {
            return Err(format!(
                "{field}.host: {host:?} is not HOST or HOST:PORT; until it is corrected, nothing is checked"
            ));
        }
    };
    let mut expected = Vec::with_capacity(http.expected_statuses.len().max(1));
    for (index, text) in http.expected_statuses.iter().enumerate() {
        expected.push(statuses(text).ok_or_else(|| {
            format!(
                "{field}.expectedStatuses[{index}]: {text:?} is no status from 200 to 599 and no range of them; until it is \
                 corrected, nothing is checked"
            )
        })?);
    }
    if expected.is_empty() {
        expected.push(200..=399);
    }
    Ok(Probe::Http { path: path.into(), host, expected, tls })
}

/// A status, or a range with both its ends.
fn statuses(text: &str) -> Option<RangeInclusive<u16>> {
    let status = |text: &str| text.parse().ok().filter(|status| text.len() == 3 && (200..=599).contains(status));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(status(first)?..=status(last)?).filter(|range| !range.is_empty())
}
