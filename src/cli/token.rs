use std::process::ExitCode;

use super::Failure;

/// Makes a token: prints a Secret and a TunnelAgent, and the agent's command line.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

#[expect(clippy::unnecessary_wraps, reason = "being built")]
pub(super) fn run(_args: &Args) -> Result<ExitCode, Failure> {
    Ok(ExitCode::SUCCESS)
}
