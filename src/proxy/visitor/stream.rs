//! The visitor's end of a connection: TCP, or TLS over it.

use std::{
    io::{self, Write},
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::{frames::Arriving, http2::PREFACE, phase::Phase, socket::Socket};

/// A visitor's stream; it notices when a request begins, and when the visitor takes nothing.
#[derive(Debug)]
pub(in crate::proxy) struct VisitorStream {
    transport: Transport,
    phase: Arc<Phase>,
    /// Of a visitor who speaks HTTP/2.
    arriving: Option<Box<Arriving>>,
}

/// How a visitor came.
#[derive(Debug)]
pub(super) enum Transport {
    Plain(Socket),
    /// Boxed, since it is large and the other is the common one; once a connection.
    Tls(Box<TlsStream<Socket>>),
}

// === impl VisitorStream ===

impl VisitorStream {
    pub(super) fn new(transport: Transport, phase: Arc<Phase>) -> Self {
        let arriving = phase.is_multiplexed().then(|| Box::new(Arriving::behind(PREFACE.len())));
        Self { transport, phase, arriving }
    }

    /// Makes the connection end with a reset instead of an orderly close, so that the visitor does not take what it got
    /// for the whole.
    pub(in crate::proxy) fn abort(self) {
        self.reset_at_end();
    }

    /// Reads to the end what the visitor still sends, for nobody.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = match &mut self.transport {
            Transport::Plain(socket) => socket,
            Transport::Tls(tls) => tls.get_mut().0,
        };
        let mut space = [MaybeUninit::uninit(); 4096];
        loop {
            let mut rest = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut *socket).poll_read(cx, &mut rest))?;
            if rest.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn reset_at_end(&self) {
        match &self.transport {
            Transport::Plain(socket) => socket.reset_at_end(),
            Transport::Tls(tls) => tls.get_ref().0.reset_at_end(),
        }
    }
}

/// What a visitor hears who was too slow with a request's head. hyper's server has no word for it, and where it waits for
/// a head it has nothing else to write.
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\
    Proxy-Status: culvert; error=http_request_error; details=\"the request's head took too long\"\r\n\r\n";

impl VisitorStream {
    /// Writes as much as the socket takes at once: nobody waits for it.
    fn say(&mut self, bytes: &[u8]) {
        // Where it takes nothing, the visitor hears nothing.
        let _ = match &mut self.transport {
            Transport::Plain(socket) => socket.write(bytes),
            Transport::Tls(tls) => {
                let (socket, tls) = tls.get_mut();
                let said = tls.writer().write_all(bytes);
                tls.send_close_notify();
                said.and_then(|()| {
                    while tls.wants_write() {
                        tls.write_tls(socket)?;
                    }
                    Ok(0)
                })
            }
        };
    }
}

impl Drop for VisitorStream {
    fn drop(&mut self) {
        if self.phase.is_too_slow() {
            self.say(TOO_SLOW);
        }
        if self.phase.is_cut() {
            self.reset_at_end();
        }
    }
}

impl AsyncRead for VisitorStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match &mut this.transport {
            Transport::Plain(socket) => ready!(Pin::new(socket).poll_read(cx, buf))?,
            Transport::Tls(tls) => ready!(Pin::new(&mut **tls).poll_read(cx, buf))?,
        }
        if let Some(arriving) = &mut this.arriving {
            arriving.pass(&buf.filled()[before..], &this.phase)?;
        } else if !buf.filled().is_empty() {
            this.phase.read();
        } else if buf.remaining() > 0 && this.phase.ended() {
            // hyper would take it for the end of everything. It is watched for how long it may mean that it waits, and
            // the end is still there to be read when the answer is over.
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for VisitorStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match &mut this.transport {
            Transport::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Transport::Tls(tls) => Pin::new(&mut **tls).poll_write(cx, buf),
        };
        this.phase.wrote(written.is_ready());
        if written.is_ready() {
            this.phase.took();
        }
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = match &mut this.transport {
            Transport::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Transport::Tls(tls) => Pin::new(&mut **tls).poll_write_vectored(cx, bufs),
        };
        this.phase.wrote(written.is_ready());
        if written.is_ready() {
            this.phase.took();
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(socket) => AsyncWrite::is_write_vectored(socket),
            Transport::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match &mut this.transport {
            Transport::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Transport::Tls(tls) => {
                // TLS takes what is written into a buffer of its own, so that only here it shows whether the visitor does.
                let flushed = Pin::new(&mut **tls).poll_flush(cx);
                this.phase.wrote(flushed.is_ready());
                flushed
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match &mut this.transport {
            Transport::Plain(socket) => ready!(Pin::new(socket).poll_shutdown(cx))?,
            Transport::Tls(tls) => ready!(Pin::new(&mut **tls).poll_shutdown(cx))?,
        }
        if this.phase.close() { this.poll_rest(cx) } else { Poll::Ready(Ok(())) }
    }
}
