use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Carrier, Registration, decimal, header as own, is_replica_id};

/// The edge took the agent in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The id of the replica.
    pub replica: String,
    /// Which of the process's sessions with that replica it is, less than [`Registration::slots`].
    pub slot: u32,
    /// What came behind the answer: the session's first bytes.
    pub early: Bytes,
}

/// The edge did not take the agent in, and said why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}{}{reason}", if reason.is_empty() { "" } else { ": " })]
pub struct Rejection {
    /// The HTTP status.
    pub status: http::StatusCode,
    /// The edge's words, one line.
    pub reason: String,
    /// How long to wait before the next try, where the edge said so.
    pub retry_after: Option<Duration>,
    /// What the edge speaks instead, where it said so (426).
    pub spoken: Option<String>,
    /// The id of the replica, where it said so (409).
    pub replica: Option<String>,
    /// Whether these are the words of a bridge, and not of something in between.
    pub is_of_bridge: bool,
}

/// Why a registration failed.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The edge said no.
    #[error("rejected by the edge: {0}")]
    Rejected(Rejection),
    /// What answered is no bridge.
    #[error("what answered is no culvert bridge: {0}")]
    NoBridge(&'static str),
    /// The connection ended without an answer.
    #[error("it closed the connection before it had answered")]
    Closed,
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// The longest head and the longest body of an answer, in bytes.
const MAX_HEAD: usize = 16 * 1024;
const MAX_BODY: usize = 1024;

/// Registers on a connection, for frames directly on it, and reads the answer. Waits as long as the connection lets it: a
/// deadline is the caller's.
pub async fn register<T>(io: &mut T, host: &str, registration: &Registration) -> Result<Registered, RegisterError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    register_over(io, host, registration, &Carrier::Direct).await
}

/// As [`register`], for frames in that carrier.
pub async fn register_over<T>(
    io: &mut T,
    host: &str,
    registration: &Registration,
    carrier: &Carrier,
) -> Result<Registered, RegisterError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    io.write_all(&registration.encode(host, carrier)).await?;
    io.flush().await?;
    let mut buffer = BytesMut::with_capacity(1024);
    let (head, length) = loop {
        if io.read_buf(&mut buffer).await? == 0 {
            return Err(RegisterError::Closed);
        }
        match Head::parse(&buffer, carrier, registration)? {
            Some(parsed) => break parsed,
            None if buffer.len() > MAX_HEAD => return Err(RegisterError::NoBridge("its answer is too long")),
            None => {}
        }
    };
    let mut rest = buffer.split_off(length);
    match head {
        Head::Registered { replica, slot } => Ok(Registered { replica, slot, early: rest.freeze() }),
        Head::Rejected { mut rejection, body } => {
            let body = body.min(MAX_BODY);
            while rest.len() < body && io.read_buf(&mut rest).await.unwrap_or(0) > 0 {}
            rest.truncate(body);
            rejection.reason = one_line(&rest);
            Err(RegisterError::Rejected(rejection))
        }
    }
}

/// An answer without its body.
enum Head {
    Registered { replica: String, slot: u32 },
    Rejected { rejection: Rejection, body: usize },
}

// === impl Head ===

impl Head {
    /// The head and its length, once it is whole; it has to fit the registration that it answers.
    fn parse(
        bytes: &[u8],
        carrier: &Carrier,
        registration: &Registration,
    ) -> Result<Option<(Self, usize)>, RegisterError> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(RegisterError::NoBridge("its answer is not HTTP/1.1")),
        };
        let status = response.code.and_then(|code| http::StatusCode::from_u16(code).ok());
        let status = status.ok_or(RegisterError::NoBridge("its answer has no status"))?;
        let value = |name: &str| {
            let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(header.value).ok().map(str::trim)
        };
        let replica = value(own::REPLICA.as_str()).filter(|id| is_replica_id(id)).map(str::to_owned);
        if status == http::StatusCode::SWITCHING_PROTOCOLS {
            if !carrier.is_granted(value) {
                return Err(RegisterError::NoBridge("it switched to another protocol"));
            }
            let replica = replica.ok_or(RegisterError::NoBridge("it did not say which replica it is"))?;
            let slot = value(own::SLOT.as_str()).and_then(decimal).filter(|slot| registration.is_free(&replica, *slot));
            let slot = slot.ok_or(RegisterError::NoBridge("it gave no slot that was free"))?;
            return Ok(Some((Self::Registered { replica, slot }, length)));
        }
        let retry_after = value("retry-after").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        let spoken = value("upgrade").map(str::to_owned);
        // Without a length the body goes on until the connection ends.
        let body = value("content-length").and_then(|length| length.parse().ok()).unwrap_or(MAX_BODY);
        let is_of_bridge = value(own::PROTOCOL.as_str()).is_some();
        let rejection = Rejection { status, reason: String::new(), retry_after, spoken, replica, is_of_bridge };
        Ok(Some((Self::Rejected { rejection, body }, length)))
    }
}

