use std::{
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

use regex::{Regex, RegexBuilder};

/// The most memory that one compiled pattern may take, in bytes; what needs more is refused when it is compiled.
const MAX_SIZE: usize = 1 << 20;

/// A regular expression that a text has to match as a whole, in the syntax of the `regex` crate: its time is linear in the
/// length of the text, whatever the pattern. Two of the same text are equal.
#[derive(Clone)]
pub struct Pattern(Regex);

/// Why a text is no regular expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(String);

// === impl Pattern ===

impl Pattern {
    /// Whether all of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let anchored = self.0.as_str();
        anchored.strip_prefix("^(?:").and_then(|rest| rest.strip_suffix(")$")).unwrap_or(anchored)
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        // Alone first: a text like `a)(b` would only be balanced by what is put around it.
        let build = |text: &str| RegexBuilder::new(text).size_limit(MAX_SIZE).build();
        build(text).and_then(|_| build(&format!("^(?:{text})$"))).map(Self).map_err(|error| {
            let text = error.to_string();
            // The long form repeats the pattern with markers under it; its last line says what is wrong.
            let last = text.lines().last().unwrap_or_default();
            PatternError(last.trim_start_matches("error: ").to_owned())
        })
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_str().hash(state);
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_text_has_to_match() {
        let pattern: Pattern = "/api/v[0-9]+|/old".parse().expect("a pattern");
        assert!(pattern.matches("/api/v2"));
        assert!(pattern.matches("/old"));
        assert!(!pattern.matches("/api/v2/x"));
        assert!(!pattern.matches("/x/old"));
        assert_eq!(pattern.as_str(), "/api/v[0-9]+|/old");
        assert_eq!(pattern, "/api/v[0-9]+|/old".parse().expect("a pattern"));
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        assert_eq!("a(b".parse::<Pattern>().expect_err("no pattern").to_string(), "unclosed group");
        assert!("a)(b".parse::<Pattern>().is_err());
        assert!("(a{1000}){1000}".parse::<Pattern>().is_err(), "too large");
    }
}
