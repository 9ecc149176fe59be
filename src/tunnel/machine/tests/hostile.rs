//! What a peer that keeps to no rule can do: end its own session, and nothing else.

use bytes::BufMut;
use proptest::prelude::*;

use super::*;

fn frame(kind: u8, flags: u8, link: u32, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("short");
    let mut bytes = vec![kind, flags];
    bytes.extend(length.to_be_bytes());
    bytes.extend(link.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn receive(machine: &mut Machine, bytes: &[u8]) -> Result<(), Violation> {
    machine.receive(&mut BytesMut::from(bytes), Instant::now())
}

/// An edge with link 1, accepted, whose agent is the test.
fn edge() -> Machine {
    let mut edge = Machine::new(Role::Edge, Config::default(), Instant::now());
    assert_eq!(edge.open(&open(), Instant::now()), Some(1));
    receive(&mut edge, &frame(2, 0, 1, b"")).expect("OPENED");
    edge
}

fn agent() -> Machine {
    Machine::new(Role::Agent, Config::default(), Instant::now())
}

#[test]
fn each_breach_of_the_rules_is_named() {
    let open_frame = |link| frame(1, 0, link, &open().encode());
    let edge_error = |frames: &[Vec<u8>]| receive(&mut edge(), &frames.concat()).expect_err("a breach").to_string();
    let agent_error = |frames: &[Vec<u8>]| receive(&mut agent(), &frames.concat()).expect_err("a breach").to_string();
    assert_eq!(edge_error(&[open_frame(7)]), "OPEN from the wrong side");
    assert_eq!(agent_error(&[frame(2, 0, 1, b"")]), "OPENED from the wrong side");
    assert_eq!(agent_error(&[frame(3, 0, 1, &[0, 1])]), "REFUSED from the wrong side");
    assert_eq!(agent_error(&[open_frame(7), open_frame(7)]), "OPEN for link 7, a number that is not new");
    assert_eq!(agent_error(&[open_frame(7), open_frame(6)]), "OPEN for link 6, a number that is not new");
    assert_eq!(edge_error(&[frame(4, 0, 2, b"x")]), "DATA for link 2, which was never opened");
    assert_eq!(edge_error(&[frame(7, 0, 9, &[0, 1])]), "RESET for link 9, which was never opened");
    assert_eq!(edge_error(&[frame(2, 0, 1, b"")]), "OPENED for link 1 for the second time");
    assert_eq!(edge_error(&[frame(3, 0, 1, &[0, 1])]), "REFUSED for link 1 after OPENED");
    assert_eq!(edge_error(&[frame(6, 0, 1, b""), frame(4, 0, 1, b"x")]), "DATA for link 1 after its END");
    assert_eq!(edge_error(&[frame(6, 0, 1, b""), frame(6, 0, 1, b"")]), "END for link 1 after its END");
    assert_eq!(edge_error(&[frame(5, 0, 1, &[0; 4])]), "CREDIT for link 1 of nothing or too much");
    assert_eq!(edge_error(&[frame(5, 0, 1, &[1, 0, 0, 0])]), "CREDIT for link 1 of nothing or too much");
    assert_eq!(
        edge_error(&[frame(10, 0, 0, b"{}")]),
        "a malformed payload of NOTE: missing field `kind` at line 1 column 2"
    );
    assert_eq!(agent_error(&[frame(1, 0, 1, b"")]), "a malformed payload of OPEN: there is no target");
    let mut early = Machine::new(Role::Edge, Config::default(), Instant::now());
    early.open(&open(), Instant::now());
    let error = receive(&mut early, &frame(4, 0, 1, b"x")).expect_err("a breach").to_string();
    assert_eq!(error, "DATA for link 1 before OPENED");
}

#[test]
fn data_beyond_the_credit_ends_the_session() {
    let mut edge = edge();
    for _ in 0..16 {
        receive(&mut edge, &frame(4, 0, 1, &[0; 16_376])).expect("within the credit");
    }
    receive(&mut edge, &frame(4, 0, 1, &[0; 128])).expect("the last of the credit");
    assert_eq!(receive(&mut edge, &frame(4, 0, 1, b"x")), Err(Violation::BeyondCredit(1)));
}

#[test]
fn frames_for_a_closed_link_are_ignored() {
    let mut edge = edge();
    edge.reset(1, ResetCode::Cancelled);
    let frames = [frame(4, 0, 1, b"x"), frame(5, 0, 1, &[0, 0, 1, 0]), frame(6, 0, 1, b""), frame(7, 0, 1, &[0, 1])];
    receive(&mut edge, &frames.concat()).expect("crossed the reset");
    edge.release(1);
    receive(&mut edge, &frames.concat()).expect("crossed the reset");
    assert_eq!(edge.unread(), 0);
}

#[test]
fn a_flood_of_pings_is_answered_once() {
    let mut edge = edge();
    take_output(&mut edge, Instant::now());
    for n in 0..100_000u64 {
        receive(&mut edge, &frame(8, 0, 0, &n.to_be_bytes())).expect("a ping");
    }
    assert_eq!(take_output(&mut edge, Instant::now()), frame(9, 0, 0, &99_999u64.to_be_bytes()));
}

#[test]
fn a_flood_of_openings_that_reads_no_refusal_ends_the_session() {
    let mut agent = Machine::new(Role::Agent, Config { max_links: 0, ..Config::default() }, Instant::now());
    let flood = (1..100_000).find_map(|id| receive(&mut agent, &frame(1, 0, id, &open().encode())).err());
    assert!(matches!(flood, Some(Violation::NotReading(_))), "{flood:?}");
}

#[test]
fn a_flood_of_notes_ends_the_session() {
    let mut agent = agent();
    let drain = Note::Drain { seconds: None }.encode();
    let flood = (0..100).find_map(|_| receive(&mut agent, &frame(10, 0, 0, &drain)).err());
    assert_eq!(flood, Some(Violation::TooManyNotes));
}

#[test]
fn frames_of_one_byte_are_packed() {
    let mut edge = edge();
    let frames: Vec<u8> = (0..200_000u32).flat_map(|_| frame(4, 0, 1, b"x")).collect();
    receive(&mut edge, &frames).expect("within the credit");
    assert!(edge.unread() <= 256 << 10, "{}", edge.unread());
    let mut pieces = 0;
    while let Ok(Read::Data(_)) = edge.read_chunk(1, usize::MAX, Instant::now()) {
        pieces += 1;
    }
    assert!(pieces <= 200_000 / 16_384 + 1, "{pieces} pieces");
}

/// 200 readers that take nothing, and a budget that they exceed.
#[test]
fn readers_that_stall_cannot_hold_more_than_the_limit() {
    let limit = 8 << 20;
    let mut wire = Wire::new(Config { max_unread: limit, ..Config::default() }, Config::default());
    let links: Vec<u32> = (0..200).map(|_| wire.linked()).collect();
    for _ in 0..40 {
        for &id in &links {
            let _ = write(&mut wire.agent, id, &[0; 16 << 10]);
        }
        wire.settle();
        assert!(wire.edge.unread() <= limit, "{}", wire.edge.unread());
    }
    let (lost, kept): (Vec<u32>, Vec<u32>) = links.iter().partition(|&&id| wire.edge.failure(id).is_some());
    assert!(!lost.is_empty() && !kept.is_empty());
    assert_eq!(wire.edge.failure(lost[0]), Some(&LinkError::Reset(ResetCode::Overloaded)));
    assert_eq!(wire.agent.failure(lost[0]), Some(&LinkError::Reset(ResetCode::Overloaded)));
    for id in links {
        wire.edge.release(id);
    }
    assert_eq!(wire.edge.unread(), 0);
}

/// What 128 readers hold that stall in the middle of a download each, after they had been fast.
#[test]
fn readers_that_stall_in_mid_download_hold_no_more_than_the_budget() {
    let mut wire = Wire::new(Config::default(), Config::default());
    let links: Vec<u32> = (0..128).map(|_| wire.linked()).collect();
    let data = vec![0; 64 << 10];
    for &id in &links {
        // As fast as can be: all of it within one round trip.
        for _ in 0..30 {
            let _ = write(&mut wire.agent, id, &data);
            wire.settle();
            read_all(&mut wire.edge, id, wire.now);
        }
        while write(&mut wire.agent, id, &data).expect("open") > 0 {
            wire.settle();
        }
    }
    assert!(wire.edge.unread() > 128 * (60 << 10), "they hold nothing, so this shows nothing");
    assert!(wire.edge.unread() <= (32 << 20) + 128 * (64 << 10), "{} MiB", wire.edge.unread() >> 20);
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        Just(open().encode()),
        Just(Note::Drain { seconds: None }.encode()),
        prop::collection::vec(any::<u8>(), 0..12),
        prop::collection::vec(any::<u8>(), 0..6000),
        Just(vec![0, 1]),
        Just(vec![0, 0, 8, 0]),
    ];
    (0u8..14, prop_oneof![9 => Just(0u8), 1 => any::<u8>()], 0u32..6, payload)
        .prop_map(|(kind, flags, link, payload)| frame(kind, flags, link, &payload))
}

proptest! {
    #[test]
    fn frames_in_any_order_never_panic(frames in prop::collection::vec(any_frame(), 0..80), role: bool) {
        let role = if role { Role::Edge } else { Role::Agent };
        let mut machine = Machine::new(role, Config { max_links: 4, ..Config::default() }, Instant::now());
        for _ in 0..3 {
            machine.open(&open(), Instant::now());
        }
        for frame in frames {
            if receive(&mut machine, &frame).is_err() {
                break;
            }
            if let Some(Arrival::Open { id, .. }) = machine.next_arrival() {
                machine.accept(id);
            }
            prop_assert!(machine.links() <= 4);
            prop_assert!(machine.unread() <= 4 << 20);
        }
        take_output(&mut machine, Instant::now());
        machine.lose();
    }

    #[test]
    fn any_bytes_in_any_pieces_never_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..30)) {
        for mut machine in [agent(), edge()] {
            let mut input = BytesMut::new();
            for piece in &pieces {
                input.put_slice(piece);
                if machine.receive(&mut input, Instant::now()).is_err() {
                    break;
                }
                // A frame is waited for, never more.
                prop_assert!(input.len() <= 16 * 1024 + 8 + 300);
            }
        }
    }
}

#[test]
fn credit_that_crossed_the_end_is_ignored() {
    let mut edge = edge();
    edge.end(1).expect("open");
    take_output(&mut edge, Instant::now());
    for _ in 0..3 {
        receive(&mut edge, &frame(5, 0, 1, &[0xff; 4])).expect("nobody needs it any more");
    }
    assert_eq!(receive(&mut edge, &frame(5, 0, 1, &[0; 4])), Err(Violation::Credit(1)));
}
