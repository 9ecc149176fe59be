use std::{net::SocketAddr, time::Duration};

use culvert::{
    proxy::{self, TrustedProxies},
    routing::{Backend, ProxyProtocol, Rule},
};
use proxy_protocol_rs::{HeaderBuilder, parse};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    secure::{Http2Visitor, Made, Secure, client},
    stage::{HOST, Options, Stage, Visitor, backend, mirror, read_head, rule},
    support::PATIENCE,
};

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn networks(network: &str) -> TrustedProxies {
    TrustedProxies::new(vec![network.parse().expect("a network")])
}

/// Connections from this network have to say who their visitor is.
fn from(network: &str) -> Options {
    let config = proxy::Config { proxy_protocol: Some(networks(network)), ..proxy::Config::default() };
    Options { config, ..Options::default() }
}

fn v1() -> Vec<u8> {
    HeaderBuilder::v1_proxy(address("203.0.113.9:4000"), address("192.0.2.1:443")).build()
}

fn v2() -> Vec<u8> {
    HeaderBuilder::v2_proxy(address("[2001:db8::9]:4000"), address("[2001:db8::1]:443"))
        .with_authority("shop.example.com")
        .build()
}

fn request() -> String {
    format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nX-Forwarded-For: 10.9.9.9\r\n\r\n")
}

#[tokio::test]
async fn the_visitor_is_who_the_header_says() {
    let stage = Stage::start_with(from("127.0.0.0/8")).await;
    stage.serve(&[&mirror().await]);
    let local = HeaderBuilder::v2_local().build();
    for (header, visitor) in [
        (v1(), "203.0.113.9"),
        (v2(), "2001:db8::9"),
        (local, "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
    ] {
        let mut connection = stage.visit().await;
        connection.send(&[&header, request().as_bytes()].concat()).await;
        let answer = connection.answer().await;
        let seen = answer.body.to_ascii_lowercase();
        assert!(seen.contains(&format!("x-forwarded-for: {visitor}\r\n")), "{visitor} in {seen}");
    }
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte_and_with_http_2_behind_it() {
    let stage = Stage::start_with(from("127.0.0.0/8")).await;
    stage.serve(&[&mirror().await]);
    for header in [v1(), v2()] {
        let mut connection = stage.visit().await;
        connection.0.set_nodelay(true).expect("an option");
        for byte in [&header, request().as_bytes()].concat() {
            connection.send(&[byte]).await;
        }
        assert_eq!(connection.answer().await.status, 200);

        let mut stream = TcpStream::connect(stage.http).await.expect("a connection");
        stream.write_all(&header).await.expect("sent");
        assert_eq!(Http2Visitor::new(stream).await.get("/").await.0, 200);
    }
}

#[tokio::test]
async fn a_header_stands_in_front_of_tls() {
    let secure = Secure::start_with(from("127.0.0.0/8"), None).await;
    let made = Made::new(&[HOST]);
    secure.serve(vec![rule(&[&mirror().await], Vec::new())], &[(HOST, &made.secret("shop"))]);
    let mut tcp = TcpStream::connect(secure.https).await.expect("a connection");
    tcp.write_all(&v1()).await.expect("sent");
    let name = rustls::pki_types::ServerName::try_from(HOST).expect("a name");
    let mut stream = TlsConnector::from(client(&[&made], &[])).connect(name, tcp).await.expect("a handshake");
    stream.write_all(request().as_bytes()).await.expect("sent");
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("an end");
    let seen = answer.to_ascii_lowercase();
    assert!(seen.contains("x-forwarded-for: 203.0.113.9\r\n"), "{seen}");
    assert!(seen.contains("x-forwarded-port: 443\r\n"), "{seen}");
}

/// Sends it and expects to be closed without a word.
async fn is_closed(stage: &Stage, bytes: &[u8]) {
    let mut connection = stage.visit().await;
    connection.send(bytes).await;
    assert!(connection.rest().await.is_empty(), "nothing is answered");
}

#[tokio::test]
async fn without_a_header_that_counts_a_connection_is_closed() {
    let stage = Stage::start_with(from("127.0.0.0/8")).await;
    stage.serve(&[&mirror().await]);
    is_closed(&stage, request().as_bytes()).await;
    is_closed(&stage, b"PROXY TCP4 nobody nowhere 1 2\r\n").await;
    // Endless, and so no header either.
    is_closed(&stage, &[&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[0; 5000]].concat()).await;
    stage.edge.metric_becomes("culvert_errors_total{reason=\"proxy_protocol_malformed\"}", 3).await;

    let stage = Stage::start_with(from("192.0.2.0/24")).await;
    stage.serve(&[&mirror().await]);
    is_closed(&stage, &[&v1(), request().as_bytes()].concat()).await;
    stage.edge.metric_becomes("culvert_errors_total{reason=\"proxy_protocol_untrusted\"}", 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_header_has_ten_seconds() {
    let stage = Stage::start_with(from("127.0.0.0/8")).await;
    let start = tokio::time::Instant::now();
    let Visitor(mut silent) = stage.visit().await;
    silent.write_all(b"PROXY").await.expect("sent");
    let mut answer = Vec::new();
    let _ = silent.read_to_end(&mut answer).await;
    assert!((Duration::from_secs(9)..Duration::from_secs(12)).contains(&start.elapsed()), "{:?}", start.elapsed());
    stage.edge.metric_becomes("culvert_errors_total{reason=\"proxy_protocol_timeout\"}", 1).await;
}

fn telling(target: &str, version: ProxyProtocol) -> Rule {
    let mut rule = rule(&[target], Vec::new());
    let Backend::Tunnel(backend) = &mut rule.backend else { panic!("a tunnel") };
    backend.proxy_protocol = Some(version);
    rule
}

#[tokio::test]
async fn a_backend_is_told_who_each_visitor_is() {
    // It answers with the header that its connection began with, and keeps the connection open.
    let target = backend(|mut stream| async move {
        let mut early = Vec::new();
        let (info, length) = loop {
            early.push(stream.read_u8().await.expect("a header"));
            if let Ok(header) = parse(&early) {
                break header;
            }
        };
        assert_eq!(length, early.len());
        while !read_head(&mut stream).await.is_empty() {
            let told = format!("{:?} {}", info.version, info.source_inet().expect("an address").ip());
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{told}", told.len());
            stream.write_all(answer.as_bytes()).await.expect("answered");
        }
    })
    .await;
    let stage = Stage::start_with(Options::behind_proxy()).await;
    for (version, name) in [(ProxyProtocol::V1, "V1"), (ProxyProtocol::V2, "V2")] {
        stage.serve_rules(vec![telling(&target, version)], None);
        let mut visitor = stage.visit().await;
        // Two visitors behind one proxy, which keeps its connection.
        for address in ["203.0.113.9", "203.0.113.10"] {
            let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-For: {address}\r\n\r\n");
            visitor.send(request.as_bytes()).await;
            assert_eq!(visitor.answer().await.body, format!("{name} {address}"));
        }
    }
}
