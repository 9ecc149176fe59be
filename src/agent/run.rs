use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::{AbortHandle, Id, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    AllowList, EdgeUrl, Proxies, Security, TokenSource, Transport,
    backoff::Failure,
    dial::{DialError, Dialled, Dialler},
    health::Checker,
    links::Links,
    plan::{Lane, Plan},
    serve::{News, Serve},
    status::Status,
    transport::Choice,
};
use crate::tunnel::{CloseReason, registration::Registration};

/// What an agent needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the edge is. Several are ways to the same edge: the next is tried where one fails.
    pub edges: Vec<EdgeUrl>,
    /// The TunnelAgent to register as, `namespace/name`.
    pub agent: String,
    /// What it proves its identity with.
    pub token: TokenSource,
    /// What it may connect to.
    pub allow: AllowList,
    /// How its connections are protected.
    pub security: Security,
    /// Which HTTP proxies its connections to the edge go through.
    pub proxies: Proxies,
    /// What carries its tunnels. Default in `culvert agent`: [`Transport::Auto`].
    pub transport: Transport,
    /// How long a target's name and connection together may take. Default in `culvert agent`: 5 s.
    pub connect_timeout: Duration,
    /// How long links may go on when the agent stops. Default in `culvert agent`: 25 s.
    pub grace: Duration,
    /// How many connections it holds with each replica of the edge, 1 to [`Registration::MAX_SLOTS`], each with its own flow
    /// control. Default in `culvert agent`: 2.
    pub connections: u32,
}

/// Holds sessions with an edge and serves their links.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    instance: String,
    status: Status,
}

/// What an agent does at the moment.
struct Running {
    edges: Vec<EdgeUrl>,
    /// Which of `edges` is dialled next.
    edge: usize,
    dialler: Arc<Dialler>,
    serve: Arc<Serve>,
    plan: Plan,
    dials: JoinSet<(Lane, EdgeUrl, Result<Dialled, DialError>)>,
    /// Takes those lanes whose dial has reached somebody; one at a time each.
    reached: mpsc::UnboundedSender<Lane>,
    /// To end those of `dials` that have become needless.
    under_way: HashMap<Lane, AbortHandle>,
    sessions: JoinSet<Ended>,
    /// The failures that were logged since there was a connection last, and when: an edge that is away is not worth a line a
    /// second, nor are several replicas that fail in turn.
    logged: BTreeMap<String, Instant>,
    /// Sessions in a row that ended as soon as they had begun.
    brief: u32,
    status: Status,
}

/// A session that is over.
struct Ended {
    replica: String,
    slot: u32,
    serial: u64,
    since: Instant,
    reason: CloseReason,
}

/// With more sessions in a row that ended at once, their beginnings and ends are no news.
const BRIEF: u32 = 3;
/// How long what was logged is not said again.
const QUIET: Duration = Duration::from_secs(30);

// === impl Agent ===

impl Agent {
    /// An agent that does nothing before [`Agent::run`].
    #[must_use]
    pub fn new(config: Config) -> Self {
        // Random, so that the edge can tell processes of one name apart.
        let instance = format!("{:032x}", rand::random::<u128>());
        let status = Status::new(config.agent.clone(), instance.clone(), &config.edges, config.allow.clone());
        Self { config, instance, status }
    }

