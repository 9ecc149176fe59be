use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    EdgeUrl,
    http_proxy::{self, Proxies},
    plan::Lane,
    transport::{Choice, Doubt, Way},
};
use crate::tunnel::{
    Role,
    registration::{Carrier, Registration, Token, register_over},
    target::authority,
    websocket::WebSocket,
};

mod connect;
mod error;

pub(super) use self::error::DialError;

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
    pub(super) proxies: Proxies,
    pub(super) choice: Choice,
    pub(super) token: TokenSource,
    /// `namespace/name`.
    pub(super) agent: String,
    pub(super) instance: String,
    /// How many sessions to ask each replica for.
    pub(super) slots: u32,
}

/// A connection that the edge has taken in.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) io: Io,
    /// What the edge has sent already of its session.
    pub(super) early: Bytes,
    pub(super) replica: String,
    /// Which of the sessions with that replica it is, from 0.
    pub(super) slot: u32,
    /// Who is at the other end of the connection: the edge, or a proxy.
    pub(super) address: SocketAddr,
    /// What carries the session, in the words of the edge's status.
    pub(super) transport: &'static str,
    /// The proxy in between.
    pub(super) proxy: Option<String>,
}

/// A connection. The usual ones are told apart, since every byte goes through them.
#[derive(Debug)]
pub(super) enum Io {
    Tls(Box<TlsStream<TcpStream>>),
    Plaintext(TcpStream),
    /// In a WebSocket, or inside the TLS of a proxy.
    Other(Box<dyn Duplex>),
}

/// Whatever bytes go through.
pub(super) trait Duplex: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin {}

/// Whom one dial is to.
struct Destination<'a> {
    host: &'a str,
    port: u16,
    /// Who it has to prove to be.
    edge: &'a EdgeUrl,
}

/// For name, connection, TLS and registration together; what the bridge allows too.
const TIMEOUT: Duration = Duration::from_secs(10);

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
    /// Dials, and names the slots of the replicas that are `met`. Whatever the lane's address is, it has to prove that it is the
    /// edge: all replicas show one certificate. Where something in between seems to let no registration through, the same is
    /// tried in a WebSocket. Tells `reached` once the address has taken the connection.
    pub(super) async fn dial(
        &self,
        lane: &Lane,
        edge: &EdgeUrl,
        met: BTreeMap<String, BTreeSet<u32>>,
        reached: impl Fn(),
    ) -> Result<Dialled, DialError> {
        let registration = Registration {
            agent: self.agent.clone(),
            token: self.token.read().map_err(DialError::Token)?,
            instance: self.instance.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            slots: self.slots,
            met,
        };
        let destination = match lane {
            Lane::Edge => Destination { host: edge.host(), port: edge.port(), edge },
            Lane::Replica { address, .. } => Destination::parse(address, edge)?,
        };
        let first = self.choice.first(Instant::now());
        let error = match self.try_way(first, &destination, &registration, &reached).await {
            Err(error) if !error.is_of_edge() || first == Way::Direct => error,
            result => return result,
        };
        let now = Instant::now();
        if first == Way::WebSocket {
            self.choice.websocket_failed();
            return Err(error);
        }
        if !self.choice.direct_failed(error.doubt(), now) {
            return Err(error);
        }
        tracing::debug!(edge = %edge, "trying a WebSocket, since something in between may be in the way: {error}");
        match self.try_way(Way::WebSocket, &destination, &registration, &reached).await {
            Err(websocket) if !websocket.is_of_edge() => {
                Err(DialError::Neither { direct: error.into(), websocket: websocket.into() })
            }
            // Even if it is a refusal, it is the edge's own.
            result => {
                tracing::warn!(edge = %edge, "the edge is reached in a WebSocket only; otherwise: {error}");
                result
            }
        }
    }

    /// Dials one way, and remembers if the edge was there.
    async fn try_way(
        &self,
        way: Way,
        destination: &Destination<'_>,
        registration: &Registration,
        reached: &impl Fn(),
    ) -> Result<Dialled, DialError> {
        let result = self.dial_once(way, destination, registration, reached).await;
        let is_reached =
            result.as_ref().map_or_else(|error| error.is_of_edge() && error.doubt() == Doubt::None, |_| true);
        if is_reached {
            self.choice.reached(way, Instant::now());
        }
        result
    }

    async fn dial_once(
        &self,
        way: Way,
        destination: &Destination<'_>,
        registration: &Registration,
        reached: &impl Fn(),
    ) -> Result<Dialled, DialError> {
        let deadline = Instant::now() + TIMEOUT;
        let connected = timeout_at(deadline, self.connect(destination, reached)).await;
        let Connected { mut io, address, proxy } = connected.unwrap_or(Err(DialError::Timeout))?;
        let (carrier, transport) = match (way, &self.security) {
            (Way::Direct, Security::Tls(_)) => (Carrier::Direct, "tls"),
            (Way::Direct, Security::InsecurePlaintext) => (Carrier::Direct, "plaintext"),
            (Way::WebSocket, Security::Tls(_)) => (Carrier::websocket(), "websocket"),
            (Way::WebSocket, Security::InsecurePlaintext) => (Carrier::websocket(), "plaintext-websocket"),
        };
        let host = destination.edge.authority();
        let mut stream = io.get_mut();
        let registered = timeout_at(deadline, register_over(&mut stream, &host, registration, &carrier)).await;
        let registered = registered.map_err(|_| DialError::Unanswered)?;
        let registered = registered.map_err(DialError::Register)?;
        let (mut io, early) = match way {
            Way::Direct => (io, registered.early),
            Way::WebSocket => {
                let websocket = WebSocket::start(Role::Agent, io.into_boxed(), registered.early).await;
                (Io::Other(Box::new(websocket)), Bytes::new())
            }
        };
        // The edge speaks first: what it says proves that frames come through.
        let early = timeout_at(deadline, first_words(&mut io.get_mut(), early)).await;
        let early = early.unwrap_or(Err(DialError::Silent))?;
        let (replica, slot) = (registered.replica, registered.slot);
        Ok(Dialled { io, early, replica, slot, address, transport, proxy })
    }

    /// Connects, through a proxy where one leads there, and makes TLS with the edge.
    async fn connect(&self, destination: &Destination<'_>, reached: &impl Fn()) -> Result<Connected, DialError> {
        let &Destination { host, port, .. } = destination;
        let Some(proxy) = self.proxies.leading_to(host, port) else {
            let tcp = connect::connect(host, port).await?;
            reached();
            let address = tcp.peer_addr().map_err(DialError::Connect)?;
            return Ok(Connected { io: self.secure(tcp, destination).await?, address, proxy: None });
        };
        let dial = async |host: String, port| connect::connect(&host, port).await.map_err(connect::Error::into_io);
        let through = http_proxy::connect(proxy, &destination.authority(), dial).await.map_err(DialError::Proxy)?;
        reached();
        let proxy = Some(proxy.to_string());
        Ok(match through {
            http_proxy::Connected::Plain(tcp) => {
                let address = tcp.peer_addr().map_err(DialError::Connect)?;
                Connected { io: self.secure(tcp, destination).await?, address, proxy }
            }
            http_proxy::Connected::Encrypted(tls) => {
                let address = tls.get_ref().0.peer_addr().map_err(DialError::Connect)?;
                let io = match self.client(destination)? {
                    Some((connector, name)) => Box::new(connector.connect(name, tls).await.map_err(DialError::Tls)?),
                    None => tls as Box<dyn Duplex>,
                };
                Connected { io: Io::Other(io), address, proxy }
            }
        })
    }

    /// What makes TLS with the edge, where there is to be any.
    fn client(&self, destination: &Destination<'_>) -> Result<Option<(TlsConnector, ServerName<'static>)>, DialError> {
        match (&self.security, destination.server_name()) {
            (Security::InsecurePlaintext, _) => Ok(None),
            (Security::Tls(config), Some(name)) => Ok(Some((config.clone().into(), name))),
            (Security::Tls(_), None) => Err(DialError::Tls(std::io::ErrorKind::InvalidInput.into())),
        }
    }

    async fn secure(&self, tcp: TcpStream, destination: &Destination<'_>) -> Result<Io, DialError> {
        Ok(match self.client(destination)? {
            Some((connector, name)) => Io::Tls(Box::new(connector.connect(name, tcp).await.map_err(DialError::Tls)?)),
            None => Io::Plaintext(tcp),
        })
    }
}

