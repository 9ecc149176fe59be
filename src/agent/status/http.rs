use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Status, metrics};

/// The longest request, in bytes; probes and Prometheus send a few hundred.
const MAX_REQUEST: usize = 8 * 1024;
/// How long an exchange may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many exchanges at a time.
const CONNECTIONS: usize = 16;

const TEXT: &str = "text/plain; charset=utf-8";
/// What Prometheus calls its text format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Status {
    /// Answers `GET /livez` (200), `/readyz` (200 with at least one session, else 503) and `/metrics` until `stop`: one
    /// request a connection.
    ///
    /// This is all the HTTP that an agent has to serve, and a library for it is larger than the rest of the agent.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = async {
                let place = places.clone().acquire_owned().await;
                (listener.accept().await, place)
            };
            let Some((accepted, place)) = stop.run_until_cancelled(accepted).await else { return };
            match accepted {
                Ok((stream, _)) => {
                    let status = self.clone();
                    tokio::spawn(async move {
                        let _ = timeout(PATIENCE, status.exchange(stream)).await;
                        drop(place);
                    });
                }
                // Out of file descriptors, most likely: some have to be closed first.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn exchange(self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut request = Vec::with_capacity(1024);
        let answer = loop {
            if stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
            if let Some(answer) = self.answer(&request) {
                break answer;
            }
        };
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // Closed with something unread, it would be reset, and the answer with it.
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        Ok(())
    }

    /// The answer, once the request is whole.
    fn answer(&self, request: &[u8]) -> Option<String> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Request::new(&mut headers);
        match parsed.parse(request) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) if request.len() <= MAX_REQUEST => return None,
            Ok(httparse::Status::Partial) | Err(_) => {
                return Some(response("400 Bad Request", TEXT, "bad request\n", true));
            }
        }
        let path = parsed.path.unwrap_or_default();
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        let with_body = match parsed.method {
            Some("GET") => true,
            Some("HEAD") => false,
            _ => {
                return Some(response("405 Method Not Allowed\r\nAllow: GET, HEAD", TEXT, "only GET and HEAD\n", true));
            }
        };
        Some(match path {
            "/livez" => response("200 OK", TEXT, "ok\n", with_body),
            "/readyz" if self.is_connected() => response("200 OK", TEXT, "ok\n", with_body),
            "/readyz" => response("503 Service Unavailable", TEXT, "no session with the edge\n", with_body),
            "/metrics" => response("200 OK", METRICS, &metrics::text(&self.snapshot()), with_body),
            _ => response("404 Not Found", TEXT, "there are /livez, /readyz and /metrics\n", with_body),
        })
    }
}

fn response(status: &str, content_type: &str, body: &str, with_body: bool) -> String {
    let length = body.len();
    let body = if with_body { body } else { "" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}
