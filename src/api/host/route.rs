use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Access, Auth, Backend, Headers, Limits, Retries, Timeouts};

/// Which requests, what they have to pass, and where they go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.backend) != has(self.redirect)")
    .message("must have either 'backend' or 'redirect'"))]
#[x_kube(validation = Rule::new(
    "!has(self.rewrite) || (self.path.type == 'Prefix' && has(self.backend))"
).message("'rewrite' needs a path of type Prefix, which it replaces, and a 'backend'"))]
#[x_kube(validation = Rule::new(concat!(
    "!has(self.redirect) || !has(self.redirect.path) || self.redirect.path.type == 'Full'",
    " || self.path.type == 'Prefix'"
)).message("a redirect with a path of type ReplacePrefix needs a path of type Prefix, which it replaces"))]
pub struct Route {
    /// Which paths the route is for. Unset, all: the prefix `/`.
    #[serde(default)]
    pub path: PathRule,
    /// What else a request has to have. Unset, nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#match: Option<RouteMatch>,
    /// What visitors of this route have to prove, instead of the TunnelHost's `auth`. Unset, that holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// From which addresses visitors of this route may come, instead of the TunnelHost's `access`, the whole of it. Unset, that
    /// holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// How much visitors of this route may ask for; each limit takes the place of the same one of the TunnelHost and counts for
    /// this route alone. Unset, those hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Changes to header fields; `request` and `response` each take the place of the TunnelHost's. Unset, those hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Headers>,
    /// How long a request may wait for what; each takes the place of the same one of the TunnelHost. Unset, those hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// How often a request is tried, instead of the TunnelHost's `retries`. Unset, those hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    /// What is changed in the path before the backend gets it. Unset, it gets the path as the visitor sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<Rewrite>,
    /// Where the requests go. Either this or `redirect` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// The other place that visitors are sent to, without asking a backend. Either this or `backend` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
}

/// Which paths a route is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(r#"self.type == 'Regex' || self.value.matches('^/[!-\"$->@-~]*$')"#)
    .message("must begin with '/' and be printable ASCII without spaces, '?' and '#', as it stands in a URL").field_path(".value"))]
pub struct PathRule {
    /// How `value` is compared with the path of a request: `Prefix` is this path and everything under it, by whole
    /// segments (`/a` is for `/a` and `/a/b`, not for `/ab`); `Exact` is this path alone; `Regex` is every path that the
    /// regular expression matches as a whole. All are compared percent-decoded and without empty segments, and forwarded as
    /// sent.
    #[serde(rename = "type", default)]
    pub r#type: PathType,
    /// The path, without a query: it begins with `/`. For `Regex`, an expression in the syntax of RE2 and of Rust's `regex`, as
    /// in `/v[0-9]+/.*`.
    #[serde(default = "default_path")]
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathType {
    /// The path and everything under it.
    #[default]
    Prefix,
    /// The path alone.
    Exact,
    /// Every path that the regular expression matches as a whole.
    Regex,
}

/// What a request has to have beside its path: all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteMatch {
    /// One of these methods, in capitals, up to 16. Unset, any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 32)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[x_kube(validation = Rule::new("self.all(method, method.matches('^[A-Z][A-Z0-9_-]*$'))")
        .message("must be methods in capitals, as in GET"))]
    pub methods: Vec<String>,
    /// All of these header fields, up to 16. Unset, any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub headers: Vec<HeaderMatch>,
    /// All of these query parameters, up to 16. Unset, any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub query: Vec<QueryMatch>,
}

/// A header field that a request has to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    /// Its name, in any case. Fields that belong to the connection (`Connection`, `Upgrade` and so on) are gone before routes are
    /// looked at, and cannot be asked for.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = Rule::new(concat!(
        "self.matches('^[A-Za-z0-9!#$%&*+.^_`|~-]+$') && !self.matches('(?i)^(connection|http2-settings|keep-alive|proxy|",
        "proxy-authenticate|proxy-authorization|proxy-connection|transfer-encoding|upgrade)$')"
    )).message("must be the name of a header field that does not belong to the connection"))]
    pub name: String,
    /// How `value` is compared with the field's value.
    #[serde(rename = "type", default)]
    pub r#type: MatchType,
    /// The value, or for `Regex` an expression. The values of a field that is there several times are joined by `,`.
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

/// A query parameter that a request has to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueryMatch {
    /// Its name, not percent-encoded.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// How `value` is compared with the parameter's value.
    #[serde(rename = "type", default)]
    pub r#type: MatchType,
    /// The value, not percent-encoded, or for `Regex` an expression. Of a parameter that is there several times, the first
    /// counts.
    #[schemars(length(max = 1024))]
    pub value: String,
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MatchType {
    /// The value, byte by byte.
    #[default]
    Exact,
    /// A value that the regular expression matches as a whole.
    Regex,
}

/// What is changed in the path of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rewrite {
    /// What takes the place of the prefix that `path.value` is: with the path `/api` and the prefix `/v2`, the backend gets
    /// `/v2/x` for `/api/x`. `/` takes the prefix away.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new(r#"self.matches('^/[!-\"$->@-~]*$')"#)
        .message("must begin with '/' and be printable ASCII without spaces, '?' and '#', as it stands in a URL"))]
    pub prefix: String,
}

/// Another place, which visitors are sent to; what is unset stays as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.scheme) || has(self.hostname) || has(self.port) || has(self.path)")
    .message("must have 'scheme', 'hostname', 'port' or 'path', or it would lead to itself"))]
pub struct Redirect {
    /// The scheme. Unset, that of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Scheme")] // an optional enum would lose this text
    pub scheme: Option<Scheme>,
    /// The name. Unset, that of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(r"self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')")
        .message("must be a DNS name in lower case, without a port"))]
    pub hostname: Option<String>,
    /// The port. Unset, the scheme's own where `scheme` is set, else that of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// The path; the query of the request stays. Unset, the path stays, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<RedirectPath>,
    /// The status: 301, 302, 303, 307 or 308.
    #[serde(default = "found")]
    #[x_kube(validation = Rule::new("self in [301, 302, 303, 307, 308]")
        .message("must be 301, 302, 303, 307 or 308"))]
    pub status_code: i32,
}

/// The scheme of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

/// The path of another place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedirectPath {
    /// What `value` takes the place of: `Full` is the whole path, `ReplacePrefix` the prefix that the route's `path.value` is.
    #[serde(rename = "type", default)]
    pub r#type: RedirectPathType,
    /// The path or its new beginning, as it stands in a URL.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new(r#"self.matches('^/[!-\"$->@-~]*$')"#)
        .message("must begin with '/' and be printable ASCII without spaces, '?' and '#', as it stands in a URL"))]
    pub value: String,
}

/// What a redirect's path takes the place of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RedirectPathType {
    /// The whole path.
    #[default]
    Full,
    /// The prefix that the route's path is.
    ReplacePrefix,
}

// === impl PathRule ===

impl Default for PathRule {
    fn default() -> Self {
        Self { r#type: PathType::default(), value: default_path() }
    }
}

fn default_path() -> String {
    "/".to_owned()
}

// === impl PathType ===

impl PathType {
    /// The word in the object.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prefix => "Prefix",
            Self::Exact => "Exact",
            Self::Regex => "Regex",
        }
    }
}

// === impl Redirect ===

fn found() -> i32 {
    302
}
