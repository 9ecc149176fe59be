//! What a backend sends before the head of its response: any number of interim responses, of which hyper tells nobody that
//! has not asked, and asking costs each request more than it is worth.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most bytes before a head, its own included. Tens of thousands of interim responses, and more than hyper reads ahead
/// of a body before anybody has seen the head.
pub(super) const MOST: usize = 2 * 1024 * 1024;
/// The head has come.
const ANY: usize = usize::MAX;

/// The error of a stream on which too much came.
#[derive(Debug, thiserror::Error)]
#[error("more than {MOST} bytes of interim responses came before its head")]
pub(in crate::proxy) struct TooMuch;

/// A stream on which only so much may come before a head.
pub(super) struct BeforeHead<S> {
    stream: S,
    left: Allowance,
}

/// How much may still come; whoever uses the connection has the other end.
#[derive(Clone)]
pub(super) struct Allowance(Arc<AtomicUsize>);

// === impl Allowance ===

impl Allowance {
    /// A request is sent, and a head is due.
    pub(super) fn renew(&self) {
        self.0.store(MOST, Ordering::Relaxed);
    }

    /// The head is there; of the body, as much may come as does.
    pub(super) fn lift(&self) {
        self.0.store(ANY, Ordering::Relaxed);
    }

    fn take(&self, bytes: usize) -> io::Result<()> {
        let left = self.0.load(Ordering::Relaxed);
        if left != ANY {
            let left = left.checked_sub(bytes).ok_or_else(|| io::Error::other(TooMuch))?;
            self.0.store(left, Ordering::Relaxed);
        }
        Ok(())
    }
}

// === impl BeforeHead ===

impl<S> BeforeHead<S> {
    pub(super) fn new(stream: S) -> (Self, Allowance) {
        let left = Allowance(Arc::new(AtomicUsize::new(MOST)));
        (Self { stream, left: left.clone() }, left)
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for BeforeHead<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        Poll::Ready(this.left.take(buf.filled().len() - before))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for BeforeHead<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
