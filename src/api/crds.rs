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

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::api::reference;

    /// Where the generated files are, and what they are.
    fn generated() -> impl Iterator<Item = (String, String)> {
        let definitions = crds().into_iter().map(|crd| {
            let name = format!("crds/{}.yaml", crd.spec.names.plural);
            (name, serde_saphyr::to_string(&crd).expect("YAML"))
        });
        definitions.chain([("docs/crds.md".to_owned(), reference::markdown())])
    }

    #[test]
    fn the_generated_files_are_up_to_date() {
        for (name, text) in generated() {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&name);
            if std::env::var_os("CULVERT_GENERATE").is_some() {
                fs::write(&path, &text).expect("a file");
            }
            let found = fs::read_to_string(&path).unwrap_or_default();
            assert!(found == text, "{name} is not what the types say; run CULVERT_GENERATE=1 cargo test --lib api");
        }
    }

    /// Every field below `schema` that people write or read.
    fn walk(schema: &JSONSchemaProps, path: &str, visit: &mut impl FnMut(&str, &JSONSchemaProps)) {
        visit(path, schema);
        for (name, property) in schema.properties.iter().flatten() {
            walk(property, &format!("{path}.{name}"), visit);
        }
        if let Some(items) = &schema.items {
            let items = serde_json::from_value(serde_json::to_value(items).expect("JSON")).expect("a schema");
            walk(&items, &format!("{path}[]"), visit);
        }
    }

    #[test]
    fn every_field_is_described() {
        let mut fields = 0;
        for crd in crds() {
            let schema = crd.spec.versions[0].schema.as_ref().expect("a schema");
            let root = schema.open_api_v3_schema.as_ref().expect("a schema");
            walk(root, &crd.spec.names.kind, &mut |path, schema| {
                // An item is described by its list.
                let described = schema.description.as_ref().is_some_and(|text| text.len() > 10);
                assert!(described || path.ends_with("[]"), "{path} has no description");
                fields += 1;
            });
        }
        assert!(fields > 50, "only {fields} fields were visited");
    }

    #[test]
    fn every_list_and_text_of_a_spec_is_bounded_for_the_cost_of_its_rules() {
        for crd in crds() {
            let schema = crd.spec.versions[0].schema.as_ref().expect("a schema");
            let root = schema.open_api_v3_schema.as_ref().expect("a schema");
            let spec = &root.properties.as_ref().expect("properties")["spec"];
            walk(spec, "spec", &mut |path, schema| match schema.type_.as_deref() {
                Some("array") => assert!(schema.max_items.is_some(), "{path} has no maxItems"),
                Some("string") if schema.enum_.is_none() => {
                    assert!(schema.max_length.is_some(), "{path} has no maxLength");
                }
                _ => {}
            });
        }
    }

    #[test]
    fn a_new_object_waits_for_the_controller() {
        for crd in crds() {
            let schema = crd.spec.versions[0].schema.as_ref().expect("a schema");
            let status =
                &schema.open_api_v3_schema.as_ref().expect("a schema").properties.as_ref().expect("some")["status"];
            let seed = &status.default.as_ref().expect("a default").0["conditions"][0];
            assert_eq!(
                (&seed["type"], &seed["status"], &seed["reason"]),
                (&json!("Accepted"), &json!("Unknown"), &json!("Pending"))
            );
        }
    }
}
