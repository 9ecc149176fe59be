//! What lives beside the routing table, keyed by object: it outlasts the tables, so that a swap never closes a
//! connection or resets a counter.

pub(super) mod places;
pub(super) mod reach;

use std::{
    borrow::Cow,
    cell::LazyCell,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use self::{
    places::{PlaceStates, RoutePlace, RouteState},
    reach::Reach,
};
use super::{
    backend::pool::{Pool, Speaks},
    gate::limits::{Limits, Wanted},
    metrics::{HostMetrics, Metrics},
};
use crate::{
    flow::{AgentConnections, Connections, Flow, Meter},
    routing::{AgentEntry, Agents, ObjectName, Place, Protocol, RoutingTable, Rule, Target},
};

/// A routing table together with the live state of its objects; swapped whole.
pub(super) struct Live {
    pub(super) table: Arc<RoutingTable>,
    hosts: HashMap<ObjectName, HostEntry>,
    agents: HashMap<ObjectName, AgentState>,
}

/// A TunnelHost with its routes as they are in the table.
struct HostEntry {
    state: Arc<HostState>,
    /// By the route's index.
    routes: HashMap<usize, Arc<RouteState>>,
}

/// The live state of a TunnelHost.
pub(super) struct HostState {
    pub(super) name: ObjectName,
    pub(super) metrics: Arc<HostMetrics>,
    /// By agent. `None` once the TunnelHost is gone, so that a late request does not bring its series back.
    meters: Mutex<Option<HashMap<ObjectName, Arc<Meter>>>>,
    /// By the agent process that they lead through.
    pools: Mutex<HashMap<(u64, Target, Speaks), Arc<Pool>>>,
    pub(super) limits: Limits,
    /// What connects have come to, by agent and target. `None` once the TunnelHost is gone.
    reaches: Mutex<Option<Reaches>>,
}

/// What connects have come to, by agent and target.
type Reaches = HashMap<(ObjectName, Target), Arc<Reach>>;

/// An agent's limits and what it uses of them.
#[derive(Clone)]
pub(super) struct AgentState {
    pub(super) entry: Arc<AgentEntry>,
    pub(super) connections: Arc<AgentConnections>,
}

/// Makes live state; what it makes is counted in its registries.
pub(super) struct Makers {
    pub(super) metrics: Arc<Metrics>,
    pub(super) flow: Flow,
    pub(super) connections: Connections<ObjectName>,
    pub(super) places: PlaceStates,
    /// Sent when a place is seen otherwise than before.
    pub(super) reach_news: watch::Sender<()>,
}

// === impl Live ===

impl Live {
    pub(super) fn empty() -> Self {
        Self { table: Arc::default(), hosts: HashMap::new(), agents: HashMap::new() }
    }

    /// The state for a new table: objects that were there keep theirs, those that are gone end their series.
    pub(super) fn next(&self, table: Arc<RoutingTable>, agents: &Agents, makers: &Makers) -> Self {
        let mut hosts = HashMap::<ObjectName, HostEntry>::new();
        let mut limits = HashMap::<&ObjectName, Wanted<'_>>::new();
        for rule in table.rules() {
            let name = &rule.id.object;
            let known = self.hosts.get(name);
            let host = hosts.entry(name.clone()).or_insert_with(|| {
                let state = known.map(|known| known.state.clone());
                let state = state.unwrap_or_else(|| Arc::new(HostState::new(name.clone(), &makers.metrics)));
                HostEntry { state, routes: HashMap::new() }
            });
            host.routes.entry(rule.id.route).or_insert_with(|| {
                let before = known.and_then(|known| known.routes.get(&rule.id.route));
                RouteState::next(rule, before, &host.state, &makers.places)
            });
            limits.entry(name).or_default().add(rule);
        }
        for (name, host) in &hosts {
            host.state.limits.update(&limits.remove(name).unwrap_or_default());
        }
        for (_, host) in self.hosts.iter().filter(|(name, _)| !hosts.contains_key(*name)) {
            host.state.end(&makers.flow);
        }
        for host in hosts.values() {
            host.state.forget_agents(|agent| agents.get(agent).is_none(), &makers.flow);
            // Once for all of them, and only where there is one.
            let places = LazyCell::new(|| {
                let places = host.routes.values().flat_map(|route| route.all_places());
                places.map(|place| (&place.agent, &place.target)).collect::<HashSet<_>>()
            });
            host.state.forget_places(|agent, target| !places.contains(&(agent, target)));
        }
        let agents: HashMap<_, _> = agents
            .iter()
            .map(|entry| {
                let connections = makers.connections.agent(&entry.name, &entry.name.namespace, &entry.name.name);
                (entry.name.clone(), AgentState { entry: entry.clone(), connections })
            })
            .collect();
        for name in self.agents.keys().filter(|name| !agents.contains_key(name)) {
            makers.connections.remove(name, &name.namespace, &name.name);
        }
        Self { table, hosts, agents }
    }

    /// The state of a rule's TunnelHost and route; every rule of the table has them.
    pub(super) fn host(&self, rule: &Rule) -> Option<(&Arc<HostState>, &RouteState)> {
        let host = self.hosts.get(&rule.id.object)?;
        Some((&host.state, host.routes.get(&rule.id.route)?))
    }

    /// All TunnelHosts with their routes, by their numbers.
    pub(super) fn routes(&self) -> impl Iterator<Item = (&ObjectName, Vec<(usize, &RouteState)>)> {
        self.hosts
            .iter()
            .map(|(name, host)| (name, host.routes.iter().map(|(route, state)| (*route, &**state)).collect()))
    }

    /// An agent's state; `None` where there is no such TunnelAgent any more.
    pub(super) fn agent(&self, name: &ObjectName) -> Option<&AgentState> {
        self.agents.get(name)
    }

    /// Drops idle connections that are closed or old, and what limits need not remember any more.
    pub(super) fn sweep(&self, now: Instant) {
        for host in self.hosts.values().map(|host| &host.state) {
            host.limits.sweep();
            host.pools.lock().retain(|_, pool| pool.sweep(now) || Arc::strong_count(pool) > 1);
        }
    }

    /// Drops the idle connections through agent processes that take no more links, so that nobody waits for them.
    pub(super) fn drop_pools(&self, ended: impl Fn(u64) -> bool) {
        for host in self.hosts.values().map(|host| &host.state) {
            host.pools.lock().retain(|(process, ..), pool| {
                let ended = ended(*process);
                if ended {
                    pool.close();
                }
                !ended
            });
        }
    }
}

// === impl HostState ===

impl HostState {
    fn new(name: ObjectName, metrics: &Metrics) -> Self {
        let metrics = Arc::new(metrics.host(&name.namespace, &name.name));
        let meters = Mutex::new(Some(HashMap::new()));
        let reaches = Mutex::new(Some(HashMap::new()));
        Self { name, metrics, meters, pools: Mutex::default(), limits: Limits::new(), reaches }
    }

    /// What connects to a place of a route have come to; `None` once the TunnelHost is gone.
    pub(super) fn reach<'a>(&self, agent: &ObjectName, target: &Target, at: &'a RoutePlace) -> Option<&'a Reach> {
        if let Some(reach) = at.reach.get() {
            return Some(reach);
        }
        let made = self.reaches.lock().as_mut()?.entry((agent.clone(), target.clone())).or_default().clone();
        Some(at.reach.get_or_init(|| made))
    }

    /// The same, where there is something.
    fn known_reach(&self, place: &Place) -> Option<Arc<Reach>> {
        let reaches = self.reaches.lock();
        let reaches = reaches.as_ref().filter(|reaches| !reaches.is_empty())?;
        reaches.get(&(place.agent.clone(), place.target.clone())).cloned()
    }

    /// Counts that a place is ejected.
    pub(super) fn ejected(&self, agent: &ObjectName, target: &Target) {
        // Under the lock, so that a late one does not bring back the series of a place that is gone.
        let reaches = self.reaches.lock();
        if reaches.as_ref().is_some_and(|reaches| reaches.contains_key(&(agent.clone(), target.clone()))) {
            self.metrics.ejected(&self.label(agent), target.as_str());
        }
    }

    /// Forgets what connects to places have come to that no route has any more.
    fn forget_places(&self, gone: impl Fn(&ObjectName, &Target) -> bool) {
        if let Some(reaches) = &mut *self.reaches.lock() {
            for ((agent, target), _) in reaches.extract_if(|(agent, target), _| gone(agent, target)) {
                self.metrics.forget_place(&self.label(&agent), target.as_str());
            }
        }
    }

    /// The flow between this TunnelHost and an agent; `None` once the TunnelHost is gone.
    pub(super) fn meter(&self, agent: &ObjectName, flow: &Flow) -> Option<Arc<Meter>> {
        let make = || flow.meter(&self.name.namespace, &self.name.name, &self.label(agent));
        Some(self.meters.lock().as_mut()?.entry(agent.clone()).or_insert_with(make).clone())
    }

    /// Ends the series with agents that are gone.
    fn forget_agents(&self, gone: impl Fn(&ObjectName) -> bool, flow: &Flow) {
        if let Some(meters) = &mut *self.meters.lock() {
            for (agent, _) in meters.extract_if(|agent, _| gone(agent)) {
                flow.remove(&self.name.namespace, &self.name.name, &self.label(&agent));
            }
        }
    }

    /// Ends all series: the TunnelHost is gone.
    fn end(&self, flow: &Flow) {
        self.metrics.remove();
        self.forget_places(|_, _| true);
        *self.reaches.lock() = None;
        for agent in self.meters.lock().take().unwrap_or_default().keys() {
            flow.remove(&self.name.namespace, &self.name.name, &self.label(agent));
        }
    }

    /// What the series of this TunnelHost call an agent: its name, and where it is of another namespace, that before it. Two
    /// agents of one name must not share a series.
    fn label<'a>(&self, agent: &'a ObjectName) -> Cow<'a, str> {
        label(&self.name, agent)
    }

    /// The connections to a target through any session of an agent process, in this protocol.
    pub(super) fn pool(&self, process: u64, target: &Target, protocol: &Protocol) -> Arc<Pool> {
        let key = (process, target.clone(), Speaks::of(protocol));
        self.pools.lock().entry(key).or_insert_with(|| Arc::new(Pool::new())).clone()
    }
}

/// What the series of a TunnelHost call an agent.
pub(super) fn label<'a>(host: &ObjectName, agent: &'a ObjectName) -> Cow<'a, str> {
    if agent.namespace == host.namespace { Cow::from(&*agent.name) } else { Cow::from(agent.to_string()) }
}
