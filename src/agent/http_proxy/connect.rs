use std::{fmt, io};

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::HttpProxy;
use crate::agent::backoff::Failure;

/// Why a proxy did not lead to the edge.
#[derive(Debug)]
pub(in crate::agent) struct ProxyError {
    /// The proxy, without credentials.
    proxy: String,
    /// Where it was to lead to.
    destination: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// It cannot be connected to.
    Connect(io::Error),
    /// No TLS with it.
    Tls(io::Error),
    /// The connection failed before it had answered.
    Io(io::Error),
    /// What answered is no proxy.
    NoProxy(&'static str),
    /// It said no.
    Refused {
        status: StatusCode,
        /// It asks for credentials of a kind that we do not have.
        scheme: Option<String>,
        /// Whether we gave some.
        authorized: bool,
    },
}

/// The longest head of an answer, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Asks for a tunnel to `destination` on a connection to the proxy. Waits as long as the connection lets it: a deadline is
/// the caller's.
async fn ask<T>(io: &mut T, proxy: &HttpProxy, destination: &str) -> Result<(), Kind>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = format!(
        "CONNECT {destination} HTTP/1.1\r\nHost: {destination}\r\nUser-Agent: culvert/{version}\r\n",
        version = env!("CARGO_PKG_VERSION"),
    );
    if let Some(authorization) = &proxy.authorization {
        request.extend(["Proxy-Authorization: ", authorization, "\r\n"]);
    }
    request.push_str("\r\n");
    io.write_all(request.as_bytes()).await.map_err(Kind::Io)?;
    io.flush().await.map_err(Kind::Io)?;

    let mut head = Vec::with_capacity(1024);
    loop {
        if io.read_buf(&mut head).await.map_err(Kind::Io)? == 0 {
            return Err(Kind::NoProxy("it closed the connection before it had answered"));
        }
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(&head) {
            Ok(httparse::Status::Complete(length)) => return answered(&response, head.len() > length, proxy),
            Ok(httparse::Status::Partial) if head.len() > MAX_HEAD => {
                return Err(Kind::NoProxy("its answer is too long"));
            }
            Ok(httparse::Status::Partial) => {}
            Err(_) => return Err(Kind::NoProxy("its answer is not HTTP/1.1")),
        }
    }
}

/// `more` says that there was something behind the head.
fn answered(response: &httparse::Response<'_, '_>, more: bool, proxy: &HttpProxy) -> Result<(), Kind> {
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Kind::NoProxy("its answer has no status"))?;
    if status.is_success() {
        // The edge says nothing before it is spoken to: that is not the edge's, and would be taken for it.
        return if more { Err(Kind::NoProxy("it sent something of its own into the tunnel")) } else { Ok(()) };
    }
    let asked = response.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("proxy-authenticate"));
    let schemes: Vec<&str> = asked
        .filter_map(|header| std::str::from_utf8(header.value).ok()?.split_whitespace().next())
        .filter(|scheme| scheme.len() <= 32 && scheme.bytes().all(|byte| byte.is_ascii_graphic()))
        .collect();
    let basic = schemes.iter().any(|scheme| scheme.eq_ignore_ascii_case("basic"));
    let scheme = schemes.first().filter(|_| !basic).map(|&scheme| scheme.to_owned());
    Err(Kind::Refused { status, scheme, authorized: proxy.authorization.is_some() })
}

/// Connects through a proxy to `destination`, `host:port`: `dial` connects to the proxy itself. The name is the proxy's to
/// resolve, since many a network that has one resolves no other names.
pub(in crate::agent) async fn connect<T, D>(
    proxy: &HttpProxy,
    destination: &str,
    dial: impl FnOnce(String, u16) -> D,
) -> Result<Connected<T>, ProxyError>
where
    T: AsyncRead + AsyncWrite + Unpin,
    D: Future<Output = io::Result<T>>,
{
    let failed = |kind| ProxyError { proxy: proxy.to_string(), destination: destination.to_owned(), kind };
    let mut stream = dial(proxy.host.clone(), proxy.port).await.map_err(|error| failed(Kind::Connect(error)))?;
    if !proxy.encrypted {
        ask(&mut stream, proxy, destination).await.map_err(failed)?;
        return Ok(Connected::Plain(stream));
    }
    let (Some(config), Some(name)) = (&proxy.tls, proxy.server_name()) else {
        return Err(failed(Kind::Tls(io::ErrorKind::Unsupported.into())));
    };
    let connector = TlsConnector::from(config.clone());
    let mut stream = connector.connect(name, stream).await.map_err(|error| failed(Kind::Tls(error)))?;
    ask(&mut stream, proxy, destination).await.map_err(failed)?;
    Ok(Connected::Encrypted(Box::new(stream)))
}

/// A tunnel through a proxy.
#[derive(Debug)]
pub(in crate::agent) enum Connected<T> {
    /// The connection to the proxy is the tunnel.
    Plain(T),
    /// The same inside TLS with the proxy.
    Encrypted(Box<tokio_rustls::client::TlsStream<T>>),
}

