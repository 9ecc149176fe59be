use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Ending,
    health::SessionHealth,
    session::{AgentSession, Cause},
};
use crate::{
    routing::{Credential, ObjectName, affinity},
    tunnel::{Session, health::HealthReport, registration::Registration},
};

/// The sessions that live in this process; cheap to clone, all clones are one registry.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Inner>);

/// All live sessions at one moment, in no particular order.
pub type Sessions = Arc<Vec<Arc<AgentSession>>>;

/// What a new session starts from.
pub(super) struct NewSession {
    pub(super) agent: ObjectName,
    pub(super) credential: Credential,
    pub(super) registration: Registration,
    pub(super) slot: u32,
    pub(super) transport: &'static str,
    pub(super) remote_address: SocketAddr,
    pub(super) session: Session,
}

#[derive(Debug, Default)]
struct Inner {
    /// What `choose` reads; the lock is held for a lookup and a clone.
    agents: RwLock<HashMap<ObjectName, Group>>,
    all: watch::Sender<Sessions>,
    /// Sent with all that an agent says of its checks.
    health: watch::Sender<()>,
    last_id: AtomicU64,
}

/// The ways to one agent that take new links.
#[derive(Debug, Default)]
struct Group {
    processes: Vec<Process>,
    turn: AtomicUsize,
    /// Other replicas that hold it, for as long as this one does not.
    elsewhere: Vec<Arc<AgentSession>>,
    turn_elsewhere: AtomicUsize,
}

/// Another replica that this one holds a session with.
#[derive(Clone, Debug)]
pub(super) struct Neighbour {
    /// The replica's id.
    pub(super) replica: Arc<str>,
    pub(super) address: SocketAddr,
    pub(super) session: Session,
    /// Names the session; from [`Registry::next_id`].
    pub(super) id: u64,
}

/// The sessions of one process that take new links; at least one.
#[derive(Debug)]
struct Process {
    id: u64,
    sessions: Vec<Arc<AgentSession>>,
    turn: AtomicUsize,
}

// === impl Registry ===

impl Registry {
    /// A registry without sessions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A session of that agent to open the next link through: all its processes in turn, and so the sessions of each.
    /// Where this replica has none, another one that has; `None` where nobody has.
    ///
    /// It may have ended a moment ago; [`AgentSession::open`] then says so, and the next turn is another one's.
    #[must_use]
    pub fn choose(&self, agent: &ObjectName) -> Option<Arc<AgentSession>> {
        self.choose_where(agent, |_| true)
    }

    /// As [`Registry::choose`], among those of the agent's sessions that are wanted.
    #[must_use]
    pub fn choose_where(
        &self,
        agent: &ObjectName,
        mut wanted: impl FnMut(&AgentSession) -> bool,
    ) -> Option<Arc<AgentSession>> {
        let agents = self.read();
        let group = agents.get(agent)?;
        let own = group.choose(&mut wanted);
        let elsewhere = || in_turn(&group.elsewhere, &group.turn_elsewhere).find(|session| wanted(session));
        own.or_else(elsewhere).cloned()
    }

    /// As [`Registry::choose_where`], but never by way of another replica.
    pub(super) fn choose_own(
        &self,
        agent: &ObjectName,
        mut wanted: impl FnMut(&AgentSession) -> bool,
    ) -> Option<Arc<AgentSession>> {
        self.read().get(agent)?.choose(&mut wanted).cloned()
    }

    /// As [`Registry::choose_where`], among the sessions of that one of the agent's processes which is this visitor's: the
    /// same as long as it is there, and when one goes, only its visitors move. So is the replica that leads there, where this
    /// one has no session.
    #[must_use]
    pub fn choose_for(
        &self,
        agent: &ObjectName,
        visitor: IpAddr,
        mut wanted: impl FnMut(&AgentSession) -> bool,
    ) -> Option<Arc<AgentSession>> {
        let agents = self.read();
        let mut takes = |session: &Arc<AgentSession>| session.cause().is_none() && wanted(session);
        let group = agents.get(agent)?;
        let usable = group.processes.iter().filter(|process| process.sessions.iter().any(&mut takes));
        if let Some(mine) = usable.max_by_key(|process| affinity(visitor, process.instance())) {
            return in_turn(&mine.sessions, &mine.turn).find(|session| takes(session)).cloned();
        }
        let elsewhere = group.elsewhere.iter().filter(|session| takes(session));
        elsewhere.max_by_key(|session| affinity(visitor, &session.instance)).cloned()
    }

