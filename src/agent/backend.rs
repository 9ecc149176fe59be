use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout_at},
};

use super::allow::{AllowList, Host, Target, Verdict};
use crate::tunnel::RefuseCode;

/// Why a backend was not connected to: what goes back over the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: RefuseCode,
    pub(super) text: String,
}

/// Connects to `target` if `allowed` says so, within `limit` for all of it: the name, and its addresses in the order
/// in which the resolver gave them.
///
/// A name is resolved once, and the address that was checked is the one that is dialled: a second answer of a
/// resolver under somebody else's control is never trusted.
pub(super) async fn connect(target: &str, allowed: &AllowList, limit: Duration) -> Result<TcpStream, Refusal> {
    let Some(parsed) = Target::parse(target) else {
        return Err(Refusal::new(RefuseCode::NotAllowed, format_args!("{target:?} is not HOST:PORT")));
    };
    let deadline = Instant::now() + limit;
    let verdict = allowed.verdict(&parsed);
    let addresses = match (verdict, parsed.host) {
        (Verdict::Denied, _) => return Err(Refusal::not_allowed(target, allowed)),
        (_, Host::Address(address)) => vec![SocketAddr::new(address, parsed.port)],
        (verdict, Host::Name(name)) => {
            let mut addresses = resolve(name, parsed.port, deadline).await?;
            if verdict == Verdict::ByAddress {
                addresses.retain(|address| allowed.allows_address(address.ip(), parsed.port));
                if addresses.is_empty() {
                    return Err(Refusal::not_allowed(target, allowed));
                }
            }
            addresses
        }
    };
    connect_any(target, &addresses, deadline).await
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

async fn connect_any(target: &str, addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, Refusal> {
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
                return Ok(stream);
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

    fn not_allowed(target: &str, allowed: &AllowList) -> Self {
        let state = if allowed.is_empty() { "allow-list is empty" } else { "allow-list does not have it" };
        Self::new(
            RefuseCode::NotAllowed,
            format_args!("the agent may not connect to {target}: its {state}; start it with --allow {target}"),
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

    fn list(rules: &[String]) -> AllowList {
        rules.iter().map(|rule| rule.parse().expect("a rule")).collect()
    }

    #[tokio::test]
    async fn only_allowed_backends_are_dialled() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let target = format!("127.0.0.1:{port}");
        let allowed = list(std::slice::from_ref(&target));
        let stream = connect(&target, &allowed, LIMIT).await.expect("connected");
        assert_eq!(stream.peer_addr().expect("a peer").port(), port);

        let refusal = connect(&target, &list(&["10.0.0.0/8:*".into()]), LIMIT).await.expect_err("refused");
        assert_eq!(refusal.code, RefuseCode::NotAllowed);
        assert!(refusal.text.contains(&format!("--allow {target}")), "{}", refusal.text);
        let refusal = connect(&target, &AllowList::default(), LIMIT).await.expect_err("refused");
        assert!(refusal.text.contains("allow-list is empty"), "{}", refusal.text);
    }

    #[tokio::test]
    async fn a_name_is_allowed_by_itself_or_by_the_address_it_has() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let target = format!("localhost:{port}");
        for rule in [format!("localhost:{port}"), format!("127.0.0.0/8:{port}")] {
            let stream = connect(&target, &list(&[rule]), LIMIT).await.expect("connected");
            assert!(stream.peer_addr().expect("a peer").ip().is_loopback());
        }
        let refusal = connect(&target, &list(&["10.0.0.0/8:*".into()]), LIMIT).await.expect_err("refused");
        assert_eq!(refusal.code, RefuseCode::NotAllowed);
    }

    #[tokio::test]
    async fn refusals_say_what_happened() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let target = listener.local_addr().expect("its address").to_string();
        drop(listener);
        let all = list(&["127.0.0.1:*".into(), "no-such-name.invalid:80".into()]);
        let refusal = connect(&target, &all, LIMIT).await.expect_err("refused");
        assert_eq!(refusal.code, RefuseCode::Refused, "{}", refusal.text);
        let refusal = connect("no-such-name.invalid:80", &all, LIMIT).await.expect_err("unresolved");
        assert!(matches!(refusal.code, RefuseCode::Unreachable | RefuseCode::Timeout), "{}", refusal.text);
        let refusal = connect("unix:/run/app.sock", &all, LIMIT).await.expect_err("no host");
        assert_eq!(refusal.code, RefuseCode::NotAllowed);
    }
}
