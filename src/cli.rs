//! The commands, one file each. This is the only room where the others are wired together.

#[cfg(feature = "agent")]
mod agent;
#[cfg(feature = "edge")]
mod backends;
#[cfg(feature = "edge")]
mod certificate;
#[cfg(feature = "edge")]
mod check;
#[cfg(feature = "edge")]
mod crds;
#[cfg(all(feature = "edge", feature = "agent"))]
mod demo;
#[cfg(feature = "edge")]
mod edge;
#[cfg(feature = "edge")]
mod fleet;
mod limits;
#[cfg(feature = "edge")]
mod remembered;
#[cfg(feature = "edge")]
mod serve;
mod signals;
#[cfg(feature = "edge")]
mod token;
#[cfg(feature = "edge")]
mod visitors;
#[cfg(feature = "edge")]
mod wiring;

#[cfg(feature = "agent")]
use std::path::Path;
use std::{env, ffi::OsString, future::Future, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

use crate::telemetry::{self, LogFormat};

/// A Kubernetes-native tunnel ingress: services behind NAT become hostnames of your cluster.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    logs: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
struct LogArgs {
    /// How log lines are written to standard error.
    #[arg(long, global = true, value_enum, default_value_t, env = "CULVERT_LOG_FORMAT")]
    log_format: LogFormat,
    /// Which log lines are written: a level, or levels by module, as in `info,culvert=debug`.
    #[arg(long, global = true, default_value = "info", value_name = "FILTER", env = "CULVERT_LOG")]
    log: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[cfg(feature = "edge")]
    // The largest, with the next.
    Serve(Box<serve::Args>),
    #[cfg(feature = "agent")]
    Agent(Box<agent::Args>),
    #[cfg(feature = "edge")]
    Check(check::Args),
    #[cfg(all(feature = "edge", feature = "agent"))]
    Demo(demo::Args),
    #[cfg(feature = "edge")]
    Crds(crds::Args),
    #[cfg(feature = "edge")]
    Token(token::Args),
}

/// Why a command ended without having done its work; printed as one line, exit code 1.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Parses the command line and runs the command: exit code 0, 1 where it failed, 2 where its use was wrong.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match parse(env::args_os().collect()) {
        Ok(cli) => cli,
        Err(wrong) => {
            eprintln!("culvert: {wrong}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = telemetry::init_logs(cli.logs.log_format, &cli.logs.log) {
        eprintln!("culvert: --log: {error}");
        return ExitCode::from(2);
    }
    limits::raise_open_files();
    let result = match cli.command {
        #[cfg(feature = "edge")]
        Command::Serve(args) => block_on(serve::run(*args)),
        #[cfg(feature = "agent")]
        Command::Agent(args) => block_on(agent::run(*args)),
        #[cfg(feature = "edge")]
        Command::Check(args) => check::run(&args),
        #[cfg(all(feature = "edge", feature = "agent"))]
        Command::Demo(args) => block_on(demo::run(args)),
        #[cfg(feature = "edge")]
        Command::Crds(args) => crds::run(&args),
        #[cfg(feature = "edge")]
        Command::Token(args) => token::run(&args),
    };
    result.unwrap_or_else(|failure| {
        eprintln!("culvert: {failure}");
        ExitCode::FAILURE
    })
}

/// The command line; where it names a configuration file, what that adds.
fn parse(arguments: Vec<OsString>) -> Result<Cli, Failure> {
    let cli = Cli::parse_from(&arguments);
    #[cfg(feature = "agent")]
    if let Command::Agent(args) = &cli.command
        && let Some(file) = &args.config
    {
        return Ok(with_file(arguments, file)?.unwrap_or_else(|error| {
            // It is one of the file's, since the others were parsed before.
            eprintln!("culvert: in {}:", file.display());
            error.exit()
        }));
    }
    Ok(cli)
}

/// The command line, and what the agent's configuration file adds to it now.
#[cfg(feature = "agent")]
fn with_file(arguments: Vec<OsString>, file: &Path) -> Result<Result<Cli, clap::Error>, String> {
    Ok(Cli::try_parse_from(agent::file::expand(Cli::command(), "agent", arguments, file)?))
}

/// What an agent would be told if it were started again, with what its configuration file has become.
#[cfg(feature = "agent")]
fn agent_again(file: &Path) -> Result<agent::Args, String> {
    let cli = with_file(env::args_os().collect(), file)?.map_err(|error| {
        let error = error.to_string();
        let first = error.lines().next().unwrap_or_default();
        format!("--config: {}: {}", file.display(), first.trim_start_matches("error: "))
    })?;
    match cli.command {
        Command::Agent(args) => Ok(*args),
        #[cfg(feature = "edge")]
        _ => Err("--config: this is no agent".to_owned()),
    }
}

fn block_on(command: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(command)
}
