//! The wire between edge and agent, `culvert/1`: registration, frames, links.
//!
//! `docs/protocol.md` is its specification. An agent dials the bridge and registers ([`registration`]); from then on
//! both sides run a [`Session`] on the connection. The edge opens a [`Link`] for every byte stream it needs to a
//! target; the agent gets it as an [`Opening`]. What goes over the wire, and when, is decided by a state machine
//! without I/O ([`machine`]); [`Session`], [`Link`] and [`Driver`] are the I/O around it.

pub mod accept;
mod code;
pub mod health;
pub mod machine;
pub mod name;
mod note;
mod open;
pub mod registration;
mod session;
pub mod socket;
pub mod target;
pub mod tls;
pub mod websocket;

pub use self::{
    code::{LinkError, RefuseCode, ResetCode},
    machine::{Config, Counts, Role},
    note::{MAX_CHECKS, Note, Replica},
    open::Open,
    session::{CloseReason, Driver, Incoming, IncomingEvent, Link, Opening, Session, SessionClosed},
};

/// What is known of a session's links, by their numbers. The hash has a seed of its own, for the agent's sake: there the edge
/// chooses the numbers.
type ByLink<T> = std::collections::HashMap<u32, T, foldhash::fast::RandomState>;
