//! Waypoints of a mesh on one machine: for each Gateway of the class istio-waypoint in the folder a pod and a Service, as
//! the controller makes them on a cluster, and the Gateway's status. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::gateway::{API_VERSION, CLASS, REVISION};
use crate::objects::{Found, GatewayObject, Metadata, Objects, PodName, PodObject, ServiceObject};
use crate::plan::MODE_LABEL;

/// On what is made for a Gateway, by the field's names (spec/controlplane.md 6.3).
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
const GATEWAY_CLASS_NAME: &str = "gateway.networking.k8s.io/gateway-class-name";
const MANAGED: (&str, &str) = ("gateway.istio.io/managed", "istio.io-mesh-controller");
const HBONE_PORT: u16 = 15008;
/// Where it says that it is ready.
pub const STATUS_PORT: u16 = 15021;

/// Adds what is made for the Gateways. A pod or Service of the same name in the folder is its author's, and stays.
pub fn expand(objects: &mut Objects) {
    let waypoints: Vec<(PodName, Found<GatewayObject>)> = objects.gateways.iter().filter(|(_, found)| found.object.spec.gateway_class_name == CLASS).map(|(name, found)| (name.clone(), found.clone())).collect();
    for (name, found) in waypoints {
        let labels = labels(&name, &found.object.metadata);
        let pod = Found { object: pod(&name, &labels), file: found.file.clone(), line: found.line };
        objects.pods.entry(instance(&name)).or_insert(pod);
        objects.services.entry(name.clone()).or_insert_with(|| service(&name, &labels));
    }
}

/// The pod of a waypoint.
pub fn instance(name: &PodName) -> PodName {
    PodName { namespace: name.namespace.clone(), name: format!("{}-1", name.name) }
}

/// The Gateway of which a pod with these labels is an instance that we made.
pub fn gateway_of(pod: &PodName, labels: &BTreeMap<String, String>) -> Option<PodName> {
    let name = labels.get(GATEWAY_NAME).filter(|_| labels.get(MANAGED.0).is_some_and(|by| by == MANAGED.1))?;
    Some(PodName { namespace: pod.namespace.clone(), name: name.clone() })
}

fn labels(name: &PodName, of_gateway: &Metadata) -> BTreeMap<String, String> {
    let mut labels = of_gateway.labels.clone();
    labels.remove(REVISION);
    let own = [(GATEWAY_NAME, name.name.as_str()), (GATEWAY_CLASS_NAME, CLASS), MANAGED, (MODE_LABEL, "none"), ("service.istio.io/canonical-name", name.name.as_str())];
    labels.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    labels
}

/// Its command only holds the pod's namespaces: the program is one of the mesh's, and runs in the pod's network beside
/// it, where no pod can see its token.
fn pod(name: &PodName, labels: &BTreeMap<String, String>) -> PodObject {
    let whole = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": instance(name).name, "namespace": name.namespace, "labels": labels },
        "spec": { "serviceAccountName": name.name, "containers": [{ "name": "istio-proxy", "command": ["sleep", "infinity"] }] },
    });
    let read: PodObject = serde_json::from_value(whole.clone()).expect("it has the form of a Pod");
    PodObject { whole, ..read }
}

fn service(name: &PodName, labels: &BTreeMap<String, String>) -> ServiceObject {
    let whole = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name.name, "namespace": name.namespace, "labels": labels },
        "spec": {
            "selector": { GATEWAY_NAME: name.name },
            "ports": [
                { "name": "status-port", "port": STATUS_PORT, "appProtocol": "tcp" },
                { "name": "mesh", "port": HBONE_PORT, "appProtocol": "hbone" },
            ],
        },
    });
    let read: ServiceObject = serde_json::from_value(whole.clone()).expect("it has the form of a Service");
    ServiceObject { whole, ..read }
}

/// The Gateway with its address, once its program was ready: services are bound to it from then on.
pub fn published(found: &GatewayObject, name: &PodName, was_ready: bool) -> Value {
    let mut object = found.whole.clone();
    object["apiVersion"] = json!(API_VERSION);
    object["metadata"]["namespace"] = json!(name.namespace);
    let addresses = if was_ready { json!([{ "type": "Hostname", "value": format!("{}.{}.svc.cluster.local", name.name, name.namespace) }]) } else { json!([]) };
    object["status"] = json!({ "addresses": addresses });
    object
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::objects::read;

    #[test]
    fn a_gateway_is_a_pod_and_a_service() {
        let mut objects = Objects::default();
        let text = "kind: Gateway\napiVersion: gateway.networking.k8s.io/v1\nmetadata: {name: w, namespace: shop, labels: {istio.io/waypoint-for: all}}\nspec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n---\n\
                    kind: Gateway\napiVersion: gateway.networking.k8s.io/v1\nmetadata: {name: other, namespace: shop}\nspec: {gatewayClassName: istio}\n";
        assert_eq!(read(Path::new("a.yaml"), text, &mut objects), []);
        expand(&mut objects);
        let name = PodName { namespace: "shop".into(), name: "w".into() };
        assert_eq!(objects.pods.keys().collect::<Vec<_>>(), [&instance(&name)], "of other classes nothing is made");
        let pod = &objects.pods[&instance(&name)].object;
        assert_eq!((pod.spec.service_account_name.as_deref(), pod.metadata.labels[MODE_LABEL].as_str()), (Some("w"), "none"));
        assert_eq!(pod.metadata.labels["istio.io/waypoint-for"], "all");
        assert_eq!(gateway_of(&instance(&name), &pod.metadata.labels), Some(name.clone()));
        assert_eq!(gateway_of(&instance(&name), &BTreeMap::from([(GATEWAY_NAME.to_owned(), "w".to_owned())])), None, "somebody's own proxy");
        let service = &objects.services[&name];
        assert!(service.spec.wants_address() && service.spec.ports.iter().any(|port| port.port == HBONE_PORT));
        let gateway = &objects.gateways[&name].object;
        assert_eq!(published(gateway, &name, false)["status"]["addresses"], json!([]));
        assert_eq!(published(gateway, &name, true)["status"]["addresses"][0]["value"], "w.shop.svc.cluster.local");

        // An author's own is left alone.
        let mut own = Objects::default();
        read(Path::new("a.yaml"), &format!("{text}---\nkind: Service\nmetadata: {{name: w, namespace: shop}}\nspec: {{clusterIP: 10.96.0.1}}\n"), &mut own);
        expand(&mut own);
        assert_eq!(own.services[&name].spec.cluster_ip.as_deref(), Some("10.96.0.1"));
    }
}
