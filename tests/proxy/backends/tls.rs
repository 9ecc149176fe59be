//! Backends behind TLS.

use std::{convert::Infallible, sync::Arc};

use culvert::routing::{BackendTls, Protocol, Trust};
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use super::{any, mirror, speaks};
use crate::{
    secure::{Body, Made, empty},
    stage::{HOST, Stage, backend},
    support::PATIENCE,
};

/// A backend behind TLS that speaks one of these protocols, and mirrors requests.
pub(crate) async fn https_backend(made: &Made, alpn: &'static [&'static str]) -> String {
    let key = PrivateKeyDer::try_from(made.pkcs8.clone()).expect("a key");
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.der.clone()], key)
        .expect("a pair");
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    backend(move |stream: TcpStream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            serve(stream, speaks_http2).await;
        }
    })
    .await
}

async fn serve<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: T, speaks_http2: bool) {
    let service = service_fn(async |request: Request<Incoming>| {
        let switches = request.headers().contains_key("upgrade");
        Ok::<_, Infallible>(if switches { switch(request) } else { mirror(request).await })
    });
    let io = TokioIo::new(stream);
    if speaks_http2 {
        let _ = any().serve_connection(io, service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(io, service).with_upgrades().await;
    }
}

/// Switches to a protocol that sends back what it gets.
fn switch(mut request: Request<Incoming>) -> Response<Body> {
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded.await.expect("a stream")));
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    });
    let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
    response.body(empty()).expect("a response")
}

fn https(server_name: Option<&str>, trust: Trust) -> Protocol {
    Protocol::Https(Arc::new(BackendTls { server_name: server_name.map(Into::into), trust }))
}

#[tokio::test]
async fn a_backend_behind_tls_is_verified() {
    let (made, other) = (Made::new(&["backend.test"]), Made::new(&["backend.test"]));
    let authorities = |made: &Made| Trust::Authorities(vec![made.der.clone()]);
    for (alpn, version) in [(&["h2", "http/1.1"][..], "HTTP/2.0"), (&["http/1.1"], "HTTP/1.1"), (&[], "HTTP/1.1")] {
        let target = https_backend(&made, alpn).await;
        let stage = Stage::start().await;
        let get = async |protocol: Protocol| {
            stage.serve_rules(vec![speaks(&target, protocol)], None);
            stage.get("/a").await
        };
        for protocol in [https(Some("backend.test"), authorities(&made)), https(None, Trust::Insecure)] {
            for _ in 0..2 {
                let answer = get(protocol.clone()).await;
                assert_eq!(answer.status, 200, "{protocol:?}: {answer:?}");
                assert!(answer.body.starts_with(&format!("{version} GET ")), "{answer:?}");
                assert!(answer.body.contains(HOST), "{answer:?}");
            }
        }
        for (protocol, cause) in [
            (https(Some("backend.test"), authorities(&other)), "BadSignature"),
            (https(Some("backend.test"), Trust::WebRoots), "UnknownIssuer"),
            (https(Some("another.test"), authorities(&made)), "not valid for name"),
            (https(None, authorities(&made)), "not valid for name"),
        ] {
            let answer = get(protocol.clone()).await;
            assert_eq!(answer.status, 502, "{protocol:?}: {answer:?}");
            let status = answer.header("proxy-status").expect("Proxy-Status");
            assert!(status.starts_with("culvert; error=tls_certificate_error"), "{status}");
            assert!(status.contains(cause), "{status}");
        }
    }
}

#[tokio::test]
async fn a_backend_without_tls_where_tls_is_due_is_502() {
    let target = backend(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
    })
    .await;
    let stage = Stage::start().await;
    stage.serve_rules(vec![speaks(&target, https(Some("backend.test"), Trust::Insecure))], None);
    let answer = stage.get("/").await;
    assert_eq!(answer.status, 502);
    assert!(answer.header("proxy-status").expect("a status").starts_with("culvert; error=tls_protocol_error"));
}

#[tokio::test]
async fn an_upgrade_passes_to_a_backend_behind_tls() {
    let made = Made::new(&["backend.test"]);
    // It speaks HTTP/2 too, which has no upgrades.
    let target = https_backend(&made, &["h2", "http/1.1"]).await;
    let stage = Stage::start().await;
    stage.serve_rules(vec![speaks(&target, https(None, Trust::Insecure))], None);
    assert_eq!(stage.get("/").await.status, 200);
    let mut visitor = stage.visit().await;
    let upgrade = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly ");
    visitor.send(upgrade.as_bytes()).await;
    assert_eq!(visitor.answer().await.status, 101);
    let long = vec![b'x'; 300_000];
    let (mut read, mut write) = visitor.0.split();
    let sending = async {
        write.write_all(&long).await.expect("sent");
        write.shutdown().await.expect("half-closed");
    };
    let mut echo = Vec::new();
    let (read, ()) = tokio::join!(timeout(PATIENCE, read.read_to_end(&mut echo)), sending);
    read.expect("in time").expect("an end");
    assert_eq!(echo.len(), 6 + long.len());
    assert!(echo.starts_with(b"early xxx"));
}
