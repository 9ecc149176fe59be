//! Other paths and other places than those that were asked for.

use http::{
    HeaderValue, Response, StatusCode, Uri, header,
    uri::{PathAndQuery, Scheme},
};

use crate::{
    proxy::message::body::Body,
    routing::{PathMatch, Redirect, RedirectPath, normalized_end, split_port},
};

/// Where a request asked to go, as its visitor sees it.
pub(in crate::proxy) struct Asked<'a> {
    /// The host, with the port where one was given.
    pub(in crate::proxy) host: &'a str,
    pub(in crate::proxy) secure: bool,
    pub(in crate::proxy) uri: &'a Uri,
}

/// Sends the visitor to the same place under `https`.
pub(super) fn to_tls(asked: &Asked<'_>, port: u16) -> Response<Body> {
    let redirect = Redirect {
        status: StatusCode::PERMANENT_REDIRECT,
        scheme: Some(Scheme::HTTPS),
        hostname: None,
        port: Some(port),
        path: None,
    };
    // Without a path of its own, what the rule matched does not matter.
    self::redirect(&redirect, asked, &PathMatch::prefix("/"))
}

/// Sends the visitor to another place.
pub(in crate::proxy) fn redirect(redirect: &Redirect, asked: &Asked<'_>, matched: &PathMatch) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = redirect.status;
    let location = HeaderValue::from_str(&location(redirect, asked, matched));
    // What came in a request can stand in a header.
    response.headers_mut().insert(header::LOCATION, location.unwrap_or(HeaderValue::from_static("/")));
    response
}

/// Another scheme has its own port, else the port is the one that was asked for; the scheme's own is not written
/// (Gateway API, `HTTPRequestRedirectFilter`).
fn location(redirect: &Redirect, asked: &Asked<'_>, matched: &PathMatch) -> String {
    let own = if asked.secure { Scheme::HTTPS } else { Scheme::HTTP };
    let scheme = redirect.scheme.as_ref().unwrap_or(&own);
    let (host, asked_port) = split_port(asked.host);
    let host = redirect.hostname.as_deref().unwrap_or(host);
    let asked_port = asked_port.filter(|_| redirect.scheme.is_none()).and_then(|port| port.parse().ok());
    let port = redirect.port.or(asked_port);
    let usual = if *scheme == Scheme::HTTPS { 443 } else { 80 };

    let mut location = format!("{scheme}://{host}");
    if let Some(port) = port.filter(|port| *port != usual) {
        location.extend([":", &port.to_string()]);
    }
    match &redirect.path {
        // The server as a whole has no place of its own, and none that a prefix could be of.
        None if is_server(asked.uri) => location.push('/'),
        Some(RedirectPath::ReplacePrefix(with)) if is_server(asked.uri) => location.push_str(with),
        None => location.push_str(asked.uri.path()),
        Some(RedirectPath::Full(path)) => location.push_str(path),
        Some(RedirectPath::ReplacePrefix(with)) => {
            location.push_str(&replace_prefix(asked.uri.path(), matched, with));
        }
    }
    if let Some(query) = asked.uri.query() {
        location.push('?');
        location.push_str(query);
    }
    location
}

/// Whether it is the server as a whole that is asked (RFC 9112, 3.2.4).
fn is_server(uri: &Uri) -> bool {
    uri.path() == "*"
}

/// The request's target with another prefix in the place of the matched one; the rest stays byte by byte.
pub(super) fn rewritten(uri: &Uri, matched: &PathMatch, with: &str) -> Option<Uri> {
    if is_server(uri) {
        return Some(uri.clone());
    }
    let path = replace_prefix(uri.path(), matched, with);
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    Some(Uri::from(PathAndQuery::try_from(target).ok()?))
}

/// A pattern has no prefix that could be replaced.
fn replace_prefix(path: &str, matched: &PathMatch, with: &str) -> String {
    let (PathMatch::Prefix(prefix) | PathMatch::Exact(prefix)) = matched else { return path.to_owned() };
    let rest = &path[normalized_end(path, prefix.trim_end_matches('/').len())..];
    let with = with.trim_end_matches('/');
    // Where nothing else begins it, the path begins with its slash.
    let slash = if with.is_empty() && !rest.starts_with('/') { "/" } else { "" };
    format!("{with}{slash}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_prefix_is_replaced_and_the_rest_stays_as_it_came() {
        let replaced = |path, prefix, with| replace_prefix(path, &PathMatch::prefix(prefix), with);
        for (path, prefix, with, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "/", "/bar"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
            ("/", "/", "/xyz", "/xyz/"),
            ("/f%6fo/b%61r//%2f", "/foo", "/x", "/x/b%61r//%2f"),
            ("//foo//bar", "/foo", "/x", "/x//bar"),
            ("/foo%2Fbar", "/foo", "/", "/%2Fbar"),
            ("/a/%2f/b/c", "/a/b", "/x", "/x/c"),
            ("/a%5c%5Cb/c", "/a/b", "/x", "/x/c"),
            ("/caf%C3%A9/x", "/café", "/tea", "/tea/x"),
        ] {
            assert_eq!(replaced(path, prefix, with), expected, "{path}: {prefix} by {with}");
        }
    }

    #[track_caller]
    fn goes_to(redirect: &Redirect, host: &str, secure: bool, expected: &str) {
        let uri = "/a/b?c=%20d".parse().expect("a target");
        let asked = Asked { host, secure, uri: &uri };
        assert_eq!(location(redirect, &asked, &PathMatch::prefix("/a")), expected);
    }

    #[test]
    fn a_redirect_changes_what_it_names() {
        let same = Redirect { status: StatusCode::FOUND, scheme: None, hostname: None, port: None, path: None };
        goes_to(&same, "a.example:8080", false, "http://a.example:8080/a/b?c=%20d");
        goes_to(&same, "a.example:443", true, "https://a.example/a/b?c=%20d");
        let https = Redirect { scheme: Some(Scheme::HTTPS), ..same.clone() };
        goes_to(&https, "a.example:8080", false, "https://a.example/a/b?c=%20d");
        goes_to(&https, "[::1]:80", false, "https://[::1]/a/b?c=%20d");
        goes_to(&https, "[::1]", false, "https://[::1]/a/b?c=%20d");
        let port = Redirect { port: Some(8443), ..https };
        goes_to(&port, "a.example", false, "https://a.example:8443/a/b?c=%20d");
        let elsewhere = Redirect {
            hostname: Some("b.example".into()),
            path: Some(RedirectPath::ReplacePrefix("/x".into())),
            ..same.clone()
        };
        goes_to(&elsewhere, "a.example", true, "https://b.example/x/b?c=%20d");
        let full = Redirect { path: Some(RedirectPath::Full("/new".into())), ..same };
        goes_to(&full, "a.example", false, "http://a.example/new?c=%20d");
    }

    #[test]
    fn the_server_as_a_whole_has_no_prefix() {
        let uri = Uri::from_static("*");
        let matched = PathMatch::prefix("/");
        assert_eq!(rewritten(&uri, &matched, "/v2"), Some(uri.clone()));
        let redirect = |path| Redirect { status: StatusCode::FOUND, scheme: None, hostname: None, port: None, path };
        let asked = Asked { host: "a.example", secure: false, uri: &uri };
        for (path, expected) in [
            (None, "http://a.example/"),
            (Some(RedirectPath::ReplacePrefix("/x".into())), "http://a.example/x"),
            (Some(RedirectPath::Full("/y".into())), "http://a.example/y"),
        ] {
            assert_eq!(location(&redirect(path), &asked, &matched), expected);
        }
    }
}
