use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, api::PartialObjectMeta, runtime::watcher::Event};
use tokio::{sync::Semaphore, time::Instant};
use tracing::{debug, info, warn};

use super::{metrics::Metrics, pauses::Pauses, stores::Effect};
use crate::{api::SecretType, compile::object_name, routing::ObjectName};

/// How many Secrets are fetched at a time.
const AT_A_TIME: usize = 16;

/// The Secrets of type `kubernetes.io/tls` in a cluster. Their metadata is watched, and only those that a TunnelHost refers
/// to are fetched: the keys of all others, which are not meant for the edge, never come into a process that faces the
/// internet.
///
/// One that cannot be fetched keeps its last content, and is tried again after a pause.
pub(super) struct TlsSecrets {
    /// Where to fetch them; `None` where they come as any other Secret, as from a folder.
    client: Option<Client>,
    metrics: Arc<Metrics>,
    /// The resource versions of all Secrets of the type; those of a listing that is not done yet apart.
    versions: HashMap<ObjectName, String>,
    versions_in_listing: HashMap<ObjectName, String>,
    listed: bool,
    /// What is referred to and exists.
    wanted: HashMap<ObjectName, Wanted>,
    references: HashSet<ObjectName>,
    fetches: FuturesUnordered<BoxFuture<'static, Fetched>>,
    places: Arc<Semaphore>,
}

/// One Secret that is referred to.
struct Wanted {
    secret: Option<Arc<Secret>>,
    /// The version of the metadata when it was fetched last, with or without success.
    version: Option<String>,
    fetching: bool,
    /// Why it could not be fetched the last time.
    failing: Option<String>,
    since: Instant,
    pauses: Pauses,
}

struct Fetched {
    name: ObjectName,
    /// The version that made it necessary. What came may be a newer one; then it is fetched once too often.
    version: String,
    secret: kube::Result<Option<Secret>>,
}

// === impl TlsSecrets ===

impl TlsSecrets {
    pub(super) fn new(client: Option<Client>, metrics: Arc<Metrics>) -> Self {
        Self {
            listed: client.is_none(),
            client,
            metrics,
            versions: HashMap::new(),
            versions_in_listing: HashMap::new(),
            wanted: HashMap::new(),
            references: HashSet::new(),
            fetches: FuturesUnordered::new(),
            places: Arc::new(Semaphore::new(AT_A_TIME)),
        }
    }

    /// Whether it is known which Secrets there are.
    pub(super) fn listed(&self) -> bool {
        self.listed
    }

    /// The Secrets that have been fetched.
    pub(super) fn state(&self) -> impl Iterator<Item = Arc<Secret>> {
        self.wanted.values().filter_map(|wanted| wanted.secret.clone())
    }

    /// Those that exist and could never be fetched, with the reason.
    pub(super) fn unfetched(&self) -> impl Iterator<Item = (ObjectName, String)> {
        let never = self.wanted.iter().filter(|(_, wanted)| wanted.secret.is_none());
        never.filter_map(|(name, wanted)| Some((name.clone(), wanted.failing.clone()?)))
    }

    /// Takes in what has become of the metadata.
    pub(super) fn apply(&mut self, event: Event<PartialObjectMeta<Secret>>) -> Effect {
        let version = |object: &PartialObjectMeta<Secret>| object.metadata.resource_version.clone().unwrap_or_default();
        match event {
            Event::Init => {
                self.versions_in_listing.clear();
                Effect::None
            }
            Event::InitApply(object) => {
                self.versions_in_listing.insert(object_name(&object.metadata), version(&object));
                Effect::None
            }
            Event::InitDone => {
                self.versions = std::mem::take(&mut self.versions_in_listing);
                self.listed = true;
                self.fetch_all();
                Effect::Table
            }
            Event::Apply(object) => {
                let name = object_name(&object.metadata);
                self.versions.insert(name.clone(), version(&object));
                self.fetch(&name);
                Effect::None
            }
            Event::Delete(object) => {
                let name = object_name(&object.metadata);
                self.versions.remove(&name);
                if self.wanted.remove(&name).is_some() { Effect::Table } else { Effect::None }
            }
        }
    }

