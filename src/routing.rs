//! The routing table: what the edge serves, compiled and immutable.
//!
//! A request finds its [`Rule`] by entry point, listener, hostname and match, in that order. The table is swapped
//! whole when an object changes. It holds no sockets, sessions, counters or health: live state is kept elsewhere,
//! keyed by object, so that a swap never closes a connection or resets a counter. This room is pure and knows
//! nothing of Kubernetes; `compile` builds it from objects.

mod agents;
mod authority;
mod backend;
mod certificate;
mod field;
mod filter;
mod health;
mod hostname;
mod matches;
mod object;
mod path;
mod pattern;
mod places;
mod rule;
mod table;
mod target;

pub use self::{
    agents::{AgentEntry, Agents, Credential, Token, TokenError},
    authority::{is_authority, split_port},
    backend::{Backend, BackendTls, Protocol, ProxyProtocol, Redirect, RedirectPath, Trust, TunnelBackend},
    certificate::{Certificate, Certificates},
    field::{OF_FRAMING, OF_HOP, PROXY, is_never_routed, is_of_hop, is_protected},
    filter::{
        Access, BasicAuth, ConcurrentRequests, Filter, HeaderRules, Password, RateKey, RequestRate, Scope, Timeouts,
        User,
    },
    health::{Check, CheckTls, Checks, HealthCheck, PassiveHealth, Probe},
    hostname::{Hostname, HostnameError, normalize_host},
    matches::{HeaderMatch, Matches, QueryMatch, RequestInfo, TextMatch},
    object::ObjectName,
    path::{PathMatch, normalize_path, normalized_end},
    pattern::{Pattern, PatternError},
    places::{Draw, LoadBalancing, Member, Place, Places, Tier, affinity},
    rule::{Rule, RuleId},
    table::{EntryPoint, HostRules, Listener, Lookup, RoutingTable},
    target::{Target, TargetError},
};
pub use crate::tunnel::name::{is_label, is_object};
