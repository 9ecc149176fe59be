//! How much an HTTP/2 backend sends before the body of each response. The library below drops interim responses as they come, any
//! number of them; here they are counted.

use std::{collections::HashMap, io};

use super::{
    before_head::{MOST, TooMuch},
    watched::Watch,
};
use crate::proxy::http2_frames::{CONTINUATION, DATA, END_STREAM, Frames, HEAD, HEADERS, Head, RST_STREAM};

/// Ends a connection of HTTP/2 with an error where a stream has too many bytes of heads before any of a body.
#[derive(Default)]
pub(super) struct Heads {
    frames: Frames,
    counts: Counts,
}

/// The bytes of heads of each stream that has had one, and neither a body nor an end.
#[derive(Default)]
struct Counts(HashMap<[u8; 4], usize>);

/// Streams that this side has given up are never heard of again: beyond this many, counting begins anew.
const STREAMS: usize = 1024;

// === impl Heads ===

impl Watch for Heads {
    fn arrived(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.pass(bytes).map_err(io::Error::from)
    }
}

impl Heads {
    fn pass(&mut self, bytes: &[u8]) -> Result<(), TooMuch> {
        let counts = &mut self.counts;
        self.frames.pass(bytes, |head| counts.frame(head))
    }
}

// === impl Counts ===

impl Counts {
    fn frame(&mut self, Head { kind, flags, stream, length }: Head) -> Result<(), TooMuch> {
        match kind {
            HEADERS if flags & END_STREAM != 0 => self.forget(stream),
            HEADERS | CONTINUATION => {
                if self.0.len() >= STREAMS {
                    self.0.clear();
                }
                let bytes = self.0.entry(stream).or_default();
                *bytes += HEAD + length;
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
        if !self.0.is_empty() {
            self.0.remove(&stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, stream];
        frame.resize(HEAD + usize::from(length), 0xff);
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
        assert!(heads.counts.0.is_empty());
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
            assert!(heads.counts.0.len() <= STREAMS);
        }
    }
}
