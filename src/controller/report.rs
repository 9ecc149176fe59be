use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    api::ConditionStatus,
    compile::{Compiled, ObjectKind},
    controller::{BackendState, Backends},
    routing::ObjectName,
};

/// Says in the log what a cluster says in conditions, for ever: each problem when it comes, and when it is gone.
pub(super) async fn follow(mut compiled: watch::Receiver<Option<Arc<Compiled>>>) {
    let mut known = HashMap::new();
    while compiled.changed().await.is_ok() {
        let Some(compiled) = compiled.borrow_and_update().clone() else { continue };
        let now = problems(&compiled);
        for ((kind, object), problems) in &now {
            let before: Option<&HashSet<String>> = known.get(&(*kind, object.clone()));
            for problem in problems.iter().filter(|problem| !before.is_some_and(|before| before.contains(*problem))) {
                warn!(kind = kind.as_str(), object = %object, "{problem}");
            }
        }
        for (kind, object) in known.keys().filter(|key| !now.contains_key(key)) {
            info!(kind = kind.as_str(), object = %object, "nothing is wrong with it any more");
        }
        known = now;
    }
}

/// Says in the log which TunnelHosts' backends cannot be reached, and when they can again, for ever.
pub(super) async fn backends(mut known: watch::Receiver<Arc<Backends>>) {
    let mut said = HashMap::<ObjectName, BackendState>::new();
    while known.changed().await.is_ok() {
        let now = known.borrow_and_update().clone();
        for (host, state) in now.iter() {
            let before = said.get(host).filter(|before| !before.reachable);
            match before {
                None if !state.reachable => {
                    warn!(tunnel_host = %host, "BackendReachable=False: {}: {}", state.reason.as_str(), state.message);
                }
                Some(_) if state.reachable => info!(tunnel_host = %host, "BackendReachable=True: {}", state.message),
                _ => continue,
            }
            said.insert(host.clone(), state.clone());
        }
        // Of one that nothing is known of any more, the next failure is new.
        said.retain(|host, _| now.contains_key(host));
    }
}

fn problems(compiled: &Compiled) -> HashMap<(ObjectKind, ObjectName), HashSet<String>> {
    let mut problems = HashMap::<_, HashSet<String>>::new();
    for verdict in &compiled.verdicts {
        let failing = verdict.conditions.iter().filter(|judgement| judgement.status != ConditionStatus::True);
        for judgement in failing {
            let (condition, reason) = (judgement.condition.as_str(), judgement.reason.as_str());
            let problem = format!("{condition}={}: {reason}: {}", judgement.status.as_str(), judgement.message);
            problems.entry((verdict.kind, verdict.name.clone())).or_default().insert(problem);
        }
    }
    problems
}
