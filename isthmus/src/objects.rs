//! What `up` reads from the operator's folder: Pods to run, Namespaces with their labels, Services to route.
//! Pure: text in, objects and complaints out. Every other kind is the controller's business and is only counted here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Namespace and name of a Pod (or of any other namespaced object).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodName {
    pub namespace: String,
    pub name: String,
}

/// Everything that the folder says about pods, after all files were read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    pub pods: BTreeMap<PodName, Found<PodObject>>,
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pub services: BTreeMap<PodName, ServiceObject>,
    /// Of the Gateway API: those of the class of waypoints get a pod.
    pub gateways: BTreeMap<PodName, Found<GatewayObject>>,
    /// Names of Node objects: nodes to build.
    pub nodes: BTreeSet<String>,
    /// How many objects of other kinds there are.
    pub others: usize,
}

/// An object with the place it was read from, for messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Found<T> {
    pub object: T,
    pub file: PathBuf,
    pub line: u64,
}

/// Something in the folder that cannot be used: where, what, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    pub file: PathBuf,
    pub line: u64,
    pub problem: String,
    /// The file itself is wrong, so that every reader of it will say so.
    pub is_syntax: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    pub name: String,
    pub namespace: Option<String>,
    pub uid: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct PodObject {
    pub metadata: Metadata,
    pub spec: PodSpec,
    /// The whole object as it was written, for the controller.
    #[serde(skip)]
    pub whole: serde_json::Value,
}

/// A Gateway of the Gateway API.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct GatewayObject {
    pub metadata: Metadata,
    pub spec: GatewaySpec,
    /// The whole object as it was written, for the controller.
    #[serde(skip)]
    pub whole: serde_json::Value,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewaySpec {
    pub gateway_class_name: String,
}

