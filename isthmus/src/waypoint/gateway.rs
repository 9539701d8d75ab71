//! A waypoint as an object: the Gateway that is written, and what one says that is there. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::bail;
use kube::core::DynamicObject;
use serde::Serialize;
use serde_json::{Value, json};

pub const API_VERSION: &str = "gateway.networking.k8s.io/v1";
/// Only Gateways of this class are a waypoint's, by its name: what others do with ours is theirs to list.
pub const CLASS: &str = "istio-waypoint";
/// What a waypoint is called if nobody says otherwise.
pub const NAME: &str = "waypoint";
/// The label by which namespaces, services and pods ask for a waypoint.
pub const USE: &str = "istio.io/use-waypoint";
pub const FOR: &str = "istio.io/waypoint-for";
pub const REVISION: &str = "istio.io/rev";
const HBONE_PORT: u16 = 15008;

/// What a Gateway of our class says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waypoint {
    pub namespace: String,
    pub name: String,
    pub revision: String,
    /// What is to pass through it: service, workload, all or none.
    pub traffic: String,
    pub addresses: Vec<String>,
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
    pub message: String,
}

/// The Gateway object.
///
/// # Errors
/// The name `none`: as a label it means no waypoint.
pub fn object(name: &str, namespace: Option<&str>, traffic: Option<&str>, revision: Option<&str>) -> anyhow::Result<Value> {
    if name == "none" {
        bail!("a waypoint cannot be called none: {USE}=none means that there is no waypoint");
    }
    let mut object = json!({
        "apiVersion": API_VERSION,
        "kind": "Gateway",
        "metadata": { "name": name },
        "spec": {
            "gatewayClassName": CLASS,
            "listeners": [{ "name": "mesh", "port": HBONE_PORT, "protocol": "HBONE" }],
        },
    });
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = json!(namespace);
    }
    for (label, value) in [(FOR, traffic), (REVISION, revision)] {
        if let Some(value) = value {
            object["metadata"]["labels"][label] = json!(value);
        }
    }
    Ok(object)
}

/// Block style, as people write it: maps and lists of maps are all that a Gateway has.
pub fn yaml(value: &Value) -> String {
    let mut text = String::new();
    write_map(&mut text, value, 0);
    text.trim_end().to_owned()
}

fn write_map(text: &mut String, value: &Value, depth: usize) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let indent = "  ".repeat(depth);
        match value {
            Value::Object(_) => {
                let _ = writeln!(text, "{indent}{key}:");
                write_map(text, value, depth + 1);
            }
            Value::Array(list) => {
                let _ = writeln!(text, "{indent}{key}:");
                for element in list {
                    let mut inner = String::new();
                    write_map(&mut inner, element, depth + 1);
                    text.push_str(&inner.replacen(&"  ".repeat(depth + 1), &format!("{indent}- "), 1));
                }
            }
            Value::String(word) => {
                let _ = writeln!(text, "{indent}{key}: {}", plain(word));
            }
            other => {
                let _ = writeln!(text, "{indent}{key}: {other}");
            }
        }
    }
}

/// Quoted where YAML would take it for something else.
fn plain(word: &str) -> String {
    let is_plain = word.starts_with(|c: char| c.is_ascii_alphabetic()) && word.chars().all(|c| c.is_ascii_alphanumeric() || "-._/".contains(c));
    let is_word = matches!(word.to_lowercase().as_str(), "true" | "false" | "yes" | "no" | "on" | "off" | "null" | "y" | "n");
    if is_plain && !is_word { word.to_owned() } else { Value::from(word).to_string() }
}

/// The waypoint that an object asks for, or else its namespace: NAMESPACE/NAME (spec/controlplane.md 4.10).
pub fn asked(namespace: &str, labels: &BTreeMap<String, String>, of_namespace: Option<&BTreeMap<String, String>>) -> Option<String> {
    let labels = if labels.contains_key(USE) { labels } else { of_namespace? };
    let name = labels.get(USE).filter(|name| *name != "none")?;
    let place = labels.get("istio.io/use-waypoint-namespace").map_or(namespace, String::as_str);
    Some(format!("{place}/{name}"))
}

