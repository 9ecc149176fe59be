use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{Objects, object_name};
use crate::{
    api::{AllowedNamespaces, NamespacesFrom, TunnelAgent},
    routing::ObjectName,
};

/// Which agents there are, and whose TunnelHosts may route to them.
pub(super) struct Permissions<'a> {
    agents: HashMap<ObjectName, Option<&'a AllowedNamespaces>>,
    namespaces: &'a HashMap<String, BTreeMap<String, String>>,
    unread: bool,
}

/// Whether a TunnelHost may route to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permission {
    /// It exists, and may be used.
    Granted,
    /// There is none of that name.
    NotFound,
    /// It does not admit the namespace.
    Denied,
    /// It does not admit the namespace as far as its labels are known, and they are not.
    Unknown,
}

/// The label that Kubernetes gives every namespace: its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

// === impl Permissions ===

impl<'a> Permissions<'a> {
    pub(super) fn new(objects: &'a Objects) -> Self {
        let allowed =
            |agent: &'a Arc<TunnelAgent>| (object_name(&agent.metadata), agent.spec.allowed_namespaces.as_ref());
        Self {
            agents: objects.tunnel_agents.iter().map(allowed).collect(),
            namespaces: &objects.namespaces,
            unread: objects.namespaces_unread,
        }
    }

    /// Whether the TunnelHosts of `namespace` may route to `agent`.
    pub(super) fn of(&self, agent: &ObjectName, namespace: &str) -> Permission {
        let Some(allowed) = self.agents.get(agent) else { return Permission::NotFound };
        if *agent.namespace == *namespace {
            return Permission::Granted;
        }
        let Some(allowed) = allowed else { return Permission::Denied };
        let granted = match (allowed.from, &allowed.selector) {
            (NamespacesFrom::All, _) => true,
            // Not even one by name alone, or what a selector means would hang on which labels it names.
            (NamespacesFrom::Selector, _) if self.unread => false,
            (NamespacesFrom::Selector, Some(selector)) => {
                let mut labels = self.namespaces.get(namespace).cloned().unwrap_or_default();
                labels.entry(NAME_LABEL.to_owned()).or_insert_with(|| namespace.to_owned());
                if !selector.matches(&labels) && !self.namespaces.contains_key(namespace) {
                    return Permission::Unknown;
                }
                selector.matches(&labels)
            }
            (NamespacesFrom::Selector, None) | (NamespacesFrom::Same, _) => false,
        };
        if granted { Permission::Granted } else { Permission::Denied }
    }
}
