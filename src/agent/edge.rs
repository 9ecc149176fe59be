use std::{fmt, str::FromStr};

use rustls_pki_types::ServerName;

use crate::tunnel::target::authority;

/// Where the edge is: `https://host` or `https://host:port`; `http://` where the tunnel is not encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeUrl {
    encrypted: bool,
    host: String,
    port: u16,
}

/// Why a text is no [`EdgeUrl`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EdgeUrlError {
    /// It is no URL of that form.
    #[error("it is not of the form https://HOST:PORT")]
    Form,
    /// It has a path or the like, which would not be used.
    #[error("it has more than a host and a port; write https://HOST:PORT")]
    Path,
}

// === impl EdgeUrl ===

impl EdgeUrl {
    /// Whether the tunnel is to be encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// Name or address, IPv6 without brackets.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// What the edge's certificate must be for, where names count.
    pub(super) fn server_name(&self) -> Option<ServerName<'static>> {
        ServerName::try_from(self.host.clone()).ok()
    }

    /// `host:port`, as headers have it.
    pub(super) fn authority(&self) -> String {
        authority(&self.host, self.port)
    }
}

impl FromStr for EdgeUrl {
    type Err = EdgeUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let url: http::Uri = text.parse().map_err(|_| EdgeUrlError::Form)?;
        let (encrypted, default_port) = match url.scheme_str() {
            Some("https") => (true, 443),
            Some("http") => (false, 80),
            _ => return Err(EdgeUrlError::Form),
        };
        let authority = url.authority().ok_or(EdgeUrlError::Form)?;
        if authority.as_str().contains('@') || !matches!(url.path(), "" | "/") || url.query().is_some() {
            return Err(EdgeUrlError::Path);
        }
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
        // `http` takes a port that is no number as a part of the authority that it does not look into.
        let port = match authority.as_str().rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((_, port)) => port.parse().ok().filter(|port| *port != 0).ok_or(EdgeUrlError::Form)?,
            None => default_port,
        };
        let url = Self { encrypted, host, port };
        if url.server_name().is_some() { Ok(url) } else { Err(EdgeUrlError::Form) }
    }
}

impl fmt::Display for EdgeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.encrypted { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_perhaps_a_port_are_an_edge() {
        for (text, shown) in [
            ("https://edge.example.com:7443", "https://edge.example.com:7443"),
            ("https://edge.example.com/", "https://edge.example.com:443"),
            ("http://127.0.0.1", "http://127.0.0.1:80"),
            ("https://[::1]:7443", "https://[::1]:7443"),
            ("https://[::1]", "https://[::1]:443"),
        ] {
            assert_eq!(text.parse::<EdgeUrl>().expect(text).to_string(), shown);
        }
    }

    #[test]
    fn others_say_what_is_wrong() {
        for text in ["", "edge:7443", "ws://edge", "https://", "https://edge:0", "https://edge:99999", "https://edge:x"]
        {
            assert_eq!(text.parse::<EdgeUrl>(), Err(EdgeUrlError::Form), "{text}");
        }
        for text in ["https://edge/v1/tunnel", "https://edge/?a=b", "https://user@edge"] {
            assert_eq!(text.parse::<EdgeUrl>(), Err(EdgeUrlError::Path), "{text}");
        }
    }
}
