use std::time::{Duration, Instant};

/// What a sender may send on a new link before any CREDIT, in bytes. Part of the protocol.
pub(super) const INITIAL: u32 = 256 * 1024;
/// The most credit that one direction may have at a time. Part of the protocol.
pub(super) const MAX_CREDIT: u32 = 16 * 1024 * 1024;

/// The window of a reader that has not shown to need more. Smaller than [`INITIAL`]: what a reader that stalls in
/// mid-stream leaves unread is its window, and there may be hundreds of them.
const FLOOR: u32 = 64 * 1024;
/// The largest window.
const CEILING: u32 = 8 * 1024 * 1024;
/// How much a window may grow at once: a 64 MiB download on a long way must not spend its life growing.
const STEP: u32 = 4;
/// What the windows of all links in use come to together is what this rate fills in a round trip, in bytes a second, but at
/// least one of the largest: more would only queue on the way, and everything else of the session behind it.
const RATE: u64 = 250_000_000;
/// The least of that which a link may have, however many there are.
const LEAST_SHARE: u32 = 1024 * 1024;
/// A round trip counts as at least this long: below, it is scheduling that is measured.
const SHORTEST_TRIP: Duration = Duration::from_millis(1);

/// Until a reader has taken this much over a short way, its window stays at the floor, which is enough there: what it takes at
/// first goes into sockets and buffers between it and the link, and tells nothing of the reader.
const BUFFERED: u64 = 1024 * 1024;
/// A short way. On a long one a window has to grow at once, or the beginning of a download would take seconds.
const SHORT_TRIP: Duration = Duration::from_millis(5);

/// What all links of a session share: how much windows may have beyond the floor, and what is unread.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Budget {
    limit: usize,
    reserved: usize,
    /// Who of them is at work.
    active: Active,
    /// Memory held by data that no reader has taken yet, of all links.
    pub(super) unread: usize,
}

/// Counts the windows that were found busy in the course of some round trips.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
struct Active {
    /// When and as which the present count began.
    since: Option<Instant>,
    epoch: u64,
    now: u32,
    before: u32,
}

/// How much the receiving side of one direction lets the sender send.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Window {
    size: u32,
    /// How much was ever received, taken by the reader, and allowed to be sent.
    received: u64,
    taken: u64,
    granted: u64,
    /// Where and when the present measurement of the reader began.
    mark: u64,
    since: Instant,
    /// Whether the reader took anything since the last [`Window::rest`].
    used: bool,
    /// When [`Active`] counted it last.
    epoch: u64,
}

// === impl Budget ===

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, reserved: 0, active: Active::default(), unread: 0 }
    }

    /// Changes what is counted as unread by what a queue holds now and held before.
    pub(super) fn recount(&mut self, before: usize, now: usize) {
        self.unread = self.unread + now - before;
    }

    /// Whether no window has more than the floor, and nothing is unread.
    #[cfg(test)]
    pub(super) fn is_unused(&self) -> bool {
        (self.reserved, self.unread) == (0, 0)
    }

    /// How large one of the windows in use may be.
    fn share(&self, trip: Duration) -> u32 {
        let together = u128::from(RATE) * trip.as_micros() / 1_000_000;
        let together = u32::try_from(together).unwrap_or(u32::MAX).max(CEILING);
        (together / self.active.now.max(self.active.before).max(1)).clamp(LEAST_SHARE, CEILING)
    }

    fn reserve(&mut self, more: u32) -> bool {
        let fits = self.reserved + self.unread + more as usize <= self.limit;
        if fits {
            self.reserved += more as usize;
        }
        fits
    }
}

// === impl Active ===

impl Active {
    /// For how many round trips windows are counted; a busy one is found so once in one or two.
    const TRIPS: u32 = 4;

