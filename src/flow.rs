//! Flow: what passes, counted while it passes, and how much may pass at a time.
//!
//! A byte is counted once, where it crosses the link: `received` goes from the visitor to the backend, `sent` comes
//! from the backend to the visitor. Since a pooled link belongs to one TunnelHost and one agent, the count is exact
//! for both.

mod connections;
mod counted;
mod meter;

pub use self::{
    connections::{AgentConnections, Connections, Permit},
    counted::Counted,
    meter::{Flow, Meter},
};
