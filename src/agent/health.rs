//! Checks of backends that edges ask for: each distinct one runs once, whoever asks, and all who ask are told what becomes
//! of it.

mod judge;
mod probe;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use self::{
    judge::{Finding, Judge},
    probe::Prober,
};
use super::AllowList;
use crate::tunnel::{
    MAX_CHECKS, Note, Session,
    health::{Check, CheckOrder, HealthReport},
};

/// How many checks run at a time: a thousand of them must not take all sockets.
const AT_A_TIME: usize = 32;
/// How long a check goes on that nobody asks for since the session ended: an edge that is back knows what is healthy at once.
const LINGER: Duration = Duration::from_mins(1);
/// How much later than at once the first run of a check may be, so that many do not come together.
const SPREAD: Duration = Duration::from_millis(500);

/// The checks of an agent; cheap to clone, all clones are one.
#[derive(Clone, Debug)]
pub(super) struct Checker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    prober: Prober,
    running: Mutex<HashMap<Arc<Check>, Running>>,
    slots: Semaphore,
}

/// A check that runs.
#[derive(Debug)]
struct Running {
    askers: Vec<Asker>,
    /// Since when nobody asks.
    idle_since: Option<Instant>,
    /// What is known.
    state: Option<Finding>,
    _task: AbortOnDropHandle<()>,
}

/// Who wants to know, and under which number.
#[derive(Debug)]
struct Asker {
    /// The session's number.
    serial: u64,
    session: Session,
    id: u32,
}

// === impl Checker ===

impl Checker {
    pub(super) fn new(allow: AllowList) -> Self {
        Self(Arc::new(Inner {
            prober: Prober::new(allow),
            running: Mutex::default(),
            slots: Semaphore::new(AT_A_TIME),
        }))
    }

    /// The edge of this session wants these checks, and those no more. What is known already is told at once.
    pub(super) fn ordered(&self, serial: u64, session: &Session, start: Vec<CheckOrder>, stop: &[u32]) {
        let mut known = Vec::new();
        let mut running = self.running();
        running.retain(|_, check| {
            let before = check.askers.len();
            check.askers.retain(|asker| asker.serial != serial || !stop.contains(&asker.id));
            check.askers.len() == before || !check.askers.is_empty()
        });
        for CheckOrder { id, check } in start {
            if running.len() >= MAX_CHECKS && !running.contains_key(&check) {
                tracing::warn!(target = check.target, "there are too many health checks; this one is not run");
                continue;
            }
            let entry = running.entry(Arc::new(check));
            let check = entry.key().clone();
            let running = entry.or_insert_with(|| Running::new(self.clone(), check));
            running.askers.push(Asker { serial, session: session.clone(), id });
            running.idle_since = None;
            known.extend(running.state.clone().map(|state| HealthReport { id, problem: state.err() }));
        }
        // Still under the lock, so that no change is told before what it changes.
        for note in Note::health(known) {
            let _ = session.note(&note);
        }
    }

