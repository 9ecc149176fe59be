use std::{borrow::Cow, cmp::Ordering, sync::Arc};

use super::Pattern;

/// Which paths a rule is for; compared with a request's path as [`normalize_path`] gives it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// This path alone.
    Exact(Arc<str>),
    /// This path and everything under it, by whole segments: `/a` matches `/a` and `/a/b`, not `/ab`.
    /// Kept without a trailing slash, so `/` is kept as the empty text.
    Prefix(Arc<str>),
    /// Every path that the pattern matches as a whole.
    Regex(Pattern),
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
            Self::Regex(pattern) => pattern.matches(path),
        }
    }

    /// The more specific match first: exact, then patterns, the longer first, then the longer prefix. Gateway API leaves the
    /// place of patterns open; behind the prefixes they would never be reached beside `/`.
    #[must_use]
    pub fn precedence(&self, other: &Self) -> Ordering {
        let rank = |path: &Self| match path {
            Self::Exact(_) => (2, 0),
            Self::Regex(pattern) => (1, pattern.as_str().len()),
            Self::Prefix(value) => (0, value.len()),
        };
        rank(other).cmp(&rank(self))
    }
}

/// The path that is matched: percent-decoded, with `\` as the `/` for which some backends take it, and without empty
/// segments, so that other spellings of a protected path do not get past the rule that protects it. What is forwarded is the
/// path as the visitor sent it.
///
/// `None` where it has a control character, or a segment `.` or `..`, however encoded: clients resolve these before they ask
/// (RFC 3986, 5.2.4), and backends do not agree on what is left of them. `*`, the server as a whole (RFC 9112, 3.2.4), is matched as its root.
/// Borrows where nothing has to change.
#[must_use]
pub fn normalize_path(path: &str) -> Option<Cow<'_, str>> {
    if path == "*" {
        return Some(Cow::Borrowed("/"));
    }
    if !path.contains('%') && !path.contains("//") && !path.contains("/.") && !path.contains('\\') {
        return Some(Cow::Borrowed(path));
    }
    let decoded = percent_decoded(path);
    // Some backends take what stands behind a `;` for no part of the segment.
    let is_dots = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    if decoded.split(['/', '\\']).any(is_dots) || decoded.contains(|c: char| c.is_ascii_control()) {
        return None;
    }
    let mut merged = String::with_capacity(decoded.len());
    for c in decoded.chars() {
        let c = if c == '\\' { '/' } else { c };
        if c != '/' || !merged.ends_with('/') {
            merged.push(c);
        }
    }
    Some(Cow::Owned(merged))
}

/// Where in a path as it came the first `length` bytes of its normalized form end; its length where that is shorter.
#[must_use]
pub fn normalized_end(path: &str, length: usize) -> usize {
    let (mut seen, mut end, mut after_slash) = (0, 0, false);
    for (byte, its_end) in spelled(path) {
        if seen == length {
            break;
        }
        let slash = matches!(byte, b'/' | b'\\');
        // Several slashes are one there.
        if !(slash && after_slash) {
            seen += 1;
        }
        (end, after_slash) = (its_end, slash);
    }
    end
}

/// Bytes that are no UTF-8 become the replacement character; it matches no path that a rule can have.
pub(super) fn percent_decoded(path: &str) -> String {
    let decoded: Vec<u8> = spelled(path).map(|(byte, _)| byte).collect();
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The bytes that a text stands for where three characters may spell one (RFC 3986, 2.1), each with the end of its spelling.
fn spelled(text: &str) -> impl Iterator<Item = (u8, usize)> {
    let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (bytes, mut at) = (text.as_bytes(), 0);
    std::iter::from_fn(move || {
        let byte = *bytes.get(at)?;
        let (byte, width) = match (byte, hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => (u8::try_from(high << 4 | low).unwrap_or(b'?'), 3),
            _ => (byte, 1),
        };
        at += width;
        Some((byte, at))
    })
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
    fn exact_comes_before_patterns_before_the_longest_prefix() {
        let regex = PathMatch::Regex("/a/b.*".parse().expect("a pattern"));
        let mut order = [regex.clone(), PathMatch::prefix("/"), PathMatch::prefix("/a/b"), PathMatch::exact("/a")];
        order.sort_by(PathMatch::precedence);
        assert_eq!(order, [PathMatch::exact("/a"), regex, PathMatch::prefix("/a/b"), PathMatch::prefix("/")]);
    }

    #[test]
    fn no_spelling_of_a_path_gets_past_its_rule() {
        let admin = PathMatch::prefix("/admin");
        for path in ["/admin", "//admin", "/%61dmin/x", "/admin%2fx", "/admin%5cx", "///admin//x", "/%61%64min"] {
            assert!(admin.matches(&normalize_path(path).expect(path)), "{path}");
        }
        for path in [
            "/x/../admin",
            "/x/%2e%2e/admin",
            "/admin/..%2fx",
            "/./admin",
            "/x/.%2E/admin",
            "/x%5c..%5cadmin",
            "/x/..;/admin",
            "/admin/x%0a",
        ] {
            assert_eq!(normalize_path(path), None, "{path}");
        }
    }

    #[test]
    fn an_ordinary_path_is_matched_as_it_is() {
        for path in ["/", "/a/b.c", "/a/...", "/.well-known/acme-challenge/x", "/100%", "/a;b=c"] {
            assert_eq!(normalize_path(path).as_deref(), Some(path));
        }
        assert_eq!(normalize_path("*").as_deref(), Some("/"));
        assert_eq!(normalize_path("/caf%C3%A9").as_deref(), Some("/café"));
        assert_eq!(normalize_path("/%ff").as_deref(), Some("/\u{fffd}"));
    }
}
