use std::process::ExitCode;

use super::Failure;

/// Runs the edge: controller, proxy and bridge in one process.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_args: Args) -> Result<ExitCode, Failure> {
    Ok(ExitCode::SUCCESS)
}
