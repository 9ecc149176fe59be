//! The transcript in `docs/protocol.md` is what the machines say, byte for byte.

use super::{frame::Header, *};

const DOCUMENT: &str = include_str!("../../../../docs/protocol.md");

/// One line a frame: who, the bytes, and what it is.
fn lines(from: char, mut bytes: &[u8], lines: &mut Vec<String>) {
    while let Some(header) = bytes.first_chunk::<{ frame::HEADER }>() {
        let Header { kind, length, link } = Header::decode(*header).expect("a frame");
        let name = kind.map_or("?", Kind::name);
        let (whole, rest) = bytes.split_at(frame::HEADER + length);
        let hex: Vec<String> = whole.iter().map(|byte| format!("{byte:02x}")).collect();
        let (head, payload) = hex.split_at(frame::HEADER);
        lines.push(format!("{from} {}  {name} link {link}", head.join(" ")));
        lines.extend(payload.chunks(24).map(|line| format!("    {}", line.join(" "))));
        bytes = rest;
    }
}

/// A request and its answer, a refusal, a reset: what the document shows.
fn conversation() -> Vec<String> {
    let mut wire = Wire::new(Config::default(), Config::default());
    let mut said = Vec::new();
    let mut exchange = |wire: &mut Wire| {
        for (role, sign) in [(Role::Edge, '>'), (Role::Agent, '<')] {
            let now = wire.now;
            let bytes = take_output(wire.machine(role), now);
            lines(sign, &bytes, &mut said);
            let other = if role == Role::Edge { Role::Agent } else { Role::Edge };
            wire.machine(other).receive(&mut BytesMut::from(&bytes[..]), now).expect("frames");
        }
    };
    let replica = super::super::super::Replica { id: "edge-0".into(), address: None };
    let welcome = Note::Welcome { replica: "edge-0".into(), version: "0.1.0".into(), replicas: vec![replica] };
    assert!(wire.edge.note(&welcome));
    exchange(&mut wire);
    let visitor = Some(([203, 0, 113, 7], 50_000).into());
    let first =
        wire.edge.open(&Open { visitor, request_id: Some("r-1".into()), ..open() }, wire.now).expect("a number");
    write(&mut wire.edge, first, b"GET / HTTP/1.0\r\n\r\n").expect("open");
    wire.edge.end(first).expect("open");
    exchange(&mut wire);
    wire.agent.accept(first);
    write(&mut wire.agent, first, b"HTTP/1.0 204 No Content\r\n\r\n").expect("open");
    wire.agent.end(first).expect("open");
    exchange(&mut wire);
    let second = wire.edge.open(&Open { target: "10.0.0.1:22".into(), ..open() }, wire.now).expect("a number");
    exchange(&mut wire);
    wire.agent.refuse(second, RefuseCode::NotAllowed, "10.0.0.1:22 is not in --allow");
    let third = wire.edge.open(&open(), wire.now).expect("a number");
    exchange(&mut wire);
    wire.agent.accept(third);
    wire.edge.reset(third, ResetCode::Cancelled);
    exchange(&mut wire);
    // As it would come in the middle of a long upload.
    let mut credit = BytesMut::new();
    frame::put(&mut credit, Kind::Credit, first, &65_536u32.to_be_bytes());
    lines('<', &credit, &mut said);
    said
}

#[test]
fn the_document_shows_what_the_machines_say() {
    let shown = DOCUMENT.split("```hex\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a transcript");
    let shown: Vec<&str> = shown.lines().collect();
    let said = conversation();
    assert!(shown == said, "docs/protocol.md should have:\n{}", said.join("\n"));
}
