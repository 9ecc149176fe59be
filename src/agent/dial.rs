use std::{fmt, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    net::{TcpStream, lookup_host},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    EdgeUrl,
    backoff::Failure,
    plan::{Dial, Lane},
};
use crate::tunnel::{
    registration::{self, RegisterError, Registration, Rejection, Token},
    socket,
};

/// How the connection to the edge is protected.
#[derive(Clone, Debug)]
pub enum Security {
    /// By TLS, as in [`crate::tunnel::tls::client`].
    Tls(Arc<ClientConfig>),
    /// Not at all: the token and all traffic can be read on the way. Only where the operator asked for it.
    InsecurePlaintext,
}

/// Where the token comes from.
#[derive(Clone, Debug)]
pub enum TokenSource {
    /// A file that is read at each dial, so that a rotated token is used without a restart.
    File(PathBuf),
    /// The token itself.
    Given(Token),
}

/// Dials the edge and registers.
#[derive(Debug)]
pub(super) struct Dialler {
    pub(super) security: Security,
    pub(super) token: TokenSource,
    /// `namespace/name`.
    pub(super) agent: String,
    pub(super) instance: String,
}

/// A connection that the edge has taken in.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) io: Io,
    /// What was read behind the registration.
    pub(super) early: Bytes,
    pub(super) replica: String,
    pub(super) address: SocketAddr,
}

#[derive(Debug)]
pub(super) enum Io {
    Tls(Box<TlsStream<TcpStream>>),
    Plaintext(TcpStream),
}

/// Why a dial came to nothing.
#[derive(Debug)]
pub(super) enum DialError {
    /// The token file cannot be read, or holds none.
    Token(String),
    /// The edge's name has no address.
    Resolve(io::Error),
    Connect(io::Error),
    Tls(io::Error),
    Register(RegisterError),
    Timeout,
}

// === impl TokenSource ===

impl TokenSource {
    /// The token as it is now.
    ///
    /// # Errors
    /// Says what is wrong with the file, without anything of what is in it.
    pub fn read(&self) -> Result<Token, String> {
        match self {
            Self::Given(token) => Ok(token.clone()),
            Self::File(path) => {
                let shown = path.display();
                let text = std::fs::read(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
                let text = String::from_utf8(text).map_err(|_| format!("{shown} is not text"))?;
                Token::new(&text).map_err(|error| format!("{shown}: {error}"))
            }
        }
    }
}

// === impl Dialler ===

impl Dialler {
    /// For name, connection, TLS and registration together; what the bridge allows too.
    const TIMEOUT: Duration = Duration::from_secs(10);

    /// Dials. Whatever the lane's address is, it has to prove that it is the edge: all replicas show one certificate.
    pub(super) async fn dial(&self, dial: &Dial, edge: &EdgeUrl, met: Vec<String>) -> Result<Dialled, DialError> {
        let dialled = timeout(Self::TIMEOUT, async {
            let token = self.token.read().map_err(DialError::Token)?;
            let addresses: Vec<SocketAddr> = match &dial.lane {
                Lane::Edge => lookup_host((edge.host(), edge.port())).await.map_err(DialError::Resolve)?.collect(),
                Lane::Replica { address, .. } => {
                    lookup_host(address.as_str()).await.map_err(DialError::Resolve)?.collect()
                }
            };
            let tcp = connect(&addresses).await.map_err(DialError::Connect)?;
            // Options only make it faster; a connection that is gone already is noticed soon enough.
            let _ = socket::configure(&tcp);
            let address = tcp.peer_addr().map_err(DialError::Connect)?;
            let registration = Registration {
                agent: self.agent.clone(),
                token,
                instance: self.instance.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                slot: dial.slot,
                met: sendable(met),
            };
            let host = edge.authority();
            let (io, registered) = match (&self.security, server_name(&dial.lane, edge)) {
                (Security::Tls(config), Some(name)) => {
                    let connector = TlsConnector::from(config.clone());
                    let mut tls = connector.connect(name, tcp).await.map_err(DialError::Tls)?;
                    let registered = registration::register(&mut tls, &host, &registration).await;
                    (Io::Tls(Box::new(tls)), registered)
                }
                (Security::Tls(_), None) => return Err(DialError::Tls(io::ErrorKind::InvalidInput.into())),
                (Security::InsecurePlaintext, _) => {
                    let mut tcp = tcp;
                    let registered = registration::register(&mut tcp, &host, &registration).await;
                    (Io::Plaintext(tcp), registered)
                }
            };
            let registered = registered.map_err(DialError::Register)?;
            Ok(Dialled { io, early: registered.early, replica: registered.replica, address })
        });
        dialled.await.unwrap_or(Err(DialError::Timeout))
    }
}

/// What is asked for, and must be in the certificate where names count: the name of the replica, by which a router may
/// have to find it, or where it has none that of the edge.
fn server_name(lane: &Lane, edge: &EdgeUrl) -> Option<ServerName<'static>> {
    let own = match lane {
        Lane::Edge => None,
        Lane::Replica { address, .. } => address.rsplit_once(':').and_then(|(host, _)| host.to_owned().try_into().ok()),
    };
    own.filter(|name| matches!(name, ServerName::DnsName(_))).or_else(|| edge.server_name())
}

