//! Culvert: a Kubernetes-native tunnel ingress.
//!
//! Each module is a room with one duty; `docs/architecture.md` shows which room may use which.

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "edge")]
pub mod api;
#[cfg(feature = "edge")]
pub mod bridge;
pub mod cli;
#[cfg(feature = "edge")]
pub mod compile;
#[cfg(feature = "edge")]
pub mod controller;
#[cfg(feature = "edge")]
pub mod flow;
#[cfg(feature = "edge")]
pub mod proxy;
#[cfg(feature = "edge")]
pub mod routing;
pub mod telemetry;
pub mod tunnel;
