//! What the controller writes back: the conditions of objects, the sessions of agents, and the backends that
//! a replica does not reach.

mod backends;
mod conditions;
mod coverage;
mod entries;
mod ledger;
mod sessions;
mod writer;

pub(super) use self::{backends::BackendWriter, sessions::SessionWriter, writer::ConditionWriter};
