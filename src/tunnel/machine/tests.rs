mod exhaustive;
mod hostile;
mod model;
mod transcript;

use bytes::BytesMut;

use super::*;

/// Two machines and the bytes on their way between them. Time stands still unless a test moves it.
#[derive(Clone)]
struct Wire {
    edge: Machine,
    agent: Machine,
    to_edge: BytesMut,
    to_agent: BytesMut,
    now: Instant,
}

impl Wire {
    fn new(edge: Config, agent: Config) -> Self {
        let now = Instant::now();
        Self {
            edge: Machine::new(Role::Edge, edge, now),
            agent: Machine::new(Role::Agent, agent, now),
            to_edge: BytesMut::new(),
            to_agent: BytesMut::new(),
            now,
        }
    }

    fn machine(&mut self, role: Role) -> &mut Machine {
        match role {
            Role::Edge => &mut self.edge,
            Role::Agent => &mut self.agent,
        }
    }

    /// Puts one load of what `from` has to send on its way.
    fn send(&mut self, from: Role) {
        let (machine, way) = match from {
            Role::Edge => (&mut self.edge, &mut self.to_agent),
            Role::Agent => (&mut self.agent, &mut self.to_edge),
        };
        way.extend_from_slice(&take_output(machine, self.now));
    }

    /// Lets at most `count` bytes arrive at `to`.
    fn arrive(&mut self, to: Role, count: usize) {
        let (machine, way) = match to {
            Role::Edge => (&mut self.edge, &mut self.to_edge),
            Role::Agent => (&mut self.agent, &mut self.to_agent),
        };
        // What is left of a frame stays in front of what comes next.
        let mut input = way.split_to(count.min(way.len()));
        machine.receive(&mut input, self.now).expect("a machine keeps to its own protocol");
        if !input.is_empty() {
            let rest = way.split();
            way.extend_from_slice(&input);
            way.extend_from_slice(&rest);
        }
    }

    /// Sends and delivers until nothing moves.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            for role in [Role::Edge, Role::Agent] {
                self.send(role);
            }
            if self.to_agent.is_empty() && self.to_edge.is_empty() {
                return;
            }
            for role in [Role::Edge, Role::Agent] {
                self.arrive(role, usize::MAX);
            }
        }
        panic!("the machines do not come to rest");
    }

    fn linked(&mut self) -> u32 {
        let id = self.edge.open(&open(), self.now).expect("a number");
        self.settle();
        self.agent.accept(id);
        self.settle();
        assert_eq!(self.edge.opened(id), Ok(true));
        id
    }
}

fn open() -> Open {
    Open { target: "127.0.0.1:8080".into(), tunnel_host: "web/shop".into(), ..Open::default() }
}

fn take_output(machine: &mut Machine, now: Instant) -> Vec<u8> {
    let mut output = Output::default();
    machine.output(&mut output, now);
    let mut bytes = Vec::new();
    while !output.is_empty() {
        let mut slices = [IoSlice::new(&[]); 16];
        let count = output.slices(&mut slices);
        let before = bytes.len();
        slices[..count].iter().for_each(|slice| bytes.extend_from_slice(slice));
        output.advance(bytes.len() - before);
    }
    bytes
}

fn write(machine: &mut Machine, id: u32, bytes: &[u8]) -> Result<usize, LinkError> {
    machine.write(id, &[IoSlice::new(bytes)])
}

fn read_all(machine: &mut Machine, id: u32, now: Instant) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Ok(Read::Data(_)) = machine.read_into(id, 16 * 1024, now, |piece| bytes.extend_from_slice(piece)) {}
    bytes
}

fn events(machine: &mut Machine) -> Vec<Event> {
    std::iter::from_fn(|| machine.next_event()).collect()
}

#[test]
fn control_frames_overtake_data_and_links_take_turns() {
    let mut wire = Wire::new(Config::default(), Config::default());
    let (a, b) = (wire.linked(), wire.linked());
    // More than is framed ahead, so that both have to stand in line.
    let data = vec![1; 100_000];
    assert_eq!(write(&mut wire.agent, a, &data), Ok(64 << 10));
    assert_eq!(write(&mut wire.agent, b, &data[..40_000]), Ok(40_000));
    let more = write(&mut wire.agent, a, &data).expect("open");
    wire.agent.reset(a, ResetCode::Internal);
    assert!(wire.agent.note(&Note::Drain { seconds: None }));
    let bytes = take_output(&mut wire.agent, wire.now);
    // RESET of the one, NOTE, then what was framed of it before.
    assert_eq!(bytes[0], 7);
    assert_eq!(bytes[10], 10);
    assert!(more <= 64 << 10);
    let bytes = [bytes, take_output(&mut wire.agent, wire.now)].concat();
    wire.to_edge.extend_from_slice(&bytes);
    wire.arrive(Role::Edge, usize::MAX);
    assert_eq!(read_all(&mut wire.edge, b, wire.now).len(), 40_000);
}

