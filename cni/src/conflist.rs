//! Pure: the list of CNI plugins of a node, with our entry in it and without (spec/dataplane.md 4.3).

use serde_json::{Value, json};

/// The type of our entry, which is the file name of the plugin.
pub const TYPE: &str = "isthmus-cni";

/// Which files of the folder the runtime reads, in the order in which it tries them: the first that is a configuration is the
/// one that it takes.
pub fn candidates(mut names: Vec<String>) -> Vec<String> {
    names.retain(|name| !name.starts_with('.') && [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end)));
    names.sort_unstable();
    names
}

/// What is to be written, and under which name; `None` when the file is right as it is.
pub fn with_us(name: &str, text: &str, entry: &Value) -> Result<Option<(String, String)>, String> {
    let mut list = parsed(text)?;
    let mut name = name.to_owned();
    if list.get("plugins").is_none() {
        // One plugin alone: it becomes the first of a list, and the file gets the ending of one.
        let network = list.get("name").cloned().unwrap_or_else(|| "k8s-pod-network".into());
        let version = list.get("cniVersion").cloned().unwrap_or_else(|| "0.3.1".into());
        list = json!({"name": network, "cniVersion": version, "plugins": [list]});
        let stem = name.strip_suffix(".conf").or_else(|| name.strip_suffix(".json")).unwrap_or(&name);
        name = format!("{stem}.conflist");
    }
    let plugins = list.get_mut("plugins").and_then(Value::as_array_mut).ok_or("plugins: not a list")?;
    if plugins.is_empty() {
        return Err("plugins: empty; the network's own plugin is to come first".to_owned());
    }
    if plugins.last() == Some(entry) && plugins.iter().filter(|one| is_ours(one)).count() == 1 {
        return Ok(None);
    }
    plugins.retain(|one| !is_ours(one));
    plugins.push(entry.clone());
    Ok(Some((name, shown(&list))))
}

/// The text without our entry; `None` when there is none in it.
pub fn without_us(text: &str) -> Result<Option<String>, String> {
    let mut list = parsed(text)?;
    let Some(plugins) = list.get_mut("plugins").and_then(Value::as_array_mut) else { return Ok(None) };
    let before = plugins.len();
    plugins.retain(|one| !is_ours(one));
    Ok((plugins.len() < before).then(|| shown(&list)))
}

fn is_ours(plugin: &Value) -> bool {
    plugin.get("type").and_then(Value::as_str) == Some(TYPE)
}

fn parsed(text: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match value.get("plugins").is_some() || value.get("type").is_some() {
        true => Ok(value),
        false => Err("it has neither plugins nor type: no configuration of CNI".to_owned()),
    }
}

fn shown(list: &Value) -> String {
    format!("{list:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Value {
        json!({"type": TYPE, "name": TYPE, "pod_namespace": "istio-system"})
    }

    fn types(text: &str) -> Vec<String> {
        let list: Value = serde_json::from_str(text).unwrap();
        list["plugins"].as_array().unwrap().iter().map(|one| one["type"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn files_are_tried_by_name() {
        for (names, expected) in [
            (vec!["10-b.conflist", "05-a.conf", "README"], vec!["05-a.conf", "10-b.conflist"]),
            (vec![".isthmus-cni.tmp.conflist", "87-podman.conflist"], vec!["87-podman.conflist"]),
            (vec!["x.json", "x.yaml"], vec!["x.json"]),
            (vec![], vec![]),
        ] {
            assert_eq!(candidates(names.into_iter().map(str::to_owned).collect()), expected);
        }
    }

    #[test]
    fn we_come_last_and_once() {
        let plain = r#"{"cniVersion":"1.0.0","name":"kindnet","plugins":[{"type":"ptp"},{"type":"portmap"}]}"#;
        let (name, text) = with_us("10-kindnet.conflist", plain, &ours()).unwrap().unwrap();
        assert_eq!((name.as_str(), types(&text)), ("10-kindnet.conflist", vec!["ptp".into(), "portmap".into(), TYPE.into()]));
        assert_eq!(with_us(&name, &text, &ours()), Ok(None), "twice is as good as once");
        // somebody put a plugin behind us; an earlier version left another entry
        for spoilt in [
            json!({"name": "n", "plugins": [{"type": "ptp"}, ours(), {"type": "bandwidth"}]}),
            json!({"name": "n", "plugins": [{"type": TYPE}, {"type": "ptp"}, {"type": "bandwidth"}, ours()]}),
        ] {
            let (_, mended) = with_us("a.conflist", &spoilt.to_string(), &ours()).unwrap().unwrap();
            assert_eq!(types(&mended), ["ptp", "bandwidth", TYPE]);
        }
        let changed = json!({"type": TYPE, "name": TYPE, "pod_namespace": "other"});
        assert!(with_us(&name, &text, &changed).unwrap().unwrap().1.contains("other"));
        // and without us it is what it was
        let back = without_us(&text).unwrap().unwrap();
        assert_eq!(serde_json::from_str::<Value>(&back).unwrap(), serde_json::from_str::<Value>(plain).unwrap());
        assert_eq!(without_us(plain), Ok(None));
    }

    #[test]
    fn one_plugin_becomes_a_list() {
        let (name, text) = with_us("10-flannel.conf", r#"{"type":"flannel","name":"cbr0","cniVersion":"0.4.0"}"#, &ours()).unwrap().unwrap();
        let list: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((name.as_str(), types(&text)), ("10-flannel.conflist", vec!["flannel".into(), TYPE.into()]));
        assert_eq!((&list["name"], &list["cniVersion"]), (&json!("cbr0"), &json!("0.4.0")));
    }

    #[test]
    fn what_is_no_configuration_is_left_alone() {
        for text in ["", "{", "[]", "{}", r#"{"plugins":{}}"#, r#"{"plugins":[]}"#] {
            assert!(with_us("a.conflist", text, &ours()).is_err(), "{text}");
        }
    }
}
