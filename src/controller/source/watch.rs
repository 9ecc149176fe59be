use std::{fmt::Debug, future, sync::Arc};

use futures::{Stream, StreamExt};
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tracing::{debug, info, warn};

use crate::controller::{metrics::Metrics, pauses::Pauses};

/// Watches objects for ever. What fails is counted, said once until it works again, and tried again after a pause.
pub(in crate::controller) fn watch<K>(
    api: Api<K>,
    config: watcher::Config,
    kind: &'static str,
    metrics: Arc<Metrics>,
) -> impl Stream<Item = Event<K>> + Send + 'static
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut failing = false;
    let events = watcher(api, config).backoff(Pauses::default());
    events.filter_map(move |event| {
        future::ready(match event {
            Ok(event) => {
                // The beginning of a list is only an intention.
                if failing && !matches!(event, Event::Init) {
                    failing = false;
                    info!(kind, "the objects are watched again");
                }
                Some(event)
            }
            Err(watcher::Error::WatchError(status)) if status.code == 410 => {
                debug!(kind, "the watch is too old to be continued, the objects are listed anew");
                None
            }
            Err(error) => {
                metrics.reconcile_error(kind);
                if failing {
                    debug!(kind, "still not watched: {error}");
                } else {
                    warn!(kind, "the objects cannot be watched, the last known ones stay in force: {}", chain(&error));
                }
                failing = true;
                None
            }
        })
    })
}

/// An error with its causes: the outermost of kube's says only where it happened.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<String> = Vec::new();
    for text in causes.map(ToString::to_string) {
        // Most repeat their cause already.
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}
