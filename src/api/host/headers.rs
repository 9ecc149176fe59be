use std::{borrow::Cow, collections::BTreeMap};

use kube::{KubeSchema, core::cel::Rule};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Changes to header fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Headers {
    /// Changes to the request before the backend gets it. Unset, none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<HeaderRules>,
    /// Changes to the backend's response before the visitor gets it. Unset, none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<HeaderRules>,
}

/// Changes to header fields: first those removed, then those set, then those added. Fields that belong to the connection
/// (`Connection`, `Upgrade` and so on), `Content-Length`, `Transfer-Encoding`, `Trailer` and `Host` cannot be changed;
/// `Host` has `backend.hostHeader`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderRules {
    /// Fields that get this one value, whatever they had, by name, up to 32. Unset, none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, HeaderText>", extend("maxProperties" = 32))]
    #[x_kube(validation = changeable())]
    pub set: BTreeMap<String, String>,
    /// Fields that get this value beside those that they have, by name, up to 32. Unset, none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, HeaderText>", extend("maxProperties" = 32))]
    #[x_kube(validation = changeable())]
    pub add: BTreeMap<String, String>,
    /// Names of fields that are taken out, up to 32. Unset, none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[x_kube(validation = changeable())]
    pub remove: Vec<String>,
}

/// The schema of a header field's value.
struct HeaderText;

/// The rule for the names of fields in a map or a list.
fn changeable() -> Rule {
    Rule::new(concat!(
        "self.all(name, name.matches('^[A-Za-z0-9!#$%&*+.^_`|~-]+$') && !name.matches('(?i)^(connection|content-length|expect|",
        "host|http2-settings|keep-alive|proxy|proxy-authenticate|proxy-authorization|proxy-connection|te|trailer|",
        "transfer-encoding|upgrade)$'))"
    ))
    .message(concat!(
        "must be names of header fields that do not belong to the connection or the framing of a message; for Host, set ",
        "backend.hostHeader"
    ))
}

// === impl HeaderText ===

impl JsonSchema for HeaderText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "HeaderText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 2048})
    }
}