/// `None`: it is none of ours.
pub fn read(object: &DynamicObject) -> Option<Waypoint> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if object.data["spec"]["gatewayClassName"] != CLASS {
        return None;
    }
    let meta = &object.metadata;
    let label = |key: &str| meta.labels.as_ref().and_then(|labels| labels.get(key)).cloned();
    let status = &object.data["status"];
    let condition = |one: &Value| Condition { kind: text(&one["type"]), status: text(&one["status"]), reason: text(&one["reason"]), message: text(&one["message"]) };
    Some(Waypoint {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        revision: label(REVISION).unwrap_or_else(|| "default".to_owned()),
        traffic: label(FOR).unwrap_or_else(|| "service".to_owned()),
        addresses: status["addresses"].as_array().into_iter().flatten().map(|one| text(&one["value"])).collect(),
        conditions: status["conditions"].as_array().into_iter().flatten().map(condition).collect(),
    })
}

impl Waypoint {
    fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    pub fn is_programmed(&self) -> bool {
        self.condition("Programmed").is_some_and(|condition| condition.status == "True")
    }

    /// The conditions that say how it is: that it works, or what keeps it from working.
    pub fn telling(&self) -> Vec<Condition> {
        if let Some(programmed) = self.condition("Programmed").filter(|condition| condition.status == "True") {
            return vec![programmed.clone()];
        }
        let bad: Vec<Condition> = self.conditions.iter().filter(|condition| condition.status != "True").cloned().collect();
        let silent = Condition { kind: "Programmed".into(), status: "Unknown".into(), reason: "Pending".into(), message: "no controller has said anything about it".into() };
        if bad.is_empty() { vec![silent] } else { bad }
    }

    /// Why it is as it is, in one line.
    pub fn why(&self) -> String {
        self.telling().iter().map(|condition| format!("{}: {}", condition.reason, condition.message)).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn what_is_written() {
        let object = object("w", Some("shop"), Some("all"), Some("1-2")).unwrap();
        expect![[r#"
            apiVersion: gateway.networking.k8s.io/v1
            kind: Gateway
            metadata:
              labels:
                istio.io/rev: "1-2"
                istio.io/waypoint-for: all
              name: w
              namespace: shop
            spec:
              gatewayClassName: istio-waypoint
              listeners:
              - name: mesh
                port: 15008
                protocol: HBONE"#]].assert_eq(&yaml(&object));
        let read: Value = serde_saphyr::from_str(&yaml(&object)).unwrap();
        assert_eq!(read, object);
        assert!(super::object("none", None, None, None).unwrap_err().to_string().contains("cannot be called none"));
    }

    #[test]
    fn what_is_asked_for() {
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>();
        let level = labels(&[(USE, "w"), ("istio.io/use-waypoint-namespace", "infra")]);
        assert_eq!(asked("shop", &labels(&[]), Some(&level)).as_deref(), Some("infra/w"));
        assert_eq!(asked("shop", &labels(&[(USE, "own")]), Some(&level)).as_deref(), Some("shop/own"));
        assert_eq!(asked("shop", &labels(&[(USE, "none")]), Some(&level)), None);
        assert_eq!(asked("shop", &labels(&[]), None), None);
    }

    #[test]
    fn what_a_gateway_says() {
        let of = |class: &str, labels: Value, conditions: Value| {
            let object = json!({ "metadata": { "name": "w", "namespace": "shop", "labels": labels }, "spec": { "gatewayClassName": class }, "status": { "conditions": conditions } });
            read(&serde_json::from_value(object).unwrap())
        };
        assert_eq!(of("istio", json!({}), json!([])), None);
        let silent = of(CLASS, json!({}), json!([])).unwrap();
        assert_eq!((silent.traffic.as_str(), silent.revision.as_str(), silent.is_programmed(), silent.why().as_str()), ("service", "default", false, "Pending: no controller has said anything about it"));
        let condition = |kind: &str, status: &str, message: &str| json!({ "type": kind, "status": status, "reason": "R", "message": message });
        let bad = of(CLASS, json!({ FOR: "all" }), json!([condition("Accepted", "True", "a"), condition("Programmed", "False", "no instance")])).unwrap();
        assert_eq!((bad.traffic.as_str(), bad.why().as_str()), ("all", "R: no instance"));
        let good = of(CLASS, json!({}), json!([condition("Accepted", "True", "a"), condition("Programmed", "True", "served by x")])).unwrap();
        assert_eq!((good.is_programmed(), good.why().as_str()), (true, "R: served by x"));
    }
}
