use std::{cmp::Ordering, fmt, io, time::Duration};

use http::StatusCode;

use super::TIMEOUT;
use crate::{
    agent::{backoff::Failure, http_proxy::ProxyError, transport::Doubt},
    tunnel::registration::{self, RegisterError, Rejection},
};

/// Why a dial came to nothing.
#[derive(Debug)]
pub(in crate::agent) enum DialError {
    /// The token file cannot be read, or holds none.
    Token(String),
    /// The edge's name has no address.
    Resolve(io::Error),
    Connect(io::Error),
    /// The proxy in between did not lead there.
    Proxy(ProxyError),
    Tls(io::Error),
    Register(RegisterError),
    /// There was no connection, or no TLS, in time.
    Timeout,
    /// It did not answer the registration in time.
    Unanswered,
    /// It registered the agent, and then the connection was closed before it had said anything.
    Cut,
    /// It registered the agent, and then was silent.
    Silent,
    /// Neither directly nor in a WebSocket.
    Neither {
        direct: Box<DialError>,
        websocket: Box<DialError>,
    },
}

// === impl DialError ===

impl DialError {
    /// How soon to try again.
    pub(in crate::agent) fn failure(&self) -> Failure {
        match self {
            Self::Token(_) => Failure::Lasting,
            Self::Proxy(error) => error.failure(),
            Self::Tls(error) if is_distrust(error) => Failure::Lasting,
            Self::Register(RegisterError::Rejected(rejection)) => match rejection.status {
                StatusCode::CONFLICT => Failure::Met,
                // A balancer whose edge is away answers with these.
                status if status.is_server_error() => Failure::Transient,
                StatusCode::TOO_MANY_REQUESTS => Failure::Transient,
                _ => Failure::Lasting,
            },
            Self::Neither { direct, .. } => direct.failure(),
            Self::Resolve(_)
            | Self::Connect(_)
            | Self::Tls(_)
            | Self::Register(_)
            | Self::Timeout
            | Self::Unanswered
            | Self::Cut
            | Self::Silent => Failure::Transient,
        }
    }

    /// The least time to wait, where the edge asked for it: at most a minute.
    pub(in crate::agent) fn retry_after(&self) -> Duration {
        match self {
            Self::Register(RegisterError::Rejected(Rejection { retry_after: Some(time), .. })) => {
                (*time).min(Duration::from_mins(1))
            }
            _ => Duration::ZERO,
        }
    }

    /// Whether it was the edge that said no.
    pub(super) fn is_of_edge(&self) -> bool {
        matches!(self, Self::Register(RegisterError::Rejected(Rejection { is_of_bridge: true, .. })))
    }

