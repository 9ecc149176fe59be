use crate::tunnel::health::{HealthProblem, HealthReason};

/// What is found of a target: what one run finds, or what all of them together mean.
pub(super) type Finding = Result<(), HealthProblem>;

/// Makes a state out of the results of a check: pure.
#[derive(Debug)]
pub(super) struct Judge {
    unhealthy_after: u32,
    healthy_after: u32,
    /// Results in a row that are otherwise than the state.
    contrary: u32,
    state: Option<Finding>,
}

// === impl Judge ===

impl Judge {
    pub(super) fn new(unhealthy_after: u32, healthy_after: u32) -> Self {
        Self { unhealthy_after: unhealthy_after.max(1), healthy_after: healthy_after.max(1), contrary: 0, state: None }
    }

    /// Takes a result, and gives the state where it changes with it. The first success is one; nobody waits for more to begin
    /// with.
    pub(super) fn note(&mut self, result: Finding) -> Option<Finding> {
        let enough = match (&self.state, &result) {
            (None, Ok(())) => 1,
            (Some(Ok(())), Ok(())) => {
                self.contrary = 0;
                return None;
            }
            (Some(Err(_)), Ok(())) => self.healthy_after,
            // An allow-list does not change its mind.
            (None | Some(Ok(())), Err(problem)) if problem.reason == HealthReason::NotAllowed => 1,
            (None | Some(Ok(())), Err(_)) => self.unhealthy_after,
            (Some(Err(before)), Err(now)) => {
                self.contrary = 0;
                if before.reason == now.reason {
                    return None;
                }
                1
            }
        };
        self.contrary += 1;
        if self.contrary < enough {
            return None;
        }
        self.contrary = 0;
        self.state = Some(result);
        self.state.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(reason: HealthReason) -> Finding {
        Err(HealthProblem::new(reason, "it does not work"))
    }

    /// What each of the results changes.
    fn changes(results: &[Result<(), HealthReason>]) -> Vec<Option<Result<(), HealthReason>>> {
        let mut judge = Judge::new(3, 2);
        let result = |result: &Result<(), HealthReason>| result.or_else(failure);
        results.iter().map(|one| Some(judge.note(result(one))?.map_err(|problem| problem.reason))).collect()
    }

    #[test]
    fn a_state_changes_after_so_many_results_in_a_row() {
        let (ok, bad) = (Ok(()), Err(HealthReason::Refused));
        let healthy = Some(Ok(()));
        let unhealthy = Some(Err(HealthReason::Refused));
        assert_eq!(changes(&[ok, ok]), [healthy, None]);
        assert_eq!(changes(&[bad, bad, bad, bad]), [None, None, unhealthy, None]);
        assert_eq!(changes(&[ok, bad, bad, ok, bad, bad]), [healthy, None, None, None, None, None]);
        assert_eq!(changes(&[bad, bad, bad, ok, bad, ok, ok]), [None, None, unhealthy, None, None, None, healthy]);
    }

    #[test]
    fn another_reason_is_told_and_an_allow_list_is_believed_at_once() {
        let (refused, timeout) = (HealthReason::Refused, HealthReason::Timeout);
        assert_eq!(
            changes(&[Err(refused), Err(refused), Err(timeout), Err(refused)]),
            [None, None, Some(Err(timeout)), Some(Err(refused))]
        );
        let not_allowed = HealthReason::NotAllowed;
        assert_eq!(changes(&[Ok(()), Err(not_allowed)]), [Some(Ok(())), Some(Err(not_allowed))]);
    }
}
