use std::{collections::HashMap, hash::Hash};

/// What was written last, by object. The watch brings what was written a moment later; until then the known version is
/// the old one, and would be corrected once more.
pub(super) struct Ledger<K, V> {
    written: HashMap<K, (Option<String>, V)>,
    /// What was written before the present pass. What the pass does not ask for is settled, and forgotten with it.
    before: HashMap<K, (Option<String>, V)>,
}

// === impl Ledger ===

impl<K: Hash + Eq, V: PartialEq> Ledger<K, V> {
    pub(super) fn new() -> Self {
        Self { written: HashMap::new(), before: HashMap::new() }
    }

    /// Begins a pass over all objects.
    pub(super) fn begin(&mut self) {
        self.before = std::mem::take(&mut self.written);
    }

    /// Whether `value` is on its way already: it was written when the object had this resource version.
    pub(super) fn has(&mut self, object: &K, version: Option<&String>, value: &V) -> bool {
        let Some((object, entry)) = self.before.remove_entry(object) else { return false };
        let has = entry.0.as_ref() == version && entry.1 == *value;
        if has {
            self.written.insert(object, entry);
        }
        has
    }

    /// Notes a write over an object that had this resource version.
    pub(super) fn note(&mut self, object: K, version: Option<String>, value: V) {
        self.written.insert(object, (version, value));
    }
}
