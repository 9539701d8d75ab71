//! What the mesh's configuration says: the file that is mounted beside us, and `PROXY_CONFIG` with the same keys on top.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use mesh_runtime::knobs::Knobs;
use serde::Deserialize;

use super::{MESH_FILE, Told};

/// The keys that concern us; others are for others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MeshFile {
    pub discovery_address: Option<String>,
    pub admin_port: Option<u16>,
    pub stats_port: Option<u16>,
    pub concurrency: Option<u32>,
    /// `proxyMetadata`, its keys without `ISTIO_META_`.
    pub metadata: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Keys {
    discovery_address: Option<String>,
    proxy_admin_port: Option<u16>,
    stats_port: Option<u16>,
    concurrency: Option<u32>,
    #[serde(default)]
    proxy_metadata: BTreeMap<String, Scalar>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    default_config: Option<Keys>,
}

/// YAML reads `true` and `1` as what they look like; metadata is text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Truth(bool),
    Whole(i64),
    Fraction(f64),
    Text(String),
}

/// The file, then the variable on top of it, key by key.
pub(super) fn read(knobs: &mut Knobs<'_>, told: &Told<'_>) -> MeshFile {
    knobs.section("Mesh configuration");
    let default = "the file `./etc/istio/config/mesh`, if it is there";
    let says = "YAML with `discoveryAddress`, `proxyAdminPort`, `statsPort`, `concurrency` and `proxyMetadata`; wins over the same keys under `defaultConfig` in the file.";
    let inline: Option<String> = knobs.optional("PROXY_CONFIG", default, says);
    let mut merged = MeshFile::default();
    match (told.read)(Path::new(MESH_FILE)) {
        Ok(text) => match yaml::<File>(&text) {
            Ok(file) => merged.add(file.default_config.unwrap_or_default()),
            Err(error) => knobs.refuse("PROXY_CONFIG", format!("a usable file {MESH_FILE}: {error}")),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => knobs.refuse("PROXY_CONFIG", format!("a readable file {MESH_FILE}: {error}")),
    }
    match inline.map(|text| yaml::<Keys>(&text)) {
        Some(Ok(keys)) => merged.add(keys),
        Some(Err(error)) => knobs.refuse("PROXY_CONFIG", format!("YAML with the keys of a proxy's configuration: {error}")),
        None => {}
    }
    merged
}

fn yaml<T: serde::de::DeserializeOwned + Default>(text: &str) -> Result<T, String> {
    if text.trim().is_empty() {
        return Ok(T::default());
    }
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

impl MeshFile {
    fn add(&mut self, keys: Keys) {
        self.discovery_address = keys.discovery_address.or(self.discovery_address.take());
        self.admin_port = keys.proxy_admin_port.or(self.admin_port);
        self.stats_port = keys.stats_port.or(self.stats_port);
        self.concurrency = keys.concurrency.or(self.concurrency);
        for (key, value) in keys.proxy_metadata {
            let key = key.strip_prefix("ISTIO_META_").unwrap_or(&key).to_owned();
            self.metadata.insert(key, value.text());
        }
    }
}

impl Scalar {
    fn text(self) -> String {
        match self {
            Scalar::Truth(truth) => truth.to_string(),
            Scalar::Whole(number) => number.to_string(),
            Scalar::Fraction(number) => number.to_string(),
            Scalar::Text(text) => text,
        }
    }
}
