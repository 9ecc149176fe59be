use std::{collections::HashMap, hash::Hash};

/// What was written last, by object. The watch brings what was written a moment later; until then the known version is
/// the old one, and would be corrected once more.
pub(super) struct Ledger<K, V> {
    written: HashMap<K, (Option<String>, V)>,
}

// === impl Ledger ===

impl<K: Hash + Eq, V: PartialEq> Ledger<K, V> {
    pub(super) fn new() -> Self {
        Self { written: HashMap::new() }
    }

    /// Whether `value` is on its way already: it was written when the object had this resource version.
    pub(super) fn has(&self, object: &K, version: Option<&String>, value: &V) -> bool {
        self.written.get(object).is_some_and(|(seen, written)| seen.as_ref() == version && written == value)
    }

    /// Notes a write over an object that had this resource version.
    pub(super) fn note(&mut self, object: K, version: Option<String>, value: V) {
        self.written.insert(object, (version, value));
    }

    /// Forgets an object: it shows what was written, or is gone.
    pub(super) fn forget(&mut self, object: &K) {
        self.written.remove(object);
    }

    /// Forgets all: somebody else may have written since.
    pub(super) fn clear(&mut self) {
        self.written.clear();
    }
}
