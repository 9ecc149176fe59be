//! An HTTP proxy that knows CONNECT and nothing else, and may ask for a user and a password.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    net::SocketAddr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

/// A running proxy.
pub(crate) struct HttpProxy {
    pub(crate) address: SocketAddr,
    /// How many tunnels it made.
    pub(crate) tunnels: Arc<AtomicUsize>,
}

impl HttpProxy {
    /// Starts one that asks for these credentials, `user:password`, if any.
    pub(crate) async fn start(credentials: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let tunnels = Arc::new(AtomicUsize::new(0));
        let wanted = credentials.map(|pair| format!("proxy-authorization: basic {}", STANDARD.encode(pair)));
        let counted = tunnels.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, wanted.clone(), counted.clone()));
            }
        });
        Self { address, tunnels }
    }

    pub(crate) fn tunnels(&self) -> usize {
        self.tunnels.load(Ordering::Relaxed)
    }
}

/// The URL of a proxy that all tests of this program share, with the credentials that it asks for.
pub(crate) fn of_this_program() -> String {
    static URL: LazyLock<String> = LazyLock::new(|| {
        let (said, address) = std::sync::mpsc::channel();
        // Each test has a runtime of its own, and this one outlives them.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                said.send(HttpProxy::start(Some("me:p@ss")).await.address).expect("somebody waits");
                std::future::pending::<()>().await;
            });
        });
        format!("http://me:p%40ss@{}", address.recv().expect("it started"))
    });
    URL.clone()
}

async fn serve(mut client: TcpStream, wanted: Option<String>, tunnels: Arc<AtomicUsize>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match client.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).expect("text");
    let mut words = head.split(' ');
    let (method, destination) = (words.next().expect("a method"), words.next().expect("a target"));
    // The scheme has no case, and the header's name neither; base64 has.
    let authorized = wanted.is_none_or(|wanted| {
        let (name, value) = wanted.rsplit_once(' ').expect("two words");
        head.lines().any(|line| {
            line.rsplit_once(' ').is_some_and(|(start, end)| start.eq_ignore_ascii_case(name) && end == value)
        })
    });
    let refusal = match method {
        "CONNECT" if authorized => None,
        "CONNECT" => Some("407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"test\""),
        _ => Some("405 Method Not Allowed"),
    };
    if let Some(refusal) = refusal {
        let answer = format!("HTTP/1.1 {refusal}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        let _ = client.write_all(answer.as_bytes()).await;
        return;
    }
    let Ok(mut server) = TcpStream::connect(destination).await else {
        let _ = client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").await;
        return;
    };
    tunnels.fetch_add(1, Ordering::Relaxed);
    if client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.is_ok() {
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}
