use bytes::{BufMut, BytesMut};

use super::Violation;

/// The length of a frame's header, in bytes.
pub(super) const HEADER: usize = 8;
/// The longest payload of any frame.
pub(super) const MAX_PAYLOAD: usize = 16 * 1024;
/// The longest payload of DATA, so that a frame of it fits one TLS record.
pub(super) const MAX_DATA: usize = MAX_PAYLOAD - HEADER;
/// The longest payload of OPEN.
pub(super) const MAX_OPEN: usize = 4 * 1024;
/// The longest text of REFUSED.
pub(super) const MAX_TEXT: usize = 1024;
/// Flag of a frame that must not be skipped by one who does not know its type.
const MUST_UNDERSTAND: u8 = 0x80;

/// The type of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Open,
    Opened,
    Refused,
    Data,
    Credit,
    End,
    Reset,
    Ping,
    Pong,
    Note,
}

/// A frame's header, its length already checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// `None` is a type to skip.
    pub(super) kind: Option<Kind>,
    pub(super) length: usize,
    pub(super) link: u32,
}

// === impl Kind ===

impl Kind {
    const fn number(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Opened => 2,
            Self::Refused => 3,
            Self::Data => 4,
            Self::Credit => 5,
            Self::End => 6,
            Self::Reset => 7,
            Self::Ping => 8,
            Self::Pong => 9,
            Self::Note => 10,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Open,
            2 => Self::Opened,
            3 => Self::Refused,
            4 => Self::Data,
            5 => Self::Credit,
            6 => Self::End,
            7 => Self::Reset,
            8 => Self::Ping,
            9 => Self::Pong,
            10 => Self::Note,
            _ => return None,
        })
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Open => "OPEN",
            Self::Opened => "OPENED",
            Self::Refused => "REFUSED",
            Self::Data => "DATA",
            Self::Credit => "CREDIT",
            Self::End => "END",
            Self::Reset => "RESET",
            Self::Ping => "PING",
            Self::Pong => "PONG",
            Self::Note => "NOTE",
        }
    }

    /// Whether a payload may have this length.
    fn fits(self, length: usize) -> bool {
        match self {
            Self::Open => length <= MAX_OPEN,
            Self::Opened | Self::End => length == 0,
            Self::Refused => (2..=2 + MAX_TEXT).contains(&length),
            Self::Data => (1..=MAX_DATA).contains(&length),
            Self::Credit => length == 4,
            Self::Reset => length == 2,
            Self::Ping | Self::Pong => length == 8,
            Self::Note => length <= MAX_PAYLOAD,
        }
    }

    fn has_link(self) -> bool {
        !matches!(self, Self::Ping | Self::Pong | Self::Note)
    }
}

// === impl Header ===

impl Header {
    /// Reads a header; the payload may still be on its way, so nothing that is too long is ever waited for.
    pub(super) fn decode(bytes: [u8; HEADER]) -> Result<Self, Violation> {
        let [number, flags, a, b, link @ ..] = bytes;
        let length = usize::from(u16::from_be_bytes([a, b]));
        let link = u32::from_be_bytes(link);
        let kind = Kind::from_number(number);
        match kind {
            Some(kind) if !kind.fits(length) => Err(Violation::Length { frame: kind.name(), length }),
            Some(kind) if kind.has_link() != (link != 0) => Err(Violation::Link { frame: kind.name(), link }),
            None if flags & MUST_UNDERSTAND != 0 => Err(Violation::NotUnderstood(number)),
            None if length > MAX_PAYLOAD => Err(Violation::Length { frame: "a frame of unknown type", length }),
            kind => Ok(Self { kind, length, link }),
        }
    }

    /// The header's bytes. Lengths are within the limits by construction.
    #[expect(clippy::cast_possible_truncation, reason = "every caller keeps to MAX_PAYLOAD")]
    pub(super) fn encode(kind: Kind, length: usize, link: u32) -> [u8; HEADER] {
        let mut bytes = [kind.number(), 0, 0, 0, 0, 0, 0, 0];
        bytes[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        bytes[4..].copy_from_slice(&link.to_be_bytes());
        bytes
    }
}

/// Appends a whole frame.
pub(super) fn put(to: &mut BytesMut, kind: Kind, link: u32, payload: &[u8]) {
    to.reserve(HEADER + payload.len());
    to.put_slice(&Header::encode(kind, payload.len(), link));
    to.put_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_checked_before_its_payload_is_there() {
        let decode = |text: [u8; 8]| Header::decode(text);
        assert_eq!(
            decode([4, 0, 0x3f, 0xf8, 0, 0, 0, 9]),
            Ok(Header { kind: Some(Kind::Data), length: MAX_DATA, link: 9 })
        );
        assert_eq!(decode([4, 0, 0x3f, 0xf9, 0, 0, 0, 9]), Err(Violation::Length { frame: "DATA", length: 16_377 }));
        assert_eq!(decode([4, 0, 0, 0, 0, 0, 0, 9]), Err(Violation::Length { frame: "DATA", length: 0 }));
        assert_eq!(decode([4, 0, 0, 1, 0, 0, 0, 0]), Err(Violation::Link { frame: "DATA", link: 0 }));
        assert_eq!(decode([8, 0, 0, 8, 0, 0, 0, 1]), Err(Violation::Link { frame: "PING", link: 1 }));
        assert_eq!(decode([1, 0, 0x10, 1, 0, 0, 0, 1]), Err(Violation::Length { frame: "OPEN", length: 4_097 }));
    }

    #[test]
    fn an_unknown_frame_is_skipped_unless_it_must_be_understood() {
        assert_eq!(Header::decode([99, 1, 0, 3, 0, 0, 0, 9]), Ok(Header { kind: None, length: 3, link: 9 }));
        assert_eq!(Header::decode([99, 0x80, 0, 3, 0, 0, 0, 9]), Err(Violation::NotUnderstood(99)));
        assert!(Header::decode([99, 0, 0xff, 0xff, 0, 0, 0, 9]).is_err());
    }

    #[test]
    fn a_known_frame_means_the_same_with_any_flags() {
        assert_eq!(Header::decode([6, 0xff, 0, 0, 0, 0, 0, 9]), Header::decode([6, 0, 0, 0, 0, 0, 0, 9]));
    }
}
