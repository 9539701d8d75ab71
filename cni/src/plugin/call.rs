//! Pure: the container runtime's call (CNI specification 0.3.0 to 1.1.0: environment and standard input) to what there is
//! to do, and results and errors as the runtime reads them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::event::{Event, Ip, Network};

/// The versions whose results we pass on: they differ in what is in them, which we do not touch.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Which the mesh's own pods have to be started without.
const OWN_NAMES: [&str; 4] = ["istio-cni-node-", "mesh-cni-", "ztunnel-", "istiod-"];

/// Our entry of the list of plugins, as far as we read it. Others' keys (the runtime adds some) are passed over.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    #[serde(rename = "cniVersion", default)]
    pub version: String,
    #[serde(rename = "prevResult", default)]
    pub previous: Option<Value>,
    #[serde(default = "run_folder")]
    pub cni_agent_run_dir: PathBuf,
    #[serde(default)]
    pub exclude_namespaces: Vec<String>,
    /// The mesh's own namespace.
    #[serde(default)]
    pub pod_namespace: String,
    #[serde(default)]
    pub enablement_selectors: Option<Value>,
}

fn run_folder() -> PathBuf {
    RUN_FOLDER.into()
}

/// Where the agent has its socket and the plugin's kubeconfig.
pub const RUN_FOLDER: &str = "/var/run/istio-cni";

/// What there is to do.
#[derive(Clone, Debug)]
pub enum Call {
    /// Answer with this, and nothing else.
    Answer(Value),
    /// A sandbox was made: the agent decides. Then answer with the previous result.
    Add(Box<Add>),
}

#[derive(Clone, Debug)]
pub struct Add {
    pub event: Event,
    pub config: Config,
}

/// Why the runtime's call fails; it tries again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub version: String,
    pub code: u32,
    pub message: String,
    pub details: String,
}

/// Codes of the specification: variables and configuration that cannot be used, and "try again later".
pub const BAD_ENVIRONMENT: u32 = 4;
pub const BAD_CONFIG: u32 = 7;
pub const TRY_AGAIN: u32 = 11;

/// # Errors
/// What is wrong with the call.
pub fn read(environment: &BTreeMap<String, String>, input: &str) -> Result<Call, Failure> {
    let command = environment.get("CNI_COMMAND").map(String::as_str).unwrap_or_default();
    if command == "VERSION" {
        let version = serde_json::from_str::<Value>(input).ok().and_then(|v| Some(v.get("cniVersion")?.as_str()?.to_owned()));
        let version = version.unwrap_or_else(|| "1.1.0".to_owned());
        return Ok(Call::Answer(json!({"cniVersion": version, "supportedVersions": VERSIONS})));
    }
    let fail = |version: &str, code: u32, message: String| {
        let version = if VERSIONS.contains(&version) { version } else { "1.0.0" };
        Failure { version: version.to_owned(), code, message, details: String::new() }
    };
    // By way of an object: a list would count as the fields in their order.
    let config: Config = serde_json::from_str(input)
        .and_then(|object: serde_json::Map<String, Value>| serde_json::from_value(object.into()))
        .map_err(|error| fail("", BAD_CONFIG, format!("the configuration on standard input cannot be read: {error}")))?;
    if !VERSIONS.contains(&config.version.as_str()) {
        let text = format!("cniVersion {:?} is not supported, only {}", config.version, VERSIONS.join(", "));
        return Err(fail("", 1, text)); // 1: incompatible CNI version
    }
    match command {
        "ADD" => {}
        "DEL" | "CHECK" | "GC" | "STATUS" => return Ok(Call::Answer(Value::Null)),
        other => return Err(fail(&config.version, BAD_ENVIRONMENT, format!("CNI_COMMAND: {other:?} is unknown"))),
    }
    let Some(netns) = environment.get("CNI_NETNS").filter(|path| !path.is_empty()) else {
        return Err(fail(&config.version, BAD_ENVIRONMENT, "CNI_NETNS is missing".to_owned()));
    };
    let arguments = arguments(environment.get("CNI_ARGS").map(String::as_str).unwrap_or_default());
    let named = |key: &str| arguments.get(key).copied().unwrap_or_default().to_owned();
    let (name, namespace) = (named("K8S_POD_NAME"), named("K8S_POD_NAMESPACE"));
    // Not a pod of Kubernetes; or one that the mesh must never hold up: what it itself needs to start, what is excluded.
    let own = namespace == config.pod_namespace && OWN_NAMES.iter().any(|prefix| name.starts_with(prefix));
    if name.is_empty() || namespace.is_empty() || own || config.exclude_namespaces.contains(&namespace) {
        return Ok(Call::Answer(result(&config)));
    }
    let ips = config.previous.as_ref().and_then(|previous| previous.get("ips")).and_then(Value::as_array);
    let ips = ips.map(|all| all.iter().filter_map(ip).collect());
    let event = Event { netns: netns.clone(), pod_name: name, pod_namespace: namespace, pod_uid: named("K8S_POD_UID"), ips };
    Ok(Call::Add(Box::new(Add { event, config })))
}

/// The result of the plugins before us, unchanged: we change nothing that a result speaks of.
pub fn result(config: &Config) -> Value {
    let mut result = config.previous.clone().unwrap_or_else(|| json!({}));
    if let Some(fields) = result.as_object_mut() {
        fields.insert("cniVersion".to_owned(), config.version.clone().into());
    }
    result
}

/// `IgnoreUnknown=1;K8S_POD_NAME=a;…`
fn arguments(text: &str) -> BTreeMap<&str, &str> {
    text.split(';').filter_map(|pair| pair.split_once('=')).collect()
}

/// `{"address": "10.0.0.5/24", "gateway": "10.0.0.1", "interface": 2}`
fn ip(value: &Value) -> Option<Ip> {
    let (ip, length) = value.get("address")?.as_str()?.split_once('/')?;
    let ip: IpAddr = ip.parse().ok()?;
    let length: u32 = length.parse().ok()?;
    let bits = if ip.is_ipv4() { 32 } else { 128 };
    let mask = u128::MAX.checked_shl(bits - length.min(bits)).unwrap_or(0).to_be_bytes();
    let mask = &mask[16 - bits as usize / 8..];
    let gateway = value.get("gateway").and_then(Value::as_str).unwrap_or_default().to_owned();
    let interface = value.get("interface").and_then(Value::as_u64).and_then(|n| n.try_into().ok());
    Some(Ip { interface, address: Network { ip, mask: STANDARD.encode(mask) }, gateway })
}

impl Failure {
    pub fn of(config: &Config, message: impl Into<String>, details: impl Into<String>) -> Failure {
        Failure { version: config.version.clone(), code: TRY_AGAIN, message: message.into(), details: details.into() }
    }

    /// As the runtime reads it from standard output.
    pub fn shown(&self) -> Value {
        json!({"cniVersion": self.version, "code": self.code, "msg": self.message, "details": self.details})
    }
}

#[cfg(test)]
mod tests;
