//! What a visitor's connection waits for, and since when.

mod stall;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Context,
    time::Duration,
};

use futures::task::AtomicWaker;
use tokio::time::Instant;

use self::stall::StallTimeout;
use crate::proxy::Config;

/// How long a visitor that has ended its side may take nothing before it counts as gone. One that only has no more to say
/// looks like one that has left until something is written to it.
const HALF_CLOSED: Duration = Duration::from_secs(5);

/// How long what a visitor still sends is taken and dropped after the last answer. A socket that is closed with something
/// unread resets the connection, and the visitor may never see the answer.
const LINGER: Duration = Duration::from_secs(5);

/// How long a connection that is to end may be without a request before it does. One that is used all the time has its next
/// request within that, whose answer says that it is the last; over HTTP/1.1 nothing else could say so, and a request that
/// meets the end of its connection has failed.
pub(super) const LAST_CHANCE: Duration = Duration::from_secs(1);

/// The rest of a request of which nothing has come for so long trickles in.
const PAUSE: Duration = Duration::from_millis(500);

/// What the connection waits for, and since when.
#[derive(Debug)]
pub(super) struct Phase {
    start: Instant,
    header_timeout: Duration,
    idle_timeout: Duration,
    stall_timeout: StallTimeout,
    /// Several requests may be in progress at once, as over HTTP/2.
    multiplexed: bool,
    /// Milliseconds from `start` above the two bits of the [`Stage`].
    state: AtomicU64,
    /// Since when the visitor has taken nothing of what is to be written, in milliseconds from `start`; [`FLOWS`] where
    /// nothing waits for it.
    stalled: AtomicU64,
    /// When a visitor that has ended its side last took something, in milliseconds from `start`; [`OPEN`] before it does.
    half_closed: AtomicU64,
    /// Who waits for more of the request's body, and is not to wait once the visitor has ended its side.
    uploading: AtomicWaker,
    /// The visitor must not take an orderly end of the connection for that of the response.
    cut: AtomicBool,
    /// The visitor was too slow with a request's head, and hears of it.
    too_slow: AtomicBool,
    /// The visitor took nothing for too long.
    given_up: AtomicBool,
    /// The last request has a body, of which something may come that nobody reads.
    has_body: AtomicBool,
    /// How many requests have had a body.
    bodies: AtomicU64,
    /// The body of which more may come, for somebody who reads it, by its number among these; or [`NO_BODY`].
    uploads: AtomicU64,
    /// When the last piece of a request came, where it was not the first, in milliseconds from `start`.
    piece: AtomicU64,
    /// Requests in progress, and joins over HTTP/2.
    active: AtomicUsize,
    /// Joins over HTTP/2.
    joins: AtomicUsize,
    /// Responses over HTTP/2 of which a piece waits for the visitor's window.
    waiting: AtomicUsize,
    /// When one of these last moved, in milliseconds from `start`.
    moved: AtomicU64,
    /// Since when the next answer is to be the last, in milliseconds from `start`; [`STAYS`] before.
    leaving: AtomicU64,
    /// Since when the rest of a head over HTTP/2 is to come, in milliseconds from `start`; [`NONE`] where there is none.
    head: AtomicU64,
    /// Pieces of responses and joins over HTTP/2 so far.
    pieces: AtomicU64,
}

/// No head has begun.
const NONE: u64 = u64::MAX;
/// Nothing is kept waiting by the visitor.
const FLOWS: u64 = u64::MAX;
/// The visitor has not ended its side.
const OPEN: u64 = u64::MAX;
/// There is no body that somebody reads.
const NO_BODY: u64 = 0;
/// The connection goes on.
const STAYS: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// For the first byte of a request.
    Idle,
    /// For the rest of its head.
    Head,
    /// For the edge and the backend.
    Busy,
    /// For the visitor to hear that this is the end.
    Closing,
}

/// A request in progress; the connection is idle when the last one is dropped.
#[derive(Debug)]
pub(super) struct InProgress {
    phase: Arc<Phase>,
    /// A piece of the response was given to the connection, and the next one not yet asked for.
    handed: bool,
    /// How long the visitor may take nothing of the response, in milliseconds, where others have their own.
    stall_timeout: Option<u64>,
}

/// A join over HTTP/2, which keeps its connection busy.
#[derive(Debug)]
pub(in crate::proxy) struct Joined(Arc<Phase>);

