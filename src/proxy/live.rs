//! What lives beside the routing table, keyed by object: it outlasts the tables, so that a swap never closes a
//! connection or resets a counter.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    backend::pool::{Pool, Speaks},
    gate::limits::{Limits, Wanted},
    metrics::{HostMetrics, Metrics},
};
use crate::{
    flow::{AgentConnections, Connections, Flow, Meter},
    routing::{AgentEntry, Agents, ObjectName, Protocol, RoutingTable, Rule, Target},
};

/// A routing table together with the live state of its objects; swapped whole.
pub(super) struct Live {
    pub(super) table: Arc<RoutingTable>,
    hosts: HashMap<ObjectName, Arc<HostState>>,
    agents: HashMap<ObjectName, AgentState>,
}

/// The live state of a TunnelHost.
pub(super) struct HostState {
    pub(super) name: ObjectName,
    pub(super) metrics: Arc<HostMetrics>,
    /// Whose turn it is, by route.
    turns: Mutex<Vec<usize>>,
    /// By agent. `None` once the TunnelHost is gone, so that a late request does not bring its series back.
    meters: Mutex<Option<HashMap<ObjectName, Arc<Meter>>>>,
    /// By the agent process that they lead through.
    pools: Mutex<HashMap<(u64, Target, Speaks), Arc<Pool>>>,
    pub(super) limits: Limits,
}

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
}

// === impl Live ===

impl Live {
    pub(super) fn empty() -> Self {
        Self { table: Arc::default(), hosts: HashMap::new(), agents: HashMap::new() }
    }

    /// The state for a new table: objects that were there keep theirs, those that are gone end their series.
    pub(super) fn next(&self, table: Arc<RoutingTable>, agents: &Agents, makers: &Makers) -> Self {
        let mut hosts = HashMap::<ObjectName, Arc<HostState>>::new();
        let mut limits = HashMap::<&ObjectName, Wanted<'_>>::new();
        for rule in table.rules() {
            let name = &rule.id.object;
            let host = hosts.entry(name.clone()).or_insert_with(|| {
                let known = self.hosts.get(name).cloned();
                known.unwrap_or_else(|| Arc::new(HostState::new(name.clone(), &makers.metrics)))
            });
            host.make_turns(rule.id.route + 1);
            limits.entry(name).or_default().add(rule);
        }
        for (name, host) in &hosts {
            host.limits.update(&limits.remove(name).unwrap_or_default());
        }
        for (_, host) in self.hosts.iter().filter(|(name, _)| !hosts.contains_key(*name)) {
            host.end(&makers.flow);
        }
        for host in hosts.values() {
            host.forget_agents(|agent| agents.get(agent).is_none(), &makers.flow);
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

    /// The state of a rule's TunnelHost; every rule of the table has one.
    pub(super) fn host(&self, rule: &Rule) -> Option<&Arc<HostState>> {
        self.hosts.get(&rule.id.object)
    }

    /// An agent's state; `None` where there is no such TunnelAgent any more.
    pub(super) fn agent(&self, name: &ObjectName) -> Option<&AgentState> {
        self.agents.get(name)
    }

    /// Drops idle connections that are closed or old, and what limits need not remember any more.
    pub(super) fn sweep(&self, now: Instant) {
        for host in self.hosts.values() {
            host.limits.sweep();
            host.pools.lock().retain(|_, pool| pool.sweep(now) || Arc::strong_count(pool) > 1);
        }
    }

    /// Drops the idle connections through agent processes that take no more links, so that nobody waits for them.
    pub(super) fn drop_pools(&self, ended: impl Fn(u64) -> bool) {
        for host in self.hosts.values() {
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
        Self { name, metrics, turns: Mutex::default(), meters, pools: Mutex::default(), limits: Limits::new() }
    }

    /// Makes sure that there are turns for this many routes.
    fn make_turns(&self, routes: usize) {
        let mut turns = self.turns.lock();
        let routes = routes.max(turns.len());
        turns.resize(routes, 0);
    }

    /// The next number for a route, counted up with each request.
    pub(super) fn turn(&self, route: usize) -> usize {
        let mut turns = self.turns.lock();
        turns.get_mut(route).map_or(0, |turn| {
            *turn = turn.wrapping_add(1);
            *turn
        })
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
        for agent in self.meters.lock().take().unwrap_or_default().keys() {
            flow.remove(&self.name.namespace, &self.name.name, &self.label(agent));
        }
    }

    /// What the series of this TunnelHost call an agent: its name, and where it is of another namespace, that before it. Two
    /// agents of one name must not share a series.
    fn label<'a>(&self, agent: &'a ObjectName) -> Cow<'a, str> {
        if agent.namespace == self.name.namespace { Cow::from(&*agent.name) } else { Cow::from(agent.to_string()) }
    }

    /// The connections to a target through any session of an agent process, in this protocol.
    pub(super) fn pool(&self, process: u64, target: &Target, protocol: &Protocol) -> Arc<Pool> {
        let key = (process, target.clone(), Speaks::of(protocol));
        self.pools.lock().entry(key).or_insert_with(|| Arc::new(Pool::new())).clone()
    }
}
