use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::stage::{HOST, Stage, backend, becomes, read_head};

const DOWNLOAD: usize = 64 << 20;
const UPLOAD: usize = 32 << 20;
const SENT: &str = "culvert_flow_bytes_total{agent=\"lab\",direction=\"sent\",namespace=\"web\",tunnelhost=\"shop\"}";
const RECEIVED: &str =
    "culvert_flow_bytes_total{agent=\"lab\",direction=\"received\",namespace=\"web\",tunnelhost=\"shop\"}";

/// What the backend saw on its sockets.
#[derive(Default)]
struct Seen {
    read: AtomicU64,
    written: AtomicU64,
}

impl Seen {
    async fn write(&self, stream: &mut TcpStream, bytes: &[u8]) {
        stream.write_all(bytes).await.expect("written");
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_is_counted_while_it_passes() {
    let seen = Arc::new(Seen::default());
    let counting = seen.clone();
    let target = backend(move |mut stream| {
        let seen = counting.clone();
        async move {
            loop {
                let head = read_head(&mut stream).await;
                seen.read.fetch_add(head.len() as u64, Ordering::Relaxed);
                if head.starts_with("GET") {
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {DOWNLOAD}\r\n\r\n");
                    seen.write(&mut stream, head.as_bytes()).await;
                    let block = vec![7; 1 << 16];
                    for _ in 0..DOWNLOAD >> 16 {
                        seen.write(&mut stream, &block).await;
                    }
                } else if head.starts_with("POST") {
                    let mut left = UPLOAD;
                    let mut buffer = vec![0; 1 << 16];
                    while left > 0 {
                        let read = stream.read(&mut buffer).await.expect("more");
                        assert_ne!(read, 0, "the upload ended early");
                        seen.read.fetch_add(read as u64, Ordering::Relaxed);
                        left -= read;
                    }
                    seen.write(&mut stream, b"HTTP/1.1 204 No Content\r\n\r\n").await;
                } else {
                    return;
                }
            }
        }
    })
    .await;
    let stage = Stage::start().await;
    stage.serve(&[&target]);
    let mut visitor = stage.visit().await;

    // Half of a download is visible before the rest is read: what is in flight is far less than the other half.
    visitor.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await;
    let head = read_head(&mut visitor.0).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut half = vec![0; DOWNLOAD / 2];
    visitor.0.read_exact(&mut half).await.expect("half of it");
    let so_far = stage.edge.metric(SENT);
    assert!((DOWNLOAD as u64 / 2..DOWNLOAD as u64).contains(&so_far), "{so_far}");
    visitor.0.read_exact(&mut half).await.expect("the rest");

    let request = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {UPLOAD}\r\n\r\n");
    visitor.send(request.as_bytes()).await;
    let block = vec![9; 1 << 16];
    for _ in 0..UPLOAD >> 16 {
        visitor.send(&block).await;
    }
    assert_eq!(visitor.answer().await.status, 204);

    let read = || seen.read.load(Ordering::Relaxed);
    let written = || seen.written.load(Ordering::Relaxed);
    becomes("sent is what the backend wrote", || stage.edge.metric(SENT) == written()).await;
    becomes("received is what the backend read", || stage.edge.metric(RECEIVED) == read()).await;
    assert!(written() > DOWNLOAD as u64 && read() > UPLOAD as u64);
}

#[tokio::test]
async fn the_series_of_a_host_end_with_it() {
    let stage = Stage::start().await;
    stage.serve(&[&crate::stage::mirror().await]);
    assert_eq!(stage.get("/").await.status, 200);
    assert!(stage.edge.metric(SENT) > 0);
    stage.serve_nothing();
    assert_eq!(stage.edge.metric(SENT), 0);
    let left = stage.edge.metrics.gather();
    let of_shop = left
        .iter()
        .flat_map(prometheus::proto::MetricFamily::get_metric)
        .filter(|metric| metric.get_label().iter().any(|label| label.value() == "shop"));
    assert_eq!(of_shop.count(), 0);
}
