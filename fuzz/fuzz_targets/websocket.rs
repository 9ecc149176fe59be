//! Any bytes as the frames of a WebSocket that carries a session: no panic, no more comes out than went in, and nothing after
//! an end.
#![no_main]

use bytes::Bytes;
use culvert::tunnel::{Role, websocket::WebSocket};
use culvert_fuzz::{Wire, at_once};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fuzz_target!(|data: &[u8]| {
    let Some((&[role, piece, early], data)) = data.split_first_chunk::<3>() else { return };
    let role = if role % 2 == 0 { Role::Edge } else { Role::Agent };
    let (early, later) = data.split_at(usize::from(early).min(data.len()));
    at_once(async {
        let mut stream = WebSocket::start(role, Wire::new(later, piece), Bytes::copy_from_slice(early)).await;
        let (mut total, mut buffer) = (0, [0; 777]);
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            total += count;
        }
        assert!(total <= data.len());
        let _ = stream.write(b"an answer").await;
        let _ = stream.shutdown().await;
    });
});
