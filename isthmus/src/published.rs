//! The objects that a cluster's own parts would write, for the controller: Nodes, and each Pod with its place, its
//! address and what the node's agent says of it. Pure: plan and observations in, YAML text out.

use serde_json::{Map, Value, json};

use crate::plan::{NodePlan, PodPlan};

/// Set by the agent when a pod's traffic is carried by the mesh (spec/dataplane.md 4.5).
pub const REDIRECTION: &str = "ambient.istio.io/redirection";

/// What was seen of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The value of the redirection annotation, none when the pod is not in the mesh.
    pub redirection: Option<&'static str>,
    /// Whether its address is told: an address that is known without the annotation is called in the clear.
    pub has_address: bool,
    pub running: bool,
}

pub fn node(node: &NodePlan) -> Value {
    let addresses: Vec<Value> = node.wire.all().iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()})).collect();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node.name, "uid": format!("node-{}", node.number), "labels": {"kubernetes.io/hostname": node.name}},
        "status": {"addresses": addresses, "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// The Pod as its author wrote it, with what the scheduler, the kubelet and the agent would add.
pub fn pod(whole: &Value, pod: &PodPlan, node: &NodePlan, seen: &Seen) -> Value {
    let mut object = whole.clone();
    let metadata = section(&mut object, "metadata");
    metadata.insert("namespace".into(), json!(pod.name.namespace));
    metadata.insert("uid".into(), json!(pod.uid));
    let annotations = section_of(metadata, "annotations");
    annotations.remove(REDIRECTION);
    if let Some(state) = &seen.redirection {
        annotations.insert(REDIRECTION.into(), json!(state));
    }
    let spec = section(&mut object, "spec");
    spec.insert("nodeName".into(), json!(pod.node));
    spec.insert("serviceAccountName".into(), json!(pod.service_account));
    let addresses = if seen.has_address { pod.addresses.all() } else { Vec::new() };
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
    let ready = if seen.running { "True" } else { "False" };
    section(&mut object, "status").extend([
        ("phase".to_owned(), json!(if seen.running { "Running" } else { "Pending" })),
        ("podIP".to_owned(), json!(addresses.first())),
        ("podIPs".to_owned(), json!(ips)),
        ("hostIP".to_owned(), json!(node.wire.v4.to_string())),
        ("conditions".to_owned(), json!([{"type": "Ready", "status": ready}])),
    ]);
    object
}

/// A Service with the address that it was given.
pub fn service(whole: &Value, vip: std::net::Ipv4Addr) -> Value {
    let mut object = whole.clone();
    let spec = section(&mut object, "spec");
    spec.insert("clusterIP".into(), json!(vip.to_string()));
    spec.insert("clusterIPs".into(), json!([vip.to_string()]));
    object
}

fn section<'a>(object: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    section_of(object.as_object_mut().expect("it was just made an object"), key)
}

fn section_of<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let entry = map.entry(key).or_insert_with(|| json!({}));
    if !entry.is_object() {
        *entry = json!({});
    }
    entry.as_object_mut().expect("it was just made an object")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::objects::{self, Objects};
    use crate::plan::{Ids, Machine, Slots, plan};

    #[test]
    fn a_pod_gets_its_place_its_address_and_its_redirection() {
        let mut read = Objects::default();
        let text = "kind: Pod\nmetadata: {name: a, annotations: {own: x}}\nspec: {nodeName: n, containers: [{name: c, command: [x]}]}\n";
        assert_eq!(objects::read(Path::new("a"), text, &mut read), []);
        let machine = Machine { mesh: "t".into(), ipv6: false, ids: Ids::Shared };
        let (plan, _) = plan(&machine, &read, &mut Slots::default(), || "u-1".to_owned());
        let (name, found) = read.pods.iter().next().unwrap();
        let node = plan.node("n").unwrap();
        let enabled = pod(&found.object.whole, &plan.pods[name], node, &Seen { redirection: Some("enabled"), has_address: true, running: true });
        assert_eq!(enabled["metadata"]["annotations"], json!({"own": "x", REDIRECTION: "enabled"}));
        assert_eq!(enabled["metadata"]["uid"], "u-1");
        assert_eq!(enabled["spec"]["serviceAccountName"], "default");
        assert_eq!(enabled["status"]["podIPs"], json!([{"ip": "10.244.1.10"}]));
        assert_eq!(enabled["status"]["conditions"][0]["status"], "True");
        // Released: the annotation goes, also one that stood in the author's own file.
        let released = pod(&enabled, &plan.pods[name], node, &Seen { has_address: true, ..Seen::default() });
        assert_eq!(released["metadata"]["annotations"], json!({"own": "x"}));
        assert_eq!((&released["status"]["phase"], &released["status"]["podIP"]), (&json!("Pending"), &json!("10.244.1.10")));
        let unknown = pod(&enabled, &plan.pods[name], node, &Seen::default());
        assert_eq!((&unknown["status"]["podIP"], &unknown["status"]["podIPs"]), (&Value::Null, &json!([])));
    }
}
