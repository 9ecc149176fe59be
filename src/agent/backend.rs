mod stream;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout_at},
};

pub(super) use self::stream::Stream;
use super::allow::{AllowList, AllowRule, Verdict};
use crate::tunnel::{
    RefuseCode,
    target::{Host, Target},
};

/// Why a backend was not connected to: what goes back over the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: RefuseCode,
    pub(super) text: String,
}

/// Connects to `target` if `allowed` says so for the TunnelHosts of `namespace`, within `limit` for all of it: the name, and
/// its addresses in the order in which the resolver gave them. Gives the address too, if there is one.
///
/// A name is resolved once, and the address that was checked is the one that is dialled: a second answer of a
/// resolver under somebody else's control is never trusted.
pub(super) async fn connect(
    target: &str,
    namespace: &str,
    allowed: &AllowList,
    limit: Duration,
) -> Result<(Stream, Option<SocketAddr>), Refusal> {
    let parsed = Target::parse(target)
        .map_err(|error| Refusal::new(RefuseCode::NotAllowed, format_args!("{target:?} is no target: {error}")))?;
    let deadline = Instant::now() + limit;
    let verdict = allowed.verdict(&parsed, namespace);
    let (host, port) = match (verdict, parsed) {
        (Verdict::Denied, _) => return Err(Refusal::not_allowed(target, allowed)),
        (_, Target::Unix(path)) => return Ok((connect_unix(target, path, deadline).await?, None)),
        (_, Target::Tcp { host, port }) => (host, port),
    };
    let addresses = match host {
        Host::Address(address) => vec![SocketAddr::new(address, port)],
        Host::Name(name) => {
            let mut addresses = resolve(name, port, deadline).await?;
            let first = addresses.first().map(SocketAddr::ip);
            addresses.retain(|address| allowed.allows_address(verdict, address.ip(), port, namespace));
            if let (true, Some(address)) = (addresses.is_empty(), first) {
                return Err(Refusal::address_not_allowed(target, address));
            }
            addresses
        }
    };
    let (stream, address) = connect_any(target, &addresses, deadline).await?;
    Ok((Stream::Tcp(stream), Some(address)))
}

#[cfg(unix)]
async fn connect_unix(target: &str, path: &str, deadline: Instant) -> Result<Stream, Refusal> {
    match timeout_at(deadline, tokio::net::UnixStream::connect(path)).await {
        Ok(Ok(stream)) => Ok(Stream::Unix(stream)),
        Ok(Err(error)) => {
            let code = match error.kind() {
                io::ErrorKind::ConnectionRefused => RefuseCode::Refused,
                // Its backlog is full.
                io::ErrorKind::WouldBlock => RefuseCode::Overloaded,
                _ if is_exhausted(&error) => RefuseCode::Overloaded,
                _ => RefuseCode::Unreachable,
            };
            Err(Refusal::new(code, format_args!("the agent cannot connect to {target}: {error}")))
        }
        Err(_) => Err(Refusal::new(
            RefuseCode::Timeout,
            format_args!("{target} did not accept the agent's connection in time"),
        )),
    }
}

#[cfg(not(unix))]
async fn connect_unix(target: &str, _: &str, _: Instant) -> Result<Stream, Refusal> {
    Err(Refusal::new(RefuseCode::Unreachable, format_args!("{target}: the agent's system has no Unix sockets")))
}

async fn resolve(name: &str, port: u16, deadline: Instant) -> Result<Vec<SocketAddr>, Refusal> {
    let unresolved = |why: &dyn fmt::Display| {
        Refusal::new(RefuseCode::Unreachable, format_args!("the agent cannot resolve {name:?}: {why}"))
    };
    match timeout_at(deadline, lookup_host((name, port))).await {
        Ok(Ok(addresses)) => {
            let addresses: Vec<_> = addresses.collect();
            if addresses.is_empty() { Err(unresolved(&"it has no address")) } else { Ok(addresses) }
        }
        Ok(Err(error)) => Err(unresolved(&error)),
        Err(_) => Err(Refusal::new(
            RefuseCode::Timeout,
            format_args!("the agent's resolver did not answer for {name:?} in time"),
        )),
    }
}

async fn connect_any(
    target: &str,
    addresses: &[SocketAddr],
    deadline: Instant,
) -> Result<(TcpStream, SocketAddr), Refusal> {
    let mut last = Refusal::new(RefuseCode::Unreachable, format_args!("{target} has no address"));
    for (index, address) in addresses.iter().enumerate() {
        // Shared out, so that one address that swallows packets leaves time for the next.
        let now = Instant::now();
        let left = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let until = now + deadline.saturating_duration_since(now) / left;
        match timeout_at(until, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Small writes come from the tunnel in the pieces in which the visitor sent them.
                let _ = stream.set_nodelay(true);
                return Ok((stream, *address));
            }
            Ok(Err(error)) => last = Refusal::of_error(target, address.ip(), &error),
            Err(_) => {
                last = Refusal::new(
                    RefuseCode::Timeout,
                    format_args!("{target} did not accept the agent's connection in time"),
                );
            }
        }
    }
    Err(last)
}

// === impl Refusal ===

impl Refusal {
    pub(super) fn new(code: RefuseCode, text: fmt::Arguments<'_>) -> Self {
        Self { code, text: text.to_string() }
    }

    /// Its text comes to visitors, so it does not name the namespace.
    pub(super) fn not_allowed(target: &str, allowed: &AllowList) -> Self {
        let state = match &*allowed.rules() {
            [] => "allow-list is empty",
            rules if rules.iter().any(AllowRule::is_of_namespace) => {
                "allow-list does not have it, or for another namespace"
            }
            _ => "allow-list does not have it",
        };
        Self::new(
            RefuseCode::NotAllowed,
            format_args!("the agent may not connect to {target}: its {state}; start it with --allow {target}"),
        )
    }

