use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{Shared, relay::relay};
use crate::{
    routing::ObjectName,
    tunnel::{
        self, Incoming, IncomingEvent, Link, LinkError, Note, Open, Opening, RefuseCode, Role, Session,
        accept::AcceptErrors, socket,
    },
};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Agents that come and go within so long are told of at once.
const GATHER: Duration = Duration::from_millis(10);
/// How much of names goes into one note, in bytes: a note is at most 16 KiB.
const NOTE: usize = 12 * 1024;
/// How many sessions of an agent are tried where they end at that moment.
const ATTEMPTS: usize = 3;

// === impl Shared ===

impl Shared {
    /// Takes the other replicas in until `stop`.
    pub(super) async fn accept(self: &Arc<Self>, listener: TcpListener, stop: &CancellationToken) {
        let mut errors = AcceptErrors::new("replicas");
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((tcp, source)) => {
                    self.tasks.spawn(self.clone().connection(tcp, source, stop.clone()));
                }
                Err(error) => errors.pause(&error).await,
            }
        }
    }

    async fn connection(self: Arc<Self>, tcp: TcpStream, source: SocketAddr, stop: CancellationToken) {
        // Options only make it faster; a connection that is gone already is noticed soon enough.
        let _ = socket::configure(&tcp);
        let handshake = timeout(HANDSHAKE, TlsAcceptor::from(self.identity.server()).accept(tcp));
        let handshake = tokio::select! {
            handshake = handshake => handshake,
            () = stop.cancelled() => return,
        };
        let tls = match handshake {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => return tracing::warn!(%source, "a connection to the mesh was no replica's: {error}"),
            Err(_) => return tracing::debug!(%source, "a connection to the mesh was silent"),
        };
        let (session, incoming, driver) = Session::start(Role::Agent, tls, Bytes::new(), tunnel::Config::default());
        let driver = tokio::spawn(driver);
        tokio::select! {
            () = self.clone().take_links(incoming) => {}
            () = self.tell(&session) => {}
            () = stop.cancelled() => self.finish(&session).await,
        }
        session.finish();
        let _ = driver.await;
    }

    /// Tells a neighbour all that it has to know, until its session is over.
    async fn tell(&self, session: &Session) {
        let mut leaves = self.leaves.subscribe();
        let links = tokio::select! {
            () = self.announce(session) => return,
            Ok(links) = leaves.wait_for(Option::is_some) => *links,
        };
        let seconds = links.and_then(|links| u32::try_from(links.as_secs()).ok());
        let _ = session.note(&Note::Drain { seconds });
        std::future::pending::<()>().await;
    }

    /// Tells a neighbour which agents are held here, and whenever that changes, until its session is over.
    async fn announce(&self, session: &Session) {
        let mut sessions = self.registry.watch();
        let mut told = BTreeSet::new();
        loop {
            sessions.mark_unchanged();
            let held = self.registry.held();
            for note in changes(&told, &held) {
                if session.note(&note).is_err() {
                    return;
                }
                sleep(GATHER).await;
            }
            told = held;
            if sessions.changed().await.is_err() {
                return;
            }
        }
    }

    async fn take_links(self: Arc<Self>, mut incoming: Incoming) {
        while let Some(event) = incoming.next().await {
            if let IncomingEvent::Open(opening) = event {
                tokio::spawn(self.clone().link(opening));
            }
        }
    }

    /// Opens a neighbour's link by a session of this replica, and copies until both have ended.
    async fn link(self: Arc<Self>, opening: Opening) {
        // Boxed, so that what is needed for opening is freed before the link's long life begins.
        let opened = Box::pin(self.open(&opening.request)).await;
        self.metrics.link(opened.is_ok());
        drop(self);
        match opened {
            Ok(link) => relay(opening.accept(), link).await,
            Err((code, text)) => {
                tracing::debug!(
                    tunnel_host = opening.request.tunnel_host,
                    ?code,
                    "a replica's link is refused: {text}"
                );
                opening.refuse(code, &text);
            }
        }
    }

    async fn open(&self, request: &Open) -> Result<Link, (RefuseCode, Arc<str>)> {
        let malformed = || (RefuseCode::Internal, Arc::from("it names no agent or no TunnelHost"));
        let agent: ObjectName = request.agent.as_deref().and_then(|name| name.parse().ok()).ok_or_else(malformed)?;
        let host: ObjectName = request.tunnel_host.parse().map_err(|_| malformed())?;
        if !self.routes.have(&(host, agent.clone(), request.target.clone())).await {
            return Err((RefuseCode::Internal, "the replica that has the agent has no such route".into()));
        }
        let open = Open { agent: None, ..request.clone() };
        let mut tried = Vec::new();
        for _ in 0..ATTEMPTS {
            let Some(session) = self.registry.choose_own(&agent, |session| !tried.contains(&session.id)) else { break };
            tried.push(session.id);
            let Ok(mut link) = session.open(&open) else { continue };
            match link.opened().await {
                Ok(()) => return Ok(link),
                Err(LinkError::Refused { code, text }) => return Err((code, text)),
                Err(LinkError::SessionLost) => {}
                Err(error @ LinkError::Reset(_)) => return Err((RefuseCode::Internal, error.to_string().into())),
            }
        }
        Err((RefuseCode::Draining, "the agent has just left the replica that had it".into()))
    }
}

/// What to say of the difference, in notes that are not too long.
fn changes(told: &BTreeSet<ObjectName>, held: &BTreeSet<ObjectName>) -> Vec<Note> {
    let named = |names: Vec<&ObjectName>| names.into_iter().map(ToString::to_string).collect::<Vec<_>>();
    let (new, gone) = (named(held.difference(told).collect()), named(told.difference(held).collect()));
    let new = pieces(new).into_iter().map(|held| Note::Agents { held, gone: Vec::new() });
    let gone = pieces(gone).into_iter().map(|gone| Note::Agents { held: Vec::new(), gone });
    new.chain(gone).collect()
}

fn pieces(names: Vec<String>) -> Vec<Vec<String>> {
    let mut pieces: Vec<Vec<String>> = Vec::new();
    let mut length = NOTE;
    for name in names {
        // With its quotes and its comma.
        length += name.len() + 3;
        match pieces.last_mut() {
            Some(piece) if length <= NOTE => piece.push(name),
            _ => {
                length = name.len() + 3;
                pieces.push(vec![name]);
            }
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_agents_take_several_notes_and_nothing_new_takes_none() {
        let names = |range: std::ops::Range<u32>| {
            range.map(|n| ObjectName::new("web", &*format!("agent-{n:060}"))).collect::<BTreeSet<_>>()
        };
        let notes = changes(&names(0..10), &names(5..2_000));
        let (mut all_held, mut all_gone) = (0, 0);
        for note in &notes {
            let Note::Agents { held, gone } = note else { panic!("{note:?}") };
            assert!(held.iter().chain(gone).map(|name| name.len() + 3).sum::<usize>() <= NOTE);
            all_held += held.len();
            all_gone += gone.len();
        }
        assert_eq!((all_held, all_gone), (1_990, 5));
        assert!(notes.len() < 16, "{}", notes.len());
        assert!(changes(&names(0..10), &names(0..10)).is_empty());
    }
}
