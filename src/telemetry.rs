//! What an operator sees of the process from outside: its logs and its metrics registry.

mod logs;

pub use self::logs::{LogFormat, init as init_logs};
