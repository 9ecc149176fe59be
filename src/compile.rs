//! Objects in, routing table and verdicts out: one pure function, so that every conflict, order and message is tested as
//! plain data.
//!
//! Partial validity: what is wrong with one hostname, route or Secret is told in the object's [`Verdict`] and never
//! unroutes the rest of it. A route with a broken reference stays in the table and answers 500; it must not fall through
//! to a less specific one.

mod agents;
mod certificates;
mod claims;
mod hosts;
mod patterns;
mod permissions;
mod schema;
mod secrets;
mod verdict;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff::Timestamp};

use self::{
    certificates::CertificateBook,
    claims::Claims,
    hosts::Results,
    patterns::{Known, Patterns},
    permissions::Permissions,
    secrets::Secrets,
};
pub use self::{
    schema::{Finding, Schema},
    verdict::{Judgement, ObjectKind, Verdict},
};
use crate::{
    api::{TunnelAgent, TunnelHost},
    routing::{Agents, Certificate, EntryPoint, Listener, ObjectName, RoutingTable, Rule, RuleId},
};

/// All objects that are known, in any order.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// The hostnames and routes.
    pub tunnel_hosts: Vec<Arc<TunnelHost>>,
    /// The agents.
    pub tunnel_agents: Vec<Arc<TunnelAgent>>,
    /// The Secrets of Culvert's types; those of other types are not looked at.
    pub secrets: Vec<Arc<Secret>>,
    /// Secrets that exist and whose content could not be had, with the reason.
    pub unfetched: HashMap<ObjectName, String>,
    /// The labels of the namespaces, by name. One that is not here has its name as its only label.
    pub namespaces: HashMap<String, BTreeMap<String, String>>,
    /// Whether namespaces are not read at all, so that no labels will ever be known: an agent that admits namespaces by them
    /// is told so, and admits only its own.
    pub namespaces_unread: bool,
}

/// What the objects mean.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// What the edge serves.
    pub table: Arc<RoutingTable>,
    /// Who may register.
    pub agents: Arc<Agents>,
    /// What is to be said of each TunnelHost and TunnelAgent, the oldest first.
    pub verdicts: Vec<Verdict>,
    /// Every rule of the table once, so that the next compilation can take over those that are the same.
    rules: HashMap<RuleId, Arc<Rule>>,
    /// Every certificate that a TunnelHost refers to, as it was when it was right last.
    certificates: HashMap<ObjectName, Arc<Certificate>>,
    patterns: Known,
}

/// Compiles the objects. Rules and certificates that are the same as in `previous` are taken over from it by their `Arc`,
/// and so are the agents where none has changed. A certificate that has become wrong or has gone is taken from it, too.
#[must_use]
pub fn compile(objects: &Objects, previous: Option<&Compiled>) -> Compiled {
    let secrets = Secrets::index(&objects.secrets, &objects.unfetched);
    let mut verdicts = Vec::with_capacity(objects.tunnel_hosts.len() + objects.tunnel_agents.len());

    let mut known = HashMap::with_capacity(objects.tunnel_agents.len());
    for agent in by_age(&objects.tunnel_agents, |agent| &agent.metadata) {
        let (entry, verdict) = agents::compile(agent, &secrets, objects.namespaces_unread);
        known.insert(entry.name.clone(), entry);
        verdicts.push(verdict);
    }

    let mut results = Results {
        claims: Claims::default(),
        rules: HashMap::with_capacity(objects.tunnel_hosts.len()),
        certificates: CertificateBook::new(&secrets, previous.map(|previous| &previous.certificates)),
        patterns: Patterns::new(previous.map(|previous| &previous.patterns)),
    };
    let context = hosts::Context {
        secrets: &secrets,
        permissions: Permissions::new(objects),
        previous: previous.map(|p| &p.rules),
    };
    for host in by_age(&objects.tunnel_hosts, |host| &host.metadata) {
        verdicts.push(hosts::compile(host, &context, &mut results));
    }
    let Results { claims, rules, certificates, patterns } = results;

    let agents: Agents = known.into_values().collect();
    let agents = match previous {
        Some(previous) if *previous.agents == agents => previous.agents.clone(),
        _ => Arc::new(agents),
    };
    let listener = Arc::new(Listener::new(None, claims.into_hosts()));
    let listeners = [EntryPoint::Http, EntryPoint::Https].map(|entry_point| (entry_point, listener.clone()));
    let (shown, certificates) = certificates.into_parts();
    let table = Arc::new(RoutingTable::new(listeners, shown));
    Compiled { table, agents, verdicts, rules, certificates, patterns: patterns.into_known() }
}

// === impl Compiled ===

impl Compiled {
    /// How many rules the table holds; one under several hostnames counts once.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// The certificates that TunnelHosts refer to, each once.
    pub fn certificates(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.certificates.values()
    }
}

/// The namespace and name of an object. Without a namespace, as in a file, it is in `default`.
pub(crate) fn object_name(metadata: &ObjectMeta) -> ObjectName {
    let namespace = metadata.namespace.as_deref().unwrap_or("default");
    ObjectName::new(namespace, metadata.name.as_deref().unwrap_or_default())
}

/// The oldest first; of those made in the same second, by namespace and name, so that every replica sees one order.
fn by_age<T>(objects: &[Arc<T>], metadata: impl Fn(&T) -> &ObjectMeta) -> Vec<&T> {
    let mut sorted: Vec<&T> = objects.iter().map(|object| &**object).collect();
    sorted.sort_by(|a, b| {
        let (a, b) = (metadata(a), metadata(b));
        let created = |m: &ObjectMeta| m.creation_timestamp.as_ref().map_or(Timestamp::MAX, |time| time.0);
        created(a).cmp(&created(b)).then_with(|| a.namespace.cmp(&b.namespace)).then_with(|| a.name.cmp(&b.name))
    });
    sorted
}

#[cfg(test)]
mod tests;
