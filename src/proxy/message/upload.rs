//! A request's body on its way to the backend.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use super::{
    expect::{self, Expectation},
    headers,
};
use crate::{
    proxy::{
        error::{ProxyError, failure},
        visitor::{identity, phase::Uploading},
    },
    routing::HeaderRules,
};

/// What the backend gets.
pub(in crate::proxy) enum RequestBody {
    /// Nothing.
    Empty,
    /// The visitor's, as it comes.
    Upload(Upload),
}

/// A visitor's body, which may have to wait until the backend wants it.
pub(in crate::proxy) struct Upload {
    incoming: Incoming,
    progress: Arc<Progress>,
    /// The most bytes that it may have.
    limit: u64,
    terms: UploadTerms,
    expected: Option<Box<Expected>>,
}

/// What the stages before have to say of a request's body; it comes as an extension of the request.
#[derive(Clone, Debug, Default)]
pub(in crate::proxy) struct UploadTerms {
    /// Tells when the visitor cannot send more of it, over HTTP/1.1.
    pub(in crate::proxy) uploading: Option<Uploading>,
    /// What may not come as a trailer either.
    pub(in crate::proxy) rules: Option<Arc<HeaderRules>>,
}

/// Why a body ends early.
#[derive(Debug, thiserror::Error)]
pub(in crate::proxy) enum UploadError {
    #[error(transparent)]
    Visitor(#[from] hyper::Error),
    #[error("it has more than {0} bytes")]
    TooLarge(u64),
    #[error("the visitor ended its side within it")]
    BrokenOff,
}

/// What is asked before the body is, since asking that is what tells the visitor to send it.
struct Expected {
    expectation: Arc<Expectation>,
    /// Made when the backend has the head.
    patience: Option<Pin<Box<Sleep>>>,
}

/// When a visitor's upload last moved, so that the wait for the response starts when the upload ends.
#[derive(Debug)]
pub(in crate::proxy) struct Progress {
    start: Instant,
    /// Milliseconds from `start`.
    last: AtomicU64,
    bytes: AtomicU64,
    /// The visitor is to send more.
    waits: AtomicBool,
    /// Why it broke off. Over HTTP/2 hyper tells nobody: it resets the stream.
    failure: OnceLock<ProxyError>,
}

// === impl RequestBody ===

impl RequestBody {
    /// A visitor's body, of at most so many bytes. Where there is an `expectation` and a body, it waits for that.
    pub(in crate::proxy) fn new(
        incoming: Incoming,
        expectation: Option<Arc<Expectation>>,
        limit: Option<u64>,
        terms: Option<UploadTerms>,
    ) -> Self {
        if incoming.is_end_stream() {
            return Self::Empty;
        }
        let progress = Progress {
            start: Instant::now(),
            last: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            waits: AtomicBool::new(false),
            failure: OnceLock::new(),
        };
        let expected = expectation.map(|expectation| Box::new(Expected { expectation, patience: None }));
        let limit = limit.unwrap_or(u64::MAX);
        let terms = terms.unwrap_or_default();
        Self::Upload(Upload { incoming, progress: Arc::new(progress), limit, terms, expected })
    }

    /// Whether there is anything to send, or to send again.
    pub(in crate::proxy) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// How far the upload is, where there is one.
    pub(in crate::proxy) fn progress(&self) -> Option<Arc<Progress>> {
        match self {
            Self::Empty => None,
            Self::Upload(upload) => Some(upload.progress.clone()),
        }
    }

    /// What the body waits for, where it waits.
    pub(in crate::proxy) fn expectation(&self) -> Option<Arc<Expectation>> {
        match self {
            Self::Empty => None,
            Self::Upload(upload) => upload.expected.as_ref().map(|expected| expected.expectation.clone()),
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Upload(upload) => {
                let frame = upload.poll_frame(cx);
                if let Poll::Ready(Some(Err(error))) = &frame {
                    upload.progress.failed(error);
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Upload(upload) => upload.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Upload(upload) => upload.incoming.size_hint(),
        }
    }
}

// === impl Upload ===

impl Upload {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        if let Some(expected) = &mut self.expected {
            let patience = expected.patience.get_or_insert_with(|| Box::pin(sleep(expect::PATIENCE)));
            if patience.as_mut().poll(cx).is_ready() {
                expected.expectation.give_up();
            }
            ready!(expected.expectation.poll_wanted(cx));
            self.expected = None;
        }
        let mut frame = Pin::new(&mut self.incoming).poll_frame(cx)?;
        if frame.is_pending() && self.terms.uploading.as_ref().is_some_and(|uploading| uploading.is_over(cx)) {
            // The last of it may have come in between.
            frame = Pin::new(&mut self.incoming).poll_frame(cx)?;
            if frame.is_pending() {
                return Poll::Ready(Some(Err(UploadError::BrokenOff)));
            }
        }
        self.progress.waits.store(frame.is_pending(), Ordering::Relaxed);
        if let Poll::Ready(frame) = &mut frame {
            self.progress.touch();
            if let Some(trailers) = frame.as_mut().and_then(Frame::trailers_mut) {
                headers::clean_trailers(trailers);
                identity::clean_trailers(trailers);
                if let Some(rules) = &self.terms.rules {
                    headers::remove_where(trailers, |name| rules.governs(name));
                }
            }
            let data = frame.as_ref().and_then(Frame::data_ref);
            if data.is_some_and(|data| self.progress.add(data.len()) > self.limit) {
                return Poll::Ready(Some(Err(UploadError::TooLarge(self.limit))));
            }
        }
        frame.map(|frame| frame.map(Ok))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(uploading) = &self.terms.uploading {
            uploading.end();
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
    pub(in crate::proxy) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts bytes of the body. Returns how many it has so far.
    fn add(&self, bytes: usize) -> u64 {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64
    }

    /// Whether it is the visitor who does not send more.
    pub(in crate::proxy) fn waits(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    fn failed(&self, error: &UploadError) {
        // The first one is the cause.
        let _ = self.failure.set(failure::of_upload(error));
    }

    /// Why the upload broke off, if it did.
    pub(in crate::proxy) fn failure(&self) -> Option<&ProxyError> {
        self.failure.get()
    }

    /// When the upload last moved.
    pub(in crate::proxy) fn last(&self) -> Instant {
        self.start + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}
