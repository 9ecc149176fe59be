use std::{num::NonZeroU32, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};

use super::{Host, values};
use crate::{
    api::{self, Reason},
    routing::{Access, BasicAuth, ConcurrentRequests, Filter, HeaderRules, RateKey, RequestRate, Scope, Timeouts},
};

/// How often a request is tried in all where nothing else is said.
const ATTEMPTS: u32 = 3;

/// Where policies stand: in a TunnelHost, or in one of its routes.
pub(super) struct Level<'a> {
    field: String,
    scope: Scope,
    auth: Option<&'a api::Auth>,
    access: Option<&'a api::Access>,
    limits: Option<&'a api::Limits>,
    headers: Option<&'a api::Headers>,
    timeouts: Option<&'a api::Timeouts>,
    retries: Option<&'a api::Retries>,
}

/// The policies of a level; what is `None` it says nothing of.
#[derive(Clone, Default)]
pub(super) struct Policies {
    access: Option<Gate>,
    auth: Option<Gate>,
    requests: Option<Arc<RequestRate>>,
    concurrent: Option<ConcurrentRequests>,
    /// 0 is no limit.
    body_size: Option<u64>,
    request_headers: Option<Arc<HeaderRules>>,
    response_headers: Option<Arc<HeaderRules>>,
    connect: Option<Duration>,
    response_head: Option<Duration>,
    stream_idle: Option<Duration>,
    upgrade_idle: Option<Duration>,
    attempts: Option<u32>,
}

/// What lets visitors in or keeps them out.
#[derive(Clone)]
enum Gate {
    Open,
    Filter(Filter),
    /// It cannot be checked, so nobody enters.
    Closed(Arc<str>),
}

// === impl Level ===

impl<'a> Level<'a> {
    pub(super) fn of_host(spec: &'a api::TunnelHostSpec) -> Self {
        Self {
            field: "spec".to_owned(),
            scope: Scope::Host,
            auth: spec.auth.as_ref(),
            access: spec.access.as_ref(),
            limits: spec.limits.as_ref(),
            headers: spec.headers.as_ref(),
            timeouts: spec.timeouts.as_ref(),
            retries: spec.retries.as_ref(),
        }
    }

    pub(super) fn of_route(index: usize, route: &'a api::Route) -> Self {
        Self {
            field: format!("spec.routes[{index}]"),
            scope: Scope::Route(index),
            auth: route.auth.as_ref(),
            access: route.access.as_ref(),
            limits: route.limits.as_ref(),
            headers: route.headers.as_ref(),
            timeouts: route.timeouts.as_ref(),
            retries: route.retries.as_ref(),
        }
    }

    /// Which routes answer 500 while a policy of this level cannot be checked.
    fn covered(&self) -> &'static str {
        match self.scope {
            Scope::Host => "until then all routes that it covers answer 500",
            Scope::Route(_) => "until then the route answers 500",
        }
    }
}

// === impl Policies ===

impl Policies {
    /// These, and of `outer` what these say nothing of.
    pub(super) fn over(self, outer: &Self) -> Self {
        Self {
            access: self.access.or_else(|| outer.access.clone()),
            auth: self.auth.or_else(|| outer.auth.clone()),
            requests: self.requests.or_else(|| outer.requests.clone()),
            concurrent: self.concurrent.or(outer.concurrent),
            body_size: self.body_size.or(outer.body_size),
            request_headers: self.request_headers.or_else(|| outer.request_headers.clone()),
            response_headers: self.response_headers.or_else(|| outer.response_headers.clone()),
            connect: self.connect.or(outer.connect),
            response_head: self.response_head.or(outer.response_head),
            stream_idle: self.stream_idle.or(outer.stream_idle),
            upgrade_idle: self.upgrade_idle.or(outer.upgrade_idle),
            attempts: self.attempts.or(outer.attempts),
        }
    }

