//! The I/O around the state machine: one task a session, which its links share the machine with.

mod driver;
mod incoming;
mod link;
mod shared;

use std::{fmt, io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use self::shared::Shared;
pub use self::{
    driver::Driver,
    incoming::{Incoming, IncomingEvent, Opening},
    link::Link,
};
use super::{
    Note, Open,
    machine::{Config, Counts, Machine, Role},
};

/// A handle to a session; cheap to clone. The session lives in its [`Driver`], and ends with it.
#[derive(Clone)]
pub struct Session(Arc<Shared>);

/// The session is over, or was never one that may do this.
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
    #[error("this side closed the session")]
    Closed,
}

// === impl Session ===

impl Session {
    /// Makes a session of a registered connection. `early` is what was read of it behind the registration.
    ///
    /// Nothing moves unless the driver is polled, by a task of its own on a tokio runtime with time.
    pub fn start<T>(role: Role, io: T, early: Bytes, config: Config) -> (Self, Incoming, Driver<T>)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let machine = Machine::new(role, config, Instant::now().into_std());
        let shared = Arc::new(Shared::new(machine));
        let driver = Driver::new(Arc::clone(&shared), io, BytesMut::from(early));
        (Self(Arc::clone(&shared)), Incoming::new(shared), driver)
    }

    /// Opens a link (the edge's side). Never waits: what is written before the agent's answer is sent right behind.
    /// Where the session has too many links, the link is there and is refused.
    ///
    /// # Errors
    /// Where the session is over, or this is the agent's side, which opens no links.
    pub fn open(&self, open: &Open) -> Result<Link, SessionClosed> {
        let id = self.0.command(|machine| machine.open(open, Instant::now().into_std())).flatten();
        Ok(Link::new(Arc::clone(&self.0), id.ok_or(SessionClosed)?))
    }

    /// Tells the other side something.
    ///
    /// # Errors
    /// Where the session is over, or the note is longer than a frame (16 KiB of JSON).
    pub fn note(&self, note: &Note) -> Result<(), SessionClosed> {
        let sent = self.0.command(|machine| machine.note(note)).unwrap_or(false);
        if sent { Ok(()) } else { Err(SessionClosed) }
    }

    /// Ends the session behind what was written: links that have not ended this direction are lost at once, what the
    /// others wrote and the notes are sent, and the other side is waited for, all of that for 2 s at most. The
    /// [`Driver`] resolves when it is done.
    pub fn finish(&self) {
        self.0.finish();
    }

    /// Ends the session now, and drops what was not sent; every link sees [`super::LinkError::SessionLost`].
    pub fn close(&self) {
        self.0.close();
    }

    /// Whether the session is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// How many links there are now.
    #[must_use]
    pub fn links(&self) -> usize {
        self.0.look(Machine::links)
    }

    /// What was done in it so far; also once it is over.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.0.look(Machine::counts)
    }

    /// The round-trip time, once measured: the shortest of the last few.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.0.look(Machine::rtt)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("links", &self.links()).field("closed", &self.is_closed()).finish()
    }
}
