//! The one installation that all tests share.

use std::{
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::FileExt,
    path::PathBuf,
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    net::TcpStream,
    sync::{Mutex, MutexGuard},
};

use super::{Visitor, eventually, helm, kubectl, output, project};

/// Where Culvert is installed.
pub(crate) const NAMESPACE: &str = "culvert-system";

static SERIAL: Mutex<()> = Mutex::const_new(());
static INSTALLED: OnceLock<Result<(), String>> = OnceLock::new();

/// The chart's folder.
pub(crate) fn chart() -> String {
    project().join("charts/culvert").to_str().unwrap().to_owned()
}

/// Culvert, installed; while a test holds this, no other runs.
pub(crate) struct Culvert {
    /// The ClusterIP Service where visitors enter, and the same over TLS.
    http: SocketAddr,
    pub(crate) https: SocketAddr,
    /// Where agents outside the cluster dial in: the bridge's node port.
    pub(crate) bridge: String,
    /// The bridge's key, as NOTES.txt says to read it.
    pub(crate) fingerprint: String,
    _serial: MutexGuard<'static, ()>,
}

/// One pod of the edge.
#[derive(Clone, Debug)]
pub(crate) struct Replica {
    pub(crate) name: String,
    pub(crate) address: IpAddr,
    /// How often its container was started anew.
    pub(crate) restarts: u64,
}

/// Culvert with other values of the chart; its own are back once this is gone, also where the test fails.
pub(crate) struct OtherValues;

// === impl Culvert ===

impl Culvert {
    /// Waits for its turn, installs Culvert where no test did so before, and waits until both replicas are ready.
    pub(crate) async fn installed() -> Self {
        let serial = SERIAL.lock().await;
        INSTALLED
            .get_or_init(|| std::panic::catch_unwind(install).map_err(|_| "the installation failed, see above".into()))
            .as_ref()
            .unwrap();
        kubectl(["-n", NAMESPACE, "rollout", "status", "deployment/culvert", "--timeout=90s"]);
        let service = |name: &str| -> Value {
            serde_json::from_str(&kubectl(["-n", NAMESPACE, "get", "service", name, "-o", "json"])).unwrap()
        };
        let http = service("culvert-http");
        let address: IpAddr = http["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
        let node_port = &service("culvert-bridge")["spec"]["ports"][0]["nodePort"];
        let culvert = Self {
            http: (address, 80).into(),
            https: (address, 443).into(),
            bridge: format!("https://127.0.0.1:{node_port}"),
            fingerprint: fingerprint(),
            _serial: serial,
        };
        culvert.settles().await;
        culvert
    }

    /// Waits until there are two ready pods and no others: those that end may still get visitors from kube-proxy.
    async fn settles(&self) {
        eventually("two ready replicas and no others", Duration::from_mins(1), async || {
            let (all, ready) = (pods(), self.replicas());
            if all.len() == 2 && ready.len() == 2 { Ok(()) } else { Err(format!("{} pods: {ready:?}", all.len())) }
        })
        .await;
    }

    /// A visitor at each replica.
    pub(crate) fn visitors(&self, host: &str) -> Vec<Visitor> {
        self.replicas().iter().map(|replica| replica.visitor(host)).collect()
    }

    /// A visitor at the ClusterIP Service, where kube-proxy picks the replica.
    pub(crate) fn visitor(&self, host: &str) -> Visitor {
        Visitor::new(self.http, host)
    }

    /// The address under a name of this machine where visitors over TLS enter from outside the cluster.
    #[expect(clippy::unused_self, reason = "only an installation has ports")]
    pub(crate) fn https_node_port(&self, name: &str) -> String {
        let path = "jsonpath={.spec.ports[?(@.name==\"https\")].nodePort}";
        let port = kubectl(["-n", NAMESPACE, "get", "service", "culvert-http", "-o", path]);
        format!("https://{name}:{port}")
    }

    /// The pods that are ready now.
    #[expect(clippy::unused_self, reason = "only an installation has replicas")]
    pub(crate) fn replicas(&self) -> Vec<Replica> {
        let ready = |pod: &&Value| {
            let conditions = pod["status"]["conditions"].as_array();
            let ready = conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
            ready && pod["metadata"]["deletionTimestamp"].is_null()
        };
        let replica = |pod: &Value| Replica {
            name: pod["metadata"]["name"].as_str().unwrap().to_owned(),
            address: pod["status"]["podIP"].as_str().unwrap().parse().unwrap(),
            restarts: pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap(),
        };
        pods().iter().filter(ready).map(replica).collect()
    }
}

// === impl Replica ===

impl Replica {
    /// A visitor who enters at this very pod.
    pub(crate) fn visitor(&self, host: &str) -> Visitor {
        Visitor::new(self.http(), host)
    }

