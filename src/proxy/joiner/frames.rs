//! Where the frames of a WebSocket end: their lengths are followed, and nothing else of them is looked at.

use bytes::Bytes;

/// The opcode of a Close frame (RFC 6455, 5.2), and the bits of a frame's first byte that hold it.
const CLOSE: u8 = 0x8;
const OPCODE: u8 = 0xf;
/// In a frame's second byte: whether four bytes of mask follow, and the length or what stands for it.
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
const MASK_BYTES: u64 = 4;
/// 1001, "going away" (RFC 6455, 7.4.1).
const GOING_AWAY: [u8; 2] = 1001_u16.to_be_bytes();

/// One direction of a WebSocket, as far as its frames' beginnings and ends are concerned.
#[derive(Debug)]
pub(super) struct Frames {
    place: Place,
    sender: Sender,
    /// The last frame that began says that none follows.
    closes: bool,
    /// No frame may begin any more.
    ending: bool,
}

/// Whose frames they are; those of the visitor's side are masked (RFC 6455, 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    Visitor,
    Backend,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// A frame's first byte.
    Between,
    /// Its second.
    Second,
    /// Its length of so many more bytes; `length` is what is known of it.
    Length { left: u8, length: u64, masked: bool },
    /// Its mask and payload, of which so much is left, never 0.
    Inside(u64),
}

// === impl Frames ===

impl Frames {
    pub(super) fn new(sender: Sender) -> Self {
        Self { place: Place::Between, sender, closes: false, ending: false }
    }

    /// Follows the next bytes. Returns how many of them may pass: all, or what belongs to the last frame once no other may
    /// begin.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() && !self.is_over() {
            done += self.step(&bytes[done..]);
        }
        done
    }

    /// Lets no frame begin any more.
    pub(super) fn end(&mut self) {
        self.ending = true;
    }

    /// Whether the last frame that may pass has passed.
    pub(super) fn is_over(&self) -> bool {
        self.ending && self.place == Place::Between
    }

    /// The Close frame that comes behind the last frame; nothing where that was one.
    pub(super) fn goodbye(&self) -> Bytes {
        let [high, low] = GOING_AWAY;
        match self.sender {
            _ if self.closes => Bytes::new(),
            Sender::Backend => Bytes::from_static(&[0x80 | CLOSE, 2, GOING_AWAY[0], GOING_AWAY[1]]),
            Sender::Visitor => {
                let mask: [u8; 4] = rand::random();
                let frame = [&[0x80 | CLOSE, MASKED | 2][..], &mask, &[high ^ mask[0], low ^ mask[1]]];
                Bytes::from(frame.concat())
            }
        }
    }

    /// Takes some of the bytes, of which there must be one, and none beyond a frame's end; returns how many.
    fn step(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 1;
        self.place = match self.place {
            Place::Between => {
                self.closes = bytes[0] & OPCODE == CLOSE;
                Place::Second
            }
            Place::Second => {
                let masked = bytes[0] & MASKED != 0;
                match bytes[0] & LENGTH {
                    126 => Place::Length { left: 2, length: 0, masked },
                    127 => Place::Length { left: 8, length: 0, masked },
                    length => Place::inside(length.into(), masked),
                }
            }
            Place::Length { left, length, masked } => {
                let length = length << 8 | u64::from(bytes[0]);
                if left > 1 { Place::Length { left: left - 1, length, masked } } else { Place::inside(length, masked) }
            }
            Place::Inside(left) => {
                taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                match left - taken as u64 {
                    0 => Place::Between,
                    left => Place::Inside(left),
                }
            }
        };
        taken
    }
}

// === impl Place ===

impl Place {
    fn inside(length: u64, masked: bool) -> Self {
        match length.saturating_add(if masked { MASK_BYTES } else { 0 }) {
            0 => Self::Between,
            left => Self::Inside(left),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame with such a payload; the mask is of zeros.
    fn frame(opcode: u8, masked: bool, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode];
        let mask = if masked { MASKED } else { 0 };
        match payload.len() {
            length @ ..126 => frame.push(mask | u8::try_from(length).expect("small")),
            length @ ..0x1_0000 => {
                frame.push(mask | 126);
                frame.extend(u16::try_from(length).expect("small").to_be_bytes());
            }
            length => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(if masked { &[0; 4][..] } else { &[] });
        frame.extend(payload);
        frame
    }

    #[test]
    fn a_goodbye_is_the_close_frame_of_the_rfc() {
        assert_eq!(Frames::new(Sender::Backend).goodbye(), [0x88, 2, 0x03, 0xe9][..]);
        let masked = Frames::new(Sender::Visitor).goodbye();
        let [0x88, 0x82, a, b, _, _, high, low] = masked[..] else { panic!("{masked:?}") };
        assert_eq!([high ^ a, low ^ b], [0x03, 0xe9]);
    }

    #[test]
    fn behind_a_close_frame_comes_no_other() {
        let mut frames = Frames::new(Sender::Backend);
        assert_eq!(frames.pass(&frame(CLOSE, false, &GOING_AWAY)), 4);
        assert_eq!(frames.goodbye(), Bytes::new());
    }

    proptest! {
        #[test]
        fn once_it_is_to_end_it_ends_behind_the_frame_that_has_begun(
            sizes in prop::collection::vec(prop_oneof![Just(0), 0_usize..300, 65_000_usize..66_000], 1..6),
            masked: bool,
            pieces in prop::collection::vec(1_usize..2000, 1..20),
            end in 0_usize..140_000,
        ) {
            let mut bytes = Vec::new();
            let mut ends = vec![0];
            for size in sizes {
                bytes.extend(frame(2, masked, &vec![7; size]));
                ends.push(bytes.len());
            }
            let end = end % (bytes.len() + 1);
            let boundary = *ends.iter().find(|place| **place >= end).expect("the last end");
            let mut frames = Frames::new(if masked { Sender::Visitor } else { Sender::Backend });
            // What has come before the end passes in pieces of any size.
            let mut done = 0;
            for piece in pieces.iter().cycle() {
                let next = (done + piece).min(end);
                prop_assert_eq!(frames.pass(&bytes[done..next]), next - done);
                done = next;
                if done == end { break }
            }
            frames.end();
            for piece in pieces.iter().cycle() {
                if frames.is_over() || done == bytes.len() { break }
                done += frames.pass(&bytes[done..(done + piece).min(bytes.len())]);
            }
            prop_assert!(frames.is_over());
            prop_assert_eq!(done, boundary);
            prop_assert_eq!(frames.pass(b"more"), 0);
        }
    }
}
