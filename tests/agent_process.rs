//! An agent as people run it: a process with a configuration file, asked for its status, probed and stopped.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![cfg(all(unix, feature = "edge", feature = "agent"))]

#[path = "support/tunnel.rs"]
mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    time::Instant,
};

use culvert::tunnel::LinkError;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::*;
use tokio::time::timeout;

/// A folder of the test's own, and the program with nothing of the environment.
struct Place(PathBuf);

/// An agent that does not outlive its test.
struct Process {
    child: Child,
    /// Its log, line by line.
    lines: mpsc::Receiver<String>,
}

impl Place {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("culvert-agent-{:016x}", rand::random::<u64>()));
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join("token"), TOKEN).expect("written");
        Self(folder)
    }

    fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
        command.env_clear().env("XDG_RUNTIME_DIR", &self.0).current_dir(&self.0).stdin(Stdio::null());
        command
    }

    /// Starts an agent with this configuration file.
    fn agent(&self, file: &str, flags: &[&str]) -> Process {
        fs::write(self.0.join("agent.yaml"), file).expect("written");
        let mut command = self.program();
        command.args(["agent", "--config", "agent.yaml"]).args(flags).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("a process");
        let log = BufReader::new(child.stderr.take().expect("its log"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || log.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Process { child, lines }
    }

    fn status(&self, flags: &[&str]) -> Output {
        self.program().args(["agent", "status"]).args(flags).output().expect("it ran")
    }

    fn json(&self) -> (Value, Option<i32>) {
        let output = self.status(&["--output", "json"]);
        let said = String::from_utf8_lossy(&output.stderr);
        (serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}")), output.status.code())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Process {
    /// Waits for a line with this text.
    fn says(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|error| panic!("no line with {text:?}: {error}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    fn stop(&mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("a signal");
        self.child.wait().expect("its end")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks the address in this line of the log.
fn get(listening: &str, path: &str) -> String {
    let address = listening.split_once("admin=").expect("an address").1.trim();
    let mut stream = TcpStream::connect(address).expect("connected");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: agent\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_says_how_it_is() {
    let edge = Edge::start("r1").await;
    let (place, target) = (Place::new(), echo());
    let file = format!(
        "# An agent.\nedge: {}\nagent: web/lab\ntoken-file: token\nedge-fingerprint: [\"{}\"]\nallow:\n- {target}\n\
         admin: 127.0.0.1:0\nconnections: 1\nlog: info\n",
        edge.url(),
        edge.certificate.fingerprint,
    );
    // The flag comes before the file.
    let mut agent = place.agent(&file, &["--transport=websocket"]);
    let listening = agent.says("listening");
    let session = edge.session().await;
    assert_eq!(session.transport, "websocket");
    let mut link = open(&session, &target);
    timeout(PATIENCE, link.opened()).await.expect("in time").expect("opened");
    let refused = timeout(PATIENCE, open(&session, "127.0.0.1:1").opened()).await.expect("in time");
    assert!(matches!(refused, Err(LinkError::Refused { .. })));

    let socket = place.0.join("culvert/agent-web_lab.sock");
    assert_eq!(fs::metadata(&socket).expect("a socket").permissions().mode() & 0o777, 0o600);
    let (status, code) = place.json();
    assert_eq!(code, Some(0));
    assert_eq!((&status["agent"], &status["allowed"][0]), (&"web/lab".into(), &target.as_str().into()));
    let shown = &status["sessions"][0];
    assert_eq!((&shown["replica"], &shown["transport"]), (&"r1".into(), &"websocket".into()));
    assert_eq!((&shown["links"], &status["links"]["open"]), (&1.into(), &1.into()));
    assert_eq!((&status["links"]["accepted"], &status["links"]["refused"]["not_allowed"]), (&1.into(), &1.into()));
    let table = String::from_utf8(place.status(&["--agent", "web/lab"]).stdout).expect("text");
    assert!(table.contains("REPLICA  TRANSPORT") && table.contains("\nr1       websocket  127.0.0.1:"), "{table}");

    assert!(get(&listening, "/livez").starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(get(&listening, "/readyz").starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(get(&listening, "/other").starts_with("HTTP/1.1 404 Not Found\r\n"));
    let metrics = get(&listening, "/metrics");
    for line in [
        "culvert_agent_tunnels{replica=\"r1\",transport=\"websocket\"} 1\n",
        "culvert_agent_links 1\n",
        "culvert_agent_link_opens_total{result=\"not_allowed\"} 1\n",
        "culvert_agent_dials_total{result=\"connected\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line}{metrics}");
    }

    drop(link);
    assert!(agent.stop().success());
    assert!(!socket.exists());
}

#[test]
fn an_agent_without_an_edge_says_why() {
    let place = Place::new();
    // Nobody listens on the discard port.
    let edge = "edge: http://127.0.0.1:9\ninsecure-plaintext: true\nagent: web/lab\ntoken-file: token\n";
    let agent = place.agent(edge, &["--admin=127.0.0.1:0"]);
    let listening = agent.says("listening");
    agent.says("no connection to the edge");
    assert!(get(&listening, "/readyz").starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
    let (status, code) = place.json();
    assert_eq!(code, Some(1));
    let error = status["lastError"]["text"].as_str().expect("an error");
    assert!(error.starts_with("cannot connect: "), "{error}");
}

#[test]
fn what_is_wrong_with_the_file_is_named() {
    let place = Place::new();
    let error = |file: &str| {
        fs::write(place.0.join("agent.yaml"), file).expect("written");
        let output = place.program().args(["agent", "--config", "agent.yaml"]).output().expect("it ran");
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).expect("text")
    };
    let unknown = error("edge: https://edge\nalow: 127.0.0.1:80\n");
    assert!(
        unknown.starts_with("culvert: --config: agent.yaml:2: alow: there is no such flag; there are "),
        "{unknown}"
    );
    let wrong = error("edge: ftp://edge\n");
    assert!(wrong.starts_with("culvert: in agent.yaml:\n") && wrong.contains("--edge <URL>"), "{wrong}");
    assert!(error("agent: web/lab\n").contains("--edge is missing"));
    let status = place.status(&[]);
    let said = String::from_utf8_lossy(&status.stderr);
    assert!(status.status.code() == Some(1) && said.contains("no agent's socket in "), "{said}");
}
