//! An object as an API server sends it: its text, and as much of its metadata as watching needs. What we hold of it is
//! made by `objects::read`, one object after the other, so that no list is in memory twice.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::{ApiResource, DynamicResourceScope};
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::objects::{Kind, NsName};

#[derive(Clone, Debug)]
pub struct Sent {
    meta: ObjectMeta,
    text: Box<RawValue>,
}

#[derive(Deserialize)]
struct Frame {
    #[serde(default)]
    metadata: Place,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Place {
    name: String,
    namespace: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
}

impl Sent {
    pub fn name(&self) -> NsName {
        NsName::new(self.meta.namespace.as_deref().unwrap_or_default(), self.meta.name.as_deref().unwrap_or_default())
    }

    pub fn generation(&self) -> i64 {
        self.meta.generation.unwrap_or(0)
    }

    pub fn text(&self) -> &str {
        self.text.get()
    }
}

impl<'de> Deserialize<'de> for Sent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Sent, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let Frame { metadata } = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
        let meta = ObjectMeta {
            name: Some(metadata.name),
            namespace: metadata.namespace,
            resource_version: metadata.resource_version,
            generation: metadata.generation,
            ..ObjectMeta::default()
        };
        Ok(Sent { meta, text })
    }
}

impl Resource for Sent {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        of.kind.as_str().into()
    }

    fn group(of: &ApiResource) -> Cow<'_, str> {
        of.group.as_str().into()
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        of.version.as_str().into()
    }

    fn api_version(of: &ApiResource) -> Cow<'_, str> {
        of.api_version.as_str().into()
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        of.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// How an API server names a kind in one of its versions.
pub fn resource(kind: Kind, version: &str) -> ApiResource {
    let (group, _) = kind.group_versions();
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    ApiResource { group: group.to_owned(), version: version.to_owned(), api_version, kind: kind.name().to_owned(), plural: kind.plural().to_owned() }
}
