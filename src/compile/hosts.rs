use std::{borrow::Cow, collections::HashMap, sync::Arc};

use super::{
    claims::Claims,
    object_name,
    secrets::Secrets,
    verdict::{ObjectKind, Problems, Verdict},
};
use crate::{
    api::{self, ConditionType, PathType, Reason, TunnelHost},
    routing::{
        AgentEntry, Backend, BasicAuth, Filter, Hostname, Matches, ObjectName, PathMatch, Protocol, Rule, RuleId,
        Target, Timeouts, TunnelBackend, normalize_path,
    },
};

/// What a TunnelHost is compiled against.
pub(super) struct Context<'a> {
    pub(super) secrets: &'a Secrets<'a>,
    pub(super) agents: &'a HashMap<ObjectName, AgentEntry>,
    pub(super) previous: Option<&'a HashMap<RuleId, Arc<Rule>>>,
}

/// One TunnelHost on its way: its name, and what is wrong with it so far.
struct Host<'a> {
    name: ObjectName,
    context: &'a Context<'a>,
    accepted: Problems,
    refs: Problems,
    agents: Vec<ObjectName>,
}

/// What the visitors of a TunnelHost have to prove.
enum Gate {
    Open,
    Filter(Filter),
    /// It cannot be checked, so nobody enters.
    Closed(Arc<str>),
}

/// Compiles one TunnelHost: claims its hostnames, and puts its rules under those that it got.
pub(super) fn compile(
    object: &TunnelHost,
    context: &Context<'_>,
    claims: &mut Claims,
    rules: &mut HashMap<RuleId, Arc<Rule>>,
) -> Verdict {
    let name = object_name(&object.metadata);
    let mut host = Host { name, context, accepted: Problems::default(), refs: Problems::default(), agents: Vec::new() };

    let hostnames = host.hostnames(&object.spec.hostnames, claims);
    let gate = host.gate(object.spec.auth.as_ref());
    let mut programmed = 0;
    for (index, route) in object.spec.routes.iter().enumerate() {
        let Some(rule) = host.rule(index, route, &gate) else { continue };
        let rule = match context.previous.and_then(|previous| previous.get(&rule.id)) {
            Some(same) if **same == rule => same.clone(),
            _ => Arc::new(rule),
        };
        if host.place(&rule, &hostnames, claims) {
            programmed += 1;
            rules.insert(rule.id.clone(), rule);
        }
    }

    let fine = format!("{} and {}", count(hostnames.len(), "hostname"), count(object.spec.routes.len(), "route"));
    let resolved = format!("{} found", count(host.agents.len(), "agent"));
    Verdict {
        kind: ObjectKind::TunnelHost,
        name: host.name,
        generation: object.metadata.generation,
        conditions: vec![
            host.accepted.judge(ConditionType::Accepted, Reason::Accepted, fine),
            host.refs.judge(ConditionType::ResolvedRefs, Reason::ResolvedRefs, resolved),
        ],
        routes: programmed,
        agents: host.agents,
    }
}

// === impl Host ===

