use super::{
    hosts::values,
    object_name,
    secrets::Secrets,
    verdict::{ObjectKind, Problems, Verdict},
};
use crate::{
    api::{ConditionType, NamespacesFrom, Reason, TunnelAgent},
    routing::{AgentEntry, Credential},
};

/// How many processes may run as an agent that does not say it: more than anybody starts by hand, and few enough that who has a
/// token cannot take all of the edge's memory.
const USUAL_INSTANCES: u32 = 256;

/// Compiles one TunnelAgent. It always gets an entry: without a valid credential nobody can register as it, but routes
/// to it stay what they are.
///
/// Where namespaces are unread, it cannot admit any by their labels.
pub(super) fn compile(agent: &TunnelAgent, secrets: &Secrets<'_>, namespaces_unread: bool) -> (AgentEntry, Verdict) {
    let name = object_name(&agent.metadata);
    let mut accepted = Problems::default();
    let mut refs = Problems::default();

    let mut credentials = Vec::with_capacity(agent.spec.credentials.len());
    for (index, credential) in agent.spec.credentials.iter().enumerate() {
        let secret = credential.secret_ref.name.as_str();
        match secrets.token(&name.namespace, secret) {
            Ok(token) => credentials.push(Credential { secret: secret.into(), token }),
            Err(problem) => {
                let message = format!("spec.credentials[{index}].secretRef.name: {}", problem.message);
                refs.add(problem.reason, message);
            }
        }
    }
    if credentials.is_empty() && agent.spec.credentials.is_empty() {
        accepted
            .add(Reason::UnsupportedValue, "spec.credentials: it is empty, so no agent can register; name a Secret");
    }

    let allowed = agent.spec.allowed_namespaces.as_ref().map(|allowed| allowed.from);
    if namespaces_unread && allowed == Some(NamespacesFrom::Selector) {
        let message = "spec.allowedNamespaces.from: Selector needs the labels of namespaces, which an edge with \
                       --watch-namespaces does not read, so only its own namespace is admitted; set it to Same, or to All for \
                       every namespace that is watched";
        accepted.add(Reason::UnsupportedValue, message);
    }

    // A limit that makes no sense must not become no limit.
    let connections = agent.spec.limits.as_ref().and_then(|limits| limits.connections);
    let max_connections = connections.map(|limit| u32::try_from(limit).unwrap_or(0));
    if max_connections == Some(0) {
        let message = "spec.limits.connections: it is below 1, so no visitor gets through; raise or remove it";
        accepted.add(Reason::UnsupportedValue, message);
    }

    let max_instances = agent.spec.max_instances.map_or(USUAL_INSTANCES, |limit| u32::try_from(limit).unwrap_or(0));
    if max_instances == 0 {
        let message = "spec.maxInstances: it is below 1, so no agent can register; raise or remove it";
        accepted.add(Reason::UnsupportedValue, message);
    }
    let allowed_sources = (!agent.spec.allowed_sources.is_empty()).then(|| {
        let networks = agent.spec.allowed_sources.iter().enumerate().filter_map(|(index, text)| {
            let left_out = |problem| format!("spec.allowedSources[{index}]: {problem}; until then it admits nobody");
            let network = values::network(text);
            network.map_err(|problem| accepted.add(Reason::UnsupportedValue, left_out(problem))).ok()
        });
        networks.collect()
    });

    let usable = match credentials.len() {
        1 => "1 credential can be used".to_owned(),
        n => format!("{n} credentials can be used"),
    };
    let verdict = Verdict {
        kind: ObjectKind::TunnelAgent,
        name: name.clone(),
        generation: agent.metadata.generation,
        conditions: vec![
            accepted.judge(ConditionType::Accepted, Reason::Accepted, "the object is right".to_owned()),
            refs.judge(ConditionType::ResolvedRefs, Reason::ResolvedRefs, usable),
        ],
        routes: 0,
        agents: vec![name.clone()],
    };
    (AgentEntry { name, credentials, max_connections, max_instances, allowed_sources }, verdict)
}
