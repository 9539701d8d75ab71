//! The definitions against their readers: what a reader knows is in the schema, what one refuses by its type the other
//! refuses, and the chart has what is printed.

use std::collections::BTreeSet;
use std::path::Path;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaPropsOrArray, JSONSchemaPropsOrBool};
use serde_json::{Value, json};

use super::*;
use crate::admission::check::tests::good;
use crate::admission::review::decide;
use crate::objects::destination_rule::DestinationRuleSpec;
use crate::objects::request::{RequestAuthenticationSpec, TelemetrySpec};
use crate::objects::virtual_service::VirtualServiceSpec;
use crate::objects::istio::{ServiceEntrySpec, WorkloadEntrySpec};
use crate::objects::policy::{AuthorizationPolicySpec, PeerAuthenticationSpec};
use crate::objects::rate_limit::RateLimitSpec;

/// Where and why a value is refused, as an API server would; as much of it as our schemas use.
fn refused(schema: &Schema, value: &Value, at: &str) -> Result<(), String> {
    let is_typed = match (schema.type_.as_deref(), value) {
        (Some("object"), Value::Object(_)) | (Some("array"), Value::Array(_)) | (Some("string"), Value::String(_)) => true,
        (Some("integer"), Value::Number(number)) => number.is_i64() || number.is_u64(),
        (Some("boolean"), Value::Bool(_)) => true,
        (None, value) => schema.any_of.iter().flatten().any(|one| refused(one, value, at).is_ok()),
        _ => false,
    };
    if !is_typed {
        return Err(format!("{at}: {value} is not of type {:?}", schema.type_));
    }
    if schema.enum_.as_ref().is_some_and(|values| values.iter().all(|known| known.0 != *value)) {
        return Err(format!("{at}: {value} is not one of the values"));
    }
    if let Some(number) = value.as_f64()
        && (schema.minimum.is_some_and(|least| number < least) || schema.maximum.is_some_and(|most| number > most))
    {
        return Err(format!("{at}: {value} is out of bounds"));
    }
    if let Value::Array(list) = value {
        if schema.min_items.is_some_and(|least| (list.len() as i64) < least) {
            return Err(format!("{at}: too few"));
        }
        let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items else { panic!("{at}: a list of what?") };
        list.iter().enumerate().try_for_each(|(index, value)| refused(items, value, &format!("{at}[{index}]")))?;
    }
    if let Value::Object(fields) = value {
        if let Some(missing) = schema.required.iter().flatten().find(|name| !fields.contains_key(*name)) {
            return Err(format!("{at}.{missing}: is missing"));
        }
        for (name, value) in fields {
            let path = format!("{at}.{name}");
            match (schema.properties.as_ref().and_then(|known| known.get(name)), &schema.additional_properties) {
                (Some(field), _) => refused(field, value, &path)?,
                (None, Some(JSONSchemaPropsOrBool::Schema(values))) => refused(values, value, &path)?,
                (None, _) => assert_eq!(schema.x_kubernetes_preserve_unknown_fields, Some(true), "{path}: would be dropped in silence"),
            }
        }
    }
    Ok(())
}

/// A value with every field of the schema.
fn sample(schema: &Schema) -> Value {
    if let Some(values) = &schema.enum_ {
        return values[0].0.clone();
    }
    match schema.type_.as_deref().unwrap() {
        "string" => json!("x"),
        "boolean" => json!(true),
        "integer" => json!(schema.minimum.unwrap() as u32 + 1),
        "array" => match &schema.items {
            Some(JSONSchemaPropsOrArray::Schema(items)) => json!([sample(items)]),
            _ => panic!("a list of what?"),
        },
        _ => match &schema.additional_properties {
            // A name that can be a port, too.
            Some(JSONSchemaPropsOrBool::Schema(values)) => json!({ "80": sample(values) }),
            _ => schema.properties.iter().flatten().map(|(name, field)| (name.clone(), sample(field))).collect(),
        },
    }
}

