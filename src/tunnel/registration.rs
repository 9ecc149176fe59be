//! Registration: the HTTP upgrade by which an agent's connection becomes a session (`docs/protocol.md`, section 2).
//!
//! Here are its words. The bridge answers with an HTTP server and reads a [`Registration`] from a request's headers;
//! the agent calls [`register`].

mod answer;
mod carrier;
mod request;
mod token;

pub use self::{
    answer::{RegisterError, Registered, Rejection, register, register_over},
    carrier::{Carrier, SUBPROTOCOL},
    request::{Registration, RegistrationError},
    token::{Token, TokenError},
};

/// The path of the registration.
pub const PATH: &str = "/v1/tunnel";

/// The protocol's name and version, as `Upgrade` has it.
pub const PROTOCOL: &str = "culvert/1";

/// The headers of the registration that are Culvert's own.
pub mod header {
    use http::HeaderName;

    /// The agent: `namespace/name`.
    pub const AGENT: HeaderName = HeaderName::from_static("culvert-agent");
    /// A random hexadecimal number that tells the agent's processes apart.
    pub const INSTANCE: HeaderName = HeaderName::from_static("culvert-instance");
    /// The version of the agent's binary.
    pub const VERSION: HeaderName = HeaderName::from_static("culvert-version");
    /// Which of the agent's parallel connections this is, from 0.
    pub const SLOT: HeaderName = HeaderName::from_static("culvert-slot");
    /// The ids of the replicas that the process holds sessions with already, separated by commas.
    pub const MET: HeaderName = HeaderName::from_static("culvert-met");
    /// In every refusal: the protocol that the bridge speaks, which tells its answers from those of something in between.
    pub const PROTOCOL: HeaderName = HeaderName::from_static("culvert-protocol");
    /// In the answer: the id of the replica.
    pub const REPLICA: HeaderName = HeaderName::from_static("culvert-replica");
}
