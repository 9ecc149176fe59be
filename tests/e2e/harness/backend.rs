//! The service behind NAT: a page, a slow page, and a WebSocket echo.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use futures::{SinkExt, StreamExt};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

/// A backend; it ends with this value.
pub(crate) struct Backend {
    /// Where it listens, on this host's loopback.
    pub(crate) address: SocketAddr,
    server: JoinHandle<()>,
}

// === impl Backend ===

impl Backend {
    /// Starts a backend at `address` (port 0: any free one) whose page is `page`.
    pub(crate) async fn start(address: &str, page: &'static str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            // They end with the backend.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let service = service_fn(move |request| answer(request, page));
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                connections.spawn(connection.with_upgrades());
            }
        });
        Self { address, server }
    }

    /// Ends it with all its connections; its port is free then.
    pub(crate) async fn stop(&mut self) {
        self.server.abort();
        let _ = (&mut self.server).await;
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(mut request: Request<Incoming>, page: &'static str) -> Result<Response<String>, Infallible> {
    let mut response = Response::new(String::new());
    if let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY).cloned() {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let upgraded = TokioIo::new(upgrade.await.unwrap());
            let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Server, None).await;
            while let Some(Ok(message)) = socket.next().await {
                if !message.is_text() && !message.is_binary() || socket.send(message).await.is_err() {
                    break;
                }
            }
        });
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, "upgrade".parse().unwrap());
        headers.insert(UPGRADE, "websocket".parse().unwrap());
        headers.insert(SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()).parse().unwrap());
    } else {
        if request.uri().path() == "/slow" {
            // Long enough for a fault to strike while it runs.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        page.clone_into(response.body_mut());
    }
    Ok(response)
}
