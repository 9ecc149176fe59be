//! Two machines against a model of what links are, with anything happening in any order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Open,
    /// Of the openings that wait, this one is accepted (or refused).
    Answer(usize, bool),
    Write(Role, usize, usize),
    WriteChunk(Role, usize, usize),
    End(Role, usize),
    Read(Role, usize, usize),
    Reset(Role, usize),
    Release(Role, usize),
    Send(Role),
    Arrive(Role, usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let role = || prop_oneof![Just(Role::Edge), Just(Role::Agent)];
    let size = || prop_oneof![Just(1usize), 1usize..200, 1usize..20_000, 1usize..60_000, 1usize..150_000];
    prop_oneof![
        2 => Just(Step::Open),
        3 => (any::<usize>(), prop::bool::weighted(0.85)).prop_map(|(n, accept)| Step::Answer(n, accept)),
        6 => (role(), any::<usize>(), size()).prop_map(|(role, n, size)| Step::Write(role, n, size)),
        3 => (role(), any::<usize>(), size()).prop_map(|(role, n, size)| Step::WriteChunk(role, n, size)),
        2 => (role(), any::<usize>()).prop_map(|(role, n)| Step::End(role, n)),
        6 => (role(), any::<usize>(), size()).prop_map(|(role, n, size)| Step::Read(role, n, size)),
        1 => (role(), any::<usize>()).prop_map(|(role, n)| Step::Reset(role, n)),
        1 => (role(), any::<usize>()).prop_map(|(role, n)| Step::Release(role, n)),
        8 => role().prop_map(Step::Send),
        8 => (role(), prop_oneof![Just(usize::MAX), 1usize..30, 1usize..40_000]).prop_map(|(r, n)| Step::Arrive(r, n)),
        1 => (0u64..900).prop_map(Step::Wait),
    ]
}

/// What one side's user of a link did and saw.
#[derive(Debug, Default)]
struct User {
    written: usize,
    read: usize,
    ended: bool,
    saw_end: bool,
    gone: bool,
}

struct Model {
    wire: Wire,
    users: BTreeMap<(u32, bool), User>,
    /// Links that somebody refused, reset or let go before their time.
    broken: BTreeSet<u32>,
    waiting: Vec<u32>,
}

/// Bytes without a pattern that could hide a shift; made once, since debug builds make them slowly.
static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..CYCLE + LONGEST).map(|_| next()).collect()
});
const CYCLE: usize = 1_000_003;
const LONGEST: usize = 160_000;

/// The bytes at a place of a link's direction: they tell where they belong.
fn stretch(id: u32, from_edge: bool, from: usize, length: usize) -> &'static [u8] {
    let start = (from + id as usize * 8191 + usize::from(from_edge) * 99_991) % CYCLE;
    &BYTES[start..start + length]
}

impl Model {
    fn new() -> Self {
        // Small queues, so that waiting in line and being blocked are the rule.
        let config = Config { send_queue: 40_000, ..Config::default() };
        Self {
            wire: Wire::new(config.clone(), config),
            users: BTreeMap::new(),
            broken: BTreeSet::new(),
            waiting: Vec::new(),
        }
    }

    fn pick(&self, role: Role, n: usize) -> Option<u32> {
        let edge = role == Role::Edge;
        let ids: Vec<u32> =
            self.users.iter().filter(|((_, e), user)| *e == edge && !user.gone).map(|((id, _), _)| *id).collect();
        (!ids.is_empty()).then(|| ids[n % ids.len()])
    }