// === impl ProxyError ===

impl ProxyError {
    /// How soon to try again.
    pub(in crate::agent) fn failure(&self) -> Failure {
        match &self.kind {
            // It could not reach the edge, or not just now.
            Kind::Refused { status, .. } if status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS => {
                Failure::Transient
            }
            Kind::Refused { .. } | Kind::NoProxy(_) => Failure::Lasting,
            Kind::Connect(_) | Kind::Tls(_) | Kind::Io(_) => Failure::Transient,
        }
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { proxy, destination, kind } = self;
        match kind {
            Kind::Connect(error) => write!(f, "cannot connect to the proxy {proxy}: {error}"),
            Kind::Tls(error) => write!(f, "no TLS with the proxy {proxy}: {error}"),
            Kind::Io(error) => write!(f, "the connection to the proxy {proxy} failed: {error}"),
            Kind::NoProxy(why) => write!(f, "what answers at {proxy} is no HTTP proxy: {why}; check --proxy"),
            Kind::Refused { status, scheme, authorized } => {
                write!(f, "the proxy {proxy} answered {status}: ")?;
                match (status, scheme) {
                    (&StatusCode::PROXY_AUTHENTICATION_REQUIRED, Some(scheme)) => {
                        write!(f, "it asks for {scheme} credentials, and only Basic ones can be given")
                    }
                    (&StatusCode::PROXY_AUTHENTICATION_REQUIRED, None) if *authorized => {
                        f.write_str("it does not take the user and password in --proxy")
                    }
                    (&StatusCode::PROXY_AUTHENTICATION_REQUIRED, None) => {
                        f.write_str("give credentials in --proxy, as in http://USER:PASSWORD@HOST:PORT")
                    }
                    (status, _) if status.is_server_error() => write!(f, "it does not reach {destination}"),
                    _ => write!(f, "it does not let CONNECT through to {destination}; ask those who run it"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a proxy is sent, and what becomes of its answer.
    async fn asked(proxy: &str, answer: &'static [u8]) -> (String, Result<(), String>) {
        let proxy: HttpProxy = proxy.parse().expect("a proxy");
        let (near, mut far) = tokio::io::duplex(4096);
        let serve = tokio::spawn(async move {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(far.read_u8().await.expect("a request"));
            }
            far.write_all(answer).await.expect("answered");
            String::from_utf8(request).expect("text")
        });
        let connected = connect(&proxy, "edge:7443", |_, _| std::future::ready(Ok(near))).await;
        (serve.await.expect("served"), connected.map(|_| ()).map_err(|error| error.to_string()))
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for_with_the_credentials() {
        let (request, result) = asked("me:pass@proxy", b"HTTP/1.0 200 Connection established\r\n\r\n").await;
        assert_eq!(result, Ok(()));
        assert!(request.starts_with("CONNECT edge:7443 HTTP/1.1\r\nHost: edge:7443\r\n"), "{request}");
        assert!(request.contains("\r\nProxy-Authorization: Basic bWU6cGFzcw==\r\n"), "{request}");
        let (request, _) = asked("proxy", b"HTTP/1.1 200 OK\r\n\r\n").await;
        assert!(!request.contains("Proxy-Authorization"), "{request}");
    }

    #[tokio::test]
    async fn refusals_say_what_to_do() {
        let error = async |proxy, answer| asked(proxy, answer).await.1.expect_err("refused");
        let basic = b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n";
        let missing = error("proxy:3128", basic).await;
        assert!(
            missing.starts_with(
                "the proxy proxy:3128 answered 407 Proxy Authentication Required: give credentials in --proxy"
            ),
            "{missing}"
        );
        let wrong = error("me:secret@proxy:3128", basic).await;
        assert!(wrong.ends_with("it does not take the user and password in --proxy"), "{wrong}");
        assert!(!wrong.contains("secret") && !wrong.contains("c2Vj"), "{wrong}");
        let other = error("proxy", b"HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\n\r\n").await;
        assert!(other.contains("it asks for Negotiate credentials"), "{other}");
        let denied = error("proxy", b"HTTP/1.1 403 Filtered\r\nContent-Length: 0\r\n\r\n").await;
        assert!(denied.ends_with("403 Forbidden: it does not let CONNECT through to edge:7443; ask those who run it"));
        let away = error("proxy", b"HTTP/1.1 503 Service Unavailable\r\n\r\nbody").await;
        assert!(away.ends_with("503 Service Unavailable: it does not reach edge:7443"), "{away}");
        let other = error("proxy", b"SSH-2.0-OpenSSH_9.6\r\n\r\n").await;
        assert_eq!(other, "what answers at proxy:80 is no HTTP proxy: its answer is not HTTP/1.1; check --proxy");
        let early = error("proxy", b"HTTP/1.1 200 OK\r\n\r\nhello").await;
        assert!(early.contains("sent something of its own"), "{early}");
    }
}
