use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use crate::routing::{HostRules, Hostname, Matches, ObjectName, Rule, RuleId};

/// Who owns which hostname, and the rules that have been put under it. Objects come in order of age, the oldest first, so
/// the first that claims a name has it.
#[derive(Default)]
pub(super) struct Claims {
    exact: HashMap<Arc<str>, Claim>,
    /// By the suffix after `*.`.
    wildcard: HashMap<Arc<str>, Claim>,
}

/// A hostname's owner: the namespace of the object that claimed it first.
struct Claim {
    first: ObjectName,
    rules: Vec<Arc<Rule>>,
    taken: HashMap<Matches, RuleId>,
}

/// Why a hostname cannot be had.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Owned {
    /// The oldest object of the owner with it.
    pub(super) by: ObjectName,
    /// What the owner has: the same hostname, or a wildcard that covers it.
    pub(super) hostname: Hostname,
}

// === impl Claims ===

impl Claims {
    /// Claims `hostname` for the namespace of `object`.
    ///
    /// The owner of a wildcard owns the names under it too, except those that an older object had already. So the
    /// longest wildcard above decides; whoever holds it got it by the same rule.
    pub(super) fn claim(&mut self, hostname: &Hostname, object: &ObjectName) -> Result<(), Owned> {
        let (claims, name) = match hostname {
            Hostname::Exact(name) => (&self.exact, name),
            Hostname::Wildcard(suffix) => (&self.wildcard, suffix),
        };
        let owner = claims.get(name).map(|claim| (claim, hostname.clone())).or_else(|| {
            let mut parents = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
            parents.find_map(|suffix| {
                let (suffix, claim) = self.wildcard.get_key_value(suffix)?;
                Some((claim, Hostname::Wildcard(suffix.clone())))
            })
        });
        if let Some((claim, hostname)) = owner
            && claim.first.namespace != object.namespace
        {
            return Err(Owned { by: claim.first.clone(), hostname });
        }
        self.entry(hostname).or_insert_with(|| Claim {
            first: object.clone(),
            rules: Vec::new(),
            taken: HashMap::new(),
        });
        Ok(())
    }

    /// Puts a rule under a hostname that has been claimed. An older rule with the same match stays; its id is returned.
    pub(super) fn add(&mut self, hostname: &Hostname, rule: &Arc<Rule>) -> Result<(), RuleId> {
        let Entry::Occupied(mut claim) = self.entry(hostname) else { return Ok(()) };
        let claim = claim.get_mut();
        match claim.taken.entry(rule.matches.clone()) {
            Entry::Occupied(older) => Err(older.get().clone()),
            Entry::Vacant(free) => {
                free.insert(rule.id.clone());
                claim.rules.push(rule.clone());
                Ok(())
            }
        }
    }

    /// The rules of every hostname, the most specific first.
    pub(super) fn into_hosts(self) -> impl Iterator<Item = (Hostname, HostRules)> {
        let exact = self.exact.into_iter().map(|(name, claim)| (Hostname::Exact(name), claim));
        let wildcard = self.wildcard.into_iter().map(|(suffix, claim)| (Hostname::Wildcard(suffix), claim));
        exact.chain(wildcard).map(|(hostname, mut claim)| {
            claim.rules.sort_by(|a, b| a.matches.precedence(&b.matches));
            (hostname, HostRules { owner: claim.first.namespace, rules: claim.rules })
        })
    }

    fn entry(&mut self, hostname: &Hostname) -> Entry<'_, Arc<str>, Claim> {
        match hostname {
            Hostname::Exact(name) => self.exact.entry(name.clone()),
            Hostname::Wildcard(suffix) => self.wildcard.entry(suffix.clone()),
        }
    }
}
