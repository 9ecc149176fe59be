//! How much an HTTP/2 backend sends before the body of each response. The library below drops interim responses as they come, any
//! number of them; here they are counted.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::before_head::{MOST, TooMuch};

/// A connection of HTTP/2 that ends with an error where a stream has too many bytes of heads before any of a body.
pub(super) struct Heads<S> {
    stream: S,
    follower: Follower,
}

/// Follows the lengths of frames (RFC 9113, 4.1).
#[derive(Default)]
struct Follower {
    /// As much of a frame's header as has come.
    header: [u8; HEADER],
    filled: usize,
    /// How much of its payload is still to come.
    payload: usize,
    /// The bytes of heads of each stream that has had one, and neither a body nor an end.
    streams: HashMap<[u8; 4], usize>,
}

const HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
/// Streams that this side has given up are never heard of again: beyond this many, counting begins anew.
const STREAMS: usize = 1024;

// === impl Heads ===

impl<S> Heads<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, follower: Follower::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heads<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        Poll::Ready(this.follower.pass(&buf.filled()[before..]).map_err(io::Error::other))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heads<S> {
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

// === impl Follower ===

impl Follower {
    fn pass(&mut self, mut bytes: &[u8]) -> Result<(), TooMuch> {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let count = self.payload.min(bytes.len());
                self.payload -= count;
                bytes = &bytes[count..];
                continue;
            }
            let count = (HEADER - self.filled).min(bytes.len());
            self.header[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
            self.filled += count;
            bytes = &bytes[count..];
            if self.filled == HEADER {
                self.filled = 0;
                self.frame()?;
            }
        }
        Ok(())
    }

    fn frame(&mut self) -> Result<(), TooMuch> {
        let [a, b, c, kind, flags, stream @ ..] = self.header;
        self.payload = u32::from_be_bytes([0, a, b, c]) as usize;
        match kind {
            HEADERS if flags & END_STREAM != 0 => self.forget(stream),
            HEADERS | CONTINUATION => {
                if self.streams.len() >= STREAMS {
                    self.streams.clear();
                }
                let bytes = self.streams.entry(stream).or_default();
                *bytes += HEADER + self.payload;
                if *bytes > MOST {
                    return Err(TooMuch);
                }
            }
            DATA | RST_STREAM => self.forget(stream),
            _ => {}
        }
        Ok(())
    }

    fn forget(&mut self, stream: [u8; 4]) {
        if !self.streams.is_empty() {
            self.streams.remove(&stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, stream];
        frame.resize(HEADER + usize::from(length), 0xff);
        frame
    }

    #[test]
    fn only_heads_without_a_body_count_up() {
        let mut follower = Follower::default();
        let exchange = [frame(HEADERS, 4, 1, 200), frame(DATA, 0, 1, 100), frame(HEADERS, 5, 1, 10)].concat();
        // In pieces that end anywhere.
        for piece in exchange.repeat(20_000).chunks(777) {
            assert!(follower.pass(piece).is_ok());
        }
        assert!(follower.streams.is_empty());
        let hints = [frame(HEADERS, 4, 3, 200), frame(DATA, 0, 5, 9), frame(6, 0, 0, 8)].concat();
        let most = (0..20_000).take_while(|_| follower.pass(&hints).is_ok()).count();
        assert_eq!(most, MOST / 209, "whatever comes on other streams");
    }

    #[test]
    fn streams_that_were_given_up_are_forgotten() {
        let mut follower = Follower::default();
        for stream in 0..5000u32 {
            let mut bytes = frame(HEADERS, 4, 0, 50);
            bytes[5..9].copy_from_slice(&stream.to_be_bytes());
            assert!(follower.pass(&bytes).is_ok());
            assert!(follower.streams.len() <= STREAMS);
        }
    }
}
