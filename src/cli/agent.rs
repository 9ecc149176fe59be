mod allowed;
pub(super) mod file;
mod proxies;
#[cfg(unix)]
mod status;

use std::{env, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::allowed::Allowed;
use super::{Failure, signals};
use crate::{
    agent::{Agent, AllowRule, Config, EdgeUrl, Security, TokenSource, Transport, status::Status},
    tunnel::{
        name::{is_label, is_object},
        registration::{Registration, Token},
        tls::{self, Fingerprint, Trust},
    },
};

/// Runs an agent next to the backends: dials the edge and serves its links.
///
/// The agent only dials out. It keeps sessions with each replica of the edge, and dials again when one is lost. It
/// connects to the targets that --allow names, and to no others.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "The token comes from --token-file, or from the environment variable CULVERT_TOKEN. It is never \
                        taken from the command line, where other users of the machine could read it."
)]
pub(super) struct Args {
    #[cfg(unix)]
    #[command(subcommand)]
    command: Option<Command>,
    /// A YAML file with flags: each key is a flag's name without the dashes, as in `edge: https://edge.example.com:7443`;
    /// lists are written as YAML's. A flag comes before the environment, and that before the file. On SIGHUP `allow` and
    /// `allow-file` are read again.
    #[arg(long, value_name = "FILE", env = "CULVERT_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// Where the edge's bridge is, as in `https://edge.example.com:7443`. Several are ways to the same edge, tried in
    /// turn.
    #[arg(long, value_name = "URL", env = "CULVERT_EDGE", value_delimiter = ',')]
    edge: Vec<EdgeUrl>,
    /// The TunnelAgent to register as.
    #[arg(long, value_name = "NAMESPACE/NAME", env = "CULVERT_AGENT", value_parser = parse_agent)]
    agent: Option<String>,
    /// A file with the agent's token. It is read again at each dial, so that a rotated token needs no restart.
    #[arg(long, value_name = "FILE", env = "CULVERT_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// What the agent may connect to: HOST:PORT, where HOST is a name, an address or a network (`10.0.0.0/8`) and PORT
    /// a number, a range (`8000-8100`) or `*`; or `unix:/PATH` of a socket. HOST may be `*.SUFFIX`: all names under one, as far as
    /// they do not resolve to this machine or its link. `NAMESPACE=` in front makes it a rule for the TunnelHosts of that
    /// namespace only. May be given several times. Without it and --allow-file nothing is allowed.
    #[arg(long, value_name = "[NAMESPACE=]HOST:PORT", env = "CULVERT_ALLOW", value_delimiter = ',')]
    allow: Vec<AllowRule>,
    /// How many connections to hold with each replica of the edge, 1 to 8. Each has its own flow control and
    /// notices losses by itself, so that one that stalls leaves the others alone.
    #[arg(long, value_name = "NUMBER", default_value_t = 2, env = "CULVERT_CONNECTIONS",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(Registration::MAX_SLOTS)))]
    connections: u32,
    /// A file with more of them, one a line, with # for comments. It is read again on SIGHUP; what it does not allow any more is
    /// ended then, links in use among it.
    #[arg(long, value_name = "FILE", env = "CULVERT_ALLOW_FILE")]
    allow_file: Option<PathBuf>,
    /// A PEM file with the authorities that sign the edge's certificate. Without this and --edge-fingerprint those that
    /// the system trusts are asked.
    #[arg(long, value_name = "FILE", env = "CULVERT_EDGE_CA", conflicts_with = "edge_fingerprint")]
    edge_ca: Option<PathBuf>,
    /// The fingerprint of the edge's public key, `sha256:…`, whoever signed its certificate. Several may be given, as
    /// for a change of the key.
    #[arg(long, value_name = "sha256:…", env = "CULVERT_EDGE_FINGERPRINT", value_delimiter = ',')]
    edge_fingerprint: Vec<Fingerprint>,
    /// How long requests and upgraded connections in progress may go on, in seconds, after the agent was asked to stop; new
    /// ones go to others at once. What is left then is cut; WebSockets are closed as "going away" (1001) between two frames.
    /// Whatever ends the agent should wait a little longer: Kubernetes does so for 30 seconds, systemd for 90.
    #[arg(long, value_name = "SECONDS", default_value_t = 25, env = "CULVERT_GRACE")]
    grace: u64,
    /// Do not encrypt the tunnel: the token and all traffic can be read on the way. Goes with an `http://` edge.
    #[arg(long, env = "CULVERT_INSECURE_PLAINTEXT", conflicts_with_all = ["edge_ca", "edge_fingerprint"])]
    insecure_plaintext: bool,
    /// The HTTP proxy that leads to the edge (CONNECT), as in `http://proxy:3128` or `http://USER:PASSWORD@proxy:3128`;
    /// `https://` for a proxy behind TLS, and `direct` for none. Unset, `HTTPS_PROXY` is used, as in other programs.
    #[arg(long, value_name = "URL", env = "CULVERT_PROXY", hide_env_values = true)]
    // Read later: what is wrong with it must not be told with the password in it.
    proxy: Option<String>,
    /// To what no proxy is used: names (and all names under them), addresses and CIDRs, or `*`. Unset, `NO_PROXY` is used.
    #[arg(long, value_name = "LIST", env = "CULVERT_NO_PROXY")]
    no_proxy: Option<String>,
    /// What carries the tunnels. With `auto`, a WebSocket is used where something in between lets nothing else through.
    #[arg(long, value_enum, default_value_t, env = "CULVERT_TRANSPORT")]
    transport: Transport,
    /// Where to answer `/livez`, `/readyz` (200 with at least one session, else 503) and `/metrics`, as in
    /// `127.0.0.1:9091`. Unset, nowhere.
    #[arg(long, value_name = "ADDRESS", env = "CULVERT_ADMIN")]
    admin: Option<SocketAddr>,
    /// The Unix socket that `culvert agent status` asks, or `off`. Unset, `culvert/agent-NAMESPACE_NAME.sock` in
    /// `$XDG_RUNTIME_DIR`, else in `/run`, where that can be written.
    #[cfg(unix)]
    #[arg(long, value_name = "FILE", env = "CULVERT_STATUS_SOCKET")]
    status_socket: Option<PathBuf>,
}

