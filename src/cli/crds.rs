use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::Failure;
use crate::api;

/// Prints the CustomResourceDefinitions as YAML.
///
/// They go before any object: `culvert crds | kubectl apply --server-side -f -`. The Helm chart installs the same ones.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: &Args) -> Result<ExitCode, Failure> {
    let documents = api::crds().iter().map(serde_saphyr::to_string).collect::<Result<Vec<_>, _>>()?;
    io::stdout().write_all(documents.join("---\n").as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
