//! What a listener does where it cannot accept a connection.

use std::{io, time::Duration};

use tokio::time::{Instant, sleep};

/// The connections that one listener could not accept. Whoever can make them fail, as by taking all descriptors, must not be able to
/// fill the log with them as well.
#[derive(Debug)]
pub struct AcceptErrors {
    /// Who comes there, for the log.
    who: &'static str,
    told: Option<Instant>,
    /// How many there were since.
    untold: u64,
}

/// How long it takes at least until something may have been closed.
const PAUSE: Duration = Duration::from_millis(50);

/// The log has one line in this time, for as long as it goes on.
const QUIET: Duration = Duration::from_mins(1);

// === impl AcceptErrors ===

impl AcceptErrors {
    /// None yet; `who` comes to the listener, as in "agents".
    #[must_use]
    pub fn new(who: &'static str) -> Self {
        Self { who, told: None, untold: 0 }
    }

    /// Takes note of an error, and waits for a moment where the next connection would meet it too: trying again at once would only
    /// burn the processor.
    pub async fn pause(&mut self, error: &io::Error) {
        if is_gone(error) {
            return;
        }
        let who = self.who;
        match self.line(Instant::now()) {
            Some(0) => tracing::warn!("cannot accept {who}: {error}"),
            Some(more) => {
                tracing::warn!("cannot accept {who}: {error}; so it was {more} more times since the last line");
            }
            None => {}
        }
        sleep(PAUSE).await;
    }

    /// Whether an error that happens `now` is worth a line, and how many before it were not.
    fn line(&mut self, now: Instant) -> Option<u64> {
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < QUIET) {
            self.untold += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

/// Whether the connection was over before it was accepted, which is nobody's trouble but its own.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_and_then_one_a_minute_with_their_number() {
        let (mut errors, start) = (AcceptErrors::new("agents"), Instant::now());
        let told: Vec<_> = (0..3000).filter_map(|n| errors.line(start + n * PAUSE)).collect();
        assert_eq!(told, [0, 1199, 1199]);
        assert_eq!(
            errors.line(start + Duration::from_hours(1)),
            Some(599),
            "what came at the end is told with the next"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_the_next_one_meets_too_is_waited_for() {
        let (mut errors, start) = (AcceptErrors::new("agents"), Instant::now());
        errors.pause(&io::ErrorKind::ConnectionAborted.into()).await;
        assert_eq!((start.elapsed(), errors.told), (Duration::ZERO, None));
        // EMFILE.
        errors.pause(&io::Error::from_raw_os_error(24)).await;
        assert!(start.elapsed() >= PAUSE && errors.told.is_some());
    }
}
