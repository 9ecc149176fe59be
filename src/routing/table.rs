use std::{cmp::Ordering, collections::HashMap, sync::Arc};

use super::{Certificates, Hostname, RequestInfo, Rule};

/// Everything the edge serves, at one generation of the objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutingTable {
    entry_points: HashMap<EntryPoint, Vec<Arc<Listener>>>,
    certificates: Certificates,
}

/// A bound address of the edge that visitors come in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryPoint {
    /// The address of `--http`.
    Http,
    /// The address of `--https`.
    Https,
}

/// The rules for a set of hostnames at one entry point. A request belongs to the listener with the most specific
/// hostname that matches its host, and never falls through to another one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// Which hosts it is for; `None` is all of them.
    hostname: Option<Hostname>,
    exact: HashMap<Arc<str>, HostRules>,
    wildcard: HashMap<Arc<str>, HostRules>,
}

/// The rules of one hostname, the most specific match first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRules {
    /// The namespace that owns the hostname. A request that matches none of the rules goes on to a less specific
    /// hostname of the same owner, never to another's.
    pub owner: Arc<str>,
    /// The candidates; of two with the same match the first wins.
    pub rules: Vec<Arc<Rule>>,
}

/// What a request found in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// This rule.
    Rule(&'a Arc<Rule>),
    /// The host is known, none of its rules matches.
    NoRule,
    /// Nothing is known of the host.
    UnknownHost,
}

// === impl RoutingTable ===

impl RoutingTable {
    /// A table with these listeners; their order does not matter. The certificates are for the entry points with TLS.
    #[must_use]
    pub fn new(listeners: impl IntoIterator<Item = (EntryPoint, Arc<Listener>)>, certificates: Certificates) -> Self {
        let mut entry_points = HashMap::<_, Vec<Arc<Listener>>>::new();
        for (entry_point, listener) in listeners {
            entry_points.entry(entry_point).or_default().push(listener);
        }
        for listeners in entry_points.values_mut() {
            listeners.sort_by(|a, b| most_specific_first(a.hostname.as_ref(), b.hostname.as_ref()));
        }
        Self { entry_points, certificates }
    }

    /// Finds the rule for a request.
    #[must_use]
    pub fn lookup(&self, entry_point: EntryPoint, request: &RequestInfo<'_>) -> Lookup<'_> {
        let listeners = self.entry_points.get(&entry_point).map_or(&[][..], Vec::as_slice);
        listeners
            .iter()
            .find(|listener| listener.hostname.as_ref().is_none_or(|hostname| hostname.matches(request.host)))
            .map_or(Lookup::UnknownHost, |listener| listener.lookup(request))
    }

    /// The certificates that visitors are shown.
    #[must_use]
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// All rules, each once for every listener and hostname it stands under.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        let listeners = self.entry_points.values().flatten();
        listeners.flat_map(|listener| listener.exact.values().chain(listener.wildcard.values()).flat_map(|h| &h.rules))
    }
}

// === impl Listener ===

impl Listener {
    /// A listener for the hosts of `hostname`, or for all, with the rules of each name.
    #[must_use]
    pub fn new(hostname: Option<Hostname>, hosts: impl IntoIterator<Item = (Hostname, HostRules)>) -> Self {
        let mut listener = Self { hostname, ..Self::default() };
        for (name, rules) in hosts {
            match name {
                Hostname::Exact(name) => listener.exact.insert(name, rules),
                Hostname::Wildcard(suffix) => listener.wildcard.insert(suffix, rules),
            };
        }
        listener
    }

