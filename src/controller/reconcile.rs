use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use tokio::{sync::watch, time::Instant};
use tracing::{debug, error, info};

use super::{
    metrics::Metrics,
    source::Source,
    stores::{Effect, Stores},
};
use crate::{
    api::TunnelAgent,
    compile::{Compiled, Objects, compile, object_name},
    routing::ObjectName,
};

/// How long the objects must be quiet before they are compiled: `kubectl apply` of a folder comes as many changes.
const QUIET: Duration = Duration::from_millis(50);

/// How long objects that never get quiet are waited for.
const AT_MOST: Duration = Duration::from_millis(200);

/// How long the objects wait for Secrets that have to be fetched for them, so that nothing is called missing that is only on
/// its way; and how long the first table waits, without which visitors would see the wrong certificate.
const FETCH: Duration = Duration::from_millis(500);
const FIRST_FETCH: Duration = Duration::from_secs(5);

/// What the loop tells the rest of the process.
pub(super) struct Published {
    /// The last compilation; `None` until all objects have been listed once.
    pub(super) compiled: watch::Sender<Option<Arc<Compiled>>>,
    /// Sent once, before the first compilation.
    pub(super) expected: watch::Sender<Arc<[ObjectName]>>,
    /// Sent after every change that could make a status differ from what is written.
    pub(super) touched: watch::Sender<()>,
}

/// When to compile next, as long as something has changed.
struct Due {
    quiet: Instant,
    at_most: Instant,
}

/// Follows the source for ever: keeps the stores up to date, and compiles them when they have changed.
pub(super) async fn run(mut source: Source, mut stores: Stores, published: Published, metrics: Arc<Metrics>) {
    let mut due: Option<Due> = None;
    loop {
        let when = due.as_ref().map(|due| due.quiet.min(due.at_most));
        // Biased: all that is ready is taken in before the objects are compiled. The lists of a folder come at once, and
        // half of them would be compiled to broken references.
        let effect = tokio::select! {
            biased;
            change = source.changes.next() => {
                let Some(change) = change else {
                    error!("the source of objects has ended; the last known ones stay in force");
                    return;
                };
                stores.apply(change)
            }
            effect = stores.fetched() => effect,
            () = sleep_until(when) => {
                due = None;
                if stores.complete() {
                    let first = published.compiled.borrow().is_none();
                    match stores.fetch(if first { FIRST_FETCH } else { FETCH }) {
                        Some(until) => due = Some(Due { quiet: until, at_most: until }),
                        None => publish(stores.objects(), &published, &metrics).await,
                    }
                }
                continue;
            }
        };
        match effect {
            Effect::None => {}
            Effect::Status => {
                published.touched.send_replace(());
            }
            Effect::Table => {
                let now = Instant::now();
                let at_most = due.map_or(now + AT_MOST, |due| due.at_most);
                // Agents and visitors wait for the first table, which has all there is as soon as the lists are complete.
                let starts = published.compiled.borrow().is_none() && stores.complete();
                due = Some(Due { quiet: if starts { now } else { now + QUIET }, at_most });
            }
        }
    }
}

async fn publish(objects: Objects, published: &Published, metrics: &Metrics) {
    let previous = published.compiled.borrow().clone();
    let first = previous.is_none();
    if first {
        published.expected.send_replace(connected(&objects));
    }
    let started = Instant::now();
    // It takes a while where there are many objects, and requests must not wait for it.
    let compiled = tokio::task::spawn_blocking(move || Arc::new(compile(&objects, previous.as_deref()))).await;
    let Ok(compiled) = compiled else {
        error!("the objects could not be compiled; the last routing table stays in force");
        return;
    };
    metrics.compiled(compiled.rule_count(), started.elapsed());
    metrics.certificates(&compiled, published.compiled.borrow().as_deref());
    if first {
        info!(routes = compiled.rule_count(), objects = compiled.verdicts.len(), "the first routing table is made");
    } else {
        debug!(routes = compiled.rule_count(), duration = ?started.elapsed(), "the routing table is made anew");
    }
    published.compiled.send_replace(Some(compiled));
    published.touched.send_replace(());
}

/// The agents that have a session, as far as their status tells.
fn connected(objects: &Objects) -> Arc<[ObjectName]> {
    let connected = |agent: &&Arc<TunnelAgent>| agent.status.as_ref().is_some_and(|status| !status.sessions.is_empty());
    objects.tunnel_agents.iter().filter(connected).map(|agent| object_name(&agent.metadata)).collect()
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
