//! What is said about Gateways and classes in their status (spec/controlplane.md 6.4). Pure; time is an argument.

use serde_json::{Value, json};

use super::seen::{Address, Class, Gateway, HBONE_PORT, Listener};

/// Kinds of routes that a listener of a waypoint takes.
const ROUTES: [&str; 4] = ["GRPCRoute", "HTTPRoute", "TCPRoute", "TLSRoute"];
const GROUP: &str = "gateway.networking.k8s.io";
/// Protocols that a listener may have at all; of a waypoint only one does something.
const PROTOCOLS: [&str; 7] = ["HBONE", "HTTP", "HTTPS", "TLS", "TCP", "UDP", "istio.io/PROXY"];

/// How far the program of a Gateway is.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// Its parameters cannot be used; what was made before stays as it is.
    WrongParameters(String),
    /// The user's own addresses cannot be used.
    WrongAddress(String),
    /// Something could not be made.
    NotMade(String),
    /// No instance is ready.
    NotReady(String),
    /// Who serves it.
    Serving { addresses: Vec<Address>, service: String },
}

/// The status of a class of ours.
pub fn class(class: &Class, now: &str) -> Value {
    let accepted = condition("Accepted", true, "Accepted", "Gateways of this class are deployed as waypoints", class.generation);
    json!({ "conditions": timed(vec![accepted], &class.status["conditions"], now) })
}

/// The status of a Gateway. `attached`: routes that each listener has.
pub fn gateway(gateway: &Gateway, stage: &Stage, attached: impl Fn(&str) -> u32, now: &str) -> Value {
    let generation = gateway.generation;
    let listeners: Vec<Value> = gateway.spec.listeners.iter().map(|one| listener(gateway, one, stage, attached(&one.name), now)).collect();
    let is_valid = |one: &&Listener| PROTOCOLS.contains(&one.protocol.as_str());
    let (valid, all) = (gateway.spec.listeners.iter().filter(is_valid).count(), gateway.spec.listeners.len());
    let accepted = match stage {
        Stage::WrongParameters(why) => condition("Accepted", false, "InvalidParameters", why, generation),
        Stage::WrongAddress(why) => condition("Accepted", false, "UnsupportedAddress", why, generation),
        _ if valid == 0 => condition("Accepted", false, "ListenersNotValid", "no listener is valid", generation),
        _ if valid < all => condition("Accepted", true, "ListenersNotValid", "some listeners are not valid: see their conditions", generation),
        _ => condition("Accepted", true, "Accepted", "deployed as a waypoint", generation),
    };
    // Once services are bound to it they stay bound while it restarts: a name without an instance refuses, and no name
    // would let traffic past it.
    let held = addresses_of(&gateway.status);
    let programmed = match stage {
        Stage::Serving { service, .. } => condition("Programmed", true, "Programmed", &format!("served by {service}:{HBONE_PORT}"), generation),
        Stage::WrongParameters(why) | Stage::WrongAddress(why) => condition("Programmed", false, "Invalid", why, generation),
        Stage::NotMade(why) | Stage::NotReady(why) if held.is_empty() => condition("Programmed", false, "AddressNotAssigned", why, generation),
        Stage::NotMade(why) | Stage::NotReady(why) => condition("Programmed", false, "NoResources", why, generation),
    };
    let addresses = match stage {
        Stage::Serving { addresses, .. } => addresses.clone(),
        _ => held,
    };
    let addresses: Vec<Value> = addresses.iter().map(|address| json!({ "type": address.kind, "value": address.value })).collect();
    json!({
        "addresses": addresses,
        "conditions": timed(vec![accepted, programmed], &gateway.status["conditions"], now),
        "listeners": listeners,
    })
}

