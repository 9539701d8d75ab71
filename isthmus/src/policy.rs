//! `isthmus policy POD`: which policies apply to a pod, by the book of its own node's daemon. What `applying` reads is
//! what the daemon enforces; nothing is decided here.

use std::process::ExitCode;

use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::Value;

use crate::cli::{Format, Policy};
use crate::say;
use crate::site::{Choice, Site};
use crate::status::table;

/// A policy that is asked for every connection to the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Applying {
    /// NAMESPACE/NAME.
    pub policy: String,
    pub action: String,
    /// `Global`, `Namespace` or `WorkloadSelector`: why it applies.
    pub scope: String,
    pub rules: usize,
    /// One line for each rule.
    pub matches: Vec<String>,
}

pub async fn policy(choice: Choice, mesh: &Option<String>, options: &Policy) -> anyhow::Result<ExitCode> {
    let site = Site::find(choice, mesh.as_deref(), &options.at).await?;
    let pod = site.pod(&options.pod, options.at.namespace.as_deref()).await?;
    let doors = site.doors().await?;
    let door = doors.iter().find(|door| door.node == pod.node).with_context(|| format!("node {} has no ztunnel that runs", pod.node))?;
    let dump = door.page("/config_dump").await?;
    let (namespace, name) = pod.name.split_once('/').context("a pod has a namespace")?;
    let Some(found) = applying(&dump, namespace, name) else {
        bail!("the daemon of {} does not know pod {}; see `isthmus status`", pod.node, pod.name);
    };
    match options.output {
        Format::Json => say::out(serde_json::to_string_pretty(&found)?),
        Format::Table => show(&pod.name, pod.is_enrolled, &found),
    }
    Ok(ExitCode::SUCCESS)
}

fn show(pod: &str, is_enrolled: bool, found: &[Applying]) {
    if !is_enrolled {
        say::warning(&format!("pod {pod} is not in the mesh: nobody asks these policies"));
    }
    if found.is_empty() {
        return say::out(format!("no policy applies to {pod}: every caller is allowed"));
    }
    let mut shown = table(["POLICY", "ACTION", "SCOPE", "RULES"]);
    for one in found {
        let rules = if one.matches.is_empty() { "none: it matches nothing".to_owned() } else { one.matches.join("\n") };
        shown.add_row([one.policy.clone(), one.action.clone(), one.scope.clone(), rules]);
    }
    say::out(shown.trim_fmt());
    let allows = found.iter().any(|one| one.action == "Allow");
    say::out(if allows { "\nA caller is refused if a Deny matches; else it is allowed if an Allow does." } else { "\nA caller is refused if a Deny matches, else allowed: there is no Allow." });
}

/// The policies of a workload, denials first; none if the daemon does not know it.
pub fn applying(dump: &Value, namespace: &str, name: &str) -> Option<Vec<Applying>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let workload = dump["workloads"].as_array()?.iter().find(|one| one["namespace"] == namespace && one["name"] == name)?;
    let listed: Vec<&str> = workload["authorizationPolicies"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut found: Vec<Applying> = dump["policies"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|policy| match policy["scope"].as_str() {
            Some("Global") => true,
            Some("Namespace") => policy["namespace"] == namespace,
            _ => listed.contains(&format!("{}/{}", text(&policy["namespace"]), text(&policy["name"])).as_str()),
        })
        .map(|policy| {
            let matches: Vec<String> = policy["rules"].as_array().into_iter().flatten().map(rule).collect();
            Applying { policy: format!("{}/{}", text(&policy["namespace"]), text(&policy["name"])), action: format!("{}{}", text(&policy["action"]), if policy["dryRun"] == true { " (dry run)" } else { "" }), scope: text(&policy["scope"]), rules: matches.len(), matches }
        })
        .collect();
    found.sort_by(|one, other| (!one.action.starts_with("Deny"), &one.policy).cmp(&(!other.action.starts_with("Deny"), &other.policy)));
    // A policy that is listed and has not come closes the workload (`unknown_policy`).
    let missing: Vec<&str> = listed.into_iter().filter(|key| !found.iter().any(|one| one.policy == *key)).collect();
    for key in missing {
        found.insert(0, Applying { policy: key.to_owned(), action: "Deny".to_owned(), scope: "not known to the daemon yet: everything is refused".to_owned(), rules: 0, matches: Vec::new() });
    }
    Some(found)
}

/// A rule in one line: all of its clauses have to match, in each clause one of its alternatives.
fn rule(rule: &Value) -> String {
    let clauses: Vec<String> = rule.as_array().into_iter().flatten().map(|clause| clause.as_array().into_iter().flatten().map(alternative).collect::<Vec<_>>().join(" or ")).filter(|text| !text.is_empty()).collect();
    if clauses.is_empty() { "everything".to_owned() } else { clauses.join(", and ") }
}

fn alternative(one: &Value) -> String {
    let parts: Vec<String> = one.as_object().into_iter().flatten().filter(|(_, value)| value.as_array().is_none_or(|list| !list.is_empty())).map(|(key, value)| format!("{key} {}", plain(value))).collect();
    if parts.is_empty() { "everything".to_owned() } else { parts.join(" and ") }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join("|"),
        // A text that is compared: {"Exact": "x"}, {"Prefix": "x"}, ...
        Value::Object(pairs) => pairs
            .iter()
            .map(|(kind, text)| match kind.as_str() {
                "Exact" => plain(text),
                "Prefix" => format!("{}*", plain(text)),
                "Suffix" => format!("*{}", plain(text)),
                "Presence" => "*".to_owned(),
                other => format!("{other}={}", plain(text)),
            })
            .collect::<Vec<_>>()
            .join(" "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_applies_is_what_is_listed_and_what_is_wide_enough() {
        let policy = |namespace: &str, name: &str, scope: &str, action: &str, rules: Value| json!({"namespace": namespace, "name": name, "scope": scope, "action": action, "rules": rules, "dryRun": false});
        let dump = json!({
            "workloads": [{"namespace": "shop", "name": "db", "authorizationPolicies": ["shop/db-for-cart", "shop/not-there"]}, {"namespace": "shop", "name": "cart"}],
            "policies": [
                policy("shop", "db-for-cart", "WorkloadSelector", "Allow", json!([[[{"principals": [{"Exact": "cluster.local/ns/shop/sa/cart"}]}], [{"destinationPorts": [6400, 6401]}]]])),
                policy("shop", "others", "WorkloadSelector", "Allow", json!([])),
                policy("shop", "all", "Namespace", "Deny", json!([[[{"namespaces": [{"Prefix": "evil-"}]}, {"notSourceIps": ["10.0.0.0/8"]}]]])),
                policy("other", "theirs", "Namespace", "Deny", json!([[[{}]]])),
                policy("istio-system", "mesh", "Global", "Allow", json!([[[{}]]])),
            ],
        });
        let lines = |name: &str| applying(&dump, "shop", name).map(|found| found.iter().map(|one| format!("{} {} {}", one.policy, one.action, one.matches.join("; "))).collect::<Vec<_>>());
        assert_eq!(
            lines("db").unwrap(),
            [
                "shop/not-there Deny ",
                "shop/all Deny namespaces evil-* or notSourceIps 10.0.0.0/8",
                "istio-system/mesh Allow everything",
                "shop/db-for-cart Allow principals cluster.local/ns/shop/sa/cart, and destinationPorts 6400|6401",
            ]
        );
        assert_eq!(lines("cart").unwrap().len(), 2);
        assert_eq!(lines("nobody"), None);
    }
}
