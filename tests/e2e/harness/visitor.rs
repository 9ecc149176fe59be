//! A visitor: HTTP and WebSocket, one connection a request.

use std::{io, net::SocketAddr, time::Duration};

use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper::{
    HeaderMap, Request,
    body::Bytes,
    header::{AUTHORIZATION, HOST},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::client::IntoClientRequest};

use super::eventually;

/// Who asks for `host` at the address `at`, wherever the name may point.
#[derive(Clone)]
pub(crate) struct Visitor {
    at: SocketAddr,
    host: String,
    credentials: Option<String>,
}

/// What a visitor gets.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

// === impl Visitor ===

impl Visitor {
    pub(crate) fn new(at: SocketAddr, host: &str) -> Self {
        Self { at, host: host.into(), credentials: None }
    }

    /// The same visitor, who says who they are.
    pub(crate) fn with_credentials(&self, user: &str, password: &str) -> Self {
        use base64::prelude::{BASE64_STANDARD, Engine};
        let credentials = BASE64_STANDARD.encode(format!("{user}:{password}"));
        Self { credentials: Some(format!("Basic {credentials}")), ..self.clone() }
    }

    /// Asks for a path. An error of kind `ConnectionRefused` (or of kind `TimedOut`, where the connection was not made
    /// within 5 s) means that the request reached nobody.
    pub(crate) async fn get(&self, path: &str) -> io::Result<Answer> {
        let connecting = tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(self.at));
        let stream = connecting.await.map_err(|_| io::ErrorKind::TimedOut)??;
        let exchange = async {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            let connection = tokio::spawn(connection);
            let mut request = Request::get(path).header(HOST, &self.host);
            if let Some(credentials) = &self.credentials {
                request = request.header(AUTHORIZATION, credentials);
            }
            let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await?;
            let (head, body) = response.into_parts();
            let body = body.collect().await?.to_bytes();
            connection.abort();
            let body = String::from_utf8_lossy(&body).into_owned();
            Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
        };
        let exchange = tokio::time::timeout(Duration::from_secs(30), exchange);
        exchange
            .await
            .unwrap_or_else(|_| panic!("no answer from {} for {path} in 30 s", self.at))
            .map_err(|error: hyper::Error| io::Error::other(error))
    }

    /// Asks for `/` until it is answered with `status`, and tells how long that took.
    pub(crate) async fn sees(&self, status: u16, within: Duration) -> (Answer, Duration) {
        let what = format!("{} answers {status} for {}", self.at, self.host);
        let (answer, took) = eventually(&what, within, async || match self.get("/").await {
            Ok(answer) if answer.status == status => Ok(answer),
            other => Err(format!("{other:?}")),
        })
        .await;
        println!("{what}: after {took:?}");
        (answer, took)
    }

    /// Opens a WebSocket.
    pub(crate) async fn websocket(&self) -> WebSocketStream<TcpStream> {
        let stream = TcpStream::connect(self.at).await.unwrap();
        let request = format!("ws://{}/ws", self.host).into_client_request().unwrap();
        client_async(request, stream).await.unwrap_or_else(|error| panic!("WebSocket at {}: {error}", self.at)).0
    }

    /// Opens a WebSocket, sends a text and takes the echo.
    pub(crate) async fn echoes(&self, text: &'static str) {
        let mut socket = self.websocket().await;
        socket.send(text.into()).await.unwrap();
        let echo = tokio::time::timeout(Duration::from_secs(10), socket.next()).await.expect("an echo within 10 s");
        assert_eq!(echo.unwrap().unwrap().to_text().unwrap(), text);
        socket.close(None).await.unwrap();
    }
}

/// All of them ask for `/` until each is answered with `status`; one of those answers.
pub(crate) async fn all_see(visitors: &[Visitor], status: u16, within: Duration) -> Answer {
    let answers = visitors.iter().map(|visitor| visitor.sees(status, within));
    futures::future::join_all(answers).await.pop().expect("at least one visitor").0
}

// === impl Answer ===

impl Answer {
    /// Asserts that this is the edge's own error, of the type that RFC 9209 names.
    pub(crate) fn is_edges_own(&self, error: &str) {
        let status = self.headers.get("proxy-status").map(|value| value.to_str().unwrap()).unwrap_or_default();
        assert!(status.starts_with("culvert"), "no Proxy-Status of the edge's own: {self:?}");
        assert!(status.contains(&format!("error={error}")), "Proxy-Status is {status:?}, not {error}");
    }
}
