//! Names, labels and annotations of an object, and the rule for what a name may look like.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::Deserialize;

use super::Kind;
pub use super::labels::Labels;
use super::pod::Owner;

/// `namespace/name`; the namespace is empty for objects that have none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NsName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub kind: Kind,
    pub name: NsName,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Meta {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
    pub labels: Labels,
    /// Only those of the Istio family: others (and the copy of itself that kubectl leaves in an object) mean nothing here.
    pub annotations: Labels,
    /// Seconds since 1970. Objects of a folder have none and count as the oldest.
    pub created: Option<i64>,
    pub generation: i64,
    pub is_deleting: bool,
}

/// What is read of Kubernetes' metadata. Managed fields, the longest part of it, are skipped.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    labels: Option<Labels>,
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    generation: Option<i64>,
    pub generate_name: Option<Arc<str>>,
    owner_references: Option<Vec<Reference>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Reference {
    kind: Arc<str>,
    name: Arc<str>,
    controller: Option<bool>,
}

impl Metadata {
    pub fn has_annotation(&self, name: &str) -> bool {
        self.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(name))
    }

    pub fn controller(&self) -> Option<Owner> {
        let owner = self.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        owner.map(|owner| Owner { kind: owner.kind.clone(), name: owner.name.clone() })
    }
}

/// As much as all kinds need.
impl From<ObjectMeta> for Metadata {
    fn from(meta: ObjectMeta) -> Metadata {
        Metadata {
            name: meta.name,
            namespace: meta.namespace,
            uid: meta.uid,
            labels: meta.labels.map(Labels::from),
            annotations: meta.annotations,
            creation_timestamp: meta.creation_timestamp,
            deletion_timestamp: meta.deletion_timestamp,
            generation: meta.generation,
            generate_name: None,
            owner_references: None,
        }
    }
}

impl NsName {
    pub fn new(namespace: &str, name: &str) -> NsName {
        NsName { namespace: namespace.into(), name: name.into() }
    }
}

impl ObjectKey {
    pub fn new(kind: Kind, namespace: &str, name: &str) -> ObjectKey {
        ObjectKey { kind, name: NsName::new(namespace, name) }
    }
}

impl fmt::Display for NsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

impl Meta {
    /// Takes what we keep of Kubernetes' metadata; `Err` names the field and why it cannot be taken.
    pub fn of(kind: Kind, meta: impl Into<Metadata>) -> Result<Meta, (&'static str, String)> {
        let meta = meta.into();
        let name = meta.name.unwrap_or_default();
        if name.is_empty() {
            return Err(("metadata.name", "an object needs a name".into()));
        }
        check_name(&name).map_err(|why| ("metadata.name", why))?;
        let namespace = match kind.is_namespaced() {
            // kubectl applies an object without namespace to `default`; a folder of the same YAML means the same.
            true => meta.namespace.filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| "default".into()),
            false => String::new(),
        };
        if kind.is_namespaced() {
            check_name(&namespace).map_err(|why| ("metadata.namespace", why))?;
        }
        Ok(Meta {
            namespace: namespace.into(),
            name: name.into(),
            uid: meta.uid.unwrap_or_default().into(),
            labels: meta.labels.unwrap_or_default(),
            annotations: meta.annotations.unwrap_or_default().into_iter().filter(|(key, _)| key.contains("istio.io/")).map(|(key, value)| (key.into(), value.into())).collect(),
            created: meta.creation_timestamp.map(|time| time.0.as_second()),
            generation: meta.generation.unwrap_or(0),
            is_deleting: meta.deletion_timestamp.is_some(),
        })
    }

    pub fn ns_name(&self) -> NsName {
        NsName { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(|value| &**value)
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(|value| &**value)
    }

    /// Who wins where several objects claim one thing: the oldest, then the first by name. Total, so that replicas agree
    /// (spec/controlplane.md 14.24).
    pub fn seniority(&self) -> (i64, &str, &str) {
        (self.created.unwrap_or(0), &self.namespace, &self.name)
    }
}

/// Kubernetes' DNS-1123 subdomain. Our own policy names hold a `_` exactly because such a name cannot
/// (spec/controlplane.md 1.10), and names go into identities and resource names.
pub fn check_name(name: &str) -> Result<(), String> {
    let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let ends_sound = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if name.len() <= 253 && name.chars().all(sound) && ends_sound(name.chars().next()) && ends_sound(name.chars().last()) {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    Err(format!("{shown:?} is not a Kubernetes name: up to 253 of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit"))
}

/// A label as the API server takes it on an object: a selector of anything else selects nobody, whatever was meant.
pub fn check_label(key: &str, value: &str) -> Result<(), String> {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ends_sound = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let word = |word: &str| word.len() <= 63 && word.chars().all(sound) && ends_sound(word.chars().next()) && ends_sound(word.chars().last());
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if !word(name) || prefix.is_some_and(|prefix| check_name(prefix).is_err()) {
        return Err(format!("{key:?} is no key of a label: [PREFIX/]NAME, up to 63 of a-z, A-Z, 0-9, '-', '_' and '.'"));
    }
    if !value.is_empty() && !word(value) {
        return Err(format!("{value:?} is no value of label {key}: up to 63 of a-z, A-Z, 0-9, '-', '_' and '.'"));
    }
    Ok(())
}

/// Every pair of the selector is among the labels. An empty selector matches everything here; callers for whom it
/// matches nothing ask first.
pub fn matches(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
