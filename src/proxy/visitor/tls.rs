//! TLS for visitors: TLS 1.2 and 1.3 with the certificates of the live table, and the agents that come in by the same port.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use prometheus::IntCounterVec;
use rustls::{
    CipherSuite, ProtocolVersion, ServerConfig,
    crypto::aws_lc_rs,
    server::{Acceptor, ClientHello, ResolvesServerCert, ServerSessionMemoryCache},
    sign::CertifiedKey,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::socket::Socket;
use crate::{
    bridge::Bridge,
    proxy::{Proxy, Shared},
    routing::{Certificates, normalize_host},
    tunnel::tls,
};

/// Sessions of TLS 1.2 that can be resumed; those of TLS 1.3 are in tickets that the visitors keep.
const RESUMABLE: usize = 4096;
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// What visitors over TLS are shown, and who else comes in there.
#[derive(Debug)]
pub struct TlsOptions {
    /// The certificate for names that no TunnelHost has one for, and for visitors that name none. Where there is none, they
    /// get no handshake. A change holds for the next handshake.
    pub default_certificate: watch::Receiver<Option<Arc<CertifiedKey>>>,
    /// The bridge whose agents may register here too, and the hostname by which they ask for it.
    pub bridge: Option<(String, Bridge)>,
}

/// How visitors come in over TLS.
#[derive(Debug)]
pub struct Tls {
    config: Arc<ServerConfig>,
    /// The same for those who would rather not have AES.
    by_visitors_order: Arc<ServerConfig>,
    certificates: Arc<Resolver>,
    /// The hostname in the form of [`normalize_host`].
    bridge: Option<(String, Bridge)>,
    handshakes: IntCounterVec,
    /// For a handshake.
    timeout: Duration,
}

/// What is known of a visitor's TLS.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct TlsInfo {
    /// As access logs name it.
    pub(in crate::proxy) version: &'static str,
    /// The name that the visitor asked for, normalized.
    pub(in crate::proxy) server_name: Option<Box<str>>,
}

/// A visitor whose handshake is done.
pub(super) struct Arrival {
    pub(super) stream: TlsStream<Socket>,
    pub(super) info: TlsInfo,
    pub(super) speaks_http2: bool,
}

/// Finds the certificate for a visitor: of the live table, so that a new one holds from the next handshake on.
struct Resolver {
    proxy: Weak<Shared>,
    default: watch::Receiver<Option<Arc<CertifiedKey>>>,
}

/// How a handshake ended, as it is counted.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Visitor,
    Agent,
    /// Nothing to show for the name.
    NoCertificate,
    /// Not in time.
    Timeout,
    /// What came is no TLS, or none that both sides speak.
    Protocol,
    /// The visitor left, or did not like what it was shown.
    Closed,
}

// === impl Tls ===

impl Tls {
    /// TLS for this proxy's visitors.
    ///
    /// # Errors
    /// Where the system has no random numbers for the key of the tickets.
    pub fn new(proxy: &Proxy, options: TlsOptions) -> Result<Self, rustls::Error> {
        let resolver =
            Arc::new(Resolver { proxy: Arc::downgrade(&proxy.shared), default: options.default_certificate });
        let mut config = ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(resolver.clone());
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        config.session_storage = ServerSessionMemoryCache::new(RESUMABLE);
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        // What comes before the handshake's end could be anybody's repetition.
        config.max_early_data_size = 0;
        let by_visitors_order = Arc::new(config.clone());
        config.ignore_client_order = true;
        let bridge = options.bridge.map(|(name, bridge)| (normalize_host(&name).into_owned(), bridge));
        let handshakes = proxy.shared.makers.metrics.tls_handshakes.clone();
        let timeout = proxy.shared.config.header_timeout;
        Ok(Self { config: Arc::new(config), by_visitors_order, certificates: resolver, bridge, handshakes, timeout })
    }

    /// Shakes hands with a visitor, or hands an agent over to the bridge. Whatever did not become a visitor is counted.
    pub(super) async fn accept(&self, socket: Socket, peer: SocketAddr) -> Option<Arrival> {
        let deadline = Instant::now() + self.timeout;
        let (outcome, arrival) = match timeout_at(deadline, self.shake_hands(socket, peer, deadline)).await {
            Ok(Ok(Some(arrival))) => (Outcome::Visitor, Some(arrival)),
            Ok(Ok(None)) => (Outcome::Agent, None),
            Ok(Err(outcome)) => (outcome, None),
            Err(_) => (Outcome::Timeout, None),
        };
        self.handshakes.with_label_values(&[outcome.label()]).inc();
        let version = arrival.as_ref().map(|arrival| arrival.info.version);
        tracing::debug!(%peer, ?outcome, version, "a TLS handshake ended");
        arrival
    }

    async fn shake_hands(
        &self,
        socket: Socket,
        peer: SocketAddr,
        deadline: Instant,
    ) -> Result<Option<Arrival>, Outcome> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), socket).await.map_err(|error| Outcome::of(&error))?;
        let hello = start.client_hello();
        let server_name = hello.server_name().map(|name| normalize_host(name).into_owned().into_boxed_str());
        if let Some((name, bridge)) = &self.bridge
            && server_name.as_deref() == Some(name)
        {
            bridge.accept(start, peer, deadline);
            return Ok(None);
        }
        let config = if prefers_chacha(hello.cipher_suites()) { &self.by_visitors_order } else { &self.config };
        let stream = start.into_stream(config.clone()).await;
        let stream = stream.map_err(|error| match self.certificates.find(server_name.as_deref()) {
            Some(_) => Outcome::of(&error),
            None => Outcome::NoCertificate,
        })?;
        let connection = stream.get_ref().1;
        let speaks_http2 = connection.alpn_protocol() == Some(HTTP2);
        let version = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        };
        Ok(Some(Arrival { stream, info: TlsInfo { version, server_name }, speaks_http2 }))
    }
}

/// Whether a visitor puts ChaCha20 before AES, as those do whose processors have no instructions for AES.
fn prefers_chacha(suites: &[CipherSuite]) -> bool {
    let known = |suite: &&CipherSuite| {
        matches!(
            suite,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS13_AES_256_GCM_SHA384
        )
    };
    suites.iter().find(known) == Some(&CipherSuite::TLS13_CHACHA20_POLY1305_SHA256)
}

/// Whether a request came to the wrong connection: its host has another certificate than the name that the connection was
/// made for (RFC 9110, 7.4). Who named nobody was shown the default certificate, and may ask for all.
pub(in crate::proxy) fn is_misdirected(certificates: &Certificates, tls: &TlsInfo, host: &str) -> bool {
    tls.server_name.as_deref().is_some_and(|name| name != host && certificates.find(name) != certificates.find(host))
}

// === impl Resolver ===

impl Resolver {
    fn find(&self, server_name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let proxy = self.proxy.upgrade()?;
        let live = proxy.live.load();
        let certificate = server_name.and_then(|name| live.table.certificates().find(name));
        certificate.map(|certificate| certificate.key.clone()).or_else(|| self.default.borrow().clone())
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name().map(normalize_host).as_deref())
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

// === impl Outcome ===

impl Outcome {
    fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
            None | Some(rustls::Error::AlertReceived(_)) => Self::Closed,
            Some(_) => Self::Protocol,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Visitor => "ok",
            Self::Agent => "agent",
            Self::NoCertificate => "no_certificate",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
            Self::Closed => "closed",
        }
    }
}
