//! What the tests stand on: the installation, an agent, a backend, a visitor, and kubectl.

mod agent;
mod backend;
mod certificate;
mod installation;
mod secure;
mod shell;
mod site;
mod visitor;

use std::time::{Duration, Instant};

pub(crate) use self::{
    agent::Agent,
    backend::Backend,
    certificate::Certificate,
    installation::{Culvert, NAMESPACE, OtherValues, Replica, chart},
    secure::{Http, SecureVisitor},
    shell::{apply, attempt, cluster, create, helm, kubectl, output, project},
    site::Site,
    visitor::{Answer, Visitor, all_see},
};

/// Asks until the answer is what is waited for, and tells how long that took; `Err` is what was seen instead.
///
/// Nothing signals what is waited for here (an object's condition, a pod's state), so it is asked again every 25 ms.
pub(crate) async fn eventually<T>(
    what: &str,
    within: Duration,
    mut ask: impl AsyncFnMut() -> Result<T, String>,
) -> (T, Duration) {
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return (answer, start.elapsed()),
            Err(seen) => assert!(start.elapsed() < within, "not within {within:?}: {what}; but: {seen}"),
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
