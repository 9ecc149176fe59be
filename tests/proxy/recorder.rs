//! A backend that keeps every byte it gets.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::stage::backend;

/// The bytes of each connection, in the order in which they were opened.
#[derive(Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Vec<Vec<u8>>>>);

impl Recorder {
    /// A recorder that answers 200 to each message that looks complete, and its address.
    pub(crate) async fn start() -> (Self, String) {
        let recorder = Self::default();
        let records = recorder.clone();
        let target = backend(move |mut stream| {
            let records = records.clone();
            async move {
                let at = records.open();
                let (mut buffer, mut pending) = (vec![0; 65536], Vec::new());
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    records.0.lock().expect("no panic")[at].extend_from_slice(&buffer[..read]);
                    pending.extend_from_slice(&buffer[..read]);
                    while let Some(length) = message(&pending) {
                        pending.drain(..length);
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                    }
                }
            }
        })
        .await;
        (recorder, target)
    }

    fn open(&self) -> usize {
        let mut records = self.0.lock().expect("no panic");
        records.push(Vec::new());
        records.len() - 1
    }

    /// All bytes so far, of all connections, as text.
    pub(crate) fn text(&self) -> String {
        let records = self.0.lock().expect("no panic");
        records.iter().map(|record| String::from_utf8_lossy(record)).collect()
    }
}

/// The length of the first message, as a strict reader sees it; `None` while it is not complete.
fn message(bytes: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let head = text.find("\r\n\r\n")? + 4;
    if text[..head].contains("\r\ntransfer-encoding: chunked\r\n") {
        return Some(head + text[head..].find("0\r\n\r\n")? + 5);
    }
    let length = text[..head]
        .split("\r\ncontent-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split("\r\n").next().and_then(|digits| digits.parse::<usize>().ok()).expect("a length"));
    (bytes.len() >= head + length).then_some(head + length)
}
