//! An AdmissionReview of the API server in, the answer out (admission.k8s.io/v1). Pure. What is right about an object is
//! decided by its reader; here is only the frame.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::check::check;
use crate::cluster::Event;
use crate::objects::{Kind, Known, Object, read};
use crate::translate::{Settings, Translation};

/// What is said of an object before it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why it must not be stored: the field, and what to write instead.
    pub refused: Option<String>,
    /// What of it will not be honoured.
    pub warnings: Vec<String>,
}

/// What cannot be the question of an API server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no AdmissionReview of admission.k8s.io/v1: {0}")]
pub struct NoReview(String);

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(borrow)]
    request: Asked<'a>,
}

#[derive(Deserialize)]
struct Asked<'a> {
    uid: String,
    kind: GroupVersionKind,
    #[serde(default, borrow)]
    object: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct GroupVersionKind {
    group: String,
    version: String,
    kind: String,
}

/// Answers a review; also whether the object may be stored.
///
/// # Errors
/// The question cannot be read.
pub fn answer(review: &[u8], decide: impl FnOnce(Kind, &str) -> Verdict) -> Result<(Value, bool), NoReview> {
    let Frame { request } = serde_json::from_slice(review).map_err(|error| NoReview(error.to_string()))?;
    let GroupVersionKind { group, version, kind } = &request.kind;
    // Nothing is there to be wrong when an object is deleted, and kinds and versions that are not read here are not ours.
    let verdict = match (Kind::of(&format!("{group}/{version}"), kind), request.object.map(RawValue::get)) {
        (Known::Read(kind), Some(object)) if object != "null" => decide(kind, object),
        _ => Verdict::default(),
    };
    let allowed = verdict.refused.is_none();
    let mut response = json!({ "uid": request.uid, "allowed": allowed });
    if let Some(why) = verdict.refused {
        response["status"] = json!({ "code": 422, "reason": "Invalid", "message": why });
    }
    if !verdict.warnings.is_empty() {
        response["warnings"] = json!(verdict.warnings);
    }
    Ok((json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response }), allowed))
}

/// An object that could not be used after it was stored is not stored; what of it is not honoured is said.
pub fn decide(kind: Kind, object: &str) -> Verdict {
    let read = read::sent(kind, object).map_err(|fault| match fault.field {
        Some(field) => format!("field {field}: {}", fault.what),
        None => fault.what,
    });
    match read.and_then(|object| check(&object).map(|()| object)) {
        Ok(object) => Verdict { refused: None, warnings: remarks(object) },
        Err(why) => Verdict { refused: Some(why), warnings: Vec::new() },
    }
}

/// What its status will say of an object whatever else there is: the translation of it alone, without a root namespace and
/// with all switches on, so that nothing is said that another setting makes untrue.
fn remarks(object: Object) -> Vec<String> {
    let key = object.key();
    let revision = object.meta().label("istio.io/rev").unwrap_or("default").to_owned();
    let settings = Settings { root_namespace: "".into(), sends_dry_run: true, ..Settings::default() };
    let mut alone = Translation::new(settings, &revision);
    alone.apply([Event::Applied(object)]);
    let report = alone.report(&key);
    let partly = report.conditions.into_iter().filter(|condition| condition.kind == "ZtunnelAccepted" && condition.reason != "Accepted");
    partly.map(|condition| condition.message).chain(report.notes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(group: &str, kind: &str, object: Value) -> Vec<u8> {
        json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": { "uid": "u-1", "kind": { "group": group, "version": "v1", "kind": kind }, "operation": "CREATE", "object": object },
        })
        .to_string()
        .into_bytes()
    }

    fn policy(spec: Value) -> Value {
        json!({ "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": { "namespace": "shop", "name": "p", "managedFields": [] }, "spec": spec })
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_field() {
        let security = "security.istio.io";
        let table = [
            (review(security, "AuthorizationPolicy", policy(json!({ "action": "DENY" }))), None),
            (review(security, "AuthorizationPolicy", policy(json!({ "rule": [] }))), Some("field spec.rule: unknown field `rule`")),
            (review(security, "AuthorizationPolicy", policy(json!({ "rules": [{ "to": [{ "operation": { "ports": 80 } }] }] }))), Some("field spec.rules.to.operation.ports: ")),
            (review(security, "AuthorizationPolicy", json!({ "metadata": { "name": "UPPER" } })), Some("")),
            (review(security, "AuthorizationPolicy", Value::Null), None),
            (review(security, "RequestAuthentication", json!({ "spec": { "rule": [] } })), Some("field spec.rule: unknown field `rule`")),
            (review("apps", "Deployment", json!({})), None),
        ];
        for (review, why) in table {
            let (answer, allowed) = answer(&review, decide).unwrap();
            let response = &answer["response"];
            assert_eq!((&response["uid"], response["allowed"].as_bool()), (&json!("u-1"), Some(allowed)));
            let said = response["status"]["message"].as_str();
            assert_eq!(allowed, why.is_none(), "{answer}");
            assert!(why.is_none_or(|why| said.unwrap().starts_with(why)), "{said:?}");
        }
    }

    #[test]
    fn warnings_are_passed_on() {
        let verdict = Verdict { refused: None, warnings: vec!["spec.exportTo is not honoured".into()] };
        let (answer, allowed) = answer(&review("security.istio.io", "PeerAuthentication", json!({})), |_, _| verdict).unwrap();
        assert!(allowed && answer["response"]["warnings"] == json!(["spec.exportTo is not honoured"]));
    }

    #[test]
    fn garbage_is_no_review() {
        for text in ["", "{}", "[]", "null", "{\"request\":{}}", "{\"request\":{\"uid\":1}}"] {
            assert!(answer(text.as_bytes(), decide).is_err(), "{text}");
        }
    }
}
