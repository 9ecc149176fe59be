//! The visitors' side: how a connection comes in, what it speaks, who is at its other end, and what it waits for.

pub(super) mod connection;
mod frames;
mod http2;
pub(super) mod identity;
pub(super) mod pacer;
pub(super) mod phase;
pub(super) mod proxy_protocol;
pub(super) mod socket;
pub(super) mod stream;
pub(super) mod tls;
