//! The verdict and the policy that decides, for each row of the live view: asked of a daemon (`GET /why`), which makes
//! the same decision again that it makes for connections.

use std::collections::BTreeMap;

use serde_json::Value;

use super::traffic::Row;
use crate::lab::state::State;
use crate::site::Door;
use crate::why::explain;

/// Questions for one picture: a screenful.
const QUESTIONS_MAX: usize = 60;

/// Fills in each row's verdict. Rows that cannot be asked about keep none.
pub async fn ask(state: &State, rows: &mut [Row]) {
    let Some(door) = Door::of_machine(state).into_iter().next() else { return };
    let Ok(dump) = door.page("/config_dump").await else { return };
    let ports = ports(&dump);
    for row in rows.iter_mut().take(QUESTIONS_MAX) {
        let (Some(from), Some(to)) = (caller(state, row), destination(row, &ports)) else { continue };
        if let Ok(told) = explain(&door, &from, &to).await {
            row.verdict = verdict(&told);
        }
    }
}

/// A pod of the mesh by name, another one by its address.
fn caller(state: &State, row: &Row) -> Option<String> {
    let pod = state.pods.iter().find(|pod| pod.name.to_string() == row.from)?;
    Some(if row.encrypted { row.from.clone() } else { pod.addresses.v4.to_string() })
}

/// The workload that answered, at a port that a service of the mesh leads to.
fn destination(row: &Row, ports: &BTreeMap<String, u64>) -> Option<String> {
    Some(format!("{}:{}", row.to, ports.get(&row.to)?))
}

/// A port of each workload that is an endpoint of a service, by NAMESPACE/NAME.
fn ports(dump: &Value) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for endpoint in dump["services"].as_array().into_iter().flatten().flat_map(|service| service["endpoints"].as_object().into_iter().flatten()) {
        // CLUSTER//Pod/NAMESPACE/NAME
        let mut parts = endpoint.0.rsplitn(3, '/');
        let (Some(name), Some(namespace)) = (parts.next(), parts.next()) else { continue };
        let port = endpoint.1["port"].as_object().and_then(|ports| ports.values().next()).and_then(Value::as_u64);
        found.extend(port.map(|port| (format!("{namespace}/{name}"), port)));
    }
    found
}

/// In the fewest words: what was decided, and by what.
pub fn verdict(told: &Value) -> Option<String> {
    let policy = &told["policy"];
    let by = policy["policy"].as_str().map_or_else(String::new, |key| format!(" by {key}"));
    match policy["allowed"].as_bool()? {
        true if by.is_empty() => Some("allowed (no policy)".to_owned()),
        true => Some(format!("allowed{by}")),
        false if by.is_empty() => Some(format!("refused: {}", policy["because"].as_str().unwrap_or("no reason given"))),
        false => Some(format!("refused{by}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_verdict_names_what_decided() {
        for (policy, said) in [
            (json!({"allowed": true, "because": "no allow policy selects the workload"}), Some("allowed (no policy)")),
            (json!({"allowed": true, "policy": "shop/p"}), Some("allowed by shop/p")),
            (json!({"allowed": false, "policy": "shop/p"}), Some("refused by shop/p")),
            (json!({"allowed": false, "because": "none allowed"}), Some("refused: none allowed")),
            (Value::Null, None),
        ] {
            assert_eq!(verdict(&json!({"policy": policy})).as_deref(), said);
        }
    }

    #[test]
    fn each_endpoint_has_a_port_to_ask_about() {
        let dump = json!({"services": [{"endpoints": {"Kubernetes//Pod/lab/cart-7c": {"port": {"80": 8080}}, "odd": {}}}]});
        assert_eq!(ports(&dump), [("lab/cart-7c".to_owned(), 8080)].into());
    }
}