    /// Whether the process of that id takes new links. One whose agent is leaving is still listed, and takes none:
    /// links to it that are kept for later should be let go, since the agent waits for them. Looks at all sessions.
    #[must_use]
    pub fn is_active(&self, process: u64) -> bool {
        self.read().values().any(|group| group.leads(process))
    }

    /// As [`Registry::is_active`], of one agent's processes.
    #[must_use]
    pub fn leads(&self, agent: &ObjectName, process: u64) -> bool {
        self.read().get(agent).is_some_and(|group| group.leads(process))
    }

    /// Whether there is a way to the agent that takes new links, by another replica where not from here.
    #[must_use]
    pub fn has(&self, agent: &ObjectName) -> bool {
        self.read().contains_key(agent)
    }

    /// The agents that registered with this replica and take new links.
    pub(super) fn held(&self) -> BTreeSet<ObjectName> {
        let agents = self.read();
        let held = agents.iter().filter(|(_, group)| !group.processes.is_empty());
        held.map(|(agent, _)| agent.clone()).collect()
    }

    /// A number that names nothing yet.
    pub(super) fn next_id(&self) -> u64 {
        self.0.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Follows what a neighbour says of the agents that it holds.
    pub(super) fn heard(&self, from: &Neighbour, held: Vec<ObjectName>, gone: &[ObjectName]) {
        let mut agents = self.write();
        for agent in held {
            let group = agents.entry(agent.clone()).or_default();
            if !group.elsewhere.iter().any(|session| session.id == from.id) {
                let process = self.next_id();
                group.elsewhere.push(Arc::new(AgentSession::elsewhere(from, process, agent)));
            }
        }
        for agent in gone {
            if let Some(group) = agents.get_mut(agent) {
                for session in group.elsewhere.extract_if(.., |session| session.id == from.id) {
                    // Whether its agent stops or comes back somewhere else, nobody tells.
                    session.ending.ask();
                }
                if group.is_empty() {
                    agents.remove(agent);
                }
            }
        }
        if !gone.is_empty() {
            self.0.all.send_modify(|_| {});
        }
    }

    /// A neighbour takes no more links, or its session has ended. Returns the ways that led by it.
    pub(super) fn forget(&self, neighbour: &Neighbour) -> Vec<Arc<AgentSession>> {
        let mut agents = self.write();
        let mut forgotten = Vec::new();
        agents.retain(|_, group| {
            forgotten.extend(group.elsewhere.extract_if(.., |session| session.id == neighbour.id));
            !group.is_empty()
        });
        self.0.all.send_modify(|_| {});
        forgotten
    }

    /// Follows the live sessions: a new value for each one that comes or goes, and the same list again when one of
    /// them takes no more links, so that [`Registry::is_active`] is worth asking after each.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Sessions> {
        self.0.all.subscribe()
    }

    /// Follows what agents say of their checks: [`AgentSession::health`] is worth asking after each.
    #[must_use]
    pub fn watch_health(&self) -> watch::Receiver<()> {
        self.0.health.subscribe()
    }

    /// All live sessions now.
    #[must_use]
    pub fn sessions(&self) -> Sessions {
        self.0.all.borrow().clone()
    }

    /// The sessions of that agent which take new links.
    pub(super) fn sessions_of(&self, agent: &ObjectName) -> Vec<Arc<AgentSession>> {
        let agents = self.read();
        let processes = agents.get(agent).map(|group| &group.processes).into_iter().flatten();
        processes.flat_map(|process| &process.sessions).cloned().collect()
    }

    /// Asks those who hold links to bring them to an end, in all sessions: this replica stops soon.
    pub fn end_links(&self) {
        for session in self.sessions().iter() {
            session.ending.ask();
        }
        for session in self.read().values().flat_map(|group| &group.elsewhere) {
            session.ending.ask();
        }
    }

