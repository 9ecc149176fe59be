use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps,
};
use kube::CustomResourceExt;
use serde_json::json;

use super::{ConditionStatus, ConditionType, Reason, TunnelAgent, TunnelHost};

/// The CustomResourceDefinitions of TunnelHost and TunnelAgent, as they are installed.
#[must_use]
pub fn crds() -> [CustomResourceDefinition; 2] {
    [seeded(TunnelHost::crd()), seeded(TunnelAgent::crd())]
}

/// Gives new objects a condition from the start, so that "nobody has looked at it yet" is visible. The derive has no way
/// to say it: `status` itself needs the default, because a new object has none.
fn seeded(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let conditions = json!([{
        "type": ConditionType::Accepted.as_str(),
        "status": ConditionStatus::Unknown.as_str(),
        "reason": Reason::Pending.as_str(),
        "message": "waiting for the controller; if this stays, is the edge running?",
        "lastTransitionTime": "1970-01-01T00:00:00Z",
    }]);
    for version in &mut crd.spec.versions {
        let root = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let Some(status) = root.and_then(|root| property(root, "status")) else { continue };
        status.default = Some(JSON(json!({"conditions": conditions})));
        if let Some(list) = property(status, "conditions") {
            list.default = Some(JSON(conditions.clone()));
        }
    }
    crd
}

fn property<'a>(schema: &'a mut JSONSchemaProps, name: &str) -> Option<&'a mut JSONSchemaProps> {
    schema.properties.as_mut()?.get_mut(name)
}
