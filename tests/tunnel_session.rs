//! Sessions over real sockets and in-memory pipes: what the users of a link see.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use culvert::tunnel::{
    CloseReason, Config, Driver, Incoming, IncomingEvent, Link, LinkError, Note, Open, Opening, RefuseCode, Replica,
    ResetCode, Role, Session,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// One side of a session whose driver runs in a task.
struct Side {
    session: Session,
    incoming: Incoming,
    driver: JoinHandle<CloseReason>,
}

impl Side {
    fn start<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(role: Role, io: T) -> Self {
        Self::with(role, io, Config::default())
    }

    fn with<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(role: Role, io: T, config: Config) -> Self {
        let (session, incoming, driver): (_, _, Driver<T>) = Session::start(role, io, Bytes::new(), config);
        Self { session, incoming, driver: tokio::spawn(driver) }
    }

    async fn opening(&mut self) -> Opening {
        match self.incoming.next().await {
            Some(IncomingEvent::Open(opening)) => opening,
            other => panic!("no link but {other:?}"),
        }
    }
}

fn sides() -> (Side, Side) {
    let (edge, agent) = tokio::io::duplex(64 * 1024);
    (Side::start(Role::Edge, edge), Side::start(Role::Agent, agent))
}

async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (agent, edge) = tokio::join!(TcpStream::connect(address), listener.accept());
    (edge.expect("accepted").0, agent.expect("connected"))
}

fn open() -> Open {
    Open {
        target: "127.0.0.1:8080".into(),
        tunnel_host: "web/shop".into(),
        visitor: Some(SocketAddr::from(([203, 0, 113, 7], 50_000))),
        request_id: Some("r1".into()),
        traceparent: None,
        agent: None,
    }
}

async fn linked(edge: &Side, agent: &mut Side) -> (Link, Link) {
    let mut link = edge.session.open(&open()).expect("a session");
    let opening = agent.opening().await;
    assert_eq!(opening.request, open());
    let accepted = opening.accept();
    link.opened().await.expect("opened");
    (link, accepted)
}

#[track_caller]
fn link_error(error: &io::Error) -> LinkError {
    LinkError::from_io(error).expect("an error of the link").clone()
}

/// Bytes that tell where they belong.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| u8::try_from(n * 31 / 7 % 251).expect("a byte")).collect()
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_direction_ends_by_itself() {
    let (edge, mut agent) = sides();
    let (mut near, mut far) = linked(&edge, &mut agent).await;
    near.write_all(b"question").await.expect("written");
    near.shutdown().await.expect("ended");
    let mut question = String::new();
    far.read_to_string(&mut question).await.expect("read");
    assert_eq!(question, "question");
    far.write_all(b"answer").await.expect("written");
    far.shutdown().await.expect("ended");
    let mut answer = String::new();
    near.read_to_string(&mut answer).await.expect("read");
    assert_eq!(answer, "answer");
    assert_eq!(near.write_all(b"more").await.expect_err("ended").kind(), io::ErrorKind::BrokenPipe);
    drop((near, far));
    assert_eq!((edge.session.links(), agent.session.links()), (0, 0));
}

#[tokio::test]
async fn what_is_written_before_the_answer_arrives() {
    let (edge, mut agent) = sides();
    let mut near = edge.session.open(&open()).expect("a session");
    near.write_all(b"early").await.expect("written");
    near.shutdown().await.expect("ended");
    let mut far = agent.opening().await.accept();
    let mut early = String::new();
    far.read_to_string(&mut early).await.expect("read");
    assert_eq!(early, "early");
}

#[tokio::test]
async fn a_large_transfer_arrives_whole_in_both_directions_at_once() {
    let (edge, agent) = tcp().await;
    let (edge, mut agent) = (Side::start(Role::Edge, edge), Side::start(Role::Agent, agent));
    let (near, far) = linked(&edge, &mut agent).await;
    let data = pattern(8 << 20);
    let transfers = [near, far].map(|link| {
        let data = data.clone();
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(link);
            let write = async {
                writer.write_all(&data).await?;
                writer.shutdown().await
            };
            let mut received = Vec::new();
            let (written, read) = tokio::join!(write, reader.read_to_end(&mut received));
            written.expect("written");
            read.expect("read");
            assert!(received == data, "the bytes differ");
        })
    });
    for transfer in transfers {
        transfer.await.expect("transferred");
    }
}

