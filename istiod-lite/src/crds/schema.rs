//! Words that schemas are written with. Each is a structural schema of Kubernetes
//! (apiextensions.k8s.io/v1, CustomResourceValidation).

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool};
use serde_json::json;

pub type Schema = JSONSchemaProps;

fn typed(name: &str, what: &str) -> Schema {
    Schema { type_: Some(name.to_owned()), description: (!what.is_empty()).then(|| what.to_owned()), ..Schema::default() }
}

/// An object of a custom resource: its frame is Kubernetes' own.
pub fn frame(spec: Schema, status: Schema) -> Schema {
    let fields = BTreeMap::from([("spec".to_owned(), spec), ("status".to_owned(), status)]);
    Schema { properties: Some(fields), ..typed("object", "") }
}

/// An object of known fields; others are kept, not dropped.
pub fn object<const N: usize>(what: &str, fields: [(&str, Schema); N]) -> Schema {
    let fields = fields.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    Schema { properties: Some(fields), x_kubernetes_preserve_unknown_fields: Some(true), ..typed("object", what) }
}

/// An object whose fields are those of the field's own definition: they are read strictly, and what is wrong with them
/// stands in the status.
pub fn open(what: &str) -> Schema {
    Schema { x_kubernetes_preserve_unknown_fields: Some(true), ..typed("object", what) }
}

pub fn needing(mut schema: Schema, fields: &[&str]) -> Schema {
    schema.required = Some(fields.iter().map(|&field| field.to_owned()).collect());
    schema
}

pub fn text(what: &str) -> Schema {
    typed("string", what)
}

pub fn one_of(what: &str, values: &[&str]) -> Schema {
    Schema { enum_: Some(values.iter().map(|value| JSON(json!(value))).collect()), ..typed("string", what) }
}

pub fn flag(what: &str) -> Schema {
    typed("boolean", what)
}

/// A port of TCP or UDP.
pub fn port(what: &str) -> Schema {
    number(what, 1, u32::from(u16::MAX))
}

pub fn number(what: &str, least: u32, most: u32) -> Schema {
    Schema { minimum: Some(least.into()), maximum: Some(most.into()), ..typed("integer", what) }
}

pub fn list(what: &str, items: Schema) -> Schema {
    Schema { items: Some(JSONSchemaPropsOrArray::Schema(Box::new(items))), ..typed("array", what) }
}

pub fn texts(what: &str) -> Schema {
    list(what, text(""))
}

/// Names that are the user's own.
pub fn map(what: &str, values: Schema) -> Schema {
    Schema { additional_properties: Some(JSONSchemaPropsOrBool::Schema(Box::new(values))), ..typed("object", what) }
}

/// Written as a number by some, and as a text by those for whom JSON has no 64-bit numbers (protobuf).
pub fn number_or_text(what: &str) -> Schema {
    let any_of = ["integer", "string"].map(|name| typed(name, "")).to_vec();
    let description = Some(what.to_owned());
    Schema { any_of: Some(any_of), x_kubernetes_int_or_string: Some(true), description, ..Schema::default() }
}

/// A list of objects of which each has another key, so that several writers can each have theirs.
pub fn keyed_list(what: &str, key: &str, items: Schema) -> Schema {
    Schema {
        x_kubernetes_list_type: Some("map".to_owned()),
        x_kubernetes_list_map_keys: Some(vec![key.to_owned()]),
        ..list(what, needing(items, &[key]))
    }
}
