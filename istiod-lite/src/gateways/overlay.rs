//! What users lay over the objects that are made for a Gateway: Kubernetes' strategic merge, for the lists that these
//! objects have (spec/controlplane.md 6.2).

use serde_json::{Map, Value};

/// Lists that are merged element by element, and by which field elements are the same. All others are replaced.
const KEYED: [(&str, &str); 14] = [
    ("containers", "name"),
    ("initContainers", "name"),
    ("volumes", "name"),
    ("env", "name"),
    ("imagePullSecrets", "name"),
    ("secrets", "name"),
    ("volumeMounts", "mountPath"),
    ("volumeDevices", "devicePath"),
    ("topologySpreadConstraints", "topologyKey"),
    ("hostAliases", "ip"),
    ("ownerReferences", "uid"),
    ("resourceClaims", "name"),
    // Of a container by one field and of a Service by another; see `key_of`.
    ("ports", "containerPort"),
    ("ports", "port"),
];

/// A directive within a map: `delete` takes the element away, `replace` does not merge.
const DIRECTIVE: &str = "$patch";

/// Lays `over` over `base`. Null takes a field away.
pub fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => merge_maps(base, over),
        (base, over) => *base = stripped(over),
    }
}

fn merge_maps(base: &mut Map<String, Value>, mut over: Map<String, Value>) {
    if over.remove(DIRECTIVE).is_some_and(|directive| directive == "replace") {
        *base = over;
        return;
    }
    for (name, value) in over {
        match (base.get_mut(&name), value) {
            (_, Value::Null) => drop(base.remove(&name)),
            (Some(Value::Array(list)), Value::Array(more)) => match key_of(&name, list.iter().chain(&more)) {
                Some(key) => merge_lists(list, more, key),
                None => *list = more,
            },
            (Some(held), value) => merge(held, value),
            (None, value) => drop(base.insert(name, stripped(value))),
        }
    }
}

/// The field that all elements have and that tells them apart.
fn key_of<'a>(name: &str, elements: impl Iterator<Item = &'a Value> + Clone) -> Option<&'static str> {
    let fits = |key: &str| elements.clone().all(|element| element.get(key).is_some());
    KEYED.iter().find(|(list, key)| *list == name && fits(key)).map(|(_, key)| *key)
}

fn merge_lists(list: &mut Vec<Value>, more: Vec<Value>, key: &str) {
    for element in more {
        let at = list.iter().position(|held| held[key] == element[key]);
        let is_deleted = element.get(DIRECTIVE).is_some_and(|directive| directive == "delete");
        match (at, is_deleted) {
            (Some(at), true) => drop(list.remove(at)),
            (None, true) => {}
            (Some(at), false) => merge(&mut list[at], element),
            (None, false) => list.push(stripped(element)),
        }
    }
}

/// Without what only means something to a merge.
fn stripped(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(name, value)| name != DIRECTIVE && !value.is_null());
            Value::Object(kept.map(|(name, value)| (name, stripped(value))).collect())
        }
        Value::Array(list) => list.into_iter().filter(|element| element.get(DIRECTIVE).is_none_or(|directive| directive != "delete")).map(stripped).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_a_strategic_merge() {
        let table = [
            ("a map", json!({"a": {"b": 1, "c": 2}}), json!({"a": {"c": 3, "d": 4}}), json!({"a": {"b": 1, "c": 3, "d": 4}})),
            ("null takes away", json!({"a": 1, "b": 2}), json!({"a": null, "c": {"d": null}}), json!({"b": 2, "c": {}})),
            ("a list without key", json!({"args": ["a", "b"]}), json!({"args": ["c"]}), json!({"args": ["c"]})),
            (
                "containers by name",
                json!({"containers": [{"name": "istio-proxy", "image": "a", "env": [{"name": "A", "value": "1"}]}]}),
                json!({"containers": [{"name": "istio-proxy", "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]}, {"name": "more"}]}),
                json!({"containers": [{"name": "istio-proxy", "image": "a", "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]}, {"name": "more"}]}),
            ),
            ("an element is deleted", json!({"volumes": [{"name": "a"}, {"name": "b"}]}), json!({"volumes": [{"name": "a", "$patch": "delete"}]}), json!({"volumes": [{"name": "b"}]})),
            ("a map is replaced", json!({"resources": {"limits": {"cpu": "1"}}}), json!({"resources": {"$patch": "replace", "requests": {}}}), json!({"resources": {"requests": {}}})),
            ("ports of a service", json!({"ports": [{"port": 15008, "name": "mesh"}]}), json!({"ports": [{"port": 15008, "nodePort": 30000}]}), json!({"ports": [{"port": 15008, "name": "mesh", "nodePort": 30000}]})),
            ("ports without key", json!({"ports": [{"port": 1}]}), json!({"ports": [{"name": "x"}]}), json!({"ports": [{"name": "x"}]})),
            ("tolerations are replaced", json!({"tolerations": [{"key": "a"}]}), json!({"tolerations": [{"key": "b"}]}), json!({"tolerations": [{"key": "b"}]})),
        ];
        for (what, mut base, over, expected) in table {
            merge(&mut base, over);
            assert_eq!(base, expected, "{what}");
        }
    }
}
