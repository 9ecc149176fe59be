//! The `culvert` program.

use std::process::ExitCode;

/// Returns memory of closed connections to the system; the edge holds many small, short-lived buffers.
#[cfg(unix)]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    culvert::cli::run()
}
