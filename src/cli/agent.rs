use std::process::ExitCode;

use super::Failure;

/// Runs an agent next to the backends: dials the edge and serves its links.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_args: Args) -> Result<ExitCode, Failure> {
    Ok(ExitCode::SUCCESS)
}
