use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// What carries the agent's tunnels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// As `tls`, and as `websocket` where something in between lets that not through.
    #[default]
    Auto,
    /// Frames directly on the connection to the edge.
    Tls,
    /// The same in the messages of a WebSocket.
    #[value(name = "websocket")]
    WebSocket,
}

/// Which of the transports is dialled, learned from how the dials before went. All dials of an agent share it: they have
/// the network around it in common.
#[derive(Debug)]
pub(super) struct Choice {
    transport: Transport,
    learned: Mutex<Learned>,
}

/// One of the two, as dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Direct,
    WebSocket,
}

/// How much a dial that came to nothing speaks for something in between that lets only WebSockets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The edge itself said no, or was not reached at all.
    None,
    /// It may as well be an edge that is restarted behind its balancer.
    Weak,
    /// Something else than the edge answered, or cut the connection once it was registered.
    Strong,
}

#[derive(Debug, Default)]
struct Learned {
    /// A WebSocket got through where nothing else did: that is dialled first until then.
    websocket_until: Option<Instant>,
    /// Whether one ever did.
    websocket_worked: bool,
    /// Weak doubts in a row, and since when.
    weak: u32,
    since: Option<Instant>,
}

// === impl Choice ===

impl Choice {
    /// So long a WebSocket is dialled first once it was needed. A network changes when a laptop is carried into another
    /// one, and the direct way is the better one.
    const REMEMBERED: Duration = Duration::from_mins(10);
    /// Weak doubts count when there were so many, over so long: an edge that is restarted is back by then.
    const WEAK: (u32, Duration) = (2, Duration::from_secs(3));

    pub(super) fn new(transport: Transport) -> Self {
        Self { transport, learned: Mutex::default() }
    }

    /// What to dial first.
    pub(super) fn first(&self, now: Instant) -> Way {
        match self.transport {
            Transport::WebSocket => Way::WebSocket,
            Transport::Auto if self.learned().websocket_until.is_some_and(|until| now < until) => Way::WebSocket,
            Transport::Auto | Transport::Tls => Way::Direct,
        }
    }

    /// The direct way failed. Returns whether to try a WebSocket at once.
    pub(super) fn direct_failed(&self, doubt: Doubt, now: Instant) -> bool {
        let mut learned = self.learned();
        let doubted = match doubt {
            Doubt::None => {
                (learned.weak, learned.since) = (0, None);
                false
            }
            Doubt::Weak => {
                let (count, time) = Self::WEAK;
                learned.weak = learned.weak.saturating_add(1);
                let since = *learned.since.get_or_insert(now);
                learned.websocket_worked || learned.weak >= count && now.saturating_duration_since(since) >= time
            }
            Doubt::Strong => true,
        };
        doubted && self.transport == Transport::Auto
    }

    /// The edge was reached this way: it answered, whatever it said.
    pub(super) fn reached(&self, way: Way, now: Instant) {
        let mut learned = self.learned();
        let websocket = way == Way::WebSocket;
        *learned = Learned {
            websocket_until: websocket.then(|| learned.websocket_until.unwrap_or(now + Self::REMEMBERED)),
            websocket_worked: websocket,
            weak: 0,
            since: None,
        };
    }

    /// A WebSocket did not reach the edge: the next dial is direct again.
    pub(super) fn websocket_failed(&self) {
        self.learned().websocket_until = None;
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        // Plain values: they are whole at any moment.
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_what_is_dialled() {
        let now = Instant::now();
        for (transport, way) in [(Transport::Tls, Way::Direct), (Transport::WebSocket, Way::WebSocket)] {
            let choice = Choice::new(transport);
            assert!(!choice.direct_failed(Doubt::Strong, now));
            choice.websocket_failed();
            assert_eq!(choice.first(now), way);
        }
    }

    #[test]
    fn a_websocket_that_was_needed_is_remembered_for_a_while() {
        let (choice, now) = (Choice::new(Transport::Auto), Instant::now());
        assert_eq!(choice.first(now), Way::Direct);
        assert!(choice.direct_failed(Doubt::Strong, now));
        choice.reached(Way::WebSocket, now);
        let later = now + Choice::REMEMBERED - Duration::from_secs(1);
        assert_eq!(choice.first(later), Way::WebSocket);
        choice.reached(Way::WebSocket, later);
        let later = now + Choice::REMEMBERED;
        assert_eq!(choice.first(later), Way::Direct, "being used does not make it last longer");
        assert!(choice.direct_failed(Doubt::Weak, later), "it is known to work, so it is tried at once");
        choice.reached(Way::WebSocket, later);
        choice.websocket_failed();
        assert_eq!(choice.first(later), Way::Direct);
        choice.reached(Way::Direct, later);
        assert!(!choice.direct_failed(Doubt::Weak, later), "what was is forgotten");
    }

    #[test]
    fn an_edge_that_is_restarted_raises_no_doubt() {
        let (choice, now) = (Choice::new(Transport::Auto), Instant::now());
        for tenths in 0..20 {
            assert!(!choice.direct_failed(Doubt::Weak, now + Duration::from_millis(100 * tenths)));
        }
        assert!(choice.direct_failed(Doubt::Weak, now + Duration::from_secs(3)));
        choice.direct_failed(Doubt::None, now + Duration::from_secs(4));
        assert!(!choice.direct_failed(Doubt::Weak, now + Duration::from_secs(5)), "counted anew");
    }
}
