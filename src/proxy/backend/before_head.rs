//! What a backend sends before the head of its response: any number of interim responses, of which hyper tells nobody that
//! has not asked, and asking costs each request more than it is worth.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::watched::Watch;

/// The most bytes before a head, its own included. Tens of thousands of interim responses, and more than hyper reads ahead
/// of a body before anybody has seen the head.
pub(super) const MOST: usize = 2 * 1024 * 1024;
/// The head has come.
const ANY: usize = usize::MAX;

/// The error of a stream on which too much came.
#[derive(Debug, thiserror::Error)]
#[error("more than {MOST} bytes of interim responses came before its head")]
pub(in crate::proxy) struct TooMuch;

// === impl TooMuch ===

impl TooMuch {
    /// What it is told by where nothing else of an error is kept.
    pub(in crate::proxy) const KIND: io::ErrorKind = io::ErrorKind::QuotaExceeded;
}

impl From<TooMuch> for io::Error {
    fn from(error: TooMuch) -> Self {
        Self::new(TooMuch::KIND, error)
    }
}

/// How much may still come before a head; whoever uses the connection has the one end, and what watches it the other.
#[derive(Clone)]
pub(super) struct Allowance(Arc<AtomicUsize>);

// === impl Allowance ===

impl Allowance {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicUsize::new(MOST)))
    }

    /// A request is sent, and a head is due.
    pub(super) fn renew(&self) {
        self.0.store(MOST, Ordering::Relaxed);
    }

    /// The head is there; of the body, as much may come as does.
    pub(super) fn lift(&self) {
        self.0.store(ANY, Ordering::Relaxed);
    }
}

impl Watch for Allowance {
    fn arrived(&mut self, bytes: &[u8]) -> io::Result<()> {
        let left = self.0.load(Ordering::Relaxed);
        if left != ANY {
            let left = left.checked_sub(bytes.len()).ok_or(TooMuch)?;
            self.0.store(left, Ordering::Relaxed);
        }
        Ok(())
    }
}
