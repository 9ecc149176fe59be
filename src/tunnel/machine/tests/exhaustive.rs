//! Everything that can happen to a link or two, in every order: stalls, ends, resets and credit that is used up.
//!
//! Two machines and what is on its way between them go through all sequences of a small alphabet up to some length; a state that
//! was met before with as much left to go is not gone on from. In each state the rules hold, and from each state everything
//! comes to a good end. `CULVERT_MODEL_DEEPER=2` (`just model`) goes two steps further than `cargo test`.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use super::{
    model::{Model, Step},
    *,
};

/// What is written at once: twice that is more than the credit of a new link.
const WRITTEN: usize = 150_000;
/// So large that only credit holds a writer up.
const QUEUE: usize = 300_000;
const INITIAL: usize = 256 * 1024;
/// What a reader that has taken everything has granted at least: three quarters of the smallest window.
const GRANTED: u32 = 48 * 1024;

const ROLES: [Role; 2] = [Role::Edge, Role::Agent];

struct Search {
    /// The states that were met, and how far each was gone on from.
    met: HashMap<u64, usize>,
    /// How many links there may be.
    links: u32,
}

/// The links that a role still uses.
fn used(model: &Model, role: Role) -> Vec<u32> {
    let edge = role == Role::Edge;
    model.users.iter().filter(|((_, of_edge), user)| *of_edge == edge && !user.gone).map(|((id, _), _)| *id).collect()
}

/// Reads all that there is.
fn drain(model: &mut Model, role: Role, id: u32) -> bool {
    let mut moved = false;
    while model.read(role, id, usize::MAX) {
        moved = true;
    }
    moved
}

/// What distinguishes a state, of all that time that stands still leaves to tell apart.
fn fingerprint(model: &Model) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&model.users, &model.broken, &model.waiting).hash(&mut hasher);
    for way in [&model.wire.to_edge, &model.wire.to_agent] {
        frames(way, &mut hasher);
    }
    for machine in [&model.wire.edge, &model.wire.agent] {
        let mut links: Vec<_> = machine.links.iter().collect();
        links.sort_unstable_by_key(|(id, _)| **id);
        for (id, link) in links {
            let (sending, receiving) = (&link.sending, &link.receiving);
            (id, link.accepted, link.closed, link.released, link.failure.is_some()).hash(&mut hasher);
            (sending.queue.len(), sending.credit, sending.end == End::No, sending.end == End::Sent).hash(&mut hasher);
            (sending.in_line, sending.blocked, receiving.queue.len()).hash(&mut hasher);
            (receiving.grant, receiving.ended, format!("{:?}", receiving.window)).hash(&mut hasher);
        }
        // What it would send if nothing else happened is all that its outbox holds, in order.
        let mut machine = machine.clone();
        loop {
            let bytes = take_output(&mut machine, model.wire.now);
            if bytes.is_empty() {
                break;
            }
            frames(&bytes, &mut hasher);
            hasher.write_u8(0);
        }
    }
    hasher.finish()
}

/// Headers, and what is in control frames; which data it is follows from how much was written and read.
fn frames(mut bytes: &[u8], hasher: &mut DefaultHasher) {
    while let Some((header, rest)) = bytes.split_first_chunk::<8>() {
        let (payload, rest) = rest.split_at(usize::from(u16::from_be_bytes([header[2], header[3]])));
        header.hash(hasher);
        if payload.len() < 64 {
            payload.hash(hasher);
        }
        bytes = rest;
    }
    hasher.write_usize(bytes.len());
}

impl Search {
    fn actions(&self, model: &Model) -> Vec<Step> {
        let mut actions = Vec::new();
        for role in ROLES {
            actions.extend([Step::Send(role), Step::Arrive(role, usize::MAX)]);
            for n in 0..used(model, role).len() {
                actions.extend([
                    Step::WriteChunk(role, n, WRITTEN),
                    Step::Read(role, n, usize::MAX),
                    Step::End(role, n),
                    Step::Reset(role, n),
                    Step::Release(role, n),
                ]);
            }
        }
        if model.wire.edge.highest < self.links {
            actions.push(Step::Open);
        }
        if !model.waiting.is_empty() {
            actions.extend([Step::Answer(0, true), Step::Answer(0, false)]);
        }
        actions
    }

