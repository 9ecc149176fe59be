//! What a line says.

use std::{
    fmt::{self, Display, Formatter, Write as _},
    io::Write,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, SystemTime},
};

use serde::{Serialize, Serializer};

use super::AccessLogFormat;

/// Query parameters whose values are not written, in lower case: what grants access, in the names that it usually has.
const SECRETS: [&str; 22] = [
    "access_token",
    "api_key",
    "apikey",
    "api-key",
    "assertion",
    "auth",
    "authorization",
    "client_secret",
    "code",
    "credential",
    "id_token",
    "jwt",
    "key",
    "passwd",
    "password",
    "refresh_token",
    "secret",
    "session",
    "sig",
    "signature",
    "ticket",
    "token",
];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// One request, or what it became after a switch of protocols, once it is over.
#[derive(Clone, Debug, Serialize)]
pub struct Entry<'a> {
    /// When its head had come.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// How long it took, to the last byte of its response; written in seconds.
    #[serde(serialize_with = "seconds")]
    pub duration: Duration,
    /// The visitor's address, behind trusted proxies.
    pub visitor: IpAddr,
    /// The method.
    pub method: &'a str,
    /// The host that was asked for.
    pub host: &'a str,
    /// The path with its query, in which the values of secrets are replaced by `REDACTED`.
    #[serde(serialize_with = "redacted")]
    pub path: &'a str,
    /// `HTTP/1.1`, or another version.
    pub protocol: &'a str,
    /// The version of TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<&'a str>,
    /// The status of the response; 499 where the visitor left before it.
    pub status: u16,
    /// Bytes of the request's body, or of the join, from the visitor.
    pub received: u64,
    /// Bytes of the response's body, or of the join, to the visitor.
    pub sent: u64,
    /// The TunnelHost, `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "joined")]
    pub tunnelhost: Option<(&'a str, &'a str)>,
    /// The agent that the last attempt went to: its name, and where it is not of the TunnelHost's namespace, `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<&'a str>,
    /// The target of the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<&'a str>,
    /// Attempts beyond the first.
    pub retries: u32,
    /// The status of the backend's response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_status: Option<u16>,
    /// From the last attempt's begin to the head of the backend's response; written in seconds.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_seconds")]
    pub backend_time: Option<Duration>,
    /// The id that the backend got too.
    pub request_id: &'a str,
    /// The trace that the visitor's request belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<&'a str>,
    /// Why it failed, as `culvert_errors_total` names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
}

/// A path with its query, without what must not be written.
struct Redacted<'a>(&'a str);

/// A moment in UTC.
struct Utc {
    year: u64,
    month: usize,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    millis: u32,
}

// === impl Entry ===

impl Entry<'_> {
    /// Appends the line, with its end.
    pub(super) fn write(&self, format: AccessLogFormat, line: &mut Vec<u8>) {
        let written = match format {
            AccessLogFormat::Json => serde_json::to_writer(&mut *line, self).map_err(std::io::Error::from),
            AccessLogFormat::Clf => self.write_clf(line),
        };
        if written.is_ok() {
            line.push(b'\n');
        } else {
            // Nothing above can fail to be written into memory; half a line would spoil the next one.
            line.clear();
        }
    }

    fn write_clf(&self, line: &mut Vec<u8>) -> std::io::Result<()> {
        let Utc { year, month, day, hour, minute, second, .. } = Utc::from(self.time);
        write!(
            line,
            "{} - - [{day:02}/{}/{year}:{hour:02}:{minute:02}:{second:02} +0000] \"{} {} {}\" {} {}",
            self.visitor,
            MONTHS[month - 1],
            self.method,
            Quoted(self.path),
            self.protocol,
            self.status,
            self.sent
        )
    }
}

impl Default for Entry<'_> {
    fn default() -> Self {
        Self {
            time: SystemTime::UNIX_EPOCH,
            duration: Duration::ZERO,
            visitor: Ipv4Addr::UNSPECIFIED.into(),
            method: "GET",
            host: "",
            path: "/",
            protocol: "HTTP/1.1",
            tls: None,
            status: 0,
            received: 0,
            sent: 0,
            tunnelhost: None,
            agent: None,
            target: None,
            retries: 0,
            backend_status: None,
            backend_time: None,
            request_id: "-",
            trace_id: None,
            reason: None,
        }
    }
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let Utc { year, month, day, hour, minute, second, millis } = Utc::from(*time);
    serializer
        .collect_str(&format_args!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"))
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    // Microseconds, as far as a clock can be believed.
    serializer.serialize_f64((duration.as_secs_f64() * 1e6).round() / 1e6)
}

