//! Another agent, written in another language from docs/protocol.md alone (tests/wire/agent.py), behind a real edge: what
//! that page says is enough, and is what the edge does.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![cfg(all(unix, feature = "edge"))]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc as channel},
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(30);
const TOKEN: &str = "token-0123456789abcdef";
/// Far more than the credit that a link begins with, and than its windows.
const LARGE: usize = 5 << 20;

/// A program that does not outlive its test, and what it says, line by line.
struct Program {
    child: Child,
    lines: mpsc::Receiver<String>,
}

/// An edge with one TunnelHost, the agent in Python, and a backend.
struct Stage {
    folder: PathBuf,
    http: SocketAddr,
    edge: Program,
    agent: Program,
    /// What the backend saw.
    seen: channel::UnboundedReceiver<&'static str>,
    /// Lets it answer `/held`.
    release: Arc<Notify>,
}

// === impl Program ===

impl Program {
    fn start(command: &mut Command, missing: &str) -> Self {
        let mut child = command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{missing}: {error}"));
        let (sender, lines) = mpsc::channel();
        let streams: [Option<Box<dyn Read + Send>>; 2] =
            [child.stdout.take().map(|out| Box::new(out) as _), child.stderr.take().map(|out| Box::new(out) as _)];
        for stream in streams.into_iter().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                BufReader::new(stream).lines().map_while(Result::ok).all(|line| sender.send(line).is_ok())
            });
        }
        Self { child, lines }
    }

    /// Waits for a line with this text.
    fn says(&self, text: &str) -> String {
        let (deadline, mut said) = (Instant::now() + PATIENCE, Vec::new());
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => said.push(line),
                Err(error) => panic!("no line with {text:?} ({error}), only {said:#?}"),
            }
        }
    }

    fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("a signal");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Stage ===

impl Stage {
    /// With an agent that pins the key of the edge.
    async fn start() -> Self {
        Self::trusted_by(|pin| ["--edge-fingerprint".to_owned(), pin.to_owned()]).await
    }

    /// `trust` makes the agent's flag of the edge's fingerprint. The certificate is `edge.pem`, for 127.0.0.1.
    async fn trusted_by(trust: impl FnOnce(&str) -> [String; 2]) -> Self {
        let folder = std::env::temp_dir().join(format!("culvert-second-{:016x}", rand::random::<u64>()));
        let manifests = folder.join("manifests");
        fs::create_dir_all(&manifests).expect("a folder");
        fs::set_permissions(&manifests, fs::Permissions::from_mode(0o700)).expect("a folder of its own");
        fs::write(folder.join("token"), TOKEN).expect("written");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let target = listener.local_addr().expect("an address");
        let (sender, seen) = channel::unbounded_channel();
        let release = Arc::new(Notify::new());
        tokio::spawn(backend(listener, sender, release.clone()));
        // The second rule leads where the agent does not let anyone.
        let objects = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: token}}\ntype: culvert.dev/agent-token\n\
             stringData: {{token: {TOKEN}}}\n---\n\
             apiVersion: culvert.dev/v1alpha1\nkind: TunnelAgent\nmetadata: {{name: lab}}\n\
             spec: {{credentials: [{{secretRef: {{name: token}}}}]}}\n---\n\
             apiVersion: culvert.dev/v1alpha1\nkind: TunnelHost\nmetadata: {{name: shop}}\nspec:\n  \
             hostnames: [shop.test]\n  routes:\n  \
             - backend: {{agents: [{{name: lab}}], targets: [{{address: \"{target}\"}}]}}\n  \
             - path: {{value: /forbidden}}\n    \
             backend: {{agents: [{{name: lab}}], targets: [{{address: \"127.0.0.1:1\"}}]}}\n"
        );
        fs::write(manifests.join("objects.yaml"), objects).expect("written");

        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        fs::write(folder.join("edge.pem"), made.cert.pem()).expect("written");
        fs::write(folder.join("edge.key"), made.signing_key.serialize_pem()).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
        command.args(["serve", "--manifests", "manifests", "--state", "state"]).current_dir(&folder);
        command.args(["--bridge-cert=edge.pem", "--bridge-key=edge.key"]);
        command.args(["--http=127.0.0.1:0", "--https=127.0.0.1:0", "--bridge=127.0.0.1:0", "--admin=127.0.0.1:0"]);
        let edge = Program::start(&mut command, "the program under test");
        let pin = edge.says("--edge-fingerprint");
        let pin = pin.split_once("--edge-fingerprint ").expect("a pin").1.trim().to_owned();
        let listening = edge.says("listening");
        let address = |name: &str| {
            let word = listening.split(' ').find_map(|word| word.strip_prefix(name)).expect("an address");
            word.parse::<SocketAddr>().expect("an address")
        };

        let mut command = Command::new("python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire/agent.py")).current_dir(&folder);
        command.args(["--edge", &format!("https://{}", address("bridge="))]).args(trust(&pin));
        command.args(["--agent=default/lab", "--token-file=token", "--novelties", "--allow", &target.to_string()]);
        let agent = Program::start(&mut command, "this test needs a `python3` (3.9 or later) in the PATH");
        agent.says("registered");
        agent.says("note welcome");
        Self { http: address("http="), folder, edge, agent, seen, release }
    }

    async fn sees(&mut self, what: &str) {
        let seen = timeout(PATIENCE, self.seen.recv()).await.expect("in time").expect("a backend");
        assert_eq!(seen, what);
    }

    async fn visit(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.http).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("sent");
        stream
    }

    /// The answer to a GET, whole.
    async fn get(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n");
        String::from_utf8_lossy(&to_the_end(&mut self.visit(&request).await).await).into_owned()
    }

    /// A visitor whose request the backend has, and does not answer yet.
    async fn held(&mut self) -> TcpStream {
        let visitor = self.visit("GET /held HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n").await;
        self.sees("a request").await;
        visitor
    }

    /// The backend answers that request, and the visitor gets all of it.
    async fn answers_held(&self, mut visitor: TcpStream) {
        self.release.notify_one();
        let answer = String::from_utf8(to_the_end(&mut visitor).await).expect("text");
        assert!(answer.ends_with("\r\n\r\nkept"), "{answer}");
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

async fn to_the_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("in time").expect("an orderly end");
    bytes
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, stream.read_u8()).await.expect("in time").expect("a head"));
    }
    String::from_utf8(head).expect("text")
}

