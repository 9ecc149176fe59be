use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::api::SecretRef;

/// What visitors have to prove. Empty, it is refused: it looks like protection, and would be none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.basic) != (has(self.disabled) && self.disabled)")
    .message("must have either 'basic', how visitors are checked, or 'disabled: true', to let everybody in"))]
pub struct Auth {
    /// HTTP Basic authentication (RFC 7617). The `Authorization` header of a visitor whom the edge has checked is not passed
    /// on to the backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<BasicAuth>,
    /// `true` lets everybody in: for a route that is to be open although its TunnelHost has `auth`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
}

/// HTTP Basic authentication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BasicAuth {
    /// Who may enter: a Secret of type `kubernetes.io/basic-auth` (keys `username` and `password`) or
    /// `culvert.dev/htpasswd` (key `auth`, lines of `user:bcrypt-hash`). While it is missing or wrong, all routes that it
    /// protects answer 500; they are never open.
    pub secret_ref: SecretRef,
    /// What the visitor's browser shows as the place that asks for a password: up to 128 printable ASCII characters
    /// without `"` and `\`.
    #[serde(default = "default_realm")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = Rule::new(r"self.matches('^[ !#-\\[\\]-~]*$')")
        .message(r#"must be printable ASCII without '"' and '\'"#))]
    pub realm: String,
}

/// From which addresses visitors may come. Empty, it is refused: it looks like protection, and would be none. While a
/// network of it cannot be read, all routes that it protects answer 500.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "(has(self.allow) && size(self.allow) > 0) || (has(self.deny) && size(self.deny) > 0)"
).message("must have an entry in 'allow' or 'deny'; for a route that is open to all, allow 0.0.0.0/0 and ::/0"))]
pub struct Access {
    /// The networks that visitors may come from, as in `203.0.113.0/24` or `2001:db8::/32`, or single addresses, up to 128.
    /// Unset or empty, all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 2, max = 49)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allow: Vec<String>,
    /// The networks that visitors may not come from, even where `allow` has them, up to 128. Unset, none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(min = 2, max = 49)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub deny: Vec<String>,
}

fn default_realm() -> String {
    "Restricted".to_owned()
}
