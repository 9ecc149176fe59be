//! `Expect: 100-continue` (RFC 9110, 10.1.1): a body waits until its recipient wants it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::task::AtomicWaker;
use http::{HeaderMap, Request, StatusCode, Version, header};
use hyper::ext::on_informational;

/// How long a backend has for its word. One that does not know of expectations says nothing and waits for the body.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// What a backend said about a body that waits for it.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Expectation {
    state: AtomicU8,
    waker: AtomicWaker,
}

const OPEN: u8 = 0;
const WANTED: u8 = 1;
const REFUSED: u8 = 2;

// === impl Expectation ===

impl Expectation {
    /// Reads a visitor's expectation, which is the edge's own from here on. Takes out what nobody is to wait for.
    pub(in crate::proxy) fn take(version: Version, headers: &mut HeaderMap, has_body: bool) -> Option<Arc<Self>> {
        let expects = headers.get(header::EXPECT)?.as_bytes().eq_ignore_ascii_case(b"100-continue");
        // RFC 9110: an HTTP/1.0 visitor's is ignored.
        if expects && (version == Version::HTTP_10 || !has_body) {
            headers.remove(header::EXPECT);
            return None;
        }
        expects.then(Arc::default)
    }

    /// Has the backend's 100 open the way for the body of `request`.
    pub(in crate::proxy) fn watch<B>(self: &Arc<Self>, request: &mut Request<B>) {
        let expectation = self.clone();
        on_informational(request, move |response| {
            if response.status() == StatusCode::CONTINUE {
                expectation.settle(WANTED);
            }
        });
    }

    /// Ready once the body is wanted. After a refusal it never is.
    pub(super) fn poll_wanted(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.state.load(Ordering::Acquire) == WANTED { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The backend has had its time and may wait for the body itself, or its word would be heard by nobody.
    pub(in crate::proxy) fn give_up(&self) {
        self.settle(WANTED);
    }

    /// The backend has answered. Returns whether it did so without wanting the body. Success is not taken for a refusal: a
    /// backend that does not know of expectations may answer as it reads.
    pub(in crate::proxy) fn answered(&self, status: StatusCode) -> bool {
        self.settle(if status.is_success() { WANTED } else { REFUSED });
        self.state.load(Ordering::Acquire) == REFUSED
    }

    fn settle(&self, state: u8) {
        if self.state.compare_exchange(OPEN, state, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.waker.wake();
        }
    }
}