    /// Whether something in between may have stopped a direct registration.
    pub(super) fn doubt(&self) -> Doubt {
        match self {
            Self::Register(RegisterError::Rejected(rejection)) => match rejection {
                // The edge does speak what we asked for: it was taken out of the request on its way.
                Rejection {
                    is_of_bridge: true, status: StatusCode::UPGRADE_REQUIRED, spoken: Some(spoken), ..
                } if spoken.split(',').any(|name| name.trim().eq_ignore_ascii_case(registration::PROTOCOL)) => {
                    Doubt::Strong
                }
                Rejection { is_of_bridge: true, .. } => Doubt::None,
                // A balancer whose edge is away answers with these.
                Rejection { status, .. } if (502..=504).contains(&status.as_u16()) => Doubt::Weak,
                Rejection { .. } => Doubt::Strong,
            },
            Self::Register(RegisterError::NoBridge(_)) | Self::Cut | Self::Silent => Doubt::Strong,
            Self::Register(RegisterError::Io(_) | RegisterError::Closed) | Self::Unanswered => Doubt::Weak,
            Self::Token(_)
            | Self::Resolve(_)
            | Self::Connect(_)
            | Self::Proxy(_)
            | Self::Tls(_)
            | Self::Timeout
            | Self::Neither { .. } => Doubt::None,
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(why) => write!(f, "there is no token to register with: {why}"),
            Self::Resolve(error) => write!(f, "cannot resolve its name: {error}"),
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Proxy(error) => write!(f, "{error}"),
            Self::Tls(error) if is_distrust(error) => {
                write!(f, "its certificate is not trusted ({error}); check --edge-fingerprint or --edge-ca")
            }
            Self::Tls(error) => write!(f, "no TLS with it: {error}"),
            Self::Register(RegisterError::Rejected(rejection)) => {
                write!(f, "{rejection}")?;
                match rejection.status {
                    StatusCode::UNAUTHORIZED => f.write_str("; check --agent and --token-file"),
                    StatusCode::FORBIDDEN => f.write_str("; ask those who run the edge"),
                    StatusCode::NOT_FOUND => f.write_str("; check --edge: the bridge's port is meant"),
                    StatusCode::UPGRADE_REQUIRED => {
                        let spoken = rejection.spoken.as_deref().unwrap_or("something else");
                        write!(f, "; this agent speaks {}, the edge {spoken}", registration::PROTOCOL)?;
                        match registration::version_of_other_side(spoken) {
                            Some(Ordering::Greater) => f.write_str(": upgrade the agent"),
                            Some(Ordering::Less) => f.write_str(": upgrade the edge"),
                            Some(Ordering::Equal) | None => Ok(()),
                        }
                    }
                    _ => Ok(()),
                }
            }
            Self::Register(error) => write!(f, "{error}"),
            Self::Timeout => write!(f, "no connection within {} s", TIMEOUT.as_secs()),
            Self::Unanswered => write!(f, "it did not answer within {} s", TIMEOUT.as_secs()),
            Self::Cut => f.write_str("the connection was closed as soon as it was registered"),
            Self::Silent => write!(f, "it said nothing within {} s after the registration", TIMEOUT.as_secs()),
            Self::Neither { direct, websocket } => write!(f, "{direct}; nor in a WebSocket: {websocket}"),
        }
    }
}

/// Whether the TLS handshake failed because of who the edge is: dialling again soon would not help.
fn is_distrust(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(error, Some(rustls::Error::InvalidCertificate(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(status: u16, is_of_bridge: bool, spoken: Option<&str>) -> DialError {
        DialError::Register(RegisterError::Rejected(Rejection {
            status: StatusCode::from_u16(status).expect("a status"),
            reason: String::new(),
            retry_after: None,
            spoken: spoken.map(str::to_owned),
            replica: None,
            is_of_bridge,
        }))
    }

    #[test]
    fn what_the_edge_itself_says_raises_no_doubt() {
        for status in [400, 401, 403, 404, 409, 429, 503] {
            assert_eq!(rejected(status, true, None).doubt(), Doubt::None, "{status}");
        }
        assert_eq!(rejected(426, true, Some("culvert/2")).doubt(), Doubt::None);
        assert_eq!(rejected(426, true, Some("culvert/1")).doubt(), Doubt::Strong, "the wish was lost on the way");
        assert_eq!(rejected(403, false, None).doubt(), Doubt::Strong);
        assert_eq!(rejected(502, false, None).doubt(), Doubt::Weak);
    }

    #[test]
    fn who_speaks_another_version_is_told_which_side_is_old() {
        let told = |spoken| rejected(426, true, Some(spoken)).to_string();
        assert!(told("culvert/2").ends_with("; this agent speaks culvert/1, the edge culvert/2: upgrade the agent"));
        assert!(told("culvert/0").ends_with("the edge culvert/0: upgrade the edge"));
    }

    #[test]
    fn what_failed_both_ways_says_so() {
        let neither = DialError::Neither { direct: Box::new(DialError::Cut), websocket: Box::new(DialError::Timeout) };
        assert_eq!(neither.failure(), Failure::Transient);
        assert_eq!(
            neither.to_string(),
            "the connection was closed as soon as it was registered; nor in a WebSocket: no connection within 10 s"
        );
    }
}
