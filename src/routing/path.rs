use std::{cmp::Ordering, sync::Arc};

/// Which paths a rule is for; always compared with the path as the visitor sent it, without its query.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// This path alone.
    Exact(Arc<str>),
    /// This path and everything under it, by whole segments: `/a` matches `/a` and `/a/b`, not `/ab`.
    /// Kept without a trailing slash, so `/` is kept as the empty text.
    Prefix(Arc<str>),
}

// === impl PathMatch ===

impl PathMatch {
    /// Matches the path `value` alone.
    #[must_use]
    pub fn exact(value: &str) -> Self {
        Self::Exact(value.into())
    }

    /// Matches `value` and everything under it; a trailing slash changes nothing.
    #[must_use]
    pub fn prefix(value: &str) -> Self {
        Self::Prefix(value.trim_end_matches('/').into())
    }

    /// Whether `path` is matched.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(value) => **value == *path,
            Self::Prefix(value) => {
                path.strip_prefix(&**value).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }

    /// The more specific match first: exact before prefix, then the longer prefix (Gateway API's order).
    #[must_use]
    pub fn precedence(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Exact(_), Self::Prefix(_)) => Ordering::Less,
            (Self::Prefix(_), Self::Exact(_)) => Ordering::Greater,
            (Self::Exact(_), Self::Exact(_)) => Ordering::Equal,
            (Self::Prefix(a), Self::Prefix(b)) => b.len().cmp(&a.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_matches_whole_segments() {
        let prefix = PathMatch::prefix("/a/");
        assert!(prefix.matches("/a"));
        assert!(prefix.matches("/a/"));
        assert!(prefix.matches("/a/b"));
        assert!(!prefix.matches("/ab"));
        assert!(!prefix.matches("/"));
        assert!(PathMatch::prefix("/").matches("/anything"));
        assert!(PathMatch::prefix("/").matches("/"));
    }

    #[test]
    fn exact_comes_before_the_longest_prefix() {
        let mut order = [PathMatch::prefix("/"), PathMatch::prefix("/a/b"), PathMatch::exact("/a")];
        order.sort_by(PathMatch::precedence);
        assert_eq!(order, [PathMatch::exact("/a"), PathMatch::prefix("/a/b"), PathMatch::prefix("/")]);
    }
}
