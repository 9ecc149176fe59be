use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::{LinkError, ResetCode};

/// One byte stream to a target. `poll_shutdown` ends this direction and keeps the other; dropped before both
/// directions have ended, the link is reset as [`ResetCode::Cancelled`].
pub struct Link(());

// === impl Link ===

impl Link {
    /// Ready once the agent has answered.
    pub fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        todo!()
    }

    /// Waits for the agent's answer.
    pub async fn opened(&mut self) -> Result<(), LinkError> {
        poll_fn(|cx| self.poll_opened(cx)).await
    }

    /// Ready once the link was refused, reset or lost with its session, whatever is still unread; never after a
    /// regular end. For one who waits for something else than the link.
    pub fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<LinkError> {
        todo!()
    }

    /// The next received bytes, at most `max`, without a copy; `None` is the other side's end.
    pub fn poll_read_chunk(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<io::Result<Option<Bytes>>> {
        todo!()
    }

    /// Sends from the front of `chunk`, without a copy where it is large, and advances it.
    pub fn poll_write_chunk(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<usize>> {
        todo!()
    }

    /// Ends the link at once, in both directions.
    pub fn reset(&mut self, code: ResetCode) {
        todo!()
    }

    /// Its number in its session.
    #[must_use]
    pub fn id(&self) -> u32 {
        todo!()
    }
}

impl AsyncRead for Link {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        todo!()
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        todo!()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        todo!()
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        todo!()
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