/// The part of a Pod's spec that can be honoured without images and a kubelet; `rest` holds what cannot.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    pub node_name: Option<String>,
    pub service_account_name: Option<String>,
    #[serde(default)]
    pub host_network: bool,
    pub hostname: Option<String>,
    pub security_context: Option<SecurityContext>,
    pub containers: Vec<Container>,
    #[serde(flatten)]
    pub rest: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    pub name: String,
    /// There are no images on one machine: the name is allowed, and nothing is fetched.
    pub image: Option<String>,
    #[serde(default)]
    pub command: Vec<String>,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env: Vec<EnvVar>,
    #[serde(default)]
    pub ports: Vec<ContainerPort>,
    pub working_dir: Option<String>,
    pub security_context: Option<SecurityContext>,
    #[serde(flatten)]
    pub rest: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SecurityContext {
    pub run_as_user: Option<u32>,
    pub run_as_group: Option<u32>,
    #[serde(flatten)]
    pub rest: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    pub name: String,
    pub value: Option<String>,
    pub value_from: Option<serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    pub name: Option<String>,
    pub container_port: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceSpec {
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    pub selector: BTreeMap<String, String>,
    pub ports: Vec<ServicePort>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

impl ServiceSpec {
    /// Whether an API server would give it an address. `None` asks for none (a headless service).
    pub fn wants_address(&self) -> bool {
        let has = self.cluster_ip.as_ref().is_some_and(|ip| !ip.is_empty()) || !self.cluster_ips.is_empty();
        !has && self.kind.as_deref() != Some("ExternalName")
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    pub port: u16,
    #[serde(default)]
    pub protocol: Option<String>,
    pub target_port: Option<TargetPort>,
}

/// A port of the pod by number, or by the name that its container gives it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum TargetPort {
    Number(u16),
    Name(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
}

#[derive(Deserialize)]
struct OnlyMetadata {
    metadata: Metadata,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ServiceObject {
    pub metadata: Metadata,
    pub spec: ServiceSpec,
    /// The whole object as it was written, for the controller.
    #[serde(skip)]
    pub whole: serde_json::Value,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.problem)
    }
}

impl Metadata {
    fn named(&self) -> PodName {
        PodName { namespace: self.namespace.clone().unwrap_or_else(|| "default".to_owned()), name: self.name.clone() }
    }
}

/// Reads one file. Documents that are right are taken, each that is wrong becomes a complaint.
pub fn read(file: &Path, text: &str, into: &mut Objects) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (line, document) in documents(text) {
        let complaint = |line: u64, problem: String, is_syntax: bool| Complaint { file: file.to_owned(), line, problem, is_syntax };
        match read_document(file, line, document, into) {
            Ok(()) => {}
            Err(Unusable::Yaml(error)) => {
                let at = error.location().map_or(line, |place| line + place.line().saturating_sub(1));
                complaints.push(complaint(at, one_line(&error), true));
            }
            Err(Unusable::Meaning(problem)) => complaints.push(complaint(line, problem, false)),
        }
    }
    complaints
}

enum Unusable {
    Yaml(Box<serde_saphyr::Error>),
    Meaning(String),
}

impl From<serde_saphyr::Error> for Unusable {
    fn from(error: serde_saphyr::Error) -> Unusable {
        Unusable::Yaml(Box::new(error))
    }
}

fn read_document(file: &Path, line: u64, text: &str, into: &mut Objects) -> Result<(), Unusable> {
    let head: Head = serde_saphyr::from_str(text)?;
    match head.kind.as_str() {
        "Pod" => {
            let mut pod: PodObject = serde_saphyr::from_str(text)?;
            pod.whole = serde_saphyr::from_str(text)?;
            let name = pod.metadata.named();
            check_name("Pod", &pod.metadata.name)?;
            if let Some(first) = into.pods.get(&name) {
                return Err(Unusable::Meaning(format!("Pod {name} is already in {}:{}", first.file.display(), first.line)));
            }
            into.pods.insert(name, Found { object: pod, file: file.to_owned(), line });
        }
        "Namespace" => {
            let namespace: OnlyMetadata = serde_saphyr::from_str(text)?;
            check_name("Namespace", &namespace.metadata.name)?;
            into.namespaces.insert(namespace.metadata.name, namespace.metadata.labels);
        }
        "Service" => {
            let mut service: ServiceObject = serde_saphyr::from_str(text)?;
            service.whole = serde_saphyr::from_str(text)?;
            check_name("Service", &service.metadata.name)?;
            into.services.insert(service.metadata.named(), service);
        }
        // Istio's own kind of this name is another one.
        "Gateway" if head.api_version.starts_with("gateway.networking.k8s.io/") => {
            let mut gateway: GatewayObject = serde_saphyr::from_str(text)?;
            gateway.whole = serde_saphyr::from_str(text)?;
            check_name("Gateway", &gateway.metadata.name)?;
            into.gateways.insert(gateway.metadata.named(), Found { object: gateway, file: file.to_owned(), line });
        }
        "Node" => {
            let node: OnlyMetadata = serde_saphyr::from_str(text)?;
            check_name("Node", &node.metadata.name)?;
            into.nodes.insert(node.metadata.name);
        }
        "" => return Err(Unusable::Meaning("this document has no `kind`: each needs apiVersion, kind and metadata".to_owned())),
        _ => into.others += 1,
    }
    Ok(())
}

/// Names become parts of file and namespace names, so only what Kubernetes allows is taken (RFC 1123 labels and dots).
fn check_name(kind: &str, name: &str) -> Result<(), Unusable> {
    let fits = !name.is_empty() && name.len() <= 63;
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inside = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.');
    if fits && inside && ends(name.chars().next()) && ends(name.chars().last()) {
        return Ok(());
    }
    Err(Unusable::Meaning(format!("{kind} {name:?}: metadata.name must be at most 63 of a-z, 0-9, '-' and '.', and begin and end with a letter or digit")))
}

/// Splits a file at lines that are `---`; gives the number of each document's first line. Empty documents are left out.
fn documents(text: &str) -> Vec<(u64, &str)> {
    let mut found = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if line.trim_end() == "---" || line.starts_with("--- ") {
            found.push((start_line, &text[start..at]));
            start = at + line.len();
            start_line = index as u64 + 2;
        }
        at += line.len();
    }
    found.push((start_line, &text[start..]));
    found.retain(|(_, body)| body.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')));
    found
}

/// The first line of the parser's own message; the place is printed by `Complaint`.
fn one_line(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    text.lines().next().unwrap_or("is not YAML").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> (Objects, Vec<Complaint>) {
        let mut objects = Objects::default();
        let complaints = read(Path::new("a.yaml"), text, &mut objects);
        (objects, complaints)
    }

    #[test]
    fn pods_namespaces_and_services_are_taken_and_the_rest_is_counted() {
        let (objects, complaints) = read_text(
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}\n---\n# nothing\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\nspec:\n  restartPolicy: Always\n  containers:\n  - {name: c, command: [run]}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop}\nspec: {clusterIP: 10.96.0.1, selector: {app: a}, ports: [{port: 80, targetPort: http}]}\n---\n\
             kind: AuthorizationPolicy\nmetadata: {name: p}\n",
        );
        assert_eq!(complaints, []);
        assert_eq!(objects.namespaces["shop"]["istio.io/dataplane-mode"], "ambient");
        let pod = &objects.pods[&PodName { namespace: "shop".into(), name: "a".into() }];
        assert_eq!(pod.line, 7);
        assert_eq!(pod.object.spec.rest.keys().collect::<Vec<_>>(), ["restartPolicy"]);
        let service = objects.services.values().next().unwrap();
        assert_eq!(service.spec.ports[0].target_port, Some(TargetPort::Name("http".into())));
        assert_eq!(objects.others, 1);
    }

    #[test]
    fn a_wrong_document_is_told_with_its_line_and_the_others_stay() {
        let (objects, complaints) = read_text(
            "kind: Namespace\nmetadata: {name: shop}\n---\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers: 7\n---\nkind: Pod\nmetadata: {name: ../b}\nspec: {containers: []}\n",
        );
        assert!(objects.namespaces.contains_key("shop"));
        assert!(objects.pods.is_empty());
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert_eq!(complaints[0].line, 7);
        assert!(complaints[1].problem.contains("metadata.name"), "{}", complaints[1]);
    }

    #[test]
    fn the_same_pod_twice_is_a_complaint() {
        let pod = "kind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c}]}\n";
        let (_, complaints) = read_text(&format!("{pod}---\n{pod}"));
        assert_eq!(complaints[0].to_string(), "a.yaml:5: Pod default/a is already in a.yaml:1");
    }
}