    /// Adds the filters in the order in which they are asked: what costs least and keeps out most comes first. Where one
    /// cannot be checked, why.
    pub(super) fn filters(&self, filters: &mut Vec<Filter>) -> Option<Arc<str>> {
        let mut closed = None;
        let mut pass = |gate: &Option<Gate>, filters: &mut Vec<Filter>| match gate {
            None | Some(Gate::Open) => {}
            Some(Gate::Filter(filter)) => filters.push(filter.clone()),
            Some(Gate::Closed(why)) => drop(closed.get_or_insert_with(|| why.clone())),
        };
        pass(&self.access, filters);
        filters.extend(self.requests.clone().map(Filter::RequestRate));
        pass(&self.auth, filters);
        // Behind the passwords, or those who have none could take the places of those who do.
        filters.extend(self.concurrent.map(Filter::ConcurrentRequests));
        filters.extend(self.body_size.filter(|size| *size > 0).map(Filter::BodySize));
        let changes =
            |rules: &Option<Arc<HeaderRules>>| rules.clone().filter(|rules| **rules != HeaderRules::default());
        filters.extend(changes(&self.request_headers).map(Filter::RequestHeaders));
        filters.extend(changes(&self.response_headers).map(Filter::ResponseHeaders));
        closed
    }

    pub(super) fn timeouts(&self) -> Timeouts {
        let defaults = Timeouts::default();
        Timeouts {
            connect: self.connect.unwrap_or(defaults.connect),
            response_head: self.response_head.unwrap_or(defaults.response_head),
            stream_idle: self.stream_idle.unwrap_or(defaults.stream_idle),
            upgrade_idle: self.upgrade_idle.unwrap_or(defaults.upgrade_idle),
        }
    }

    pub(super) fn attempts(&self) -> u32 {
        self.attempts.unwrap_or(ATTEMPTS)
    }
}

// === impl Host ===

