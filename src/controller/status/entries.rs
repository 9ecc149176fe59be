use std::{collections::BTreeSet, fmt::Debug, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::NamespaceResourceScope,
    runtime::reflector::Store,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::sync::watch;
use tracing::warn;

use super::ledger::Ledger;
use crate::{
    api::{GROUP, VERSION},
    compile::object_name,
    controller::{
        metrics::{Metrics, StatusUpdate},
        pauses::Pauses,
    },
    routing::ObjectName,
};

/// How long what is known must be quiet before it is written: an agent that starts opens several sessions at once, and has many
/// targets.
const QUIET: Duration = Duration::from_millis(100);

/// How many objects are written at a time.
const CONCURRENCY: usize = 8;

/// Entries of which every replica owns its own, in one list of the status of the objects of one kind.
pub(in crate::controller) trait Entries {
    type Object: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static;
    type Entry: Clone + Ord + Serialize;
    /// What this replica knows of all objects.
    type Known: Send + Sync;

    /// The list's name in the status.
    const FIELD: &'static str;

    /// The entries of `replica`, in order, that an object should have.
    fn desired(known: &Self::Known, object: &ObjectName, replica: &str) -> Vec<Self::Entry>;

    /// Those of all replicas that it has.
    fn current(object: &Self::Object) -> &[Self::Entry];

    /// Whose an entry is.
    fn replica(entry: &Self::Entry) -> &String;
}

/// Writes the entries of this replica.
///
/// Every replica owns its own, by server-side apply with its pod's name as field manager: applying the whole set of them adds,
/// changes and removes them, and never touches those of others.
pub(in crate::controller) struct EntryWriter<E: Entries> {
    pub(in crate::controller) client: Client,
    pub(in crate::controller) replica: String,
    pub(in crate::controller) objects: Store<E::Object>,
    pub(in crate::controller) known: watch::Receiver<Arc<E::Known>>,
    pub(in crate::controller) touched: watch::Receiver<()>,
    pub(in crate::controller) metrics: Arc<Metrics>,
}

/// The entries of one replica in one object's status, as they should be.
struct Due<T> {
    object: ObjectName,
    version: Option<String>,
    entries: Vec<T>,
}

// === impl EntryWriter ===

impl<E: Entries> EntryWriter<E> {
    pub(in crate::controller) async fn run(mut self) {
        // What is in the status before the first listing is unknown.
        if self.objects.wait_until_ready().await.is_err() {
            return;
        }
        let mut ledger = Ledger::new();
        let mut pauses = Pauses::default();
        loop {
            self.known.mark_unchanged();
            self.touched.mark_unchanged();
            let failed = self.write(&mut ledger).await;
            let retry = failed.then(|| pauses.after_failure());
            tokio::select! {
                changed = self.known.changed() => if changed.is_err() { return },
                changed = self.touched.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(retry.unwrap_or_default()), if retry.is_some() => {}
            }
            tokio::time::sleep(QUIET).await;
        }
    }

    /// Writes the entries that differ, and says whether one could not be written.
    async fn write(&self, ledger: &mut Ledger<ObjectName, Vec<E::Entry>>) -> bool {
        let due = self.due(ledger);
        let writes = stream::iter(due).map(|due| async move {
            let result = apply::<E>(&self.client, &due.object, &self.replica, &due.entries).await;
            (due, result)
        });
        let mut writes = std::pin::pin!(writes.buffer_unordered(CONCURRENCY));
        let mut failed = false;
        while let Some((due, result)) = writes.next().await {
            match result {
                Ok(()) => {
                    self.metrics.status_update(StatusUpdate::Success);
                    ledger.note(due.object, due.version, due.entries);
                }
                Err(error) => {
                    self.metrics.status_update(StatusUpdate::Failure);
                    let (kind, field) = (E::Object::kind(&()), E::FIELD);
                    warn!(%kind, object = %due.object, "its {field} could not be written, this is tried again: {error}");
                    failed = true;
                }
            }
        }
        failed
    }

    fn due(&self, ledger: &mut Ledger<ObjectName, Vec<E::Entry>>) -> Vec<Due<E::Entry>> {
        let known = self.known.borrow().clone();
        let mut due = Vec::new();
        ledger.begin();
        for object in self.objects.state() {
            let name = object_name(object.meta());
            let desired = E::desired(&known, &name, &self.replica);
            let own = E::current(&object).iter().filter(|entry| *E::replica(entry) == self.replica);
            let mut current: Vec<_> = own.cloned().collect();
            current.sort();
            let version = object.resource_version();
            if current != desired && !ledger.has(&name, version.as_ref(), &desired) {
                due.push(Due { object: name, version, entries: desired });
            }
        }
        due
    }
}

/// Removes what replicas that are gone have said: in their name, as nobody else owns it. Says whether something could not
/// be removed.
pub(super) async fn remove_gone<E: Entries>(
    client: &Client,
    objects: &Store<E::Object>,
    exists: impl Fn(&String) -> bool,
    metrics: &Metrics,
) -> bool {
    let mut failed = false;
    for object in objects.state() {
        let gone: BTreeSet<_> = E::current(&object).iter().map(E::replica).filter(|replica| !exists(replica)).collect();
        let name = object_name(object.meta());
        for replica in gone {
            match apply::<E>(client, &name, replica, &[]).await {
                Ok(()) => metrics.status_update(StatusUpdate::Success),
                Err(error) => {
                    metrics.status_update(StatusUpdate::Failure);
                    let (kind, field) = (E::Object::kind(&()), E::FIELD);
                    warn!(%kind, object = %name, replica, "{field} of a gone replica could not be removed: {error}");
                    failed = true;
                }
            }
        }
    }
    failed
}

/// Makes `entries` all that `replica` owns in the object's list. An object that is gone needs none.
async fn apply<E: Entries>(
    client: &Client,
    object: &ObjectName,
    replica: &str,
    entries: &[E::Entry],
) -> kube::Result<()> {
    let api = Api::<E::Object>::namespaced(client.clone(), &object.namespace);
    let patch = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": E::Object::kind(&()),
        "metadata": {"name": &*object.name},
        "status": {E::FIELD: entries},
    });
    match api.patch_status(&object.name, &PatchParams::apply(manager(replica)).force(), &Patch::Apply(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

/// The owner of what a replica writes for itself, in server-side apply.
fn manager(replica: &str) -> &str {
    // An API server takes 128 bytes; the end of a pod's name is what tells it apart.
    replica.get(replica.len().saturating_sub(128)..).unwrap_or(replica)
}
