#![expect(clippy::todo, unused_variables, missing_debug_implementations)]
mod link;
use std::{
    future::Future,
    io,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

pub use self::link::Link;
use super::{Note, Open, RefuseCode};

/// Which side of a session this is: only the edge opens links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens links.
    Edge,
    /// Accepts or refuses them.
    Agent,
}

/// The limits of a session; the defaults are those of `docs/protocol.md`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Most links at a time; more are refused as overloaded. Default 65,536.
    pub max_links: usize,
}

/// A handle to a session; cheap to clone. The session lives in its [`Driver`].
#[derive(Clone)]
pub struct Session(Arc<()>);

/// Does the session's I/O; nothing moves unless it is polled. Resolves when the session is over.
pub struct Driver<T>(PhantomData<T>);

/// What the other side began: links (to an agent) and notes.
pub struct Incoming(());

/// Something the other side began.
pub enum IncomingEvent {
    /// The edge wants a link.
    Open(Opening),
    /// The other side tells something.
    Note(Note),
}

/// A link that the edge wants; dropped, it is refused.
pub struct Opening {
    /// What for.
    pub request: Open,
}

/// The session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session is over")]
pub struct SessionClosed;

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The other side closed the connection.
    #[error("the other side closed the connection")]
    PeerClosed,
    /// The other side was silent for too long.
    #[error("the other side was silent for too long")]
    Silence,
    /// The other side broke the protocol.
    #[error("the other side broke the protocol: {0}")]
    Protocol(String),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(io::ErrorKind),
    /// This side closed the session.
    #[error("closed")]
    Closed,
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self { max_links: 65_536 }
    }
}

// === impl Session ===

impl Session {
    /// Makes a session of a registered connection. `early` is what was read of it behind the registration.
    pub fn start<T>(role: Role, io: T, early: Bytes, config: Config) -> (Self, Incoming, Driver<T>)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send,
    {
        todo!()
    }

    /// Opens a link (the edge's side). Never waits: what is written before the agent's answer is sent right behind.
    pub fn open(&self, open: &Open) -> Result<Link, SessionClosed> {
        todo!()
    }

    /// Tells the other side something.
    pub fn note(&self, note: &Note) -> Result<(), SessionClosed> {
        todo!()
    }

    /// Ends the session now; every link sees [`super::LinkError::SessionLost`].
    pub fn close(&self) {
        todo!()
    }

    /// Whether the session is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        todo!()
    }

    /// How many links there are now.
    #[must_use]
    pub fn links(&self) -> usize {
        todo!()
    }

    /// The round-trip time, once measured.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        todo!()
    }
}

// === impl Incoming ===

impl Incoming {
    /// What comes next; `None` when the session is over.
    pub async fn next(&mut self) -> Option<IncomingEvent> {
        std::future::pending().await
    }
}

// === impl Opening ===

impl Opening {
    /// Opens the link.
    #[must_use]
    pub fn accept(self) -> Link {
        todo!()
    }

    /// Does not open it; `text` (at most 1 KiB is sent) is for people.
    pub fn refuse(self, code: RefuseCode, text: &str) {
        todo!()
    }
}

// === impl Driver ===

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = CloseReason;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        todo!()
    }
}
