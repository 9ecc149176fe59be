use std::process::ExitCode;

use super::Failure;

/// Validates manifests offline: the verdicts that the controller would give.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

#[expect(clippy::unnecessary_wraps, reason = "being built")]
pub(super) fn run(_args: &Args) -> Result<ExitCode, Failure> {
    Ok(ExitCode::SUCCESS)
}
