//! From what failed below to what the visitor is told.

use std::{error::Error, io, time::Duration};

use super::ProxyError;
use crate::{
    proxy::{backend::TooMuch, message::upload::UploadError},
    routing::Target,
    tunnel::{
        LinkError, RefuseCode, ResetCode,
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

/// Why there is no response to a request.
pub(in crate::proxy) fn of_exchange(error: &hyper::Error) -> ProxyError {
    if is_lost(error) {
        ProxyError::SessionLost
    } else if let Some(too_much) = io_error(error).and_then(|error| error.get_ref()?.downcast_ref::<TooMuch>()) {
        ProxyError::InvalidResponse(too_much.to_string().into())
    } else if error.is_parse_too_large() {
        ProxyError::ResponseHeadTooLarge
    } else if error.is_parse() {
        ProxyError::InvalidResponse(error.to_string().into())
    } else if let Some(error) = error.source().and_then(|source| source.downcast_ref()) {
        match error {
            UploadError::TooLarge(limit) => ProxyError::BodyTooLarge(*limit),
            error => ProxyError::RequestBody(error.to_string()),
        }
    } else if error.is_user() {
        ProxyError::RequestBody(error.to_string())
    } else {
        ProxyError::BackendClosed
    }
}

/// Whether the connection was closed where a response was due, as it happens when the backend gives up an idle
/// connection in the moment that it is used.
pub(in crate::proxy) fn is_close(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || error.is_closed() || error.is_canceled() || link_error(error).is_some()
}

/// Whether the backend had no part in it: the session was lost, that of the agent or the one behind another replica, or the agent
/// failed.
pub(in crate::proxy) fn is_lost(error: &hyper::Error) -> bool {
    matches!(link_error(error), Some(LinkError::SessionLost | LinkError::Reset(ResetCode::Internal)))
}

/// Whether a backend says over HTTP/2 that it did nothing of the request: it refused the stream, or it says goodbye and the
/// stream came too late (RFC 9113, 8.7).
pub(in crate::proxy) fn is_unprocessed(error: &hyper::Error) -> bool {
    let Some(error) = error.source().and_then(|source| source.downcast_ref::<h2::Error>()) else { return false };
    error.is_remote()
        && match error.reason() {
            Some(h2::Reason::REFUSED_STREAM) => error.is_reset(),
            Some(h2::Reason::NO_ERROR) => error.is_go_away(),
            _ => false,
        }
}

fn link_error(error: &hyper::Error) -> Option<&LinkError> {
    LinkError::from_io(io_error(error)?)
}

fn io_error(error: &hyper::Error) -> Option<&io::Error> {
    error.source()?.downcast_ref()
}
