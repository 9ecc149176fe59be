use std::sync::Arc;

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{Api, Client, api::PartialObjectMeta, core::DeserializeGuard, runtime::watcher};

use super::{Change, Source, watch};
use crate::{
    api::{SecretType, TunnelAgent, TunnelHost},
    controller::metrics::Metrics,
};

/// The objects of a cluster. Secrets are watched by type, one watch each, and of those that hold certificates only the
/// metadata: no other Secret ever enters this process. Of namespaces there are labels, and no more is asked for.
pub(in crate::controller) fn cluster(client: &Client, metrics: &Arc<Metrics>) -> Source {
    let all = watcher::Config::default();
    let hosts = Api::<DeserializeGuard<TunnelHost>>::all(client.clone());
    let hosts = watch(hosts, all.clone(), "TunnelHost", metrics.clone()).map(Change::TunnelHost);
    let agents = Api::<DeserializeGuard<TunnelAgent>>::all(client.clone());
    let agents = watch(agents, all, "TunnelAgent", metrics.clone()).map(Change::TunnelAgent);
    let mut changes = vec![hosts.boxed(), agents.boxed()];
    for (list, kind) in SecretType::WATCHED.into_iter().enumerate() {
        let config = watcher::Config::default().fields(&format!("type={}", kind.as_str()));
        let secrets = Api::<DeserializeGuard<Secret>>::all(client.clone());
        let secrets = watch(secrets, config, "Secret", metrics.clone());
        changes.push(secrets.map(move |event| Change::Secret(list, event)).boxed());
    }
    let config = watcher::Config::default().fields(&format!("type={}", SecretType::Tls.as_str()));
    let certificates = Api::<PartialObjectMeta<Secret>>::all(client.clone());
    changes.push(watch(certificates, config, "Secret", metrics.clone()).map(Change::TlsSecret).boxed());
    let namespaces = Api::<PartialObjectMeta<Namespace>>::all(client.clone());
    let namespaces = watch(namespaces, watcher::Config::default(), "Namespace", metrics.clone());
    changes.push(namespaces.map(Change::Namespace).boxed());
    Source {
        changes: stream::select_all(changes).boxed(),
        secret_lists: SecretType::WATCHED.len(),
        tls_secrets: Some(client.clone()),
    }
}
