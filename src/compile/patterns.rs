use std::collections::HashMap;

use crate::routing::{Pattern, PatternError};

/// Regular expressions by their text, those that cannot be read, too.
pub(super) type Known = HashMap<String, Result<Pattern, PatternError>>;

/// The regular expressions of all objects. To compile one costs more than all else of a rule, and one that is refused as
/// too large costs most; so each is compiled once, and kept as long as it is asked for.
pub(super) struct Patterns<'a> {
    previous: Option<&'a Known>,
    used: Known,
}

// === impl Patterns ===

impl<'a> Patterns<'a> {
    pub(super) fn new(previous: Option<&'a Known>) -> Self {
        Self { previous, used: Known::new() }
    }

    pub(super) fn get(&mut self, text: &str) -> Result<Pattern, PatternError> {
        if let Some(known) = self.used.get(text) {
            return known.clone();
        }
        let known = self.previous.and_then(|previous| previous.get(text)).cloned();
        let pattern = known.unwrap_or_else(|| text.parse());
        self.used.insert(text.to_owned(), pattern.clone());
        pattern
    }

    /// Those that were asked for.
    pub(super) fn into_known(self) -> Known {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_compiled_before_is_taken_over_and_what_is_not_asked_for_is_forgotten() {
        let (right, wrong) = ("/a|b".parse::<Pattern>(), "(".parse::<Pattern>());
        // Under other names than their own, so that it shows where an answer comes from.
        let previous = Known::from([("one".to_owned(), right.clone()), ("two".to_owned(), wrong.clone())]);
        let mut patterns = Patterns::new(Some(&previous));
        assert_eq!(patterns.get("one"), right);
        assert_eq!(patterns.get("two"), wrong);
        let mut patterns = Patterns::new(None);
        assert_ne!(patterns.get("one"), right);
        let known = patterns.into_known();
        assert_eq!(known.keys().collect::<Vec<_>>(), ["one"]);
    }
}
