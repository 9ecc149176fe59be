use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{PROTOCOL, Registration, header as own};

/// The edge took the agent in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The id of the replica.
    pub replica: String,
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
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// The longest head and the longest body of an answer, in bytes.
const MAX_HEAD: usize = 16 * 1024;
const MAX_BODY: usize = 1024;

/// Registers on a connection and reads the answer. Waits as long as the connection lets it: a deadline is the
/// caller's.
pub async fn register<T>(io: &mut T, host: &str, registration: &Registration) -> Result<Registered, RegisterError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    io.write_all(&registration.encode(host)).await?;
    io.flush().await?;
    let mut buffer = BytesMut::with_capacity(1024);
    let (head, length) = loop {
        if io.read_buf(&mut buffer).await? == 0 {
            return Err(RegisterError::NoBridge("it closed the connection before it had answered"));
        }
        match Head::parse(&buffer)? {
            Some(parsed) => break parsed,
            None if buffer.len() > MAX_HEAD => return Err(RegisterError::NoBridge("its answer is too long")),
            None => {}
        }
    };
    let mut rest = buffer.split_off(length);
    match head {
        Head::Registered { replica } => Ok(Registered { replica, early: rest.freeze() }),
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
    Registered { replica: String },
    Rejected { rejection: Rejection, body: usize },
}

// === impl Head ===

impl Head {
    /// The head and its length, once it is whole.
    fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, RegisterError> {
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
        let replica = value(own::REPLICA.as_str()).filter(|id| !id.is_empty()).map(str::to_owned);
        if status == http::StatusCode::SWITCHING_PROTOCOLS {
            if !value("upgrade").is_some_and(|protocol| protocol.eq_ignore_ascii_case(PROTOCOL)) {
                return Err(RegisterError::NoBridge("it switched to another protocol"));
            }
            let replica = replica.ok_or(RegisterError::NoBridge("it did not say which replica it is"))?;
            return Ok(Some((Self::Registered { replica }, length)));
        }
        let retry_after = value("retry-after").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        let spoken = value("upgrade").map(str::to_owned);
        // Without a length the body goes on until the connection ends.
        let body = value("content-length").and_then(|length| length.parse().ok()).unwrap_or(MAX_BODY);
        let rejection = Rejection { status, reason: String::new(), retry_after, spoken, replica };
        Ok(Some((Self::Rejected { rejection, body }, length)))
    }
}

/// The first line, without what could disturb a terminal.
fn one_line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).collect()
}
