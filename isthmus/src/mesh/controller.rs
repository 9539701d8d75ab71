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

/// Reasons of conditions that hold and say all the same that something of the object has no effect.
const ONLY_IN_PART: [&str; 2] = ["UnsupportedValue", "PartiallyInvalid"];

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
        let unwell = entry.conditions.iter().filter(|condition| condition.status != "True" || ONLY_IN_PART.contains(&condition.reason.as_str()));
        said.extend(unwell.map(|condition| format!("{about}: {}", condition.message)));
        // So it is with the address of a waypoint.
        let is_ours_to_bring = |note: &&String| entry.kind == "Gateway" && note.starts_with("has no address");
        said.extend(entry.notes.iter().filter(|note| !is_ours_to_bring(note)).map(|note| format!("{about}: {note}")));
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
            {"kind": "Service", "namespace": "shop", "name": "s", "origin": "a.yaml:15", "conditions": [{"type": "istio.io/WaypointBound", "status": "True", "reason": "WaypointAccepted", "message": "attached"}]},
            {"kind": "Gateway", "namespace": "shop", "name": "w", "origin": "a.yaml:18", "notes": ["has no address in status.addresses"]},
            {"kind": "Pod", "namespace": "shop", "name": "new", "origin": "a.yaml:20", "notes": ["is not published: it has no status yet"]}]}"#;
        assert_eq!(
            worth_saying(text),
            ["x.yaml: line 8: wrong", "a.yaml:9: AuthorizationPolicy shop/odd: methods are left out", "a.yaml:9: AuthorizationPolicy shop/odd: note"]
        );
        assert_eq!(worth_saying("half of a f"), [""; 0]);
    }
}
