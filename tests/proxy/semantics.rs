//! What messages mean on their way through: what a backend behind the edge may say and hear as if it were there itself.

mod expect;
mod request;
mod response;
mod visitor;

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    stage::{HOST, Stage, backend, read_head},
    support::PATIENCE,
};

/// A backend that answers each request with these bytes; whether it then keeps its connection open.
async fn answering(answer: impl Into<Vec<u8>>, keeps: bool) -> String {
    let answer: Arc<[u8]> = answer.into().into();
    backend(move |mut stream| {
        let answer = answer.clone();
        async move {
            while !read_head(&mut stream).await.is_empty() {
                // The edge may have had enough of it.
                let _ = stream.write_all(&answer).await;
                if !keeps {
                    return;
                }
            }
        }
    })
    .await
}

/// Everything that one request gets, as text; `Connection: close` is to be in it.
async fn exchange(stage: &Stage, request: &str) -> String {
    let mut visitor = stage.visit().await;
    visitor.send(request.as_bytes()).await;
    String::from_utf8_lossy(&visitor.rest().await).into_owned()
}

fn get() -> String {
    format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")
}

fn expecting(length: usize) -> String {
    format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n")
}

async fn read_exactly(stream: &mut TcpStream, length: usize) -> String {
    let mut bytes = vec![0; length];
    timeout(PATIENCE, stream.read_exact(&mut bytes)).await.expect("bytes in time").expect("bytes");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits until the other side has closed or reset.
async fn ends(stream: &mut TcpStream) {
    let mut byte = [0; 4096];
    loop {
        match timeout(PATIENCE, stream.read(&mut byte)).await.expect("an end in time") {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}
