use std::{fmt, io, sync::Arc};

/// Why an agent did not open a link. The backend saw nothing of it, so what was meant for it may go elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefuseCode {
    /// The agent's allow-list does not have the target.
    NotAllowed,
    /// The target refused the connection.
    Refused,
    /// The target's name did not resolve, or there is no way to its address.
    Unreachable,
    /// The target did not answer in time.
    Timeout,
    /// There are too many links.
    Overloaded,
    /// The agent is leaving, and takes no more links.
    Draining,
    /// The agent failed by itself; the text says more.
    Internal,
    /// A code that this version does not know; treated like [`RefuseCode::Internal`].
    Other(u16),
}

/// Why a link was ended at once, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResetCode {
    /// The sender does not want it any more, as when a visitor went away or the target is not allowed any more.
    Cancelled,
    /// The backend reset its connection.
    BackendReset,
    /// Nothing moved for too long.
    Timeout,
    /// The receiver holds too much unread data.
    Overloaded,
    /// The sender failed by itself.
    Internal,
    /// A code that this version does not know; treated like [`ResetCode::Internal`].
    Other(u16),
}

/// Why a link can be used no more. The [`io::Error`]s of a [`super::Link`] wrap it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The agent did not open it; the backend saw nothing, so another session may be tried.
    #[error("the agent refused the link: {code}{}{text}", if text.is_empty() { "" } else { ": " })]
    Refused {
        /// Why.
        code: RefuseCode,
        /// The agent's words; may be empty.
        text: Arc<str>,
    },
    /// One side ended it at once.
    #[error("the link was reset: {0}")]
    Reset(ResetCode),
    /// The session that carried it is gone.
    #[error("the session that carried the link is lost")]
    SessionLost,
}

// === impl RefuseCode ===

impl RefuseCode {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::NotAllowed => 1,
            Self::Refused => 2,
            Self::Unreachable => 3,
            Self::Timeout => 4,
            Self::Overloaded => 5,
            Self::Draining => 6,
            Self::Internal => 7,
            Self::Other(number) => number,
        }
    }

    /// The code with that number.
    #[must_use]
    pub const fn from_number(number: u16) -> Self {
        match number {
            1 => Self::NotAllowed,
            2 => Self::Refused,
            3 => Self::Unreachable,
            4 => Self::Timeout,
            5 => Self::Overloaded,
            6 => Self::Draining,
            7 => Self::Internal,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for RefuseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllowed => f.write_str("target not in its allow-list"),
            Self::Refused => f.write_str("connection refused by the target"),
            Self::Unreachable => f.write_str("target unreachable"),
            Self::Timeout => f.write_str("target did not answer in time"),
            Self::Overloaded => f.write_str("too many links"),
            Self::Draining => f.write_str("agent is leaving"),
            Self::Internal => f.write_str("agent failed"),
            Self::Other(number) => write!(f, "unknown code {number}"),
        }
    }
}

// === impl ResetCode ===

impl ResetCode {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Cancelled => 1,
            Self::BackendReset => 2,
            Self::Timeout => 3,
            Self::Overloaded => 4,
            Self::Internal => 5,
            Self::Other(number) => number,
        }
    }

    /// The code with that number.
    #[must_use]
    pub const fn from_number(number: u16) -> Self {
        match number {
            1 => Self::Cancelled,
            2 => Self::BackendReset,
            3 => Self::Timeout,
            4 => Self::Overloaded,
            5 => Self::Internal,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for ResetCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => f.write_str("cancelled"),
            Self::BackendReset => f.write_str("connection reset by the backend"),
            Self::Timeout => f.write_str("nothing moved for too long"),
            Self::Overloaded => f.write_str("too much unread data"),
            Self::Internal => f.write_str("the other side failed"),
            Self::Other(number) => write!(f, "unknown code {number}"),
        }
    }
}

// === impl LinkError ===

impl LinkError {
    /// The link's own error, where `error` came from a [`super::Link`].
    #[must_use]
    pub fn from_io(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<LinkError> for io::Error {
    fn from(error: LinkError) -> Self {
        let kind = match &error {
            LinkError::Refused { .. } => io::ErrorKind::ConnectionRefused,
            // Where the target had no part in it, so that who keeps only the kind of an error can tell.
            LinkError::SessionLost | LinkError::Reset(ResetCode::Internal | ResetCode::Other(_)) => {
                io::ErrorKind::ConnectionAborted
            }
            LinkError::Reset(_) => io::ErrorKind::ConnectionReset,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_an_error_tells_whether_the_target_had_a_part_in_it() {
        let kind = |code| io::Error::from(LinkError::Reset(code)).kind();
        for code in [ResetCode::Internal, ResetCode::Other(99)] {
            assert_eq!(kind(code), io::ErrorKind::ConnectionAborted);
        }
        for code in [ResetCode::Cancelled, ResetCode::BackendReset, ResetCode::Timeout, ResetCode::Overloaded] {
            assert_eq!(kind(code), io::ErrorKind::ConnectionReset);
        }
        assert_eq!(io::Error::from(LinkError::SessionLost).kind(), io::ErrorKind::ConnectionAborted);
    }
}