    /// Lists a new session. One that the same process had in the same slot is closed: a slot that is held here is given again
    /// only where the process says of all that are left that it holds them or nothing in them, so that one is dead.
    pub(super) fn insert(&self, new: NewSession) -> Arc<AgentSession> {
        let mut agents = self.write();
        let group = agents.entry(new.agent.clone()).or_default();
        let process = group.processes.iter().position(|process| *process.instance() == *new.registration.instance);
        let session = Arc::new(AgentSession {
            id: self.next_id(),
            process: process.map_or_else(|| self.next_id(), |index| group.processes[index].id),
            agent: new.agent,
            instance: new.registration.instance.as_str().into(),
            version: new.registration.version.as_str().into(),
            transport: new.transport,
            remote_address: new.remote_address,
            since: SystemTime::now(),
            secret: new.credential.secret.clone(),
            slot: new.slot,
            credential: Some(new.credential),
            session: new.session,
            health: SessionHealth::default(),
            cause: OnceLock::new(),
            leaving: AtomicBool::new(false),
            ending: Ending::default(),
            ended: CancellationToken::new(),
        });
        let old = group.add(session.clone());
        // Still under the lock, so that the list follows the groups in the same order.
        self.0.all.send_modify(|all| Arc::make_mut(all).push(session.clone()));
        drop(agents);
        if let Some(old) = old {
            old.close(Cause::Replaced);
        }
        session
    }

    /// Takes what a session's agent says of its checks.
    pub(super) fn reported(&self, session: &AgentSession, reports: Vec<HealthReport>) {
        if session.health.reported(reports) {
            self.0.health.send_replace(());
        }
    }

    /// Gives a session no more links; those that it has go on.
    pub(super) fn retire(&self, session: &AgentSession) {
        session.leaving.store(true, Ordering::Relaxed);
        let mut agents = self.write();
        // Once only, however often an agent says that it leaves.
        if leave_group(&mut agents, session) {
            self.0.all.send_modify(|_| {});
        }
    }

