//! What an agent may connect to, as the edge and backends see it: real sockets, and for SIGHUP the real program.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![cfg(all(unix, feature = "edge", feature = "agent"))]

#[path = "support/tunnel.rs"]
mod support;

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use culvert::{
    bridge::AgentSession,
    tunnel::{Link, LinkError, Open, RefuseCode, ResetCode},
};
use rustix::process::{Pid, Signal, kill_process};
use support::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
    time::timeout,
};

/// A link for a TunnelHost of that namespace.
fn open_for(session: &AgentSession, namespace: &str, target: &str) -> Link {
    let tunnel_host = format!("{namespace}/shop");
    session.open(&Open { target: target.to_owned(), tunnel_host, ..Open::default() }).expect("a session that lives")
}

/// Whether the agent connects such a link to its backend, which is there.
async fn is_allowed(session: &AgentSession, namespace: &str, target: &str) -> bool {
    match timeout(PATIENCE, open_for(session, namespace, target).opened()).await.expect("in time") {
        Ok(()) => true,
        Err(LinkError::Refused { code: RefuseCode::NotAllowed, text }) => {
            assert!(text.contains("allow-list") && !text.contains(namespace), "{text}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

async fn echoed(link: &mut Link, message: &[u8]) {
    link.write_all(message).await.expect("sent");
    let mut answer = vec![0; message.len()];
    timeout(PATIENCE, link.read_exact(&mut answer)).await.expect("in time").expect("an answer");
    assert_eq!(answer, message);
}

/// A path that no other test has.
fn path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("culvert-{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

#[tokio::test]
async fn a_socket_of_the_agents_machine_is_a_backend() {
    let path = path("allow.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let target = format!("unix:{}", path.display());
    let edge = Edge::start("r1").await;
    let _agent = edge.agent(&[&target]);
    let session = edge.session().await;
    let mut link = open(&session, &target);
    link.write_all(b"question").await.expect("sent");
    link.shutdown().await.expect("ended");
    let (mut stream, _) = timeout(PATIENCE, listener.accept()).await.expect("in time").expect("a connection");
    let mut question = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut question)).await.expect("in time").expect("a proper end");
    assert_eq!(question, b"question");
    // Larger than what goes in one piece.
    let answer = vec![7; 300_000];
    stream.write_all(&answer).await.expect("sent");
    drop(stream);
    let mut received = Vec::new();
    timeout(PATIENCE, link.read_to_end(&mut received)).await.expect("in time").expect("a proper end");
    assert_eq!(received, answer);
    assert!(!is_allowed(&session, "web", "unix:/run/another.sock").await);
    let _ = std::fs::remove_file(&path);
}

#[tokio::test]
async fn a_rule_of_a_namespace_is_for_its_tunnel_hosts() {
    let edge = Edge::start("r1").await;
    let (for_all, for_web) = (echo(), echo());
    let _agent = edge.agent(&[&for_all, &format!("web={for_web}")]);
    let session = edge.session().await;
    assert!(is_allowed(&session, "web", &for_all).await && is_allowed(&session, "shop", &for_all).await);
    assert!(is_allowed(&session, "web", &for_web).await);
    assert!(!is_allowed(&session, "shop", &for_web).await);
}

#[tokio::test]
async fn what_is_allowed_no_longer_is_ended_and_the_rest_goes_on() {
    let edge = Edge::start("r1").await;
    let (stays, goes) = (echo(), echo());
    let agent = edge.agent(&[&stays, &goes]);
    let session = edge.session().await;
    let (mut staying, mut going) = (open(&session, &stays), open(&session, &goes));
    echoed(&mut staying, b"one").await;
    echoed(&mut going, b"two").await;
    agent.allow.replace([stays.parse().expect("a rule")]);
    let ended = timeout(PATIENCE, going.read(&mut [0])).await.expect("ended in time").expect_err("no proper end");
    // Neither the session nor the agent has failed.
    assert_eq!(LinkError::from_io(&ended), Some(&LinkError::Reset(ResetCode::Cancelled)), "{ended}");
    echoed(&mut staying, b"three").await;
    assert!(!is_allowed(&session, "web", &goes).await && is_allowed(&session, "web", &stays).await);
    agent.allow.replace([]);
    timeout(PATIENCE, staying.read(&mut [0])).await.expect("ended in time").expect_err("no proper end");
}

/// An agent in a process of its own; it ends with this.
struct Process(Child);

impl Process {
    fn hang_up(&self) {
        let id = Pid::from_raw(self.0.id().try_into().expect("an id")).expect("an id");
        kill_process(id, Signal::HUP).expect("sent");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_rules_of_a_configuration_file_are_read_again_on_sighup() {
    let edge = Edge::start("r1").await;
    let (first, second, third) = (echo(), echo(), echo());
    let (config, rules, token, log) = (path("config"), path("config-rules"), path("config-token"), path("config-log"));
    std::fs::write(&token, TOKEN).expect("a file");
    std::fs::write(&rules, format!("{third}\n")).expect("a file");
    let configure = |more: &str| {
        let (url, fingerprint) = (edge.url(), edge.certificate.fingerprint);
        let text = format!("agent: web/lab\nedge: {url}\nedge-fingerprint: ['{fingerprint}']\n{more}\n");
        std::fs::write(&config, text).expect("a file");
    };
    configure(&format!("allow: ['{first}']"));
    let agent = Command::new(env!("CARGO_BIN_EXE_culvert"))
        .args(["agent", "--connections", "1", "--status-socket", "off", "--config"])
        .arg(&config)
        .arg("--token-file")
        .arg(&token)
        .stderr(Stdio::from(std::fs::File::create(&log).expect("a file")))
        .spawn();
    let agent = Process(agent.expect("an agent"));
    let session = edge.session().await;
    assert!(is_allowed(&session, "web", &first).await && !is_allowed(&session, "web", &second).await);
    let mut link = open(&session, &first);
    echoed(&mut link, b"in use").await;

    configure("allow: [8080]");
    agent.hang_up();
    let complained = async {
        let complaint = "what was allowed before still is";
        while !std::fs::read_to_string(&log).expect("the log").contains(complaint) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, complained).await.expect("a complaint in time");
    echoed(&mut link, b"a wrong file changes nothing").await;

    configure(&format!("allow: ['{second}']\nallow-file: {}", rules.display()));
    agent.hang_up();
    timeout(PATIENCE, link.read(&mut [0])).await.expect("ended in time").expect_err("no proper end");
    assert!(is_allowed(&session, "web", &second).await && is_allowed(&session, "web", &third).await);
    assert!(!is_allowed(&session, "web", &first).await);
    assert_eq!(edge.session().await.id, session.id, "the session goes on");
    for file in [config, rules, token, log] {
        let _ = std::fs::remove_file(file);
    }
}

#[tokio::test]
async fn the_file_is_read_again_on_sighup() {
    let edge = Edge::start("r1").await;
    let (first, second) = (echo(), echo());
    let (rules, token, log) = (path("allow-rules"), path("allow-token"), path("allow-log"));
    std::fs::write(&rules, format!("# backends\n{first}\n")).expect("a file");
    std::fs::write(&token, TOKEN).expect("a file");
    let agent = Command::new(env!("CARGO_BIN_EXE_culvert"))
        .args(["agent", "--agent", "web/lab", "--edge", &edge.url()])
        .args(["--edge-fingerprint", &edge.certificate.fingerprint.to_string()])
        .arg("--token-file")
        .arg(&token)
        .args(["--connections", "1", "--status-socket", "off"])
        .arg("--allow-file")
        .arg(&rules)
        .stderr(Stdio::from(std::fs::File::create(&log).expect("a file")))
        .spawn();
    let agent = Process(agent.expect("an agent"));
    let session = edge.session().await;
    assert!(is_allowed(&session, "web", &first).await && !is_allowed(&session, "web", &second).await);
    let mut link = open(&session, &first);
    echoed(&mut link, b"in use").await;

    std::fs::write(&rules, format!("{second}\nno rule\n")).expect("a file");
    agent.hang_up();
    let complained = async {
        while !std::fs::read_to_string(&log).expect("the log").contains("line 2: it has no port") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, complained).await.expect("a complaint in time");
    echoed(&mut link, b"a wrong file changes nothing").await;
    assert!(!is_allowed(&session, "web", &second).await);
    std::fs::write(&rules, format!("{second}\n")).expect("a file");
    agent.hang_up();
    timeout(PATIENCE, link.read(&mut [0])).await.expect("ended in time").expect_err("no proper end");
    // Links are ended just after the rules are in force.
    assert!(is_allowed(&session, "web", &second).await && !is_allowed(&session, "web", &first).await);
    assert_eq!(edge.session().await.id, session.id, "the session goes on");
    for file in [rules, token, log] {
        let _ = std::fs::remove_file(file);
    }
}
