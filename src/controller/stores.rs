use std::{collections::HashMap, hash::Hash, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Resource,
    core::DeserializeGuard,
    runtime::{
        reflector::{self, Lookup, ObjectRef, Store, store::Writer},
        watcher::Event,
    },
};
use tokio::time::Instant;
use tracing::{error, info};

use super::{
    metrics::Metrics,
    namespaces::Namespaces,
    source::{Change, Source},
    tls_secrets::TlsSecrets,
};
use crate::{
    api::{TunnelAgent, TunnelHost},
    compile::{Objects, object_name},
    routing::ObjectName,
};

/// The known objects of all kinds, kept up to date by the changes of a source.
pub(super) struct Stores {
    hosts: List<TunnelHost>,
    agents: List<TunnelAgent>,
    secrets: Vec<List<Secret>>,
    tls_secrets: TlsSecrets,
    namespaces: Namespaces,
    metrics: Arc<Metrics>,
}

/// What a change makes necessary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Effect {
    /// Nothing yet.
    None,
    /// The objects mean the same; their status or metadata is another.
    Status,
    /// The objects may mean something else.
    Table,
}

/// One list of objects, as one watch keeps it.
struct List<K: Lookup<DynamicType = ()> + Clone + 'static> {
    writer: Writer<K>,
    store: Store<K>,
    /// The objects that could not be read, with the reason; those of a listing that is not done yet apart.
    broken: HashMap<ObjectRef<K>, String>,
    broken_in_listing: HashMap<ObjectRef<K>, String>,
    complete: bool,
}

/// Whether two versions of an object compile to the same.
trait Meaning {
    fn means_the_same(&self, other: &Self) -> bool;
}

// === impl Stores ===

impl Stores {
    /// Stores for what this source brings; what it only names is fetched.
    pub(super) fn new(source: &Source, metrics: Arc<Metrics>) -> Self {
        let secrets = (0..source.secret_lists).map(|_| List::new()).collect();
        let tls_secrets = TlsSecrets::new(source.tls_secrets.clone(), metrics.clone());
        let (hosts, agents, namespaces) = (List::new(), List::new(), Namespaces::new(source.namespaces));
        Self { hosts, agents, secrets, tls_secrets, namespaces, metrics }
    }

    pub(super) fn apply(&mut self, change: Change) -> Effect {
        match change {
            Change::TunnelHost(event) => {
                let effect = self.hosts.apply(event);
                self.metrics.undecodable("TunnelHost", self.hosts.broken.len());
                effect
            }
            Change::TunnelAgent(event) => {
                let effect = self.agents.apply(event);
                self.metrics.undecodable("TunnelAgent", self.agents.broken.len());
                effect
            }
            Change::Secret(list, event) => {
                let effect = self.secrets.get_mut(list).map_or(Effect::None, |list| list.apply(event));
                self.metrics.undecodable("Secret", self.secrets.iter().map(|list| list.broken.len()).sum());
                effect
            }
            Change::TlsSecret(event) => self.tls_secrets.apply(event),
            Change::Namespace(event) => self.namespaces.apply(event),
        }
    }

    /// Whether all lists have been complete once. Before, a missing object means nothing.
    pub(super) fn complete(&self) -> bool {
        let lists = self.hosts.complete && self.agents.complete && self.secrets.iter().all(|list| list.complete);
        lists && self.tls_secrets.listed() && self.namespaces.listed()
    }

    /// Asks for the Secrets that the objects refer to and that do not come by themselves. Those that are asked for the first
    /// time are worth waiting for, each for as long as `patience`: until when, if there are any.
    pub(super) fn fetch(&mut self, patience: Duration) -> Option<Instant> {
        let reference = |host: &Arc<TunnelHost>| {
            let secret = host.spec.tls.as_ref()?.secret_ref.as_ref()?;
            Some(ObjectName { namespace: object_name(&host.metadata).namespace, name: secret.name.as_str().into() })
        };
        self.tls_secrets.refer(self.hosts.store.state().iter().filter_map(reference).collect());
        self.tls_secrets.awaited(patience)
    }

    /// The effect of the next of them that has come; for ever, if none is on its way. Nothing is lost where it is dropped.
    pub(super) async fn fetched(&mut self) -> Effect {
        self.tls_secrets.fetched().await
    }

    pub(super) fn objects(&self) -> Objects {
        Objects {
            tunnel_hosts: self.hosts.store.state(),
            tunnel_agents: self.agents.store.state(),
            secrets: self.secrets.iter().flat_map(|list| list.store.state()).chain(self.tls_secrets.state()).collect(),
            unfetched: self.tls_secrets.unfetched().collect(),
            namespaces: self.namespaces.state(),
            namespaces_unread: self.namespaces.unread(),
        }
    }