    fn lookup(&self, request: &RequestInfo<'_>) -> Lookup<'_> {
        let mut owner: Option<&str> = None;
        for candidates in self.candidates(request.host) {
            if **owner.get_or_insert(&*candidates.owner) != *candidates.owner {
                break;
            }
            if let Some(rule) = candidates.rules.iter().find(|rule| rule.matches.matches(request)) {
                return Lookup::Rule(rule);
            }
        }
        if owner.is_some() { Lookup::NoRule } else { Lookup::UnknownHost }
    }

    /// The rules of the exact name, then of the wildcards above it, the longest first. One hash a label, however many
    /// hosts there are.
    fn candidates(&self, host: &str) -> impl Iterator<Item = &HostRules> {
        let parents = host.match_indices('.').map(|(dot, _)| &host[dot + 1..]);
        self.exact.get(host).into_iter().chain(parents.filter_map(|suffix| self.wildcard.get(suffix)))
    }
}

fn most_specific_first(a: Option<&Hostname>, b: Option<&Hostname>) -> Ordering {
    let rank = |hostname: Option<&Hostname>| match hostname {
        Some(Hostname::Exact(_)) => (2, 0),
        Some(Hostname::Wildcard(suffix)) => (1, suffix.len()),
        None => (0, 0),
    };
    rank(b).cmp(&rank(a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::{Backend, Matches, ObjectName, PathMatch, RuleId, Timeouts};

    fn rule(name: &str, path: PathMatch) -> Arc<Rule> {
        let id = RuleId { object: ObjectName::new("web", name), route: 0 };
        let matches = Matches::path(path);
        let backend = Backend::Invalid("a test".into());
        Arc::new(Rule { id, matches, filters: Vec::new(), timeouts: Timeouts::default(), backend })
    }

    fn hosts(entries: &[(&str, &str, &[Arc<Rule>])]) -> RoutingTable {
        let hosts = entries.iter().map(|(hostname, owner, rules)| {
            (hostname.parse().expect("a hostname"), HostRules { owner: (*owner).into(), rules: rules.to_vec() })
        });
        RoutingTable::new([(EntryPoint::Http, Arc::new(Listener::new(None, hosts)))], Certificates::default())
    }

    #[track_caller]
    fn found(table: &RoutingTable, host: &str, path: &str) -> String {
        match table.lookup(EntryPoint::Http, &RequestInfo::get(host, path)) {
            Lookup::Rule(rule) => rule.id.object.name.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn exact_then_the_longest_wildcard() {
        let table = hosts(&[
            ("a.example.com", "web", &[rule("exact", PathMatch::prefix("/"))]),
            ("*.example.com", "web", &[rule("short", PathMatch::prefix("/"))]),
            ("*.b.example.com", "web", &[rule("long", PathMatch::prefix("/"))]),
        ]);
        assert_eq!(found(&table, "a.example.com", "/"), "exact");
        assert_eq!(found(&table, "x.b.example.com", "/"), "long");
        assert_eq!(found(&table, "b.example.com", "/"), "short");
        assert_eq!(found(&table, "x.a.example.com", "/"), "short");
        assert_eq!(found(&table, "example.com", "/"), "UnknownHost");
    }

    #[test]
    fn an_unmatched_path_falls_through_to_the_owners_own_wildcard_only() {
        let exact: &[_] = &[rule("exact", PathMatch::prefix("/api"))];
        let wildcard: &[_] = &[rule("wildcard", PathMatch::prefix("/"))];
        let table = hosts(&[("a.example.com", "web", exact), ("*.example.com", "web", wildcard)]);
        assert_eq!(found(&table, "a.example.com", "/"), "wildcard");
        let table = hosts(&[("a.example.com", "web", exact), ("*.example.com", "other", wildcard)]);
        assert_eq!(found(&table, "a.example.com", "/"), "NoRule");
        assert_eq!(found(&table, "a.example.com", "/api/x"), "exact");
    }

    #[test]
    fn the_most_specific_listener_takes_the_request_even_if_it_has_no_rule() {
        let all = Listener::new(
            None,
            [(
                "*.example.com".parse().expect("a hostname"),
                HostRules { owner: "web".into(), rules: vec![rule("all", PathMatch::prefix("/"))] },
            )],
        );
        let narrow = Listener::new(Some("*.b.example.com".parse().expect("a hostname")), []);
        let listeners = [all, narrow].map(|listener| (EntryPoint::Http, Arc::new(listener)));
        let table = RoutingTable::new(listeners, Certificates::default());
        assert_eq!(found(&table, "a.example.com", "/"), "all");
        assert_eq!(found(&table, "a.b.example.com", "/"), "UnknownHost");
    }
}
