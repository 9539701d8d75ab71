//! How a node daemon or a waypoint introduces itself (spec/dataplane.md 5.7, spec/controlplane.md 2.5).

use std::collections::BTreeMap;
use std::net::IpAddr;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

use crate::messages::discovery::Node;

/// The address in the id when none is known.
const NO_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(1, 1, 1, 1));

/// A piece of metadata beyond the fixed ones: `ISTIO_META_X` is a text, `ISTIO_METAJSON_X` a value.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeMetadata {
    pub key: String,
    pub value: Value,
}

/// The node of a ztunnel. The domain in the id is fixed, whatever the cluster's is.
pub fn ztunnel_node(
    pod_name: &str,
    pod_namespace: &str,
    node_name: &str,
    instance_ip: Option<IpAddr>,
    further: impl IntoIterator<Item = NodeMetadata>,
) -> Node {
    let domain = format!("{pod_namespace}.svc.cluster.local");
    node("ztunnel", pod_name, pod_namespace, node_name, instance_ip, &domain, further)
}

/// The node of a waypoint of `gateway`, in a cluster with this domain.
pub fn waypoint_node(
    pod_name: &str,
    pod_namespace: &str,
    node_name: &str,
    instance_ip: Option<IpAddr>,
    gateway: &str,
    cluster_domain: &str,
    further: impl IntoIterator<Item = NodeMetadata>,
) -> Node {
    let domain = format!("{pod_namespace}.svc.{cluster_domain}");
    let further = [NodeMetadata::text("GATEWAY_NAME", gateway)].into_iter().chain(further);
    node("waypoint", pod_name, pod_namespace, node_name, instance_ip, &domain, further)
}

fn node(
    kind: &str,
    pod_name: &str,
    pod_namespace: &str,
    node_name: &str,
    instance_ip: Option<IpAddr>,
    domain: &str,
    further: impl IntoIterator<Item = NodeMetadata>,
) -> Node {
    let ip = instance_ip.unwrap_or(NO_ADDRESS);
    let mut fields: BTreeMap<String, Value> = [
        ("NAME", pod_name),
        ("NAMESPACE", pod_namespace),
        ("INSTANCE_IPS", &ip.to_string()),
        ("NODE_NAME", node_name),
    ]
    .into_iter()
    .map(|(key, text)| (key.to_owned(), text_value(text)))
    .collect();
    fields.extend(further.into_iter().map(|one| (one.key, one.value)));
    Node {
        id: format!("{kind}~{ip}~{pod_name}.{pod_namespace}~{domain}"),
        cluster: String::new(),
        metadata: Some(Struct { fields }),
    }
}

impl NodeMetadata {
    pub fn text(key: &str, text: &str) -> NodeMetadata {
        NodeMetadata { key: key.to_owned(), value: text_value(text) }
    }
}

fn text_value(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

/// JSON as a protobuf value. Numbers become 64-bit floats, which is all that protobuf has for them.
pub fn json_to_value(json: &serde_json::Value) -> Value {
    let kind = match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(truth) => Kind::BoolValue(*truth),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(items) => Kind::ListValue(ListValue { values: items.iter().map(json_to_value).collect() }),
        serde_json::Value::Object(fields) => Kind::StructValue(Struct {
            fields: fields.iter().map(|(key, value)| (key.clone(), json_to_value(value))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Z-221
    #[test]
    fn json_becomes_a_value() {
        let json = serde_json::json!({"a": [1, 2.5, true, null, "x"], "b": {}});
        let Some(Kind::StructValue(read)) = json_to_value(&json).kind else { panic!("no struct") };
        let Some(Kind::ListValue(list)) = &read.fields["a"].kind else { panic!("no list") };
        let kinds: Vec<_> = list.values.iter().map(|value| value.kind.clone().unwrap()).collect();
        let text = Kind::StringValue("x".into());
        assert_eq!(kinds, [Kind::NumberValue(1.0), Kind::NumberValue(2.5), Kind::BoolValue(true), Kind::NullValue(0), text]);
        assert_eq!(read.fields["b"].kind, Some(Kind::StructValue(Struct::default())));
    }

    #[test]
    fn the_node_of_a_waypoint() {
        let node = waypoint_node("wp-1", "shop", "node-a", "10.0.0.9".parse().ok(), "wp", "mesh.test", []);
        assert_eq!(node.id, "waypoint~10.0.0.9~wp-1.shop~shop.svc.mesh.test");
        assert_eq!((node.text("GATEWAY_NAME"), node.text("INSTANCE_IPS")), (Some("wp"), Some("10.0.0.9")));
    }

    #[test]
    fn the_node_of_a_ztunnel() {
        let node = ztunnel_node("ztunnel-x", "istio-system", "node-a", None, [NodeMetadata::text("NETWORK", "n1")]);
        assert_eq!(node.id, "ztunnel~1.1.1.1~ztunnel-x.istio-system~istio-system.svc.cluster.local");
        let expected =
            [("NAME", "ztunnel-x"), ("NAMESPACE", "istio-system"), ("INSTANCE_IPS", "1.1.1.1"), ("NODE_NAME", "node-a"), ("NETWORK", "n1")];
        for (key, text) in expected {
            assert_eq!(node.text(key), Some(text));
        }
        assert_eq!(node.text("absent"), None);
    }
}
