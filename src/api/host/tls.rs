use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::api::{SecretRef, duration};

/// What visitors see of TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// The certificate of the hostnames, with its key: a Secret of type `kubernetes.io/tls` (keys `tls.crt` and `tls.key`,
    /// PEM), as cert-manager keeps it. A changed Secret is used at once. While it is missing or wrong, the last good
    /// certificate is shown, or else, as when unset, the edge's default certificate. Of several objects that share a
    /// hostname, the oldest that has a certificate for it gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// Whether a request over plain HTTP is answered 308 to the same place under `https`, instead of being served.
    #[serde(default = "yes")]
    pub redirect: bool,
    /// Tells browsers to use no plain HTTP for these hostnames any more (RFC 6797): `Strict-Transport-Security` on every
    /// response over TLS. It cannot be taken back before it ends in each browser. Unset, nothing is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hsts: Option<Hsts>,
}

/// What browsers are to remember.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!self.preload || (self.includeSubdomains && duration(self.maxAge) >= duration('8760h'))"
).message("'preload' needs 'includeSubdomains' and a 'maxAge' of at least 8760h, or the lists of browsers refuse it"))]
pub struct Hsts {
    /// For how long from each response on; `0s` lets browsers forget it.
    #[serde(default = "one_year")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = duration::between("0s", "87600h"))]
    pub max_age: String,
    /// Whether all names under the hostnames are meant, too.
    #[serde(default)]
    pub include_subdomains: bool,
    /// Whether the makers of browsers may build it in (hstspreload.org). Hard to undo.
    #[serde(default)]
    pub preload: bool,
}

fn yes() -> bool {
    true
}

fn one_year() -> String {
    "8760h".to_owned()
}