    fn count(&mut self, epoch: &mut u64, now: Instant, trip: Duration) {
        let (span, spent) = (trip * Self::TRIPS, self.since.map(|since| now.saturating_duration_since(since)));
        if spent.is_none_or(|spent| spent > span) {
            // A count that ended long ago says nothing of now.
            self.before = if spent.is_some_and(|spent| spent > span * 2) { 0 } else { self.now };
            (self.since, self.now) = (Some(now), 0);
            self.epoch += 1;
        }
        if *epoch != self.epoch {
            *epoch = self.epoch;
            self.now += 1;
        }
    }
}

// === impl Window ===

impl Window {
    pub(super) fn new(now: Instant) -> Self {
        let granted = u64::from(INITIAL);
        Self { size: FLOOR, received: 0, taken: 0, granted, mark: 0, since: now, used: false, epoch: 0 }
    }

    /// Counts what arrived; false where it is more than was allowed.
    #[must_use]
    pub(super) fn receive(&mut self, count: usize) -> bool {
        self.received += count as u64;
        self.received <= self.granted
    }

    /// Counts what the reader took, and says how much more to allow; 0 is not worth a frame yet.
    pub(super) fn take(&mut self, count: usize, now: Instant, trip: Option<Duration>, budget: &mut Budget) -> u32 {
        self.taken += count as u64;
        self.used = true;
        if self.taken - self.mark >= u64::from(self.size / 2) {
            let trip = trip.unwrap_or_default().max(SHORTEST_TRIP);
            let told = self.taken >= BUFFERED || trip > SHORT_TRIP;
            if told {
                self.fit(now, trip, budget);
            }
            (self.mark, self.since) = (self.taken, now);
        }
        let more = (self.taken + u64::from(self.size)).saturating_sub(self.granted);
        if more < u64::from(self.size / 4) {
            return 0;
        }
        self.granted += more;
        // At most a window, which fits.
        u32::try_from(more).unwrap_or(CEILING)
    }

    /// Whether the window takes something out of the budget.
    pub(super) fn is_grown(&self) -> bool {
        self.size > FLOOR
    }

    /// Called every now and then: gives back what a reader that has paused does not use.
    pub(super) fn rest(&mut self, unread: bool, budget: &mut Budget) {
        if !self.used && !unread {
            self.release(budget);
        }
        self.used = false;
    }

    /// Gives back all that the window took out of the budget.
    pub(super) fn release(&mut self, budget: &mut Budget) {
        budget.reserved -= (self.size - FLOOR) as usize;
        self.size = FLOOR;
    }

