//! What the tests stand on: the installation, an agent, a backend, a visitor, and kubectl.

mod agent;
mod backend;
mod installation;
mod shell;
mod site;
mod visitor;

use std::time::{Duration, Instant};

pub(crate) use self::{
    agent::Agent,
    backend::Backend,
    installation::{Culvert, NAMESPACE, Replica, chart},
    shell::{apply, attempt, cluster, helm, kubectl, output, project},
    site::Site,
    visitor::{Visitor, all_see},
};

/// Asks until there is an answer, and tells how long that took.
///
/// Nothing signals what is waited for here (an object's condition, a pod's state), so it is asked again every 25 ms.
pub(crate) async fn eventually<T>(
    what: &str,
    within: Duration,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> (T, Duration) {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return (answer, start.elapsed());
        }
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
