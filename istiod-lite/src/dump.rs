//! Published values as JSON for the page `/debug/ambientz`: the names of the workload API, and only what is set.

use mesh_model::address::{GatewayAddress, GatewayDestination};
use mesh_model::service::Service;
use mesh_model::workload::{TunnelProtocol, Workload};
use mesh_policy::{Entry, Match, Policy, StringMatch};
use mesh_xds::messages::waypoint::to_json;
use serde_json::{Map, Value, json};

use crate::translate::Resource;

pub fn workload(workload: &Workload) -> Value {
    let services = workload.services.iter().map(|(key, ports)| (key.to_string(), ports_of(ports)));
    bare(json!({
        "uid": workload.uid.to_string(),
        "name": workload.name,
        "namespace": workload.namespace,
        "addresses": workload.addresses,
        "hostname": workload.hostname,
        "network": workload.network,
        "tunnelProtocol": if workload.tunnel_protocol == TunnelProtocol::Hbone { "HBONE" } else { "" },
        "nativeTunnel": workload.native_tunnel,
        "trustDomain": workload.trust_domain,
        "serviceAccount": workload.service_account,
        "waypoint": workload.waypoint.as_ref().map(gateway),
        "node": workload.node,
        "canonicalName": workload.canonical_name,
        "canonicalRevision": workload.canonical_revision,
        "workloadName": workload.workload_name,
        "status": format!("{:?}", workload.status).to_uppercase(),
        "clusterId": workload.cluster_id,
        "capacity": workload.capacity,
        "locality": bare(json!({ "region": workload.locality.region, "zone": workload.locality.zone, "subzone": workload.locality.subzone })),
        "authorizationPolicies": workload.authorization_policies.iter().map(|key| key.to_string()).collect::<Vec<_>>(),
        "services": services.collect::<Map<_, _>>(),
    }))
}

pub fn service(service: &Service) -> Value {
    let ranges = service.cidr_vips.iter().map(|vip| vip.to_string());
    bare(json!({
        "name": service.name,
        "namespace": service.namespace,
        "hostname": service.hostname,
        "addresses": service.vips.iter().map(|vip| vip.to_string()).chain(ranges).collect::<Vec<_>>(),
        "ports": ports_of(&service.ports),
        "appProtocols": service.app_protocols.iter().map(|(port, protocol)| (port.to_string(), json!(format!("{protocol:?}").to_uppercase()))).collect::<Map<_, _>>(),
        "subjectAltNames": service.subject_alt_names,
        "waypoint": service.waypoint.as_ref().map(gateway),
        "weightedWaypoints": service.weighted_waypoints.iter().map(|one| json!({ "destination": gateway(&one.destination), "weight": one.weight })).collect::<Vec<_>>(),
        "loadBalancing": bare(json!({
            "routingPreference": service.load_balancing.routing_preference.iter().map(|scope| format!("{scope:?}").to_uppercase()).collect::<Vec<_>>(),
            "mode": format!("{:?}", service.load_balancing.mode).to_uppercase(),
            "healthPolicy": format!("{:?}", service.load_balancing.health_policy),
        })),
        "ipFamilies": format!("{:?}", service.ip_families),
        "canonical": service.canonical,
        "ingressUseWaypoint": service.ingress_use_waypoint,
    }))
}

/// What waypoints are told.
pub fn resource(resource: &Resource) -> Value {
    bare(json!({
        "type": resource.type_url.rsplit('.').next(),
        "name": resource.name,
        "audiences": resource.audiences,
        "content": to_json(resource.type_url, &resource.body).and_then(sparse),
    }))
}

pub fn policy(policy: &Policy) -> Value {
    let rule = |rule: &mesh_policy::Rule| json!({ "matches": rule.matches.iter().map(one_match).collect::<Vec<_>>() });
    json!({
        "name": policy.name,
        "namespace": policy.namespace,
        "scope": format!("{:?}", policy.scope),
        "action": format!("{:?}", policy.action).to_uppercase(),
        "dryRun": policy.dry_run,
        "groups": policy.groups.iter().map(|group| json!({ "rules": group.rules.iter().map(rule).collect::<Vec<_>>() })).collect::<Vec<_>>(),
    })
}

fn one_match(one: &Match) -> Value {
    let accounts = |list: &[mesh_policy::ServiceAccountMatch]| list.iter().map(|sa| format!("{}/{}", sa.namespace, sa.service_account)).collect::<Vec<_>>();
    bare(json!({
        "namespaces": values(&one.namespaces, text),
        "notNamespaces": values(&one.not_namespaces, text),
        "serviceAccounts": accounts(&one.service_accounts),
        "notServiceAccounts": accounts(&one.not_service_accounts),
        "principals": values(&one.principals, text),
        "notPrincipals": values(&one.not_principals, text),
        "sourceIps": values(&one.source_ips, ToString::to_string),
        "notSourceIps": values(&one.not_source_ips, ToString::to_string),
        "destinationIps": values(&one.destination_ips, ToString::to_string),
        "notDestinationIps": values(&one.not_destination_ips, ToString::to_string),
        "destinationPorts": values(&one.destination_ports, ToString::to_string),
        "notDestinationPorts": values(&one.not_destination_ports, ToString::to_string),
    }))
}

fn values<T>(entries: &[Entry<T>], print: impl Fn(&T) -> String) -> Vec<String> {
    let one = |entry: &Entry<T>| match entry {
        Entry::Value(value) => print(value),
        Entry::Malformed => "(malformed)".into(),
    };
    entries.iter().map(one).collect()
}

fn text(matching: &StringMatch) -> String {
    match matching {
        StringMatch::Exact(text) => text.to_string(),
        StringMatch::Prefix(text) => format!("{text}*"),
        StringMatch::Suffix(text) => format!("*{text}"),
        StringMatch::Presence => "*".into(),
    }
}

fn gateway(address: &GatewayAddress) -> Value {
    let destination = match &address.destination {
        GatewayDestination::Hostname(name) => json!({ "hostname": name.to_string() }),
        GatewayDestination::Address(address) => json!({ "address": address.to_string() }),
    };
    json!({ "destination": destination, "hboneMtlsPort": address.hbone_mtls_port })
}

fn ports_of(ports: &std::collections::BTreeMap<u16, u16>) -> Value {
    ports.iter().map(|(service, target)| json!({ "servicePort": service, "targetPort": target })).collect()
}

/// Leaves out what is empty, false or null.
/// What differs from the default of its message, at any depth.
fn sparse(value: Value) -> Option<Value> {
    match value {
        Value::Object(fields) => {
            let fields: Map<_, _> = fields.into_iter().filter_map(|(name, value)| Some((name, sparse(value)?))).collect();
            (!fields.is_empty()).then_some(Value::Object(fields))
        }
        // An item that says nothing counts all the same.
        Value::Array(items) => {
            let items: Vec<Value> = items.into_iter().map(|item| sparse(item).unwrap_or_else(|| json!({}))).collect();
            (!items.is_empty()).then_some(Value::Array(items))
        }
        Value::Null | Value::Bool(false) => None,
        Value::String(text) if text.is_empty() => None,
        Value::Number(number) if number.as_f64() == Some(0.0) => None,
        said => Some(said),
    }
}

fn bare(value: Value) -> Value {
    let Value::Object(fields) = value else { return value };
    let is_said = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    };
    Value::Object(fields.into_iter().filter(|(_, value)| is_said(value)).collect())
}
