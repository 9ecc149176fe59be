use std::{future, pin::Pin, sync::Arc, task::Poll, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    AllowList,
    backend::{self, Refusal},
    dial::{Dialled, Io},
    health::Checker,
    links::{Links, Listed, Waiting},
    relay::Relay,
    status::{About, Status},
};
use crate::tunnel::{
    self, CloseReason, Driver, Incoming, IncomingEvent, Note, Open, Opening, RefuseCode, Replica, Role, Session,
};

/// What the sessions of an agent share.
#[derive(Debug)]
pub(super) struct Serve {
    pub(super) allow: AllowList,
    /// Runs the checks that edges ask for.
    pub(super) checker: Checker,
    pub(super) links: Links,
    /// For a target's name and connection together.
    pub(super) connect_timeout: Duration,
    /// How long links may go on after `stop`.
    pub(super) grace: Duration,
    pub(super) stop: CancellationToken,
    pub(super) status: Status,
    /// Takes what the edge says of its replicas.
    pub(super) news: mpsc::Sender<News>,
}

/// What a session has heard of the edge's replicas.
#[derive(Debug)]
pub(super) enum News {
    /// All that the one with which the session of this number is knows of.
    Replicas(u64, Vec<Replica>),
    /// The one with which the session of this number is stops.
    Leaving(u64),
}

/// How long a session without links is kept for an edge that was told that this agent leaves, and does not end it. For the edge,
/// a WebSocket may take two seconds longer than for the backend.
const UNUSED: Duration = Duration::from_secs(3);

// === impl Serve ===

impl Serve {
    /// Serves one session, `serial` in the plan, until it is over. After `stop` it takes no more links, waits for those that it
    /// has, at most for the grace, and ends.
    pub(super) async fn session(self: Arc<Self>, serial: u64, dialled: Dialled) -> CloseReason {
        let Dialled { io, early, replica, address, transport, proxy, .. } = dialled;
        let about = About { replica, address, transport, proxy };
        let config = tunnel::Config::default();
        match io {
            Io::Tls(io) => self.start(serial, about, Session::start(Role::Agent, *io, early, config)).await,
            Io::Plaintext(io) => self.start(serial, about, Session::start(Role::Agent, io, early, config)).await,
            Io::Other(io) => self.start(serial, about, Session::start(Role::Agent, io, early, config)).await,
        }
    }

    async fn start<T>(
        self: Arc<Self>,
        serial: u64,
        about: About,
        (session, incoming, driver): (Session, Incoming, Driver<T>),
    ) -> CloseReason
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let _listed = self.status.connected(about, &session);
        // A task of its own, so that what wakes it for every byte wakes nothing else.
        let driver = tokio::spawn(driver);
        self.serve(serial, &session, incoming).await;
        self.checker.left(serial);
        // The last of the links may still have something on its way.
        session.finish();
        // It fails only with the runtime.
        driver.await.unwrap_or(CloseReason::Closed)
    }

    async fn serve(self: &Arc<Self>, serial: u64, session: &Session, mut incoming: Incoming) {
        loop {
            tokio::select! {
                event = incoming.next() => match event {
                    Some(IncomingEvent::Open(opening)) => {
                        self.open(opening);
                    }
                    Some(IncomingEvent::Note(Note::Welcome { replicas, .. } | Note::Replicas { replicas })) => {
                        let _ = self.news.send(News::Replicas(serial, replicas)).await;
                    }
                    Some(IncomingEvent::Note(Note::Checks { start, stop })) => {
                        self.checker.ordered(serial, session, start, &stop);
                    }
                    // Its links go on here; for the next ones there should be another session before this one ends.
                    Some(IncomingEvent::Note(Note::Drain { .. })) => {
                        let _ = self.news.send(News::Leaving(serial)).await;
                    }
                    // What agents tell edges, and replicas each other, has no meaning from one.
                    Some(IncomingEvent::Note(Note::Health { .. } | Note::Agents { .. })) => {}
                    None => return,
                },
                () = self.stop.cancelled() => break,
            }
        }
        self.leave(session, incoming).await;
    }

    /// Serves a link by a task of its own, unless too many wait for their targets already, or for this one.
    fn open(self: &Arc<Self>, opening: Opening) {
        match self.links.connecting(&opening.request.target) {
            Ok(place) => drop(tokio::spawn(link(opening, self.clone(), place))),
            Err(text) => opening.refuse(RefuseCode::Overloaded, &text),
        }
    }

    /// Takes no more links, and waits until those that there are have ended.
    async fn leave(&self, session: &Session, mut incoming: Incoming) {
        let seconds = u32::try_from(self.grace.as_secs()).ok();
        let _ = session.note(&Note::Drain { seconds });
        let now = Instant::now();
        let (end, mut used) = (now + self.grace, now);
        // The edge ends a session that drains with its last link, since only it knows that no other is on its way.
        while Instant::now() < end && used.elapsed() < UNUSED {
            // Links tell nobody that they end, and this is once in the life of a process.
            let look_again = (Instant::now() + Duration::from_millis(20)).min(end);
            if session.links() > 0 {
                used = Instant::now();
            }
            tokio::select! {
                event = incoming.next() => match event {
                    Some(IncomingEvent::Open(opening)) => opening.refuse(RefuseCode::Draining, "the agent is stopping"),
                    Some(IncomingEvent::Note(_)) => {}
                    None => return,
                },
                () = sleep_until(look_again) => {}
            }
        }
    }
}

/// Connects a link to its target and copies until it is over.
async fn link(opening: Opening, serve: Arc<Serve>, place: Waiting) {
    // Boxed, so that what is needed for connecting is freed before the link's long life begins.
    let connected = Box::pin(connect(&opening, &serve)).await;
    drop(place);
    let (backend, listed) = match connected {
        Ok(connected) => connected,
        Err(refusal) => {
            let tunnel_host = &opening.request.tunnel_host;
            tracing::debug!(tunnel_host, code = ?refusal.code, "link refused: {}", refusal.text);
            return opening.refuse(refusal.code, &refusal.text);
        }
    };
    drop(serve);
    let mut relay = Relay::new(opening.accept(), backend);
    let over = future::poll_fn(|cx| {
        if listed.is_forbidden() { Poll::Ready(None) } else { Pin::new(&mut relay).poll(cx).map(Some) }
    });
    match over.await {
        Some(Ok(())) => {}
        Some(Err(failure)) => tracing::debug!("link ended: {failure}"),
        None => relay.end(),
    }
}

/// The connection that a link leads to, if it may, and its place among the links.
async fn connect(opening: &Opening, serve: &Serve) -> Result<(backend::Stream, Listed), Refusal> {
    let Open { target, tunnel_host, .. } = &opening.request;
    let namespace = tunnel_host.split_once('/').map_or("", |(namespace, _)| namespace);
    let (backend, address) = backend::connect(target, namespace, &serve.allow, serve.connect_timeout).await?;
    let listed = serve.links.list(target, namespace, address, &serve.allow).await;
    Ok((backend, listed.ok_or_else(|| Refusal::not_allowed(target, &serve.allow))?))
}
