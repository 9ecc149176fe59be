//! What visitors get: an edge and an agent in this process, real sockets, real TLS in the tunnel, real clients.

#![cfg(all(feature = "edge", feature = "agent"))]
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../support/balancer.rs"]
mod balancer;
#[path = "../support/tunnel.rs"]
mod support;

mod access_log;
mod backends;
mod balancing;
mod drain;
mod error_table;
mod errors;
mod flow;
mod forwarding;
mod framing;
mod health;
mod http2;
mod identity;
mod input;
mod isolation;
mod mesh;
mod policies;
mod proxy_protocol;
mod recorder;
mod secure;
mod semantics;
mod sessions;
mod stage;
mod tls;
mod websocket;
