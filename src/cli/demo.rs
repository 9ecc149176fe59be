use std::process::ExitCode;

use super::Failure;

/// Runs an edge, an agent and sample backends in one process, and prints the lines to try.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_args: Args) -> Result<ExitCode, Failure> {
    Ok(ExitCode::SUCCESS)
}
