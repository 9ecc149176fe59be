//! How an agent gets out of networks that let little out: proxies, and boxes that look into its connections.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![cfg(all(feature = "edge", feature = "agent"))]

#[path = "support/tunnel.rs"]
mod support;

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use culvert::{
    agent::{HttpProxy, Proxies, Transport},
    bridge::AgentSession,
    tunnel::tls,
};
use rustls_pki_types::ServerName;
use support::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

fn agent(edge: &str, certificate: &Certificate, transport: Transport, proxies: Proxies) -> RunningAgent {
    RunningAgent::start_over(edge, certificate, &["127.0.0.1:*"], transport, proxies)
}

async fn works(session: &AgentSession) {
    static SENT: LazyLock<Vec<u8>> = LazyLock::new(|| (0..=255).cycle().take(300_000).collect());
    let (mut read, mut write) = tokio::io::split(open(session, &echo()));
    let mut received = vec![0; SENT.len()];
    let (sent, read) = tokio::join!(write.write_all(&SENT), timeout(PATIENCE, read.read_exact(&mut received)));
    sent.expect("sent");
    read.expect("in time").expect("an answer");
    assert!(received == *SENT);
}

#[tokio::test]
async fn a_websocket_is_dialled_where_it_is_asked_for() {
    let edge = Edge::start("r1").await;
    let _agent = agent(&edge.url(), &edge.certificate, Transport::WebSocket, Proxies::default());
    let session = edge.session().await;
    assert_eq!(session.transport, "websocket");
    works(&session).await;
}

#[tokio::test]
async fn a_proxy_leads_to_the_edge_but_not_to_exceptions() {
    let edge = Edge::start("r1").await;
    let proxy = http_proxy::HttpProxy::start(Some("me:p@ss")).await;
    let url = format!("http://me:p%40ss@{}", proxy.address);
    let through = |url: &str, exceptions: &str| Proxies::new(url.parse().expect("a proxy"), exceptions);

    let running = agent(&edge.url(), &edge.certificate, Transport::Auto, through(&url, "10.0.0.0/8"));
    let session = edge.session().await;
    assert_eq!((session.transport, proxy.tunnels()), ("tls", 1));
    works(&session).await;
    running.stop().await;
    edge.sessions(|sessions| sessions.is_empty()).await;

    let running = agent(&edge.url(), &edge.certificate, Transport::Auto, through(&url, "localhost,127.0.0.0/8"));
    works(&*edge.session().await).await;
    assert_eq!(proxy.tunnels(), 1, "it was not asked");
    running.stop().await;
    edge.sessions(|sessions| sessions.is_empty()).await;

    // Nobody gets through with a wrong password.
    let wrong = format!("http://me:wrong@{}", proxy.address);
    let refused = agent(&edge.url(), &edge.certificate, Transport::Auto, through(&wrong, ""));
    let none = timeout(Duration::from_secs(2), edge.session()).await;
    assert!(none.is_err() && proxy.tunnels() == 1);
    refused.stop().await;
}

#[tokio::test]
async fn a_proxy_may_be_behind_tls() {
    let edge = Edge::start("r1").await;
    let behind = http_proxy::HttpProxy::start(None).await;
    let certificate = Certificate::new();
    let address = terminate(&certificate, move |mut stream| async move {
        let mut proxy = TcpStream::connect(behind.address).await.expect("connected");
        let _ = copy_bidirectional(&mut stream, &mut proxy).await;
    })
    .await;
    let proxy: HttpProxy = format!("https://{address}").parse().expect("a proxy");
    let proxies = Proxies::new(proxy.with_tls(certificate.client()), "");
    for transport in [Transport::Tls, Transport::WebSocket] {
        let running = agent(&edge.url(), &edge.certificate, transport, proxies.clone());
        works(&*edge.session().await).await;
        running.stop().await;
        edge.sessions(|sessions| sessions.is_empty()).await;
    }
}

