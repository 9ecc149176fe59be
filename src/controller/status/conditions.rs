//! The conditions of one object, as they should be: pure, so that every case is tested as plain data.

use std::collections::HashMap;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use crate::{
    api::{ConditionStatus, ConditionType, Reason, UnreachableBackend},
    compile::{Judgement, ObjectKind, Verdict},
    controller::BackendState,
    routing::ObjectName,
};

/// How many sessions each agent has with all replicas together.
pub(super) type Connected = HashMap<ObjectName, usize>;

/// What is known of the backends of a TunnelHost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KnownBackends<'a> {
    /// By the replica that writes.
    pub(super) own: Option<&'a BackendState>,
    /// What the other replicas that exist have written.
    pub(super) others: &'a [&'a UnreachableBackend],
    /// What has been said until now.
    pub(super) said: Option<&'a Condition>,
}

/// All conditions of the object of a verdict.
pub(super) fn judgements(verdict: &Verdict, connected: &Connected, backends: KnownBackends<'_>) -> Vec<Judgement> {
    let mut judgements = verdict.conditions.clone();
    if verdict.kind == ObjectKind::TunnelHost {
        judgements.push(programmed(verdict));
    }
    let ready = ready(&judgements);
    judgements.push(agent_connected(verdict, connected));
    // Without an agent it leads to no backend.
    if verdict.kind == ObjectKind::TunnelHost && !verdict.agents.is_empty() {
        judgements.push(backend_reachable(verdict, connected, backends));
    }
    judgements.push(ready);
    judgements
}

/// The conditions to be written; `None` if what is there says the same already. The time of a condition is that of its
/// last change of status, so it is kept as long as the status stays.
pub(super) fn changed(
    judgements: &[Judgement],
    generation: Option<i64>,
    current: &[Condition],
    now: Timestamp,
) -> Option<Vec<Condition>> {
    let mut differs = false;
    let conditions = judgements.iter().map(|judgement| {
        let known = current.iter().find(|known| known.type_ == judgement.condition.as_str());
        let same_status = known.filter(|known| known.status == judgement.status.as_str());
        differs |= same_status.is_none_or(|known| {
            known.reason != judgement.reason.as_str()
                || known.message != judgement.message
                || known.observed_generation != generation
        });
        Condition {
            type_: judgement.condition.as_str().to_owned(),
            status: judgement.status.as_str().to_owned(),
            reason: judgement.reason.as_str().to_owned(),
            message: judgement.message.clone(),
            observed_generation: generation,
            last_transition_time: same_status.map_or(Time(now), |known| known.last_transition_time.clone()),
        }
    });
    let conditions = conditions.collect();
    differs.then_some(conditions)
}

/// Only the table of the replica that writes is known here, and the message says so. It does not name the replica: each
/// change of the lease would rewrite every object.
fn programmed(verdict: &Verdict) -> Judgement {
    match verdict.routes {
        0 => Judgement::fails(
            ConditionType::Programmed,
            Reason::Invalid,
            "no route of it is in the routing table; Accepted says why",
        ),
        routes => Judgement::holds(
            ConditionType::Programmed,
            Reason::Programmed,
            format!(
                "{routes} {} in the routing table of the replica that holds the lease; the others are not asked",
                if routes == 1 { "route is" } else { "routes are" }
            ),
        ),
    }
}

fn agent_connected(verdict: &Verdict, connected: &Connected) -> Judgement {
    let sessions = |agent: &ObjectName| connected.get(agent).copied().unwrap_or(0);
    let all = verdict.agents.len();
    let online = verdict.agents.iter().filter(|agent| sessions(agent) > 0).count();
    let message = match (verdict.kind, verdict.agents.first()) {
        (ObjectKind::TunnelAgent, Some(agent)) if online > 0 => match sessions(agent) {
            1 => "1 session is open".to_owned(),
            sessions => format!("{sessions} sessions are open"),
        },
        (_, Some(_)) if online > 0 => {
            format!("{online} of {all} {} connected", if all == 1 { "agent is" } else { "agents are" })
        }
        (_, Some(agent)) => {
            format!("no agent has a session; start `culvert agent --agent {agent}` next to the targets")
        }
        (_, None) => "none of its agents exists".to_owned(),
    };
    if online > 0 {
        Judgement::holds(ConditionType::AgentConnected, Reason::Connected, message)
    } else {
        Judgement::fails(ConditionType::AgentConnected, Reason::NoSession, message)
    }
}

