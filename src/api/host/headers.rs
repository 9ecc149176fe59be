use std::{borrow::Cow, collections::BTreeMap};

use kube::KubeSchema;
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
    pub set: BTreeMap<String, String>,
    /// Fields that get this value beside those that they have, by name, up to 32. Unset, none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, HeaderText>", extend("maxProperties" = 32))]
    pub add: BTreeMap<String, String>,
    /// Names of fields that are taken out, up to 32. Unset, none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 128)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub remove: Vec<String>,
}

/// The schema of a header field's value. Its form is judged by the compiler: the fields of one map can be wrong one by one.
struct HeaderText;

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