#[expect(clippy::ref_option, reason = "serde passes the field by reference")]
fn some_seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    seconds(&duration.unwrap_or_default(), serializer)
}

fn redacted<S: Serializer>(path: &&str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Redacted(path))
}

#[expect(clippy::ref_option, reason = "serde passes the field by reference")]
fn joined<S: Serializer>(name: &Option<(&str, &str)>, serializer: S) -> Result<S::Ok, S::Error> {
    let (namespace, name) = name.unwrap_or_default();
    serializer.collect_str(&format_args!("{namespace}/{name}"))
}

// === impl Redacted ===

impl Display for Redacted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some((path, query)) = self.0.split_once('?') else { return f.write_str(self.0) };
        f.write_str(path)?;
        for (place, parameter) in query.split('&').enumerate() {
            f.write_char(if place == 0 { '?' } else { '&' })?;
            match parameter.split_once('=') {
                Some((name, value)) if !value.is_empty() && is_secret(name) => write!(f, "{name}=REDACTED")?,
                _ => f.write_str(parameter)?,
            }
        }
        Ok(())
    }
}

/// By its whole name, or by the last part of one like `X-Amz-Signature` or `reset_password_token`.
fn is_secret(name: &str) -> bool {
    let last = name.rsplit_once(['-', '_', '.']).map_or(name, |(_, last)| last);
    SECRETS.iter().any(|secret| name.eq_ignore_ascii_case(secret) || last.eq_ignore_ascii_case(secret))
}

/// A redacted path that ends neither the quotes around it nor the line.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut escaping = Escaping(f);
        write!(escaping, "{}", Redacted(self.0))
    }
}

struct Escaping<'a, 'b>(&'a mut Formatter<'b>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '"' | '\\' => write!(self.0, "\\{c}")?,
                c if c.is_control() => write!(self.0, "\\x{:02x}", u32::from(c))?,
                c => self.0.write_char(c)?,
            }
        }
        Ok(())
    }
}

// === impl Utc ===

impl From<SystemTime> for Utc {
    /// By the calendar's 400 years of 146,097 days, counted from a 1st of March so that a leap day is the last of a year.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let days = days + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        Self {
            year,
            month: usize::try_from(month).unwrap_or(1),
            day,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
            millis: since.subsec_millis(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(entry: &Entry<'_>, format: AccessLogFormat) -> String {
        let mut line = Vec::new();
        entry.write(format, &mut line);
        String::from_utf8(line).expect("text")
    }

    #[test]
    fn secrets_in_a_query_are_not_written() {
        for (path, written) in [
            ("/a?token=abc&b=1", "/a?token=REDACTED&b=1"),
            ("/a?Access_Token=abc", "/a?Access_Token=REDACTED"),
            ("/a?X-Amz-Signature=abc&X-Amz-Date=1", "/a?X-Amz-Signature=REDACTED&X-Amz-Date=1"),
            ("/a?password=a=b&token=&token", "/a?password=REDACTED&token=&token"),
            ("/token=abc?q=token", "/token=abc?q=token"),
            ("/", "/"),
        ] {
            assert_eq!(Redacted(path).to_string(), written);
        }
    }

    #[test]
    fn a_day_has_its_date() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_795_429_591, "2026-11-23T10:26:31.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            let entry = Entry { time: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), ..Entry::default() };
            let json: serde_json::Value = serde_json::from_str(&line(&entry, AccessLogFormat::Json)).expect("JSON");
            assert_eq!(json["time"], text);
        }
    }

    #[test]
    fn each_format_says_what_it_can() {
        let entry = Entry {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_429_591_042),
            duration: Duration::from_micros(1500),
            path: "/a\"b?token=x",
            status: 200,
            sent: 5,
            tunnelhost: Some(("web", "shop")),
            backend_time: Some(Duration::from_millis(1)),
            ..Entry::default()
        };
        assert_eq!(
            line(&entry, AccessLogFormat::Clf),
            "0.0.0.0 - - [23/Nov/2026:10:26:31 +0000] \"GET /a\\\"b?token=REDACTED HTTP/1.1\" 200 5\n"
        );
        assert_eq!(
            line(&entry, AccessLogFormat::Json),
            "{\"time\":\"2026-11-23T10:26:31.042Z\",\"duration\":0.0015,\"visitor\":\"0.0.0.0\",\"method\":\"GET\",\"host\":\"\",\
             \"path\":\"/a\\\"b?token=REDACTED\",\"protocol\":\"HTTP/1.1\",\"status\":200,\"received\":0,\"sent\":5,\
             \"tunnelhost\":\"web/shop\",\"retries\":0,\"backend_time\":0.001,\"request_id\":\"-\"}\n"
        );
    }
}
