use std::{
    fmt,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::shared::{Interest, Shared};
use crate::tunnel::{
    LinkError, ResetCode,
    machine::{Machine, Read},
};

/// One byte stream to a target. `poll_shutdown` ends this direction and keeps the other; dropped before both
/// directions have ended, the link is reset as [`ResetCode::Cancelled`].
///
/// Writing never waits for the other side's answer, only for credit and for room in the link's queue; what was
/// written is sent without a flush.
pub struct Link {
    shared: Arc<Shared>,
    id: u32,
    /// Whether this direction was ended.
    ended: bool,
    /// How much one read takes.
    most: usize,
}

// === impl Link ===

impl Link {
    pub(super) fn new(shared: Arc<Shared>, id: u32) -> Self {
        Self { shared, id, ended: false, most: usize::MAX }
    }

    /// Its number in its session.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Ready once the agent has answered. On the agent's side it is ready from the beginning.
    pub fn poll_opened(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.shared.attempt(self.id, Interest::Opened, cx, |machine| match machine.opened(self.id) {
            Ok(true) => Some(Ok(())),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        })
    }

    /// Waits for the agent's answer.
    pub async fn opened(&mut self) -> Result<(), LinkError> {
        poll_fn(|cx| self.poll_opened(cx)).await
    }

    /// Ready once the link was refused, reset or lost with its session, whatever is still unread; never after a
    /// regular end. For one who waits for something else than the link, as for a target that does not read.
    pub fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<LinkError> {
        self.shared.attempt(self.id, Interest::Failed, cx, |machine| machine.failure(self.id).cloned())
    }

    /// The next received bytes, at most `max` (at least 1), without a copy; `None` is the other side's end.
    pub fn poll_read_chunk(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<io::Result<Option<Bytes>>> {
        let now = Instant::now().into_std();
        self.shared.attempt(self.id, Interest::Read, cx, |machine| match machine.read_chunk(self.id, max, now) {
            Ok(Read::Data(chunk)) => Some(Ok(Some(chunk))),
            Ok(Read::End) => Some(Ok(None)),
            Ok(Read::Empty) => None,
            Err(error) => Some(Err(error.into())),
        })
    }

    /// Sends from the front of `chunk`, without a copy where it is large, and advances it; returns by how much.
    pub fn poll_write_chunk(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<io::Result<usize>> {
        if chunk.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.write(cx, |machine, id| machine.write_chunk(id, chunk))
    }

    /// Ready with how much can be written, once that is something. For one who would else have to keep what it has read for
    /// the link.
    pub fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.shared.attempt(self.id, Interest::Write, cx, |machine| match machine.writable(self.id) {
            Ok(0) => None,
            Ok(room) => Some(Ok(room)),
            Err(error) => Some(Err(error.into())),
        })
    }

    /// Lets a read take no more than so many bytes, at least 1, from now on. For a reader that keeps what it gets, in buffers that
    /// grow with it.
    pub fn limit_reads(&mut self, most: usize) {
        self.most = most.max(1);
    }

    /// Ends the link at once, in both directions.
    pub fn reset(&mut self, code: ResetCode) {
        self.shared.command(|machine| machine.reset(self.id, code));
    }

    fn write(
        &mut self,
        cx: &Context<'_>,
        write: impl FnOnce(&mut Machine, u32) -> Result<usize, LinkError>,
    ) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.shared.attempt(self.id, Interest::Write, cx, |machine| match write(machine, self.id) {
            Ok(0) => None,
            Ok(count) => Some(Ok(count)),
            Err(error) => Some(Err(error.into())),
        })
    }
}

impl AsyncRead for Link {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let max = buf.remaining().min(self.most);
        if max == 0 {
            return Poll::Ready(Ok(()));
        }
        let now = Instant::now().into_std();
        self.shared.attempt(self.id, Interest::Read, cx, |machine| {
            match machine.read_into(self.id, max, now, |piece| buf.put_slice(piece)) {
                Ok(Read::Data(_) | Read::End) => Some(Ok(())),
                Ok(Read::Empty) => None,
                Err(error) => Some(Err(error.into())),
            }
        })
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.write(cx, |machine, id| machine.write(id, &[IoSlice::new(buf)]))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        self.write(cx, |machine, id| machine.write(id, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The driver sends what was written as soon as it can; as with a socket, there is nothing to push.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = self.shared.command(|machine| machine.end(self.id)).unwrap_or(Err(LinkError::SessionLost));
        self.ended = true;
        Poll::Ready(ended.map_err(Into::into))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.release(self.id);
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("id", &self.id).finish_non_exhaustive()
    }
}
