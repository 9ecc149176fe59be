use std::{borrow::Cow, cmp::Ordering, sync::Arc};

use http::{HeaderMap, HeaderName, Method};

use super::{PathMatch, Pattern, path::percent_decoded};

/// Which requests a rule is for: those that match all of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Matches {
    /// The path.
    pub path: PathMatch,
    /// One of these methods; empty, any.
    pub methods: Vec<Method>,
    /// All of these header fields.
    pub headers: Vec<HeaderMatch>,
    /// All of these query parameters.
    pub query: Vec<QueryMatch>,
}

/// A header field that must be there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderMatch {
    /// Its name.
    pub name: HeaderName,
    /// Its value; of a field that is there several times, the values joined by `,` (RFC 9110, 5.3).
    pub value: TextMatch,
}

/// A query parameter that must be there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QueryMatch {
    /// Its name, percent-decoded.
    pub name: Arc<str>,
    /// Its value, percent-decoded; of a parameter that is there several times, the first.
    pub value: TextMatch,
}

/// What a text must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TextMatch {
    /// This text, byte by byte.
    Exact(Arc<str>),
    /// A text that the pattern matches as a whole.
    Regex(Pattern),
}

/// What is looked up in the routing table.
#[derive(Clone, Copy, Debug)]
pub struct RequestInfo<'a> {
    /// The host, normalized (see [`super::normalize_host`]).
    pub host: &'a str,
    /// The path, normalized (see [`super::normalize_path`]).
    pub path: &'a str,
    /// The method.
    pub method: &'a Method,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// The query, as it came.
    pub query: Option<&'a str>,
}

// === impl Matches ===

impl Matches {
    /// All requests with such a path.
    #[must_use]
    pub fn path(path: PathMatch) -> Self {
        Self { path, methods: Vec::new(), headers: Vec::new(), query: Vec::new() }
    }

    /// Whether the request is one of those.
    #[must_use]
    pub fn matches(&self, request: &RequestInfo<'_>) -> bool {
        self.path.matches(request.path)
            && (self.methods.is_empty() || self.methods.contains(request.method))
            && self.headers.iter().all(|header| header.matches(request.headers))
            && self.query.iter().all(|parameter| parameter.matches(request.query.unwrap_or_default()))
    }

    /// The more specific match first, as Gateway API orders them: the path, then one that names methods, then the most
    /// header fields, then the most query parameters.
    #[must_use]
    pub fn precedence(&self, other: &Self) -> Ordering {
        let rank = |matches: &Self| (!matches.methods.is_empty(), matches.headers.len(), matches.query.len());
        self.path.precedence(&other.path).then_with(|| rank(other).cmp(&rank(self)))
    }
}

// === impl HeaderMatch ===

impl HeaderMatch {
    fn matches(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(&self.name).iter();
        let Some(Ok(first)) = values.next().map(|value| value.to_str()) else { return false };
        let joined = values.try_fold(Cow::Borrowed(first), |joined, value| {
            value.to_str().map(|value| Cow::Owned(format!("{joined},{value}")))
        });
        joined.is_ok_and(|value| self.value.matches(&value))
    }
}

// === impl QueryMatch ===

impl QueryMatch {
    fn matches(&self, query: &str) -> bool {
        let decoded = |text: &str| percent_decoded(&text.replace('+', " "));
        let mut parameters = query.split('&').map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")));
        let value = parameters.find(|(name, _)| decoded(name) == *self.name).map(|(_, value)| decoded(value));
        value.is_some_and(|value| self.value.matches(&value))
    }
}

// === impl TextMatch ===

impl TextMatch {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(expected) => **expected == *text,
            Self::Regex(pattern) => pattern.matches(text),
        }
    }
}

// === impl RequestInfo ===

#[cfg(test)]
impl<'a> RequestInfo<'a> {
    /// A GET without header fields and query.
    pub(crate) fn get(host: &'a str, path: &'a str) -> Self {
        static NO_HEADERS: std::sync::LazyLock<HeaderMap> = std::sync::LazyLock::new(HeaderMap::new);
        Self { host, path, method: &Method::GET, headers: &NO_HEADERS, query: None }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn any() -> Matches {
        Matches::path(PathMatch::prefix("/"))
    }

    fn header(name: &'static str, value: TextMatch) -> HeaderMatch {
        HeaderMatch { name: HeaderName::from_static(name), value }
    }

    #[test]
    fn all_of_it_has_to_match() {
        let mut headers = HeaderMap::new();
        headers.append("x-team", HeaderValue::from_static("a"));
        headers.append("x-team", HeaderValue::from_static("b"));
        let request = RequestInfo { headers: &headers, query: Some("a=1&b=%2Fx+y&a=2"), ..RequestInfo::get("h", "/") };
        let query = |name: &str, value: &str| Matches {
            query: vec![QueryMatch { name: name.into(), value: TextMatch::Exact(value.into()) }],
            ..any()
        };
        assert!(query("a", "1").matches(&request));
        assert!(!query("a", "2").matches(&request), "the first of a name counts");
        assert!(query("b", "/x y").matches(&request));
        assert!(!query("c", "").matches(&request), "it has to be there");
        let exact = Matches { headers: vec![header("x-team", TextMatch::Exact("a,b".into()))], ..any() };
        assert!(exact.matches(&request));
        assert!(!exact.matches(&RequestInfo::get("h", "/")));
        let regex =
            Matches { headers: vec![header("x-team", TextMatch::Regex("a.*".parse().expect("a pattern")))], ..any() };
        assert!(regex.matches(&request));
        let post = Matches { methods: vec![Method::POST, Method::PUT], ..any() };
        assert!(!post.matches(&request));
        assert!(post.matches(&RequestInfo { method: &Method::PUT, ..request }));
    }

    #[test]
    fn the_path_decides_first_then_methods_headers_and_query() {
        let long = Matches::path(PathMatch::prefix("/a"));
        let method = Matches { methods: vec![Method::GET], ..any() };
        let fields = |count: usize| vec![header("x-a", TextMatch::Exact("1".into())); count];
        let one = Matches { headers: fields(1), ..any() };
        let two = Matches { headers: fields(2), ..any() };
        let parameter =
            Matches { query: vec![QueryMatch { name: "a".into(), value: TextMatch::Exact("1".into()) }], ..any() };
        let mut order = [any(), parameter.clone(), one.clone(), two.clone(), method.clone(), long.clone()];
        order.sort_by(Matches::precedence);
        assert_eq!(order, [long, method, two, one, parameter, any()]);
    }
}