/// What any replica has seen fail counts. That all is well, a replica says only to itself; so it holds, once it was said of this
/// generation, until somebody sees otherwise.
fn backend_reachable(verdict: &Verdict, connected: &Connected, backends: KnownBackends<'_>) -> Judgement {
    const TYPE: ConditionType = ConditionType::BackendReachable;
    let KnownBackends { own, others, said } = backends;
    if let Some(own) = own.filter(|own| !own.reachable) {
        return Judgement::fails(TYPE, own.reason, &own.message);
    }
    if let Some(other) = others.iter().min_by_key(|other| &other.replica) {
        return Judgement::fails(TYPE, reason(&other.reason), &other.message);
    }
    if let Some(own) = own {
        return Judgement::holds(TYPE, own.reason, &own.message);
    }
    if !verdict.agents.iter().any(|agent| connected.get(agent).is_some_and(|sessions| *sessions > 0)) {
        return Judgement::unknown(TYPE, Reason::NoSession, "no agent is connected that could reach a target");
    }
    let holds = ConditionStatus::True.as_str();
    match said.filter(|said| said.status == holds && said.observed_generation == verdict.generation) {
        Some(said) => Judgement::holds(TYPE, Reason::Reachable, &said.message),
        None => Judgement::unknown(TYPE, Reason::Pending, "no health check and no request has told anything lately"),
    }
}

/// The reason of that name among those that a replica writes.
fn reason(name: &str) -> Reason {
    let reasons = [Reason::Refused, Reason::Timeout, Reason::Unreachable, Reason::TargetNotAllowed];
    reasons.into_iter().find(|reason| reason.as_str() == name).unwrap_or(Reason::Unhealthy)
}