fn listener(gateway: &Gateway, listener: &Listener, stage: &Stage, attached: u32, now: &str) -> Value {
    let generation = gateway.generation;
    let is_mesh = listener.port == HBONE_PORT && listener.protocol == "HBONE";
    let (kinds, unknown) = kinds(listener);
    let accepted = match is_mesh {
        true => condition("Accepted", true, "Accepted", "tunnels arrive here", generation),
        false => condition("Accepted", false, "UnsupportedProtocol", &format!("Expected a single listener on port {HBONE_PORT} with protocol \"HBONE\""), generation),
    };
    let programmed = match (is_mesh, stage) {
        (true, Stage::Serving { .. }) => condition("Programmed", true, "Programmed", "instances listen", generation),
        (true, Stage::NotMade(why) | Stage::NotReady(why)) => condition("Programmed", false, "Pending", why, generation),
        (true, Stage::WrongParameters(why) | Stage::WrongAddress(why)) => condition("Programmed", false, "Invalid", why, generation),
        (false, _) => condition("Programmed", false, "Invalid", "a waypoint does not listen there", generation),
    };
    let resolved = match unknown.is_empty() {
        true => condition("ResolvedRefs", true, "ResolvedRefs", "nothing is missing", generation),
        false => condition("ResolvedRefs", false, "InvalidRouteKinds", &format!("allowedRoutes.kinds: {} do not attach to a waypoint", unknown.join(", ")), generation),
    };
    let conflicted = condition("Conflicted", false, "NoConflicts", "no listener is in the way of another", generation);
    let held = gateway.status["listeners"].as_array().into_iter().flatten().find(|held| held["name"] == listener.name.as_str());
    let kinds: Vec<Value> = if is_mesh { kinds.into_iter().map(|kind| json!({ "group": GROUP, "kind": kind })).collect() } else { Vec::new() };
    json!({
        "name": listener.name,
        "attachedRoutes": attached,
        "supportedKinds": kinds,
        "conditions": timed(vec![accepted, conflicted, programmed, resolved], &held.map_or(Value::Null, |held| held["conditions"].clone()), now),
    })
}

/// Those that a listener takes, and those that it names and no waypoint takes.
fn kinds(listener: &Listener) -> (Vec<String>, Vec<String>) {
    let named = listener.allowed_routes.as_ref().map(|allowed| &allowed.kinds).filter(|kinds| !kinds.is_empty());
    let Some(named) = named else { return (ROUTES.map(str::to_owned).to_vec(), Vec::new()) };
    let is_ours = |kind: &&super::seen::RouteKind| kind.group.as_deref().unwrap_or(GROUP) == GROUP && ROUTES.contains(&kind.kind.as_str());
    let (ours, others): (Vec<_>, Vec<_>) = named.iter().partition(is_ours);
    let names = |kinds: Vec<&super::seen::RouteKind>| kinds.into_iter().map(|kind| kind.kind.clone()).collect();
    (names(ours), names(others))
}

pub fn addresses_of(status: &Value) -> Vec<Address> {
    serde_json::from_value(status["addresses"].clone()).unwrap_or_default()
}

fn condition(kind: &str, is_true: bool, reason: &str, message: &str, generation: i64) -> Value {
    json!({ "type": kind, "status": if is_true { "True" } else { "False" }, "reason": reason, "message": message, "observedGeneration": generation })
}

/// The time is that of the last change of the status, not of its text.
fn timed(mut conditions: Vec<Value>, held: &Value, now: &str) -> Vec<Value> {
    for condition in &mut conditions {
        let same = |before: &&Value| before["type"] == condition["type"] && before["status"] == condition["status"];
        let before = held.as_array().into_iter().flatten().find(same);
        let since = before.and_then(|before| before["lastTransitionTime"].as_str()).unwrap_or(now);
        condition["lastTransitionTime"] = json!(since);
    }
    conditions
}

/// Whether an object shows what there is to say. What others say beside us does not count.
pub fn is_shown(said: &Value, held: &Value) -> bool {
    match (said, held) {
        (Value::Object(said), Value::Object(held)) => said.iter().all(|(name, value)| is_shown(value, held.get(name).unwrap_or(&Value::Null))),
        (Value::Array(said), Value::Null) => said.is_empty(),
        (Value::Array(said), Value::Array(held)) => {
            let key = said.iter().find_map(|one| ["type", "name"].into_iter().find(|key| one.get(*key).is_some()));
            let Some(key) = key.filter(|_| said.iter().all(|one| one.get("value").is_none())) else { return said == held };
            said.iter().all(|one| held.iter().any(|other| one[key] == other[key] && is_shown(one, other)))
        }
        (said, held) => said == held,
    }
}
