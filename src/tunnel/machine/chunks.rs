use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes, BytesMut};

/// Bytes in order, that wait for a reader or for the transport. Large pieces are shared, small ones are packed
/// together, so that many small ones cost neither an allocation each nor the large block they came in.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub struct Chunks {
    /// In front of `tail`; none of them is empty.
    whole: VecDeque<Bytes>,
    tail: BytesMut,
    len: usize,
}

// === impl Chunks ===

impl Chunks {
    /// A piece from this size on is worth sharing; below, copying is cheaper than what sharing would hold.
    pub const SHARED: usize = 4 * 1024;

    /// `tail` begins anew rather than to become larger: what was read of a piece is given back with the piece only.
    const TAIL: usize = 16 * 1024;

    /// What a shared piece is counted as at least: the block that it keeps may be larger than itself.
    const SHARED_COST: usize = 16 * 1024;

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// About how much memory they hold, in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.len.max(self.whole.len() * Self::SHARED_COST)
    }

    /// Appends a copy of `bytes`.
    pub fn copy(&mut self, bytes: &[u8]) {
        if self.tail.len() + bytes.len() > Self::TAIL {
            self.roll();
            self.tail.reserve(bytes.len().max(Self::TAIL / 4));
        }
        self.tail.extend_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends `bytes`, as they are where they are large.
    pub fn push(&mut self, bytes: Bytes) {
        if bytes.len() < Self::SHARED {
            return self.copy(&bytes);
        }
        self.roll();
        self.len += bytes.len();
        self.whole.push_back(bytes);
    }

    /// Takes from the front, at most `max` bytes, without a copy; `None` where there are none.
    pub fn pop(&mut self, max: usize) -> Option<Bytes> {
        let bytes = match self.whole.front_mut() {
            Some(front) if front.len() > max => front.split_to(max),
            Some(_) => self.whole.pop_front()?,
            None if self.tail.is_empty() || max == 0 => return None,
            None => self.tail.split_to(max.min(self.tail.len())).freeze(),
        };
        self.taken(bytes.len());
        Some(bytes)
    }

    /// Gives the front to `take`, piece by piece, at most `max` bytes; returns how many.
    pub fn read(&mut self, max: usize, mut take: impl FnMut(&[u8])) -> usize {
        let mut done = 0;
        while done < max && !self.is_empty() {
            let front = self.front();
            let piece = &front[..front.len().min(max - done)];
            take(piece);
            let length = piece.len();
            done += length;
            self.advance(length);
        }
        done
    }

    /// Moves `count` bytes, or all, from the front of `self` to the end of `to`; large pieces without a copy.
    pub fn transfer(&mut self, count: usize, to: &mut Self) {
        let mut left = count.min(self.len);
        while left > 0 {
            let length = self.front().len().min(left);
            if length < Self::SHARED {
                to.copy(&self.front()[..length]);
                self.advance(length);
            } else if let Some(bytes) = self.pop(length) {
                to.push(bytes);
            }
            left -= length;
        }
    }

    /// Fills `slices` with the pieces from the front; returns how many it filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = Some(&self.tail[..]).filter(|tail| !tail.is_empty());
        let pieces = self.whole.iter().map(|piece| &piece[..]).chain(tail);
        slices.iter_mut().zip(pieces).map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
    }

    /// Drops `count` bytes from the front.
    pub fn advance(&mut self, mut count: usize) {
        while count > 0 {
            match self.whole.front_mut() {
                Some(front) if front.len() > count => {
                    front.advance(count);
                    self.taken(count);
                    return;
                }
                Some(_) => {
                    let length = self.whole.pop_front().map_or(0, |front| front.len());
                    count -= length;
                    self.taken(length);
                }
                None => {
                    let length = count.min(self.tail.len());
                    self.tail.advance(length);
                    self.taken(length);
                    return;
                }
            }
        }
    }

    /// Gives back the memory that is kept for what comes next; only where there are no bytes.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Drops all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The first piece; empty where there is none.
    fn front(&self) -> &[u8] {
        self.whole.front().map_or(&self.tail[..], |front| &front[..])
    }

    fn roll(&mut self) {
        if !self.tail.is_empty() {
            self.whole.push_back(self.tail.split().freeze());
        }
    }

    fn taken(&mut self, count: usize) {
        self.len -= count;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_pieces_are_packed_and_large_ones_shared() {
        let large = Bytes::from(vec![7; Chunks::SHARED]);
        let mut chunks = Chunks::default();
        chunks.push(Bytes::from_static(b"a"));
        chunks.push(Bytes::from_static(b"b"));
        chunks.push(large.clone());
        assert_eq!(chunks.pop(usize::MAX), Some(Bytes::from_static(b"ab")));
        let shared = chunks.pop(usize::MAX).expect("the large piece");
        assert_eq!(shared.as_ptr(), large.as_ptr());
        assert_eq!(chunks.pop(usize::MAX), None);
    }

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in(operations in prop::collection::vec((0u8..6, 0usize..20_000), 1..60)) {
            let (mut chunks, mut moved) = (Chunks::default(), Chunks::default());
            let (mut next, mut expected) = (0u8, VecDeque::new());
            let mut moved_expected = VecDeque::new();
            for (operation, size) in operations {
                match operation {
                    0 | 1 => {
                        let bytes: Vec<u8> = (0..size).map(|_| { next = next.wrapping_add(1); next }).collect();
                        expected.extend(bytes.iter().copied());
                        if operation == 0 { chunks.copy(&bytes) } else { chunks.push(bytes.into()) }
                    }
                    2 => if let Some(bytes) = chunks.pop(size) {
                        prop_assert!(bytes.iter().all(|&byte| expected.pop_front() == Some(byte)));
                    },
                    3 => {
                        let mut out = Vec::new();
                        let count = chunks.read(size, |piece| out.extend_from_slice(piece));
                        prop_assert_eq!(count, size.min(expected.len()));
                        prop_assert!(out.iter().all(|&byte| expected.pop_front() == Some(byte)));
                    }
                    4 => {
                        moved_expected.extend(expected.drain(..size.min(expected.len())));
                        chunks.transfer(size, &mut moved);
                    }
                    _ => {
                        let size = size.min(expected.len());
                        expected.drain(..size);
                        chunks.advance(size);
                    }
                }
                prop_assert_eq!(chunks.len(), expected.len());
                prop_assert!(chunks.held() >= chunks.len());
            }
            let mut slices = [IoSlice::new(&[]); 256];
            let count = moved.slices(&mut slices);
            let flat: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
            prop_assert_eq!(flat, Vec::from(moved_expected));
        }
    }
}
