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

use super::{
    frames::Arriving,
    http2::PREFACE,
    pacer::{Paced, Pacer},
    phase::Phase,
    socket::Socket,
};

/// A visitor's stream; it notices when a request begins, and when the visitor takes nothing.
#[derive(Debug)]
pub(in crate::proxy) struct VisitorStream {
    transport: Transport,
    phase: Arc<Phase>,
    /// The reads of one who has one request at a time.
    reads: Option<Paced>,
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

// === impl Transport ===

impl Transport {
    fn socket(&self) -> &Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }
}

// === impl VisitorStream ===

impl VisitorStream {
    pub(super) fn new(transport: Transport, phase: Arc<Phase>, pacer: Arc<Pacer>) -> Self {
        let arriving = phase.is_multiplexed().then(|| Box::new(Arriving::behind(PREFACE.len())));
        let reads = (!phase.is_multiplexed()).then(|| Paced::new(pacer));
        Self { transport, phase, reads, arriving }
    }

    /// Makes the connection end with a reset instead of an orderly close, so that the visitor does not take what it got
    /// for the whole.
    pub(in crate::proxy) fn abort(self) {
        self.reset_at_end();
    }

    /// What comes from here on is no request.
    pub(in crate::proxy) fn set_joined(&mut self) {
        self.reads = None;
    }

    /// Waits with the rest of a request that comes after a pause, until it may be read.
    fn poll_pace(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(reads) = &mut self.reads else { return Poll::Ready(Ok(())) };
        if reads.waits() {
            if !self.phase.waits_for_rest() {
                // Nobody reads the body any more, so that the connection need not wait for it either.
                reads.forget();
                return Poll::Ready(Ok(()));
            }
        } else if !self.phase.trickles() || self.transport.socket().poll_readable(cx)?.is_pending() {
            // Where the socket has nothing, TLS may have something left of what it has read before.
            return Poll::Ready(Ok(()));
        }
        ready!(reads.poll(cx));
        self.phase.flows();
        Poll::Ready(Ok(()))
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
        self.transport.socket().reset_at_end();
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
        ready!(this.poll_pace(cx))?;
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

#[cfg(test)]
mod tests {
    use std::{task::Waker, time::Duration};

    use futures::FutureExt;
    use rcgen::CertifiedKey;
    use rustls::{ClientConfig, RootCertStore, ServerConfig, pki_types::PrivateKeyDer};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        time::{Instant, sleep, timeout},
    };
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::proxy::Config;

    /// More than the pause behind which the rest of a request trickles.
    const PAUSE: Duration = Duration::from_millis(600);

    /// Both ends of a connection.
    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let visitor = TcpStream::connect(listener.local_addr().expect("its address")).await.expect("a connection");
        let (tcp, _) = listener.accept().await.expect("a visitor");
        (visitor, tcp)
    }

    /// A visitor, and its stream with the beginning of a request already read.
    async fn begun(pacer: &Arc<Pacer>) -> (TcpStream, VisitorStream) {
        let (mut visitor, tcp) = connected().await;
        let phase = Arc::new(Phase::new(&Config::default()));
        let mut stream = VisitorStream::new(Transport::Plain(Socket::new(tcp)), phase, pacer.clone());
        visitor.write_all(b"GET /").await.expect("sent");
        assert_eq!(stream.read(&mut [0; 64]).await.expect("read"), 5);
        (visitor, stream)
    }

    /// So many want to read that everybody has to wait as long as anybody may.
    fn crowd(pacer: &Arc<Pacer>) {
        for _ in 0..10_000 {
            let mut reads = Paced::new(pacer.clone());
            let _ = reads.poll(&mut Context::from_waker(Waker::noop()));
        }
    }

    #[tokio::test]
    async fn a_piece_that_comes_after_a_pause_waits_and_those_right_behind_it_do_not() {
        let pacer = Arc::new(Pacer::of(1));
        let (mut visitor, mut stream) = begun(&pacer).await;
        sleep(PAUSE).await;
        visitor.write_all(b"slow").await.expect("sent");
        crowd(&pacer);
        let start = Instant::now();
        assert_eq!(stream.read(&mut [0; 2]).await.expect("read"), 2);
        assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
        crowd(&pacer);
        assert_eq!(stream.read(&mut [0; 64]).now_or_never().expect("at once").expect("read"), 2);
    }

    #[tokio::test]
    async fn what_tls_has_read_before_is_read_after_a_pause_though_nothing_more_comes() {
        let names = vec!["localhost".to_owned()];
        let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let server = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key);
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).expect("a root");
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let (visitor, tcp) = connected().await;
        let (visitor, stream) = tokio::join!(
            TlsConnector::from(Arc::new(client)).connect("localhost".try_into().expect("a name"), visitor),
            TlsAcceptor::from(Arc::new(server.expect("a configuration"))).accept(Socket::new(tcp)),
        );
        let transport = Transport::Tls(Box::new(stream.expect("a handshake")));
        let phase = Arc::new(Phase::new(&Config::default()));
        let mut stream = VisitorStream::new(transport, phase, Arc::new(Pacer::of(1)));
        let mut visitor = visitor.expect("a handshake");
        visitor.write_all(b"GET / HTTP/1.1").await.expect("sent");
        assert_eq!(stream.read(&mut [0; 5]).await.expect("read"), 5);
        sleep(PAUSE).await;
        let rest = timeout(PAUSE, stream.read(&mut [0; 64])).await.expect("it is there");
        assert_eq!(rest.expect("read"), 9);
    }

    #[tokio::test]
    async fn what_comes_on_a_joined_connection_never_waits() {
        let pacer = Arc::new(Pacer::of(1));
        let (mut visitor, mut stream) = begun(&pacer).await;
        stream.set_joined();
        sleep(PAUSE).await;
        visitor.write_all(b"frame").await.expect("sent");
        sleep(Duration::from_millis(50)).await;
        crowd(&pacer);
        assert_eq!(stream.read(&mut [0; 64]).now_or_never().expect("at once").expect("read"), 5);
    }
}
