//! The API server, asked by this process: kubectl would not say when an answer came, nor reach a pod's loopback as fast.

use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use isthmus::cluster::client::{self, Named};
use kube::Client;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::mesh::SYSTEM;

const ADMIN_PORT: u16 = 15000;

pub struct Api {
    rt: Runtime,
    client: Client,
}

impl Api {
    pub fn connect() -> Result<Api> {
        let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = rt.block_on(client::connect(&Named::default()))?.client;
        Ok(Api { rt, client })
    }

    /// Applies an object; when the API server had answered.
    ///
    /// # Errors
    /// The API server's words, or those of a webhook.
    pub fn apply(&self, object: &Value) -> Result<SystemTime> {
        let path = format!("{}?fieldManager=e2e&force=true&fieldValidation=Strict", path(object)?);
        self.ask("PATCH", &path, Some(object))?;
        Ok(SystemTime::now())
    }

    /// Once more is no error.
    pub fn delete(&self, object: &Value) -> Result<()> {
        match self.ask("DELETE", &path(object)?, None) {
            Err(error) if !format!("{error:#}").contains("NotFound") => Err(error),
            _ => Ok(()),
        }
    }

    /// The object as it is now, with its status.
    pub fn read(&self, object: &Value) -> Result<Value> {
        self.ask("GET", &path(object)?, None)
    }

    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let content = if method == "PATCH" { "application/apply-patch+yaml" } else { "application/json" };
        let request = http::Request::builder().method(method).uri(path).header("content-type", content);
        let request = request.body(body.map(Value::to_string).unwrap_or_default().into_bytes())?;
        let answer = self.rt.block_on(self.client.request_text(request));
        Ok(serde_json::from_str(&answer.with_context(|| format!("{method} {path}"))?)?)
    }

    /// GET from a port on the loopback of a pod of the mesh itself.
    pub fn loopback(&self, pod: &str, port: u16, path: &str) -> Result<Vec<u8>> {
        Ok(self.rt.block_on(client::get(&self.client, SYSTEM, pod, port, path))?.to_vec())
    }

    /// What a node daemon knows.
    pub fn dump(&self, daemon: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&self.loopback(daemon, ADMIN_PORT, "/config_dump")?)?)
    }

    /// The sum of a family's samples whose labels contain each of `with`.
    pub fn metric(&self, pod: &str, port: u16, family: &str, with: &[&str]) -> Result<f64> {
        let page = String::from_utf8(self.loopback(pod, port, "/metrics")?)?;
        let samples = page.lines().filter(|line| line.starts_with(family) && with.iter().all(|label| line.contains(label)));
        Ok(samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }
}

/// Where an object is kept. Kinds of this mesh and of the core have regular plurals.
fn path(object: &Value) -> Result<String> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, kind) = (word(&object["apiVersion"]), word(&object["kind"]).to_lowercase());
    let (namespace, name) = (word(&object["metadata"]["namespace"]), word(&object["metadata"]["name"]));
    if version.is_empty() || kind.is_empty() || name.is_empty() {
        bail!("no object: {object}");
    }
    let group = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let plural = kind.strip_suffix('y').map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"));
    let namespace = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
    Ok(format!("{group}{namespace}/{plural}/{name}"))
}
