use std::fmt;

use super::{Backend, Filter, Matches, ObjectName, Timeouts};

/// Where a rule comes from: a TunnelHost and the place in its `spec.routes`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleId {
    /// The TunnelHost.
    pub object: ObjectName,
    /// Index into its `spec.routes`.
    pub route: usize,
}

/// One compiled route: what it matches, what a request has to pass, and where it goes then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where the rule comes from.
    pub id: RuleId,
    /// Which requests it is for.
    pub matches: Matches,
    /// What a request has to pass, and what is changed in it, in this order.
    pub filters: Vec<Filter>,
    /// How long a request may wait.
    pub timeouts: Timeouts,
    /// Where the request goes.
    pub backend: Backend,
}

// === impl RuleId ===

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} routes[{}]", self.object, self.route)
    }
}
