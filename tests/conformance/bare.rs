//! The least that hyper can be: HTTP/2, with TLS and without, and "all well" to every request. The HTTP/2 suites are run against
//! it beside Culvert, so that what is hyper's own is told apart from what a proxy adds. Its answer takes a moment, as one
//! that comes from elsewhere: some cases meet a stream that is still open only then.
//!
//! `bare CERT KEY` prints the addresses that it listens on: with TLS, and without.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

const MOMENT: Duration = Duration::from_millis(50);

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut files = std::env::args().skip(1);
    let (Some(certificate), Some(key)) = (files.next(), files.next()) else {
        return Err("usage: bare CERT KEY".into());
    };
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (secure, plain) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
    println!("{} {}", secure.local_addr()?, plain.local_addr()?);
    loop {
        tokio::select! {
            accepted = secure.accept() => {
                let (tcp, acceptor) = (accepted?.0, acceptor.clone());
                tokio::spawn(async move {
                    if let Ok(tls) = acceptor.accept(tcp).await {
                        serve(tls).await;
                    }
                });
            }
            accepted = plain.accept() => drop(tokio::spawn(serve(accepted?.0))),
        }
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let connection = http2::Builder::new(TokioExecutor::new());
    // How a suite's connection ends is the suite's to judge.
    let _ = connection.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let _ = request.into_body().collect().await;
    sleep(MOMENT).await;
    Ok(Response::new(Full::new(Bytes::from_static(b"all well"))))
}
