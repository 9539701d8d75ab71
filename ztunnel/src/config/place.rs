//! Where the daemon runs and what it says of itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_runtime::knobs::Knobs;

use super::Mode;
use super::mesh_file::MeshFile;

/// Where the daemon runs and what it tells the control plane about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// `None`: pods of any node are ours.
    pub node: Option<Arc<str>>,
    pub network: Arc<str>,
    pub cluster_id: Arc<str>,
    pub cluster_domain: Arc<str>,
    pub trust_domain: Arc<str>,
    pub pod_name: String,
    pub pod_namespace: String,
    pub service_account: String,
    pub instance_ip: Option<IpAddr>,
    /// `ISTIO_META_X` and `proxyMetadata`, by `X`.
    pub metadata: BTreeMap<String, String>,
    /// `ISTIO_METAJSON_X`, by `X`.
    pub metadata_json: BTreeMap<String, serde_json::Value>,
}

impl Place {
    /// In dedicated mode the daemon speaks to the control plane as its workload: what it was not told is the workload's.
    pub(super) fn of_workload(mut self, mode: &Mode) -> Place {
        let Mode::Dedicated { namespace, name, service_account } = mode else { return self };
        let mine =
            [(&mut self.pod_namespace, namespace), (&mut self.pod_name, name), (&mut self.service_account, service_account)];
        for (told, own) in mine {
            if told.is_empty() {
                own.as_ref().clone_into(told);
            }
        }
        self
    }
}

pub(super) fn read(knobs: &mut Knobs<'_>, file: &MeshFile) -> Place {
    knobs.section("Place");
    let shared = |text: String| -> Arc<str> { text.into() };
    let node: Option<String> = knobs.optional("NODE_NAME", "any node", "The node's name; pods of other nodes are not ours.");
    let network: String = knobs.value("NETWORK", "", "The network that this node's addresses belong to.");
    let cluster: Option<String> = knobs.optional("CLUSTER_ID", "`ISTIO_META_CLUSTER_ID`, else Kubernetes", "The cluster's name.");
    let cluster_domain: String = knobs.value("CLUSTER_DOMAIN", "cluster.local", "The cluster's DNS domain.");
    let trust_domain: String = knobs.value("TRUST_DOMAIN", "cluster.local", "The trust domain of the daemon's own identity, as which it serves its metrics over HBONE in shared mode when POD_NAME, POD_NAMESPACE and SERVICE_ACCOUNT are set.");
    let pod_name: String = knobs.value("POD_NAME", "", "The daemon's own pod; in dedicated mode the workload's name.");
    let pod_namespace: String =
        knobs.value("POD_NAMESPACE", "", "The namespace of the daemon's own pod; in dedicated mode the workload's.");
    let service_account: String =
        knobs.value("SERVICE_ACCOUNT", "", "The service account of the daemon's own pod; in dedicated mode the workload's.");
    let instance_ip = knobs.optional("INSTANCE_IP", "–", "The address of the daemon's own pod.");
    let from_environment =
        knobs.prefixed("ISTIO_META_", "A piece of metadata that the control plane is told; wins over `proxyMetadata`.");
    let mut metadata = file.metadata.clone();
    metadata.extend(from_environment);
    let mut metadata_json = BTreeMap::new();
    for (key, text) in knobs.prefixed("ISTIO_METAJSON_", "A piece of metadata as JSON.") {
        match serde_json::from_str(&text) {
            Ok(value) => drop(metadata_json.insert(key, value)),
            Err(error) => knobs.refuse(&format!("ISTIO_METAJSON_{key}"), format!("JSON ({error})")),
        }
    }
    let cluster_id = cluster.or_else(|| metadata.get("CLUSTER_ID").cloned()).unwrap_or_else(|| "Kubernetes".to_owned());
    Place {
        node: node.filter(|node| !node.is_empty()).map(shared),
        network: shared(network),
        cluster_id: shared(cluster_id),
        cluster_domain: shared(cluster_domain),
        trust_domain: shared(trust_domain),
        pod_name,
        pod_namespace,
        service_account,
        instance_ip,
        metadata,
        metadata_json,
    }
}
