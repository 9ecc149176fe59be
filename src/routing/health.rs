use std::{
    collections::{HashMap, HashSet},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use super::{Backend, ObjectName, RoutingTable, Target};

/// How the targets of a rule are checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HealthCheck {
    /// What has to succeed.
    pub probe: Probe,
    /// From the end of one check to the next.
    pub interval: Duration,
    /// How long one may take in all.
    pub timeout: Duration,
    /// After so many failures in a row a target is unhealthy; at least 1.
    pub unhealthy_after: u32,
    /// After so many successes in a row it is healthy again; at least 1.
    pub healthy_after: u32,
}

/// What it means for the next requests that connects to a place fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassiveHealth {
    /// After so many failures in a row the place is ejected, and counts as one that cannot be reached; at least 1.
    pub unhealthy_after: u32,
    /// How long an ejected place is left alone before a request tries it again. Each time that this fails, it is left alone
    /// twice as long, up to [`PassiveHealth::LONGEST`].
    pub retry_after: Duration,
    /// At most so many of a hundred places of a tier are left alone at a time, but one always; 0: none ever is.
    pub max_ejected_percent: u8,
}

/// What has to succeed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// The target takes a connection.
    Tcp,
    /// It answers a GET over HTTP/1.1 as it should.
    Http {
        /// The path, with its query.
        path: Arc<str>,
        /// The `Host`; `None` is the target.
        host: Option<Arc<str>>,
        /// The statuses of a healthy target.
        expected: Vec<RangeInclusive<u16>>,
        /// Over TLS, whose certificate is not verified.
        tls: Option<CheckTls>,
    },
}

/// TLS of a check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CheckTls {
    /// The name that is asked for; `None` is the target's host.
    pub server_name: Option<Arc<str>>,
}

/// One thing that agents check. Two that are equal are one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Check {
    /// The namespace of the objects that ask for it.
    pub namespace: Arc<str>,
    /// What is checked.
    pub target: Target,
    /// How.
    pub how: Arc<HealthCheck>,
}

/// All checks that a table asks for, by the agents that run them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks(HashMap<ObjectName, HashSet<Arc<Check>>>);

// === impl PassiveHealth ===

impl PassiveHealth {
    /// The longest that a place is left alone at a time, unless `retry_after` is longer.
    pub const LONGEST: Duration = Duration::from_mins(5);

    /// How many of so many places may be left alone at a time.
    #[must_use]
    pub fn most(&self, places: usize) -> usize {
        match self.max_ejected_percent {
            0 => 0,
            percent => (places * usize::from(percent) / 100).max(1),
        }
    }

    /// How long a place is left alone when it is ejected for the `round`th time in a row, from 1.
    #[must_use]
    pub fn pause(&self, round: u32) -> Duration {
        let doubled = self.retry_after.saturating_mul(1 << round.saturating_sub(1).min(16));
        doubled.min(Self::LONGEST.max(self.retry_after))
    }
}

impl Default for PassiveHealth {
    fn default() -> Self {
        Self { unhealthy_after: 3, retry_after: Duration::from_secs(10), max_ejected_percent: 50 }
    }
}

// === impl Checks ===

impl Checks {
    /// Those of a table.
    #[must_use]
    pub fn of(table: &RoutingTable) -> Self {
        let mut checks = HashMap::<_, HashSet<_>>::new();
        for rule in table.rules() {
            let Backend::Tunnel(tunnel) = &rule.backend else { continue };
            let Some(how) = &tunnel.health_check else { continue };
            for place in tunnel.places.all() {
                let check = Check::new(&rule.id.object, &place.target, how);
                checks.entry(place.agent.clone()).or_default().insert(Arc::new(check));
            }
        }
        Self(checks)
    }

    /// Those that an agent runs, in no particular order.
    pub fn agent(&self, agent: &ObjectName) -> impl Iterator<Item = &Arc<Check>> {
        self.0.get(agent).into_iter().flatten()
    }

    /// Whether an agent runs this one.
    #[must_use]
    pub fn contains(&self, agent: &ObjectName, check: &Check) -> bool {
        self.0.get(agent).is_some_and(|checks| checks.contains(check))
    }
}

// === impl Check ===

impl Check {
    /// That of a target, asked for by this object.
    #[must_use]
    pub fn new(object: &ObjectName, target: &Target, how: &Arc<HealthCheck>) -> Self {
        Self { namespace: object.namespace.clone(), target: target.clone(), how: how.clone() }
    }
}