#[tokio::test]
async fn chunks_go_through_without_a_copy_of_their_own() {
    let (edge, mut agent) = sides();
    let (mut near, mut far) = linked(&edge, &mut agent).await;
    let data = Bytes::from(pattern(3 << 20));
    let mut left = data.clone();
    let write = async {
        while !left.is_empty() {
            poll_fn(|cx| near.poll_write_chunk(cx, &mut left)).await.expect("written");
        }
        near.shutdown().await.expect("ended");
    };
    let read = async {
        let mut received = Vec::new();
        while let Some(chunk) = poll_fn(|cx| far.poll_read_chunk(cx, 50_000)).await.expect("read") {
            assert!((1..=50_000).contains(&chunk.len()));
            received.extend_from_slice(&chunk);
        }
        received
    };
    let ((), received) = tokio::join!(write, read);
    assert!(received == data, "the bytes differ");
}

#[tokio::test]
async fn a_refusal_says_why_and_every_use_of_the_link_repeats_it() {
    let (edge, mut agent) = sides();
    let mut near = edge.session.open(&open()).expect("a session");
    near.write_all(b"early").await.expect("written");
    agent.opening().await.refuse(RefuseCode::NotAllowed, "10.0.0.1:80 is not in --allow");
    let refused = LinkError::Refused { code: RefuseCode::NotAllowed, text: "10.0.0.1:80 is not in --allow".into() };
    assert_eq!(near.opened().await, Err(refused.clone()));
    assert_eq!(link_error(&near.write_all(b"x").await.expect_err("refused")), refused);
    assert_eq!(link_error(&near.read(&mut [0]).await.expect_err("refused")), refused);
    assert_eq!(poll_fn(|cx| near.poll_failed(cx)).await, refused);
}

#[tokio::test]
async fn an_opening_that_is_dropped_is_refused() {
    let (edge, mut agent) = sides();
    let mut near = edge.session.open(&open()).expect("a session");
    drop(agent.opening().await);
    let error = near.opened().await.expect_err("refused");
    assert!(matches!(error, LinkError::Refused { code: RefuseCode::Internal, .. }), "{error}");
    drop(agent.incoming);
    let error = edge.session.open(&open()).expect("a session").opened().await.expect_err("refused");
    assert!(matches!(error, LinkError::Refused { code: RefuseCode::Internal, .. }), "{error}");
}

#[tokio::test]
async fn a_link_that_is_dropped_is_cancelled_on_the_other_side() {
    let (edge, mut agent) = sides();
    let (mut near, mut far) = linked(&edge, &mut agent).await;
    near.write_all(b"hello").await.expect("written");
    let mut hello = [0; 5];
    far.read_exact(&mut hello).await.expect("read");
    drop(near);
    assert_eq!(poll_fn(|cx| far.poll_failed(cx)).await, LinkError::Reset(ResetCode::Cancelled));
    assert_eq!(link_error(&far.read(&mut hello).await.expect_err("reset")), LinkError::Reset(ResetCode::Cancelled));
    assert_eq!(link_error(&far.write_all(b"x").await.expect_err("reset")), LinkError::Reset(ResetCode::Cancelled));
}

#[tokio::test]
async fn what_came_before_a_reset_can_still_be_read() {
    let (edge, mut agent) = sides();
    let (mut near, mut far) = linked(&edge, &mut agent).await;
    far.write_all(b"last words").await.expect("written");
    // A round trip on another link, so that the words are out before the reset overtakes them.
    drop(linked(&edge, &mut agent).await);
    far.reset(ResetCode::BackendReset);
    let mut words = Vec::new();
    let error = near.read_to_end(&mut words).await.expect_err("reset");
    assert_eq!(link_error(&error), LinkError::Reset(ResetCode::BackendReset));
    assert_eq!(words, b"last words");
}

#[tokio::test]
async fn a_finished_link_may_be_dropped_before_its_data_is_sent() {
    let (edge, mut agent) = sides();
    let (mut near, mut far) = linked(&edge, &mut agent).await;
    far.shutdown().await.expect("ended");
    assert_eq!(near.read(&mut [0]).await.expect("the end"), 0);
    let data = pattern(60_000);
    near.write_all(&data).await.expect("written");
    near.shutdown().await.expect("ended");
    drop(near);
    let mut received = Vec::new();
    far.read_to_end(&mut received).await.expect("read");
    assert!(received == data, "the bytes differ");
}

