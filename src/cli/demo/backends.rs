//! What stands behind the demo's tunnel: a page, a WebSocket echo and a clock of server-sent events.

use std::{convert::Infallible, io, net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::ws::{Message, WebSocket, WebSocketUpgrade},
    response::{
        Html,
        sse::{Event, Sse},
    },
    routing::{any, get},
};
use futures::{Stream, StreamExt, stream};
use k8s_openapi::jiff::Timestamp;
use tokio::{net::TcpListener, time::interval};

/// Serves the backends on a free port, for as long as the process runs.
pub(super) async fn serve() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/", get(|| async { Html(include_str!("page.html")) }))
        .route("/clock", get(|| async { Sse::new(clock()) }))
        .route("/echo", any(|upgrade: WebSocketUpgrade| async { upgrade.on_upgrade(echo) }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

fn clock() -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(interval(Duration::from_secs(1)), |mut ticks| async {
        ticks.tick().await;
        let now = Timestamp::now().strftime("%H:%M:%S UTC").to_string();
        Some((Ok(Event::default().data(now)), ticks))
    })
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.next().await {
        let answer = match message {
            Message::Text(_) | Message::Binary(_) => message,
            Message::Close(_) => return,
            // Answered by the library.
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        if socket.send(answer).await.is_err() {
            return;
        }
    }
}
