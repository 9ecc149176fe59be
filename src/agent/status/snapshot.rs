use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Inner, State};
use crate::tunnel::RefuseCode;

/// What an agent is doing at one moment; as JSON it is what the status socket gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// The TunnelAgent that it registers as, `namespace/name`.
    pub agent: String,
    /// The id that this process chose at its start.
    pub instance: String,
    /// The version of its program.
    pub version: String,
    /// Where it was told that the edge is.
    pub edges: Vec<String>,
    /// How long it runs, in seconds.
    pub uptime_seconds: u64,
    /// When it was started, in seconds since 1970 (UTC).
    pub started: u64,
    /// Its sessions with the edge, by replica.
    pub sessions: Vec<SessionStatus>,
    /// What it may connect to, as `--allow` has it.
    pub allowed: Vec<String>,
    /// The links of all its sessions since it was started.
    pub links: LinkTotals,
    /// The bytes of these links.
    pub flow: Flow,
    /// How its dials went.
    pub dials: DialTotals,
    /// The last dial that came to nothing, or session that was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LastError>,
}

/// One session with the edge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionStatus {
    /// The replica of the edge.
    pub replica: String,
    /// The other end of the connection: the edge, or the proxy in between.
    pub address: String,
    /// What carries it, as in the status of the TunnelAgent.
    pub transport: String,
    /// The proxy in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// How long it has been there, in seconds.
    pub seconds: u64,
    /// The shortest of the last round trips, in milliseconds, once measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_millis: Option<f64>,
    /// Links that are open now.
    pub links: usize,
}

/// Links, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkTotals {
    /// Those that are open now.
    pub open: usize,
    /// Those that led to a target.
    pub accepted: u64,
    /// Those that did not, by the reason.
    pub refused: BTreeMap<String, u64>,
}

/// Bytes of links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// From the edge to targets.
    pub received: u64,
    /// From targets to the edge.
    pub sent: u64,
}

/// Dials, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DialTotals {
    /// Those that led to a session.
    pub connected: u64,
    /// Those that a balancer led to a replica that was met already.
    pub already_met: u64,
    /// Those that came to nothing.
    pub failed: u64,
}

/// What went wrong last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    /// How long ago, in seconds.
    pub seconds_ago: u64,
    /// What.
    pub text: String,
}

/// The reasons for not opening a link that an agent has.
pub(super) const REFUSALS: [(RefuseCode, &str); 7] = [
    (RefuseCode::NotAllowed, "not_allowed"),
    (RefuseCode::Refused, "refused"),
    (RefuseCode::Unreachable, "unreachable"),
    (RefuseCode::Timeout, "timeout"),
    (RefuseCode::Overloaded, "overloaded"),
    (RefuseCode::Draining, "draining"),
    (RefuseCode::Internal, "internal"),
];

pub(super) fn take(inner: &Inner, state: &State) -> Snapshot {
    let mut total = state.ended;
    let mut open = 0;
    let sessions = state.tunnels.iter().map(|tunnel| {
        let links = tunnel.session.links();
        open += links;
        total.add(&tunnel.session.counts());
        SessionStatus {
            replica: tunnel.about.replica.clone(),
            address: tunnel.about.address.to_string(),
            transport: tunnel.about.transport.to_owned(),
            proxy: tunnel.about.proxy.clone(),
            seconds: tunnel.since.elapsed().as_secs(),
            // A thousandth is as exact as the clock's ticks are worth.
            round_trip_millis: tunnel.session.rtt().map(|time| (time.as_secs_f64() * 1e6).round() / 1e3),
            links,
        }
    });
    let mut sessions: Vec<_> = sessions.collect();
    sessions.sort_by(|one, other| one.replica.cmp(&other.replica).then(other.seconds.cmp(&one.seconds)));
    let counts = total.0;
    let refused = |&(code, name): &(RefuseCode, &str)| {
        let count = counts.refused.get(usize::from(code.number())).copied().filter(|count| *count > 0)?;
        Some((name.to_owned(), count))
    };
    Snapshot {
        agent: inner.agent.clone(),
        instance: inner.instance.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        edges: inner.edges.clone(),
        uptime_seconds: inner.since.elapsed().as_secs(),
        started: inner.started.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        sessions,
        allowed: inner.allow.rules().iter().map(ToString::to_string).collect(),
        links: LinkTotals { open, accepted: counts.accepted, refused: REFUSALS.iter().filter_map(refused).collect() },
        flow: Flow { received: counts.received, sent: counts.sent },
        dials: state.dials,
        last_error: state
            .last_error
            .as_ref()
            .map(|(at, text)| LastError { seconds_ago: at.elapsed().as_secs(), text: text.clone() }),
    }
}