#[tokio::test]
async fn notes_arrive_in_order() {
    let (edge, mut agent) = sides();
    let replicas = vec![Replica { id: "edge-0".into(), address: Some("10.0.0.1:7443".into()) }];
    let notes = [
        Note::Welcome { replica: "edge-0".into(), version: "0.1.0".into(), replicas: replicas.clone() },
        Note::Replicas { replicas },
        Note::Drain { seconds: Some(25) },
    ];
    for note in &notes {
        edge.session.note(note).expect("a session");
    }
    for note in notes {
        match agent.incoming.next().await {
            Some(IncomingEvent::Note(received)) => assert_eq!(received, note),
            other => panic!("no note but {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_stalled_reader_stops_its_writer_and_nobody_else() {
    let (edge, mut agent) = sides();
    let (stalled, mut writer) = linked(&edge, &mut agent).await;
    let data = pattern(1 << 20);
    let writing = tokio::spawn(async move {
        writer.write_all(&data).await.expect("written");
        writer.shutdown().await.expect("ended");
        (data, writer)
    });
    for _ in 0..20 {
        let (mut near, mut far) = linked(&edge, &mut agent).await;
        let data = pattern(300_000);
        let echo = async {
            far.write_all(&data).await.expect("written");
            far.shutdown().await.expect("ended");
        };
        let mut received = Vec::new();
        let ((), read) = tokio::join!(echo, near.read_to_end(&mut received));
        read.expect("read");
        assert!(received == data, "the bytes differ");
    }
    assert!(!writing.is_finished(), "1 MiB cannot be written into 256 KiB of credit and 64 KiB of queue");
    let mut stalled = stalled;
    let mut received = Vec::new();
    stalled.read_to_end(&mut received).await.expect("read");
    let (data, _writer) = writing.await.expect("written");
    assert!(received == data, "the bytes differ");
}

#[tokio::test]
async fn closing_a_session_loses_its_links_on_both_sides() {
    let (edge, mut agent) = sides();
    let (mut near, mut far) = linked(&edge, &mut agent).await;
    edge.session.close();
    assert!(edge.session.is_closed());
    assert_eq!(link_error(&near.read(&mut [0]).await.expect_err("lost")), LinkError::SessionLost);
    assert_eq!(link_error(&far.read(&mut [0]).await.expect_err("lost")), LinkError::SessionLost);
    assert_eq!(edge.driver.await.expect("a reason"), CloseReason::Closed);
    assert_eq!(agent.driver.await.expect("a reason"), CloseReason::PeerClosed);
    assert!(agent.incoming.next().await.is_none());
    assert!(edge.session.open(&open()).is_err());
    assert!(agent.session.note(&Note::Drain { seconds: None }).is_err());
}

#[tokio::test]
async fn finishing_a_session_sends_what_was_written_before() {
    // A pipe that takes little, and an edge that reads only when it is polled: what is written stays on the way.
    let (edge, agent) = tokio::io::duplex(256);
    let (session, _incoming, mut driver) = Session::start(Role::Edge, edge, Bytes::new(), Config::default());
    let mut agent = Side::start(Role::Agent, agent);
    let data = pattern(20_000);
    let mut near = session.open(&open()).expect("a session");
    near.shutdown().await.expect("ended");
    let answering = async {
        let mut far = agent.opening().await.accept();
        far.read_to_end(&mut Vec::new()).await.expect("read");
        far
    };
    let mut far = tokio::select! {
        far = answering => far,
        reason = &mut driver => panic!("{reason}"),
    };
    far.write_all(&data).await.expect("written");
    far.shutdown().await.expect("ended");
    drop(far);
    // Only then does the agent hold for over what has not left it.
    while agent.session.links() > 0 {
        tokio::task::yield_now().await;
    }
    agent.session.finish();
    assert!(agent.session.note(&Note::Drain { seconds: None }).is_err());
    let mut received = Vec::new();
    let (reason, read) = tokio::join!(driver, near.read_to_end(&mut received));
    read.expect("a regular end");
    assert!(received == data, "{} bytes of {}", received.len(), data.len());
    assert_eq!(reason, CloseReason::PeerClosed);
    assert_eq!(agent.driver.await.expect("a reason"), CloseReason::Closed);
}

#[tokio::test]
async fn the_last_word_of_a_session_is_heard_although_it_is_over() {
    let (edge, mut agent) = sides();
    edge.session.note(&Note::Drain { seconds: None }).expect("a session");
    edge.session.finish();
    assert_eq!(agent.driver.await.expect("a reason"), CloseReason::PeerClosed);
    assert!(matches!(agent.incoming.next().await, Some(IncomingEvent::Note(Note::Drain { .. }))));
    assert!(agent.incoming.next().await.is_none());
}

#[tokio::test]
async fn finishing_a_session_loses_the_links_that_want_to_write_more() {
    let (edge, mut agent) = sides();
    let (mut near, mut far) = linked(&edge, &mut agent).await;
    agent.session.finish();
    assert_eq!(link_error(&far.write(b"more").await.expect_err("lost")), LinkError::SessionLost);
    assert_eq!(link_error(&near.read(&mut [0]).await.expect_err("lost")), LinkError::SessionLost);
    assert_eq!(agent.driver.await.expect("a reason"), CloseReason::Closed);
    assert_eq!(edge.driver.await.expect("a reason"), CloseReason::PeerClosed);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_is_waited_for_two_seconds() {
    let (edge, _peer) = tokio::io::duplex(16);
    let edge = Side::start(Role::Edge, edge);
    edge.session.note(&Note::Drain { seconds: None }).expect("told");
    let start = tokio::time::Instant::now();
    edge.session.finish();
    assert_eq!(edge.driver.await.expect("a reason"), CloseReason::Closed);
    let waited = start.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_millis(2_100)).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_finishes_can_be_closed_at_once() {
    let (edge, _peer) = silent_peer();
    let start = tokio::time::Instant::now();
    edge.session.finish();
    tokio::task::yield_now().await;
    edge.session.close();
    assert_eq!(edge.driver.await.expect("a reason"), CloseReason::Closed);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_driver_that_is_dropped_loses_the_links() {
    let (edge, mut agent) = sides();
    let (mut near, _far) = linked(&edge, &mut agent).await;
    edge.driver.abort();
    assert_eq!(link_error(&near.read(&mut [0]).await.expect_err("lost")), LinkError::SessionLost);
}

#[tokio::test]
async fn only_so_many_links_are_accepted() {
    let (edge, agent) = tokio::io::duplex(4096);
    let edge = Side::start(Role::Edge, edge);
    let mut agent = Side::with(Role::Agent, agent, Config { max_links: 2, ..Config::default() });
    let links = [linked(&edge, &mut agent).await, linked(&edge, &mut agent).await];
    let error = edge.session.open(&open()).expect("a session").opened().await.expect_err("refused");
    assert!(matches!(error, LinkError::Refused { code: RefuseCode::Overloaded, .. }), "{error}");
    drop(links);
    linked(&edge, &mut agent).await;
}

#[tokio::test]
async fn garbage_ends_the_session_with_a_reason() {
    let (edge, mut peer) = tokio::io::duplex(4096);
    let edge = Side::start(Role::Edge, edge);
    peer.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("written");
    let reason = edge.driver.await.expect("a reason");
    assert!(matches!(reason, CloseReason::Protocol(_) | CloseReason::PeerClosed), "{reason}");
    assert!(edge.session.is_closed());
}

/// A peer that takes everything and says nothing.
fn silent_peer() -> (Side, DuplexStream) {
    let (edge, peer) = tokio::io::duplex(1 << 20);
    (Side::start(Role::Edge, edge), peer)
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_noticed_within_ten_seconds() {
    let (edge, _peer) = silent_peer();
    let start = tokio::time::Instant::now();
    assert_eq!(edge.driver.await.expect("a reason"), CloseReason::Silence);
    assert!(start.elapsed() <= Duration::from_millis(10_100), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_that_a_link_waits_for_is_noticed_within_five_seconds() {
    let (edge, _peer) = silent_peer();
    let start = tokio::time::Instant::now();
    let mut link = edge.session.open(&open()).expect("a session");
    assert_eq!(link.opened().await, Err(LinkError::SessionLost));
    assert_eq!(edge.driver.await.expect("a reason"), CloseReason::Silence);
    assert!(start.elapsed() <= Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_lives_on_and_knows_its_round_trip() {
    let (edge, mut agent) = sides();
    let (mut near, mut far) = linked(&edge, &mut agent).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(!edge.session.is_closed() && !agent.session.is_closed());
    assert!(edge.session.rtt().is_some() && agent.session.rtt().is_some());
    near.write_all(b"still here").await.expect("written");
    let mut words = [0; 10];
    far.read_exact(&mut words).await.expect("read");
    assert_eq!(&words, b"still here");
}

/// 64 links at a time, each with requests and answers of many sizes, over a real socket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_links_at_once() {
    let (edge, agent) = tcp().await;
    let (edge, mut agent) = (Side::start(Role::Edge, edge), Side::start(Role::Agent, agent));
    let serving = tokio::spawn(async move {
        while let Some(event) = agent.incoming.next().await {
            let IncomingEvent::Open(opening) = event else { continue };
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(opening.accept());
                tokio::io::copy(&mut reader, &mut writer).await.expect("echoed");
                writer.shutdown().await.expect("ended");
            });
        }
    });
    let start = Instant::now();
    let clients: Vec<_> = (0..64usize)
        .map(|client| {
            let session = edge.session.clone();
            tokio::spawn(async move {
                for round in 0..20usize {
                    let data = pattern((client * 7919 + round * 104_729) % 200_000);
                    let (mut reader, mut writer) = tokio::io::split(session.open(&open()).expect("a session"));
                    let write = async {
                        writer.write_all(&data).await.expect("written");
                        writer.shutdown().await.expect("ended");
                    };
                    let mut received = Vec::new();
                    let ((), read) = tokio::join!(write, reader.read_to_end(&mut received));
                    read.expect("read");
                    assert!(received == data, "the bytes differ");
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("a client");
    }
    println!("{:?}", start.elapsed());
    edge.session.close();
    serving.await.expect("served");
}