/// The first line, without what could disturb a terminal.
fn one_line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;

    use super::{super::Token, *};

    fn registration() -> Registration {
        Registration {
            agent: "web/home-lab".into(),
            token: Token::new("0123456789abcdef").expect("a token"),
            instance: "5f0c".into(),
            version: "0.1.0".into(),
            slots: 2,
            met: [("edge-9".to_owned(), [0].into())].into(),
        }
    }

    /// Registers with a server that gives this answer, in pieces of this size, and then closes.
    async fn answered(answer: &[u8], piece: usize) -> Result<Registered, RegisterError> {
        let (mut agent, mut edge): (DuplexStream, DuplexStream) = tokio::io::duplex(64);
        let serve = async {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(edge.read_u8().await.expect("a request"));
            }
            for piece in answer.chunks(piece) {
                // The agent may have seen enough already.
                let _ = edge.write_all(piece).await;
            }
            drop(edge);
        };
        let registration = registration();
        let register = async {
            let result = register(&mut agent, "bridge", &registration).await;
            drop(agent);
            result
        };
        tokio::join!(serve, register).1
    }

    #[tokio::test]
    async fn what_comes_behind_the_answer_is_kept() {
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: culvert/1\r\n\
            culvert-replica: edge-0\r\nculvert-slot: 1\r\n\r\nframes";
        let whole = answered(answer, usize::MAX).await.expect("registered");
        assert_eq!(whole, Registered { replica: "edge-0".into(), slot: 1, early: Bytes::from_static(b"frames") });
        let pieces = answered(answer, 1).await.expect("registered");
        assert!(pieces.replica == "edge-0" && b"frames".starts_with(&pieces.early), "{pieces:?}");
    }

    #[tokio::test]
    async fn a_rejection_says_why_and_when_to_come_again() {
        let answer =
            b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 18\r\n\r\ntoo many failures\nmore";
        for piece in [1, usize::MAX] {
            let Err(RegisterError::Rejected(rejection)) = answered(answer, piece).await else { panic!("not rejected") };
            assert_eq!(rejection.to_string(), "429 Too Many Requests: too many failures");
            assert_eq!(rejection.retry_after, Some(Duration::from_secs(7)));
        }
    }

    #[tokio::test]
    async fn a_rejection_names_what_is_spoken_or_who_it_is() {
        let answer = b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: culvert/2\r\n\r\nspeak culvert/2\x1b[2J";
        let Err(RegisterError::Rejected(rejection)) = answered(answer, 5).await else { panic!("not rejected") };
        assert_eq!((rejection.spoken.as_deref(), &*rejection.reason), (Some("culvert/2"), "speak culvert/2[2J"));
        assert!(!rejection.is_of_bridge);
        let answer = b"HTTP/1.1 409 Conflict\r\nCulvert-Replica: edge-1\r\nCulvert-Protocol: culvert/1\r\n\r\n";
        let Err(RegisterError::Rejected(rejection)) = answered(answer, 5).await else { panic!("not rejected") };
        assert_eq!((rejection.replica.as_deref(), rejection.is_of_bridge), (Some("edge-1"), true));
    }

    #[tokio::test]
    async fn what_is_no_bridge_is_told_apart() {
        let no_bridge = async |answer: &[u8]| match answered(answer, 100).await {
            Err(RegisterError::NoBridge(why)) => why,
            other => panic!("{other:?}"),
        };
        assert!(matches!(answered(b"", 1).await, Err(RegisterError::Closed)));
        assert_eq!(no_bridge(b"SSH-2.0-OpenSSH_9.6\r\n").await, "its answer is not HTTP/1.1");
        assert_eq!(no_bridge(b"HTTP/1.1 101 \r\nupgrade: websocket\r\n\r\n").await, "it switched to another protocol");
        assert_eq!(
            no_bridge(b"HTTP/1.1 101 \r\nupgrade: culvert/1\r\n\r\n").await,
            "it did not say which replica it is"
        );
        // Neither none at all, nor one that is not wanted or is held already.
        for given in ["0\r\n", "9\r\nculvert-slot: 2\r\n", "0\r\nculvert-slot: -1\r\n", "9\r\nculvert-slot: 0\r\n"] {
            let answer = format!("HTTP/1.1 101 \r\nupgrade: culvert/1\r\nculvert-replica: edge-{given}\r\n");
            assert_eq!(no_bridge(answer.as_bytes()).await, "it gave no slot that was free", "{given}");
        }
        let endless = [&b"HTTP/1.1 200 OK\r\nx: "[..], &vec![b'a'; 20_000]].concat();
        assert_eq!(no_bridge(&endless).await, "its answer is too long");
    }
}
