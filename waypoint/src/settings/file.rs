//! A waypoint that is configured by a file: documents of YAML, one resource each (spec/waypoint.md 8.2). Here: text to
//! resources, and what is wrong with the text, with its line. Pure; who reads the file is `follow`.
//!
//! ```yaml
//! type: HttpRoute
//! name: shop/web            # any name that no other resource of the type has
//! spec: {...}               # as the message of that type
//! ---
//! type: Workload            # Workload and Service are who is where, in the place of a control plane
//! name: pod-1
//! spec: {namespace: shop, serviceAccount: web, workloadIps: [10.0.0.7], protocol: HBONE, services: {shop/web.shop.svc.cluster.local: {80: 8080}}}
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use mesh_model::change::Change;
use mesh_model::service::Service;
use mesh_model::workload::Workload;
use mesh_xds::messages::waypoint as wire;
use prost::Message;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

mod address;
pub mod follow;

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct File {
    /// By type and name: the bytes of the message, and the line of its document.
    pub resources: BTreeMap<(&'static str, String), Resource>,
    pub workloads: BTreeMap<String, Arc<Workload>>,
    pub services: BTreeMap<String, Arc<Service>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    pub bytes: Vec<u8>,
    pub line: usize,
}

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    pub why: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.why)
    }
}

impl std::error::Error for FileError {}

/// The part of a document that says what the rest is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Heading {
    r#type: String,
    name: String,
    #[serde(default, rename = "spec")]
    _spec: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<T> {
    #[serde(rename = "type")]
    _type: IgnoredAny,
    #[serde(rename = "name")]
    _name: IgnoredAny,
    #[serde(default = "none")]
    spec: Option<T>,
}

fn none<T>() -> Option<T> {
    None
}

impl File {
    /// Reads the text of a file; `name` is for messages. A file with a fault anywhere is refused as a whole.
    pub fn parse(name: &str, text: &str) -> Result<File, FileError> {
        let mut file = File::default();
        for (first, document) in documents(text) {
            let wrong = |line: usize, why: String| FileError { file: name.to_owned(), line: first + line - 1, why };
            file.take(first, document).map_err(|(line, why)| wrong(line, why))?;
        }
        Ok(file)
    }

    fn take(&mut self, line: usize, document: &str) -> Result<(), (usize, String)> {
        let heading: Heading = read(document)?;
        let name = heading.name;
        let twice = |kind: &str| Err((1, format!("the {kind} {name:?} stands twice in the file; give each a name of its own")));
        match heading.r#type.as_str() {
            "Workload" => {
                let workload: address::Workload = spec(document)?.unwrap_or_default();
                if self.workloads.insert(name.clone(), Arc::new(workload.named(&name))).is_some() {
                    return twice("Workload");
                }
            }
            "Service" => {
                let service: address::Service =
                    spec(document)?.ok_or((1, "a Service has a spec with hostname and namespace".to_owned()))?;
                if self.services.insert(name.clone(), Arc::new(service.into_noun())).is_some() {
                    return twice("Service");
                }
            }
            other => {
                let (type_url, bytes) = resource(other, document)?;
                if self.resources.insert((type_url, name.clone()), Resource { bytes, line }).is_some() {
                    return twice(other);
                }
            }
        }
        Ok(())
    }

    /// What a directory is to be told, where it has what `before` says.
    pub fn changes_from(&self, before: &File) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::new();
        let kept: BTreeSet<Arc<str>> = self.keys().collect();
        changes.extend(before.keys().filter(|key| !kept.contains(key)).map(Change::Remove));
        changes.extend(self.services.values().cloned().map(Change::Service));
        changes.extend(self.workloads.values().cloned().map(Change::Workload));
        changes
    }

    fn keys(&self) -> impl Iterator<Item = Arc<str>> + '_ {
        let services = self.services.values().map(|service| service.key().to_string().into());
        self.workloads.values().map(|workload| workload.uid.0.clone()).chain(services)
    }
}

/// The documents of a text, each with the number of its first line. An empty one is none.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut first) = (0, 1);
    let mut at = 0;
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        if line.trim_end() == "---" {
            documents.push((first, &text[start..at]));
            (start, first) = (at + line.len(), number + 1);
        }
        at += line.len();
    }
    documents.push((first, &text[start..]));
    let says = |text: &str| text.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    documents.retain(|(_, text)| says(text));
    documents
}

fn resource(kind: &str, document: &str) -> Result<(&'static str, Vec<u8>), (usize, String)> {
    fn of<M: Message + Default + DeserializeOwned>(document: &str) -> Result<Vec<u8>, (usize, String)> {
        Ok(spec::<M>(document)?.unwrap_or_default().encode_to_vec())
    }
    let bytes = match kind {
        "MeshSettings" => of::<wire::MeshSettings>(document)?,
        "ServicePort" => of::<wire::ServicePort>(document)?,
        "HttpRoute" => of::<wire::HttpRoute>(document)?,
        "TcpRoute" => of::<wire::TcpRoute>(document)?,
        "TlsRoute" => of::<wire::TlsRoute>(document)?,
        "Subset" => of::<wire::Subset>(document)?,
        "BackendPolicy" => of::<wire::BackendPolicy>(document)?,
        "HttpPolicy" => of::<wire::HttpPolicy>(document)?,
        "AuthzPolicy" => of::<wire::AuthzPolicy>(document)?,
        "JwtPolicy" => of::<wire::JwtPolicy>(document)?,
        "ExtAuthzProvider" => of::<wire::ExtAuthzProvider>(document)?,
        "RateLimit" => of::<wire::RateLimit>(document)?,
        "Telemetry" => of::<wire::Telemetry>(document)?,
        "TelemetryProvider" => of::<wire::TelemetryProvider>(document)?,
        _ => {
            let known = wire::ALL.map(short).join(", ");
            return Err((1, format!("{kind:?} is no type of a resource: {known}, Workload, Service")));
        }
    };
    let type_url = wire::ALL.into_iter().find(|type_url| short(type_url) == kind).expect("the types above are those of ALL");
    Ok((type_url, bytes))
}

/// `HttpRoute`.
pub fn short(type_url: &'static str) -> &'static str {
    type_url.rsplit('.').next().unwrap_or(type_url)
}

fn spec<T: DeserializeOwned>(document: &str) -> Result<Option<T>, (usize, String)> {
    Ok(read::<Document<T>>(document)?.spec)
}

/// The fault has its line within the document.
fn read<T: DeserializeOwned>(document: &str) -> Result<T, (usize, String)> {
    serde_saphyr::from_str(document).map_err(|error| {
        let line = error.location().and_then(|place| usize::try_from(place.line()).ok()).unwrap_or(1);
        let mut options = serde_saphyr::RenderOptions::default();
        options.snippets = serde_saphyr::SnippetMode::Off;
        let rendered = error.without_snippet().render_with_options(options);
        let first = rendered.lines().next().unwrap_or_default();
        (line.max(1), first.split(" at line ").next().unwrap_or(first).trim_start_matches("error: ").to_owned())
    })
}

#[cfg(test)]
mod tests;
