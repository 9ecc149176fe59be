//! All of `tests/agent.rs` once more, in WebSockets, and through an HTTP proxy that asks for a password: one of our own, or that
//! which `CULVERT_TEST_PROXY` names (as `tests/conformance/run proxy` does).

#![cfg(all(unix, feature = "edge", feature = "agent"))]

// Its agents dial in this way because of this program's name: see `support::way`.
#[path = "agent.rs"]
mod agent;