/// The body of a request that comes in turn, which nothing more can come of once the visitor has ended its side.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Uploading {
    phase: Arc<Phase>,
    /// Which of its bodies this is.
    body: u64,
}

/// Milliseconds, few enough to be added to any moment.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(u64::MAX >> 24)
}

// === impl Phase ===

impl Phase {
    /// Of a connection with one request at a time.
    pub(super) fn new(config: &Config) -> Self {
        Self {
            start: Instant::now(),
            header_timeout: config.header_timeout,
            idle_timeout: config.idle_timeout,
            stall_timeout: StallTimeout::new(millis(config.stall_timeout)),
            multiplexed: false,
            state: AtomicU64::new(0),
            stalled: AtomicU64::new(FLOWS),
            half_closed: AtomicU64::new(OPEN),
            uploading: AtomicWaker::new(),
            cut: AtomicBool::new(false),
            too_slow: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            has_body: AtomicBool::new(false),
            bodies: AtomicU64::new(0),
            uploads: AtomicU64::new(NO_BODY),
            piece: AtomicU64::new(0),
            active: AtomicUsize::new(0),
            joins: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            moved: AtomicU64::new(0),
            leaving: AtomicU64::new(STAYS),
            head: AtomicU64::new(NONE),
            pieces: AtomicU64::new(0),
        }
    }

    /// Of a connection with several requests at a time.
    pub(super) fn multiplexed(config: &Config) -> Self {
        Self { multiplexed: true, ..Self::new(config) }
    }

    pub(super) fn is_multiplexed(&self) -> bool {
        self.multiplexed
    }

    fn millis(&self) -> u64 {
        millis(self.start.elapsed())
    }

    pub(super) fn set(&self, stage: Stage) {
        self.state.store(self.millis() << 2 | stage as u64, Ordering::Relaxed);
    }

    /// A request begins. `has_body` is for those that come in turn: of theirs, something may be left on the connection.
    pub(super) fn begin(self: &Arc<Self>, has_body: bool) -> InProgress {
        self.has_body.store(has_body, Ordering::Relaxed);
        let body = if has_body { self.bodies.fetch_add(1, Ordering::Relaxed) + 1 } else { NO_BODY };
        self.uploads.store(body, Ordering::Relaxed);
        self.active.fetch_add(1, Ordering::Relaxed);
        self.set(Stage::Busy);
        InProgress { phase: self.clone(), handed: false, stall_timeout: None }
    }

