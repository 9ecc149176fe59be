//! What the controller writes back: the conditions of objects, and the sessions of agents.

mod conditions;
mod ledger;
mod reach;
mod sessions;
mod writer;

pub(super) use self::{sessions::SessionWriter, writer::ConditionWriter};
