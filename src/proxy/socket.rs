//! A visitor's TCP connection, of which something may have been read before it was known who reads it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// How much is read ahead at a time: most requests' heads, and most ClientHellos.
const READ_AHEAD: usize = 2 * 1024;

/// A visitor's TCP connection, and what was read of it ahead. It is read again by whoever comes next.
#[derive(Debug)]
pub(super) struct Socket {
    tcp: TcpStream,
    early: BytesMut,
}

// === impl Socket ===

impl Socket {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { tcp, early: BytesMut::new() }
    }

    /// What was read ahead.
    pub(super) fn early(&self) -> &[u8] {
        &self.early
    }

    /// Reads some more ahead. 0 is the end.
    pub(super) async fn read_ahead(&mut self) -> io::Result<usize> {
        self.early.reserve(READ_AHEAD);
        self.tcp.read_buf(&mut self.early).await
    }

    /// Nobody reads the first `count` bytes of what was read ahead again.
    pub(super) fn forget(&mut self, count: usize) {
        self.early.advance(count);
        if self.early.is_empty() {
            // The connection may live long after it.
            self.early = BytesMut::new();
        }
    }

    /// Makes the connection end with a reset instead of an orderly close.
    pub(super) fn reset_at_end(&self) {
        // Where the socket does not take the option, it closes as usual.
        let _ = self.tcp.set_zero_linger();
    }
}

/// Writes what the connection takes at once, for those who cannot wait.
impl io::Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tcp.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.early.is_empty() {
            return Pin::new(&mut this.tcp).poll_read(cx, buf);
        }
        let count = this.early.len().min(buf.remaining());
        buf.put_slice(&this.early[..count]);
        this.forget(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}