    /// Goes on from this state by at most so many steps.
    fn go(&mut self, model: &Model, left: usize) {
        for action in self.actions(model) {
            let mut next = model.clone();
            match action {
                // A reader that goes on takes all there is; one that does not is the stall.
                Step::Read(role, n, _) => {
                    let id = used(model, role)[n];
                    drain(&mut next, role, id);
                }
                ref step => next.step(step),
            }
            let left = left - 1;
            let known = self.met.entry(fingerprint(&next)).or_insert(usize::MAX);
            let is_new = *known == usize::MAX;
            if !is_new && *known >= left {
                continue;
            }
            *known = left;
            if is_new {
                is_bounded(&next);
                others_go_on(&next);
                next.clone().finish();
            }
            if left > 0 {
                self.go(&next, left);
            }
        }
    }
}

/// No queue holds more than it may.
fn is_bounded(model: &Model) {
    for machine in [&model.wire.edge, &model.wire.agent] {
        for (id, link) in &machine.links {
            assert!(
                link.sending.queue.len() <= QUEUE.min(link.sending.credit as usize),
                "link {id} is beyond its credit"
            );
            assert!(link.sending.credit as usize <= INITIAL, "link {id} has credit that nobody gave");
            assert!(link.receiving.queue.len() <= INITIAL, "link {id} holds more than it granted");
        }
        // A piece that shares its block counts as 16 KiB at least, and frames are no smaller but for the last.
        assert!(machine.unread() <= machine.links.len() * (INITIAL + 64 * 1024), "{} bytes unread", machine.unread());
    }
}

/// Whichever one link is read, everything that was written to it arrives, and more can be written, though nobody reads any
/// other.
fn others_go_on(model: &Model) {
    for id in used(model, Role::Edge) {
        if model.broken.contains(&id) || model.users.get(&(id, false)).is_none_or(|user| user.gone) {
            continue;
        }
        let mut model = model.clone();
        loop {
            model.wire.settle();
            model.arrivals();
            if !ROLES.map(|role| drain(&mut model, role, id)).contains(&true) {
                break;
            }
        }
        for edge in [true, false] {
            let (written, read) = (model.users[&(id, edge)].written, model.users[&(id, !edge)].read);
            assert_eq!(written, read, "link {id}: the others hold it up");
            let machine = if edge { &model.wire.edge } else { &model.wire.agent };
            if let Some(link) = machine.links.get(&id).filter(|link| link.sending.end == End::No) {
                assert!(link.sending.credit >= GRANTED, "link {id}: {} is all the credit left", link.sending.credit);
            }
        }
    }
}

/// A pair with so many links open, where nothing is under way.
fn pair(links: usize) -> Model {
    let mut model = Model::with_queues(QUEUE);
    for _ in 0..links {
        model.step(&Step::Open);
        model.wire.settle();
        model.arrivals();
        model.step(&Step::Answer(0, true));
    }
    model.wire.settle();
    model
}

fn search(name: &str, start: &Model, links: u32, depth: usize) {
    let deeper = std::env::var("CULVERT_MODEL_DEEPER").ok().and_then(|steps| steps.parse::<usize>().ok()).unwrap_or(0);
    let mut search = Search { met: HashMap::new(), links };
    search.go(start, depth + deeper);
    println!("{name}: {} states in all orders of {} steps", search.met.len(), depth + deeper);
    assert!(search.met.len() > 100, "it did not get far");
}

#[test]
fn a_link_from_its_opening() {
    search("from its opening", &pair(0), 1, 8);
}

#[test]
fn a_link_that_is_open() {
    search("an open link", &pair(1), 1, 5);
}

#[test]
fn a_link_whose_credit_is_used_up_both_ways() {
    let mut model = pair(1);
    for role in ROLES {
        for _ in 0..2 {
            model.step(&Step::WriteChunk(role, 0, WRITTEN));
        }
    }
    model.wire.settle();
    assert_eq!(model.wire.edge.links[&1].sending.credit, 0);
    search("a link without credit", &model, 1, 5);
}

#[test]
fn two_links_one_of_which_stands_still() {
    let mut model = pair(2);
    for _ in 0..2 {
        model.step(&Step::WriteChunk(Role::Agent, 0, WRITTEN));
    }
    model.wire.settle();
    search("beside one that stands still", &model, 2, 4);
}
