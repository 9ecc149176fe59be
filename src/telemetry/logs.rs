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

/// What holds unless the filter names that module, and why: the watcher warns of each attempt that is answered 403, for ever where a
/// namespace is gone, and what it has to say the controller says once. h2 warns of frames that any visitor may send as often as
/// it likes.
const QUIET: &[(&str, &str)] = &[("kube_runtime", "kube_runtime::watcher=error"), ("h2", "h2=error")];

/// Starts logging to standard error. `filter` has the syntax of tracing's `EnvFilter`, as in `info,culvert=debug`.
///
/// # Errors
/// Where the filter does not parse.
pub fn init(format: LogFormat, filter: &str) -> Result<(), tracing_subscriber::filter::ParseError> {
    let registry = tracing_subscriber::registry().with(parse(filter)?);
    let stderr = std::io::stderr;
    let lines = tracing_subscriber::fmt::layer().with_ansi(stderr().is_terminal()).with_writer(stderr);
    // A second call, as tests make it, keeps the first one's subscriber.
    let _ = match format {
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
        LogFormat::Text => registry.with(lines).try_init(),
    };
    Ok(())
}

fn parse(filter: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    let mut parsed = EnvFilter::builder().parse(filter)?;
    for (module, quiet) in QUIET {
        if !filter.split(',').any(|directive| directive.starts_with(module)) {
            parsed = parsed.add_directive(quiet.parse()?);
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_can_make_a_library_say_is_heard_by_who_asks_for_it() {
        let directives = |filter: &str| parse(filter).expect("a filter").to_string();
        for filter in ["info", "debug,culvert::proxy::visitor::http2=trace"] {
            let parsed = directives(filter);
            assert!(parsed.contains("h2=error") && parsed.contains("kube_runtime::watcher=error"), "{parsed}");
        }
        let parsed = directives("info,h2=warn,kube_runtime=debug");
        assert!(!parsed.contains("=error") && parsed.contains("h2=warn"), "{parsed}");
    }
}
