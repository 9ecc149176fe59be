use std::{collections::BTreeSet, fmt::Debug, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::NamespaceResourceScope,
    runtime::reflector::{ObjectRef, Store},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::watch;
use tracing::warn;

use super::{
    backends::Unreachable,
    conditions::{self, Connected, KnownBackends},
    coverage::{Coverage, Met},
    entries::remove_gone,
    ledger::Ledger,
    sessions::Held,
};
use crate::{
    api::{ConditionType, GROUP, TunnelAgent, TunnelHost, UnreachableBackend, VERSION},
    compile::{Compiled, Judgement, ObjectKind, Verdict, object_name},
    controller::{
        Backends, Observed,
        membership::Members,
        metrics::{Metrics, StatusUpdate},
        pauses::Pauses,
    },
    routing::ObjectName,
};

/// The owner of the conditions in server-side apply: the same for all replicas, so that the lease can change hands.
const FIELD_MANAGER: &str = "culvert-controller";

/// How many objects are written at a time.
const CONCURRENCY: usize = 8;

/// How many objects are written before all are looked at again: what has changed meanwhile must not wait for the rest
/// of many thousands.
const BATCH: usize = 1000;

/// Writes the conditions of all objects, as long as this replica holds the lease.
pub(in crate::controller) struct ConditionWriter {
    pub(in crate::controller) client: Client,
    pub(in crate::controller) hosts: Store<TunnelHost>,
    pub(in crate::controller) agents: Store<TunnelAgent>,
    pub(in crate::controller) replica: String,
    pub(in crate::controller) compiled: watch::Receiver<Option<Arc<Compiled>>>,
    pub(in crate::controller) touched: watch::Receiver<()>,
    pub(in crate::controller) observed: Observed,
    pub(in crate::controller) members: watch::Receiver<Members>,
    pub(in crate::controller) holder: watch::Receiver<bool>,
    pub(in crate::controller) metrics: Arc<Metrics>,
}

type Key = (ObjectKind, ObjectName);
type Said = (Option<i64>, Vec<Judgement>, Option<Coverage>);

/// The objects as they are known.
struct View {
    hosts: Store<TunnelHost>,
    agents: Store<TunnelAgent>,
    /// What this replica knows of backends.
    backends: Arc<Backends>,
    /// This replica, and all that exist, where that is known.
    replica: String,
    existing: Option<Arc<BTreeSet<String>>>,
}

/// An object as it is known.
struct Current {
    version: Option<String>,
    conditions: Vec<Condition>,
    /// What replicas cannot reach.
    unreachable: Vec<UnreachableBackend>,
    /// Of a TunnelAgent, once it is written.
    coverage: Option<Coverage>,
}

/// How a batch of writes went.
#[derive(Default)]
struct Outcome {
    /// One of them could not be written.
    failed: bool,
    /// There are more to be written.
    more: bool,
}

/// One status to be written.
struct Due {
    key: Key,
    version: Option<String>,
    said: Said,
    conditions: Vec<Condition>,
}

// === impl ConditionWriter ===

impl ConditionWriter {
    pub(in crate::controller) async fn run(mut self) {
        let mut ledger = Ledger::new();
        let mut pauses = Pauses::default();
        loop {
            self.touched.mark_unchanged();
            self.observed.sessions.mark_unchanged();
            self.observed.backends.mark_unchanged();
            self.members.mark_unchanged();
            let mut outcome = Outcome::default();
            if *self.holder.borrow_and_update() {
                let compiled = self.compiled.borrow().clone();
                if let Some(compiled) = compiled {
                    outcome = self.write(compiled, &mut ledger).await;
                    outcome.failed |= self.remove_gone().await;
                }
            } else {
                // Somebody else may have written since.
                ledger = Ledger::new();
            }
            let retry = match outcome {
                Outcome { failed: true, .. } => Some(pauses.after_failure()),
                Outcome { more: true, .. } => Some(Duration::ZERO),
                Outcome { .. } => None,
            };
            let changed = tokio::select! {
                changed = self.touched.changed() => changed,
                changed = self.observed.sessions.changed() => changed,
                changed = self.observed.backends.changed() => changed,
                changed = self.members.changed() => changed,
                changed = self.holder.changed() => changed,
                () = tokio::time::sleep(retry.unwrap_or_default()), if retry.is_some() => Ok(()),
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Writes a batch of the conditions that differ.
    async fn write(&self, compiled: Arc<Compiled>, ledger: &mut Ledger<Key, Said>) -> Outcome {
        let view = View {
            hosts: self.hosts.clone(),
            agents: self.agents.clone(),
            backends: self.observed.backends.borrow().clone(),
            replica: self.replica.clone(),
            existing: self.members.borrow().existing.clone(),
        };
        let (connected, met) = (self.connected(), self.met());
        let mut passed = std::mem::replace(ledger, Ledger::new());
        // It takes a while where there are many objects, and requests must not wait for it.
        let planned = tokio::task::spawn_blocking(move || {
            let due = view.due(&compiled, &connected, &met, &mut passed);
            (due, passed)
        });
        let Ok((mut due, passed)) = planned.await else {
            return Outcome { failed: true, more: false };
        };
        *ledger = passed;
        let mut outcome = Outcome { failed: false, more: due.len() > BATCH };
        due.truncate(BATCH);
        let writes = stream::iter(due).map(|due| async move {
            let result = match due.key.0 {
                ObjectKind::TunnelHost => self.apply::<TunnelHost>(&due).await,
                ObjectKind::TunnelAgent => self.apply::<TunnelAgent>(&due).await,
            };
            (due, result)
        });
        let mut writes = std::pin::pin!(writes.buffer_unordered(CONCURRENCY));
        while let Some((due, result)) = writes.next().await {
            let (kind, name) = &due.key;
            match result {
                Ok(()) => {
                    self.metrics.status_update(StatusUpdate::Success);
                    ledger.note(due.key, due.version, due.said);
                }
                // It went away meanwhile, and its conditions with it.
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    ledger.note(due.key, due.version, due.said);
                }
                Err(error) => {
                    self.metrics.status_update(StatusUpdate::Failure);
                    let kind = kind.as_str();
                    warn!(kind, object = %name, "its conditions could not be written, this is tried again: {error}");
                    outcome.failed = true;
                }
            }
        }
        outcome
    }

    /// The sessions that are open: this replica's own as they are, those of others as they have written them, except of
    /// replicas that are gone.
    fn connected(&self) -> Connected {
        let mut connected = Connected::new();
        for (agent, sessions) in &**self.observed.sessions.borrow() {
            *connected.entry(agent.clone()).or_default() += sessions.len();
        }
        let existing = self.members.borrow().existing.clone();
        for agent in self.agents.state() {
            let Some(status) = &agent.status else { continue };
            let others = status.sessions.iter().filter(|session| {
                session.replica != self.replica && existing.as_ref().is_none_or(|all| all.contains(&session.replica))
            });
            let others = others.count();
            if others > 0 {
                *connected.entry(object_name(&agent.metadata)).or_default() += others;
            }
        }
        connected
    }

    /// Which replicas agents have met: this one as it is, others as they have written it.
    fn met(&self) -> Met {
        let mut met = Met::new(&self.members.borrow().replicas.running);
        for (agent, sessions) in &**self.observed.sessions.borrow() {
            if !sessions.is_empty() {
                met.add(agent.clone(), &self.replica);
            }
        }
        for agent in self.agents.state() {
            let sessions = agent.status.iter().flat_map(|status| &status.sessions);
            for session in sessions.filter(|session| session.replica != self.replica) {
                met.add(object_name(&agent.metadata), &session.replica);
            }
        }
        met
    }

    async fn apply<K>(&self, due: &Due) -> kube::Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let ((kind, name), (generation, _, coverage)) = (&due.key, &due.said);
        let mut patch = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": kind.as_str(),
            "metadata": {"name": &*name.name},
            "status": {"observedGeneration": generation, "conditions": due.conditions},
        });
        if let Some(coverage) = coverage {
            patch["status"]["connectedReplicas"] = json!(coverage.connected);
            patch["status"]["replicas"] = json!(coverage.replicas);
        }
        let api = Api::<K>::namespaced(self.client.clone(), &name.namespace);
        api.patch_status(&name.name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(patch)).await?;
        Ok(())
    }

    /// Removes what replicas that are gone have said. Says whether something could not be removed.
    async fn remove_gone(&self) -> bool {
        let Some(existing) = self.members.borrow().existing.clone() else { return false };
        let exists = |replica: &String| *replica == self.replica || existing.contains(replica);
        let sessions = remove_gone::<Held>(&self.client, &self.agents, exists, &self.metrics).await;
        let backends = remove_gone::<Unreachable>(&self.client, &self.hosts, exists, &self.metrics).await;
        sessions || backends
    }
}