    /// Where visitors enter at this very pod.
    fn http(&self) -> SocketAddr {
        (self.address, 8080).into()
    }

    /// Where visitors over TLS enter at this very pod.
    pub(crate) fn https(&self) -> SocketAddr {
        (self.address, 8443).into()
    }

    /// What this pod answers under `/metrics`.
    pub(crate) async fn metrics(&self) -> String {
        let admin = Visitor::new((self.address, 9090).into(), &self.name);
        let answer = admin.get("/metrics").await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    /// The sum of a counter's series whose labels hold all of `labels`, as in `tunnelhost="shop"`.
    pub(crate) async fn counted(&self, metric: &str, labels: &[&str]) -> f64 {
        let metrics = self.metrics().await;
        let series = metrics.lines().filter(|line| line.starts_with(&format!("{metric}{{")));
        let matching = series.filter(|line| labels.iter().all(|label| line.contains(label)));
        matching.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Whether the edge in this pod has this text in its memory.
    pub(crate) fn holds(&self, text: &str) -> bool {
        holds(self.pid(), text)
    }

    /// Waits until this pod refuses visitors' connections: no process holds the sockets of its listener any more.
    ///
    /// It is tried every millisecond, not as rarely as by [`eventually`]: what fails after this was not in flight.
    pub(crate) async fn refuses(&self) {
        let refused = async {
            let refusal = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
            while !TcpStream::connect(self.http()).await.is_err_and(refusal) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let within = tokio::time::timeout(Duration::from_secs(5), refused).await;
        within.unwrap_or_else(|_| panic!("{} still takes connections after 5 s", self.name));
    }

    /// The process id, on this machine, of the edge in this pod: the process that was started with the pod's name.
    pub(crate) fn pid(&self) -> u32 {
        let name = format!("POD_NAME={}", self.name);
        let has_name = |pid: &u32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == name.as_bytes())
        };
        let pids = std::fs::read_dir("/proc").unwrap();
        let mut pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        pids.find(has_name).unwrap_or_else(|| panic!("no process runs as {}", self.name))
    }
}

// === impl OtherValues ===

impl OtherValues {
    /// Waits until the replicas run with the chart's values but for these.
    pub(crate) async fn set(culvert: &Culvert, values: &str) -> Self {
        let other = Self;
        upgrade(values);
        culvert.settles().await;
        other
    }
}

impl Drop for OtherValues {
    fn drop(&mut self) {
        // Without any value, Helm would keep those of before.
        upgrade("log.filter=info");
    }
}

/// The edge's pods, also those that end.
fn pods() -> Vec<Value> {
    let list = kubectl(["-n", NAMESPACE, "get", "pods", "-l", "app.kubernetes.io/name=culvert", "-o", "json"]);
    let mut list: Value = serde_json::from_str(&list).unwrap();
    serde_json::from_value(list["items"].take()).unwrap()
}

fn upgrade(values: &str) {
    helm(["upgrade", "culvert", &chart(), "--namespace", NAMESPACE, "--set", values, "--wait", "--timeout", "120s"]);
}

/// Whether the memory of a process holds this text.
fn holds(pid: u32, text: &str) -> bool {
    const CHUNK: usize = 1 << 20;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut buffer = vec![0; CHUNK + text.len()];
    let mut found = false;
    // What is only read comes from the program's file.
    for map in maps.lines().filter(|map| map.split(' ').nth(1).is_some_and(|rights| rights.starts_with("rw"))) {
        let (start, end) = map.split(' ').next().unwrap().split_once('-').unwrap();
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
        for chunk in (start..end).step_by(CHUNK) {
            // What was unmapped meanwhile cannot be read, and holds nothing.
            let read = memory.read_at(&mut buffer, chunk).unwrap_or(0);
            found |= String::from_utf8_lossy(&buffer[..read]).contains(text);
        }
    }
    found
}

/// A fresh installation, as the README says; what an earlier run of the tests left goes first.
fn install() {
    helm(["uninstall", "culvert", "--namespace", NAMESPACE, "--ignore-not-found", "--wait"]);
    let chart = chart();
    helm(["install", "culvert", &chart, "--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", "120s"]);
}

/// Runs the command that NOTES.txt shows, so that what it shows is known to work.
fn fingerprint() -> String {
    let notes = helm(["get", "notes", "culvert", "--namespace", NAMESPACE]);
    let lines: Vec<&str> = notes.lines().skip_while(|line| !line.contains("FINGERPRINT=")).take(2).collect();
    assert_eq!(lines.len(), 2, "NOTES.txt shows no fingerprint:\n{notes}");
    let script = format!("set -euo pipefail\n{}\necho \"$FINGERPRINT\"", lines.join("\n"));
    output(Command::new("bash").arg("-c").arg(script)).trim().to_owned()
}

/// The program that these tests were built with, which runs the agents and the offline commands.
pub(super) fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_culvert"))
}
