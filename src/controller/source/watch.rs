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

/// The objects may not be listed, or are not there to be listed: a namespace that is gone, or without a Role for this edge.
pub(super) struct Refused;

/// Tells what becomes of one watch.
struct Teller {
    kind: &'static str,
    /// `None`: all of them.
    namespace: Option<String>,
    metrics: Arc<Metrics>,
    /// Whether nothing is asked for in other namespaces but what is granted there one by one.
    scoped: bool,
    /// Whether there has been a list.
    listed: bool,
    /// What is said already, until it works again.
    said: Option<Trouble>,
}

/// Why objects cannot be watched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Refused,
    Other,
}

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
    let teller = Teller::new(&api, kind, metrics, false);
    told(api, config, teller).filter_map(|event| future::ready(event.ok()))
}

/// Watches the objects of one of several namespaces in the same way, and says whenever that is refused.
pub(super) fn watch_part<K>(
    api: Api<K>,
    config: watcher::Config,
    kind: &'static str,
    metrics: Arc<Metrics>,
) -> impl Stream<Item = Result<Event<K>, Refused>> + Send + 'static
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let teller = Teller::new(&api, kind, metrics, true);
    told(api, config, teller)
}

fn told<K>(
    api: Api<K>,
    config: watcher::Config,
    mut teller: Teller,
) -> impl Stream<Item = Result<Event<K>, Refused>> + Send + 'static
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let events = watcher(api, config).backoff(Pauses::default());
    events.filter_map(move |event| {
        future::ready(match event {
            Ok(event) => {
                teller.works(&event);
                Some(Ok(event))
            }
            Err(error) => (teller.fails(&error) == Some(Trouble::Refused)).then_some(Err(Refused)),
        })
    })
}

// === impl Teller ===

impl Teller {
    fn new<K: Resource>(api: &Api<K>, kind: &'static str, metrics: Arc<Metrics>, scoped: bool) -> Self {
        let namespace = api.namespace().map(str::to_owned);
        Self { kind, namespace, metrics, scoped, listed: false, said: None }
    }

    fn works<K>(&mut self, event: &Event<K>) {
        // The beginning of a list is only an intention.
        if matches!(event, Event::Init) {
            return;
        }
        self.listed |= matches!(event, Event::InitDone);
        if self.said.take().is_some() {
            info!(kind = self.kind, namespace = self.namespace, "the objects are watched again");
        }
    }

    /// `None` where a watch has only become too old.
    fn fails(&mut self, error: &watcher::Error) -> Option<Trouble> {
        let (kind, namespace) = (self.kind, self.namespace.as_deref());
        let trouble = match error {
            watcher::Error::WatchError(status) if status.code == 410 => {
                debug!(kind, namespace, "the watch is too old to be continued, the objects are listed anew");
                return None;
            }
            watcher::Error::InitialListFailed(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
                Trouble::Refused
            }
            _ => Trouble::Other,
        };
        self.metrics.reconcile_error(kind);
        // Of two that alternate each is said once.
        let is_new = self.said.is_none_or(|said| (said, trouble) == (Trouble::Other, Trouble::Refused));
        if !is_new {
            debug!(kind, namespace, "still not watched: {error}");
            return Some(trouble);
        }
        self.said = Some(trouble);
        let error = chain(error);
        if self.scoped && trouble == Trouble::Refused && !self.listed {
            warn!(
                kind,
                namespace,
                "the namespace does not let the edge read it: until it does, none of these objects count. If it exists, \
                 give the edge's ServiceAccount the Role of the chart there; if it is gone, take it out of \
                 watchNamespaces (--watch-namespaces): {error}"
            );
        } else {
            warn!(kind, namespace, "the objects cannot be watched, the last known ones stay in force: {error}");
        }
        Some(trouble)
    }
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