/// Every schema within one, with the path of its value in `sample`.
fn parts<'a>(schema: &'a Schema, at: &str, found: &mut Vec<(String, &'a Schema)>) {
    found.push((at.to_owned(), schema));
    for (name, field) in schema.properties.iter().flatten() {
        parts(field, &format!("{at}/{name}"), found);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        parts(items, &format!("{at}/0"), found);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
        parts(values, &format!("{at}/80"), found);
    }
}

/// What the reader says of a spec.
fn read(kind: Kind, spec: &Value) -> Result<(), String> {
    fn as_spec<T: serde::de::DeserializeOwned>(spec: &Value) -> Result<(), String> {
        serde_json::from_value::<T>(spec.clone()).map(drop).map_err(|error| error.to_string())
    }
    match kind {
        Kind::ServiceEntry => as_spec::<ServiceEntrySpec>(spec),
        Kind::WorkloadEntry => as_spec::<WorkloadEntrySpec>(spec),
        Kind::AuthorizationPolicy => as_spec::<AuthorizationPolicySpec>(spec),
        Kind::RateLimit => as_spec::<RateLimitSpec>(spec),
        Kind::RequestAuthentication => as_spec::<RequestAuthenticationSpec>(spec),
        Kind::DestinationRule => as_spec::<DestinationRuleSpec>(spec),
        Kind::VirtualService => as_spec::<VirtualServiceSpec>(spec),
        Kind::Telemetry => as_spec::<TelemetrySpec>(spec),
        _ => as_spec::<PeerAuthenticationSpec>(spec),
    }
}

fn each() -> impl Iterator<Item = (Kind, Schema)> {
    DEFINED.iter().map(|defined| (defined.kind, (defined.spec)()))
}

#[test]
fn the_chart_has_the_definitions_that_are_printed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/isthmus/files/crds");
    let mut names = BTreeSet::new();
    for definition in definitions() {
        let path = folder.join(file_name(&definition));
        let text = yaml(&definition).unwrap();
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(there == text, "{} is not what is printed: UPDATE=1 cargo test -p istiod-lite crds", path.display());
        // What is written is what is meant.
        let back: CustomResourceDefinition = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(back, definition);
        names.insert(file_name(&definition));
    }
    let files: BTreeSet<String> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(files, names);
}

#[test]
fn every_version_that_is_read_is_served_and_the_newest_is_stored() {
    for definition in definitions() {
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == definition.spec.names.kind).unwrap();
        let versions: Vec<&str> = definition.spec.versions.iter().map(|version| version.name.as_str()).collect();
        assert_eq!(versions, kind.group_versions().1);
        let stored: Vec<bool> = definition.spec.versions.iter().map(|version| version.storage && version.served).collect();
        assert_eq!(stored.iter().filter(|stored| **stored).count(), 1);
        assert!(stored[0], "{kind}");
    }
}

#[test]
fn the_schema_has_the_fields_of_the_reader() {
    let mut compared = 0;
    for (kind, schema) in each() {
        let mut found = Vec::new();
        parts(&schema, "", &mut found);
        for (at, part) in found {
            let Some(fields) = &part.properties else { continue };
            let mut spec = sample(&schema);
            spec.pointer_mut(&at).unwrap().as_object_mut().unwrap().insert("zzz".into(), json!(1));
            let said = read(kind, &spec).unwrap_err();
            let names = said.split_once("unknown field `zzz`, expected ").unwrap_or_else(|| panic!("{kind}{at}: {said}")).1;
            let known: BTreeSet<&str> = names.split('`').skip(1).step_by(2).collect();
            assert_eq!(fields.keys().map(String::as_str).collect::<BTreeSet<_>>(), known, "{kind}{at}");
            assert_eq!(part.x_kubernetes_preserve_unknown_fields, Some(true), "{kind}{at}: what is not known would be dropped");
            compared += 1;
        }
    }
    assert!(compared > 15, "{compared}");
}

