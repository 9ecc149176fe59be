//! The edge's side of the tunnel: where agents dial in, register and hold a session.
//!
//! [`Bridge`] answers on the agents' port and turns each accepted registration into an [`AgentSession`]; [`Registry`]
//! holds those that live, so that the proxy can choose one and open a link through it. This room knows nothing of
//! Kubernetes: who may register comes in as a watch of [`Agents`](crate::routing::Agents), which replicas there are
//! as a watch of [`Replica`](crate::tunnel::Replica)s, and its sessions go out as a watch. The [`Mesh`] leads from replica to
//! replica.

mod brief;
mod connection;
mod ending;
mod health;
mod instances;
mod listener;
mod mesh;
mod metrics;
mod registration;
mod registry;
mod session;
mod slots;
mod source;
mod throttle;
mod waiting;

pub use self::{
    ending::Ending,
    health::Health,
    listener::{Bridge, BridgeError, Config, Security},
    mesh::{Mesh, MeshConfig, MeshError, MeshIdentity, MeshPeer},
    registry::{Registry, Sessions},
    session::AgentSession,
};
