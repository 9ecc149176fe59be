//! A response's body on its way to the visitor.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::download::{BodyError, Download};
use crate::proxy::error::Reason;

/// What the visitor gets.
pub(in crate::proxy) enum Body {
    /// Nothing.
    Empty,
    /// Made by the edge itself; taken when it is sent.
    Full(Option<Bytes>),
    /// The backend's, as it comes.
    Download(Box<Download>),
}

// === impl Body ===

impl Body {
    /// How long nothing may move of it, and of the request's body beside it.
    pub(in crate::proxy) fn idle_timeout(&self) -> Option<Duration> {
        if let Self::Download(download) = self { Some(download.idle_timeout()) } else { None }
    }

    /// The visitor does not get the rest, for this reason.
    pub(in crate::proxy) fn give_up(&mut self, reason: Reason) {
        if let Self::Download(download) = self {
            download.give_up(reason);
        }
    }

    /// Bytes that the edge itself made.
    pub(in crate::proxy) fn size(&self) -> usize {
        if let Self::Full(Some(bytes)) = self { bytes.len() } else { 0 }
    }

    pub(in crate::proxy) fn full(bytes: Bytes) -> Self {
        Self::Full(Some(bytes))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Download(download) => download.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_none(),
            Self::Download(download) => download.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Download(download) => download.size_hint(),
        }
    }
}
