//! Any bytes for a machine of either role, in any pieces: it may end the session, and must not panic or hold more
//! than its limits.
#![no_main]

use std::time::Instant;

use bytes::BytesMut;
use culvert::tunnel::{
    Config, Open, Role,
    machine::{Arrival, Event, Machine, Output},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&[role, piece], data)) = data.split_first_chunk::<2>() else { return };
    let role = if role % 2 == 0 { Role::Edge } else { Role::Agent };
    let now = Instant::now();
    let config = Config { max_links: 16, max_unread: 1 << 20, ..Config::default() };
    let mut machine = Machine::new(role, config, now);
    let open = Open { target: "a:1".into(), tunnel_host: "b/c".into(), ..Open::default() };
    for _ in 0..4 {
        machine.open(&open, now);
    }
    let (mut input, mut output) = (BytesMut::new(), Output::default());
    for bytes in data.chunks(usize::from(piece).max(1)) {
        input.extend_from_slice(bytes);
        if machine.receive(&mut input, now).is_err() {
            break;
        }
        while let Some(arrival) = machine.next_arrival() {
            if let Arrival::Open { id, .. } = arrival {
                machine.accept(id);
            }
        }
        // Every other reader takes what there is, the rest stall.
        while let Some(event) = machine.next_event() {
            if let Event::Readable(id) = event
                && id % 2 == 0
            {
                let _ = machine.read_chunk(id, 1000, now);
            }
        }
        machine.output(&mut output, now);
        output.advance(output.len());
        assert!(machine.links() <= 16 && machine.unread() <= 1 << 20);
    }
    machine.lose();
});
