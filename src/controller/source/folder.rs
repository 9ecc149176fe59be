use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    core::{DeserializeGuard, PartialObjectMetaExt, error_boundary::InvalidObject},
    runtime::watcher::Event,
};
use notify::{EventKind, RecursiveMode, Watcher, event::AccessKind};
use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::{Change, Dating, Entry, Manifest, Object, Source, manifest_names};
use crate::routing::ObjectName;

/// How long the folder must be quiet before it is read: a file is often written in several steps.
const QUIET: Duration = Duration::from_millis(50);

/// How long a folder that never gets quiet is waited for.
const AT_MOST: Duration = Duration::from_millis(500);

/// The folder cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("the folder {} cannot be watched: {problem}", dir.display())]
pub struct FolderError {
    dir: PathBuf,
    problem: String,
}

/// A folder of manifests, and what has been read from it.
struct Folder {
    dir: PathBuf,
    files: BTreeMap<String, File>,
    /// What has been complained about and still holds, so that it is said once.
    complaints: HashSet<String>,
    changed: Arc<Notify>,
    /// Ends the watch when dropped.
    _watcher: notify::RecommendedWatcher,
}

/// One file: its text as it was read last, and its objects as they were when it was well-formed last.
#[derive(Default)]
struct File {
    text: Vec<u8>,
    entries: Vec<Entry>,
}

/// The objects of `*.yaml`, `*.yml` and `*.json` in `dir`, listed anew whenever a file changes.
///
/// A file that is malformed keeps its last good objects. Objects are ordered by creation time where they have one, else
/// by file name and place.
///
/// # Errors
/// Where the folder does not exist or cannot be watched.
pub(in crate::controller) fn folder(dir: &Path) -> Result<Source, FolderError> {
    let failed = |problem: String| FolderError { dir: dir.to_owned(), problem };
    let changed = Arc::new(Notify::new());
    let notifier = changed.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the files is no change. An error may have hidden one.
        let reading = |kind: EventKind| {
            matches!(kind, EventKind::Access(access) if !matches!(access, AccessKind::Close(notify::event::AccessMode::Write)))
        };
        if !event.is_ok_and(|event| reading(event.kind)) {
            notifier.notify_one();
        }
    })
    .map_err(|error| failed(error.to_string()))?;
    fs::read_dir(dir).map_err(|error| failed(error.to_string()))?;
    watcher.watch(dir, RecursiveMode::NonRecursive).map_err(|error| failed(error.to_string()))?;
    // The first reading waits for nothing.
    changed.notify_one();

    let folder =
        Folder { dir: dir.to_owned(), files: BTreeMap::new(), complaints: HashSet::new(), changed, _watcher: watcher };
    let lists = stream::unfold((folder, true), |(folder, first)| async move {
        folder.changed.notified().await;
        if !first {
            folder.settle().await;
        }
        // Reading and parsing block; a large folder takes a while.
        let (folder, list) = tokio::task::spawn_blocking(move || {
            let mut folder = folder;
            let list = folder.read();
            (folder, list)
        })
        .await
        .ok()?;
        Some((stream::iter(list), (folder, false)))
    });
    Ok(Source { changes: lists.flatten().boxed(), secret_lists: 1, tls_secrets: None, namespaces: true })
}

// === impl Folder ===

impl Folder {
    /// Waits until nothing has changed for a moment.
    async fn settle(&self) {
        let quiet = async { while tokio::time::timeout(QUIET, self.changed.notified()).await.is_ok() {} };
        // Past the bound the folder is read as it is; it will be read again.
        let _ = tokio::time::timeout(AT_MOST, quiet).await;
    }

    /// Reads what has changed, and lists all objects of all files.
    fn read(&mut self) -> Vec<Change> {
        let mut complaints = Vec::new();
        match manifest_names(&self.dir) {
            Ok(names) => {
                self.files.retain(|name, _| names.contains(name));
                for name in names {
                    self.read_file(&name, &mut complaints);
                }
            }
            // What has been read stays in force: an unmounted folder is no order to serve nothing.
            Err(error) => complaints.push(format!("{}: {error}", self.dir.display())),
        }
        let (list, of_objects) = list(&self.files);
        complaints.extend(of_objects);
        for complaint in &complaints {
            if !self.complaints.contains(complaint) {
                error!(folder = %self.dir.display(), "{complaint}");
            }
        }
        self.complaints = complaints.into_iter().collect();
        list
    }

