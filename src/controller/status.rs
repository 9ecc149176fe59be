//! What the controller writes back: the conditions of objects, the sessions of agents, and the backends that
//! a replica does not reach.

mod backends;
mod conditions;
mod coverage;
mod ledger;
mod sessions;
mod writer;

pub(super) use self::{backends::BackendWriter, sessions::SessionWriter, writer::ConditionWriter};

/// The owner of what a replica writes for itself, in server-side apply.
fn manager(replica: &str) -> &str {
    // An API server takes 128 bytes; the end of a pod's name is what tells it apart.
    replica.get(replica.len().saturating_sub(128)..).unwrap_or(replica)
}
