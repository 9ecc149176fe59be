//! From what failed below to what the visitor is told.

use std::{error::Error, io, time::Duration};

use super::ProxyError;
use crate::{
    proxy::{
        backend::TooMuch,
        message::upload::{Progress, UploadError},
    },
    routing::Target,
    tunnel::{
        LinkError, RefuseCode,
        health::{HealthProblem, HealthReason},
    },
};

/// Why a link was not opened, or ended. `limit` is what the edge gives a backend to take a connection.
pub(in crate::proxy) fn of_link(error: &LinkError, limit: Duration) -> ProxyError {
    match error {
        LinkError::Refused { code, text } => {
            let text = text.to_string();
            match code {
                RefuseCode::NotAllowed => ProxyError::TargetNotAllowed(text),
                RefuseCode::Refused => ProxyError::BackendRefused(text),
                RefuseCode::Unreachable => ProxyError::BackendUnreachable(text),
                RefuseCode::Timeout => ProxyError::ConnectTimeout(limit),
                _ => ProxyError::AgentOverloaded(text),
            }
        }
        LinkError::Reset(_) => ProxyError::BackendClosed,
        LinkError::SessionLost => ProxyError::SessionLost,
    }
}

/// What a failure to open a link to a target says of the place; `None` where that is not the place's own.
pub(in crate::proxy) fn of_place(error: &ProxyError, target: &Target) -> Option<HealthProblem> {
    Some(match error {
        ProxyError::TargetNotAllowed(text) => HealthProblem::new(HealthReason::NotAllowed, text),
        ProxyError::BackendRefused(text) => HealthProblem::new(HealthReason::Refused, text),
        ProxyError::BackendUnreachable(text) => HealthProblem::new(HealthReason::Unreachable, text),
        ProxyError::ConnectTimeout(limit) => {
            let text = format!("{target} did not take the agent's connection within {limit:?}");
            HealthProblem::new(HealthReason::Timeout, &text)
        }
        _ => return None,
    })
}

/// Why a request's body ends early, which is the visitor's doing.
pub(in crate::proxy) fn of_upload(error: &UploadError) -> ProxyError {
    match error {
        UploadError::TooLarge(limit) => ProxyError::BodyTooLarge(*limit),
        error => ProxyError::RequestBody(error.to_string()),
    }
}

/// Why there is no response to a request, or not all of it. What its upload broke off by says more than how that ended the
/// exchange.
pub(in crate::proxy) fn of_exchange(error: &hyper::Error, upload: Option<&Progress>) -> ProxyError {
    upload.and_then(Progress::failure).cloned().unwrap_or_else(|| of_backend(error))
}

/// Why a connection to a backend, or what ran over it, has failed.
pub(in crate::proxy) fn of_backend(error: &hyper::Error) -> ProxyError {
    let io = io_error(error);
    if is_lost(error) {
        ProxyError::SessionLost
    } else if let Some(too_much) = io.filter(|io| io.kind() == TooMuch::KIND) {
        ProxyError::InvalidResponse(too_much.to_string().into())
    } else if error.is_parse_too_large() {
        ProxyError::ResponseHeadTooLarge
    } else if error.is_parse() {
        ProxyError::InvalidResponse(error.to_string().into())
    } else if let Some(error) = http2_error(error).filter(|error| error.is_library()) {
        // The library itself ended the stream or the connection, for what came on it.
        ProxyError::InvalidResponse(error.to_string().into())
    } else if error.is_user() {
        ProxyError::RequestBody(error.to_string())
    } else {
        ProxyError::BackendClosed
    }
}

/// Whether the connection was closed where a response was due, as it happens when the backend gives up an idle
/// connection in the moment that it is used.
pub(in crate::proxy) fn is_close(error: &hyper::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    error.is_incomplete_message()
        || error.is_closed()
        || error.is_canceled()
        || link_error(error).is_some()
        // Of the errors of a connection of HTTP/2, and of the link below it, h2 keeps the kind.
        || io_error(error).is_some_and(|io| matches!(io.kind(), ConnectionReset | BrokenPipe | UnexpectedEof))
}

/// Whether the backend had no part in it: the session was lost, that of the agent or the one behind another replica, or the agent
/// failed. Told by the kind, since h2 keeps no more of an error than that and its text.
pub(in crate::proxy) fn is_lost(error: &hyper::Error) -> bool {
    io_error(error).is_some_and(|io| io.kind() == io::ErrorKind::ConnectionAborted)
}

/// Whether a backend says over HTTP/2 that it did nothing of the request: it refused the stream, or it says goodbye and the
/// stream came too late (RFC 9113, 8.7).
pub(in crate::proxy) fn is_unprocessed(error: &hyper::Error) -> bool {
    let Some(error) = http2_error(error) else { return false };
    error.is_remote()
        && match error.reason() {
            Some(h2::Reason::REFUSED_STREAM) => error.is_reset(),
            Some(h2::Reason::NO_ERROR) => error.is_go_away(),
            _ => false,
        }
}

fn http2_error(error: &hyper::Error) -> Option<&h2::Error> {
    error.source()?.downcast_ref()
}

fn link_error(error: &hyper::Error) -> Option<&LinkError> {
    LinkError::from_io(io_error(error)?)
}

fn io_error(error: &hyper::Error) -> Option<&io::Error> {
    error.source()?.downcast_ref().or_else(|| http2_error(error)?.get_io())
}
