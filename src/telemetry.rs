//! What an operator sees of the process from outside: its logs, its metrics and its probes.

#[cfg(feature = "edge")]
pub mod access_log;
#[cfg(feature = "edge")]
mod admin;
#[cfg(feature = "edge")]
mod build;
mod logs;

pub use self::logs::{LogFormat, init as init_logs};
#[cfg(feature = "edge")]
pub use self::{admin::serve_admin, build::register_build_info};
