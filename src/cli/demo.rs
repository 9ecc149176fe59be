mod backends;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use super::{
    Failure, certificate,
    edge::{Addresses, Edge, EdgeConfig, Source},
    fleet::Fleet,
    signals, token,
};
use crate::{
    agent::{self, Agent, AllowRule, TokenSource},
    bridge, proxy,
    tunnel::{
        registration::Token,
        tls::{self, Fingerprint, Trust},
    },
};

/// Runs an edge, an agent and sample backends in one process, and prints the lines to try.
///
/// Everything is real: the objects are YAML files in a folder, the agent dials the edge over TLS, and each request goes
/// through the tunnel. Nothing outlives the process.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where visitors come in. Port 0 is any free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0", env = "CULVERT_HTTP")]
    http: SocketAddr,
    /// Where the agent dials in.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0", env = "CULVERT_BRIDGE")]
    bridge: SocketAddr,
    /// Where the metrics are.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0", env = "CULVERT_ADMIN")]
    admin: SocketAddr,
}

/// How long everything may take to be connected.
const START: Duration = Duration::from_secs(10);

/// A WebSocket client in one line; the frame is masked with zeros (RFC 6455, 5.3).
const HELLO: &str = r"(printf 'GET /echo HTTP/1.1\r\nHost: demo.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\201\205\0\0\0\0hello'; sleep 1) | curl -sN --max-time 2";

/// The folder of the objects; removed when the demo ends.
struct Folder(PathBuf);

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let stop = signals::stop_token()?;
    let backend = backends::serve().await?;
    let agent_token = token::generate();
    let folder = Folder::create(&agent_token, backend)?;
    let certificate = certificate::ephemeral()?;
    let edge = Edge::bind(EdgeConfig {
        source: Source::Folder(folder.0.clone()),
        fleet: Fleet { own: "demo".to_owned(), advertise: None, peers: Vec::new(), mesh_port: None },
        http: args.http,
        // The demo has no certificate that a browser would believe.
        https: None,
        bridge: args.bridge,
        admin: args.admin,
        mesh: None,
        security: bridge::Security::Tls(certificate.config),
        default_certificate: None,
        bridge_hostname: None,
        visitors: proxy::Config::default(),
        access_log: None,
        state: None,
        drain_delay: Duration::ZERO,
        drain_timeout: Duration::from_secs(1),
    })?;
    let addresses = edge.addresses;
    let agent = agent(addresses.bridge, &agent_token, certificate.fingerprint, backend)?;
    let mut sessions = edge.sessions();

    let agent = tokio::spawn(agent.run(stop.clone()));
    let edge = tokio::spawn(edge.run(stop.clone()));
    // What `wait_for` returns holds the list's lock: kept, no session could begin or end any more.
    let connected = tokio::time::timeout(START, sessions.wait_for(|sessions| !sessions.is_empty()));
    let connected = matches!(connected.await, Ok(Ok(_)));
    if !connected {
        stop.cancel();
        edge.await??;
        return Err("the agent did not connect to the edge; the log above says why".into());
    }
    println!("{}", lines(addresses, &folder.0));
    edge.await??;
    agent.await?;
    Ok(ExitCode::SUCCESS)
}

fn agent(bridge: SocketAddr, token: &str, fingerprint: Fingerprint, backend: SocketAddr) -> Result<Agent, Failure> {
    let allow: AllowRule = backend.to_string().parse()?;
    Ok(Agent::new(agent::Config {
        edges: vec![format!("https://{bridge}").parse()?],
        agent: "default/laptop".to_owned(),
        token: TokenSource::Given(Token::new(token)?),
        allow: [allow].into_iter().collect(),
        security: agent::Security::Tls(tls::client(&Trust::Pinned(vec![fingerprint]))?),
        proxies: agent::Proxies::default(),
        transport: agent::Transport::Tls,
        connect_timeout: Duration::from_secs(5),
        connections: 1,
        grace: Duration::from_secs(1),
    }))
}

/// What to try. Names under `localhost` are this machine (RFC 6761, 6.3), for curl and for browsers.
fn lines(addresses: Addresses, folder: &Path) -> String {
    let Addresses { http, admin, .. } = addresses;
    let port = http.port();
    let tries = [
        ("a page from behind the tunnel: 200", format!("curl -i http://demo.localhost:{port}/")),
        ("server-sent events, one a second", format!("curl -N --max-time 4 http://demo.localhost:{port}/clock")),
        ("a WebSocket: the handshake, one frame that says hello, and its echo", format!("{HELLO} telnet://{http}")),
        ("a host that nobody has: 404", format!("curl -i http://nobody.localhost:{port}/")),
        ("a protected host: 401", format!("curl -i http://private.localhost:{port}/")),
        ("with credentials: 200", format!("curl -i -u ada:lovelace http://private.localhost:{port}/")),
        ("every byte, counted", format!("curl -s http://{admin}/metrics | grep culvert_flow_bytes_total")),
    ];
    let mut text = format!(
        "\nCulvert runs: visitor -> edge ({http}) == TLS tunnel == agent -> backend. Try, in another terminal:\n"
    );
    for (what, command) in tries {
        text.extend(["\n  # ", what, "\n  ", &command, "\n"]);
    }
    text + &format!(
        "\nOr open http://demo.localhost:{port}/ in a browser: the page does most of it.\n\
         The objects are in {}: change them, and they are live at once. Ctrl-C ends the demo.\n",
        folder.display()
    )
}

// === impl Folder ===

impl Folder {
    fn create(token: &str, backend: SocketAddr) -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("culvert-demo-{:016x}", rand::random::<u64>()));
        fs::create_dir(&path).map_err(|error| format!("cannot create {}: {error}", path.display()))?;
        let folder = Self(path);
        let manifest =
            include_str!("demo/objects.yaml").replace("TOKEN", token).replace("BACKEND", &backend.to_string());
        fs::write(folder.0.join("demo.yaml"), manifest)?;
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed stays in the system's folder for such files.
        let _ = fs::remove_dir_all(&self.0);
    }
}