/// As many of the replicas as the header may hold. Who meets more than these is led to some of them once more.
fn sendable(mut met: Vec<String>) -> Vec<String> {
    const MAX_HEADER: usize = 1024;
    let mut length = 0;
    met.retain(|id| {
        length += id.len() + 1;
        length <= MAX_HEADER
    });
    met
}

/// Connects to the first of the addresses that answers. While none does, another attempt is begun again and again: the
/// kernel repeats a lost SYN later and later, and an edge that comes back should not have to wait for that.
async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    const ANOTHER_ADDRESS: Duration = Duration::from_millis(300);
    const SAME_ADDRESS: Duration = Duration::from_millis(900);
    const ATTEMPTS: usize = 8;

    let mut attempts = JoinSet::new();
    let mut started = 0;
    let mut next = Instant::now();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    if addresses.is_empty() {
        return Err(last);
    }
    loop {
        tokio::select! {
            () = sleep_until(next), if started < ATTEMPTS.max(addresses.len()) => {
                attempts.spawn(TcpStream::connect(addresses[started % addresses.len()]));
                started += 1;
                next += if started < addresses.len() { ANOTHER_ADDRESS } else { SAME_ADDRESS };
            }
            Some(attempt) = attempts.join_next() => match attempt {
                Ok(Ok(stream)) => return Ok(stream),
                failed => {
                    last = failed.unwrap_or_else(|error| Err(error.into())).err().unwrap_or(last);
                    if started < addresses.len() {
                        next = Instant::now();
                    } else if attempts.is_empty() {
                        return Err(last);
                    }
                }
            },
            else => return Err(last),
        }
    }
}

// === impl DialError ===

impl DialError {
    /// How soon to try again.
    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::Token(_) => Failure::Lasting,
            Self::Tls(error) if is_distrust(error) => Failure::Lasting,
            Self::Register(RegisterError::Rejected(rejection)) => match rejection.status {
                StatusCode::CONFLICT => Failure::Met,
                // A balancer whose edge is away answers with these.
                status if status.is_server_error() => Failure::Transient,
                StatusCode::TOO_MANY_REQUESTS => Failure::Transient,
                _ => Failure::Lasting,
            },
            Self::Resolve(_) | Self::Connect(_) | Self::Tls(_) | Self::Register(_) | Self::Timeout => {
                Failure::Transient
            }
        }
    }

    /// The least time to wait, where the edge asked for it: at most a minute.
    pub(super) fn retry_after(&self) -> Duration {
        match self {
            Self::Register(RegisterError::Rejected(Rejection { retry_after: Some(time), .. })) => {
                (*time).min(Duration::from_mins(1))
            }
            _ => Duration::ZERO,
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(why) => write!(f, "there is no token to register with: {why}"),
            Self::Resolve(error) => write!(f, "cannot resolve its name: {error}"),
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Tls(error) if is_distrust(error) => {
                write!(f, "its certificate is not trusted ({error}); check --edge-fingerprint or --edge-ca")
            }
            Self::Tls(error) => write!(f, "no TLS with it: {error}"),
            Self::Register(RegisterError::Rejected(rejection)) => {
                write!(f, "{rejection}")?;
                match rejection.status {
                    StatusCode::UNAUTHORIZED => f.write_str("; check --agent and --token-file"),
                    StatusCode::FORBIDDEN => f.write_str("; ask those who run the edge"),
                    StatusCode::NOT_FOUND => f.write_str("; check --edge: the bridge's port is meant"),
                    StatusCode::UPGRADE_REQUIRED => {
                        let spoken = rejection.spoken.as_deref().unwrap_or("something else");
                        let own = registration::PROTOCOL;
                        write!(f, "; this agent speaks {own}, the edge {spoken}: install the version that fits")
                    }
                    _ => Ok(()),
                }
            }
            Self::Register(error) => write!(f, "{error}"),
            Self::Timeout => write!(f, "it did not answer within {} s", Dialler::TIMEOUT.as_secs()),
        }
    }
}

/// Whether the TLS handshake failed because of who the edge is: dialling again soon would not help.
fn is_distrust(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(error, Some(rustls::Error::InvalidCertificate(_)))
}
