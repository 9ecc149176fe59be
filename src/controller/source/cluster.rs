use std::{fmt::Debug, sync::Arc};

use futures::{Stream, StreamExt, future, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, Resource,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tracing::warn;

use super::{Change, Source};
use crate::{
    api::{SecretType, TunnelAgent, TunnelHost},
    controller::{metrics::Metrics, pauses::Pauses},
};

/// The objects of a cluster. A watch that fails is taken up again with growing pauses; what it brought stays in force.
///
/// Secrets are watched by type, one watch each: no other Secret ever enters this process.
pub(in crate::controller) fn cluster(client: &Client, metrics: &Arc<Metrics>) -> Source {
    let hosts = watch::<TunnelHost>(client, watcher::Config::default(), "TunnelHost", metrics);
    let agents = watch::<TunnelAgent>(client, watcher::Config::default(), "TunnelAgent", metrics);
    let mut changes = vec![hosts.map(Change::TunnelHost).boxed(), agents.map(Change::TunnelAgent).boxed()];
    for (list, kind) in SecretType::ALL.into_iter().enumerate() {
        let config = watcher::Config::default().fields(&format!("type={}", kind.as_str()));
        let secrets = watch::<Secret>(client, config, "Secret", metrics);
        changes.push(secrets.map(move |event| Change::Secret(list, event)).boxed());
    }
    Source { changes: stream::select_all(changes).boxed(), secret_lists: SecretType::ALL.len() }
}

fn watch<K>(
    client: &Client,
    config: watcher::Config,
    kind: &'static str,
    metrics: &Arc<Metrics>,
) -> impl Stream<Item = Event<DeserializeGuard<K>>> + Send + 'static
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let metrics = metrics.clone();
    let events = watcher(Api::<DeserializeGuard<K>>::all(client.clone()), config).backoff(Pauses::default());
    events.filter_map(move |event| {
        future::ready(match event {
            Ok(event) => Some(event),
            Err(error) => {
                metrics.reconcile_error(kind);
                warn!(kind, "the API server cannot be watched, the last known objects stay in force: {error}");
                None
            }
        })
    })
}
