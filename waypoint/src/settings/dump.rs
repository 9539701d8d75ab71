//! What a waypoint serves, for operators: per service the protocol, the routes in the order in which they are tried, the
//! policies, the backends. Pure.

use std::collections::BTreeMap;

use mesh_xds::messages::waypoint::{PortProtocol, ServiceKind};
use serde_json::{Value, json};

use super::{Routes, ServiceView, Settings};
use crate::choose::{BackendKey, Members};
use crate::edit::Backend;
use crate::route::{Rule, StreamRule};

/// Everything. `only`: what is in `namespace/hostname`, where that is asked for.
pub fn dump(settings: &Settings, only: Option<&str>) -> Value {
    let asked = |view: &&std::sync::Arc<ServiceView>| only.is_none_or(|only| view.host.to_string().contains(only));
    let mut services: BTreeMap<String, Value> = BTreeMap::new();
    for view in settings.services().filter(asked) {
        services.insert(format!("{}:{:05}", view.host, view.port), service(settings, view));
    }
    let mut providers: Vec<&str> = settings.ext_authz.keys().map(|name| &**name).collect();
    let mut telemetry: Vec<&str> = settings.telemetry.keys().map(|name| &**name).collect();
    providers.sort_unstable();
    telemetry.sort_unstable();
    json!({
        "mesh": settings.mesh.wire,
        "gatewayPolicies": settings.gateway.names,
        "extAuthzProviders": providers,
        "telemetryProviders": telemetry,
        "services": services.into_values().collect::<Vec<_>>(),
    })
}

pub fn service(settings: &Settings, view: &ServiceView) -> Value {
    let groups: BTreeMap<&str, Value> = view.groups().map(|(clients, group)| (&**clients, routes(settings, group))).collect();
    let groups: Vec<Value> =
        groups.into_iter().map(|(clients, routes)| json!({"clients": clients_of(clients), "routes": routes})).collect();
    json!({
        "service": view.host.to_string(),
        "port": view.port,
        "portName": view.port_name,
        "protocol": PortProtocol::word(view.protocol),
        "kind": ServiceKind::word(view.kind),
        "external": view.external,
        "policies": view.policies(None).names,
        "groups": groups,
        "backend": backend(settings, &view.backend.key),
    })
}

pub(super) fn clients_of(namespace: &str) -> String {
    if namespace.is_empty() { "all others".to_owned() } else { format!("of namespace {namespace}") }
}

fn routes(settings: &Settings, group: &Routes) -> Value {
    match group {
        Routes::Http(table) => table
            .matches()
            .map(|(matched, by)| {
                let mut told = rule(settings, matched);
                told["match"] = matched.matches[by].to_string().into();
                told
            })
            .collect(),
        Routes::Tls(table) => table
            .names()
            .into_iter()
            .map(|(name, rule)| {
                let mut told = stream_rule(settings, rule);
                told["serverName"] = name.into();
                told
            })
            .collect(),
        Routes::Tcp(rule) => json!([stream_rule(settings, rule)]),
    }
}

pub(super) fn rule(settings: &Settings, rule: &Rule) -> Value {
    let mut told = json!({
        "rule": rule.name,
        "resource": rule.resource,
        "kind": rule.source.kind,
        "backends": backends(settings, &rule.backends),
    });
    let filters: Vec<&str> = rule.filters.words().collect();
    let millis = |time: Option<std::time::Duration>| time.map(|time| time.as_millis() as u64);
    for (key, value, is_there) in [
        ("filters", json!(filters), !filters.is_empty()),
        ("requestTimeoutMs", json!(millis(rule.request_timeout)), rule.request_timeout.is_some()),
        ("backendTimeoutMs", json!(millis(rule.backend_timeout)), rule.backend_timeout.is_some()),
        ("retry", json!(rule.retry), rule.retry.is_some()),
        ("session", json!(rule.session), rule.session.is_some()),
        ("answeredWith", json!(rule.invalid.as_ref().map(|answer| answer.status.as_u16())), rule.invalid.is_some()),
    ] {
        if is_there {
            told[key] = value;
        }
    }
    told
}

fn stream_rule(settings: &Settings, rule: &StreamRule) -> Value {
    json!({"rule": rule.name, "resource": rule.resource, "kind": rule.source.kind, "backends": backends(settings, &rule.backends)})
}

fn backends(settings: &Settings, backends: &[Backend]) -> Vec<Value> {
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let one = |of: &Backend| {
        let mut told = backend(settings, &of.key);
        told["weight"] = of.weight.into();
        told["percent"] = (u64::from(of.weight) * 100).checked_div(total).into();
        if let Some(answer) = &of.invalid {
            told["answeredWith"] = answer.status.as_u16().into();
        }
        if !of.filters.is_empty() {
            told["filters"] = of.filters.words().collect();
        }
        told
    };
    backends.iter().map(one).collect()
}

fn backend(settings: &Settings, key: &BackendKey) -> Value {
    let backend = settings.backend(key);
    let mut told = json!({"service": key.host.to_string(), "port": key.port});
    let words = backend.policy.words();
    if !words.is_empty() {
        told["policy"] = words.into();
    }
    if !key.subset.is_empty() {
        told["subset"] = (*key.subset).into();
        told["endpoints"] = match &backend.members {
            Members::All => "all".into(),
            Members::Only(uids) => uids.len().into(),
            Members::Missing => "the subset is not defined".into(),
        };
    }
    told
}