/// The first that does not hold, under the name that people wait for.
fn ready(judgements: &[Judgement]) -> Judgement {
    match judgements.iter().find(|judgement| judgement.status != ConditionStatus::True) {
        Some(failing) => Judgement { condition: ConditionType::Ready, ..failing.clone() },
        None => Judgement::holds(ConditionType::Ready, Reason::Ready, "all of it is in force"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(accepted: Judgement, routes: usize) -> Verdict {
        Verdict {
            kind: ObjectKind::TunnelHost,
            name: ObjectName::new("web", "shop"),
            generation: Some(3),
            conditions: vec![
                accepted,
                Judgement::holds(ConditionType::ResolvedRefs, Reason::ResolvedRefs, "1 agent found"),
            ],
            routes,
            agents: vec![ObjectName::new("web", "a"), ObjectName::new("web", "b")],
        }
    }

    fn connected() -> Connected {
        Connected::from([(ObjectName::new("web", "b"), 2)])
    }

    fn accepted() -> Judgement {
        Judgement::holds(ConditionType::Accepted, Reason::Accepted, "fine")
    }

    fn words(judgements: &[Judgement]) -> Vec<(&str, &str, &str)> {
        let word = |j: &Judgement| (j.condition.as_str(), j.status.as_str(), j.reason.as_str());
        judgements.iter().map(word).collect()
    }

    #[test]
    fn ready_does_not_ask_for_a_connected_agent() {
        let offline = judgements(&verdict(accepted(), 1), &Connected::new(), KnownBackends::default());
        assert_eq!(
            words(&offline),
            [
                ("Accepted", "True", "Accepted"),
                ("ResolvedRefs", "True", "ResolvedRefs"),
                ("Programmed", "True", "Programmed"),
                ("AgentConnected", "False", "NoSession"),
                ("BackendReachable", "Unknown", "NoSession"),
                ("Ready", "True", "Ready"),
            ]
        );
        let online = judgements(&verdict(accepted(), 1), &connected(), KnownBackends::default());
        assert_eq!(words(&online)[3], ("AgentConnected", "True", "Connected"));
        assert_eq!(online[3].message, "1 of 2 agents are connected");
    }

    /// `BackendReachable`, and whether any other condition is another one than without that knowledge.
    fn reachable(backends: KnownBackends<'_>) -> (Judgement, bool) {
        let verdict = verdict(accepted(), 1);
        let plain = judgements(&verdict, &connected(), KnownBackends::default());
        let all = judgements(&verdict, &connected(), backends);
        let is_it = |judgement: &Judgement| judgement.condition == ConditionType::BackendReachable;
        let differs = plain.iter().zip(&all).any(|(one, other)| !is_it(one) && one != other);
        (all.into_iter().find(is_it).expect("the condition"), differs)
    }

    /// The words of `BackendReachable`; the others are the same as without that knowledge.
    fn told<'a>(
        own: Option<&'a BackendState>,
        others: &'a [&'a UnreachableBackend],
    ) -> (&'static str, &'static str, String) {
        let (told, others_differ) = reachable(KnownBackends { own, others, said: None });
        assert!(!others_differ);
        (told.status.as_str(), told.reason.as_str(), told.message)
    }

    #[test]
    fn a_backend_that_fails_is_told_in_its_own_condition_alone() {
        let state = |reachable, reason| BackendState { reachable, reason, message: "own".to_owned() };
        let (fails, well) = (state(false, Reason::Refused), state(true, Reason::Reachable));
        let entry = |replica: &str| UnreachableBackend {
            replica: replica.to_owned(),
            reason: "Timeout".to_owned(),
            message: format!("of {replica}"),
        };
        let (b, c) = (entry("edge-b"), entry("edge-c"));
        assert_eq!(told(Some(&fails), &[&b]), ("False", "Refused", "own".to_owned()));
        assert_eq!(told(Some(&well), &[&c, &b]), ("False", "Timeout", "of edge-b".to_owned()));
        assert_eq!(told(Some(&well), &[]), ("True", "Reachable", "own".to_owned()));
        assert_eq!(told(None, &[]).0, "Unknown");
    }

    #[test]
    fn what_another_holder_has_seen_to_be_well_is_kept_for_this_generation() {
        let said = |status: &str, generation| Condition {
            type_: "BackendReachable".to_owned(),
            status: status.to_owned(),
            reason: "Reachable".to_owned(),
            message: "fine".to_owned(),
            observed_generation: Some(generation),
            last_transition_time: Time(Timestamp::default()),
        };
        let told = |said: &Condition| reachable(KnownBackends { said: Some(said), ..KnownBackends::default() }).0;
        assert_eq!(told(&said("True", 3)).status, ConditionStatus::True);
        assert_eq!(told(&said("True", 3)).message, "fine");
        assert_eq!(told(&said("True", 2)).status, ConditionStatus::Unknown);
        assert_eq!(told(&said("False", 3)).status, ConditionStatus::Unknown);
    }

    #[test]
    fn ready_copies_the_first_that_fails() {
        let conflict = Judgement::fails(ConditionType::Accepted, Reason::HostnameConflict, "taken");
        let judgements = judgements(&verdict(conflict, 0), &Connected::new(), KnownBackends::default());
        assert_eq!(words(&judgements)[2], ("Programmed", "False", "Invalid"));
        assert_eq!(words(&judgements)[5], ("Ready", "False", "HostnameConflict"));
        assert_eq!(judgements[5].message, "taken");
    }

    #[test]
    fn only_a_difference_is_written_and_time_moves_only_with_the_status() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let (accepted, generation) = (accepted(), Some(3));
        let first = changed(std::slice::from_ref(&accepted), generation, &[], at(10)).expect("nothing was there");
        assert_eq!(first[0].last_transition_time, Time(at(10)));
        assert_eq!(changed(std::slice::from_ref(&accepted), generation, &first, at(20)), None);

        let newer = changed(std::slice::from_ref(&accepted), Some(4), &first, at(20)).expect("another generation");
        assert_eq!(newer[0].last_transition_time, Time(at(10)));
        assert_eq!(newer[0].observed_generation, Some(4));

        let refused = Judgement::fails(ConditionType::Accepted, Reason::RouteConflict, "taken");
        let flipped = changed(&[refused], generation, &first, at(20)).expect("another status");
        assert_eq!(flipped[0].last_transition_time, Time(at(20)));
    }
}
