use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use crate::tunnel::{
    ByLink,
    machine::{Event, Machine},
};

/// What the driver of a session shares with its links.
///
/// One lock, held for as long as a copy into or out of a queue takes. No waker is woken under it.
pub(super) struct Shared(Mutex<State>);

pub(super) struct State {
    pub(super) machine: Machine,
    pub(super) phase: Phase,
    waiting: ByLink<Waiting>,
    /// The driver, and whether it waits for something to send.
    driver: Option<Waker>,
    pub(super) driver_idle: bool,
    /// Who waits for arrivals; and whether anyone ever will.
    incoming: Option<Waker>,
    pub(super) deaf: bool,
}

/// How far a session's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    /// This side wants its end, once what waits to be sent is sent.
    Finishing,
    /// This side wants its end now; the driver has not seen to it yet.
    Closing,
    Closed,
}

/// Those who wait for something of one link.
#[derive(Debug, Default)]
struct Waiting {
    read: Option<Waker>,
    write: Option<Waker>,
    opened: Option<Waker>,
    failed: Option<Waker>,
}

/// What somebody may wait for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Interest {
    Read,
    Write,
    Opened,
    Failed,
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(machine: Machine) -> Self {
        Self(Mutex::new(State {
            machine,
            phase: Phase::Running,
            waiting: ByLink::default(),
            driver: None,
            driver_idle: false,
            incoming: None,
            deaf: false,
        }))
    }

    /// The lock. A panic of another holder (which the lints are there to prevent) leaves a machine that is still
    /// memory-safe; at worst its session ends with a protocol error.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the machine.
    pub(super) fn look<R>(&self, look: impl FnOnce(&Machine) -> R) -> R {
        look(&self.lock().machine)
    }

    /// Commands the machine, and sees to it that what comes of it is sent; `None` where the session is over.
    pub(super) fn command<R>(&self, command: impl FnOnce(&mut Machine) -> R) -> Option<R> {
        let mut state = self.lock();
        if state.phase != Phase::Running {
            return None;
        }
        let result = command(&mut state.machine);
        let driver = state.wake_driver();
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
        Some(result)
    }

    /// Does something with a link that may have to wait: `attempt` returns `None` where it has to.
    pub(super) fn attempt<R>(
        &self,
        id: u32,
        interest: Interest,
        cx: &Context<'_>,
        attempt: impl FnOnce(&mut Machine) -> Option<R>,
    ) -> Poll<R> {
        let mut state = self.lock();
        let result = attempt(&mut state.machine);
        if result.is_none() {
            state.wait(id, interest, cx);
        }
        let driver = state.wake_driver();
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
        result.map_or(Poll::Pending, Poll::Ready)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().phase != Phase::Running
    }

    /// This side wants the session's end. Whoever still wants to write is told; the driver sends the rest.
    pub(super) fn finish(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Running {
            state.phase = Phase::Finishing;
            state.machine.finish();
            let wakers = state.everyone();
            drop(state);
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// This side wants the session's end now. Links are lost at once; the driver closes the connection.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Running | Phase::Finishing) {
            state.phase = Phase::Closing;
            let wakers = state.lose();
            drop(state);
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// The session is over.
    pub(super) fn closed(&self) {
        let mut state = self.lock();
        state.phase = Phase::Closed;
        let wakers = state.lose();
        state.driver = None;
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// A link's user has let it go.
    pub(super) fn release(&self, id: u32) {
        let mut state = self.lock();
        state.waiting.remove(&id);
        state.machine.release(id);
        let driver = state.wake_driver();
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
    }
}

// === impl State ===

impl State {
    /// The driver, if it waits for something to send and there is something.
    fn wake_driver(&mut self) -> Option<Waker> {
        let wake = self.driver_idle && self.machine.has_output();
        self.driver_idle &= !wake;
        if wake { self.driver.clone() } else { None }
    }

    pub(super) fn set_driver(&mut self, cx: &Context<'_>) {
        set(&mut self.driver, cx);
    }

    pub(super) fn wait_incoming(&mut self, cx: &Context<'_>) {
        set(&mut self.incoming, cx);
    }

    fn wait(&mut self, id: u32, interest: Interest, cx: &Context<'_>) {
        let waiting = self.waiting.entry(id).or_default();
        let waker = match interest {
            Interest::Read => &mut waiting.read,
            Interest::Write => &mut waiting.write,
            Interest::Opened => &mut waiting.opened,
            Interest::Failed => &mut waiting.failed,
        };
        set(waker, cx);
    }

    /// Adds to `wakers` those who wait for what has happened.
    pub(super) fn happened(&mut self, wakers: &mut Vec<Waker>) {
        while let Some(event) = self.machine.next_event() {
            let (Event::Readable(id) | Event::Writable(id) | Event::Answered(id) | Event::Failed(id)) = event;
            let Some(waiting) = self.waiting.get_mut(&id) else { continue };
            match event {
                Event::Readable(_) => wakers.extend(waiting.read.take()),
                Event::Writable(_) => wakers.extend(waiting.write.take()),
                Event::Answered(_) => wakers.extend(waiting.opened.take()),
                Event::Failed(_) => waiting.drain(wakers),
            }
        }
        if self.machine.has_arrivals() {
            wakers.extend(self.incoming.take());
        }
    }

    /// All links are lost; returns everyone to be told.
    fn lose(&mut self) -> Vec<Waker> {
        self.machine.lose();
        self.everyone()
    }

    /// The driver and all who wait for anything.
    fn everyone(&mut self) -> Vec<Waker> {
        let mut wakers: Vec<_> = self.driver.iter().cloned().chain(self.incoming.take()).collect();
        self.waiting.values_mut().for_each(|waiting| waiting.drain(&mut wakers));
        wakers
    }

    pub(super) fn shrink(&mut self) {
        self.machine.shrink();
        self.waiting.shrink_to_fit();
    }
}

// === impl Waiting ===

impl Waiting {
    fn drain(&mut self, wakers: &mut Vec<Waker>) {
        let Self { read, write, opened, failed } = self;
        wakers.extend([read, write, opened, failed].into_iter().filter_map(Option::take));
    }
}

/// Keeps the waker of this task, without a clone where it is kept already.
fn set(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *waker = Some(cx.waker().clone()),
    }
}
