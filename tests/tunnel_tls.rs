//! Sessions over TLS as edge and agent make it: whom an agent trusts, and whom not.
#![cfg(feature = "edge")]
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::io;

use bytes::Bytes;
use culvert::tunnel::{
    Config, IncomingEvent, Open, Role, Session, socket,
    tls::{self, Fingerprint, TlsError, Trust},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

struct Bridge {
    authority: String,
    chain: String,
    key: String,
    fingerprint: Fingerprint,
}

/// A bridge whose certificate is signed by an authority, for the name `bridge.example.com`.
fn bridge() -> Bridge {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["bridge.example.com".into()]).expect("parameters");
    let certificate = params.signed_by(&key, &authority).expect("a certificate");
    Bridge {
        authority: authority.pem(),
        chain: certificate.pem(),
        key: key.serialize_pem(),
        fingerprint: Fingerprint::of_certificate(certificate.der()).expect("a certificate"),
    }
}

impl Bridge {
    async fn dial(
        &self,
        trust: &Trust,
        name: &'static str,
    ) -> io::Result<(client::TlsStream<TcpStream>, server::TlsStream<TcpStream>)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let acceptor = TlsAcceptor::from(tls::server(self.chain.as_bytes(), self.key.as_bytes()).expect("a server"));
        let connector = TlsConnector::from(tls::client(trust).expect("a client"));
        let accept = async {
            let (stream, _) = listener.accept().await?;
            socket::configure(&stream)?;
            acceptor.accept(stream).await
        };
        let connect = async {
            let stream = TcpStream::connect(address).await?;
            socket::configure(&stream)?;
            connector.connect(ServerName::try_from(name).expect("a name"), stream).await
        };
        let (accepted, connected) = tokio::join!(accept, connect);
        Ok((connected?, accepted?))
    }
}

#[tokio::test]
async fn a_pinned_key_is_trusted_by_any_name_and_another_is_not() {
    let (bridge, other) = (bridge(), bridge());
    let pinned = Trust::Pinned(vec![other.fingerprint, bridge.fingerprint]);
    bridge.dial(&pinned, "whatever.invalid").await.expect("trusted");
    let error =
        bridge.dial(&Trust::Pinned(vec![other.fingerprint]), "bridge.example.com").await.expect_err("a stranger");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
}

#[tokio::test]
async fn a_pin_outlives_a_renewed_certificate() {
    let bridge = bridge();
    let key = KeyPair::from_pem(&bridge.key).expect("the key");
    let renewed = CertificateParams::new(vec!["new.example.com".into()]).expect("parameters");
    let renewed = renewed.self_signed(&key).expect("a certificate");
    assert_ne!(renewed.pem(), bridge.chain);
    assert_eq!(Fingerprint::of_certificate(renewed.der()).expect("a certificate"), bridge.fingerprint);
}

#[tokio::test]
async fn a_certificate_of_the_authority_is_trusted_for_its_name_only() {
    let (bridge, other) = (bridge(), bridge());
    let trust = Trust::Authorities(bridge.authority.clone().into_bytes());
    bridge.dial(&trust, "bridge.example.com").await.expect("trusted");
    bridge.dial(&trust, "other.example.com").await.expect_err("another name");
    other.dial(&trust, "bridge.example.com").await.expect_err("another authority");
}

#[test]
fn what_cannot_work_is_named_before_anything_is_dialled() {
    let bridge = bridge();
    assert!(matches!(tls::client(&Trust::Pinned(Vec::new())), Err(TlsError::NoPin)));
    assert!(matches!(tls::client(&Trust::Authorities(b"no pem".to_vec())), Err(TlsError::NoCertificate)));
    assert!(matches!(tls::server(b"", bridge.key.as_bytes()), Err(TlsError::NoCertificate)));
    assert!(matches!(tls::server(bridge.chain.as_bytes(), bridge.chain.as_bytes()), Err(TlsError::NoKey)));
    let other = KeyPair::generate().expect("a key").serialize_pem();
    assert!(matches!(tls::server(bridge.chain.as_bytes(), other.as_bytes()), Err(TlsError::Rustls(_))));
}

#[tokio::test]
async fn a_session_runs_over_it() {
    let bridge = bridge();
    let (agent, edge) = bridge.dial(&Trust::Pinned(vec![bridge.fingerprint]), "bridge").await.expect("trusted");
    let (edge, _incoming, driver) = Session::start(Role::Edge, edge, Bytes::new(), Config::default());
    tokio::spawn(driver);
    let (_agent, mut incoming, driver) = Session::start(Role::Agent, agent, Bytes::new(), Config::default());
    tokio::spawn(driver);
    let open = Open { target: "127.0.0.1:80".into(), tunnel_host: "web/shop".into(), ..Open::default() };
    let mut near = edge.open(&open).expect("a session");
    let Some(IncomingEvent::Open(opening)) = incoming.next().await else { panic!("no link") };
    let mut far = opening.accept();
    let data = vec![42; 3 << 20];
    let send = async {
        far.write_all(&data).await.expect("written");
        far.shutdown().await.expect("ended");
    };
    let mut received = Vec::new();
    let ((), read) = tokio::join!(send, near.read_to_end(&mut received));
    read.expect("read");
    assert!(received == data, "the bytes differ");
}
