//! What visitors get: an edge and an agent in this process, real sockets, real TLS in the tunnel, real clients.

#![cfg(all(feature = "edge", feature = "agent"))]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../support/tunnel.rs"]
mod support;

mod backends;
mod errors;
mod flow;
mod forwarding;
mod http2;
mod input;
mod proxy_protocol;
mod secure;
mod stage;
mod tls;
mod websocket;