    /// A request or a join is over.
    fn end(&self) {
        if self.active.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.set(Stage::Idle);
        }
    }

    /// Something came of the visitor.
    pub(super) fn read(&self) {
        if self.waits_for_rest() {
            self.flows();
        } else if !self.multiplexed && self.stage() == Stage::Idle {
            self.set(Stage::Head);
        }
    }

    /// Whether the rest of a request is to come, of a visitor who has one at a time.
    pub(super) fn waits_for_rest(&self) -> bool {
        match self.stage() {
            Stage::Head => true,
            Stage::Busy => self.uploads.load(Ordering::Relaxed) != NO_BODY,
            Stage::Idle | Stage::Closing => false,
        }
    }

    /// A piece of a request has come, or is about to be read.
    pub(super) fn flows(&self) {
        self.piece.store(self.millis(), Ordering::Relaxed);
    }

    /// Whether the rest of a request, if it comes now, comes after a pause.
    pub(super) fn trickles(&self) -> bool {
        self.waits_for_rest() && !self.is_half_closed() && {
            let since = self.piece.load(Ordering::Relaxed).max(self.state.load(Ordering::Relaxed) >> 2);
            self.millis().saturating_sub(since) >= millis(PAUSE)
        }
    }

    /// Over HTTP/2, whether the rest of a head is to come; a new one may have begun since this was last said.
    pub(super) fn head_comes(&self, comes: bool, begins: bool) {
        if comes != self.waits_for_head() || comes && begins {
            self.head.store(if comes { self.millis() } else { NONE }, Ordering::Relaxed);
        }
    }

    pub(super) fn waits_for_head(&self) -> bool {
        self.head.load(Ordering::Relaxed) != NONE
    }

    /// While the visitor takes nothing, what it sends may not be read either.
    fn head_deadline(&self) -> Option<Instant> {
        let since = Duration::from_millis(self.head.load(Ordering::Relaxed));
        (self.waits_for_head() && !self.is_stalled()).then(|| self.start + since + self.header_timeout)
    }

    /// The visitor is too slow with a head over HTTP/2.
    pub(super) fn head_is_late(&self) -> bool {
        self.head_deadline().is_some_and(|due| due <= Instant::now())
    }

    /// How many pieces of responses and joins over HTTP/2 there have been.
    pub(super) fn pieces(&self) -> u64 {
        self.pieces.load(Ordering::Relaxed)
    }

    /// The visitor ended its side. Returns whether a request of it is in progress, whose answer it may wait for.
    pub(super) fn ended(&self) -> bool {
        if self.multiplexed || self.stage() != Stage::Busy {
            return false;
        }
        if !self.is_half_closed() {
            // What came before is in the body by now.
            self.half_closed.store(self.millis(), Ordering::Release);
            self.uploading.wake();
        }
        true
    }

    /// Something was written to the visitor. One that has left answers that with a reset, which the next write meets.
    pub(super) fn took(&self) {
        if self.is_half_closed() {
            self.half_closed.store(self.millis(), Ordering::Relaxed);
        }
    }

    fn is_half_closed(&self) -> bool {
        self.half_closed.load(Ordering::Acquire) != OPEN
    }

    /// The response breaks off where only the end of the connection tells its end.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// The connection is to end. Returns whether it has to be read to its end.
    pub(super) fn close(&self) -> bool {
        let lingers = self.has_body.load(Ordering::Relaxed);
        if lingers && self.stage() != Stage::Closing {
            self.set(Stage::Closing);
        }
        lingers
    }

    /// The next answer is to be the last, and without a request there will be none.
    pub(super) fn leave(&self) {
        self.leaving.store(self.millis(), Ordering::Relaxed);
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed) != STAYS
    }

    /// The visitor was too slow with a request's head.
    pub(super) fn set_too_slow(&self) {
        self.too_slow.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_too_slow(&self) -> bool {
        self.too_slow.load(Ordering::Relaxed)
    }

    /// The visitor took nothing for too long; its responses end.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// The visitor took something of what is written, or nothing.
    pub(super) fn wrote(&self, some: bool) {
        let stalled = self.is_stalled();
        if some && stalled {
            self.stalled.store(FLOWS, Ordering::Relaxed);
            self.head_comes(self.waits_for_head(), true);
            if self.stage() == Stage::Idle {
                // The body was over before its last bytes were taken.
                self.set(Stage::Idle);
            }
        } else if !some && !stalled {
            self.stalled.store(self.millis(), Ordering::Relaxed);
        }
    }

    fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed) != FLOWS
    }

    pub(super) fn stage(&self) -> Stage {
        match self.state.load(Ordering::Relaxed) & 3 {
            0 => Stage::Idle,
            1 => Stage::Head,
            2 => Stage::Busy,
            _ => Stage::Closing,
        }
    }

    /// Whether it is the visitor that does not take what it is sent.
    pub(super) fn visitor_stalls(&self) -> bool {
        self.is_stalled() || self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Whether nothing but joins is left, which end in their own time.
    pub(super) fn only_joins(&self) -> bool {
        let joins = self.joins.load(Ordering::Relaxed);
        joins > 0 && joins == self.active.load(Ordering::Relaxed)
    }

    /// Until when the visitor has time; `None` while it is the edge's turn.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let due = self.stage_deadline();
        match self.head_deadline() {
            Some(head) => Some(due.map_or(head, |due| due.min(head))),
            None => due,
        }
    }

    fn stage_deadline(&self) -> Option<Instant> {
        let at = |millis: u64| self.start + Duration::from_millis(millis);
        let stall_timeout = Duration::from_millis(self.stall_timeout.get());
        if self.is_stalled() {
            return Some(at(self.stalled.load(Ordering::Relaxed)) + stall_timeout);
        }
        let since = at(self.state.load(Ordering::Relaxed) >> 2);
        match self.stage() {
            // Its last request is answered.
            Stage::Idle if self.is_half_closed() => Some(since),
            Stage::Idle if self.is_leaving() => {
                Some(since.max(at(self.leaving.load(Ordering::Relaxed))) + LAST_CHANCE.min(self.idle_timeout))
            }
            Stage::Idle => Some(since + self.idle_timeout),
            Stage::Head => Some(since + self.header_timeout),
            Stage::Busy if self.waiting.load(Ordering::Relaxed) > 0 => {
                Some(at(self.moved.load(Ordering::Relaxed)) + stall_timeout)
            }
            Stage::Busy if self.is_half_closed() => Some(at(self.half_closed.load(Ordering::Relaxed)) + HALF_CLOSED),
            Stage::Busy => None,
            Stage::Closing => Some(since + LINGER),
        }
    }
}