    fn read_file(&mut self, name: &str, complaints: &mut Vec<String>) {
        let text = match fs::read(self.dir.join(name)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.files.remove(name);
                return;
            }
            Err(error) => {
                complaints.push(format!("{name}: {error}; its last good objects stay in force"));
                return;
            }
        };
        let known = self.files.contains_key(name);
        let file = self.files.entry(name.to_owned()).or_default();
        let unchanged = known && file.text == text;
        let manifest = match std::str::from_utf8(&text) {
            Ok(_) if unchanged && !self.complaints.iter().any(|complaint| complaint.starts_with(name)) => return,
            Ok(text) => Manifest::parse(text).map_err(|error| format!("{name}, {error}")),
            Err(_) => Err(format!("{name}: it is not UTF-8 text")),
        };
        match manifest {
            Ok(manifest) => {
                if !unchanged {
                    let others: HashSet<String> = manifest.others.into_iter().collect();
                    for other in others {
                        warn!(file = name, "objects of {other} are not read from a folder; they are skipped");
                    }
                    info!(file = name, objects = manifest.entries.len(), "read");
                }
                file.entries = manifest.entries;
            }
            Err(problem) => complaints.push(format!("{problem}; its last good objects stay in force")),
        }
        file.text = text;
    }
}

/// One list of all objects, complete for every kind, and what is there twice or cannot be used.
fn list(files: &BTreeMap<String, File>) -> (Vec<Change>, Vec<String>) {
    let mut changes = vec![
        Change::Namespace(Event::Init),
        Change::Secret(0, Event::Init),
        Change::TunnelAgent(Event::Init),
        Change::TunnelHost(Event::Init),
    ];
    let mut complaints = Vec::new();
    let mut seen = HashMap::<(&str, &ObjectName), (&str, usize)>::new();
    let mut dating = Dating::default();
    for (file, entry) in files.iter().flat_map(|(name, file)| file.entries.iter().map(move |entry| (name, entry))) {
        if let Some((first, line)) = seen.insert((entry.kind, &entry.name), (file, entry.line)) {
            complaints.push(format!(
                "{file}, line {}: {entry} is in {first}, line {line}, too; only that is used",
                entry.line
            ));
            seen.insert((entry.kind, &entry.name), (first, line));
            continue;
        }
        let place = format!("{file}, line {}", entry.line);
        match change(entry, &place, &mut dating) {
            Ok(change) => changes.push(change),
            Err(complaint) => complaints.push(complaint),
        }
    }
    changes.extend([
        Change::Namespace(Event::InitDone),
        Change::Secret(0, Event::InitDone),
        Change::TunnelAgent(Event::InitDone),
        Change::TunnelHost(Event::InitDone),
    ]);
    (changes, complaints)
}

/// What an entry comes to. A Namespace that cannot be read is only to be told: it has no labels then, and who is admitted by
/// them is not.
fn change(entry: &Entry, place: &str, dating: &mut Dating) -> Result<Change, String> {
    fn apply<K>(object: Result<K, InvalidObject>) -> Event<DeserializeGuard<K>> {
        Event::InitApply(DeserializeGuard(object))
    }
    let mut object = match &entry.object {
        Ok(object) => object.clone(),
        Err(findings) => {
            let findings: Vec<String> = findings.iter().map(ToString::to_string).collect();
            let (namespace, name) = (entry.name.namespace.to_string(), entry.name.name.to_string());
            let metadata = ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() };
            let invalid = InvalidObject { error: format!("{place}: {}", findings.join("; ")), metadata };
            return match entry.kind {
                "TunnelHost" => Ok(Change::TunnelHost(apply(Err(invalid)))),
                "TunnelAgent" => Ok(Change::TunnelAgent(apply(Err(invalid)))),
                "Secret" => Ok(Change::Secret(0, apply(Err(invalid)))),
                _ => Err(invalid.error),
            };
        }
    };
    dating.date(&mut object);
    Ok(match object {
        Object::TunnelHost(host) => Change::TunnelHost(apply(Ok(*host))),
        Object::TunnelAgent(agent) => Change::TunnelAgent(apply(Ok(*agent))),
        Object::Secret(secret) => Change::Secret(0, apply(Ok(*secret))),
        Object::Namespace(namespace) => Change::Namespace(Event::InitApply(namespace.metadata.into_response_partial())),
    })
}
