use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// How log lines are written to standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line, for log collectors.
    Json,
    /// One line of text an event, for people.
    #[default]
    Text,
}

/// What holds unless the filter names that module: the watcher warns of each attempt that is answered 403, for ever where a namespace
/// is gone, and what it has to say the controller says once.
const QUIET: &str = "kube_runtime::watcher=error";

/// Starts logging to standard error. `filter` has the syntax of tracing's `EnvFilter`, as in `info,culvert=debug`.
///
/// # Errors
/// Where the filter does not parse.
pub fn init(format: LogFormat, filter: &str) -> Result<(), tracing_subscriber::filter::ParseError> {
    let mut parsed = EnvFilter::builder().parse(filter)?;
    if !filter.contains("kube_runtime") {
        parsed = parsed.add_directive(QUIET.parse()?);
    }
    let registry = tracing_subscriber::registry().with(parsed);
    let stderr = std::io::stderr;
    let lines = tracing_subscriber::fmt::layer().with_ansi(stderr().is_terminal()).with_writer(stderr);
    // A second call, as tests make it, keeps the first one's subscriber.
    let _ = match format {
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
        LogFormat::Text => registry.with(lines).try_init(),
    };
    Ok(())
}
