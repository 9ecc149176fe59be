//! The conditions of one object, as they should be: pure, so that every case is tested as plain data.

use std::collections::HashMap;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use crate::{
    api::{ConditionStatus, ConditionType, Reason},
    compile::{Judgement, ObjectKind, Verdict},
    routing::ObjectName,
};

/// How many sessions each agent has with all replicas together.
pub(super) type Connected = HashMap<ObjectName, usize>;

/// All conditions of the object of a verdict.
pub(super) fn judgements(verdict: &Verdict, connected: &Connected) -> Vec<Judgement> {
    let mut judgements = verdict.conditions.clone();
    if verdict.kind == ObjectKind::TunnelHost {
        judgements.push(programmed(verdict));
    }
    let ready = ready(&judgements);
    judgements.push(agent_connected(verdict, connected));
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

    fn accepted() -> Judgement {
        Judgement::holds(ConditionType::Accepted, Reason::Accepted, "fine")
    }

    fn words(judgements: &[Judgement]) -> Vec<(&str, &str, &str)> {
        let word = |j: &Judgement| (j.condition.as_str(), j.status.as_str(), j.reason.as_str());
        judgements.iter().map(word).collect()
    }

    #[test]
    fn ready_does_not_ask_for_a_connected_agent() {
        let offline = judgements(&verdict(accepted(), 1), &Connected::new());
        assert_eq!(
            words(&offline),
            [
                ("Accepted", "True", "Accepted"),
                ("ResolvedRefs", "True", "ResolvedRefs"),
                ("Programmed", "True", "Programmed"),
                ("AgentConnected", "False", "NoSession"),
                ("Ready", "True", "Ready"),
            ]
        );
        let online = judgements(&verdict(accepted(), 1), &Connected::from([(ObjectName::new("web", "b"), 2)]));
        assert_eq!(words(&online)[3], ("AgentConnected", "True", "Connected"));
        assert_eq!(online[3].message, "1 of 2 agents are connected");
    }

    #[test]
    fn ready_copies_the_first_that_fails() {
        let conflict = Judgement::fails(ConditionType::Accepted, Reason::HostnameConflict, "taken");
        let judgements = judgements(&verdict(conflict, 0), &Connected::new());
        assert_eq!(words(&judgements)[2], ("Programmed", "False", "Invalid"));
        assert_eq!(words(&judgements)[4], ("Ready", "False", "HostnameConflict"));
        assert_eq!(judgements[4].message, "taken");
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
