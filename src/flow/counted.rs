use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Meter;

/// A byte stream towards a backend whose bytes are counted as they pass: what is written is `received`, what is read
/// is `sent`.
#[derive(Debug)]
pub struct Counted<S> {
    inner: S,
    meter: Arc<Meter>,
}

// === impl Counted ===

impl<S> Counted<S> {
    /// Counts the bytes of `inner` into `meter`.
    pub fn new(inner: S, meter: Arc<Meter>) -> Self {
        Self { inner, meter }
    }

    /// The stream itself; what is read or written there is not counted.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The stream and its meter, for those who move its bytes in another way and count them themselves.
    pub fn into_parts(self) -> (S, Arc<Meter>) {
        (self.inner, self.meter)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        this.meter.add_sent(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, buf))?;
        this.meter.add_received(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, bufs))?;
        this.meter.add_received(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Flow;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn each_byte_is_counted_once_in_its_direction() {
        let meter = Flow::new(&prometheus::Registry::new()).expect("a fresh registry").meter("web", "shop", "home");
        let (near, mut far) = tokio::io::duplex(4);
        let mut near = Counted::new(near, meter.clone());
        let echo = tokio::spawn(async move {
            let mut heard = vec![0; 10];
            far.read_exact(&mut heard).await.expect("ten bytes");
            far.write_all(b"four").await.expect("room");
        });
        near.write_all(b"ten bytes!").await.expect("written");
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.expect("an answer");
        echo.await.expect("the other side");
        assert_eq!((meter.received(), meter.sent()), (10, 4));
    }
}
