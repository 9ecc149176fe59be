//! A stage whose visitors also come over TLS.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use culvert::{
    proxy::{Tls, TlsOptions},
    routing::{Certificate, Certificates, EntryPoint, HostRules, Hostname, Listener, ObjectName, RoutingTable, Rule},
};
use http::{Request, Response};
use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    stage::{HOST, Options, Stage},
    support::{PATIENCE, TOKEN, agents},
};

/// A stage with a listener for TLS.
pub(crate) struct Secure {
    pub(crate) stage: Stage,
    pub(crate) https: SocketAddr,
    /// The default certificate.
    pub(crate) default: watch::Sender<Option<Arc<CertifiedKey>>>,
}

/// A certificate that signs itself.
#[derive(Clone)]
pub(crate) struct Made {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) pkcs8: Vec<u8>,
}

pub(crate) type Body = BoxBody<Bytes, std::convert::Infallible>;

/// A visitor that speaks HTTP/2.
pub(crate) struct Http2Visitor {
    pub(crate) sender: http2::SendRequest<Body>,
    pub(crate) connection: tokio::task::JoinHandle<hyper::Result<()>>,
}

impl Made {
    pub(crate) fn new(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let der = made.cert.der().clone();
        let pkcs8 = made.signing_key.serialize_der();
        let key = PrivateKeyDer::try_from(pkcs8.clone()).expect("a key");
        let key = CertifiedKey::from_der(vec![der.clone()], key, &aws_lc_rs::default_provider()).expect("a pair");
        Self { der, key: Arc::new(key), pkcs8 }
    }

    /// As the Secret of that name in the namespace `web`.
    pub(crate) fn secret(&self, name: &str) -> Arc<Certificate> {
        let mut fingerprint = [0; 32];
        let from = self.der.len() - 32;
        fingerprint.copy_from_slice(&self.der[from..]);
        let secret = ObjectName::new("web", name);
        Arc::new(Certificate { secret, key: self.key.clone(), fingerprint, not_after: i64::MAX })
    }
}

impl Secure {
    pub(crate) async fn start() -> Self {
        Self::start_with(Options::default(), None).await
    }

    /// `bridge` is the hostname by which agents register on the visitors' port.
    pub(crate) async fn start_with(options: Options, bridge: Option<&str>) -> Self {
        let stage = Stage::start_with(options).await;
        let default = watch::Sender::new(None);
        let options = TlsOptions {
            default_certificate: default.subscribe(),
            bridge: bridge.map(|name| (name.to_owned(), stage.edge.bridge.clone())),
        };
        let tls = Arc::new(Tls::new(&stage.proxy, options).expect("TLS"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let https = listener.local_addr().expect("its address");
        let (proxy, stop) = (stage.proxy.clone(), stage.stop.clone());
        tokio::spawn(async move { proxy.serve_tls(listener, tls, stop).await });
        Self { stage, https, default }
    }

    /// Serves [`HOST`] at both entry points by these rules, and shows these certificates.
    pub(crate) fn serve(&self, rules: Vec<Rule>, certificates: &[(&str, &Arc<Certificate>)]) {
        self.serve_hosts(&[(HOST, rules)], certificates);
    }

    pub(crate) fn serve_hosts(&self, hosts: &[(&str, Vec<Rule>)], certificates: &[(&str, &Arc<Certificate>)]) {
        let agents = agents(&[("lab", "lab-token", TOKEN)]);
        let hostname = |name: &str| name.parse::<Hostname>().expect("a hostname");
        let hosts = hosts.iter().map(|(host, rules)| {
            let rules = rules.iter().cloned().map(Arc::new).collect();
            (hostname(host), HostRules { owner: "web".into(), rules })
        });
        let listener = Arc::new(Listener::new(None, hosts));
        let certificates: Certificates =
            certificates.iter().map(|(name, certificate)| (hostname(name), Arc::clone(certificate))).collect();
        let entry_points = [EntryPoint::Http, EntryPoint::Https].map(|entry_point| (entry_point, listener.clone()));
        self.stage.proxy.update(Arc::new(RoutingTable::new(entry_points, certificates)), &agents);
    }

    /// A connection to the TLS listener for that name.
    pub(crate) async fn connect(&self, config: Arc<ClientConfig>, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.https).await.expect("a connection");
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        timeout(PATIENCE, TlsConnector::from(config).connect(name, tcp)).await.expect("a handshake in time")
    }

    /// A visitor over TLS that speaks HTTP/2.
    pub(crate) async fn http2(&self, trusted: &Made) -> Http2Visitor {
        let stream = self.connect(client(&[trusted], &["h2"]), HOST).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        Http2Visitor::new(stream).await
    }
}

/// A client that trusts these certificates alone.
pub(crate) fn client(trusted: &[&Made], alpn: &[&str]) -> Arc<ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for made in trusted {
        roots.add(made.der.clone()).expect("a certificate");
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

impl Http2Visitor {
    pub(crate) async fn new<T>(stream: T) -> Self
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // A window as small as it is by default, so that it counts.
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let handshake = builder.initial_stream_window_size(65_535).handshake(TokioIo::new(stream));
        let (sender, connection) = timeout(PATIENCE, handshake).await.expect("in time").expect("a connection");
        Self { sender, connection: tokio::spawn(connection) }
    }

    pub(crate) async fn request(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        timeout(PATIENCE, self.sender.send_request(request)).await.expect("an answer in time")
    }

    /// The status and body that a GET of this path of [`HOST`] gets.
    pub(crate) async fn get(&mut self, path: &str) -> (u16, String) {
        let response = self.request(get(path)).await.expect("an answer");
        let status = response.status().as_u16();
        (status, text(response).await)
    }
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(format!("https://{HOST}{path}")).body(empty()).expect("a request")
}

pub(crate) fn empty() -> Body {
    http_body_util::Empty::new().boxed()
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).boxed()
}

/// A response's whole body.
pub(crate) async fn text(response: Response<Incoming>) -> String {
    let body = timeout(PATIENCE, response.into_body().collect()).await.expect("in time").expect("a whole body");
    String::from_utf8_lossy(&body.to_bytes()).into_owned()
}