/// A connection that is not registered yet.
struct Connected {
    io: Io,
    address: SocketAddr,
    proxy: Option<String>,
}

/// What the edge says first, if it was not read already.
async fn first_words<T: AsyncRead + Unpin>(io: &mut T, early: Bytes) -> Result<Bytes, DialError> {
    if !early.is_empty() {
        return Ok(early);
    }
    let mut early = BytesMut::with_capacity(1024);
    match io.read_buf(&mut early).await {
        Ok(0) | Err(_) => Err(DialError::Cut),
        Ok(_) => Ok(early.freeze()),
    }
}

// === impl Io ===

impl Io {
    fn get_mut(&mut self) -> &mut dyn Duplex {
        match self {
            Self::Tls(io) => io,
            Self::Plaintext(io) => io,
            Self::Other(io) => io,
        }
    }

    fn into_boxed(self) -> Box<dyn Duplex> {
        match self {
            Self::Tls(io) => io,
            Self::Plaintext(io) => Box::new(io),
            Self::Other(io) => io,
        }
    }
}

impl<T: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin> Duplex for T {}

// === impl Destination ===

impl<'a> Destination<'a> {
    /// `host:port`, as a replica says where it is.
    fn parse(address: &'a str, edge: &'a EdgeUrl) -> Result<Self, DialError> {
        let parsed = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let malformed = || std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not of the form HOST:PORT");
        let (host, port) = parsed.ok_or_else(|| DialError::Resolve(malformed()))?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Ok(Self { host, port, edge })
    }

    /// What is asked for, and must be in the certificate where names count: a replica's own name, by which a router may
    /// have to find it, or where it has none that of the edge.
    fn server_name(&self) -> Option<ServerName<'static>> {
        let own = ServerName::try_from(self.host.to_owned()).ok();
        own.filter(|name| matches!(name, ServerName::DnsName(_))).or_else(|| self.edge.server_name())
    }

    fn authority(&self) -> String {
        authority(self.host, self.port)
    }
}

// === impl DialError ===

impl From<connect::Error> for DialError {
    fn from(error: connect::Error) -> Self {
        match error {
            connect::Error::Resolve(error) => Self::Resolve(error),
            connect::Error::Connect(error) => Self::Connect(error),
        }
    }
}
