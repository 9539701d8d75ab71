//! What stands in the place of a policy that cannot be read and never could be: as much of it as says whom it is about,
//! closed. Not knowing who may come in, nobody may; a policy that was read before stays as it was instead. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use super::policy::{AuthorizationPolicySpec, MutualTls, PeerAuthenticationSpec, Selector, TargetRef};
use super::*;

#[derive(Deserialize)]
struct Frame {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Value,
}

/// `None`: nothing has to be closed, or not even a name can be read.
pub fn stand_in(kind: Kind, text: &str) -> Option<Object> {
    if !matches!(kind, Kind::AuthorizationPolicy | Kind::PeerAuthentication) {
        return None;
    }
    let Frame { metadata, spec } = serde_json::from_str(text).ok()?;
    let meta = Meta::of(kind, metadata).ok()?;
    // A selector that cannot be read may select anybody of the namespace.
    let selector = spec.get("selector").cloned().and_then(|selector| serde_json::from_value::<Selector>(selector).ok());
    if kind == Kind::PeerAuthentication {
        let mtls = Some(MutualTls { mode: Some("STRICT".into()) });
        let spec = PeerAuthenticationSpec { selector, mtls, ..PeerAuthenticationSpec::default() };
        return Some(Object::PeerAuthentication(PeerAuthentication { meta, spec }.into()));
    }
    let is_for_waypoints = ["targetRef", "targetRefs"].iter().any(|field| spec.get(field).is_some_and(|target| !target.is_null()));
    let is_enforced = !matches!(spec.get("action").and_then(Value::as_str), Some("AUDIT" | "CUSTOM"));
    let is_audit = spec.get("action").and_then(Value::as_str) == Some("AUDIT");
    if is_audit || !is_enforced && !is_for_waypoints {
        return None;
    }
    // Targets that cannot be read name nobody.
    let targets = |field: &str| spec.get(field).cloned().and_then(|targets| serde_json::from_value::<Vec<TargetRef>>(targets).ok()).unwrap_or_default();
    let one = spec.get("targetRef").cloned().and_then(|target| serde_json::from_value::<TargetRef>(target).ok());
    let target_refs: Vec<TargetRef> = targets("targetRefs").into_iter().chain(one).collect();
    if is_for_waypoints && target_refs.is_empty() {
        return None;
    }
    let selector = selector.filter(|_| !is_for_waypoints);
    // Allowing nothing closes.
    let spec = AuthorizationPolicySpec { selector, target_refs, action: Some("ALLOW".into()), ..AuthorizationPolicySpec::default() };
    Some(Object::AuthorizationPolicy(AuthorizationPolicy { meta, spec }.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cannot_be_read_is_closed_for_whom_it_is_about() {
        let ask = |kind: Kind, spec: Value| stand_in(kind, &json!({ "metadata": { "namespace": "shop", "name": "p" }, "spec": spec }).to_string());
        let selector = |labels: Value| json!({ "selector": { "matchLabels": labels }, "rule": [] });
        // what is written, and the labels that are closed; none of the list: nothing is
        let table = [
            (selector(json!({ "app": "a" })), Some("{\"app\": \"a\"}")),
            (json!({ "rule": [] }), Some("None")),
            (json!({ "action": "DENY", "rule": [] }), Some("None")),
            (json!({ "action": 7 }), Some("None")),
            (json!({ "selector": { "app": "a" } }), Some("None")),
            (json!({ "action": "AUDIT", "rule": [] }), None),
            (json!({ "targetRefs": [{ "kind": "Service", "name": "a" }], "rule": [] }), Some("None")),
            (json!({ "targetRefs": [{ "kind": "Service", "name": "a" }], "action": "CUSTOM", "rule": [] }), Some("None")),
            (json!({ "targetRefs": "a", "rule": [] }), None),
        ];
        for (spec, closed) in table {
            let found = ask(Kind::AuthorizationPolicy, spec.clone()).map(|object| match object {
                Object::AuthorizationPolicy(policy) => {
                    assert!(policy.spec.rules.is_empty() && policy.spec.action.as_deref() == Some("ALLOW"));
                    policy.spec.selector.as_ref().map_or("None".into(), |selector| format!("{:?}", selector.match_labels))
                }
                other => panic!("{other:?}"),
            });
            assert_eq!(found.as_deref(), closed, "{spec}");
        }
        match ask(Kind::PeerAuthentication, selector(json!({ "app": "a" }))) {
            Some(Object::PeerAuthentication(policy)) => assert_eq!(policy.spec.mtls.as_ref().and_then(|mtls| mtls.mode.as_deref()), Some("STRICT")),
            other => panic!("{other:?}"),
        }
        assert_eq!(ask(Kind::ServiceEntry, json!({ "host": [] })), None);
        assert_eq!(stand_in(Kind::AuthorizationPolicy, "{}"), None);
    }
}
