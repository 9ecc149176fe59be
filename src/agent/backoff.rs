use std::time::Duration;

/// When to dial one destination again. Pure: randomness comes in, time is what comes out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    /// Failures in a row that may be over any moment.
    transient: u32,
    /// Answers in a row that will stay the same until a person changes something.
    lasting: u32,
    /// Times in a row that the balancer led to a replica that is already met.
    met: u32,
}

/// Why a dial came to nothing, as far as the time of the next one depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Refused, timed out, lost: the edge may be back in a moment.
    Transient,
    /// Wrong token, wrong version, wrong certificate: asking often changes nothing.
    Lasting,
    /// The replica that answered is already met; the next dial may reach another.
    Met,
}

// === impl Backoff ===

impl Backoff {
    /// Registered: what answers and balancers said before counts no more. Failures still do, since a session may be
    /// lost at once again; [`Backoff::stable`] forgets those.
    pub(super) fn registered(&mut self) {
        self.lasting = 0;
        self.met = 0;
    }

    /// The connection proved to be of use.
    pub(super) fn stable(&mut self) {
        *self = Self::default();
    }

    /// How long to wait after this failure. `random` is from 0 to 1.
    pub(super) fn after(&mut self, failure: Failure, random: f64) -> Duration {
        let (least, most) = match failure {
            Failure::Transient => {
                self.transient = self.transient.saturating_add(1);
                // The first time at once, only not in step with all other agents of an edge that went away. Then fast
                // for about a second: most edges that go away are restarted and back by then, and visitors wait for it.
                match self.transient {
                    1 => (0.0, 0.05),
                    2..=25 => (0.02, 0.08),
                    _ => (0.3, 0.9),
                }
            }
            Failure::Lasting => {
                self.lasting = self.lasting.saturating_add(1);
                let seconds = f64::from(1_u32 << (self.lasting - 1).min(6)).min(60.0);
                if self.lasting == 1 { (1.0, 1.25) } else { (seconds * 0.75, seconds) }
            }
            Failure::Met => {
                self.met = self.met.saturating_add(1);
                // Balancers that choose at random lead to the other replicas soon: of 200 agents that look for one of five,
                // the last takes about 30 dials, and is to be there within seconds. One that always leads here (client
                // affinity) should not be asked that often for ever.
                let seconds = match self.met {
                    n @ 1..=3 => 0.05 * f64::from(1_u32 << (n - 1)),
                    4..=40 => 0.25,
                    n => (0.25 * f64::from(1_u32 << (n - 40).min(6))).min(10.0),
                };
                (0.05_f64.min(seconds), seconds)
            }
        };
        Duration::from_secs_f64(least + (most - least) * random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays(failure: Failure, random: f64, count: usize) -> Vec<u128> {
        let mut backoff = Backoff::default();
        (0..count).map(|_| backoff.after(failure, random).as_millis()).collect()
    }

    #[test]
    fn an_edge_that_is_away_is_dialled_at_once_and_then_at_least_once_a_second() {
        let (least, most) = (delays(Failure::Transient, 0.0, 45), delays(Failure::Transient, 1.0, 45));
        assert_eq!((least[..2].to_vec(), most[..2].to_vec()), (vec![0, 20], vec![50, 80]));
        assert_eq!((&least[25..], &most[25..]), (&[300; 20][..], &[900; 20][..]));
        let fast: u128 = most[..25].iter().sum();
        assert!(fast < 2000, "{fast} ms");
    }

    #[test]
    fn a_wrong_token_is_tried_from_every_second_to_every_minute() {
        assert_eq!(delays(Failure::Lasting, 1.0, 9), [1250, 2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000]);
        assert_eq!(delays(Failure::Lasting, 0.0, 2), [1000, 1500]);
    }

    #[test]
    fn a_balancer_is_asked_soon_again_but_not_often_for_ever() {
        let delays = delays(Failure::Met, 1.0, 60);
        assert_eq!(delays[..5], [50, 100, 200, 250, 250]);
        assert_eq!(delays[39], 250);
        assert_eq!(delays[59], 10_000);
        assert!(delays.is_sorted());
    }

    #[test]
    fn a_session_that_is_lost_at_once_again_and_again_is_no_storm() {
        let mut backoff = Backoff::default();
        let mut total = Duration::ZERO;
        for _ in 0..100 {
            backoff.registered();
            total += backoff.after(Failure::Transient, 0.0);
        }
        assert!(total >= Duration::from_secs(22), "{total:?}");
        backoff.stable();
        assert!(backoff.after(Failure::Transient, 1.0) <= Duration::from_millis(50));
    }
}
