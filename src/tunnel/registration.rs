//! Registration: the HTTP upgrade by which an agent's connection becomes a session (`docs/protocol.md`, section 2).
//!
//! Here are its words. The bridge answers with an HTTP server and reads a [`Registration`] from a request's headers;
//! the agent calls [`register`].

use std::cmp::Ordering;

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

/// The version in [`PROTOCOL`] and [`SUBPROTOCOL`].
const VERSION: u32 = 1;

/// The headers of the registration that are Culvert's own.
pub mod header {
    use http::HeaderName;

    /// The agent: `namespace/name`.
    pub const AGENT: HeaderName = HeaderName::from_static("culvert-agent");
    /// A random hexadecimal number that tells the agent's processes apart.
    pub const INSTANCE: HeaderName = HeaderName::from_static("culvert-instance");
    /// The version of the agent's binary.
    pub const VERSION: HeaderName = HeaderName::from_static("culvert-version");
    /// How many sessions the process wants with each replica.
    pub const SLOTS: HeaderName = HeaderName::from_static("culvert-slots");
    /// The replicas that the process holds sessions with already, separated by commas: the id of one that it holds all with, or
    /// `id=0+2` where it is those in some slots.
    pub const MET: HeaderName = HeaderName::from_static("culvert-met");
    /// In every refusal: the protocol that the bridge speaks, which tells its answers from those of something in between.
    pub const PROTOCOL: HeaderName = HeaderName::from_static("culvert-protocol");
    /// In the answer: the id of the replica.
    pub const REPLICA: HeaderName = HeaderName::from_static("culvert-replica");
    /// In the answer 101: which of the process's sessions with this replica this one is, from 0.
    pub const SLOT: HeaderName = HeaderName::from_static("culvert-slot");
}

/// Whether a text can be a replica's id: what a header can carry, without what stands between ids and slots in [`header::MET`].
#[must_use]
pub fn is_replica_id(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic() && !b",=".contains(&byte))
}

/// A number as it is written in headers: digits, without the sign that Rust would take too.
fn decimal(text: &str) -> Option<u32> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// How the versions that the other side of a connection speaks, in names such as `culvert/2, culvert/1`, compare with ours: equal
/// where that is among them, else as the newest one does. `None` where it names none.
pub(crate) fn version_of_other_side(names: &str) -> Option<Ordering> {
    let names = names.to_ascii_lowercase();
    let version = |name: &str| decimal(name.trim().strip_prefix("culvert")?.strip_prefix(['/', '.'])?);
    let versions: Vec<u32> = names.split(',').filter_map(version).collect();
    if versions.contains(&VERSION) {
        Some(Ordering::Equal)
    } else {
        versions.iter().max().map(|newest| newest.cmp(&VERSION))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_that_is_named_counts_unless_ours_is_there() {
        assert_eq!([PROTOCOL, SUBPROTOCOL].map(version_of_other_side), [Some(Ordering::Equal); 2]);
        assert_eq!(version_of_other_side("culvert/2, Culvert/1"), Some(Ordering::Equal));
        assert_eq!(version_of_other_side("h2c, culvert/0"), Some(Ordering::Less));
        assert_eq!(version_of_other_side("websocket, culvert.3, culvert.2"), Some(Ordering::Greater));
        for none in ["", "websocket", "culvert", "culvert/", "culvert/+1", "culvert/x"] {
            assert_eq!(version_of_other_side(none), None, "{none:?}");
        }
    }
}
