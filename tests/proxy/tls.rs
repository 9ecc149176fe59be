use std::{sync::Arc, time::Duration};

use culvert::{
    agent::{Proxies, Transport},
    bridge::AgentSession,
    routing::{EntryPoint, HostRules, Hostname, Listener},
};
use rustls::{ClientConfig, ProtocolVersion, crypto::aws_lc_rs};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use crate::{
    secure::{Made, Secure, client},
    stage::{HOST, Options, mirror, rule},
    support::{PATIENCE, RunningAgent, TOKEN},
};

/// Sends these bytes and reads to the end.
async fn exchange(mut stream: TlsStream<TcpStream>, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time").expect("an orderly end");
    String::from_utf8_lossy(&answer).into_owned()
}

fn request(host: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

/// What the server showed.
fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec()
}

#[tokio::test]
async fn a_request_over_tls_is_forwarded_and_says_so() {
    let secure = Secure::start().await;
    let made = Made::new(&[HOST]);
    secure.serve(vec![rule(&[&mirror().await], Vec::new())], &[(HOST, &made.secret("shop"))]);
    let stream = secure.connect(client(&[&made], &["http/1.1"]), HOST).await.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let answer = exchange(stream, &request(HOST)).await.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    assert!(answer.contains("x-forwarded-proto: https\r\n"), "{answer}");
    assert!(answer.contains("x-forwarded-port: 443\r\n"), "{answer}");
    secure.stage.edge.metric_becomes("culvert_tls_handshakes_total{result=\"ok\"}", 1).await;
}

#[tokio::test]
async fn both_versions_of_tls_are_spoken_and_no_older() {
    let secure = Secure::start().await;
    let made = Made::new(&[HOST]);
    secure.serve(vec![rule(&[&mirror().await], Vec::new())], &[(HOST, &made.secret("shop"))]);
    for (offered, spoken) in
        [(&rustls::version::TLS12, ProtocolVersion::TLSv1_2), (&rustls::version::TLS13, ProtocolVersion::TLSv1_3)]
    {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.der.clone()).expect("a certificate");
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[offered])
            .expect("a version")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let config = Arc::new(config);
        for _ in 0..2 {
            let stream = secure.connect(config.clone(), HOST).await.expect("a handshake");
            assert_eq!(stream.get_ref().1.protocol_version(), Some(spoken));
            assert!(exchange(stream, &request(HOST)).await.starts_with("HTTP/1.1 200"));
        }
        let again = secure.connect(config, HOST).await.expect("a handshake");
        assert_eq!(again.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
    }
}

#[tokio::test]
async fn aes_of_128_bits_comes_first_unless_the_visitor_would_rather_not_have_aes() {
    use rustls::CipherSuite::{
        TLS13_AES_128_GCM_SHA256 as AES128, TLS13_AES_256_GCM_SHA384 as AES256,
        TLS13_CHACHA20_POLY1305_SHA256 as CHACHA,
    };
    let secure = Secure::start().await;
    let made = Made::new(&[HOST]);
    secure.serve(vec![rule(&[&mirror().await], Vec::new())], &[(HOST, &made.secret("shop"))]);
    for (order, agreed) in
        [([AES256, AES128, CHACHA], AES128), ([CHACHA, AES256, AES128], CHACHA), ([AES256, CHACHA, AES128], AES128)]
    {
        let mut provider = aws_lc_rs::default_provider();
        let place = |suite| order.iter().position(|wanted| *wanted == suite);
        provider.cipher_suites.sort_by_key(|suite| place(suite.suite()).unwrap_or(order.len()));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.der.clone()).expect("a certificate");
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = secure.connect(Arc::new(config), HOST).await.expect("a handshake");
        let suite = stream.get_ref().1.negotiated_cipher_suite().map(|suite| suite.suite());
        assert_eq!(suite, Some(agreed), "{order:?}");
    }
}

#[tokio::test]
async fn the_certificate_is_that_of_the_name_then_of_the_wildcard_then_the_default() {
    let secure = Secure::start().await;
    let [exact, wildcard, default] = [HOST, "*.example.com", "default.test"].map(|name| Made::new(&[name]));
    let rules = || vec![rule(&["127.0.0.1:1"], Vec::new())];
    secure.serve(rules(), &[(HOST, &exact.secret("exact")), ("*.example.com", &wildcard.secret("wildcard"))]);
    let config = client(&[&exact, &wildcard, &default], &[]);
    let stream = secure.connect(config.clone(), HOST).await.expect("a handshake");
    assert_eq!(shown(&stream), exact.der.to_vec());
    let stream = secure.connect(config.clone(), "other.example.com").await.expect("a handshake");
    assert_eq!(shown(&stream), wildcard.der.to_vec());
    // Nothing to show yet.
    let error = secure.connect(config.clone(), "default.test").await.expect_err("no handshake");
    assert!(error.to_string().contains("AccessDenied"), "{error}");
    secure.stage.edge.metric_becomes("culvert_tls_handshakes_total{result=\"no_certificate\"}", 1).await;
    secure.default.send_replace(Some(default.key.clone()));
    let stream = secure.connect(config.clone(), "default.test").await.expect("a handshake");
    assert_eq!(shown(&stream), default.der.to_vec());
    // By address, without a name.
    let tcp = TcpStream::connect(secure.https).await.expect("a connection");
    let address = rustls::pki_types::ServerName::from(secure.https.ip());
    let error = tokio_rustls::TlsConnector::from(config).connect(address, tcp).await.expect_err("another name");
    assert!(error.to_string().contains("certificate"), "the default one was shown: {error}");
}

