//! The agent: runs next to the backends, dials out to the edge and serves its links.
//!
//! [`Agent::run`] keeps sessions with each replica of the edge. On each session the edge opens links; for each of
//! them the agent connects to the target, if its [`AllowList`] has it, and copies bytes until both directions have
//! ended. It decides nothing else: what comes over a link is between the edge and the backend.

mod allow;
mod backend;
mod backoff;
mod dial;
mod edge;
mod health;
mod http_proxy;
mod links;
mod plan;
mod relay;
mod run;
mod serve;
pub mod status;
mod transport;

pub use self::{
    allow::{AllowList, AllowRule, AllowRuleError},
    dial::{Security, TokenSource},
    edge::{EdgeUrl, EdgeUrlError},
    http_proxy::{HttpProxy, HttpProxyError, Proxies},
    run::{Agent, Config},
    transport::Transport,
};
