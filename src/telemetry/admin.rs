use std::{pin::pin, time::Duration};

use axum::{
    Router, extract::State, http::StatusCode, http::header, response::IntoResponse, routing::get, serve::Listener,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus::{Registry, TextEncoder};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// How long a request's head may take, and how long a connection may stay without one. `axum::serve` has no such limit.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves probes and metrics until `shutdown`: `/livez` as long as the process runs, `/readyz` while `ready` is true,
/// `/metrics` in Prometheus' text format. A connection whose next request is not there after 10 s is closed.
pub async fn serve_admin(
    mut listener: TcpListener,
    registry: Registry,
    ready: watch::Receiver<bool>,
    shutdown: CancellationToken,
) {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(ready))
        .route("/metrics", get(metrics).with_state(registry));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // It waits by itself where the process has no more files.
            (stream, _) = Listener::accept(&mut listener) => {
                connections.spawn(connection(stream, router.clone(), shutdown.clone()));
            }
            Some(_) = connections.join_next() => {}
            () = shutdown.cancelled() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Ends with its client, after the answer in progress once `shutdown`, or when nothing comes.
async fn connection(stream: TcpStream, router: Router, shutdown: CancellationToken) {
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection to the admin listener failed: {error}");
    }
}

async fn readyz(State(ready): State<watch::Receiver<bool>>) -> impl IntoResponse {
    if *ready.borrow() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: the objects have not been read yet, or the edge is stopping\n")
    }
}

async fn metrics(State(registry): State<Registry>) -> impl IntoResponse {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text),
        Err(error) => {
            let text = format!("the metrics cannot be encoded: {error}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], text)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::JoinHandle,
        time::{Instant, timeout},
    };

    use super::*;

    async fn start(ready: watch::Receiver<bool>, shutdown: CancellationToken) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        (address, tokio::spawn(serve_admin(listener, Registry::new(), ready, shutdown)))
    }

    async fn ask(stream: &mut TcpStream, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut answer).await.expect("an answer"), 0, "closed");
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn probes_are_answered_and_an_idle_connection_does_not_hold_up_the_end() {
        let (ready, shutdown) = (watch::Sender::new(false), CancellationToken::new());
        let (address, served) = start(ready.subscribe(), shutdown.clone()).await;
        let mut one = TcpStream::connect(address).await.expect("connected");
        let mut other = TcpStream::connect(address).await.expect("connected");
        assert!(ask(&mut one, "/livez").await.starts_with("HTTP/1.1 200 "));
        assert!(ask(&mut other, "/readyz").await.starts_with("HTTP/1.1 503 "));
        shutdown.cancel();
        timeout(Duration::from_secs(5), served).await.expect("ended at once").expect("without a panic");
    }

    // Paused: time jumps to the next timer once nothing else is to be done.
    #[tokio::test(start_paused = true)]
    async fn half_a_request_is_not_waited_for() {
        let (ready, shutdown) = (watch::Sender::new(true), CancellationToken::new());
        let (address, _served) = start(ready.subscribe(), shutdown).await;
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let begun = Instant::now();
        stream.write_all(b"GET /met").await.expect("sent");
        let mut answer = Vec::new();
        let closed = timeout(Duration::from_mins(10), stream.read_to_end(&mut answer)).await.expect("it is closed");
        closed.expect("in order");
        assert!(begun.elapsed() < Duration::from_mins(1), "{:?}", begun.elapsed());
    }
}