#[test]
fn links_with_much_to_send_take_turns_frame_by_frame() {
    let mut wire = Wire::new(Config::default(), Config::default());
    let (a, b, c) = (wire.linked(), wire.linked(), wire.linked());
    for id in [a, b, c] {
        while write(&mut wire.agent, id, &vec![0; 64 << 10]).expect("open") > 0 {}
    }
    take_output(&mut wire.agent, wire.now);
    let bytes = take_output(&mut wire.agent, wire.now);
    let links: Vec<u8> = bytes.chunks(16 * 1024).map(|frame| frame[7]).collect();
    assert_eq!(links.len(), 4, "four frames fill the stage");
    assert!(links.windows(2).all(|pair| pair[0] != pair[1]), "{links:?}");
}

#[test]
fn a_writer_is_told_to_go_on_when_its_queue_has_room_or_credit_came() {
    let mut wire = Wire::new(Config::default(), Config::default());
    let id = wire.linked();
    let mut written = 0;
    loop {
        match write(&mut wire.agent, id, &[0; 10_000]).expect("open") {
            0 if wire.agent.has_output() => {
                events(&mut wire.agent);
                take_output(&mut wire.agent, wire.now);
                let told = events(&mut wire.agent);
                assert!(told.is_empty() || told == [Event::Writable(id)], "{told:?}");
            }
            0 => break,
            count => written += count,
        }
    }
    assert_eq!(written, 256 << 10, "the credit that every link begins with");
    let credit = [5, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 1];
    wire.agent.receive(&mut BytesMut::from(&credit[..]), wire.now).expect("credit");
    assert_eq!(events(&mut wire.agent), [Event::Writable(id)]);
    assert_eq!(write(&mut wire.agent, id, &[0; 10]), Ok(1));
}

#[test]
fn vectored_writes_become_one_frame() {
    let mut wire = Wire::new(Config::default(), Config::default());
    let id = wire.linked();
    let slices = [IoSlice::new(b"HTTP/1.1 200 OK\r\n"), IoSlice::new(b""), IoSlice::new(b"\r\nhello")];
    assert_eq!(wire.agent.write(id, &slices), Ok(24));
    let bytes = take_output(&mut wire.agent, wire.now);
    assert_eq!(bytes[..8], [4, 0, 0, 24, 0, 0, 0, 1]);
    assert_eq!(&bytes[8..], b"HTTP/1.1 200 OK\r\n\r\nhello");
}

#[test]
fn a_large_payload_is_shared_with_what_was_received() {
    let mut wire = Wire::new(Config::default(), Config::default());
    let id = wire.linked();
    write(&mut wire.agent, id, &[7; 16_000]).expect("open");
    let mut input = BytesMut::from(&take_output(&mut wire.agent, wire.now)[..]);
    let block = input.as_ptr() as usize..input.as_ptr() as usize + input.len();
    wire.edge.receive(&mut input, wire.now).expect("frames");
    let Ok(Read::Data(chunk)) = wire.edge.read_chunk(id, usize::MAX, wire.now) else { panic!("no data") };
    assert_eq!(chunk.len(), 16_000);
    assert!(block.contains(&(chunk.as_ptr() as usize)));
}

#[test]
fn a_link_costs_little() {
    // Together with a hash table's share: well below a kibibyte on each side.
    assert!(size_of::<LinkState>() <= 400, "{}", size_of::<LinkState>());
}

#[test]
fn too_many_links_of_its_own_are_refused_without_asking() {
    let mut wire = Wire::new(Config { max_links: 1, ..Config::default() }, Config::default());
    let id = wire.linked();
    let refused = wire.edge.open(&open(), wire.now).expect("a number");
    assert!(matches!(wire.edge.opened(refused), Err(LinkError::Refused { code: RefuseCode::Overloaded, .. })));
    wire.settle();
    assert_eq!(wire.agent.links(), 1);
    wire.edge.release(refused);
    wire.edge.release(id);
    wire.settle();
    assert_eq!((wire.edge.links(), wire.agent.failure(id)), (0, Some(&LinkError::Reset(ResetCode::Cancelled))));
}

#[test]
fn an_agent_opens_no_links() {
    let mut wire = Wire::new(Config::default(), Config::default());
    assert_eq!(wire.agent.open(&open(), wire.now), None);
}

#[test]
fn after_a_loss_what_was_received_can_be_read_and_nothing_more() {
    let mut wire = Wire::new(Config::default(), Config::default());
    let (whole, cut) = (wire.linked(), wire.linked());
    write(&mut wire.agent, whole, b"whole").expect("open");
    wire.agent.end(whole).expect("open");
    write(&mut wire.agent, cut, b"cut").expect("open");
    wire.settle();
    wire.edge.lose();
    assert_eq!(read_all(&mut wire.edge, whole, wire.now), b"whole");
    assert_eq!(wire.edge.read_chunk(whole, 1, wire.now), Ok(Read::End));
    assert_eq!(read_all(&mut wire.edge, cut, wire.now), b"cut");
    assert_eq!(wire.edge.read_chunk(cut, 1, wire.now), Err(LinkError::SessionLost));
    assert_eq!(write(&mut wire.edge, whole, b"x"), Err(LinkError::SessionLost));
}