    /// Fetches those of the references that are not known yet, and forgets what is not referred to any more.
    pub(super) fn refer(&mut self, references: HashSet<ObjectName>) {
        self.references = references;
        self.fetch_all();
    }

    /// Until when to wait for Secrets that are being fetched for the first time, each for as long as `patience`: without
    /// them, a certificate would be called missing that is only on its way. `None` if there is nothing to wait for.
    pub(super) fn awaited(&self, patience: Duration) -> Option<Instant> {
        let first = |wanted: &&Wanted| wanted.secret.is_none() && wanted.fetching && wanted.failing.is_none();
        let until = self.wanted.values().filter(first).map(|wanted| wanted.since + patience);
        until.filter(|until| *until > Instant::now()).max()
    }

    /// The effect of the next Secret that has been fetched. Nothing is lost where it is dropped.
    pub(super) async fn fetched(&mut self) -> Effect {
        match self.fetches.next().await {
            Some(fetched) => self.take(fetched),
            None => std::future::pending().await,
        }
    }

    fn fetch_all(&mut self) {
        let (references, versions) = (&self.references, &self.versions);
        self.wanted.retain(|name, _| references.contains(name) && versions.contains_key(name));
        let names: Vec<ObjectName> = references.iter().filter(|name| versions.contains_key(*name)).cloned().collect();
        for name in names {
            self.fetch(&name);
        }
    }

    /// Fetches a Secret, if it is referred to and has another version than before.
    fn fetch(&mut self, name: &ObjectName) {
        let (Some(client), Some(version)) = (&self.client, self.versions.get(name)) else { return };
        if !self.references.contains(name) {
            return;
        }
        let wanted = self.wanted.entry(name.clone()).or_insert_with(Wanted::new);
        if wanted.fetching || wanted.version.as_ref() == Some(version) {
            return;
        }
        wanted.fetching = true;
        let pause = if wanted.failing.is_some() { wanted.pauses.after_failure() } else { Duration::ZERO };
        let api = Api::<Secret>::namespaced(client.clone(), &name.namespace);
        let (name, version, places) = (name.clone(), version.clone(), self.places.clone());
        let fetch = async move {
            tokio::time::sleep(pause).await;
            // It is never closed, so there always is a place.
            let _place = places.acquire().await;
            let secret = api.get_opt(&name.name).await;
            Fetched { name, version, secret }
        };
        self.fetches.push(fetch.boxed());
    }

    fn take(&mut self, Fetched { name, version, secret }: Fetched) -> Effect {
        // It may have gone meanwhile, or nobody refers to it any more.
        let Some(wanted) = self.wanted.get_mut(&name) else { return Effect::None };
        wanted.fetching = false;
        let was_failing = wanted.failing.take().is_some();
        let effect = match secret {
            Ok(secret) => {
                if was_failing {
                    info!(secret = %name, "the Secret is fetched again");
                }
                wanted.version = Some(version);
                // Between the two requests, one of the type may have made way for one of another.
                let of_type = |secret: &Secret| secret.type_.as_deref() == Some(SecretType::Tls.as_str());
                let secret = secret.filter(of_type).map(lean).map(Arc::new);
                let same = wanted.secret.is_some()
                    && wanted.secret.as_ref().map(|secret| &secret.data) == secret.as_ref().map(|secret| &secret.data);
                wanted.secret = secret;
                if same { Effect::None } else { Effect::Table }
            }
            Err(error) => {
                self.metrics.reconcile_error("Secret");
                wanted.failing = Some(error.to_string());
                if was_failing {
                    debug!(secret = %name, "still not fetched: {error}");
                } else {
                    warn!(secret = %name, "the Secret cannot be fetched, its last content stays in force: {error}");
                }
                // Whoever waits for it waits no longer.
                if was_failing { Effect::None } else { Effect::Table }
            }
        };
        self.fetch(&name);
        effect
    }
}

// === impl Wanted ===

impl Wanted {
    fn new() -> Self {
        Self {
            secret: None,
            version: None,
            fetching: false,
            failing: None,
            since: Instant::now(),
            pauses: Pauses::default(),
        }
    }
}

/// Without what nobody reads: an annotation of kubectl may hold the key once more.
fn lean(mut secret: Secret) -> Secret {
    secret.metadata.managed_fields = None;
    secret.metadata.annotations = None;
    secret
}