#[tokio::test]
async fn a_new_certificate_holds_from_the_next_handshake_on() {
    let secure = Secure::start().await;
    let [old, new] = [HOST; 2].map(|name| Made::new(&[name]));
    let target = mirror().await;
    let rules = || vec![rule(&[&target], Vec::new())];
    secure.serve(rules(), &[(HOST, &old.secret("shop"))]);
    let kept = secure.connect(client(&[&old], &[]), HOST).await.expect("a handshake");
    secure.serve(rules(), &[(HOST, &new.secret("shop"))]);
    let stream = secure.connect(client(&[&new], &[]), HOST).await.expect("a handshake");
    assert_eq!(shown(&stream), new.der.to_vec());
    // A connection that is there goes on.
    assert!(exchange(kept, &request(HOST)).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_host_of_another_certificate_is_421() {
    let secure = Secure::start().await;
    let (made, other) = (Made::new(&[HOST, "api.example.com"]), Made::new(&["other.test"]));
    let target = mirror().await;
    let rules = || vec![rule(&[&target], Vec::new())];
    let shared = made.secret("shop");
    secure.serve_hosts(
        &[(HOST, rules()), ("api.example.com", rules()), ("other.test", rules())],
        &[(HOST, &shared), ("api.example.com", &shared), ("other.test", &other.secret("other"))],
    );
    for (host, status) in [(HOST, 200), ("api.example.com", 200), ("API.example.com:443", 200), ("other.test", 421)] {
        let stream = secure.connect(client(&[&made], &[]), HOST).await.expect("a handshake");
        let answer = exchange(stream, &request(host)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{host}: {answer}");
    }
    secure.stage.edge.metric_becomes("culvert_errors_total{reason=\"misdirected\"}", 1).await;
}

#[tokio::test]
async fn each_entry_point_has_rules_of_its_own() {
    let secure = Secure::start().await;
    let made = Made::new(&[HOST]);
    let rules = HostRules { owner: "web".into(), rules: vec![Arc::new(rule(&[&mirror().await], Vec::new()))] };
    let listener = Arc::new(Listener::new(None, [(HOST.parse::<Hostname>().expect("a hostname"), rules)]));
    let certificates = [(HOST.parse().expect("a hostname"), made.secret("shop"))].into_iter().collect();
    let table = culvert::routing::RoutingTable::new([(EntryPoint::Https, listener)], certificates);
    let agents = crate::support::agents(&[("lab", "lab-token", TOKEN)]);
    secure.stage.proxy.update(Arc::new(table), &agents);
    assert_eq!(secure.stage.get("/").await.status, 404);
    let stream = secure.connect(client(&[&made], &[]), HOST).await.expect("a handshake");
    assert!(exchange(stream, &request(HOST)).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn what_is_no_tls_is_closed_and_counted() {
    let secure = Secure::start().await;
    let mut plain = TcpStream::connect(secure.https).await.expect("a connection");
    plain.write_all(request(HOST).as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, plain.read_to_end(&mut answer)).await.expect("an end in time");
    secure.stage.edge.metric_becomes("culvert_tls_handshakes_total{result=\"protocol\"}", 1).await;

    let silent = TcpStream::connect(secure.https).await.expect("a connection");
    drop(silent);
    secure.stage.edge.metric_becomes("culvert_tls_handshakes_total{result=\"closed\"}", 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_handshake_has_ten_seconds() {
    let secure = Secure::start().await;
    let mut silent = TcpStream::connect(secure.https).await.expect("a connection");
    let start = tokio::time::Instant::now();
    // The first byte of a handshake, and nothing behind it.
    silent.write_all(&[22]).await.expect("sent");
    let mut answer = Vec::new();
    let _ = silent.read_to_end(&mut answer).await;
    let waited = start.elapsed();
    assert!(answer.is_empty(), "{answer:?}");
    assert!((Duration::from_secs(9)..Duration::from_secs(12)).contains(&waited), "{waited:?}");
    secure.stage.edge.metric_becomes("culvert_tls_handshakes_total{result=\"timeout\"}", 1).await;
}

#[tokio::test]
async fn agents_register_on_the_visitors_port_by_the_name_of_the_bridge() {
    let secure = Secure::start_with(Options::default(), Some("localhost")).await;
    secure.stage.serve(&[&mirror().await]);
    let first = secure.stage.edge.session().await.id;
    let url = format!("https://localhost:{}", secure.https.port());
    let certificate = &secure.stage.edge.certificate;
    for (count, (transport, shown)) in [(Transport::Tls, "tls"), (Transport::WebSocket, "websocket")].iter().enumerate()
    {
        let agent = RunningAgent::start_over(&url, certificate, &["127.0.0.1:*"], *transport, Proxies::default());
        let is_it = |session: &Arc<AgentSession>| session.id != first && session.transport == *shown;
        secure.stage.edge.sessions(|sessions| sessions.iter().any(is_it)).await;
        let series = "culvert_tls_handshakes_total{result=\"agent\"}";
        secure.stage.edge.metric_becomes(series, count as u64 + 1).await;
        agent.stop().await;
    }

    // Whoever comes there and does not register is closed as on the bridge's own port.
    let config = certificate.client();
    let mut stream = secure.connect(config, "localhost").await.expect("the bridge's certificate");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time").expect("an end");
    assert!(answer.starts_with(b"HTTP/1.1 404"), "{}", String::from_utf8_lossy(&answer));
}
