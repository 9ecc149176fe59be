use crate::{
    api::{ConditionStatus, ConditionType, Reason},
    routing::ObjectName,
};

/// How many problems a message lists before it only counts the rest: a condition is for reading.
const MAX_LISTED: usize = 5;

/// What kind of object a verdict is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A TunnelHost.
    TunnelHost,
    /// A TunnelAgent.
    TunnelAgent,
}

/// What is to be said of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its namespace and name.
    pub name: ObjectName,
    /// Its `metadata.generation`, which the conditions are about; `None` where no API server counts it.
    pub generation: Option<i64>,
    /// `Accepted` and `ResolvedRefs`, in this order.
    pub conditions: Vec<Judgement>,
    /// How many of its routes the table holds, under one of its hostnames or several; 0 for a TunnelAgent.
    pub routes: usize,
    /// The agents that can carry its requests: those of its routes that exist, or the TunnelAgent itself.
    pub agents: Vec<ObjectName>,
}

/// One condition as compilation judges it; whoever writes it adds generation and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Which condition.
    pub condition: ConditionType,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, for programs.
    pub reason: Reason,
    /// Why, for people: object, field and remedy.
    pub message: String,
    /// Whether all that is wrong is that an object is not among those that were compiled; where they are not all that there
    /// are, as in a file, it may exist.
    pub missing: bool,
}

/// Collects what is wrong with one aspect of an object.
#[derive(Debug, Default)]
pub(super) struct Problems {
    problems: Vec<Problem>,
    /// What does not fail the condition, and somebody should know.
    notes: Vec<String>,
}

#[derive(Debug)]
struct Problem {
    reason: Reason,
    message: String,
    missing: bool,
}

// === impl ObjectKind ===

impl ObjectKind {
    /// The word in the object.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TunnelHost => "TunnelHost",
            Self::TunnelAgent => "TunnelAgent",
        }
    }
}

// === impl Verdict ===

impl Verdict {
    /// The judgement of that condition, if compilation makes one.
    #[must_use]
    pub fn condition(&self, condition: ConditionType) -> Option<&Judgement> {
        self.conditions.iter().find(|judgement| judgement.condition == condition)
    }
}

// === impl Judgement ===

impl Judgement {
    /// The condition holds.
    pub fn holds(condition: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self { condition, status: ConditionStatus::True, reason, message: message.into(), missing: false }
    }

    /// Nobody can say.
    pub fn unknown(condition: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self { condition, status: ConditionStatus::Unknown, reason, message: message.into(), missing: false }
    }

    /// The condition does not hold.
    pub fn fails(condition: ConditionType, reason: Reason, message: impl Into<String>) -> Self {
        Self { condition, status: ConditionStatus::False, reason, message: message.into(), missing: false }
    }
}

// === impl Problems ===

impl Problems {
    pub(super) fn add(&mut self, reason: Reason, message: impl Into<String>) {
        self.problems.push(Problem { reason, message: message.into(), missing: is_of_missing(reason) });
    }

    /// As [`Problems::add`], where an object that is not known might make it right, and the reason does not say so.
    pub(super) fn add_missing(&mut self, reason: Reason, message: impl Into<String>) {
        self.problems.push(Problem { reason, message: message.into(), missing: true });
    }

    /// Says something that does not fail the condition.
    pub(super) fn note(&mut self, message: impl Into<String>) {
        self.notes.push(message.into());
    }

    /// The judgement: the first problem gives the reason, all are listed up to a bound. One that something only is
    /// missing gives way to one that something is wrong: what is missing may still come.
    pub(super) fn judge(mut self, condition: ConditionType, fine: Reason, fine_message: String) -> Judgement {
        self.problems.sort_by_key(|problem| is_of_missing(problem.reason));
        let Some(Problem { reason, .. }) = self.problems.first() else {
            return Judgement::holds(condition, fine, listed([fine_message].into_iter().chain(self.notes)));
        };
        let reason = *reason;
        let missing = self.problems.iter().all(|problem| problem.missing);
        let problems = self.problems.into_iter().map(|problem| problem.message);
        Judgement { missing, ..Judgement::fails(condition, reason, listed(problems.chain(self.notes))) }
    }
}

fn is_of_missing(reason: Reason) -> bool {
    matches!(reason, Reason::SecretNotFound | Reason::AgentNotFound)
}

fn listed(messages: impl Iterator<Item = String>) -> String {
    let mut listed: Vec<String> = messages.collect();
    let more = listed.len().saturating_sub(MAX_LISTED);
    listed.truncate(MAX_LISTED);
    if more > 0 {
        listed.push(format!("and {more} more"));
    }
    listed.join("; ")
}
