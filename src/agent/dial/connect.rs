use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpStream, lookup_host},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::tunnel::socket;

/// Connects to a name or address.
pub(super) async fn connect(host: &str, port: u16) -> Result<TcpStream, Error> {
    let addresses: Vec<_> = lookup_host((host, port)).await.map_err(Error::Resolve)?.collect();
    let tcp = connect_any(&addresses).await.map_err(Error::Connect)?;
    // Options only make it faster; a connection that is gone already is noticed soon enough.
    let _ = socket::configure(&tcp);
    Ok(tcp)
}

/// Connects to the first of the addresses that answers. While none does, another attempt is begun again and again: the
/// kernel repeats a lost SYN later and later, and an edge that comes back should not have to wait for that.
async fn connect_any(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    const ANOTHER_ADDRESS: Duration = Duration::from_millis(300);
    const SAME_ADDRESS: Duration = Duration::from_millis(900);
    const ATTEMPTS: usize = 8;

    let mut attempts = JoinSet::new();
    let mut started = 0;
    let mut next = Instant::now();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    if addresses.is_empty() {
        return Err(last);
    }
    loop {
        tokio::select! {
            () = sleep_until(next), if started < ATTEMPTS.max(addresses.len()) => {
                attempts.spawn(TcpStream::connect(addresses[started % addresses.len()]));
                started += 1;
                next += if started < addresses.len() { ANOTHER_ADDRESS } else { SAME_ADDRESS };
            }
            Some(attempt) = attempts.join_next() => match attempt {
                Ok(Ok(stream)) => return Ok(stream),
                failed => {
                    last = failed.unwrap_or_else(|error| Err(error.into())).err().unwrap_or(last);
                    if started < addresses.len() {
                        next = Instant::now();
                    } else if attempts.is_empty() {
                        return Err(last);
                    }
                }
            },
            else => return Err(last),
        }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Error {
    /// The name has no address.
    Resolve(io::Error),
    Connect(io::Error),
}

// === impl Error ===

impl Error {
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Resolve(error) | Self::Connect(error) => error,
        }
    }
}