    /// What it is doing, now and as long as it runs.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.clone()
    }

    /// Runs until `stop`, whatever happens to the edge: what is lost is dialled again.
    pub async fn run(self, stop: CancellationToken) {
        let Config { edges, agent, token, allow, security, proxies, transport, connect_timeout, grace, connections } =
            self.config;
        let (said, mut news) = mpsc::channel(16);
        let (reached, mut there) = mpsc::unbounded_channel();
        let (instance, status) = (self.instance, self.status);
        let slots = connections.clamp(1, Registration::MAX_SLOTS);
        let links = Links::default();
        let following = tokio::spawn(links.clone().follow(allow.clone()));
        let checker = Checker::new(allow.clone());
        let serve = Serve {
            allow,
            checker,
            links,
            connect_timeout,
            grace,
            stop: stop.clone(),
            status: status.clone(),
            news: said,
        };
        let mut running = Running {
            edges,
            edge: 0,
            dialler: Arc::new(Dialler {
                security,
                proxies,
                choice: Choice::new(transport),
                token,
                agent,
                instance,
                slots,
            }),
            serve: Arc::new(serve),
            plan: Plan::new(slots),
            dials: JoinSet::new(),
            reached,
            under_way: HashMap::new(),
            sessions: JoinSet::new(),
            logged: BTreeMap::new(),
            brief: 0,
            status,
        };
        loop {
            running.start_dials();
            let due = running.plan.next_due(Instant::now());
            tokio::select! {
                () = stop.cancelled() => break,
                (id, (lane, edge, result)) = finished(&mut running.dials) => {
                    // One that was given up in the moment that it had found something was perhaps followed by another.
                    if running.under_way.get(&lane).is_some_and(|task| task.id() == id) {
                        running.under_way.remove(&lane);
                        match result {
                            Ok(dialled) => running.registered(&lane, &edge, dialled),
                            Err(error) => running.failed(&lane, &edge, &error),
                        }
                    }
                }
                (_, ended) = finished(&mut running.sessions) => {
                    // What it heard comes before its end: a replica that said that it stops is not dialled at once.
                    while let Ok(news) = news.try_recv() {
                        running.heard(news);
                    }
                    running.lost(&ended);
                }
                Some(lane) = there.recv() => running.plan.reached(&lane),
                Some(news) = news.recv() => running.heard(news),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
        running.dials.abort_all();
        // Nobody reads them any more: a session that had to wait until somebody does would not hear that it is to end.
        drop(news);
        // Each of them ends by itself, within the grace and a moment for what is on its way.
        while running.sessions.join_next().await.is_some() {}
        following.abort();
    }
}

// === impl Running ===

impl Running {
    fn start_dials(&mut self) {
        let now = Instant::now();
        for lane in self.plan.give_up(now) {
            if let Some(task) = self.under_way.remove(&lane) {
                task.abort();
            }
        }
        for lane in self.plan.start_due(now) {
            let Some(edge) = self.edges.get(self.edge % self.edges.len().max(1)).cloned() else { return };
            let dialler = self.dialler.clone();
            let (met, key, reached) = (self.plan.met(), lane.clone(), self.reached.clone());
            let task = self.dials.spawn(async move {
                // Nobody hears it once the agent stops.
                let reached = || drop(reached.send(lane.clone()));
                let result = dialler.dial(&lane, &edge, met, reached).await;
                (lane, edge, result)
            });
            self.under_way.insert(key, task);
        }
    }

    fn registered(&mut self, lane: &Lane, edge: &EdgeUrl, dialled: Dialled) {
        let (replica, slot) = (dialled.replica.clone(), dialled.slot);
        let Dialled { address, transport, proxy, .. } = &dialled;
        if self.brief < BRIEF {
            tracing::info!(%edge, %address, replica, slot, transport, proxy, "connected to the edge");
            self.logged.clear();
        } else {
            tracing::debug!(%edge, %address, replica, slot, transport, proxy, "connected to the edge, again");
        }
        let serial = self.plan.registered(lane, &replica, slot, Instant::now());
        let session = self.serve.clone().session(serial, dialled);
        let since = Instant::now();
        self.sessions.spawn(async move { Ended { reason: session.await, replica, slot, serial, since } });
    }

    fn failed(&mut self, lane: &Lane, edge: &EdgeUrl, error: &DialError) {
        let (failure, now) = (error.failure(), Instant::now());
        if *lane == Lane::Edge && failure != Failure::Met {
            self.edge = self.edge.wrapping_add(1);
        }
        let delay = self.plan.failed(lane, failure, error.retry_after(), rand::random(), now);
        let retry = format!("{:.1} s", delay.as_secs_f64());
        self.status.dial_failed(failure, &error.to_string());
        if failure == Failure::Met {
            tracing::debug!(%edge, retry, "the edge's balancer led to a replica that is already met");
            return;
        }
        let text = match lane {
            Lane::Edge => error.to_string(),
            Lane::Replica { id, address } => format!("replica {id} at {address}: {error}"),
        };
        if failure == Failure::Transient && self.is_repeated(&text, now) {
            tracing::debug!(%edge, retry, "no connection to the edge: {text}");
        } else {
            tracing::warn!(%edge, retry, "no connection to the edge: {text}");
            self.logged_now(text, now);
        }
    }

    fn heard(&mut self, news: News) {
        let now = Instant::now();
        match news {
            News::Replicas(serial, replicas) => self.plan.learned(serial, replicas, rand::random(), now),
            News::Leaving(serial) => {
                if let Some(replica) = self.plan.leaving(serial, now) {
                    tracing::info!(replica, "the edge's replica is stopping; its links go on while another is dialled");
                }
            }
        }
    }

    fn lost(&mut self, ended: &Ended) {
        let Ended { replica, slot, serial, since, reason } = ended;
        self.brief = if since.elapsed() < Duration::from_secs(1) { self.brief.saturating_add(1) } else { 0 };
        let retry = match self.plan.lost(*serial, rand::random(), Instant::now()) {
            Some(delay) => format!("{:.1} s", delay.as_secs_f64()),
            None => "not now: it left, or another session is there".to_owned(),
        };
        self.status.lost(format!("lost a session with {replica}: {reason}"));
        let (text, now) = (format!("lost a session with the edge: {reason}"), Instant::now());
        // An edge that ends sessions as fast as they come may have another reason each time.
        let is_told = self.logged.values().any(|at| is_recent(*at, now));
        if self.brief > BRIEF && is_told {
            tracing::debug!(replica, slot, retry, "{text}");
        } else {
            tracing::warn!(replica, slot, retry, "{text}");
            self.logged_now(text, now);
        }
    }

    fn is_repeated(&self, text: &str, now: Instant) -> bool {
        self.logged.get(text).is_some_and(|at| is_recent(*at, now))
    }

    /// What was just logged is not said again for a while.
    fn logged_now(&mut self, text: String, now: Instant) {
        self.logged.retain(|_, at| is_recent(*at, now));
        self.logged.insert(text, now);
    }
}

/// Whether what was logged then is not said again yet.
fn is_recent(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) < QUIET
}

