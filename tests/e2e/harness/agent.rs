//! An agent: a real process outside the pods, with a token that `culvert token` made.

use std::{
    fs::File,
    io::Write,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::Value;

use super::{Culvert, apply, eventually, installation::program, kubectl, output, project};

/// An agent and its process; the process ends with it.
pub(crate) struct Agent {
    namespace: String,
    name: String,
    edge: String,
    fingerprint: String,
    allow: SocketAddr,
    token_file: PathBuf,
    process: Option<Child>,
}

// === impl Agent ===

impl Agent {
    /// Makes the TunnelAgent with its token, starts the process, and waits until it has met both replicas.
    pub(crate) async fn start(culvert: &Culvert, namespace: &str, name: &str, allow: SocketAddr) -> Self {
        let mut agent = Self {
            namespace: namespace.into(),
            name: name.into(),
            edge: culvert.bridge.clone(),
            fingerprint: culvert.fingerprint.clone(),
            allow,
            token_file: scratch(namespace, name, "token"),
            process: None,
        };
        let identity = format!("{namespace}/{name}");
        let token = ["token", &identity, "--edge", &culvert.bridge, "--edge-fingerprint", &culvert.fingerprint];
        apply(&output(Command::new(program()).args(token))).unwrap();
        agent.save_token();
        agent.restart();
        agent.meets(culvert).await;
        agent
    }

    /// Waits until every replica that runs now has a session with this agent, and the object says so.
    pub(crate) async fn meets(&self, culvert: &Culvert) {
        let mut expected: Vec<String> = culvert.replicas().into_iter().map(|replica| replica.name).collect();
        expected.sort();
        let what = format!("agent {}/{} has met {expected:?}; see {}", self.namespace, self.name, self.log().display());
        eventually(&what, Duration::from_secs(30), async || {
            let object = self.object();
            let sessions = object["status"]["sessions"].as_array().into_iter().flatten();
            let mut met: Vec<&str> = sessions.filter_map(|session| session["replica"].as_str()).collect();
            met.sort_unstable();
            let connected = condition(&object, "AgentConnected") == "True";
            if met == expected && connected { Ok(()) } else { Err(object["status"].to_string()) }
        })
        .await;
    }

    /// Starts the process, again where it ran before.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let identity = format!("{}/{}", self.namespace, self.name);
        let process = Command::new(program())
            .args(["agent", "--edge", &self.edge, "--edge-fingerprint", &self.fingerprint, "--agent", &identity])
            .arg("--token-file")
            .arg(&self.token_file)
            .arg(format!("--allow={}", self.allow))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    /// Starts the process anew, so that it dials this address.
    pub(crate) fn dial(&mut self, edge: &str) {
        edge.clone_into(&mut self.edge);
        self.restart();
    }

    /// Ends the process at once, without a word to anybody but by its sockets' closing.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Freezes the process: its sockets stay open and silent.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets a frozen process go on.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    /// The state of a condition of the TunnelAgent: `True`, `False`, `Unknown`, or empty.
    pub(crate) fn condition(&self, kind: &str) -> String {
        condition(&self.object(), kind)
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().expect("the agent runs").id();
        output(Command::new("kill").args([signal, &pid.to_string()]));
    }

    fn object(&self) -> Value {
        let object = kubectl(["-n", &self.namespace, "get", "tunnelagent", &self.name, "-o", "json"]);
        serde_json::from_str(&object).unwrap()
    }

    /// Saves the token of the object's Secret in a file that only we read.
    fn save_token(&self) {
        let object = self.object();
        let secret = object["spec"]["credentials"][0]["secretRef"]["name"].as_str().unwrap();
        let encoded = kubectl(["-n", &self.namespace, "get", "secret", secret, "-o", "jsonpath={.data.token}"]);
        let mut options = File::options();
        let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&self.token_file).unwrap();
        file.write_all(&BASE64_STANDARD.decode(encoded).unwrap()).unwrap();
    }

    fn log(&self) -> PathBuf {
        scratch(&self.namespace, &self.name, "log")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

fn condition(object: &Value, kind: &str) -> String {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.and_then(|all| all.iter().find(|condition| condition["type"] == kind));
    found.and_then(|condition| condition["status"].as_str()).unwrap_or_default().to_owned()
}

fn scratch(namespace: &str, name: &str, what: &str) -> PathBuf {
    let folder = project().join("target/e2e");
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(format!("{namespace}-{name}.{what}"))
}
