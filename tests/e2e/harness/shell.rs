//! kubectl, Helm and the cluster's own script, as a person would run them.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The project's folder.
pub(crate) fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a command to its end: its standard output, or what it wrote to standard error where it failed.
pub(crate) fn attempt(command: &mut Command, input: &str) -> Result<String, String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let written = std::thread::scope(|threads| {
        // A command may print before it has read all; its output must not wait for our input to be taken.
        let writer = threads.spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().unwrap();
        (output, writer.join().unwrap())
    });
    let (output, _) = written;
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Runs a command that must succeed.
pub(crate) fn output(command: &mut Command) -> String {
    attempt(command, "").unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs kubectl, which must succeed.
pub(crate) fn kubectl<const N: usize>(args: [&str; N]) -> String {
    output(Command::new("kubectl").args(args))
}

/// Runs Helm, which must succeed.
pub(crate) fn helm<const N: usize>(args: [&str; N]) -> String {
    output(Command::new("helm").args(args))
}

/// Applies objects: `Err` is what the API server, or kubectl's check of the schema, said against them.
pub(crate) fn apply(yaml: &str) -> Result<String, String> {
    attempt(Command::new("kubectl").args(["apply", "-f", "-"]), yaml)
}

/// Creates objects; unlike `apply`, it leaves no copy of them in an annotation.
pub(crate) fn create(yaml: &str) -> Result<String, String> {
    attempt(Command::new("kubectl").args(["create", "-f", "-"]), yaml)
}

/// Runs a verb of the cluster's script, as in `["stop", "apiserver"]`.
pub(crate) fn cluster<const N: usize>(args: [&str; N]) -> String {
    let script =
        std::env::var_os("CULVERT_CLUSTER").map_or_else(|| project().join("tests/cluster/cluster"), PathBuf::from);
    output(Command::new(script).args(args))
}
