//! Requests and responses on their way between a visitor and a backend: what of them passes, and what is changed or refused.

pub(super) mod body;
pub(super) mod download;
pub(super) mod expect;
pub(super) mod framing;
pub(super) mod headers;
pub(super) mod upload;
