use std::{
    env, fmt,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::ValueEnum;

use super::{Failure, parse_agent};
use crate::agent::status::{Snapshot, StatusSocket, read_socket};

/// Asks a running agent how it is: its sessions, links, and what it may connect to.
///
/// The agent must run on this machine, as the same user. The exit code is 0 where it has a session with its edge, else 1.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The TunnelAgent that it runs as. Without it there must be one agent only.
    #[arg(long, value_name = "NAMESPACE/NAME", env = "CULVERT_AGENT", value_parser = parse_agent)]
    agent: Option<String>,
    /// Its socket, where it was started with --status-socket.
    #[arg(long, value_name = "FILE", env = "CULVERT_STATUS_SOCKET")]
    status_socket: Option<PathBuf>,
    /// For people, or for programs.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Output {
    #[default]
    Table,
    Json,
}

/// The value of `--status-socket` for none.
const OFF: &str = "off";

/// Makes the agent's socket. Where that cannot be, the log says so if it was asked for; the agent works without.
pub(super) fn bind(path: Option<PathBuf>, agent: &str) -> Option<StatusSocket> {
    if let Some(path) = path {
        if path == Path::new(OFF) {
            return None;
        }
        let bound = StatusSocket::bind(&path);
        return bound.map_err(|error| tracing::warn!("--status-socket: cannot make {}: {error}", path.display())).ok();
    }
    folders().into_iter().find_map(|folder| {
        let path = folder.join(file_name(agent));
        let bound = StatusSocket::bind(&path);
        bound.map_err(|error| tracing::debug!("no status at {}: {error}", path.display())).ok()
    })
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let path = match args.status_socket {
        Some(path) => path,
        None => find(args.agent.as_deref())?,
    };
    let snapshot = read_socket(&path).await?;
    match args.output {
        Output::Table => print!("{}", Table(&snapshot)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&snapshot)?),
    }
    Ok(if snapshot.sessions.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Where sockets are looked for, and made in the first that can be written.
fn folders() -> Vec<PathBuf> {
    let own = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_absolute());
    own.into_iter().chain([PathBuf::from("/run")]).map(|folder| folder.join("culvert")).collect()
}

/// Names in Kubernetes have no underscore.
fn file_name(agent: &str) -> String {
    format!("agent-{}.sock", agent.replace('/', "_"))
}

fn find(agent: Option<&str>) -> Result<PathBuf, Failure> {
    let folders = folders();
    let files =
        folders.iter().filter_map(|folder| folder.read_dir().ok()).flatten().flatten().map(|entry| entry.path());
    let is_wanted = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_one = || name.starts_with("agent-") && path.extension().is_some_and(|extension| extension == "sock");
        agent.map_or_else(is_one, |agent| name == file_name(agent))
    };
    // One that was killed has left its socket behind, at which nobody answers.
    let answers = |path: &PathBuf| UnixStream::connect(path).is_ok();
    let mut found: Vec<PathBuf> = files.filter(is_wanted).filter(answers).collect();
    found.sort();
    match &found[..] {
        [one] => Ok(one.clone()),
        [] => {
            let looked: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
            let remedy = "start the agent as this user, or give --status-socket";
            Err(format!("no agent's socket in {}; {remedy}", looked.join(" or ")).into())
        }
        several => {
            let shown: Vec<_> = several.iter().map(|path| path.display().to_string()).collect();
            Err(format!("there are several agents: give --agent or --status-socket; found {}", shown.join(", ")).into())
        }
    }
}

/// A snapshot for people.
struct Table<'a>(&'a Snapshot);

// === impl Table ===

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Snapshot { agent, instance, version, edges, sessions, allowed, links, flow, dials, last_error, .. } =
            self.0;
        let uptime = age(self.0.uptime_seconds);
        writeln!(f, "agent      {agent}, version {version}, instance {instance}, up {uptime}")?;
        writeln!(f, "edge       {}", edges.join(", "))?;
        writeln!(f, "allowed    {}", if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") })?;
        write!(f, "links      {} open, {} accepted", links.open, links.accepted)?;
        for (reason, count) in &links.refused {
            write!(f, ", {count} refused ({reason})")?;
        }
        writeln!(f, "\nbytes      {} received, {} sent", flow.received, flow.sent)?;
        writeln!(
            f,
            "dials      {} connected, {} already met, {} failed",
            dials.connected, dials.already_met, dials.failed
        )?;
        if let Some(error) = last_error {
            writeln!(f, "last error {} ago: {}", age(error.seconds_ago), error.text)?;
        }
        if sessions.is_empty() {
            return writeln!(f, "\nno session with the edge");
        }
        let mut rows = vec![["REPLICA", "TRANSPORT", "ADDRESS", "AGE", "ROUND TRIP", "LINKS"].map(str::to_owned)];
        rows.extend(sessions.iter().map(|session| {
            let via = if session.proxy.is_some() { " (proxy)" } else { "" };
            [
                session.replica.clone(),
                session.transport.clone(),
                format!("{}{via}", session.address),
                age(session.seconds),
                session.round_trip_millis.map_or_else(|| "-".to_owned(), |millis| format!("{millis:.1} ms")),
                session.links.to_string(),
            ]
        }));
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
        let widths: Vec<usize> = (0..6).map(width).collect();
        writeln!(f)?;
        for row in &rows {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// As `kubectl` shows ages: the two largest units.
fn age(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes}m"),
        (days, hours, ..) => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units() {
        let ages = [5, 65, 3 * 3600 + 125, 90_000].map(age);
        assert_eq!(ages, ["5s", "1m5s", "3h2m", "1d1h"]);
    }

    #[test]
    fn sockets_of_different_agents_have_different_names() {
        assert_eq!(file_name("web/home-lab"), "agent-web_home-lab.sock");
        assert_ne!(file_name("a-b/c"), file_name("a/b-c"));
    }
}
