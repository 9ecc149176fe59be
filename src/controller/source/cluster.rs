use std::{fmt::Debug, sync::Arc};

use futures::{StreamExt, stream, stream::BoxStream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Namespace, Secret},
};
use kube::{
    Api, Client, Resource,
    api::{ObjectMeta, PartialObjectMeta},
    core::{DeserializeGuard, PartialObjectMetaExt, error_boundary::InvalidObject},
    runtime::watcher::{self, Event},
};
use serde::de::DeserializeOwned;

use super::{
    Change, Source,
    merge::merge,
    watch::{watch, watch_part},
};
use crate::{
    api::{SecretType, TunnelAgent, TunnelHost},
    controller::{NamespaceName, metrics::Metrics},
};

/// The objects of a cluster: of these namespaces, or of all where none is given. Secrets are watched by type, one watch each, and
/// of those that hold certificates only the metadata: no other Secret ever enters this process. Of namespaces there are labels, and
/// no more is asked for; where only some are watched, nothing, since nobody can read Namespaces without reading all of them.
pub(in crate::controller) fn cluster(client: &Client, namespaces: &[NamespaceName], metrics: &Arc<Metrics>) -> Source {
    let watches = Watches { client, namespaces, metrics };
    let all = watcher::Config::default();
    let hosts = watches.of::<DeserializeGuard<TunnelHost>>("TunnelHost", &all, unread);
    let agents = watches.of::<DeserializeGuard<TunnelAgent>>("TunnelAgent", &all, unread);
    let mut changes = vec![hosts.map(Change::TunnelHost).boxed(), agents.map(Change::TunnelAgent).boxed()];
    let of_type = |kind: SecretType| watcher::Config::default().fields(&format!("type={}", kind.as_str()));
    for (list, kind) in SecretType::WATCHED.into_iter().enumerate() {
        let secrets = watches.of::<DeserializeGuard<Secret>>("Secret", &of_type(kind), unread);
        changes.push(secrets.map(move |event| Change::Secret(list, event)).boxed());
    }
    let gone = ObjectMeta::into_response_partial;
    let certificates = watches.of::<PartialObjectMeta<Secret>>("Secret", &of_type(SecretType::Tls), gone);
    changes.push(certificates.map(Change::TlsSecret).boxed());
    if namespaces.is_empty() {
        let namespaces = Api::<PartialObjectMeta<Namespace>>::all(client.clone());
        let namespaces = watch(namespaces, all, "Namespace", metrics.clone());
        changes.push(namespaces.map(Change::Namespace).boxed());
    }
    Source {
        changes: stream::select_all(changes).boxed(),
        secret_lists: SecretType::WATCHED.len(),
        tls_secrets: Some(client.clone()),
        namespaces: namespaces.is_empty(),
    }
}

/// What all watches have in common.
struct Watches<'a> {
    client: &'a Client,
    /// Empty: all.
    namespaces: &'a [NamespaceName],
    metrics: &'a Arc<Metrics>,
}

// === impl Watches ===

impl Watches<'_> {
    /// One watch, or one for each namespace as if they were one.
    fn of<K>(
        &self,
        kind: &'static str,
        config: &watcher::Config,
        gone: fn(ObjectMeta) -> K,
    ) -> BoxStream<'static, Event<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + 'static,
    {
        let metrics = || self.metrics.clone();
        if self.namespaces.is_empty() {
            return watch(Api::<K>::all(self.client.clone()), config.clone(), kind, metrics()).boxed();
        }
        let watches = self.namespaces.iter().map(|namespace| {
            let api = Api::namespaced(self.client.clone(), namespace.as_str());
            (namespace.as_str().to_owned(), watch_part(api, config.clone(), kind, metrics()))
        });
        merge(watches, gone).boxed()
    }
}

/// An object of which nothing but the name is known.
fn unread<K>(metadata: ObjectMeta) -> DeserializeGuard<K> {
    DeserializeGuard(Err(InvalidObject { error: String::new(), metadata }))
}
