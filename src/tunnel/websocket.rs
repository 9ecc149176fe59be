//! A connection inside a WebSocket (RFC 6455), for networks that let through nothing else (`docs/protocol.md`, section 12).
//!
//! [`WebSocket`] is a stream of bytes again, so that a session knows nothing of it. The payloads of binary messages, one after
//! the other, are that stream; where one message ends means nothing.

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Sink, Stream};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, error::ProtocolError, protocol::WebSocketConfig},
};

use super::Role;

/// What RFC 6455 appends to a key.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The longest message that is sent or taken, in bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// A registered connection on which each side speaks in WebSocket messages.
pub struct WebSocket<T> {
    inner: WebSocketStream<T>,
    /// What was not read yet of the last message.
    rest: Bytes,
}

/// The proof that a WebSocket's key was read, which the answer to it has as `Sec-WebSocket-Accept` (RFC 6455, 4.2.2).
#[must_use]
pub fn answer_to(key: impl AsRef<[u8]>) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

// === impl WebSocket ===

impl<T: AsyncRead + AsyncWrite + Unpin> WebSocket<T> {
    /// Goes on behind the handshake; `early` is what was read of `io` behind it.
    pub async fn start(role: Role, io: T, early: Bytes) -> Self {
        let role = match role {
            Role::Agent => tungstenite::protocol::Role::Client,
            Role::Edge => tungstenite::protocol::Role::Server,
        };
        let config = WebSocketConfig::default()
            .read_buffer_size(16 * 1024)
            // Each message goes out at once, and the next is made only when it has.
            .write_buffer_size(0)
            .max_write_buffer_size(4 * MAX_MESSAGE)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let inner = WebSocketStream::from_partially_read(io, early.into(), role, Some(config)).await;
        Self { inner, rest: Bytes::new() }
    }

    /// Makes one message of the slices, as far as it may be long.
    fn send(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let length = slices.iter().map(|slice| slice.len()).sum::<usize>().min(MAX_MESSAGE);
        let mut message = BytesMut::with_capacity(length);
        for slice in slices {
            let room = length - message.len();
            message.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        Pin::new(&mut self.inner).start_send(Message::Binary(message.freeze())).map_err(error)?;
        Ok(length)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                Some(Ok(Message::Binary(payload))) => self.rest = payload,
                // Pings are answered by the library.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "a message that is not binary",
                    )));
                }
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(failed)) => {
                    let error = error(failed);
                    let ended = error.kind() == io::ErrorKind::UnexpectedEof;
                    return Poll::Ready(if ended { Ok(()) } else { Err(error) });
                }
            }
        }
        let count = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        if self.rest.is_empty() {
            // It holds on to the memory of the whole message.
            self.rest = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        ready!(Pin::new(&mut self.inner).poll_ready(cx)).map_err(error)?;
        Poll::Ready(self.send(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx).map_err(error)
    }

    /// Sends a Close frame. The connection below stays open: a proxy in between may take its half end for a whole one,
    /// and the other side has yet to answer.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx).map_err(error)
    }
}

impl<T> fmt::Debug for WebSocket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket").finish_non_exhaustive()
    }
}

fn error(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        tungstenite::Error::ConnectionClosed
        | tungstenite::Error::AlreadyClosed
        | tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            io::ErrorKind::UnexpectedEof.into()
        }
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    async fn sides(buffer: usize) -> (WebSocket<DuplexStream>, WebSocket<DuplexStream>) {
        let (agent, edge) = duplex(buffer);
        (
            WebSocket::start(Role::Agent, agent, Bytes::new()).await,
            WebSocket::start(Role::Edge, edge, Bytes::new()).await,
        )
    }

    #[test]
    fn the_answer_to_a_key_is_that_of_the_rfc() {
        assert_eq!(answer_to("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[tokio::test]
    async fn bytes_arrive_as_they_were_sent_whatever_the_messages() {
        for buffer in [7, 1000, 1 << 20] {
            let (mut agent, mut edge) = sides(buffer).await;
            let sent: Vec<u8> = (0..400_000_u32).flat_map(u32::to_be_bytes).collect();
            for turn in 0..2 {
                let (from, to) = if turn == 0 { (&mut agent, &mut edge) } else { (&mut edge, &mut agent) };
                let mut received = vec![0; sent.len()];
                let write = async {
                    from.write_all(&sent[..3]).await?;
                    from.write_all(&sent[3..]).await?;
                    from.flush().await
                };
                let (written, read) = tokio::join!(write, to.read_exact(&mut received));
                written.expect("written");
                read.expect("read");
                assert!(received == sent);
            }
        }
    }

    #[tokio::test]
    async fn several_slices_become_one_message() {
        let (mut agent, edge) = duplex(1 << 20);
        let mut edge = WebSocket::start(Role::Edge, edge, Bytes::new()).await;
        let long = vec![7; MAX_MESSAGE];
        let slices = [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(&long)];
        assert_eq!(edge.write_vectored(&slices).await.expect("written"), MAX_MESSAGE);
        edge.flush().await.expect("flushed");
        let mut header = [0; 12];
        agent.read_exact(&mut header).await.expect("a frame");
        // Binary, final, not masked, 65,536 bytes; then the first two of them.
        assert_eq!(header, [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0, b'a', b'b']);
    }

    #[tokio::test]
    async fn a_close_frame_is_an_end_and_so_is_a_cut() {
        let (mut agent, mut edge) = sides(1000).await;
        agent.write_all(b"last").await.expect("written");
        agent.shutdown().await.expect("closed");
        let mut all = Vec::new();
        edge.read_to_end(&mut all).await.expect("an end");
        assert_eq!(all, b"last");
        edge.shutdown().await.expect("answered");
        assert_eq!(agent.read(&mut [0; 1]).await.expect("an end"), 0);

        let (agent, mut edge) = sides(1000).await;
        drop(agent);
        assert_eq!(edge.read(&mut [0; 1]).await.expect("an end"), 0);
    }

    #[tokio::test]
    async fn a_ping_in_between_is_answered() {
        let (mut agent, edge) = duplex(1 << 20);
        let mut edge = WebSocket::start(Role::Edge, edge, Bytes::new()).await;
        // A masked ping "hi", then a masked binary message "x", all masks 0.
        agent.write_all(&[0x89, 0x82, 0, 0, 0, 0, b'h', b'i', 0x82, 0x81, 0, 0, 0, 0, b'x']).await.expect("written");
        let mut read = [0; 1];
        edge.read_exact(&mut read).await.expect("read");
        assert_eq!(&read, b"x");
        edge.flush().await.expect("flushed");
        let mut pong = [0; 4];
        agent.read_exact(&mut pong).await.expect("a pong");
        assert_eq!(&pong, &[0x8a, 2, b'h', b'i']);
    }

    #[tokio::test]
    async fn what_breaks_the_rules_is_an_error() {
        let too_long = [0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0];
        let text = [0x81, 0x81, 0, 0, 0, 0, b'x'];
        let unmasked = [0x82, 1, b'x'];
        for frame in [&too_long[..], &text, &unmasked, &[0xff; 20]] {
            let (mut agent, edge) = duplex(1 << 20);
            let mut edge = WebSocket::start(Role::Edge, edge, Bytes::new()).await;
            agent.write_all(frame).await.expect("written");
            let error = edge.read(&mut [0; 1]).await.expect_err("an error");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{frame:x?}: {error}");
        }
    }
}
