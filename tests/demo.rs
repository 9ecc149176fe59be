//! The demo as people run it: a process, its lines, and Ctrl-C.
#![cfg(all(unix, feature = "edge", feature = "agent"))]
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// A demo that does not outlive its test.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Demo {
    /// How it ended, within a time that is far more than it needs.
    fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_mins(1);
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().expect("its status") {
                return status;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("it was asked to end, and goes on");
    }
}

#[test]
fn it_prints_what_to_try_and_ends_when_it_is_asked_to() {
    let demo =
        Command::new(env!("CARGO_BIN_EXE_culvert")).arg("demo").stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut demo = Demo(demo.expect("a process"));
    let lines = BufReader::new(demo.0.stdout.take().expect("its output")).lines();
    let mut lines = lines.map(|line| line.expect("text"));
    assert!(lines.any(|line| line.contains("curl -i http://demo.localhost:")), "it ended before its lines");
    // All of them are printed at once.
    assert!(lines.any(|line| line.ends_with("Ctrl-C ends the demo.")), "it ended amid its lines");

    kill_process(Pid::from_child(&demo.0), Signal::TERM).expect("a signal");
    assert!(demo.end().success());
}
