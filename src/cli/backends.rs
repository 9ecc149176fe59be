//! What the proxy knows of backends, in the words of their objects' status.

use std::sync::Arc;

use tokio::sync::watch;

use crate::{
    api::Reason,
    controller::{self, BackendState},
    proxy::{Failing, HostBackends, Reachability},
    tunnel::health::HealthReason,
};

/// How many targets a message names before it only counts the rest: a condition is for reading.
const MAX_LISTED: usize = 3;

/// Tells the controller what is known of backends.
pub(super) async fn follow(
    mut known: watch::Receiver<Arc<Reachability>>,
    backends: &watch::Sender<Arc<controller::Backends>>,
) {
    loop {
        let latest = known.borrow_and_update().clone();
        let states = latest.iter().map(|(host, known)| (host.clone(), state(known)));
        backends.send_replace(Arc::new(states.collect()));
        if known.changed().await.is_err() {
            return;
        }
    }
}

fn state(HostBackends { reachable, failing }: &HostBackends) -> BackendState {
    let mut problems: Vec<String> = failing.iter().take(MAX_LISTED).map(problem).collect();
    if failing.len() > MAX_LISTED {
        problems.push(format!("and {} more", failing.len() - MAX_LISTED));
    }
    let problems = problems.join("; ");
    match failing.first() {
        Some(first) if !reachable => {
            BackendState { reachable: false, reason: reason(first.problem.reason), message: problems }
        }
        Some(_) => BackendState {
            reachable: true,
            reason: Reason::Reachable,
            message: format!("requests are served, but not by all targets: {problems}"),
        },
        None => BackendState {
            reachable: true,
            reason: Reason::Reachable,
            message: "all targets that were checked or got requests take connections".to_owned(),
        },
    }
}

fn problem(Failing { agent, target, problem }: &Failing) -> String {
    format!("agent {agent} does not reach target {target}: {}", problem.text)
}

fn reason(reason: HealthReason) -> Reason {
    match reason {
        HealthReason::NotAllowed => Reason::TargetNotAllowed,
        HealthReason::Refused => Reason::Refused,
        HealthReason::Unreachable => Reason::Unreachable,
        HealthReason::Timeout => Reason::Timeout,
        HealthReason::Unexpected => Reason::Unhealthy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{routing::ObjectName, tunnel::health::HealthProblem};

    fn failing(target: &str, reason: HealthReason, text: &str) -> Failing {
        Failing {
            agent: ObjectName::new("web", "lab"),
            target: target.parse().expect("a target"),
            problem: Arc::new(HealthProblem::new(reason, text)),
        }
    }

    #[test]
    fn the_message_names_agent_target_and_the_agents_own_words() {
        let refused = failing("app:80", HealthReason::Refused, "Connection refused (os error 111)");
        let lost = state(&HostBackends { reachable: false, failing: vec![refused.clone()] });
        assert_eq!((lost.reachable, lost.reason), (false, Reason::Refused));
        assert_eq!(lost.message, "agent web/lab does not reach target app:80: Connection refused (os error 111)");
        let partly = state(&HostBackends { reachable: true, failing: vec![refused] });
        assert_eq!((partly.reachable, partly.reason), (true, Reason::Reachable));
        assert!(partly.message.contains("but not by all targets: agent web/lab"), "{}", partly.message);
    }

    #[test]
    fn many_targets_are_counted() {
        let failing = (1..=5).map(|port| failing(&format!("app:{port}"), HealthReason::Timeout, "late")).collect();
        let state = state(&HostBackends { reachable: false, failing });
        assert_eq!(state.reason, Reason::Timeout);
        assert!(state.message.ends_with("target app:3: late; and 2 more"), "{}", state.message);
    }
}