#[test]
fn what_has_the_types_of_the_schema_can_be_read_and_nothing_else() {
    for (kind, schema) in each() {
        let whole = sample(&schema);
        assert_eq!((refused(&schema, &whole, "spec"), read(kind, &whole)), (Ok(()), Ok(())), "{kind}");
        let mut found = Vec::new();
        parts(&schema, "", &mut found);
        for (at, part) in found.into_iter().filter(|(at, _)| !at.is_empty()) {
            let others = [("string", json!("text")), ("integer", json!(7)), ("boolean", json!(true)), ("array", json!([[1]])), ("object", json!({ "80": [1] }))];
            for (name, other) in others.into_iter().filter(|(name, _)| Some(*name) != part.type_.as_deref()) {
                let mut wrong = whole.clone();
                *wrong.pointer_mut(&at).unwrap() = other;
                assert!(refused(&schema, &wrong, "spec").is_err(), "{kind}{at}: {name} is stored");
                assert!(read(kind, &wrong).is_err(), "{kind}{at}: {name} is read");
            }
        }
    }
}

#[test]
fn good_objects_are_valid() {
    for (kind, spec) in good() {
        let schema = each().find(|(other, _)| *other == kind).unwrap().1;
        assert_eq!(refused(&schema, &spec, "spec"), Ok(()), "{kind}");
    }
    // What a newer version of the API may have is kept.
    for (kind, schema) in each() {
        let mut spec = sample(&schema);
        spec.as_object_mut().unwrap().insert("ofTomorrow".into(), json!({ "a": [1] }));
        assert_eq!(refused(&schema, &spec, "spec"), Ok(()), "{kind}");
    }
}

#[test]
fn values_of_enumerations_are_those_that_are_honoured() {
    for (kind, schema) in each() {
        let (group, versions) = kind.group_versions();
        let asked = |spec: &Value| {
            let object = json!({ "apiVersion": format!("{group}/{}", versions[0]), "kind": kind.name(), "metadata": { "namespace": "shop", "name": "o" }, "spec": spec });
            decide(kind, &object.to_string()).refused
        };
        let good = good().into_iter().find(|(other, _)| *other == kind).unwrap().1;
        let mut found = Vec::new();
        parts(&schema, "", &mut found);
        for (at, part) in found {
            let Some(values) = &part.enum_ else { continue };
            let with = |value: Value| {
                let mut spec = good.clone();
                // The name of the port is the object's own.
                *spec.pointer_mut(&at.replace("/80/", "/8080/")).unwrap() = value;
                spec
            };
            for value in values {
                let said = asked(&with(value.0.clone()));
                assert!(said.as_ref().is_none_or(|said| !said.contains(&format!("{} is not", value.0))), "{kind}{at}: {said:?}");
            }
            let other = with(json!("OTHER"));
            assert!(refused(&schema, &other, "spec").is_err() && asked(&other).is_some(), "{kind}{at}");
        }
    }
}

// spec/controlplane.md 4.13: several controllers have conditions on one object
#[test]
fn conditions_are_a_map_by_type_and_take_the_status_that_we_write() {
    for defined in &DEFINED {
        let status = status::of(defined.kind);
        let conditions = &status.properties.as_ref().unwrap()["conditions"];
        assert_eq!((conditions.x_kubernetes_list_type.as_deref(), conditions.x_kubernetes_list_map_keys.as_deref()), (Some("map"), Some(&["type".to_owned()][..])));
        for generation in [json!(3), json!("3")] {
            let ours = json!({
                "conditions": [{ "type": "ZtunnelAccepted", "status": "True", "reason": "r", "message": "m", "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z" }],
                "validationMessages": [],
            });
            assert_eq!(refused(&status, &ours, "status"), Ok(()));
        }
        assert!(refused(&status, &json!({ "conditions": [{ "status": "True" }] }), "status").is_err());
    }
}
