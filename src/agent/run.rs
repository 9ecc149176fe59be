use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    AllowList, EdgeUrl, Security, TokenSource,
    backoff::Failure,
    dial::{DialError, Dialled, Dialler},
    health::Checker,
    plan::{Lane, Plan},
    serve::{News, Serve},
};
use crate::tunnel::CloseReason;

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
    /// How long a target's name and connection together may take. Default in `culvert agent`: 5 s.
    pub connect_timeout: Duration,
    /// How long links may go on when the agent stops. Default in `culvert agent`: 5 s.
    pub grace: Duration,
}

/// Holds sessions with an edge and serves their links.
#[derive(Debug)]
pub struct Agent {
    config: Config,
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
    sessions: JoinSet<Ended>,
    /// The last failure that was logged, and when: an edge that is away is not worth a line a second.
    logged: Option<(String, Instant)>,
}

/// A session that is over.
struct Ended {
    replica: String,
    serial: u64,
    reason: CloseReason,
}

// === impl Agent ===

impl Agent {
    /// An agent that does nothing before [`Agent::run`].
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// Runs until `stop`, whatever happens to the edge: what is lost is dialled again.
    pub async fn run(self, stop: CancellationToken) {
        let Config { edges, agent, token, allow, security, connect_timeout, grace } = self.config;
        let (said, mut news) = mpsc::channel(16);
        // Random, so that the edge can tell processes of one name apart.
        let instance = format!("{:032x}", rand::random::<u128>());
        let checker = Checker::new(allow.clone());
        let serve = Serve { allow, checker, connect_timeout, grace, stop: stop.clone(), news: said };
        let mut running = Running {
            edges,
            edge: 0,
            dialler: Arc::new(Dialler { security, token, agent, instance }),
            serve: Arc::new(serve),
            plan: Plan::default(),
            dials: JoinSet::new(),
            sessions: JoinSet::new(),
            logged: None,
        };
        loop {
            running.start_dials();
            let due = running.plan.next_due(Instant::now());
            tokio::select! {
                () = stop.cancelled() => break,
                Some(Ok((lane, edge, result))) = running.dials.join_next() => match result {
                    Ok(dialled) => running.registered(&lane, &edge, dialled),
                    Err(error) => running.failed(&lane, &edge, &error),
                },
                Some(Ok(ended)) = running.sessions.join_next() => running.lost(&ended),
                Some(news) = news.recv() => match news {
                    News::Replicas(replicas) => running.plan.learned(replicas, Instant::now()),
                    News::Leaving(serial) => running.leaving(serial),
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
        running.dials.abort_all();
        // Each of them ends by itself, within the grace and a moment for what is on its way.
        while running.sessions.join_next().await.is_some() {}
    }
}

// === impl Running ===

impl Running {
    fn start_dials(&mut self) {
        for lane in self.plan.start_due(Instant::now()) {
            let Some(edge) = self.edges.get(self.edge % self.edges.len().max(1)).cloned() else { return };
            let dialler = self.dialler.clone();
            let met: Vec<String> = self.plan.met().map(str::to_owned).collect();
            self.dials.spawn(async move {
                let result = dialler.dial(&lane, &edge, met).await;
                (lane, edge, result)
            });
        }
    }

    fn registered(&mut self, lane: &Lane, edge: &EdgeUrl, dialled: Dialled) {
        let replica = dialled.replica.clone();
        tracing::info!(%edge, address = %dialled.address, replica, "connected to the edge");
        self.logged = None;
        let serial = self.plan.registered(lane, &replica, Instant::now());
        let session = self.serve.clone().session(serial, dialled);
        self.sessions.spawn(async move { Ended { reason: session.await, replica, serial } });
    }

    fn failed(&mut self, lane: &Lane, edge: &EdgeUrl, error: &DialError) {
        let (failure, now) = (error.failure(), Instant::now());
        if *lane == Lane::Edge && failure != Failure::Met {
            self.edge = self.edge.wrapping_add(1);
        }
        let delay = self.plan.failed(lane, failure, error.retry_after(), rand::random(), now);
        let retry = format!("{:.1} s", delay.as_secs_f64());
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
            self.logged = Some((text, now));
        }
    }

    fn leaving(&mut self, serial: u64) {
        if let Some(replica) = self.plan.leaving(serial, Instant::now()) {
            tracing::info!(replica, "the edge's replica is stopping; its links go on while another is dialled");
        }
    }

    fn lost(&mut self, ended: &Ended) {
        let Ended { replica, serial, reason } = ended;
        let delay = self.plan.lost(replica, *serial, rand::random(), Instant::now());
        let retry = delay.map_or("never: it left, or another session replaced it".to_owned(), |delay| {
            format!("{:.1} s", delay.as_secs_f64())
        });
        tracing::warn!(replica, retry, "lost the session with the edge: {reason}");
    }

    fn is_repeated(&self, text: &str, now: Instant) -> bool {
        const QUIET: Duration = Duration::from_secs(30);
        self.logged.as_ref().is_some_and(|(last, at)| last == text && now.saturating_duration_since(*at) < QUIET)
    }
}