/// What the next task that finishes has found; never, where there is none. Those that were aborted are passed over: in a `select!`
/// an end that its pattern does not take would switch the branch off, and the results of others with it. A panic goes on here:
/// passed over, it would leave a session or a dial in the plan for ever.
async fn finished<T: 'static>(tasks: &mut JoinSet<T>) -> (Id, T) {
    loop {
        match tasks.join_next_with_id().await {
            Some(Ok(result)) => return result,
            Some(Err(end)) if end.is_panic() => std::panic::resume_unwind(end.into_panic()),
            Some(Err(_)) => {}
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_dial_that_was_given_up_hides_no_other_one() {
        let mut dials = JoinSet::new();
        for _ in 0..10 {
            dials.spawn(std::future::pending()).abort();
        }
        let last = dials.spawn(async {
            tokio::task::yield_now().await;
            "connected"
        });
        assert_eq!(finished(&mut dials).await, (last.id(), "connected"));
        // And where there is none, nothing is finished.
        assert!(timeout(Duration::from_millis(10), finished(&mut dials)).await.is_err());
    }

    #[tokio::test]
    #[should_panic(expected = "a fault of ours")]
    async fn a_panic_is_passed_on() {
        let mut dials = JoinSet::new();
        dials.spawn(async { panic!("a fault of ours") });
        let (_, ()) = finished(&mut dials).await;
    }
}