#[cfg(unix)]
#[derive(Debug, clap::Subcommand)]
enum Command {
    Status(status::Args),
}

/// What comes from the environment without being a flag.
#[derive(Debug, Default)]
struct Environment {
    token: Option<String>,
    /// What other programs read too.
    https_proxy: Option<String>,
    no_proxy: Option<String>,
}

/// How long a target's name and connection together may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    #[cfg(unix)]
    if let Some(Command::Status(args)) = args.command {
        return status::run(args).await;
    }
    let admin = args.admin;
    #[cfg(unix)]
    let status_socket = args.status_socket.clone();
    let allowed = Allowed::of(&args);
    let config = match config(args, Environment::read()) {
        Ok(config) => config,
        Err(wrong) => {
            eprintln!("culvert: {wrong}");
            return Ok(ExitCode::from(2));
        }
    };
    if config.allow.is_empty() {
        tracing::warn!("nothing is allowed: every link will be refused; give --allow HOST:PORT");
    }
    let (follow, stop) = (allowed.follow(config.allow.clone(), signals::reload()?), signals::stop_token()?);
    #[cfg(unix)]
    let socket = status::bind(status_socket, &config.agent);
    let agent = Agent::new(config);
    if let Some(address) = admin {
        serve_admin(address, agent.status(), stop.clone()).await?;
    }
    // It ends with the agent, not when that begins to stop: until then it can still be asked.
    let ended = CancellationToken::new();
    #[cfg(unix)]
    let answering = socket.map(|socket| tokio::spawn(socket.serve(agent.status(), ended.clone())));
    tokio::select! {
        () = agent.run(stop) => {}
        () = follow => {}
    }
    ended.cancel();
    #[cfg(unix)]
    if let Some(answering) = answering {
        let _ = answering.await;
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve_admin(address: SocketAddr, status: Status, stop: CancellationToken) -> Result<(), Failure> {
    let listener = TcpListener::bind(address).await;
    let listener = listener
        .map_err(|error| format!("cannot listen on {address}: {error}; choose another address with --admin"))?;
    tracing::info!(admin = %listener.local_addr()?, "listening");
    tokio::spawn(status.serve(listener, stop));
    Ok(())
}

/// Checks what clap cannot: flags against each other, and the files that they name. Errors name the flag.
fn config(args: Args, environment: Environment) -> Result<Config, String> {
    if args.edge.is_empty() {
        return Err(
            "--edge is missing: the agent needs to know where the edge is, as in https://edge.example.com:7443".into(),
        );
    }
    let security = security(&args)?;
    let allowed = Allowed::of(&args);
    let proxies = proxies::proxies(&args, &environment)?;
    let Some(agent) = args.agent else {
        return Err("--agent is missing: the agent needs the NAMESPACE/NAME of its TunnelAgent".to_owned());
    };
    let token = match (args.token_file, environment.token) {
        (Some(file), None) => TokenSource::File(file),
        (None, Some(token)) => {
            TokenSource::Given(Token::new(&token).map_err(|error| format!("CULVERT_TOKEN: {error}"))?)
        }
        (Some(_), Some(_)) => return Err("--token-file: CULVERT_TOKEN is set too; give one of them".to_owned()),
        (None, None) => {
            return Err("--token-file is missing: the agent needs a token; `culvert token` makes one".to_owned());
        }
    };
    token.read().map_err(|error| format!("--token-file: {error}"))?;
    let allow = allowed.read()?.into_iter().collect();
    Ok(Config {
        edges: args.edge,
        agent,
        token,
        allow,
        security,
        proxies,
        transport: args.transport,
        connect_timeout: CONNECT_TIMEOUT,
        connections: args.connections,
        grace: Duration::from_secs(args.grace),
    })
}

fn security(args: &Args) -> Result<Security, String> {
    if args.insecure_plaintext {
        return match args.edge.iter().find(|edge| edge.is_encrypted()) {
            Some(edge) => Err(format!("--insecure-plaintext: it needs an http:// edge, {edge} is encrypted")),
            None => Ok(Security::InsecurePlaintext),
        };
    }
    if let Some(edge) = args.edge.iter().find(|edge| !edge.is_encrypted()) {
        return Err(format!("--edge: {edge} is not encrypted; use https://, or allow it with --insecure-plaintext"));
    }
    let (flag, trust) = match &args.edge_ca {
        Some(file) => {
            let pem =
                std::fs::read(file).map_err(|error| format!("--edge-ca: cannot read {}: {error}", file.display()))?;
            (format!("--edge-ca: {}", file.display()), Trust::Authorities(pem))
        }
        None if args.edge_fingerprint.is_empty() => ("--edge-ca is not given".to_owned(), Trust::System),
        None => ("--edge-fingerprint".to_owned(), Trust::Pinned(args.edge_fingerprint.clone())),
    };
    tls::client(&trust).map(Security::Tls).map_err(|error| format!("{flag}: {error}"))
}

fn parse_agent(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((namespace, name)) if is_label(namespace) && is_object(name) => Ok(text.to_owned()),
        _ => Err("it is not NAMESPACE/NAME, as in web/home-lab".to_owned()),
    }
}