    /// Takes a session that ended out of all lists and tells those who wait for its end.
    pub(super) fn remove(&self, session: &AgentSession) {
        let mut agents = self.write();
        leave_group(&mut agents, session);
        self.0.all.send_if_modified(|all| {
            let Some(index) = all.iter().position(|other| other.id == session.id) else { return false };
            Arc::make_mut(all).swap_remove(index);
            true
        });
        drop(agents);
        session.ended.cancel();
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<ObjectName, Group>> {
        // Nothing is left half done where a holder could panic, so a poisoned lock is as good as any.
        self.0.agents.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<ObjectName, Group>> {
        self.0.agents.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether it was in one.
fn leave_group(agents: &mut HashMap<ObjectName, Group>, session: &AgentSession) -> bool {
    let Some(group) = agents.get_mut(&session.agent) else { return false };
    let left = group.remove(session.id);
    if group.is_empty() {
        agents.remove(&session.agent);
    }
    left
}

/// All of them, from the one whose turn it is.
fn in_turn<'a, T>(all: &'a [T], turn: &AtomicUsize) -> impl Iterator<Item = &'a T> {
    // Most agents have one process.
    let first = if all.len() > 1 { turn.fetch_add(1, Ordering::Relaxed) % all.len() } else { 0 };
    let (before, from) = all.split_at(first);
    from.iter().chain(before)
}

// === impl Group ===

impl Group {
    fn choose(&self, wanted: &mut impl FnMut(&AgentSession) -> bool) -> Option<&Arc<AgentSession>> {
        in_turn(&self.processes, &self.turn).find_map(|process| {
            // One that this side is ending is listed until it has ended. Whether the agent's side has just ended one is
            // not asked here, where it would mean to wait for the session's lock: opening a link tells.
            let mut sessions = in_turn(&process.sessions, &process.turn);
            sessions.find(|session| session.cause().is_none() && wanted(session))
        })
    }

    /// Whether the process of that id takes new links.
    fn leads(&self, process: u64) -> bool {
        let takes_links = |session: &Arc<AgentSession>| session.cause().is_none();
        let is_it = |known: &Process| known.id == process && known.sessions.iter().any(takes_links);
        self.processes.iter().any(is_it) || self.elsewhere.iter().any(|session| session.process == process)
    }

    fn is_empty(&self) -> bool {
        self.processes.is_empty() && self.elsewhere.is_empty()
    }

    /// Returns the session whose place it takes, if there is one.
    fn add(&mut self, session: Arc<AgentSession>) -> Option<Arc<AgentSession>> {
        let Some(process) = self.processes.iter_mut().find(|process| process.id == session.process) else {
            let process = Process { id: session.process, sessions: vec![session], turn: AtomicUsize::new(0) };
            self.processes.push(process);
            return None;
        };
        if let Some(place) = process.sessions.iter_mut().find(|other| other.slot == session.slot) {
            return Some(std::mem::replace(place, session));
        }
        process.sessions.push(session);
        None
    }

    /// Returns whether it was there.
    fn remove(&mut self, id: u64) -> bool {
        let before = self.len();
        for process in &mut self.processes {
            process.sessions.retain(|session| session.id != id);
        }
        let left = self.len() < before;
        self.processes.retain(|process| !process.sessions.is_empty());
        left
    }

    fn len(&self) -> usize {
        self.processes.iter().map(|process| process.sessions.len()).sum()
    }
}

// === impl Process ===

impl Process {
    fn instance(&self) -> &str {
        self.sessions.first().map_or("", |session| &session.instance)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;

    use super::*;
    use crate::{
        routing::Token as Known,
        tunnel::{Config, Driver, Incoming, Role, registration::Token},
    };

    /// A session that nobody drives, and what has to live as long as it.
    fn session() -> (Session, Incoming, Driver<tokio::io::DuplexStream>) {
        Session::start(Role::Edge, tokio::io::duplex(1024).0, Bytes::new(), Config::default())
    }

    fn new(slot: u32, session: &Session) -> NewSession {
        let token = "0123456789abcdef";
        NewSession {
            agent: lab(),
            credential: Credential { secret: "lab".into(), token: Known::new(token.as_bytes()).expect("a token") },
            registration: Registration {
                agent: lab().to_string(),
                token: Token::new(token).expect("a token"),
                instance: "0a".to_owned(),
                version: "0.1.0".to_owned(),
                slots: 2,
                met: BTreeMap::new(),
            },
            slot,
            transport: "tls",
            remote_address: ([192, 0, 2, 1], 1).into(),
            session: session.clone(),
        }
    }

    fn lab() -> ObjectName {
        ObjectName::new("web", "lab")
    }

    #[tokio::test]
    async fn what_another_replica_holds_is_chosen_last_and_never_handed_on() {
        let (registry, mesh, own) = (Registry::new(), session(), session());
        let replica = "r2".into();
        let address = ([192, 0, 2, 2], 7444).into();
        let neighbour = Neighbour { replica, address, session: mesh.0.clone(), id: registry.next_id() };
        registry.heard(&neighbour, vec![lab(), lab()], &[]);
        let elsewhere = registry.choose(&lab()).expect("by the other replica");
        assert_eq!((&*elsewhere.instance, elsewhere.id), ("r2", neighbour.id));
        let hashed = registry.choose_for(&lab(), [198, 51, 100, 7].into(), |_| true);
        assert_eq!(hashed.expect("for each visitor too").id, neighbour.id);
        assert!(registry.choose_own(&lab(), |_| true).is_none());
        assert!(registry.held().is_empty() && registry.sessions().is_empty(), "it is not held here");
        assert!(registry.is_active(elsewhere.process));

        let session = registry.insert(new(0, &own.0));
        assert_eq!(registry.choose(&lab()).expect("its own").id, session.id);
        assert_eq!(registry.held(), BTreeSet::from([lab()]));
        let not_own = registry.choose_where(&lab(), |other| other.id != session.id).expect("where that one failed");
        assert_eq!(not_own.id, neighbour.id);
        registry.remove(&session);
        assert_eq!(registry.choose(&lab()).expect("by the other replica").id, neighbour.id);

        registry.heard(&neighbour, Vec::new(), &[lab()]);
        assert!(registry.choose(&lab()).is_none());
        registry.heard(&neighbour, vec![lab()], &[]);
        let again = registry.choose(&lab()).expect("it is back");
        assert_ne!(again.process, elsewhere.process, "what was kept for the one before is gone");
        registry.forget(&neighbour);
        assert!(registry.choose(&lab()).is_none() && !registry.is_active(again.process));
    }

    #[tokio::test]
    async fn the_sessions_of_a_process_share_its_number_as_long_as_there_is_one() {
        let (registry, io) = (Registry::new(), session());
        let first = registry.insert(new(0, &io.0));
        let second = registry.insert(new(1, &io.0));
        assert_eq!(first.process, second.process);
        let again = registry.insert(new(0, &io.0));
        assert_eq!((again.process, first.cause()), (first.process, Some(Cause::Replaced)));
        registry.remove(&first);
        registry.retire(&again);
        assert!(registry.is_active(first.process), "by its second session");
        registry.remove(&second);
        assert!(!registry.is_active(first.process));
        assert_ne!(registry.insert(new(0, &io.0)).process, first.process);
    }
}
