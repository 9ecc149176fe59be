//! The frames of a connection of HTTP/2 (RFC 9113, 4.1) as they pass by: their heads are read, their payloads are not.

/// What each frame begins with, in bytes.
pub(super) const HEAD: usize = 9;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// What a frame begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: [u8; 4],
    /// Of the payload.
    pub(super) length: usize,
}

/// Where frames begin in one direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// As much of a frame's head as has come.
    head: [u8; HEAD],
    filled: usize,
    /// How much of its payload is still to come.
    payload: usize,
}

// === impl Frames ===

impl Frames {
    /// Of a direction that begins with so many bytes that are no frame.
    pub(super) fn behind(preface: usize) -> Self {
        Self { payload: preface, ..Self::default() }
    }

    /// Some of the last frame is still to come.
    pub(super) fn is_within_payload(&self) -> bool {
        self.payload > 0
    }

    /// These bytes pass. Each head that ends in them is seen.
    pub(super) fn pass<E>(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Head) -> Result<(), E>) -> Result<(), E> {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let count = self.payload.min(bytes.len());
                self.payload -= count;
                bytes = &bytes[count..];
                continue;
            }
            let count = (HEAD - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
            self.filled += count;
            bytes = &bytes[count..];
            if self.filled == HEAD {
                self.filled = 0;
                let [a, b, c, kind, flags, stream @ ..] = self.head;
                self.payload = u32::from_be_bytes([0, a, b, c]) as usize;
                seen(Head { kind, flags, stream, length: self.payload })?;
            }
        }
        Ok(())
    }
}