    fn user(&mut self, role: Role, id: u32) -> &mut User {
        self.users.get_mut(&(id, role == Role::Edge)).expect("a user")
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Open => {
                let now = self.wire.now;
                let id = self.wire.edge.open(&open(), now).expect("a number");
                self.users.insert((id, true), User::default());
            }
            Step::Answer(n, accept) => {
                if self.waiting.is_empty() {
                    return;
                }
                let id = self.waiting.remove(n % self.waiting.len());
                if accept {
                    self.wire.agent.accept(id);
                    self.users.insert((id, false), User::default());
                } else {
                    self.wire.agent.refuse(id, RefuseCode::Unreachable, "no way");
                    self.broken.insert(id);
                }
            }
            Step::Write(role, n, size) | Step::WriteChunk(role, n, size) => {
                let Some(id) = self.pick(role, n) else { return };
                let User { written, ended, .. } = *self.user(role, id);
                if ended {
                    return;
                }
                let bytes = stretch(id, role == Role::Edge, written, size);
                let taken = if matches!(step, Step::Write(..)) {
                    let (a, b) = bytes.split_at(size / 3);
                    self.wire.machine(role).write(id, &[IoSlice::new(a), IoSlice::new(b)])
                } else {
                    let mut chunk = Bytes::from_static(bytes);
                    let taken = self.wire.machine(role).write_chunk(id, &mut chunk);
                    assert_eq!(chunk.len(), size - taken.clone().unwrap_or(0));
                    taken
                };
                match taken {
                    Ok(taken) => self.user(role, id).written += taken,
                    Err(_) => assert!(self.broken.contains(&id)),
                }
            }
            Step::End(role, n) => {
                let Some(id) = self.pick(role, n) else { return };
                match self.wire.machine(role).end(id) {
                    Ok(()) => self.user(role, id).ended = true,
                    Err(_) => assert!(self.broken.contains(&id)),
                }
            }
            Step::Read(role, n, size) => {
                if let Some(id) = self.pick(role, n) {
                    self.read(role, id, size);
                }
            }
            Step::Reset(role, n) => {
                let Some(id) = self.pick(role, n) else { return };
                self.wire.machine(role).reset(id, ResetCode::Internal);
                self.broken.insert(id);
            }
            Step::Release(role, n) => {
                let Some(id) = self.pick(role, n) else { return };
                let User { ended, saw_end, .. } = *self.user(role, id);
                if !(ended && saw_end) {
                    self.broken.insert(id);
                }
                self.user(role, id).gone = true;
                self.wire.machine(role).release(id);
            }
            Step::Send(role) => self.wire.send(role),
            Step::Arrive(role, count) => {
                self.wire.arrive(role, count);
                self.arrivals();
            }
            Step::Wait(milliseconds) => self.wire.now += Duration::from_millis(milliseconds),
        }
    }

    fn arrivals(&mut self) {
        while let Some(arrival) = self.wire.agent.next_arrival() {
            let Arrival::Open { id, open: received } = arrival else { panic!("a note that nobody sent") };
            assert_eq!(received, open());
            self.waiting.push(id);
        }
    }

    /// Reads, and checks that what comes is what belongs there; false where there is nothing to read now.
    fn read(&mut self, role: Role, id: u32, max: usize) -> bool {
        let from_edge = role == Role::Agent;
        let now = self.wire.now;
        match self.wire.machine(role).read_chunk(id, max, now) {
            Ok(Read::Data(chunk)) => {
                assert!((1..=max).contains(&chunk.len()));
                let user = self.user(role, id);
                assert!(!user.saw_end, "data after the end");
                let from = user.read;
                user.read += chunk.len();
                assert_eq!(chunk, stretch(id, from_edge, from, chunk.len()), "other bytes than were written");
                true
            }
            Ok(Read::End) => {
                self.user(role, id).saw_end = true;
                if let Some(writer) = self.users.get(&(id, from_edge)) {
                    assert!(writer.ended, "an end that nobody made");
                    assert_eq!(writer.written, self.users[&(id, !from_edge)].read, "the end came too early");
                }
                false
            }
            Ok(Read::Empty) => false,
            Err(error) => {
                assert!(self.broken.contains(&id), "{error}");
                false
            }
        }
    }

    /// Everything that is under way arrives, everyone reads what there is; then both sides have to agree.
    fn finish(mut self) {
        for role in [Role::Edge, Role::Agent] {
            // What was cut in two is completed.
            self.wire.send(role);
        }
        for _ in 0..200 {
            self.wire.settle();
            self.arrivals();
            let keys: Vec<_> = self.users.iter().filter(|(_, user)| !user.gone).map(|(key, _)| *key).collect();
            let mut moved = false;
            for (id, edge) in keys {
                let role = if edge { Role::Edge } else { Role::Agent };
                while self.read(role, id, 30_000) {
                    moved = true;
                }
            }
            if !moved {
                break;
            }
        }
        for (&(id, edge), user) in &self.users {
            let Some(other) = self.users.get(&(id, !edge)).filter(|_| !self.broken.contains(&id)) else { continue };
            assert_eq!(user.written, other.read, "link {id}: what was written and what was read");
            assert_eq!(user.ended, other.saw_end, "link {id}: the end");
        }
        for &id in &self.broken {
            let failures = [&self.wire.edge, &self.wire.agent]
                .map(|machine| machine.links.get(&id).map(|link| link.failure.is_some() || link.closed));
            assert!(!failures.contains(&Some(false)), "link {id}: one side does not know that it is over");
        }
        let waiting: Vec<_> = self.waiting.drain(..).collect();
        for id in waiting {
            self.wire.agent.refuse(id, RefuseCode::Draining, "");
        }
        for ((id, edge), user) in std::mem::take(&mut self.users) {
            if !user.gone {
                self.wire.machine(if edge { Role::Edge } else { Role::Agent }).release(id);
            }
        }
        self.wire.settle();
        for machine in [&self.wire.edge, &self.wire.agent] {
            assert_eq!(machine.links(), 0, "links that nobody uses");
            assert_eq!(machine.unread(), 0, "memory counted that nobody holds");
            assert!(machine.budget.is_unused(), "{:?}", machine.budget);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_reordered_or_duplicated(steps in prop::collection::vec(step(), 1..250)) {
        let mut model = Model::new();
        for step in &steps {
            model.step(step);
        }
        model.finish();
    }

    #[test]
    fn a_stream_arrives_whole_however_it_is_split(
        sizes in prop::collection::vec(1usize..60_000, 1..20),
        splits in prop::collection::vec(1usize..9_000, 1..40),
        reads in prop::collection::vec(1usize..50_000, 1..10),
    ) {
        let mut model = Model::new();
        model.step(&Step::Open);
        model.wire.settle();
        model.arrivals();
        model.step(&Step::Answer(0, true));
        let (mut splits, mut reads) = (splits.iter().cycle(), reads.iter().cycle());
        for &size in &sizes {
            let target = model.users[&(1, false)].written + size;
            while model.users[&(1, false)].written < target {
                let left = target - model.users[&(1, false)].written;
                model.step(&Step::Write(Role::Agent, 0, left));
                model.step(&Step::Send(Role::Agent));
                while !model.wire.to_edge.is_empty() {
                    let before = model.wire.to_edge.len();
                    let split = *splits.next().expect("endless");
                    model.step(&Step::Arrive(Role::Edge, split));
                    // Less than a header or a frame moves nothing; the next piece has to be larger.
                    if model.wire.to_edge.len() == before {
                        model.step(&Step::Arrive(Role::Edge, split + 16_384));
                    }
                }
                model.step(&Step::Read(Role::Edge, 0, *reads.next().expect("endless")));
                model.step(&Step::Send(Role::Edge));
                model.step(&Step::Arrive(Role::Agent, usize::MAX));
            }
        }
        model.step(&Step::End(Role::Agent, 0));
        model.finish();
    }
}
