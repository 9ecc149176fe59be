use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Ending,
    health::{Health, SessionHealth},
    registry::Neighbour,
};
use crate::{
    routing::{Check, Checks, Credential, ObjectName},
    tunnel::{Link, Note, Open, Session, SessionClosed},
};

/// A way to an agent: its connection to this replica, or that of another replica which holds one.
pub struct AgentSession {
    /// Names the session in this process; never used twice.
    pub id: u64,
    /// Names the agent process in this process, as long as it has a session: its sessions lead to the same backends, so
    /// that what was made through one of them (a pooled connection) serves for all. Never used twice.
    pub process: u64,
    /// The TunnelAgent that it registered as.
    pub agent: ObjectName,
    /// The agent process: several may run under one name, and each makes up a new id when it starts.
    pub instance: Arc<str>,
    /// The version of the agent's program.
    pub version: Arc<str>,
    /// What carries the session: `mesh` by way of another replica; `tls`, or `websocket` where the agent's network lets through nothing else; `plaintext` or
    /// `plaintext-websocket` where that was asked for.
    pub transport: &'static str,
    /// Where the connection comes from; a balancer in between shows its own address.
    pub remote_address: SocketAddr,
    /// When it registered.
    pub since: SystemTime,
    /// The Secret, in the agent's namespace, with whose token it registered.
    pub secret: Arc<str>,
    pub(super) slot: u32,
    /// `None`: the agent registered with another replica.
    pub(super) credential: Option<Credential>,
    pub(super) session: Session,
    pub(super) health: SessionHealth,
    /// Why this side ended it, where it did.
    pub(super) cause: OnceLock<Cause>,
    /// Its agent takes no more links.
    pub(super) leaving: AtomicBool,
    pub(super) ending: Ending,
    pub(super) ended: CancellationToken,
}

/// Why this side ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The token, its Secret or the whole agent is no longer valid.
    Revoked,
    /// The agent may no longer be where it is.
    Source,
    /// More processes run as the agent than may.
    Surplus,
    /// The same agent process was given the same slot again, since by what it says it no longer holds the old connection.
    Replaced,
    /// This replica or the agent stops.
    Drained,
}

// === impl AgentSession ===

impl AgentSession {
    /// The way to an agent by a neighbour.
    pub(super) fn elsewhere(neighbour: &Neighbour, process: u64, agent: ObjectName) -> Self {
        Self {
            id: neighbour.id,
            process,
            agent,
            instance: neighbour.replica.clone(),
            version: Arc::from(""),
            transport: "mesh",
            remote_address: neighbour.address,
            since: SystemTime::now(),
            secret: Arc::from(""),
            slot: 0,
            credential: None,
            session: neighbour.session.clone(),
            cause: OnceLock::new(),
            leaving: AtomicBool::new(false),
            ending: Ending::default(),
            health: SessionHealth::default(),
            ended: CancellationToken::new(),
        }
    }

    /// Opens a link to a target. It never waits: bytes may be written before the agent has connected.
    ///
    /// # Errors
    /// Where the session has ended; another one may be chosen, since nothing was sent.
    pub fn open(&self, open: &Open) -> Result<Link, SessionClosed> {
        if self.credential.is_some() {
            return self.session.open(open);
        }
        self.session.open(&Open { agent: Some(self.agent.to_string()), ..open.clone() })
    }

    /// Waits until the session has ended and is in the registry no more.
    pub async fn closed(&self) {
        self.ended.cancelled().await;
    }

    /// Whether the session is over, or about to be.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.session.is_closed()
    }

    /// Links that are open now.
    #[must_use]
    pub fn links(&self) -> usize {
        self.session.links()
    }

    /// What its agent says of a check; `None` where it has not said anything yet, as agents of older versions never do.
    #[must_use]
    pub fn health(&self, check: &Check) -> Option<Health> {
        self.health.of(check)
    }

    /// Since when its agent says that the check succeeds; `None` where it does not say so.
    #[must_use]
    pub fn healthy_since(&self, check: &Check) -> Option<Instant> {
        self.health.healthy_since(check)
    }

    /// Whether its agent says that the check fails. Cheap as long as none of its checks does.
    #[must_use]
    pub fn fails(&self, check: &Check) -> bool {
        self.health.fails(check)
    }

    /// Has its agent run those of the checks that are its own, and no others.
    pub(super) fn ask(&self, checks: &Checks) {
        for note in self.health.ask(&self.agent, checks) {
            self.tell(&note);
        }
    }

    /// Tells when links that may go on for ever are to end.
    #[must_use]
    pub fn ending(&self) -> &Ending {
        &self.ending
    }

    /// The credential that it registered with; `None` where that was with another replica.
    pub(super) fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }

    /// Tells the agent something; one that is gone need not know.
    pub(super) fn tell(&self, note: &Note) {
        let _ = self.session.note(note);
    }

    /// Ends the session behind what it has yet to send, since this replica or the agent stops.
    pub(super) fn finish(&self) {
        let _ = self.cause.set(Cause::Drained);
        self.session.finish();
    }

    /// Its agent leaves: at that time its links are asked to end, and the session ends with the last of them. What was about to
    /// open another one is told, and goes elsewhere.
    pub(super) fn leaves(&self, links_end: Instant) {
        if Instant::now() >= links_end && !self.ending.is_asked() {
            self.ending.ask();
        }
        if self.links() == 0 {
            self.finish();
        }
    }

    /// Ends the session now. The first cause is the one that counts.
    pub(super) fn close(&self, cause: Cause) {
        let _ = self.cause.set(cause);
        self.session.close();
    }

    /// Whether its agent has said that it takes no more links.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Why this side ended it, where it did.
    pub(super) fn cause(&self) -> Option<Cause> {
        self.cause.get().copied()
    }
}

impl fmt::Debug for AgentSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentSession")
            .field("id", &self.id)
            .field("agent", &self.agent)
            .field("instance", &self.instance)
            .field("remote_address", &self.remote_address)
            .finish_non_exhaustive()
    }
}
