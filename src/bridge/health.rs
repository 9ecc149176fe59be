use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    routing::{Check, Checks, ObjectName, Probe},
    tunnel::{
        self, MAX_CHECKS, Note,
        health::{CheckOrder, HealthProblem, HealthReport, HttpCheck},
    },
};

/// What a session's agent was asked to check, and what it says.
#[derive(Debug, Default)]
pub(super) struct SessionHealth {
    asked: Mutex<Asked>,
    /// How many checks fail; what most requests look at.
    failing: AtomicUsize,
}

#[derive(Debug, Default)]
struct Asked {
    checks: HashMap<Arc<Check>, Known>,
    by_id: HashMap<u32, Arc<Check>>,
    last_id: u32,
    /// How many checks there are beyond those that an agent runs.
    left_out: usize,
}

#[derive(Debug)]
struct Known {
    id: u32,
    /// What the agent says, and since when it says that.
    health: Option<(Health, Instant)>,
}

/// What an agent says of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It succeeds.
    Healthy,
    /// It fails.
    Unhealthy(Arc<HealthProblem>),
}

// === impl SessionHealth ===

impl SessionHealth {
    /// What to tell the agent so that it runs those of the checks that are its own.
    pub(super) fn ask(&self, agent: &ObjectName, checks: &Checks) -> Vec<Note> {
        let mut asked = self.asked.lock();
        let Asked { checks: known, by_id, last_id, left_out } = &mut *asked;
        let gone: Vec<_> = known.extract_if(|check, _| !checks.contains(agent, check)).map(|(_, gone)| gone).collect();
        for gone in &gone {
            by_id.remove(&gone.id);
        }
        let mut start = Vec::new();
        let mut too_many = 0;
        for check in checks.agent(agent) {
            if known.contains_key(check) {
                continue;
            }
            if known.len() >= MAX_CHECKS {
                too_many += 1;
                continue;
            }
            *last_id += 1;
            known.insert(check.clone(), Known { id: *last_id, health: None });
            by_id.insert(*last_id, check.clone());
            start.push(CheckOrder { id: *last_id, check: order(check) });
        }
        // Said when it changes, not with each table.
        if too_many != std::mem::replace(left_out, too_many) && too_many > 0 {
            tracing::warn!(
                %agent,
                "{too_many} health checks are not run, since an agent runs {MAX_CHECKS} at most: their targets count as healthy \
                 until connects to them fail; spread the TunnelHosts over more agents, or give fewer of them a healthCheck"
            );
        }
        self.count(known);
        Note::checks(start, gone.iter().map(|gone| gone.id).collect())
    }

    /// Takes what the agent says; what it was not asked is nothing. Says whether that is news.
    pub(super) fn reported(&self, reports: Vec<HealthReport>) -> bool {
        let mut asked = self.asked.lock();
        let Asked { checks, by_id, .. } = &mut *asked;
        let mut news = false;
        for HealthReport { id, problem } in reports {
            let Some(known) = by_id.get(&id).and_then(|check| checks.get_mut(check)) else { continue };
            // Made anew, so that its length is what it may be.
            let problem = problem.map(|problem| HealthProblem::new(problem.reason, &problem.text));
            let health = problem.map_or(Health::Healthy, |problem| Health::Unhealthy(Arc::new(problem)));
            if known.health.as_ref().is_none_or(|(before, _)| *before != health) {
                (known.health, news) = (Some((health, Instant::now())), true);
            }
        }
        self.count(checks);
        news
    }

    /// What the agent says of a check; `None` where it has not said anything yet.
    pub(super) fn of(&self, check: &Check) -> Option<Health> {
        self.asked.lock().checks.get(check)?.health.as_ref().map(|(health, _)| health.clone())
    }

    /// Since when the agent says that the check succeeds; `None` where it does not say so.
    pub(super) fn healthy_since(&self, check: &Check) -> Option<Instant> {
        match self.asked.lock().checks.get(check)?.health {
            Some((Health::Healthy, since)) => Some(since),
            _ => None,
        }
    }

    /// Whether the agent says that the check fails. Cheap as long as none does.
    pub(super) fn fails(&self, check: &Check) -> bool {
        self.failing.load(Ordering::Relaxed) > 0 && matches!(self.of(check), Some(Health::Unhealthy(_)))
    }

    fn count(&self, checks: &HashMap<Arc<Check>, Known>) {
        let failing = checks.values().filter(|known| matches!(known.health, Some((Health::Unhealthy(_), _))));
        self.failing.store(failing.count(), Ordering::Relaxed);
    }
}

/// A check as the agent is told of it.
fn order(check: &Check) -> tunnel::health::Check {
    let millis = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let http = match &check.how.probe {
        Probe::Tcp => None,
        Probe::Http { path, host, expected, tls } => Some(HttpCheck {
            path: path.to_string(),
            host: host.as_deref().map(str::to_owned),
            expected: expected.iter().map(|range| (*range.start(), *range.end())).collect(),
            tls: tls
                .as_ref()
                .map(|tls| tls.server_name.as_deref().or(check.target.host()).unwrap_or_default().to_owned()),
        }),
    };
    tunnel::health::Check {
        namespace: check.namespace.to_string(),
        target: check.target.to_string(),
        http,
        interval: millis(check.how.interval),
        timeout: millis(check.how.timeout),
        unhealthy_after: check.how.unhealthy_after,
        healthy_after: check.how.healthy_after,
    }
}
