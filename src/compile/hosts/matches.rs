use std::fmt::Write as _;

use http::Method;

use super::{super::patterns::Patterns, Host, values};
use crate::{
    api::{self, MatchType, PathType, Reason},
    routing::{HeaderMatch, Matches, PathMatch, Pattern, QueryMatch, TextMatch},
};

// === impl Host ===

impl Host<'_> {
    /// Which requests a route is for; `None` where that cannot be told.
    pub(super) fn matches(&mut self, field: &str, route: &api::Route, patterns: &mut Patterns<'_>) -> Option<Matches> {
        let path = self.path(&format!("{field}.path.value"), &route.path, patterns)?;
        let Some(rest) = &route.r#match else { return Some(Matches::path(path)) };
        let field = format!("{field}.match");
        let mut unreadable = false;
        let mut methods = Vec::with_capacity(rest.methods.len());
        for (index, text) in rest.methods.iter().enumerate() {
            let method = Method::from_bytes(text.as_bytes()).map_err(|_| format!("{text:?} is no method"));
            match self.accept(&format!("{field}.methods[{index}]"), method) {
                Some(method) => methods.push(method),
                None => unreadable = true,
            }
        }
        let mut headers = Vec::with_capacity(rest.headers.len());
        for (index, header) in rest.headers.iter().enumerate() {
            let field = format!("{field}.headers[{index}]");
            let name = self.accept(&format!("{field}.name"), values::matched_name(&header.name));
            match (name, self.text(&format!("{field}.value"), header.r#type, &header.value, patterns)) {
                (Some(name), Some(value)) => headers.push(HeaderMatch { name, value }),
                _ => unreadable = true,
            }
        }
        let mut query = Vec::with_capacity(rest.query.len());
        for (index, parameter) in rest.query.iter().enumerate() {
            match self.text(&format!("{field}.query[{index}].value"), parameter.r#type, &parameter.value, patterns) {
                Some(value) => query.push(QueryMatch { name: parameter.name.as_str().into(), value }),
                None => unreadable = true,
            }
        }
        if unreadable {
            return None;
        }
        // In one order, so that two that mean the same are the same.
        methods.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        methods.dedup();
        headers.sort_by(|a, b| (a.name.as_str(), text_of(&a.value)).cmp(&(b.name.as_str(), text_of(&b.value))));
        query.sort_by(|a, b| (&a.name, text_of(&a.value)).cmp(&(&b.name, text_of(&b.value))));
        Some(Matches { path, methods, headers, query })
    }

    fn path(&mut self, field: &str, rule: &api::PathRule, patterns: &mut Patterns<'_>) -> Option<PathMatch> {
        match rule.r#type {
            PathType::Prefix => self.accept(field, values::path(&rule.value)).map(|path| PathMatch::prefix(&path)),
            PathType::Exact => self.accept(field, values::path(&rule.value)).map(|path| PathMatch::exact(&path)),
            PathType::Regex => self.pattern(field, &rule.value, patterns).map(PathMatch::Regex),
        }
    }

    fn text(&mut self, field: &str, kind: MatchType, value: &str, patterns: &mut Patterns<'_>) -> Option<TextMatch> {
        match kind {
            MatchType::Exact => Some(TextMatch::Exact(value.into())),
            MatchType::Regex => self.pattern(field, value, patterns).map(TextMatch::Regex),
        }
    }

    fn pattern(&mut self, field: &str, text: &str, patterns: &mut Patterns<'_>) -> Option<Pattern> {
        let pattern = patterns.get(text);
        pattern
            .map_err(|error| {
                let message = format!("{field}: {text:?} is no regular expression: {error}; correct it");
                self.accepted.add(Reason::UnsupportedValue, message);
            })
            .ok()
    }
}

/// A match in words, as in `Prefix "/a" with method GET and header x-team "a"`.
pub(super) fn describe(matches: &Matches) -> String {
    let (kind, path) = match &matches.path {
        PathMatch::Exact(path) => (PathType::Exact, &**path),
        PathMatch::Prefix(path) if path.is_empty() => (PathType::Prefix, "/"),
        PathMatch::Prefix(path) => (PathType::Prefix, &**path),
        PathMatch::Regex(pattern) => (PathType::Regex, pattern.as_str()),
    };
    let mut rest = Vec::new();
    if !matches.methods.is_empty() {
        let methods: Vec<&str> = matches.methods.iter().map(Method::as_str).collect();
        rest.push(format!("method {}", methods.join(" or ")));
    }
    let value = |value: &TextMatch| match value {
        TextMatch::Exact(text) => format!("{text:?}"),
        TextMatch::Regex(pattern) => format!("Regex {:?}", pattern.as_str()),
    };
    rest.extend(matches.headers.iter().map(|header| format!("header {} {}", header.name, value(&header.value))));
    rest.extend(matches.query.iter().map(|query| format!("query {} {}", query.name, value(&query.value))));
    let mut text = format!("{} {path:?}", kind.as_str());
    if !rest.is_empty() {
        // Writing to a String cannot fail.
        let _ = write!(text, " with {}", rest.join(" and "));
    }
    text
}

fn text_of(value: &TextMatch) -> (bool, &str) {
    match value {
        TextMatch::Exact(text) => (false, text),
        TextMatch::Regex(pattern) => (true, pattern.as_str()),
    }
}