    /// Lets the window be half more than the reader takes in a round trip, if it goes on as since the mark: then it
    /// need not wait for the sender.
    fn fit(&mut self, now: Instant, trip: Duration, budget: &mut Budget) {
        let spent = now.saturating_duration_since(self.since);
        let taken = u128::from(self.taken - self.mark);
        let wanted = taken * 3 / 2 * trip.as_nanos() / spent.as_nanos().max(1);
        let wanted = u32::try_from(wanted).unwrap_or(CEILING).min(self.size * STEP);
        budget.active.count(&mut self.epoch, now, trip);
        let share = budget.share(trip);
        let size = wanted.max(self.size).min(share);
        if size < self.size {
            budget.reserved -= (self.size - size) as usize;
            self.size = size;
        } else if size > self.size && budget.reserve(size - self.size) {
            self.size = size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIP: Option<Duration> = Some(Duration::from_millis(50));

    /// A sender that always uses its credit, one window a round trip, and a reader that takes all of it.
    fn stream(window: &mut Window, budget: &mut Budget, start: Instant, trips: u32) {
        streams(std::slice::from_mut(window), budget, start, trips);
    }

    /// The same of several at once.
    fn streams(windows: &mut [Window], budget: &mut Budget, start: Instant, trips: u32) {
        for trip in 1..=trips {
            let now = start + Duration::from_millis(50) * trip;
            for window in &mut *windows {
                let mut arriving = window.granted - window.received;
                while arriving > 0 {
                    let piece = usize::try_from(arriving.min(16 * 1024)).expect("small");
                    arriving -= piece as u64;
                    assert!(window.receive(piece));
                    window.take(piece, now, TRIP, budget);
                }
            }
        }
    }

    #[test]
    fn a_fast_reader_gets_the_whole_window_within_five_round_trips() {
        let (start, mut budget) = (Instant::now(), Budget::new(32 << 20));
        let mut window = Window::new(start);
        stream(&mut window, &mut budget, start, 5);
        assert_eq!(window.size, CEILING);
    }

    #[test]
    fn a_narrow_way_is_filled_and_not_much_more() {
        let (start, mut budget) = (Instant::now(), Budget::new(32 << 20));
        let mut window = Window::new(start);
        // 20 MB/s: 1 MB in a round trip.
        let (mut now, mut taken) = (start, 0);
        while taken < 64 << 20 {
            assert!(window.receive(16 * 1024));
            now += Duration::from_secs_f64(16.0 * 1024.0 / 20e6);
            window.take(16 * 1024, now, TRIP, &mut budget);
            taken += 16 * 1024;
        }
        assert!((1_000_000..=1_500_000).contains(&window.size), "{}", window.size);
    }

    #[test]
    fn windows_in_use_share_what_the_way_may_hold() {
        let (start, mut budget) = (Instant::now(), Budget::new(32 << 20));
        let mut windows = [(); 8].map(|()| Window::new(start));
        streams(&mut windows, &mut budget, start, 10);
        let together: u32 = windows.iter().map(|window| window.size).sum();
        assert!((12_000_000..=12_500_000).contains(&together), "{together}");
        // Those that stall leave it to the others.
        stream(&mut windows[0], &mut budget, start + Duration::from_millis(500), 20);
        assert_eq!(windows[0].size, CEILING);
    }

    #[test]
    fn a_slow_reader_stays_at_the_floor() {
        let (start, mut budget) = (Instant::now(), Budget::new(32 << 20));
        let mut window = Window::new(start);
        let mut granted = INITIAL;
        for second in 1..=1000 {
            assert!(window.receive(1024));
            granted += window.take(1024, start + Duration::from_secs(second), TRIP, &mut budget);
        }
        assert!(!window.is_grown());
        assert!(u64::from(granted) - window.taken <= u64::from(FLOOR));
    }

    #[test]
    fn what_goes_into_buffers_over_a_short_way_is_no_sign_of_a_fast_reader() {
        let (start, mut budget) = (Instant::now(), Budget::new(32 << 20));
        let mut window = Window::new(start);
        let mut outstanding = INITIAL;
        while window.taken < BUFFERED / 2 {
            assert!(window.receive(16 * 1024));
            outstanding -= 16 * 1024;
            outstanding += window.take(16 * 1024, start, Some(Duration::from_micros(100)), &mut budget);
        }
        assert!(!window.is_grown());
        assert!(outstanding <= FLOOR, "what a reader that stalls now leaves unread");
    }

    #[test]
    fn windows_grow_no_farther_than_the_budget_and_give_back() {
        let (start, mut budget) = (Instant::now(), Budget::new(10 << 20));
        let mut windows = [Window::new(start), Window::new(start), Window::new(start)];
        for window in &mut windows {
            stream(window, &mut budget, start, 10);
        }
        assert!(budget.reserved <= 10 << 20);
        assert_eq!(windows[0].size, CEILING);
        assert!(windows[2].size < CEILING);
        for window in &mut windows {
            window.rest(false, &mut budget);
            window.rest(false, &mut budget);
        }
        assert_eq!(budget.reserved, 0);
    }

    #[test]
    fn unread_data_leaves_less_to_grow() {
        let (start, mut budget) = (Instant::now(), Budget::new(1 << 20));
        budget.recount(0, 1 << 20);
        let mut window = Window::new(start);
        stream(&mut window, &mut budget, start, 10);
        assert!(!window.is_grown());
    }
}