impl Host<'_> {
    /// The hostnames that the object gets.
    fn hostnames(&mut self, texts: &[String], claims: &mut Claims) -> Vec<Hostname> {
        let mut granted = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let field = format!("spec.hostnames[{index}]");
            let hostname: Hostname = match text.parse() {
                Ok(hostname) => hostname,
                Err(error) => {
                    self.accepted.add(
                        Reason::UnsupportedValue,
                        format!("{field}: {text:?} is no hostname: {error}; write a DNS name"),
                    );
                    continue;
                }
            };
            match claims.claim(&hostname, &self.name) {
                Ok(()) => granted.push(hostname),
                Err(owned) => {
                    let how = if owned.hostname == hostname {
                        String::new()
                    } else {
                        format!(" by {:?}", owned.hostname.to_string())
                    };
                    self.accepted.add(
                        Reason::HostnameConflict,
                        format!(
                            "{field}: {text:?} belongs to namespace {:?}{how}, whose TunnelHost {} is older; choose \
                             another hostname, or have that one removed",
                            &*owned.by.namespace, owned.by
                        ),
                    );
                }
            }
        }
        granted
    }

    fn gate(&mut self, auth: Option<&api::Auth>) -> Gate {
        let Some(basic) = auth.and_then(|auth| auth.basic.as_ref()) else { return Gate::Open };
        let mut realm = basic.realm.as_str();
        if realm.bytes().any(|b| !matches!(b, b' '..=b'~') || b == b'"' || b == b'\\') {
            let message = "spec.auth.basic.realm: it must be printable ASCII without '\"' and '\\'; another is shown";
            self.accepted.add(Reason::UnsupportedValue, message);
            realm = "Restricted";
        }
        match self.context.secrets.users(&self.name.namespace, &basic.secret_ref.name) {
            Ok(users) => Gate::Filter(Filter::BasicAuth(Arc::new(BasicAuth { realm: realm.into(), users }))),
            Err(problem) => {
                let message = format!("spec.auth.basic.secretRef.name: {}", problem.message);
                let closed = Gate::Closed(message.as_str().into());
                self.refs.add(problem.reason, message + "; until then all routes answer 500");
                closed
            }
        }
    }

    /// The rule of a route; `None` where its path cannot be matched at all.
    fn rule(&mut self, index: usize, route: &api::Route, gate: &Gate) -> Option<Rule> {
        let value = match path(&route.path.value) {
            Ok(value) => value,
            Err(problem) => {
                let message = format!("spec.routes[{index}].path.value: {:?} is no path: {problem}", route.path.value);
                self.accepted.add(Reason::UnsupportedValue, message);
                return None;
            }
        };
        let path = match route.path.r#type {
            PathType::Prefix => PathMatch::prefix(&value),
            PathType::Exact => PathMatch::exact(&value),
            PathType::Regex => PathMatch::Regex(value.parse().ok()?),
        };
        // The route's own problems are told even where the gate is closed anyway.
        let backend = self.backend(index, &route.backend);
        let (filters, backend) = match gate {
            Gate::Open => (Vec::new(), backend),
            Gate::Filter(filter) => (vec![filter.clone()], backend),
            Gate::Closed(why) => (Vec::new(), Backend::Invalid(why.clone())),
        };
        let id = RuleId { object: self.name.clone(), route: index };
        Some(Rule { id, matches: Matches::path(path), filters, timeouts: Timeouts::default(), backend })
    }

    /// The backend of a route, of what is right with it; invalid where nothing is left.
    fn backend(&mut self, index: usize, backend: &api::Backend) -> Backend {
        let field = format!("spec.routes[{index}].backend");
        let mut broken = None;

        let mut agents = Vec::with_capacity(backend.agents.len());
        for (index, agent) in backend.agents.iter().enumerate() {
            let name = ObjectName { namespace: self.name.namespace.clone(), name: agent.name.as_str().into() };
            if self.context.agents.contains_key(&name) {
                if !self.agents.contains(&name) {
                    self.agents.push(name.clone());
                }
                agents.push(name);
            } else {
                let message = format!(
                    "{field}.agents[{index}].name: no TunnelAgent {:?} in namespace {:?}; create it, or correct the name",
                    agent.name, &*name.namespace
                );
                self.refs.add(Reason::AgentNotFound, message.clone());
                broken.get_or_insert(message);
            }
        }
        if agents.is_empty() {
            return Backend::Invalid(broken.unwrap_or_else(|| format!("{field}.agents is empty")).into());
        }

        let mut targets = Vec::with_capacity(backend.targets.len());
        for (index, target) in backend.targets.iter().enumerate() {
            match target.address.parse::<Target>() {
                Ok(target) => targets.push(target),
                Err(error) => {
                    let message = format!("{field}.targets[{index}].address: {:?}: {error}", target.address);
                    self.accepted.add(Reason::UnsupportedValue, message.clone());
                    broken = Some(message);
                }
            }
        }
        if targets.is_empty() {
            return Backend::Invalid(broken.unwrap_or_else(|| format!("{field}.targets is empty")).into());
        }

        let host_header = match backend.host_header.as_str() {
            "" => None,
            text if is_host_header(text) => Some(text.into()),
            text => {
                let message = format!("{field}.hostHeader: {text:?} is not HOST or HOST:PORT; correct or remove it");
                self.accepted.add(Reason::UnsupportedValue, message.clone());
                return Backend::Invalid(message.into());
            }
        };
        Backend::Tunnel(TunnelBackend {
            agents,
            targets,
            protocol: Protocol::Http,
            host_header,
            proxy_protocol: None,
            attempts: 3,
        })
    }

    /// Puts the rule under the hostnames where its path is free, and says under how many that was.
    fn place(&mut self, rule: &Arc<Rule>, hostnames: &[Hostname], claims: &mut Claims) -> bool {
        let mut placed = false;
        for hostname in hostnames {
            let Err(older) = claims.add(hostname, rule) else {
                placed = true;
                continue;
            };
            let (kind, path) = match &rule.matches.path {
                PathMatch::Exact(path) => (PathType::Exact, &**path),
                PathMatch::Prefix(path) if path.is_empty() => (PathType::Prefix, "/"),
                PathMatch::Prefix(path) => (PathType::Prefix, &**path),
                PathMatch::Regex(pattern) => (PathType::Regex, pattern.as_str()),
            };
            let taken = if older.object == self.name {
                format!("spec.routes[{}] of this object, which comes first", older.route)
            } else {
                format!("spec.routes[{}] of TunnelHost {}, which is older", older.route, older.object)
            };
            self.accepted.add(
                Reason::RouteConflict,
                format!(
                    "spec.routes[{}].path: {} {path:?} of {:?} is taken by {taken}; choose another path",
                    rule.id.route,
                    kind.as_str(),
                    hostname.to_string()
                ),
            );
        }
        placed
    }
}

/// `HOST` or `HOST:PORT`, where a host is a name or a bracketed address: what may stand in a `Host` header.
fn is_host_header(text: &str) -> bool {
    let (host, port) = match text.rfind(':') {
        Some(colon) if !text[colon..].contains(']') => (&text[..colon], Some(&text[colon + 1..])),
        _ => (text, None),
    };
    let host_fine = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')),
    };
    host_fine && port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A path in the form that requests' paths are compared in, or what is wrong with it.
fn path(value: &str) -> Result<Cow<'_, str>, &'static str> {
    let plain = |b: u8| b.is_ascii_graphic() && b != b'?' && b != b'#';
    if !value.starts_with('/') {
        Err("it must begin with '/'")
    } else if value.bytes().all(plain) {
        normalize_path(value).ok_or("it must not have a segment '.' or '..'")
    } else {
        Err("it must be printable ASCII without spaces, '?' and '#'")
    }
}