    /// Views of the objects that have a status.
    pub(super) fn readers(&self) -> (Store<TunnelHost>, Store<TunnelAgent>) {
        (self.hosts.store.clone(), self.agents.store.clone())
    }
}

// === impl List ===

impl<K> List<K>
where
    K: Lookup<DynamicType = ()> + Resource<DynamicType = ()> + Meaning + Clone + 'static,
    ObjectRef<K>: Hash + Eq,
{
    fn new() -> Self {
        let (store, writer) = reflector::store();
        Self { writer, store, broken: HashMap::new(), broken_in_listing: HashMap::new(), complete: false }
    }

    fn apply(&mut self, event: Event<DeserializeGuard<K>>) -> Effect {
        match event {
            Event::Init => {
                self.broken_in_listing.clear();
                self.writer.apply_watcher_event(&Event::Init);
                Effect::None
            }
            Event::InitApply(DeserializeGuard(object)) => {
                let object = object.or_else(|invalid| {
                    let reference = reference(&invalid.metadata);
                    self.complain(&reference, &invalid.error);
                    self.broken_in_listing.insert(reference.clone(), invalid.error);
                    // A listing forgets what it does not name, and what is in force must stay so.
                    self.store.get(&reference).map(Arc::unwrap_or_clone).ok_or(())
                });
                if let Ok(object) = object {
                    self.writer.apply_watcher_event(&Event::InitApply(lean(object)));
                }
                Effect::None
            }
            Event::InitDone => {
                self.complete = true;
                self.broken = std::mem::take(&mut self.broken_in_listing);
                self.writer.apply_watcher_event(&Event::InitDone);
                Effect::Table
            }
            Event::Apply(DeserializeGuard(Ok(object))) => {
                let object = lean(object);
                let reference = ObjectRef::from_obj(&object);
                if self.broken.remove(&reference).is_some() {
                    info!(object = %reference, "it can be read again");
                }
                let same = self.store.get(&reference).is_some_and(|old| old.means_the_same(&object));
                self.writer.apply_watcher_event(&Event::Apply(object));
                if same { Effect::Status } else { Effect::Table }
            }
            Event::Apply(DeserializeGuard(Err(invalid))) => {
                let reference = reference(&invalid.metadata);
                self.complain(&reference, &invalid.error);
                self.broken.insert(reference, invalid.error);
                Effect::None
            }
            Event::Delete(DeserializeGuard(object)) => {
                let reference = match &object {
                    Ok(object) => ObjectRef::from_obj(object),
                    Err(invalid) => reference(&invalid.metadata),
                };
                self.broken.remove(&reference);
                match self.store.get(&reference) {
                    Some(old) => {
                        self.writer.apply_watcher_event(&Event::Delete(Arc::unwrap_or_clone(old)));
                        Effect::Table
                    }
                    None => Effect::None,
                }
            }
        }
    }

    /// Says once that an object cannot be read.
    fn complain(&self, reference: &ObjectRef<K>, error: &str) {
        if self.broken.get(reference).is_none_or(|known| known != error) {
            let rest = if self.store.get(reference).is_some() { "; its last good version stays in force" } else { "" };
            error!(object = %reference, "it cannot be read: {error}{rest}");
        }
    }
}

fn reference<K>(metadata: &kube::api::ObjectMeta) -> ObjectRef<K>
where
    K: Lookup<DynamicType = ()>,
{
    let reference = ObjectRef::new(metadata.name.as_deref().unwrap_or_default());
    match &metadata.namespace {
        Some(namespace) => reference.within(namespace),
        None => reference,
    }
}

/// Without what takes memory and nobody reads.
fn lean<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

// === impl Meaning ===

impl Meaning for TunnelHost {
    fn means_the_same(&self, other: &Self) -> bool {
        self.spec == other.spec
            && self.metadata.generation == other.metadata.generation
            && self.metadata.creation_timestamp == other.metadata.creation_timestamp
    }
}

impl Meaning for TunnelAgent {
    fn means_the_same(&self, other: &Self) -> bool {
        self.spec == other.spec
            && self.metadata.generation == other.metadata.generation
            && self.metadata.creation_timestamp == other.metadata.creation_timestamp
    }
}

impl Meaning for Secret {
    fn means_the_same(&self, other: &Self) -> bool {
        self.data == other.data && self.type_ == other.type_
    }
}
