use std::time::{Duration, Instant};

/// How often a ping is sent anyway.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long something sent may stay without anything received before a ping asks what is wrong.
const SUSPECT_AFTER: Duration = Duration::from_secs(1);
/// How long such a ping may stay without anything received.
const PROBE_WAIT: Duration = Duration::from_secs(3);
/// How long nothing may be received at all.
const SILENCE: Duration = Duration::from_secs(10);
/// How many of the last round trips the shortest is taken of.
const TRIPS: usize = 8;

/// Signs of life of the other side (`docs/protocol.md`, section 8).
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Liveness {
    received: Instant,
    /// When something was handed to the transport first that nothing was received after.
    unanswered: Option<Instant>,
    /// When a ping was handed to the transport because of that.
    probe: Option<Instant>,
    next_ping: Instant,
    /// A ping that waits to be sent.
    wanted: Option<Reason>,
    sequence: u64,
    /// The last ping sent, until its pong comes.
    sent: Option<(u64, Instant)>,
    trips: [Option<Duration>; TRIPS],
    trip: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Routine,
    Probe,
}

/// What [`Liveness::tick`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pulse {
    /// Nothing to do.
    Fine,
    /// The time of a routine ping.
    Beat,
    /// The other side is gone.
    Dead,
}

// === impl Liveness ===

impl Liveness {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            received: now,
            unanswered: None,
            probe: None,
            next_ping: now + PING_EVERY,
            // At once: credit grows by the round-trip time.
            wanted: Some(Reason::Routine),
            sequence: 0,
            sent: None,
            trips: [None; TRIPS],
            trip: 0,
        }
    }

    /// Something was received.
    pub(super) fn heard(&mut self, now: Instant) {
        self.received = now;
        self.unanswered = None;
        self.probe = None;
        if self.wanted == Some(Reason::Probe) {
            self.wanted = None;
        }
    }

    /// Something that waits for an answer was handed to the transport.
    pub(super) fn spoke(&mut self, now: Instant) {
        self.unanswered.get_or_insert(now);
    }

    /// When [`Liveness::tick`] is due.
    pub(super) fn deadline(&self) -> Instant {
        let mut deadline = self.next_ping.min(self.received + SILENCE);
        if let Some(probe) = self.probe {
            deadline = deadline.min(probe + PROBE_WAIT);
        } else if let Some(unanswered) = self.unanswered.filter(|_| self.wanted != Some(Reason::Probe)) {
            deadline = deadline.min(unanswered + SUSPECT_AFTER);
        }
        deadline
    }

    pub(super) fn tick(&mut self, now: Instant) -> Pulse {
        let since = |time: Instant| now.saturating_duration_since(time);
        if since(self.received) >= SILENCE || self.probe.is_some_and(|probe| since(probe) >= PROBE_WAIT) {
            return Pulse::Dead;
        }
        if self.probe.is_none() && self.unanswered.is_some_and(|time| since(time) >= SUSPECT_AFTER) {
            self.wanted = Some(Reason::Probe);
        }
        if now < self.next_ping {
            return Pulse::Fine;
        }
        self.next_ping = now + PING_EVERY;
        self.wanted.get_or_insert(Reason::Routine);
        Pulse::Beat
    }

    pub(super) fn wants_ping(&self) -> bool {
        self.wanted.is_some()
    }

    /// The ping to send now, if one is wanted.
    pub(super) fn ping(&mut self, now: Instant) -> Option<[u8; 8]> {
        let reason = self.wanted.take()?;
        if reason == Reason::Probe {
            self.probe = Some(now);
        }
        self.sequence += 1;
        self.sent = Some((self.sequence, now));
        Some(self.sequence.to_be_bytes())
    }

    pub(super) fn pong(&mut self, payload: [u8; 8], now: Instant) {
        if let Some((sequence, sent)) = self.sent
            && sequence == u64::from_be_bytes(payload)
        {
            self.sent = None;
            self.trips[self.trip] = Some(now.saturating_duration_since(sent));
            self.trip = (self.trip + 1) % TRIPS;
        }
    }

    /// The shortest of the last round trips: the way's own time, without the queues that bulk data builds up.
    pub(super) fn trip(&self) -> Option<Duration> {
        self.trips.iter().flatten().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks at each deadline, answering nothing; when does it give up?
    fn silence(liveness: &mut Liveness, start: Instant) -> Duration {
        loop {
            let now = liveness.deadline();
            if liveness.tick(now) == Pulse::Dead {
                return now - start;
            }
            liveness.ping(now);
        }
    }

    #[test]
    fn an_idle_session_is_dead_after_ten_seconds_of_silence() {
        let start = Instant::now();
        assert_eq!(silence(&mut Liveness::new(start), start), Duration::from_secs(10));
    }

    #[test]
    fn one_that_waits_for_an_answer_is_dead_after_four() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        liveness.spoke(start);
        assert_eq!(silence(&mut liveness, start), Duration::from_secs(4));
    }

    #[test]
    fn a_ping_that_the_transport_does_not_take_starts_no_three_seconds() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        liveness.ping(start);
        liveness.spoke(start);
        while liveness.tick(liveness.deadline()) != Pulse::Dead {}
        assert_eq!(liveness.deadline(), start + SILENCE);
    }

    #[test]
    fn any_byte_is_a_sign_of_life() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        liveness.spoke(start);
        let mut now = start;
        for _ in 0..20 {
            now += Duration::from_millis(3900);
            while liveness.deadline() < now {
                let deadline = liveness.deadline();
                assert_ne!(liveness.tick(deadline), Pulse::Dead);
                liveness.ping(deadline);
            }
            liveness.heard(now);
            liveness.spoke(now);
        }
    }

    #[test]
    fn the_round_trip_is_the_shortest_of_the_last() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        assert_eq!(liveness.trip(), None);
        for (count, milliseconds) in [30u64, 20, 50].into_iter().enumerate() {
            let sent = start + PING_EVERY * u32::try_from(count).expect("small");
            liveness.tick(sent);
            let ping = liveness.ping(sent).expect("a ping");
            liveness.heard(sent);
            liveness.pong([9; 8], sent);
            liveness.pong(ping, sent + Duration::from_millis(milliseconds));
        }
        assert_eq!(liveness.trip(), Some(Duration::from_millis(20)));
    }
}