/// Bytes that do not repeat where frames end.
fn bytes() -> Vec<u8> {
    (0..u32::MAX).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[1]).take(LARGE).collect()
}

async fn backend(listener: TcpListener, seen: channel::UnboundedSender<&'static str>, release: Arc<Notify>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer(stream, seen.clone(), release.clone()));
    }
}

async fn answer(mut stream: TcpStream, seen: channel::UnboundedSender<&'static str>, release: Arc<Notify>) {
    let head = head(&mut stream).await;
    match head.split(' ').nth(1).expect("a path") {
        "/mirror" => {
            let mut body = vec![0; LARGE];
            stream.read_exact(&mut body).await.expect("a body");
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.expect("sent");
            stream.write_all(&body).await.expect("sent");
        }
        "/echo" => {
            let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
            stream.write_all(switching.as_bytes()).await.expect("sent");
            let mut piece = [0; 1000];
            while let Ok(length @ 1..) = stream.read(&mut piece).await {
                stream.write_all(&piece[..length]).await.expect("sent");
            }
            stream.write_all(b" and a farewell").await.expect("sent");
        }
        "/endless" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("sent");
            while stream.write_all(&[b'x'; 10_000]).await.is_ok() {}
            let _ = seen.send("the visitor has left");
        }
        "/cut" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this").await.expect("sent");
            stream.set_zero_linger().expect("a reset");
        }
        "/held" => {
            let _ = seen.send("a request");
            release.notified().await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nkept").await.expect("sent");
        }
        _ => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await.expect("sent"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_serves_requests_refuses_targets_and_moves_more_than_its_credit() {
    let stage = Stage::start().await;
    let answer = stage.get("/").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhello"), "{answer}");
    let answer = stage.get("/forbidden").await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("error=connection_refused"), "{answer}");

    let bytes = bytes();
    let request =
        format!("POST /mirror HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\nContent-Length: {LARGE}\r\n\r\n");
    let mut visitor = stage.visit(&request).await;
    visitor.write_all(&bytes).await.expect("sent");
    let head = head(&mut visitor).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let body = to_the_end(&mut visitor).await;
    assert!(body == bytes, "{} bytes of {LARGE}, or others than were sent", body.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_trusts_an_authority_for_the_name_that_it_dials() {
    let stage = Stage::trusted_by(|_| ["--edge-ca", "edge.pem"].map(str::to_owned)).await;
    assert!(stage.get("/").await.ends_with("\r\n\r\nhello"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_direction_of_a_link_ends_by_itself() {
    let stage = Stage::start().await;
    let request = "GET /echo HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    let mut visitor = stage.visit(request).await;
    let switched = head(&mut visitor).await;
    assert!(switched.starts_with("HTTP/1.1 101 "), "{switched}");
    visitor.write_all(b"a word").await.expect("sent");
    let mut word = [0; 6];
    timeout(PATIENCE, visitor.read_exact(&mut word)).await.expect("in time").expect("a word");
    assert_eq!(&word, b"a word");
    visitor.write_all(b"the last").await.expect("sent");
    visitor.shutdown().await.expect("an end");
    assert_eq!(to_the_end(&mut visitor).await, b"the last and a farewell");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_of_either_end_reaches_the_other() {
    let mut stage = Stage::start().await;
    let mut visitor = stage.visit("GET /endless HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    head(&mut visitor).await;
    drop(visitor);
    stage.sees("the visitor has left").await;
    stage.agent.says("reset");

    let mut visitor = stage.visit("GET /cut HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    head(&mut visitor).await;
    let mut body = Vec::new();
    // The visitor's connection ends short of what was announced, in one way or the other.
    let _ = timeout(PATIENCE, visitor.read_to_end(&mut body)).await.expect("in time");
    assert!(body.len() <= b"only this".len(), "{body:?}");
    assert!(stage.get("/").await.ends_with("hello"), "others go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_leaves_when_its_requests_are_done() {
    let mut stage = Stage::start().await;
    let visitor = stage.held().await;
    stage.agent.terminate();
    stage.agent.says("leaving");
    stage.answers_held(visitor).await;
    stage.agent.says("left");
    assert!(stage.agent.child.wait().expect("its end").success());
    stage.edge.says("agent disconnected");
    let answer = stage.get("/").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("error=destination_unavailable"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_told_that_the_edge_leaves() {
    let mut stage = Stage::start().await;
    let visitor = stage.held().await;
    stage.edge.terminate();
    stage.agent.says("note drain");
    stage.answers_held(visitor).await;
    stage.agent.says("ended");
    assert!(stage.edge.child.wait().expect("its end").success());
}
