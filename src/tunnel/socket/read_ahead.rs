use std::{
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// Reads more from a socket at a time than rustls asks for, which is 4 KiB: a system call for each is a good part of
/// what a bulk transfer costs. Goes between TLS and the socket.
///
/// While little comes, it reads through and holds no memory.
#[derive(Debug)]
pub struct ReadAhead<T> {
    io: T,
    ahead: BytesMut,
    /// Whether the last read showed that more is there than was asked for.
    busy: bool,
}

/// How much is read at a time while much comes, in bytes.
const AHEAD: usize = 64 * 1024;

// === impl ReadAhead ===

impl<T> ReadAhead<T> {
    /// Reads ahead of `io`.
    pub fn new(io: T) -> Self {
        Self { io, ahead: BytesMut::new(), busy: false }
    }

    /// The socket. To read from it would pass by what was read ahead.
    pub fn get_ref(&self) -> &T {
        &self.io
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ReadAhead<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if this.ahead.is_empty() {
            if !this.busy || buf.remaining() >= AHEAD {
                this.ahead = BytesMut::new();
                let room = buf.remaining();
                ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
                this.busy = buf.remaining() == 0 && room < AHEAD;
                return Poll::Ready(Ok(()));
            }
            this.ahead.reserve(AHEAD);
            match pin!(this.io.read_buf(&mut this.ahead)).poll(cx) {
                Poll::Ready(count) => this.busy = count? > buf.remaining(),
                Poll::Pending => {
                    (this.busy, this.ahead) = (false, BytesMut::new());
                    return Poll::Pending;
                }
            }
        }
        let count = buf.remaining().min(this.ahead.len());
        buf.put_slice(&this.ahead[..count]);
        this.ahead.advance(count);
        if this.ahead.is_empty() && !this.busy {
            this.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ReadAhead<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn what_is_read_ahead_is_not_lost_and_not_kept() {
        let (mut writer, reader) = tokio::io::duplex(100_000);
        let mut reader = ReadAhead::new(reader);
        let data: Vec<u8> = (0..300_000u32).map(|n| n.to_le_bytes()[1]).collect();
        let write = async {
            writer.write_all(&data).await.expect("written");
            writer.shutdown().await.expect("ended");
        };
        let read = async {
            let (mut received, mut piece) = (Vec::new(), [0; 4096]);
            let mut ahead = false;
            loop {
                let count = reader.read(&mut piece).await.expect("read");
                ahead |= !reader.ahead.is_empty();
                received.extend_from_slice(&piece[..count]);
                if count == 0 {
                    return (received, ahead, reader.ahead.capacity());
                }
            }
        };
        let ((), (received, ahead, kept)) = tokio::join!(write, read);
        assert!(received == data, "the bytes differ");
        assert!(ahead, "it never read ahead");
        assert_eq!(kept, 0);
    }
}
