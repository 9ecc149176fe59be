use std::{borrow::Cow, collections::BTreeMap};

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Which namespaces' TunnelHosts may send requests to an agent. Those of its own always may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.from == 'Selector') == has(self.selector)")
    .message("'from: Selector' needs a 'selector', and no other has one"))]
pub struct AllowedNamespaces {
    /// `Same` is the agent's own namespace, `All` is every one, `Selector` is those whose labels `selector` matches, and the
    /// agent's own. An edge that watches some namespaces only (`--watch-namespaces`) knows no labels: it refuses `Selector`, and `All` is
    /// every one that it watches.
    #[serde(default)]
    pub from: NamespacesFrom,
    /// Which labels a namespace has to have, with `from: Selector`. Each has `kubernetes.io/metadata.name`, its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<NamespaceSelector>,
}

/// Where the TunnelHosts are that may use an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NamespacesFrom {
    /// In the agent's own namespace.
    #[default]
    Same,
    /// Anywhere.
    All,
    /// Where the namespace has certain labels.
    Selector,
}

/// Which labels a namespace has to have, as in all of Kubernetes (`metav1.LabelSelector`): all that is listed. A selector that
/// lists nothing matches every namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceSelector {
    /// Labels with the values that they must have, up to 32. Unset, none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, LabelText>", extend("maxProperties" = 32))]
    pub match_labels: BTreeMap<String, String>,
    /// What else must hold of labels, up to 32. Unset, nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub match_expressions: Vec<LabelExpression>,
}

/// What must hold of one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)")
    .message("In and NotIn need 'values', Exists and DoesNotExist have none"))]
pub struct LabelExpression {
    /// The label's name.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// `In`: its value is one of `values`; `NotIn`: it is none of them, or the label is not there; `Exists`; `DoesNotExist`.
    pub operator: LabelOperator,
    /// The values that `In` and `NotIn` compare with, up to 64. Unset, none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LabelOperator {
    /// Its value is one of those.
    In,
    /// Its value is none of those, or it is not there.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

/// The schema of a label's value.
struct LabelText;

// === impl NamespaceSelector ===

impl NamespaceSelector {
    /// Whether a namespace with these labels is meant.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|expression| expression.matches(labels))
    }
}

// === impl LabelExpression ===

impl LabelExpression {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            LabelOperator::In => value.is_some_and(|value| self.values.contains(value)),
            // Without values it would let everybody in; the schema refuses that, and a file might be older than the schema.
            LabelOperator::NotIn => !self.values.is_empty() && value.is_none_or(|value| !self.values.contains(value)),
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

// === impl LabelText ===

impl JsonSchema for LabelText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "LabelText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 63})
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_selector_matches_as_in_the_rest_of_kubernetes() {
        let labels = BTreeMap::from([("team".to_owned(), "web".to_owned()), ("env".to_owned(), "test".to_owned())]);
        let matches = |selector: serde_json::Value| {
            serde_json::from_value::<NamespaceSelector>(selector).expect("a selector").matches(&labels)
        };
        let expression = |key: &str, operator: &str, values: &[&str]| {
            matches(json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}))
        };
        assert!(matches(json!({})));
        assert!(matches(json!({"matchLabels": {"team": "web"}})));
        assert!(!matches(json!({"matchLabels": {"team": "web", "env": "live"}})));
        assert!(expression("team", "In", &["shop", "web"]) && !expression("team", "In", &["shop"]));
        assert!(!expression("none", "In", &["web"]));
        assert!(expression("team", "NotIn", &["shop"]) && !expression("team", "NotIn", &["web"]));
        assert!(expression("none", "NotIn", &["web"]) && !expression("none", "NotIn", &[]));
        assert!(expression("team", "Exists", &[]) && !expression("none", "Exists", &[]));
        assert!(expression("none", "DoesNotExist", &[]) && !expression("team", "DoesNotExist", &[]));
        assert!(!matches(json!({
            "matchLabels": {"team": "web"},
            "matchExpressions": [{"key": "env", "operator": "NotIn", "values": ["test"]}],
        })));
    }
}
