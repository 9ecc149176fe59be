//! HTTP proxies between the agent and its edge, for networks that let nobody out but them.
//!
//! [`Proxies`] says which proxy leads to a destination, if any; `connect` asks that proxy for a tunnel (CONNECT, RFC
//! 9110, 9.3.6). What goes through it is the tunnel's own TLS: a proxy sees the edge's name, and nothing of the token.

mod connect;
mod exceptions;

use std::{fmt, str::FromStr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;

pub(super) use self::connect::{Connected, ProxyError, connect};
use self::exceptions::Exceptions;

/// Which proxy leads where. By default none: everything is dialled directly.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    proxy: Option<Arc<HttpProxy>>,
    exceptions: Exceptions,
}

/// A proxy: `http://HOST:PORT`, with `USER:PASSWORD@` before the host where it asks for them; `https://` where it is to be
/// talked to over TLS. Without a scheme it is `http`, without a port 80 or 443.
///
/// Neither `Debug` nor `Display` shows the user or the password.
#[derive(Clone)]
pub struct HttpProxy {
    host: String,
    port: u16,
    /// The value of `Proxy-Authorization`.
    authorization: Option<String>,
    /// Whether it is talked to over TLS.
    encrypted: bool,
    /// How, where it is; given later than the URL.
    tls: Option<Arc<ClientConfig>>,
}

/// Why a text is no [`HttpProxy`]. Nothing of the text is in it, since there may be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpProxyError {
    /// It is no URL of that form.
    #[error("a proxy is given as http://HOST:PORT or http://USER:PASSWORD@HOST:PORT")]
    Form,
    /// Another scheme.
    #[error("only http:// and https:// proxies are supported (those that know CONNECT); SOCKS proxies are not")]
    Scheme,
    /// User or password are not written as a URL has them.
    #[error(
        "user and password of a proxy are percent-encoded: write \"%40\" for \"@\", \"%3A\" for \":\", \"%25\" for \"%\""
    )]
    Credentials,
}

// === impl Proxies ===

impl Proxies {
    /// `proxy` leads everywhere but to the destinations in `exceptions`, a list as in `NO_PROXY`: names (with all names
    /// under them), addresses, CIDRs, each perhaps with a `:port`, separated by commas; `*` stands for all.
    #[must_use]
    pub fn new(proxy: HttpProxy, exceptions: &str) -> Self {
        Self { proxy: Some(Arc::new(proxy)), exceptions: Exceptions::parse(exceptions) }
    }

    /// The proxy that leads to this destination; `None` where it is dialled directly.
    pub(super) fn leading_to(&self, host: &str, port: u16) -> Option<&Arc<HttpProxy>> {
        self.proxy.as_ref().filter(|_| !self.exceptions.contain(host, port))
    }
}

// === impl HttpProxy ===

impl HttpProxy {
    /// Whether it is talked to over TLS, and [`HttpProxy::with_tls`] is needed.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// How TLS with it is done, where its URL asks for TLS.
    #[must_use]
    pub fn with_tls(mut self, tls: Arc<ClientConfig>) -> Self {
        self.tls = Some(tls);
        self
    }

    fn server_name(&self) -> Option<ServerName<'static>> {
        ServerName::try_from(self.host.clone()).ok()
    }
}

impl FromStr for HttpProxy {
    type Err = HttpProxyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (encrypted, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some(_) => return Err(HttpProxyError::Scheme),
            None => (false, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // A password that is not encoded as it should be may have an "@": the last one is that before the host.
        let (user, authority) = match rest.rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, rest),
        };
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or(HttpProxyError::Form)?)),
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(HttpProxyError::Form)?,
            None if encrypted => 443,
            None => 80,
        };
        let proxy =
            Self { host: host.to_owned(), port, authorization: user.map(basic).transpose()?, encrypted, tls: None };
        if proxy.server_name().is_some() { Ok(proxy) } else { Err(HttpProxyError::Form) }
    }
}

impl fmt::Display for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (&self.host, self.port);
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl fmt::Debug for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpProxy({self})")
    }
}

/// `Basic` credentials (RFC 7617) of the user part of a URL.
fn basic(user: &str) -> Result<String, HttpProxyError> {
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let mut pair = decoded(name)?;
    if pair.contains(&b':') {
        return Err(HttpProxyError::Credentials);
    }
    pair.push(b':');
    pair.extend(decoded(password)?);
    Ok(format!("Basic {}", STANDARD.encode(pair)))
}

fn decoded(text: &str) -> Result<Vec<u8>, HttpProxyError> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
                let (high, low) = (digit(), digit());
                let byte = high.zip(low).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
                byte.ok_or(HttpProxyError::Credentials)?
            }
            b'@' | b'/' => return Err(HttpProxyError::Credentials),
            byte => byte,
        });
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_a_url_or_a_host_and_a_port() {
        for (text, shown, encrypted) in [
            ("http://proxy:3128", "proxy:3128", false),
            ("HTTP://proxy", "proxy:80", false),
            ("https://proxy.example.com/", "proxy.example.com:443", true),
            ("10.0.0.1:8080", "10.0.0.1:8080", false),
            ("http://[::1]:3128", "[::1]:3128", false),
            ("http://[::1]", "[::1]:80", false),
        ] {
            let proxy: HttpProxy = text.parse().expect(text);
            assert_eq!((proxy.to_string().as_str(), proxy.encrypted), (shown, encrypted));
            assert_eq!(proxy.authorization, None);
        }
        for text in ["", "http://", "http://proxy:0", "http://proxy:x", "http://[::1]x", "proxy/path", "a b:80"] {
            assert_eq!(text.parse::<HttpProxy>().expect_err(text), HttpProxyError::Form);
        }
        assert_eq!("socks5://proxy:1080".parse::<HttpProxy>().expect_err("SOCKS"), HttpProxyError::Scheme);
    }

    #[test]
    fn user_and_password_are_decoded_and_never_shown() {
        let proxy: HttpProxy = "http://ada:p%40ss%3aword@proxy:3128".parse().expect("a proxy");
        let expected = format!("Basic {}", STANDARD.encode("ada:p@ss:word"));
        assert_eq!(proxy.authorization, Some(expected.clone()));
        let shown = format!("{proxy} {proxy:?} {:?}", Proxies::new(proxy.clone(), ""));
        assert!(!shown.contains("ada") && !shown.contains("ss") && !shown.contains(&expected), "{shown}");
        for text in ["http://me:p@ss@proxy", "http://me:p%4@proxy", "http://me:%zz@proxy", "http://m%3ae:p@proxy"] {
            assert_eq!(text.parse::<HttpProxy>().expect_err(text), HttpProxyError::Credentials);
        }
        let alone: HttpProxy = "http://me@proxy".parse().expect("a proxy");
        assert_eq!(alone.authorization, Some(format!("Basic {}", STANDARD.encode("me:"))));
    }

    #[test]
    fn exceptions_are_dialled_directly() {
        let proxies = Proxies::new("http://proxy:3128".parse().expect("a proxy"), "localhost,10.0.0.0/8");
        assert!(proxies.leading_to("edge.example.com", 443).is_some());
        assert!(proxies.leading_to("localhost", 443).is_none());
        assert!(proxies.leading_to("10.1.2.3", 443).is_none());
        assert!(Proxies::default().leading_to("edge.example.com", 443).is_none());
    }
}