    fn address_not_allowed(target: &str, address: IpAddr) -> Self {
        Self::new(
            RefuseCode::NotAllowed,
            format_args!(
                "the agent may not connect to {target}: it resolves to {address}, and its allow-list has neither that address \
                 nor the name itself; start it with --allow {target}"
            ),
        )
    }

    fn of_error(target: &str, address: IpAddr, error: &io::Error) -> Self {
        let code = match error.kind() {
            // Reset as soon as it was accepted: nothing was sent, so it is as good as refused.
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => RefuseCode::Refused,
            io::ErrorKind::TimedOut => RefuseCode::Timeout,
            _ if is_exhausted(error) => RefuseCode::Overloaded,
            _ => RefuseCode::Unreachable,
        };
        Self::new(code, format_args!("the agent cannot connect to {target} at {address}: {error}"))
    }
}

/// Whether this process or machine has no more sockets or local ports.
fn is_exhausted(error: &io::Error) -> bool {
    // EMFILE and ENFILE have no stable `ErrorKind`; these are their numbers on every Unix that Rust knows.
    error.kind() == io::ErrorKind::AddrNotAvailable || cfg!(unix) && matches!(error.raw_os_error(), Some(23 | 24))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    async fn dial(target: &str, allowed: &AllowList) -> Result<SocketAddr, Refusal> {
        let (stream, address) = connect(target, "web", allowed, LIMIT).await?;
        let Stream::Tcp(stream) = stream else { panic!("no TCP") };
        assert_eq!(stream.peer_addr().ok(), address);
        Ok(address.expect("an address"))
    }

    fn list(rules: &[String]) -> AllowList {
        rules.iter().map(|rule| rule.parse().expect("a rule")).collect()
    }

    #[tokio::test]
    async fn only_allowed_backends_are_dialled() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let target = format!("127.0.0.1:{port}");
        let allowed = list(std::slice::from_ref(&target));
        assert_eq!(dial(&target, &allowed).await.expect("connected").port(), port);

        let refusal = dial(&target, &list(&["10.0.0.0/8:*".into()])).await.expect_err("refused");
        assert_eq!(refusal.code, RefuseCode::NotAllowed);
        assert!(refusal.text.contains(&format!("--allow {target}")), "{}", refusal.text);
        let refusal = dial(&target, &AllowList::default()).await.expect_err("refused");
        assert!(refusal.text.contains("allow-list is empty"), "{}", refusal.text);
    }

    #[tokio::test]
    async fn a_name_is_allowed_by_itself_or_by_the_address_it_has() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let target = format!("localhost:{port}");
        for rule in [format!("localhost:{port}"), format!("127.0.0.0/8:{port}")] {
            assert!(dial(&target, &list(&[rule])).await.expect("connected").ip().is_loopback());
        }
        let refusal = dial(&target, &list(&["10.0.0.0/8:*".into()])).await.expect_err("refused");
        assert_eq!(refusal.code, RefuseCode::NotAllowed);
    }

    #[tokio::test]
    async fn refusals_say_what_happened() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let target = listener.local_addr().expect("its address").to_string();
        drop(listener);
        let all = list(&["127.0.0.1:*".into(), "no-such-name.invalid:80".into()]);
        let refusal = dial(&target, &all).await.expect_err("refused");
        assert_eq!(refusal.code, RefuseCode::Refused, "{}", refusal.text);
        let refusal = dial("no-such-name.invalid:80", &all).await.expect_err("unresolved");
        assert!(matches!(refusal.code, RefuseCode::Unreachable | RefuseCode::Timeout), "{}", refusal.text);
        for target in ["unix:/run/app.sock", "unix:app.sock", "http://app"] {
            let refusal = dial(target, &all).await.expect_err("not allowed");
            assert_eq!(refusal.code, RefuseCode::NotAllowed);
        }
    }

    #[tokio::test]
    async fn a_name_under_a_suffix_does_not_lead_to_this_machine() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        // Such names are this machine (RFC 6761), wherever they are resolved.
        let target = format!("app.localhost:{port}");
        match dial(&target, &list(&[format!("*.localhost:{port}")])).await {
            Err(refusal) if refusal.code == RefuseCode::NotAllowed => {
                assert!(refusal.text.contains("it resolves to "), "{}", refusal.text);
            }
            // A resolver that does not know them.
            Err(refusal) => assert_eq!(refusal.code, RefuseCode::Unreachable, "{}", refusal.text),
            Ok(address) => panic!("connected to {address}"),
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn sockets_of_the_machine_are_dialled_by_their_path() {
        let path = std::env::temp_dir().join(format!("culvert-backend-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let target = format!("unix:{}", path.display());
        let allowed = list(std::slice::from_ref(&target));
        let refusal = connect(&target, "web", &allowed, LIMIT).await.expect_err("no socket");
        assert_eq!(refusal.code, RefuseCode::Unreachable, "{}", refusal.text);
        let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
        let (stream, address) = connect(&target, "web", &allowed, LIMIT).await.expect("connected");
        assert!(matches!((stream, address), (Stream::Unix(_), None)));
        drop(listener);
        let refusal = connect(&target, "web", &allowed, LIMIT).await.expect_err("nobody listens");
        assert_eq!(refusal.code, RefuseCode::Refused, "{}", refusal.text);
        let _ = std::fs::remove_file(&path);
    }
}
