//! How much an HTTP/2 backend sends before the body of each response. The library below drops interim responses as they come, any
//! number of them; here they are counted.

use std::{collections::HashMap, io};

use super::{
    before_head::{MOST, TooMuch},
    watched::Watch,
};

/// Ends a connection of HTTP/2 with an error where a stream has too many bytes of heads before any of a body. Follows the lengths of
/// frames (RFC 9113, 4.1).
#[derive(Default)]
pub(super) struct Heads {
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

impl Watch for Heads {
    fn arrived(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.pass(bytes).map_err(io::Error::from)
    }
}

impl Heads {
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
        let mut heads = Heads::default();
        let exchange = [frame(HEADERS, 4, 1, 200), frame(DATA, 0, 1, 100), frame(HEADERS, 5, 1, 10)].concat();
        // In pieces that end anywhere.
        for piece in exchange.repeat(20_000).chunks(777) {
            assert!(heads.pass(piece).is_ok());
        }
        assert!(heads.streams.is_empty());
        let hints = [frame(HEADERS, 4, 3, 200), frame(DATA, 0, 5, 9), frame(6, 0, 0, 8)].concat();
        let most = (0..20_000).take_while(|_| heads.pass(&hints).is_ok()).count();
        assert_eq!(most, MOST / 209, "whatever comes on other streams");
    }

    #[test]
    fn streams_that_were_given_up_are_forgotten() {
        let mut heads = Heads::default();
        for stream in 0..5000u32 {
            let mut bytes = frame(HEADERS, 4, 0, 50);
            bytes[5..9].copy_from_slice(&stream.to_be_bytes());
            assert!(heads.pass(&bytes).is_ok());
            assert!(heads.streams.len() <= STREAMS);
        }
    }
}
