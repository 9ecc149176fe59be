//! Two machines with any commands and any pieces between them: neither ever breaks the other's protocol, and what is
//! read is what was written.
#![no_main]

use std::{
    collections::HashMap,
    io::IoSlice,
    time::{Duration, Instant},
};

use arbitrary::Arbitrary;
use bytes::BytesMut;
use culvert::tunnel::{
    Config, Open, RefuseCode, ResetCode, Role,
    machine::{Arrival, Machine, Output, Read},
};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Step {
    Open,
    Answer { accept: bool },
    Write { edge: bool, link: u8, length: u16 },
    End { edge: bool, link: u8 },
    Read { edge: bool, link: u8, max: u16 },
    Reset { edge: bool, link: u8 },
    Release { edge: bool, link: u8 },
    Move { to_edge: bool, bytes: u16 },
    Wait { milliseconds: u8 },
}

/// How much was written to and read from a direction of a link, by its number and whether the edge writes.
#[derive(Default)]
struct Counts(HashMap<(u32, bool), (usize, usize)>);

fuzz_target!(|steps: Vec<Step>| {
    let mut now = Instant::now();
    let config = Config { send_queue: 10_000, ..Config::default() };
    let mut edge = Machine::new(Role::Edge, config.clone(), now);
    let mut agent = Machine::new(Role::Agent, config, now);
    let (mut to_edge, mut to_agent) = (BytesMut::new(), BytesMut::new());
    let mut counts = Counts::default();
    let data: Vec<u8> = (0..70_000u32).map(|n| (n % 251) as u8).collect();
    for step in steps {
        match step {
            Step::Open => {
                let open = Open { target: "a:1".into(), tunnel_host: "b/c".into(), ..Open::default() };
                edge.open(&open, now);
            }
            Step::Answer { accept } => match agent.next_arrival() {
                Some(Arrival::Open { id, .. }) if accept => agent.accept(id),
                Some(Arrival::Open { id, .. }) => agent.refuse(id, RefuseCode::Refused, "no"),
                _ => {}
            },
            Step::Write { edge: from_edge, link, length } => {
                let machine = if from_edge { &mut edge } else { &mut agent };
                // An agent writes only where it has accepted.
                if machine.opened(link.into()).is_ok_and(|opened| opened || from_edge) {
                    let written = &mut counts.0.entry((link.into(), from_edge)).or_default().0;
                    let from = *written % 251;
                    let slice = IoSlice::new(&data[from..from + usize::from(length).min(60_000)]);
                    *written += machine.write(link.into(), &[slice]).unwrap_or(0);
                }
            }
            Step::End { edge: from_edge, link } => {
                let machine = if from_edge { &mut edge } else { &mut agent };
                if machine.opened(link.into()).is_ok_and(|opened| opened || from_edge) {
                    let _ = machine.end(link.into());
                }
            }
            Step::Read { edge: by_edge, link, max } => {
                let machine = if by_edge { &mut edge } else { &mut agent };
                if let Ok(Read::Data(chunk)) = machine.read_chunk(link.into(), usize::from(max).max(1), now) {
                    let (written, read) = counts.0.entry((link.into(), !by_edge)).or_default();
                    let from = *read % 251;
                    assert!(chunk == data[from..from + chunk.len()], "other bytes than were written");
                    *read += chunk.len();
                    assert!(*read <= *written, "more than was written");
                }
            }
            Step::Reset { edge: by_edge, link } => {
                if by_edge { &mut edge } else { &mut agent }.reset(link.into(), ResetCode::Internal);
            }
            Step::Release { edge: by_edge, link } => {
                if by_edge { &mut edge } else { &mut agent }.release(link.into());
            }
            Step::Move { to_edge: true, bytes } => carry(&mut agent, &mut to_edge, &mut edge, bytes, now),
            Step::Move { to_edge: false, bytes } => carry(&mut edge, &mut to_agent, &mut agent, bytes, now),
            Step::Wait { milliseconds } => now += Duration::from_millis(milliseconds.into()),
        }
    }
});

/// Puts what `from` has to send on its way, and lets so many bytes of it arrive.
fn carry(from: &mut Machine, way: &mut BytesMut, to: &mut Machine, bytes: u16, now: Instant) {
    let mut output = Output::default();
    from.output(&mut output, now);
    while !output.is_empty() {
        let mut slices = [IoSlice::new(&[]); 8];
        let count = output.slices(&mut slices);
        let flat: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
        output.advance(flat.len());
        way.extend_from_slice(&flat);
    }
    let mut arriving = way.split_to(usize::from(bytes).min(way.len()));
    to.receive(&mut arriving, now).expect("a machine keeps to its own protocol");
    // What is left of a frame stays in front of what comes next.
    arriving.extend_from_slice(way);
    *way = arriving;
}
