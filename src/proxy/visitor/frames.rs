//! What a visitor sends over HTTP/2, as far as the library below watches neither its number nor its time.

use std::{io, time::Duration};

use tokio::time::Instant;

use super::phase::Phase;
use crate::proxy::http2_frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, Head, RST_STREAM, WINDOW_UPDATE,
};

/// Frames that ask for nothing (PING, SETTINGS, PRIORITY, DATA without any, kinds that nobody knows) and that the edge has to read,
/// and to answer, all the same: this many of them within [`FLOOD_TIME`] end the connection (CVE-2019-9512, 9515 and 9518), unless
/// every tenth frame beside them has something to do with a request.
///
/// A client that keeps a connection alive sends one every few seconds. One that measures the way to the edge sends one a round
/// trip, thousands a second on a short way; but only while it gets pieces of a response, of which there are then as many.
const FLOOD: u32 = 1000;
const FLOOD_TIME: Duration = Duration::from_secs(10);
const LEAST_USE: u64 = 100;

/// Of all that is known of the end of a connection, its kind is what remains of this one.
pub(super) const FLOODED: io::ErrorKind = io::ErrorKind::QuotaExceeded;

/// Follows the frames of a visitor.
#[derive(Debug)]
pub(super) struct Arriving {
    frames: Frames,
    /// The last frame was a piece of a head, and not the last one.
    head_goes_on: bool,
    /// The last frame is a piece of a head.
    in_head: bool,
    /// Frames that ask for nothing, and others, from this moment on.
    idle: u32,
    used: u64,
    since: Instant,
    /// How many pieces of responses and joins there had been at that moment.
    pieces: u64,
}

// === impl Arriving ===

impl Arriving {
    /// Of a connection that begins with so many bytes of a preface.
    pub(super) fn behind(preface: usize) -> Self {
        let frames = Frames::behind(preface);
        Self { frames, head_goes_on: false, in_head: false, idle: 0, used: 0, since: Instant::now(), pieces: 0 }
    }

    /// These bytes have come.
    ///
    /// # Errors
    /// Where the connection is to end.
    pub(super) fn pass(&mut self, bytes: &[u8], phase: &Phase) -> io::Result<()> {
        let Self { frames, head_goes_on, in_head, idle, used, since, pieces } = self;
        let mut begins = false;
        frames.pass(bytes, |Head { kind, flags, length, .. }| {
            *in_head = matches!(kind, HEADERS | CONTINUATION);
            *head_goes_on = *in_head && flags & END_HEADERS == 0;
            begins |= kind == HEADERS;
            match kind {
                HEADERS | CONTINUATION => *used += 1,
                DATA if length > 0 || flags & END_STREAM != 0 => *used += 1,
                // They belong to what is in progress, and cost next to nothing.
                WINDOW_UPDATE | RST_STREAM | GOAWAY => {}
                _ => *idle += 1,
            }
            if *idle < FLOOD {
                return Ok(());
            }
            let (now, sent) = (Instant::now(), phase.pieces());
            if now - *since < FLOOD_TIME && *used + (sent - *pieces) < LEAST_USE {
                return Err(io::Error::new(FLOODED, "a flood of frames that ask for nothing"));
            }
            (*idle, *used, *since, *pieces) = (0, 0, now, sent);
            Ok(())
        })?;
        phase.head_comes(*in_head && (*head_goes_on || frames.is_within_payload()), begins);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::Config;

    const PING: u8 = 6;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        frame.resize(9 + usize::from(length), 0xff);
        frame
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_ask_for_nothing_are_few_beside_others_or_come_slowly() {
        let phase = Phase::multiplexed(&Config::default());
        for idle in [frame(PING, 0, 8), frame(PING, 1, 8), frame(4, 0, 0), frame(2, 0, 5), frame(DATA, 0, 0)] {
            let mut arriving = Arriving::behind(0);
            let most = (0..5000).take_while(|_| arriving.pass(&idle, &phase).is_ok()).count();
            assert_eq!(most, 999);
        }
        let mut arriving = Arriving::behind(24);
        assert!(arriving.pass(&[b'P'; 24], &phase).is_ok());
        let ping = frame(PING, 0, 8);
        for _ in 0..5000 {
            tokio::time::advance(Duration::from_millis(11)).await;
            assert!(arriving.pass(&ping, &phase).is_ok());
        }
        // A message and a ping each, in pieces that end anywhere.
        let call = [ping.repeat(9), frame(DATA, 0, 5)].concat();
        for piece in call.repeat(2000).chunks(77) {
            assert!(arriving.pass(piece, &phase).is_ok());
        }
        assert!(arriving.pass(&[frame(8, 0, 4).repeat(5000), ping.repeat(900)].concat(), &phase).is_ok());
        assert_eq!(arriving.pass(&ping.repeat(2000), &phase).expect_err("a flood").kind(), FLOODED);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_is_waited_for_from_its_first_frame_to_its_last_byte() {
        let config = Config::default();
        let phase = Phase::multiplexed(&config);
        let mut arriving = Arriving::behind(0);
        let head = [frame(HEADERS, 0, 10), frame(CONTINUATION, 0, 10), frame(CONTINUATION, END_HEADERS, 10)].concat();
        for _ in 0..2 {
            // Of the first frame's own head nobody knows yet what it is.
            for (position, byte) in head.iter().enumerate() {
                assert_eq!(phase.waits_for_head(), position > 8, "{position}");
                assert!(arriving.pass(&[*byte], &phase).is_ok());
            }
            assert!(!phase.waits_for_head());
        }
        assert!(arriving.pass(&head[..15], &phase).is_ok());
        tokio::time::advance(config.header_timeout / 2).await;
        assert!(!phase.head_is_late());
        assert!(arriving.pass(&head[15..20], &phase).is_ok());
        tokio::time::advance(config.header_timeout / 2).await;
        assert!(phase.head_is_late());
        // Its rest may not have been read.
        phase.wrote(false);
        assert!(phase.waits_for_head() && !phase.head_is_late());
        phase.wrote(true);
        assert!(phase.waits_for_head() && !phase.head_is_late());
        tokio::time::advance(config.header_timeout).await;
        assert!(phase.head_is_late());
        // The next one has its own time, also where the same bytes end the one before.
        assert!(arriving.pass(&[&head[20..], &head[..20]].concat(), &phase).is_ok());
        assert!(phase.waits_for_head() && !phase.head_is_late());
    }
}
