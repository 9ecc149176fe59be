//! What both ends of a tunnel connection do to their TCP sockets.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// How much the kernel may hold that it has not sent yet. What waits beyond that waits in the session, where control
/// frames and other links can still get in front of it.
#[cfg(any(target_os = "linux", target_os = "android"))]
const NOT_SENT: u32 = 128 * 1024;

/// Makes a connection fit for a session: small frames leave at once (`TCP_NODELAY`), the queue stays in the session
/// (`TCP_NOTSENT_LOWAT`, on Linux), and a peer that is gone before a session runs is noticed by the kernel.
pub fn configure(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(30)))?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_notsent_lowat(NOT_SENT)?;
    Ok(())
}
