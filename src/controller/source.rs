//! Where objects come from: an API server, or a folder. Both yield the events of kube's watcher, so that behind them
//! everything is the same.

mod cluster;
mod folder;
mod manifest;
mod merge;
mod watch;

use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{Client, api::PartialObjectMeta, core::DeserializeGuard, runtime::watcher::Event};

pub(super) use self::{cluster::cluster, folder::folder, watch::watch};
pub use self::{
    folder::FolderError,
    manifest::{Dating, Entry, Manifest, Object, SyntaxError, manifest_names},
};
use crate::api::{TunnelAgent, TunnelHost};

/// A stream of changes that never ends; what goes wrong on the way is its own to retry.
pub(super) struct Source {
    pub(super) changes: BoxStream<'static, Change>,
    /// How many lists of Secrets it keeps; each is complete by itself.
    pub(super) secret_lists: usize,
    /// Where the Secrets of type `kubernetes.io/tls` are to be fetched, of which only the metadata comes by itself; `None` where
    /// they come as all others do.
    pub(super) tls_secrets: Option<Client>,
    /// Whether the labels of namespaces are among the changes.
    pub(super) namespaces: bool,
}

/// One event of one list of objects. An object that could not be read is an error with its metadata: its last good
/// version stays in force.
#[allow(clippy::large_enum_variant, reason = "it is moved once, from the stream into the stores")]
pub(super) enum Change {
    TunnelHost(Event<DeserializeGuard<TunnelHost>>),
    TunnelAgent(Event<DeserializeGuard<TunnelAgent>>),
    /// With the number of the list, as one watch sees one type of Secret.
    Secret(usize, Event<DeserializeGuard<Secret>>),
    /// The metadata of a Secret of type `kubernetes.io/tls`.
    TlsSecret(Event<PartialObjectMeta<Secret>>),
    /// The metadata of a namespace.
    Namespace(Event<PartialObjectMeta<Namespace>>),
}