// === impl View ===

impl View {
    /// The statuses that differ from what the objects have.
    fn due(&self, compiled: &Compiled, connected: &Connected, met: &Met, ledger: &mut Ledger<Key, Said>) -> Vec<Due> {
        // Whole seconds, as Kubernetes keeps them.
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        let mut due = Vec::new();
        ledger.begin();
        for verdict in &compiled.verdicts {
            let Some(current) = self.current(verdict) else { continue };
            let Current { version, conditions: current, unreachable, coverage: current_coverage } = current;
            let exists = |replica: &String| self.existing.as_ref().is_none_or(|all| all.contains(replica));
            let other = |entry: &&UnreachableBackend| entry.replica != self.replica && exists(&entry.replica);
            let others: Vec<_> = unreachable.iter().filter(other).collect();
            let known = KnownBackends {
                own: self.backends.get(&verdict.name).filter(|_| verdict.kind == ObjectKind::TunnelHost),
                others: &others,
                said: current.iter().find(|said| said.type_ == ConditionType::BackendReachable.as_str()),
            };
            let judgements = conditions::judgements(verdict, connected, known);
            let coverage = match verdict.kind {
                ObjectKind::TunnelHost => None,
                // What is there stays until it is known which replicas there are: left out, it would be removed.
                ObjectKind::TunnelAgent if self.existing.is_none() => current_coverage,
                ObjectKind::TunnelAgent => Some(met.coverage(&verdict.name)),
            };
            let changed = conditions::changed(&judgements, verdict.generation, &current, now);
            // Both are one writer's, who always applies all that is its own, and nothing that is another's.
            let is_own = |said: &Condition| judgements.iter().any(|own| own.condition.as_str() == said.type_);
            let as_before = || current.iter().filter(|said| is_own(said)).cloned().collect();
            let Some(conditions) = changed.or_else(|| (coverage != current_coverage).then(as_before)) else { continue };
            let (key, said) = ((verdict.kind, verdict.name.clone()), (verdict.generation, judgements, coverage));
            if !ledger.has(&key, version.as_ref(), &said) {
                due.push(Due { key, version, said, conditions });
            }
        }
        due
    }

    /// An object as it is now; `None` if it is gone.
    fn current(&self, verdict: &Verdict) -> Option<Current> {
        let ObjectName { namespace, name } = &verdict.name;
        Some(match verdict.kind {
            ObjectKind::TunnelHost => {
                let host = self.hosts.get(&ObjectRef::new(name).within(namespace))?;
                let (conditions, unreachable) = match &host.status {
                    Some(status) => (status.conditions.clone(), status.unreachable.clone()),
                    None => Default::default(),
                };
                Current { version: host.resource_version(), conditions, unreachable, coverage: None }
            }
            ObjectKind::TunnelAgent => {
                let agent = self.agents.get(&ObjectRef::new(name).within(namespace))?;
                let status = agent.status.as_ref();
                let conditions = status.map(|status| status.conditions.clone()).unwrap_or_default();
                let coverage = status.and_then(|status| {
                    Some(Coverage { connected: status.connected_replicas?, replicas: status.replicas? })
                });
                Current { version: agent.resource_version(), conditions, unreachable: Vec::new(), coverage }
            }
        })
    }
}
