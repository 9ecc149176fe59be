//! Says when an agent has a process or a source address that it did not have before: so a token that somebody else uses is
//! noticed. In a cluster as an Event on the TunnelAgent, without one in the log.

mod newcomers;

use std::{collections::HashMap, sync::Arc, time::Duration};

use kube::{
    Client, Resource,
    runtime::{
        events::{Event, EventType, Recorder, Reporter},
        reflector::{ObjectRef, Store},
    },
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, warn};

use self::newcomers::{Newcomers, News};
use super::Sessions;
use crate::{api::TunnelAgent, compile::object_name, routing::ObjectName};

/// How long sessions are gathered, since those of one process come one by one.
const GATHER: Duration = Duration::from_secs(1);

/// How long after its start a replica takes processes for known of agents that had no session then.
const QUIET: Duration = Duration::from_secs(30);

/// How often there may be an Event about one agent; what comes meanwhile is put together.
const AGAIN: Duration = Duration::from_secs(30);

/// How long a replica without the lease keeps what it would say, in case that the one with it is gone.
const HANDOVER: Duration = Duration::from_secs(20);

/// Publishes Events, as long as this replica holds the lease. All replicas follow the sessions, so that each knows what is new
/// when the lease comes to it.
pub(super) struct EventWriter {
    pub(super) client: Client,
    pub(super) replica: String,
    pub(super) agents: Store<TunnelAgent>,
    pub(super) touched: watch::Receiver<()>,
    pub(super) holder: watch::Receiver<bool>,
}

/// What is still to be said of agents, and of whom something was said just now.
#[derive(Default)]
struct Digest {
    pending: HashMap<ObjectName, Pending>,
    said: HashMap<ObjectName, Instant>,
}

/// What is still to be said of an agent.
struct Pending {
    since: Instant,
    news: News,
}

// === impl Digest ===

impl Digest {
    fn add(&mut self, all: Vec<(ObjectName, News)>, now: Instant) {
        for (agent, news) in all {
            self.pending.entry(agent).or_insert(Pending { since: now, news: News::default() }).news.add(news);
        }
    }

    /// What is to be said now; it counts as said.
    fn due(&mut self, now: Instant) -> Vec<(ObjectName, News)> {
        self.said.retain(|_, last| now - *last < AGAIN);
        let due = self.pending.extract_if(|agent, _| !self.said.contains_key(agent));
        let due: Vec<_> = due.map(|(agent, Pending { news, .. })| (agent, news)).collect();
        self.said.extend(due.iter().map(|(agent, _)| (agent.clone(), now)));
        due
    }

    /// When something has to be said, as far as that is known.
    fn next(&self, now: Instant) -> Option<Instant> {
        self.pending.keys().map(|agent| self.said.get(agent).map_or(now + HANDOVER, |last| *last + AGAIN)).min()
    }
}

// === impl EventWriter ===

impl EventWriter {
    pub(super) async fn run(mut self) {
        if self.agents.wait_until_ready().await.is_err() {
            return;
        }
        let mut newcomers = Newcomers::new(QUIET);
        let mut digest = Digest::default();
        loop {
            self.touched.mark_unchanged();
            let now = Instant::now();
            let known = self.agents.state();
            let sessions = known.iter().map(|agent| {
                let sessions = agent.status.as_ref().map_or(&[][..], |status| &status.sessions);
                (object_name(&agent.metadata), sessions)
            });
            digest.add(newcomers.look(sessions, now), now);
            if *self.holder.borrow_and_update() {
                for (agent, news) in digest.due(now) {
                    self.publish(&agent, &news).await;
                }
            } else {
                digest.pending.retain(|_, pending| now - pending.since < HANDOVER);
            }
            let next = digest.next(now);
            let changed = tokio::select! {
                changed = self.touched.changed() => changed,
                changed = self.holder.changed() => changed,
                () = sleep_until(next.unwrap_or(now)), if next.is_some() => Ok(()),
            };
            if changed.is_err() {
                return;
            }
            sleep(GATHER).await;
        }
    }

    /// Publishes one Event. One that cannot be is only logged: it is a hint, and the sessions are in the status.
    async fn publish(&self, agent: &ObjectName, news: &News) {
        let Some(object) = self.agents.get(&ObjectRef::new(&agent.name).within(&agent.namespace)) else { return };
        // An API server takes 128 bytes; the end of a pod's name is what tells it apart.
        let instance = self.replica.get(self.replica.len().saturating_sub(128)..).unwrap_or(&self.replica);
        let reporter = Reporter { controller: "culvert.dev/edge".to_owned(), instance: Some(instance.to_owned()) };
        // A recorder that is kept would count another Event of the same reason as a repetition of the first, text and all.
        let recorder = Recorder::new(self.client.clone(), reporter);
        let event = Event {
            type_: EventType::Normal,
            reason: news.reason().to_owned(),
            note: Some(news.text()),
            action: "Register".to_owned(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, &object.object_ref(&())).await {
            warn!(%agent, "{}; it could not be published as an Event: {error}", news.text());
        }
    }
}

/// Says it in the log, for ever; of one agent not more often than there would be Events.
pub(super) async fn log(mut sessions: watch::Receiver<Arc<Sessions>>) {
    let (mut newcomers, mut digest) = (Newcomers::new(Duration::ZERO), Digest::default());
    loop {
        let now = Instant::now();
        let known = sessions.borrow_and_update().clone();
        let all = known.iter().map(|(agent, sessions)| (agent.clone(), sessions.as_slice()));
        digest.add(newcomers.look(all, now), now);
        for (agent, news) in digest.due(now) {
            info!(%agent, "{}", news.text());
        }
        let next = digest.next(now);
        let changed = tokio::select! {
            changed = sessions.changed() => changed,
            () = sleep_until(next.unwrap_or(now)), if next.is_some() => Ok(()),
        };
        if changed.is_err() {
            return;
        }
    }
}
