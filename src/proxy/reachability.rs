//! What is known of the backends of each TunnelHost: what its agents' checks find, and what its connects have come to.

mod held;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use prometheus::{IntGaugeVec, Opts, Registry as MetricsRegistry};
use tokio::time::{Instant, sleep, sleep_until};

use self::held::Held;
use super::{
    Shared,
    live::{
        Live, label,
        places::RoutePlace,
        reach::{Reach, Seen},
    },
    metrics::PLACE,
};
use crate::{
    bridge::{AgentSession, Health, Registry},
    routing::{ObjectName, Place, Target},
    tunnel::health::HealthProblem,
};

/// What is known of the backends of TunnelHosts. One that nothing is known of is not in it.
pub type Reachability = HashMap<ObjectName, HostBackends>;

/// What is known of the backends of a TunnelHost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostBackends {
    /// Each of its routes of which something is known has a target that an agent reaches.
    pub reachable: bool,
    /// The targets that an agent does not reach, each once; where they are all of a route's, first.
    pub failing: Vec<Failing>,
}

/// A target that an agent does not reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// The agent.
    pub agent: ObjectName,
    /// The target.
    pub target: Target,
    /// Why, in the agent's words where it has any.
    pub problem: Arc<HealthProblem>,
}

/// What comes so soon after other news is looked at together with what follows.
const PAUSE: Duration = Duration::from_secs(1);

/// A target of a TunnelHost through an agent.
type Key = (ObjectName, ObjectName, Target);

/// What is known of a target: that it is reached, or why not.
type Found = Result<(), Arc<HealthProblem>>;

/// Looks at all that is known.
struct Look<'a> {
    live: &'a Live,
    registry: &'a Registry,
    /// This replica's own sessions, by agent.
    sessions: HashMap<ObjectName, Vec<Arc<AgentSession>>>,
    now: Instant,
    held: &'a mut Held,
    /// What is so now, whatever is said: whether a target is healthy.
    healthy: HashMap<Key, bool>,
    /// When something changes by itself.
    next: Option<Instant>,
}

/// The metric of it.
#[derive(Debug)]
pub(super) struct Gauge {
    healthy: IntGaugeVec,
}

// === impl Gauge ===

impl Gauge {
    pub(super) fn new(registry: &MetricsRegistry) -> prometheus::Result<Self> {
        let help = "Whether a target is healthy (1) or not (0), as far as its checks through an agent and the connects of a \
                    TunnelHost tell; without a series where nothing is known.";
        let healthy = IntGaugeVec::new(Opts::new("culvert_backend_healthy", help), &PLACE)?;
        registry.register(Box::new(healthy.clone()))?;
        Ok(Self { healthy })
    }