// === impl InProgress ===

impl InProgress {
    pub(super) fn phase(&self) -> &Phase {
        &self.phase
    }

    /// How long the visitor may take nothing of the response.
    pub(super) fn set_stall_timeout(&mut self, timeout: Duration) {
        let timeout = millis(timeout);
        if self.phase.multiplexed {
            self.stall_timeout = Some(timeout);
            self.phase.stall_timeout.add(timeout);
        } else {
            self.phase.stall_timeout.set(timeout);
        }
    }

    /// The connection asks for the response's next piece: it is rid of the last one.
    pub(super) fn asked(&mut self) {
        if self.handed {
            self.handed = false;
            self.phase.waiting.fetch_sub(1, Ordering::Relaxed);
            self.phase.moved.store(self.phase.millis(), Ordering::Relaxed);
        }
    }

    /// The connection was given a piece of the response. Over HTTP/2 it asks for the next one only once the visitor's
    /// window has let it through; over HTTP/1.1 the socket tells.
    pub(super) fn handed(&mut self) {
        if self.phase.multiplexed {
            self.handed = true;
            self.phase.pieces.fetch_add(1, Ordering::Relaxed);
            self.phase.moved.store(self.phase.millis(), Ordering::Relaxed);
            self.phase.waiting.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// For who reads the request's body.
    pub(super) fn upload(&self) -> Uploading {
        Uploading { phase: self.phase.clone(), body: self.phase.uploads.load(Ordering::Relaxed) }
    }

    /// A join begins that goes on beside the request.
    pub(super) fn join(&self) -> Joined {
        self.phase.joins.fetch_add(1, Ordering::Relaxed);
        self.phase.active.fetch_add(1, Ordering::Relaxed);
        Joined(self.phase.clone())
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.asked();
        if let Some(timeout) = self.stall_timeout {
            self.phase.stall_timeout.remove(timeout);
        }
        self.phase.end();
    }
}

// === impl Uploading ===

impl Uploading {
    /// Nobody reads more of it. It may be told late, when the next request has begun.
    pub(in crate::proxy) fn end(&self) {
        let _ = self.phase.uploads.compare_exchange(self.body, NO_BODY, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether the visitor has ended its side. What it sent before can be read from the body then; who asks is woken when
    /// it happens later.
    pub(in crate::proxy) fn is_over(&self, cx: &Context<'_>) -> bool {
        self.phase.uploading.register(cx.waker());
        self.phase.is_half_closed()
    }
}

// === impl Joined ===

impl Joined {
    /// The connection was given a piece of what the backend sent.
    pub(in crate::proxy) fn handed(&self) {
        self.0.pieces.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.0.joins.fetch_sub(1, Ordering::Relaxed);
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_the_rest_of_a_request_trickles_and_only_after_a_pause() {
        let phase = Arc::new(Phase::new(&Config::default()));
        let after = |millis| tokio::time::advance(Duration::from_millis(millis));
        after(10_000).await;
        assert!(!phase.trickles(), "an idle connection begins a request");
        phase.read();
        after(499).await;
        assert!(!phase.trickles());
        after(1).await;
        assert!(phase.trickles(), "a head");
        phase.read();
        assert!(!phase.trickles());

        let request = phase.begin(true);
        after(400).await;
        phase.read();
        after(400).await;
        assert!(!phase.trickles(), "a body flows");
        after(100).await;
        assert!(phase.trickles(), "a body");
        phase.flows();
        assert!(!phase.trickles(), "it was waited with already");
        after(10_000).await;
        let upload = request.upload();
        upload.end();
        assert!(!phase.trickles(), "a body has ended");
        drop(request);

        let request = phase.begin(false);
        after(10_000).await;
        assert!(!phase.trickles(), "a request without a body");
        drop(request);

        let request = phase.begin(true);
        after(10_000).await;
        upload.end();
        assert!(phase.trickles(), "it is another one that has ended");
        assert!(phase.ended());
        assert!(!phase.trickles(), "nothing more can come");
        drop(request);
    }
}
