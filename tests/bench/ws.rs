//! The WebSocket half of the benchmark: an echo backend, and the clients that load or hold connections.
//!
//! Each mode runs on one thread, so that on a small machine the cores are left to what is measured.

use std::{
    env,
    error::Error,
    io::{self, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures::{SinkExt, StreamExt};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_tungstenite::{WebSocketStream, accept_async, client_async, tungstenite::Message};

const USAGE: &str = "usage: ws echo | ws pingpong ADDRESS HOST CONNECTIONS BYTES SECONDS | ws idle ADDRESS HOST COUNT";

/// How many connections are being opened at a time: more would overflow a listener's backlog, and measure retries.
const OPENING: usize = 32;

type Failure = Box<dyn Error + Send + Sync>;
type Socket = WebSocketStream<TcpStream>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["echo"] => echo().await,
        ["pingpong", address, host, connections, bytes, seconds] => {
            let run = Duration::from_secs_f64(seconds.parse()?);
            ping_pong(address.parse()?, host, connections.parse()?, bytes.parse()?, run).await
        }
        ["idle", address, host, count] => idle(address.parse()?, host, count.parse()?).await,
        _ => Err(USAGE.into()),
    }
}

/// Echoes on a free port, which it prints, until it is ended.
async fn echo() -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    say(&listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let mut socket = accept_async(stream).await?;
            while let Some(message) = socket.next().await {
                let message = message?;
                if message.is_binary() {
                    socket.send(message).await?;
                }
            }
            Ok::<_, Failure>(())
        });
    }
}

/// Sends one message a connection and the next when its echo is there; prints the round trips, and how long they took.
async fn ping_pong(
    address: SocketAddr,
    host: &str,
    connections: usize,
    bytes: usize,
    run: Duration,
) -> Result<(), Failure> {
    let sockets = open(address, host, connections).await?;
    let (started, mut tasks) = (Instant::now(), JoinSet::new());
    for mut socket in sockets {
        let message = Message::binary(vec![b'x'; bytes]);
        tasks.spawn(async move {
            let mut round_trips = 0_u64;
            while started.elapsed() < run {
                round_trip(&mut socket, message.clone()).await?;
                round_trips += 1;
            }
            Ok::<_, Failure>(round_trips)
        });
    }
    let mut total = 0;
    while let Some(round_trips) = tasks.join_next().await {
        total += round_trips??;
    }
    say(&format_args!("{total} {}", started.elapsed().as_secs_f64()))
}

/// Opens the connections, says so, and holds them until standard input ends; with each line that comes there, it uses each of
/// them once.
async fn idle(address: SocketAddr, host: &str, count: usize) -> Result<(), Failure> {
    let mut sockets = open(address, host, count).await?;
    say(&"open")?;
    // Nothing else runs here: what arrives meanwhile, if anything, may wait.
    for _ in io::stdin().lines() {
        for socket in &mut sockets {
            round_trip(socket, Message::binary(vec![b'x'; 125])).await?;
        }
        say(&"echoed")?;
    }
    Ok(())
}

async fn open(address: SocketAddr, host: &str, count: usize) -> Result<Vec<Socket>, Failure> {
    let url = format!("ws://{host}/");
    let (mut sockets, mut opening) = (Vec::with_capacity(count), JoinSet::new());
    for _ in 0..count {
        if opening.len() == OPENING
            && let Some(socket) = opening.join_next().await
        {
            sockets.push(socket??);
        }
        let url = url.clone();
        opening.spawn(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok::<_, Failure>(client_async(url, stream).await?.0)
        });
    }
    while let Some(socket) = opening.join_next().await {
        sockets.push(socket??);
    }
    Ok(sockets)
}

async fn round_trip(socket: &mut Socket, message: Message) -> Result<(), Failure> {
    socket.send(message.clone()).await?;
    match socket.next().await.ok_or("the connection ended")?? {
        echo if echo == message => Ok(()),
        other => Err(format!("not the echo: {other}").into()),
    }
}

fn say(line: &impl std::fmt::Display) -> Result<(), Failure> {
    let mut out = io::stdout();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
