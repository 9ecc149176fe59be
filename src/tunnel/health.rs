//! What edge and agent say of backends' health.

use serde::{Deserialize, Serialize};

/// A check that the edge wants the agent to run, under a number that the edge chose for this session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckOrder {
    /// The number under which its results are reported.
    pub id: u32,
    /// What is to be checked, and how.
    #[serde(flatten)]
    pub check: Check,
}

/// What is checked, and how. Two that are equal are one check, whoever asks for them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// The namespace of the TunnelHosts that ask for it, which the agent's allow-list may tell apart.
    pub namespace: String,
    /// `host:port`, or `unix:/path`.
    pub target: String,
    /// An HTTP request; unset, that a connection is taken is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    /// From the end of one check to the next, in milliseconds.
    pub interval: u64,
    /// How long one may take in all, in milliseconds.
    pub timeout: u64,
    /// After so many failures in a row the target is unhealthy.
    pub unhealthy_after: u32,
    /// After so many successes in a row it is healthy again.
    pub healthy_after: u32,
}

/// A request for a check: `GET` over HTTP/1.1, on a connection of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpCheck {
    /// The target of the request, with its query.
    pub path: String,
    /// The `Host`; unset, the check's target, or `localhost` where that is a socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The statuses of a healthy backend: ranges with both ends.
    pub expected: Vec<(u16, u16)>,
    /// Over TLS, asking for this name; the certificate is not verified. Unset, without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
}

/// What has become of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthReport {
    /// The check's number.
    pub id: u32,
    /// Why the target is not healthy; unset, it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<HealthProblem>,
}

/// Why a target is not healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthProblem {
    /// What kind of reason.
    pub reason: HealthReason,
    /// The agent's words, for people; at most [`HealthProblem::MAX_TEXT`] bytes.
    #[serde(default)]
    pub text: String,
}

/// Kinds of reasons why a target is not healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HealthReason {
    /// The agent's allow-list does not have it.
    NotAllowed,
    /// It refused the connection.
    Refused,
    /// Its name did not resolve, or no way leads there.
    Unreachable,
    /// It did not take the connection, or did not answer, in time.
    Timeout,
    /// It answered otherwise than it should; also what this version does not know.
    #[serde(other)]
    Unexpected,
}

// === impl HealthProblem ===

impl HealthProblem {
    /// The longest text in bytes: so many reports fit a NOTE.
    pub const MAX_TEXT: usize = 200;

    /// Cuts the text to its greatest length, and leaves out what is no text.
    #[must_use]
    pub fn new(reason: HealthReason, text: &str) -> Self {
        let mut text: String = text.chars().filter(|c| !c.is_control()).collect();
        while text.len() > Self::MAX_TEXT {
            text.pop();
        }
        Self { reason, text }
    }
}