impl Host<'_> {
    /// What a level asks for. What cannot be read is told; a gate that cannot be read is closed, all else is as if unset.
    pub(super) fn policies(&mut self, level: &Level<'_>) -> Policies {
        let mut policies = Policies {
            auth: level.auth.map(|auth| self.auth(level, auth)),
            access: level.access.map(|access| self.access(level, access)),
            ..Policies::default()
        };
        if let Some(limits) = level.limits {
            self.limits(level, limits, &mut policies);
        }
        if let Some(headers) = level.headers {
            let mut rules = |field: &str, rules: &api::HeaderRules| {
                Arc::new(self.header_rules(&format!("{}.headers.{field}", level.field), rules))
            };
            policies.request_headers = headers.request.as_ref().map(|request| rules("request", request));
            policies.response_headers = headers.response.as_ref().map(|response| rules("response", response));
        }
        if let Some(timeouts) = level.timeouts {
            let mut duration = |field: &str, text: &Option<String>, bounds| {
                let value = values::duration(text.as_deref()?, bounds);
                self.accept(&format!("{}.timeouts.{field}", level.field), value)
            };
            policies.connect = duration("connect", &timeouts.connect, values::CONNECT);
            policies.response_head = duration("responseHeader", &timeouts.response_header, values::RESPONSE_HEADER);
            policies.stream_idle = duration("streamIdle", &timeouts.stream_idle, values::STREAM_IDLE);
            policies.upgrade_idle = duration("upgradeIdle", &timeouts.upgrade_idle, values::UPGRADE_IDLE);
        }
        if let Some(attempts) = level.retries.and_then(|retries| retries.attempts) {
            let attempts = self.at_least_one(&format!("{}.retries.attempts", level.field), attempts);
            policies.attempts = Some(attempts.get());
        }
        policies
    }

    fn auth(&mut self, level: &Level<'_>, auth: &api::Auth) -> Gate {
        let field = format!("{}.auth", level.field);
        let basic = match (&auth.basic, auth.disabled) {
            (Some(basic), false) => basic,
            (None, true) => return Gate::Open,
            _ => {
                let message = format!("{field}: it must have either 'basic' or 'disabled: true'; {}", level.covered());
                self.accepted.add(Reason::UnsupportedValue, message.clone());
                return Gate::Closed(message.into());
            }
        };
        let mut realm = basic.realm.as_str();
        if realm.bytes().any(|b| !matches!(b, b' '..=b'~') || b == b'"' || b == b'\\') {
            let message =
                format!("{field}.basic.realm: it must be printable ASCII without '\"' and '\\'; another is shown");
            self.accepted.add(Reason::UnsupportedValue, message);
            realm = "Restricted";
        }
        match self.context.secrets.users(&self.name.namespace, &basic.secret_ref.name) {
            Ok(users) => Gate::Filter(Filter::BasicAuth(Arc::new(BasicAuth { realm: realm.into(), users }))),
            Err(problem) => {
                let message = format!("{field}.basic.secretRef.name: {}", problem.message);
                let closed = Gate::Closed(message.as_str().into());
                self.refs.add(problem.reason, format!("{message}; {}", level.covered()));
                closed
            }
        }
    }

    fn access(&mut self, level: &Level<'_>, access: &api::Access) -> Gate {
        let field = format!("{}.access", level.field);
        let mut closed = None;
        if access.allow.is_empty() && access.deny.is_empty() {
            let message = format!("{field}: it must have an entry in 'allow' or 'deny'; {}", level.covered());
            closed = Some(message);
        }
        let mut networks = |field: String, texts: &[String]| {
            let mut networks = Vec::with_capacity(texts.len());
            for (index, text) in texts.iter().enumerate() {
                match values::network(text) {
                    Ok(network) => networks.push(network),
                    Err(problem) => closed = Some(format!("{field}[{index}]: {problem}; {}", level.covered())),
                }
            }
            networks
        };
        let allow = networks(format!("{field}.allow"), &access.allow);
        let deny = networks(format!("{field}.deny"), &access.deny);
        match closed {
            None => Gate::Filter(Filter::Access(Arc::new(Access { allow, deny }))),
            Some(message) => {
                self.accepted.add(Reason::UnsupportedValue, message.clone());
                Gate::Closed(message.into())
            }
        }
    }

    fn limits(&mut self, level: &Level<'_>, limits: &api::Limits, policies: &mut Policies) {
        let field = format!("{}.limits", level.field);
        policies.requests = limits.requests.as_ref().map(|rate| {
            let per_second = self.at_least_one(&format!("{field}.requests.perSecond"), rate.per_second);
            let burst = rate.burst.map(|burst| self.at_least_one(&format!("{field}.requests.burst"), burst));
            let per = match rate.per {
                api::RateKey::ClientIp => RateKey::ClientIp,
                api::RateKey::All => RateKey::All,
            };
            Arc::new(RequestRate { scope: level.scope, per_second, burst: burst.unwrap_or(per_second), per })
        });
        policies.concurrent = limits.concurrent_requests.map(|most| {
            let most = self.at_least_one(&format!("{field}.concurrentRequests"), most).get();
            ConcurrentRequests { scope: level.scope, most }
        });
        policies.body_size = limits.body_size.as_ref().and_then(|size| {
            let bytes = size.bytes().ok_or_else(|| {
                format!("{:?} is no number of bytes; write a quantity, as in \"10Mi\" or \"1G\"", size.as_str())
            });
            self.accept(&format!("{field}.bodySize"), bytes)
        });
    }

    /// A limit that makes no sense must not become no limit.
    pub(super) fn at_least_one(&mut self, field: &str, number: i32) -> NonZeroU32 {
        u32::try_from(number).ok().and_then(NonZeroU32::new).unwrap_or_else(|| {
            self.accepted.add(Reason::UnsupportedValue, format!("{field}: it is below 1; 1 is used"));
            NonZeroU32::MIN
        })
    }

    /// The changes that can be made; the others are told and left out.
    fn header_rules(&mut self, field: &str, rules: &api::HeaderRules) -> HeaderRules {
        let mut fields = |what: &str, fields: &std::collections::BTreeMap<String, String>| {
            let field = |(name, value): (&String, &String)| -> Option<(HeaderName, HeaderValue)> {
                let field = format!("{field}.{what}[{name:?}]");
                let parsed = self.accept(&field, values::header_name(name))?;
                Some((parsed, self.accept(&field, values::header_value(value))?))
            };
            fields.iter().filter_map(field).collect()
        };
        let (set, add) = (fields("set", &rules.set), fields("add", &rules.add));
        let remove = rules.remove.iter().enumerate();
        let remove = remove
            .filter_map(|(index, name)| self.accept(&format!("{field}.remove[{index}]"), values::header_name(name)))
            .collect();
        HeaderRules { remove, set, add }
    }
}