    fn set(&self, last: &HashMap<Key, bool>, now: &HashMap<Key, bool>) {
        let labelled = |(host, agent, target): &Key, with: &dyn Fn(&[&str; 4])| {
            let agent = label(host, agent);
            with(&[&*host.namespace, &*host.name, &*agent, target.as_str()]);
        };
        for key in last.keys().filter(|key| !now.contains_key(*key)) {
            labelled(key, &|labels| drop(self.healthy.remove_label_values(labels)));
        }
        for (key, healthy) in now.iter().filter(|(key, healthy)| last.get(*key) != Some(*healthy)) {
            labelled(key, &|labels| self.healthy.with_label_values(labels).set(i64::from(*healthy)));
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Publishes what is known, whenever that has changed, for ever.
    pub(super) async fn follow_reachability(self: &Arc<Self>) {
        let mut reached = self.makers.reach_news.subscribe();
        let (mut checks, mut sessions) = (self.registry.watch_health(), self.registry.watch());
        let (mut held, mut last) = (Held::default(), HashMap::new());
        loop {
            reached.mark_unchanged();
            checks.mark_unchanged();
            sessions.mark_unchanged();
            let shared = self.clone();
            // It takes a while where there are many hosts, and requests must not wait for it.
            let looked = tokio::task::spawn_blocking(move || {
                let live = shared.live.load();
                let mut look = Look::new(&live, &shared.registry, &mut held);
                let found = look.hosts();
                let (healthy, next) = (look.healthy, look.next);
                shared.gauge.set(&last, &healthy);
                (found, held, healthy, next)
            });
            let Ok((found, still_held, healthy, next)) = looked.await else { return };
            (held, last) = (still_held, healthy);
            self.reachability.send_if_modified(|before| {
                let changed = **before != found;
                *before = Arc::new(found);
                changed
            });
            let changed = tokio::select! {
                changed = reached.changed() => changed,
                changed = checks.changed() => changed,
                changed = sessions.changed() => changed,
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => Ok(()),
            };
            if changed.is_err() {
                return;
            }
            sleep(PAUSE).await;
        }
    }
}

// === impl Look ===

impl<'a> Look<'a> {
    fn new(live: &'a Live, registry: &'a Registry, held: &'a mut Held) -> Self {
        let mut sessions = HashMap::<_, Vec<_>>::new();
        for session in registry.sessions().iter() {
            sessions.entry(session.agent.clone()).or_default().push(session.clone());
        }
        Self { live, registry, sessions, now: Instant::now(), held, healthy: HashMap::new(), next: None }
    }

    fn hosts(&mut self) -> Reachability {
        let mut all = Reachability::new();
        let live = self.live;
        for (host, mut routes) in live.routes() {
            routes.sort_by_key(|(route, _)| *route);
            // Before anything is said, since routes with the same target share what is known of it.
            for (_, route) in &routes {
                for (place, live) in route.all_places().iter().zip(&route.places) {
                    self.forget_outdated(place, live);
                }
            }
            let (mut known, mut lost, mut failing) = (false, Vec::new(), Vec::new());
            for (number, route) in routes {
                let (mut reached, mut fails) = (false, Vec::new());
                for (place, live) in route.all_places().iter().zip(&route.places) {
                    match self.place((host, number), place, live) {
                        None => {}
                        Some(Ok(())) => reached = true,
                        Some(Err(problem)) => {
                            let Place { agent, target, .. } = place;
                            fails.push(Failing { agent: agent.clone(), target: target.clone(), problem });
                        }
                    }
                }
                known |= reached || !fails.is_empty();
                if reached { failing.append(&mut fails) } else { lost.append(&mut fails) }
            }
            if known {
                let reachable = lost.is_empty();
                lost.append(&mut failing);
                let mut seen = HashSet::new();
                lost.retain(|failing| seen.insert((failing.agent.clone(), failing.target.clone())));
                all.insert(host.clone(), HostBackends { reachable, failing: lost });
            }
        }
        self.held.retain(self.now);
        all
    }

    /// Forgets what connects to a place have come to where that is over.
    fn forget_outdated(&self, place: &Place, live: &RoutePlace) {
        let Some(reach) = live.reach() else { return };
        reach.forget_if_gone(|process| self.registry.leads(&place.agent, process));
        if let Some(check) = &live.check {
            let sessions = self.sessions.get(&place.agent).into_iter().flatten();
            if let Some(since) = sessions.filter_map(|session| session.healthy_since(check)).max() {
                reach.is_well_since(since);
            }
        }
    }

    /// What is to be said of a place; `None` where that is nothing.
    fn place(&mut self, (host, route): (&ObjectName, usize), place: &Place, live: &RoutePlace) -> Option<Found> {
        let found = self.found(place, live);
        let key = (host.clone(), place.agent.clone(), place.target.clone());
        if let Some(found) = &found {
            // Two routes may check one target in two ways.
            let healthy = self.healthy.entry(key.clone()).or_insert(true);
            *healthy &= found.is_ok();
        }
        let (said, next) = self.held.say((key, route), found, self.now);
        if let Some(next) = next {
            self.wake(next);
        }
        said
    }

    /// What is known of a place just now.
    fn found(&mut self, place: &Place, live: &RoutePlace) -> Option<Found> {
        let seen = live.reach().and_then(|reach| reach.seen(self.now));
        let checked = live.check.as_ref().and_then(|check| {
            let told = self.sessions.get(&place.agent)?.iter().filter_map(|session| session.health(check));
            // Of several processes one that reaches it is enough, as it is for requests.
            told.reduce(|one, other| if one == Health::Healthy { one } else { other })
        });
        // What was known of a target through an agent that has gone says nothing of now.
        if seen.is_none() && checked.is_none() || !self.registry.has(&place.agent) {
            return None;
        }
        match (seen, checked) {
            (Some(Seen::Failed { problem, at }), _) => {
                self.wake(at + Reach::LASTS);
                Some(Err(problem))
            }
            (_, Some(Health::Unhealthy(problem))) => Some(Err(problem)),
            _ => Some(Ok(())),
        }
    }

    fn wake(&mut self, at: Instant) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}
