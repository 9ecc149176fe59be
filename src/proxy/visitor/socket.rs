//! A visitor's TCP connection, of which something may have been read before it was known who reads it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

/// How much is read ahead at a time: most requests' heads, and most of TLS's first messages.
const READ_AHEAD: usize = 2 * 1024;

/// How much the kernel may hold of what a visitor does not take. It would else be megabytes a connection, and a thousand slow
/// readers would use up what the kernel has for the connections of all.
#[cfg(target_os = "linux")]
const NOT_SENT: u32 = 128 * 1024;

/// A visitor's TCP connection, and what was read of it ahead. It is read again by whoever comes next.
#[derive(Debug)]
pub(super) struct Socket {
    tcp: TcpStream,
    early: BytesMut,
}

/// Sets what all connections of a listener inherit, so that none has to be told: small writes leave at once
/// (`TCP_NODELAY`), and what a visitor does not take stays with its backend (`TCP_NOTSENT_LOWAT`, on Linux).
pub(in crate::proxy) fn configure(listener: &TcpListener) {
    let socket = SockRef::from(listener);
    // Where the socket does not take it, it is only slower.
    let _ = socket.set_tcp_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_notsent_lowat(NOT_SENT);
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

    /// Waits until there is something to read, or the end.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.early.is_empty() { self.tcp.poll_read_ready(cx) } else { Poll::Ready(Ok(())) }
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_inherit_what_their_listener_was_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        configure(&listener);
        let _visitor = TcpStream::connect(listener.local_addr().expect("its address")).await.expect("a connection");
        let (tcp, _) = listener.accept().await.expect("a visitor");
        assert!(tcp.nodelay().expect("an option"));
        assert_eq!(SockRef::from(&tcp).tcp_notsent_lowat().expect("an option"), NOT_SENT);
    }
}
