//! A visitor who comes over TLS: one connection a request, by HTTP/1.1 or HTTP/2.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request,
    body::Bytes,
    client::conn::{http1, http2},
    header::HOST,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Answer, Certificate};

/// How long a connection, its handshake and its answer may take together.
const PATIENCE: Duration = Duration::from_secs(10);

/// The version of HTTP that a visitor offers, and no other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Http {
    One,
    Two,
}

/// Who asks for `host` at the address `at`, and trusts certain certificates alone.
#[derive(Clone)]
pub(crate) struct SecureVisitor {
    pub(crate) at: SocketAddr,
    /// The name that the handshake asks for.
    name: String,
    host: String,
    http: Http,
    config: Arc<ClientConfig>,
    /// What a balancer in between says before the handshake.
    announcement: String,
}

/// What a visitor gets.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The certificate that the handshake showed.
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) answer: Answer,
}

// === impl Http ===

impl Http {
    pub(crate) const ALL: [Self; 2] = [Self::One, Self::Two];

    /// As metrics and logs name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::One => "HTTP/1.1",
            Self::Two => "HTTP/2",
        }
    }

    fn alpn(self) -> &'static [u8] {
        match self {
            Self::One => b"http/1.1",
            Self::Two => b"h2",
        }
    }
}

// === impl SecureVisitor ===

impl SecureVisitor {
    /// Every handshake is a whole one: a resumed one shows no certificate.
    pub(crate) fn new(at: SocketAddr, host: &str, http: Http, trusted: &[&Certificate]) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in trusted {
            roots.add(certificate.der.clone()).unwrap();
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![http.alpn().to_vec()];
        config.resumption = Resumption::disabled();
        Self { at, name: host.into(), host: host.into(), http, config: Arc::new(config), announcement: String::new() }
    }

    /// The same visitor, who resumes sessions where the edge lets it.
    pub(crate) fn resuming(&self) -> Self {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::in_memory_sessions(16);
        Self { config: Arc::new(config), ..self.clone() }
    }

    /// The same visitor, who asks for another host than the handshake did.
    pub(crate) fn with_host(&self, host: &str) -> Self {
        Self { host: host.into(), ..self.clone() }
    }

    /// The same visitor through a balancer, which says by the PROXY protocol that it comes from this address.
    pub(crate) fn coming_from(&self, address: &str) -> Self {
        Self { announcement: format!("PROXY TCP4 {address} 192.0.2.1 40000 443\r\n"), ..self.clone() }
    }

    /// Makes a connection and asks for a path.
    pub(crate) async fn get(&self, path: &str) -> io::Result<Seen> {
        let exchange = async {
            let stream = self.handshake().await?;
            let (_, session) = stream.get_ref();
            if session.alpn_protocol() != Some(self.http.alpn()) {
                return Err(io::Error::other(format!("{:?} was not taken", self.http)));
            }
            let certificate = session.peer_certificates().unwrap()[0].clone();
            let answer = self.ask(stream, path).await.map_err(io::Error::other)?;
            Ok(Seen { certificate, answer })
        };
        tokio::time::timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn handshake(&self) -> io::Result<TlsStream<TcpStream>> {
        let mut tcp = TcpStream::connect(self.at).await?;
        tcp.write_all(self.announcement.as_bytes()).await?;
        let name = ServerName::try_from(self.name.clone()).unwrap();
        TlsConnector::from(self.config.clone()).connect(name, tcp).await
    }

    async fn ask(&self, stream: TlsStream<TcpStream>, path: &str) -> hyper::Result<Answer> {
        let stream = TokioIo::new(stream);
        let (response, connection) = match self.http {
            Http::One => {
                let (mut sender, connection) = http1::handshake(stream).await?;
                let connection = tokio::spawn(connection);
                let request = Request::get(path).header(HOST, &self.host);
                (sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await, connection)
            }
            Http::Two => {
                let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                let connection = tokio::spawn(connection);
                let request = Request::get(format!("https://{}{path}", self.host));
                (sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await, connection)
            }
        };
        let (head, body) = response?.into_parts();
        let body = body.collect().await?.to_bytes();
        connection.abort();
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }
}