/// What a box between agent and edge does with a registration that is no WebSocket.
#[derive(Clone, Copy, Debug)]
enum Between {
    /// Answers in the edge's place.
    Answers(&'static str),
    /// Passes it on without the headers that a proxy has to take out.
    TakesUpgradeOut,
    /// Closes the connection behind the edge's 101.
    Closes,
    /// Passes nothing on behind the edge's 101.
    Swallows,
}

#[tokio::test]
async fn a_box_that_lets_only_websockets_through_is_got_through() {
    for kind in [
        Between::Answers("HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<no>"),
        Between::Answers("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        Between::Answers("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"),
        Between::TakesUpgradeOut,
        Between::Closes,
        Between::Swallows,
    ] {
        let edge = Edge::start("r1").await;
        let address = in_between(kind, edge.address, &edge.certificate).await;
        let running = agent(&format!("https://{address}"), &edge.certificate, Transport::Auto, Proxies::default());
        let by_websocket = |session: &Arc<AgentSession>| session.transport == "websocket";
        let sessions = edge.sessions(|sessions| sessions.iter().any(by_websocket)).await;
        works(sessions.iter().find(|session| by_websocket(session)).expect("it")).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn an_edge_that_says_no_is_not_asked_again_in_a_websocket() {
    let edge = Edge::start("r1").await;
    edge.agents.send_replace(Arc::new(agents(&[("lab", "lab-token", "another-token-0123456789")])));
    let _agent = agent(&edge.url(), &edge.certificate, Transport::Auto, Proxies::default());
    let refused = "culvert_agent_connects_total{result=\"unauthorized\"}";
    edge.metric_becomes(refused, 1).await;
    // The next one comes a second later.
    assert!(timeout(Duration::from_millis(500), edge.metric_becomes(refused, 2)).await.is_err());
}

/// A box that looks into TLS, with the edge's own key.
async fn in_between(kind: Between, edge: SocketAddr, certificate: &Certificate) -> SocketAddr {
    let client = certificate.client();
    terminate(certificate, move |mut agent| {
        let client = client.clone();
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(agent.read_u8().await.expect("a registration"));
            }
            let mut head = String::from_utf8(head).expect("text");
            let is_websocket = head.to_ascii_lowercase().contains("\r\nupgrade: websocket\r\n");
            if let (Between::Answers(answer), false) = (kind, is_websocket) {
                let _ = agent.write_all(answer.as_bytes()).await;
                let _ = agent.shutdown().await;
                return;
            }
            let name = ServerName::try_from("localhost").expect("a name");
            let tcp = TcpStream::connect(edge).await.expect("connected");
            let mut edge = TlsConnector::from(client).connect(name, tcp).await.expect("TLS");
            if let (Between::TakesUpgradeOut, false) = (kind, is_websocket) {
                let hop_by_hop = |line: &str| {
                    let line = line.to_ascii_lowercase();
                    line.starts_with("upgrade:") || line.starts_with("connection:")
                };
                let kept: Vec<&str> = head.split("\r\n").filter(|line| !hop_by_hop(line)).collect();
                head = kept.join("\r\n");
            }
            edge.write_all(head.as_bytes()).await.expect("sent");
            if let (Between::Closes | Between::Swallows, false) = (kind, is_websocket) {
                let mut answer = Vec::new();
                while !answer.ends_with(b"\r\n\r\n") {
                    answer.push(edge.read_u8().await.expect("an answer"));
                }
                agent.write_all(&answer).await.expect("sent");
                if let Between::Swallows = kind {
                    // Until the agent has had enough of it.
                    let _ = tokio::io::copy(&mut agent, &mut tokio::io::sink()).await;
                }
                return;
            }
            let _ = copy_bidirectional(&mut agent, &mut edge).await;
        }
    })
    .await
}

/// Takes TLS off the connections to a new port.
async fn terminate<F: Future<Output = ()> + Send + 'static>(
    certificate: &Certificate,
    serve: impl Fn(tokio_rustls::server::TlsStream<TcpStream>) -> F + Clone + Send + 'static,
) -> SocketAddr {
    let config = tls::server(certificate.pem.as_bytes(), certificate.key.as_bytes()).expect("a configuration");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, serve) = (TlsAcceptor::from(config.clone()), serve.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(tcp).await {
                    serve(stream).await;
                }
            });
        }
    });
    address
}
