use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use crate::proxy::{
    account::Account,
    backend::{Exchange, pool::Pool},
    error::{Reason, failure},
    idle::Idle,
    message::{headers, upload::Progress},
    metrics::Metrics,
};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// An error that ends a body early. hyper then cuts the visitor's connection, so that nobody takes the part for the
/// whole.
pub(in crate::proxy) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A response's body on its way to the visitor. It drives the connection it comes from and brings that back to the
/// pool; dropped early, since the visitor left, it ends the link and with it the backend's work.
pub(in crate::proxy) struct Download {
    incoming: Incoming,
    exchange: Option<Exchange>,
    pool: Arc<Pool>,
    idle: Idle,
    /// The request's body, which may still be on its way.
    upload: Option<Arc<Progress>>,
    /// Why the body ends early; told with the next poll.
    failed: Option<BodyError>,
    metrics: Arc<Metrics>,
    /// Closed with the body.
    account: Account,
}

// === impl Download ===

impl Download {
    pub(in crate::proxy) fn new(
        incoming: Incoming,
        exchange: Exchange,
        pool: Arc<Pool>,
        idle: Duration,
        upload: Option<Arc<Progress>>,
        metrics: Arc<Metrics>,
        account: Account,
    ) -> Self {
        let idle = Idle::new(idle);
        let mut download =
            Self { incoming, exchange: Some(exchange), pool, idle, upload, failed: None, metrics, account };
        download.finish_at_end();
        download
    }

    /// How long neither body may move.
    pub(super) fn idle_timeout(&self) -> Duration {
        self.idle.timeout()
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        if let Some(exchange) = &mut self.exchange {
            exchange.poll_drive(cx);
        }
        let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                ready!(self.poll_idle(cx));
                return self.fail(cx, Reason::StreamIdle, "nothing came of either body for too long".into());
            }
        };
        self.idle.moved();
        match frame {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::clean_trailers(trailers);
                }
                self.account.sends(frame.data_ref().map_or(0, Bytes::len));
                self.finish_at_end();
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                let reason = failure::of_exchange(&error, self.upload.as_deref()).reason();
                self.fail(cx, reason, error.into())
            }
            None => {
                self.finish();
                Poll::Ready(None)
            }
        }
    }

    /// Ready once neither body has moved for too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.idle.poll_expired(cx));
            match self.upload.as_ref().map(|upload| upload.last()) {
                Some(moved) if moved.elapsed() < self.idle.timeout() => self.idle.moved_at(moved),
                _ => return Poll::Ready(()),
            }
        }
    }

    /// The visitor does not get the rest.
    pub(super) fn give_up(&mut self, reason: Reason) {
        if self.exchange.is_some() {
            self.account.failed(reason);
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }

    /// The server does not ask again after the last byte of a known length, so the end is noticed with that byte.
    fn finish_at_end(&mut self) {
        if self.incoming.is_end_stream() {
            self.finish();
        }
    }

    fn finish(&mut self) {
        if let Some(exchange) = self.exchange.take() {
            exchange.finish(&self.pool);
        }
    }

    /// Ends the body early, but not at once: the server forgets what it has not written yet when it hears of an error,
    /// so it gets a turn to write what the backend did send.
    fn fail<T>(&mut self, cx: &mut Context<'_>, reason: Reason, error: BodyError) -> Poll<T> {
        self.exchange = None;
        self.metrics.failed(reason);
        self.account.failed(reason);
        self.failed = Some(error);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if self.exchange.is_some() {
            self.account.left();
        }
    }
}
