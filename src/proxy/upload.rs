//! A request's body on its way to the backend.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

/// What the backend gets.
pub(super) enum RequestBody {
    /// Nothing.
    Empty,
    /// The visitor's, as it comes.
    Upload { incoming: Incoming, progress: Arc<Progress>, limit: u64 },
}

/// Why a body ends early.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error(transparent)]
    Visitor(#[from] hyper::Error),
    #[error("it has more than {0} bytes")]
    TooLarge(u64),
}

/// When a visitor's upload last moved, so that the wait for the response starts when the upload ends.
#[derive(Debug)]
pub(super) struct Progress {
    start: Instant,
    /// Milliseconds from `start`.
    last: AtomicU64,
    bytes: AtomicU64,
    /// The visitor is to send more.
    waits: AtomicBool,
}

// === impl RequestBody ===

impl RequestBody {
    /// The visitor's body, of at most so many bytes.
    pub(super) fn new(incoming: Incoming, limit: Option<u64>) -> Self {
        if incoming.is_end_stream() {
            return Self::Empty;
        }
        let progress = Progress {
            start: Instant::now(),
            last: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            waits: AtomicBool::new(false),
        };
        Self::Upload { incoming, progress: Arc::new(progress), limit: limit.unwrap_or(u64::MAX) }
    }

    /// Whether there is anything to send, or to send again.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// How far the upload is, where there is one.
    pub(super) fn progress(&self) -> Option<Arc<Progress>> {
        match self {
            Self::Empty => None,
            Self::Upload { progress, .. } => Some(progress.clone()),
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Upload { incoming, progress, limit } => {
                let frame = Pin::new(incoming).poll_frame(cx)?;
                progress.waits.store(frame.is_pending(), Ordering::Relaxed);
                if let Poll::Ready(frame) = &frame {
                    progress.touch();
                    let data = frame.as_ref().and_then(Frame::data_ref);
                    if data.is_some_and(|data| progress.add(data.len()) > *limit) {
                        return Poll::Ready(Some(Err(UploadError::TooLarge(*limit))));
                    }
                }
                frame.map(|frame| frame.map(Ok))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Upload { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Upload { incoming, .. } => incoming.size_hint(),
        }
    }
}

// === impl Progress ===

impl Progress {
    fn touch(&self) {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(elapsed, Ordering::Relaxed);
    }

    /// How many bytes of the body have come so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts bytes of the body. Returns how many it has so far.
    fn add(&self, bytes: usize) -> u64 {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64
    }

    /// Whether it is the visitor who does not send more.
    pub(super) fn waits(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    /// When the upload last moved.
    pub(super) fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}
