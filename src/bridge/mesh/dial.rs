use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use rustls_pki_types::ServerName;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

use super::{MeshPeer, Shared};
use crate::{
    bridge::{AgentSession, connection::links_end as links_end_in, registry::Neighbour},
    routing::ObjectName,
    tunnel::{self, IncomingEvent, Note, Role, Session, socket},
};

/// For connection and TLS together.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The pauses between dials that come to nothing grow from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

// === impl Shared ===

impl Shared {
    /// Holds a session with each of the peers until `stop`.
    pub(super) async fn dial(self: &Arc<Self>, stop: &CancellationToken) {
        let mut peers = self.peers.clone();
        let mut dialled = HashMap::<MeshPeer, CancellationToken>::new();
        loop {
            let now = peers.borrow_and_update().clone();
            dialled.retain(|peer, gone| {
                let stays = now.contains(peer);
                if !stays {
                    gone.cancel();
                }
                stays
            });
            for peer in now.iter() {
                dialled.entry(peer.clone()).or_insert_with(|| {
                    let gone = CancellationToken::new();
                    self.tasks.spawn(self.clone().hold(peer.clone(), gone.clone(), stop.clone()));
                    gone
                });
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = peers.changed() => if changed.is_err() {
                    return stop.cancelled().await;
                }
            }
        }
    }

    /// Holds a session with one peer, until it is `gone` from the set and the session has ended.
    async fn hold(self: Arc<Self>, peer: MeshPeer, gone: CancellationToken, stop: CancellationToken) {
        let mut pause = PAUSES.0;
        let mut complaint = String::new();
        let ends = async || {
            tokio::select! {
                () = gone.cancelled() => {}
                () = stop.cancelled() => {}
            }
        };
        loop {
            let connected = tokio::select! {
                connected = timeout(TIMEOUT, self.connect(&peer)) => connected,
                () = ends() => return,
            };
            match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok((tls, address)) => {
                    (pause, complaint) = (PAUSES.0, String::new());
                    self.listen_to(&peer, tls, address, &stop).await;
                }
                Err(error) => {
                    let error = error.to_string();
                    if error != complaint {
                        tracing::warn!(replica = peer.id, address = peer.address, "cannot reach the replica: {error}");
                        complaint = error;
                    }
                }
            }
            tokio::select! {
                () = sleep(pause.mul_f64(rand::random_range(0.5..1.0))) => {}
                () = ends() => return,
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn connect(&self, peer: &MeshPeer) -> io::Result<(TlsStream<TcpStream>, SocketAddr)> {
        let name = ServerName::try_from(peer.id.clone()).map_err(io::Error::other)?;
        let tcp = TcpStream::connect(&peer.address).await?;
        // Options only make it faster; a connection that is gone already is noticed soon enough.
        let _ = socket::configure(&tcp);
        let address = tcp.peer_addr()?;
        Ok((TlsConnector::from(self.identity.client()).connect(name, tcp).await?, address))
    }

    /// Follows a neighbour until its session is over. Links are opened on it by those who choose it in the registry.
    async fn listen_to(
        &self,
        peer: &MeshPeer,
        tls: TlsStream<TcpStream>,
        address: SocketAddr,
        stop: &CancellationToken,
    ) {
        let (session, mut incoming, driver) = Session::start(Role::Edge, tls, Bytes::new(), tunnel::Config::default());
        let driver = tokio::spawn(driver);
        let id = self.registry.next_id();
        let neighbour = Neighbour { replica: peer.id.as_str().into(), address, session: session.clone(), id };
        tracing::info!(replica = peer.id, %address, "connected to the replica");
        self.metrics.neighbours.inc();
        self.dialled().insert(id, session.clone());
        // Once it leaves: when the links by it have to be asked to end, and those who hold them.
        let mut leaves = None;
        loop {
            let links_end = leaves.as_ref().map(|(at, _)| *at);
            tokio::select! {
                () = sleep_until(links_end.unwrap_or_else(Instant::now)), if links_end.is_some() => {
                    for way in leaves.take().into_iter().flat_map(|(_, ways): (_, Vec<Arc<AgentSession>>)| ways) {
                        way.ending().ask();
                    }
                }
                event = incoming.next() => match event {
                    Some(IncomingEvent::Note(Note::Agents { held, gone })) => {
                        self.registry.heard(&neighbour, names(&held), &names(&gone));
                    }
                    Some(IncomingEvent::Note(Note::Drain { seconds })) => {
                        leaves = Some((links_end_in(seconds), self.registry.forget(&neighbour)));
                    }
                    // Others have no meaning here.
                    Some(IncomingEvent::Note(_) | IncomingEvent::Open(_)) => {}
                    None => break,
                },
                () = stop.cancelled() => {
                    self.finish(&session).await;
                    break;
                }
            }
        }
        self.registry.forget(&neighbour);
        self.dialled().remove(&id);
        self.metrics.neighbours.dec();
        if let Ok(reason) = driver.await {
            tracing::info!(replica = peer.id, "the session with the replica is over: {reason}");
        }
    }
}

/// Those that are names.
fn names(texts: &[String]) -> Vec<ObjectName> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}
