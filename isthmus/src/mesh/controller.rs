//! What the controller says of the folder's objects (its status file): broken files, and objects that it honours only
//! in part. Pure but for the reading.

use std::path::Path;

use serde::Deserialize;

/// The part of the controller's page that is for people.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Page {
    findings: Vec<String>,
    objects: Vec<Entry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    kind: String,
    namespace: String,
    name: String,
    origin: String,
    conditions: Vec<Condition>,
    notes: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    status: String,
    reason: String,
    message: String,
}

/// What is worth a warning in the page at `file`; nothing while there is no page.
pub fn findings(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).map(|text| worth_saying(&text)).unwrap_or_default()
}

fn worth_saying(text: &str) -> Vec<String> {
    let page: Page = serde_json::from_str(text).unwrap_or_default();
    let mut said = page.findings;
    // A Pod's node, address and state are what `up` itself brings; until it has, the controller misses them.
    for entry in page.objects.into_iter().filter(|entry| entry.kind != "Pod") {
        let about = format!("{}: {} {}/{}", entry.origin, entry.kind, entry.namespace, entry.name);
        let unwell = entry.conditions.iter().filter(|condition| condition.status != "True" || condition.reason != "Accepted");
        said.extend(unwell.map(|condition| format!("{about}: {}", condition.message)));
        said.extend(entry.notes.iter().map(|note| format!("{about}: {note}")));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_as_written_is_said() {
        let text = r#"{"isWhole": true, "findings": ["x.yaml: line 8: wrong"], "objects": [
            {"kind": "AuthorizationPolicy", "namespace": "shop", "name": "good", "origin": "a.yaml:1", "conditions": [{"type": "ZtunnelAccepted", "status": "True", "reason": "Accepted", "message": "attached"}]},
            {"kind": "AuthorizationPolicy", "namespace": "shop", "name": "odd", "origin": "a.yaml:9", "conditions": [{"type": "ZtunnelAccepted", "status": "True", "reason": "UnsupportedValue", "message": "methods are left out"}], "notes": ["note"]},
            {"kind": "Pod", "namespace": "shop", "name": "new", "origin": "a.yaml:20", "notes": ["is not published: it has no status yet"]}]}"#;
        assert_eq!(
            worth_saying(text),
            ["x.yaml: line 8: wrong", "a.yaml:9: AuthorizationPolicy shop/odd: methods are left out", "a.yaml:9: AuthorizationPolicy shop/odd: note"]
        );
        assert_eq!(worth_saying("half of a f"), [""; 0]);
    }
}