// === impl Environment ===

impl Environment {
    fn read() -> Self {
        // Both spellings are in use; the capitals come first, as in Go's programs.
        let either = |name: &str| env::var(name).or_else(|_| env::var(name.to_ascii_lowercase())).ok();
        Self {
            token: env::var("CULVERT_TOKEN").ok(),
            https_proxy: either("HTTPS_PROXY").filter(|proxy| !proxy.is_empty()),
            no_proxy: either("NO_PROXY"),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    const TOKEN: &str = "0123456789abcdef";

    fn parsed(flags: &str) -> Result<Config, String> {
        let command = Command::try_parse_from(["agent"].into_iter().chain(flags.split_whitespace()));
        config(command.map_err(|error| error.to_string())?.args, with_token(TOKEN))
    }

    fn with_token(token: &str) -> Environment {
        Environment { token: Some(token.to_owned()), ..Environment::default() }
    }

    #[test]
    fn several_edges_and_rules_are_taken() {
        let config = parsed(
            "--edge http://a:1,http://b:2 --agent web/lab --allow 127.0.0.1:80 --allow app:1-2,10.0.0.0/8:* \
             --insecure-plaintext",
        )
        .expect("a configuration");
        assert_eq!(config.edges.len(), 2);
        let rules = ["127.0.0.1:80", "app:1-2", "10.0.0.0/8:*"].map(|rule| rule.parse::<AllowRule>().expect(rule));
        assert_eq!(config.allow, rules.into_iter().collect());
        assert!(matches!(config.security, Security::InsecurePlaintext));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_flag() {
        let error = |flags: &str| parsed(flags).expect_err(flags);
        let starts = |flags: &str, start: &str| assert!(error(flags).starts_with(start), "{}", error(flags));
        starts("--edge http://a --agent web/lab", "--edge: http://a:80 is not encrypted");
        starts("--edge https://a --agent web/lab --insecure-plaintext", "--insecure-plaintext: ");
        starts("--edge https://a --agent web/lab --edge-ca /no/such/file", "--edge-ca: cannot read /no/such/file");
        starts("--edge https://a --agent web/lab --edge-ca /dev/null", "--edge-ca: /dev/null: ");
        for (flags, flag) in [
            ("--agent web/lab", "--edge"),
            ("--edge a:1 --agent web/lab", "--edge"),
            ("--edge https://a --agent lab", "--agent"),
            ("--edge https://a --agent web/-lab", "--agent"),
            ("--edge https://a --agent a.b/lab", "--agent"),
            ("--edge https://a --agent web/lab --allow 8080", "--allow"),
            ("--edge https://a --agent web/lab --allow-file /no/such/file", "--allow-file"),
            ("--edge https://a --agent web/lab --edge-fingerprint 00", "--edge-fingerprint"),
        ] {
            assert!(error(flags).contains(flag), "{}", error(flags));
        }
    }

    #[test]
    fn there_is_one_token_and_it_is_not_shown() {
        let args = |flags: &str| {
            let flags = format!("--edge http://a --insecure-plaintext --agent web/lab {flags}");
            Command::try_parse_from(["agent"].into_iter().chain(flags.split_whitespace())).expect("flags").args
        };
        assert!(config(args(""), Environment::default()).expect_err("no token").starts_with("--token-file is missing"));
        let error = config(args("--token-file /no/such/file"), Environment::default()).expect_err("no file");
        assert!(error.starts_with("--token-file: cannot read /no/such/file"), "{error}");
        assert!(config(args("--token-file /dev/null"), with_token(TOKEN)).is_err());
        let error = config(args(""), with_token("se cret")).expect_err("no token");
        assert!(error.starts_with("CULVERT_TOKEN: ") && !error.contains("cret"), "{error}");
    }
}
