//! Any bytes as the payload of a NOTE or an OPEN: what can be read comes out the same when it is said again.
#![no_main]

use std::time::Instant;

use bytes::BytesMut;
use culvert::tunnel::{
    Config, Note, Open, Role,
    machine::{Arrival, Machine, Output},
};
use libfuzzer_sys::fuzz_target;

const OPEN: u8 = 1;
const NOTE: u8 = 10;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, payload)) = data.split_first() else { return };
    let now = Instant::now();
    let kind = if choice % 4 == 0 { OPEN } else { NOTE };
    let mut frame = vec![kind, 0];
    let Ok(length) = u16::try_from(payload.len()) else { return };
    frame.extend(length.to_be_bytes());
    frame.extend([0, 0, 0, u8::from(kind == OPEN)]);
    frame.extend(payload);
    match arrival(&frame, now) {
        Some(Arrival::Note(note)) => assert_eq!(said_again(&note, now), Some(note)),
        Some(Arrival::Open { open, .. }) => assert_eq!(opened_again(&open, now), Some(open)),
        None => {}
    }
});

/// What an agent reads.
fn arrival(frame: &[u8], now: Instant) -> Option<Arrival> {
    let mut machine = Machine::new(Role::Agent, Config::default(), now);
    machine.receive(&mut BytesMut::from(frame), now).ok()?;
    machine.next_arrival()
}

fn said_again(note: &Note, now: Instant) -> Option<Note> {
    let mut edge = Machine::new(Role::Edge, Config::default(), now);
    // What came in one frame may be longer in our words: a number in JSON, an escape.
    if !edge.note(note) {
        return Some(note.clone());
    }
    match arrival(&sent(&mut edge, now), now) {
        Some(Arrival::Note(note)) => Some(note),
        _ => None,
    }
}

fn opened_again(open: &Open, now: Instant) -> Option<Open> {
    let mut edge = Machine::new(Role::Edge, Config::default(), now);
    edge.open(open, now);
    match arrival(&sent(&mut edge, now), now) {
        Some(Arrival::Open { open, .. }) => Some(open),
        _ => None,
    }
}

fn sent(machine: &mut Machine, now: Instant) -> Vec<u8> {
    let mut output = Output::default();
    machine.output(&mut output, now);
    let mut bytes = Vec::new();
    while !output.is_empty() {
        let mut slices = [std::io::IoSlice::new(&[]); 8];
        let count = output.slices(&mut slices);
        let before = bytes.len();
        slices[..count].iter().for_each(|slice| bytes.extend_from_slice(slice));
        output.advance(bytes.len() - before);
    }
    bytes
}