    /// The session is over.
    pub(super) fn left(&self, serial: u64) {
        for check in self.running().values_mut() {
            check.askers.retain(|asker| asker.serial != serial);
            if check.askers.is_empty() {
                check.idle_since.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Runs a check as long as somebody asks for it.
    async fn run(self, check: Arc<Check>) {
        let mut judge = Judge::new(check.unhealthy_after, check.healthy_after);
        let interval = Duration::from_millis(check.interval).max(Duration::from_secs(1));
        sleep(interval.min(SPREAD).mul_f64(rand::random())).await;
        loop {
            // The semaphore is never closed.
            if let Ok(_slot) = self.0.slots.acquire().await
                && let Some(result) = self.0.prober.probe(&check).await
                && let Some(state) = judge.note(result)
            {
                self.changed(&check, state);
            }
            if self.forget_if_idle(&check) {
                return;
            }
            sleep(interval).await;
        }
    }

    fn changed(&self, check: &Arc<Check>, state: Finding) {
        match &state {
            Ok(()) => tracing::info!(target = check.target, "the health check succeeds"),
            Err(problem) => tracing::warn!(target = check.target, "the health check fails: {}", problem.text),
        }
        if let Some(running) = self.running().get_mut(check) {
            for Asker { session, id, .. } in &running.askers {
                let _ = session
                    .note(&Note::Health { reports: vec![HealthReport { id: *id, problem: state.clone().err() }] });
            }
            running.state = Some(state);
        }
    }

    fn forget_if_idle(&self, check: &Arc<Check>) -> bool {
        let mut running = self.running();
        let idle = |check: &Running| check.idle_since.is_some_and(|since| since.elapsed() >= LINGER);
        if running.get(check).is_some_and(|running| !idle(running)) {
            return false;
        }
        running.remove(check);
        true
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Arc<Check>, Running>> {
        // Nothing is left half done where a holder could panic, so a poisoned lock is as good as any.
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Running ===

impl Running {
    fn new(checker: Checker, check: Arc<Check>) -> Self {
        let task = AbortOnDropHandle::new(tokio::spawn(checker.run(check)));
        Self { askers: Vec::new(), idle_since: None, state: None, _task: task }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use tokio::{net::TcpListener, time::timeout};

    use super::*;
    use crate::tunnel::{self, Incoming, IncomingEvent, Role, health::HealthReason};

    /// Longer than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// A session from end to end: the agent's, and what the edge hears of it.
    fn session() -> (Session, Session, Incoming) {
        let (edge, agent) = tokio::io::duplex(64 * 1024);
        let config = tunnel::Config::default;
        let (edges, incoming, driver) = Session::start(Role::Edge, edge, Bytes::new(), config());
        tokio::spawn(driver);
        let (agents, _, driver) = Session::start(Role::Agent, agent, Bytes::new(), config());
        tokio::spawn(driver);
        (agents, edges, incoming)
    }

    async fn hears(incoming: &mut Incoming) -> Vec<HealthReport> {
        match timeout(PATIENCE, incoming.next()).await.expect("in time").expect("a session") {
            IncomingEvent::Note(Note::Health { reports }) => reports,
            other => panic!("{other:?}"),
        }
    }

    fn order(id: u32, target: &str) -> Vec<CheckOrder> {
        let check = Check {
            namespace: "web".into(),
            target: target.into(),
            http: None,
            interval: 3_600_000,
            timeout: 5000,
            unhealthy_after: 1,
            healthy_after: 1,
        };
        vec![CheckOrder { id, check }]
    }

    fn checker() -> Checker {
        Checker::new(["127.0.0.1:*".parse().expect("a rule")].into_iter().collect())
    }

    #[tokio::test]
    async fn what_several_ask_for_is_run_once_and_told_to_all() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let target = listener.local_addr().expect("its address").to_string();
        let checks = Arc::new(AtomicUsize::new(0));
        let counted = checks.clone();
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        let checker = checker();
        let (first, _first_edge, mut first_hears) = session();
        let (second, _second_edge, mut second_hears) = session();
        checker.ordered(1, &first, order(7, &target), &[]);
        assert_eq!(hears(&mut first_hears).await, [HealthReport { id: 7, problem: None }]);
        checker.ordered(2, &second, order(9, &target), &[]);
        assert_eq!(hears(&mut second_hears).await, [HealthReport { id: 9, problem: None }]);
        // One whose session is over is told nothing more, and what is known is kept for a while.
        checker.left(1);
        checker.left(2);
        let (third, _third_edge, mut third_hears) = session();
        checker.ordered(3, &third, order(1, &target), &[]);
        assert_eq!(hears(&mut third_hears).await, [HealthReport { id: 1, problem: None }]);
        assert_eq!(checks.load(Ordering::Relaxed), 1);
        // What nobody wants any more ends.
        checker.ordered(3, &third, Vec::new(), &[1]);
        assert!(checker.running().is_empty());
    }

    #[tokio::test]
    async fn a_check_of_what_is_not_allowed_says_so_and_asks_nobody() {
        let (session, _edge, mut incoming) = session();
        let checker = Checker::new(AllowList::default());
        checker.ordered(1, &session, order(7, "127.0.0.1:1"), &[]);
        let reports = hears(&mut incoming).await;
        let problem = reports[0].problem.as_ref().expect("a problem");
        assert_eq!((reports[0].id, problem.reason), (7, HealthReason::NotAllowed));
        assert!(problem.text.contains("--allow 127.0.0.1:1"), "{}", problem.text);
    }

    #[tokio::test]
    async fn there_are_never_more_checks_than_the_limit() {
        let (session, _edge, _incoming) = session();
        let checker = checker();
        for id in 0..u32::try_from(MAX_CHECKS + 10).expect("a number") {
            checker.ordered(1, &session, order(id, &format!("127.0.0.1:{}", id + 1)), &[]);
        }
        assert_eq!(checker.running().len(), MAX_CHECKS);
    }
}
