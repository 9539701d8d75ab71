//! `/config_dump`: what this daemon knows, as JSON with the field's names (spec/dataplane.md 8.3). `istioctl
//! ztunnel-config` reads it, so names and spellings are a contract. Data in, JSON out; times and PEM come as text.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use mesh_model::address::GatewayAddress;
use mesh_model::directory::Directory;
use mesh_model::service::{HealthPolicy, IpFamilies, LoadBalancing, LoadBalancingMode, Scope, Service, Visibility};
use mesh_model::workload::{ApplicationTunnelProtocol, Health, NetworkMode, TunnelProtocol, Workload, WorkloadType};
use mesh_policy::policy::{Entry, Match, StringMatch};
use mesh_policy::{Action, Policy, PolicySet};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::localfile::LocalFile;

/// What the other rooms of the daemon add to the dump.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// `version`, `config`: objects as they are.
    pub version: Value,
    pub config: Value,
    /// By identity.
    pub certificates: Vec<CertificateDump>,
    /// By uid of the pod; `None` in dedicated mode, which has no enrolled pods.
    pub workload_state: Option<BTreeMap<String, PodDump>>,
}

/// The certificate of one identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateDump {
    pub identity: String,
    /// `Initializing`, `Available` or `Unavailable: WHY`.
    pub state: String,
    pub cert_chain: Vec<CertDump>,
    pub root_certs: Vec<CertDump>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertDump {
    /// Base64 of the PEM text.
    pub pem: String,
    pub serial_number: String,
    /// RFC 3339.
    pub valid_from: String,
    /// RFC 3339.
    pub expiration_time: String,
}

/// One enrolled pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PodDump {
    /// `Up` or `Pending`.
    pub state: &'static str,
    pub info: PodInfoDump,
    /// Absent while pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<ConnectionsDump>,
    /// Absent where nothing is captured; a field of our own.
    #[serde(rename = "olderConnections", skip_serializing_if = "Option::is_none")]
    pub older: Option<OlderDump>,
}

/// Connections that the pod accepted before it was enrolled, as they were when they last mattered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OlderDump {
    pub open: usize,
    /// Of these, refused by policy: to be cut when their grace is over.
    pub refused: usize,
    /// Cut so far.
    pub cut: u64,
    /// Why they could not be judged or cut at the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodInfoDump {
    pub name: String,
    pub namespace: String,
    pub service_account: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConnectionsDump {
    pub inbound: Vec<ConnectionDump>,
    pub outbound: Vec<ConnectionDump>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionDump {
    pub src: String,
    /// Outbound: ip:port. Inbound: the hostname that the peer said it meant.
    pub original_dst: Option<String>,
    pub actual_dst: String,
    /// `HBONE`, `TCP` or `DOUBLEHBONE`.
    pub protocol: &'static str,
}

/// The whole dump. Keys of every object are sorted.
pub fn config_dump(directory: &Directory, policies: &PolicySet, fixed: &LocalFile, parts: &Parts) -> Value {
    let mut services: Vec<&Arc<Service>> = directory.services().collect();
    services.sort_by_key(|service| (service.hostname.clone(), service.namespace.clone()));
    let mut dump = BTreeMap::from([
        ("workloads", directory.workloads().map(|one| workload(one)).collect()),
        ("services", services.into_iter().map(|one| service(directory, one)).collect()),
        ("policies", policies.iter().map(|(_, one)| policy(one)).collect()),
        ("stagedServices", staged(directory)),
        ("staticConfig", static_config(fixed)),
        ("version", parts.version.clone()),
        ("config", parts.config.clone()),
        ("certificates", plain(&parts.certificates)),
    ]);
    if let Some(pods) = &parts.workload_state {
        dump.insert("workloadState", plain(pods));
    }
    sorted(object(dump))
}

/// A workload, with the keys that istioctl knows; what is empty, false or not said is left out.
pub fn workload(workload: &Workload) -> Value {
    let ips: Vec<String> = workload.addresses.iter().map(ToString::to_string).collect();
    let mut dump = BTreeMap::from([
        ("workloadIps", json!(ips)),
        ("protocol", json!(protocol(workload.tunnel_protocol))),
        ("networkMode", json!(network_mode(workload.network_mode))),
        ("name", json!(workload.name)),
        ("namespace", json!(workload.namespace)),
        ("status", json!(health(workload.status))),
        ("clusterId", json!(workload.cluster_id)),
        ("capacity", json!(workload.capacity)),
        ("workloadType", json!(workload_type(workload.workload_type))),
    ]);
    for (key, text) in [
        ("uid", &workload.uid.0),
        ("trustDomain", &workload.trust_domain),
        ("serviceAccount", &workload.service_account),
        ("network", &workload.network),
        ("workloadName", &workload.workload_name),
        ("canonicalName", &workload.canonical_name),
        ("canonicalRevision", &workload.canonical_revision),
        ("hostname", &workload.hostname),
        ("node", &workload.node),
    ] {
        if !text.is_empty() {
            dump.insert(key, json!(text));
        }
    }
    if workload.native_tunnel {
        dump.insert("nativeTunnel", json!(true));
    }
    for (key, address) in [("waypoint", &workload.waypoint), ("networkGateway", &workload.network_gateway)] {
        if let Some(address) = address {
            dump.insert(key, gateway(address));
        }
    }
    if let Some(tunnel) = workload.application_tunnel {
        let protocol = match tunnel.protocol {
            ApplicationTunnelProtocol::None => "NONE",
            ApplicationTunnelProtocol::Proxy => "PROXY",
        };
        dump.insert("applicationTunnel", json!({"protocol": protocol, "port": tunnel.port}));
    }
    if !workload.authorization_policies.is_empty() {
        let keys: Vec<String> = workload.authorization_policies.iter().map(ToString::to_string).collect();
        dump.insert("authorizationPolicies", json!(keys));
    }
    let place = &workload.locality;
    if *place != Default::default() {
        dump.insert("locality", json!({"region": place.region, "zone": place.zone, "subzone": place.subzone}));
    }
    if !workload.services.is_empty() {
        let keys: Vec<String> = workload.services.keys().map(ToString::to_string).collect();
        dump.insert("services", json!(keys));
    }
    object(dump)
}

/// A service with the endpoints that connections may be given now.
pub fn service(directory: &Directory, service: &Service) -> Value {
    let key = service.key();
    let endpoints = directory.endpoints(service).map(|one| (one.uid.to_string(), endpoint(one, one.services.get(&key))));
    let mut dump = service_itself(service);
    dump.insert("endpoints", Value::Object(endpoints.collect()));
    object(dump)
}

fn service_itself(service: &Service) -> BTreeMap<&'static str, Value> {
    let vips: Vec<String> = service.vips.iter().map(ToString::to_string).collect();
    let mut dump = BTreeMap::from([
        ("name", json!(service.name)),
        ("namespace", json!(service.namespace)),
        ("hostname", json!(service.hostname)),
        ("vips", json!(vips)),
        ("ports", ports(Some(&service.ports))),
        ("endpoints", json!({})),
        ("subjectAltNames", json!(service.subject_alt_names)),
        ("canonical", json!(service.canonical)),
        ("visibility", json!(visibility(service.visibility))),
    ]);
    if !service.cidr_vips.is_empty() {
        let range = |range: &mesh_model::address::NetworkCidr| json!({"network": range.network, "cidr": range.cidr.to_string()});
        dump.insert("cidrVips", service.cidr_vips.iter().map(range).collect());
    }
    if let Some(waypoint) = &service.waypoint {
        dump.insert("waypoint", gateway(waypoint));
    }
    if !service.weighted_waypoints.is_empty() {
        let weighted = service.weighted_waypoints.iter();
        let one = weighted.map(|one| json!({"destination": gateway(&one.destination), "weight": one.weight}));
        dump.insert("weightedWaypoints", one.collect());
    }
    if service.load_balancing != LoadBalancing::default() {
        dump.insert("loadBalancer", load_balancer(&service.load_balancing));
    }
    if let Some(families) = ip_families(service.ip_families) {
        dump.insert("ipFamilies", json!(families));
    }
    dump
}

/// A policy with all its keys; of its matches only the fields that ask something.
pub fn policy(policy: &Policy) -> Value {
    let matches = |rule: &mesh_policy::Rule| rule.matches.iter().map(match_).collect::<Value>();
    let rules = policy.groups.iter().map(|group| group.rules.iter().map(matches).collect::<Value>());
    json!({
        "name": policy.name,
        "namespace": policy.namespace,
        "scope": match policy.scope {
            mesh_policy::Scope::Global => "Global",
            mesh_policy::Scope::Namespace => "Namespace",
            mesh_policy::Scope::WorkloadSelector => "WorkloadSelector",
        },
        "action": match policy.action {
            Action::Allow => "Allow",
            Action::Deny => "Deny",
        },
        "rules": rules.collect::<Value>(),
        "dryRun": policy.dry_run,
    })
}

fn match_(one: &Match) -> Value {
    let strings = |entries: &[Entry<StringMatch>]| entries.iter().map(|entry| entry_of(entry, string_match)).collect();
    let ranges =
        |entries: &[Entry<IpNet>]| entries.iter().map(|entry| entry_of(entry, |range| json!(range.to_string()))).collect();
    let numbers = |entries: &[Entry<u16>]| entries.iter().map(|entry| entry_of(entry, |port| json!(port))).collect();
    let account =
        |one: &mesh_policy::ServiceAccountMatch| json!({"namespace": one.namespace, "serviceAccount": one.service_account});
    let fields: [(&str, Value); 12] = [
        ("namespaces", strings(&one.namespaces)),
        ("notNamespaces", strings(&one.not_namespaces)),
        ("serviceAccounts", one.service_accounts.iter().map(account).collect()),
        ("notServiceAccounts", one.not_service_accounts.iter().map(account).collect()),
        ("principals", strings(&one.principals)),
        ("notPrincipals", strings(&one.not_principals)),
        ("sourceIps", ranges(&one.source_ips)),
        ("notSourceIps", ranges(&one.not_source_ips)),
        ("destinationIps", ranges(&one.destination_ips)),
        ("notDestinationIps", ranges(&one.not_destination_ips)),
        ("destinationPorts", numbers(&one.destination_ports)),
        ("notDestinationPorts", numbers(&one.not_destination_ports)),
    ];
    let asked = fields.into_iter().filter(|(_, values)| values.as_array().is_some_and(|values| !values.is_empty()));
    object(asked.collect())
}

/// An entry that could not be read has no spelling in the field; it is shown as what it is.
fn entry_of<T>(entry: &Entry<T>, show: impl Fn(&T) -> Value) -> Value {
    match entry {
        Entry::Value(value) => show(value),
        Entry::Malformed => json!("malformed"),
    }
}

fn string_match(one: &StringMatch) -> Value {
    match one {
        StringMatch::Exact(text) => json!({"Exact": text}),
        StringMatch::Prefix(text) => json!({"Prefix": text}),
        StringMatch::Suffix(text) => json!({"Suffix": text}),
        StringMatch::Presence => json!({"Presence": []}),
    }
}

/// Endpoints whose service has not come, by service and uid.
fn staged(directory: &Directory) -> Value {
    let of = |key| {
        let members = directory.members(key);
        let members = members.map(|one| (one.uid.to_string(), endpoint(one, one.services.get(key))));
        (key.to_string(), Value::Object(members.collect()))
    };
    Value::Object(directory.staged().map(of).collect())
}

fn static_config(fixed: &LocalFile) -> Value {
    json!({
        "workloads": fixed.workloads.iter().map(|one| workload(one)).collect::<Value>(),
        "services": fixed.services.iter().map(|one| object(service_itself(one))).collect::<Value>(),
        "policies": fixed.policies.iter().map(|one| policy(one)).collect::<Value>(),
    })
}

fn endpoint(workload: &Workload, mapped: Option<&BTreeMap<u16, u16>>) -> Value {
    json!({"workloadUid": workload.uid.0, "port": ports(mapped), "status": health(workload.status)})
}

fn gateway(gateway: &GatewayAddress) -> Value {
    json!({"destination": gateway.destination.to_string(), "hboneMtlsPort": gateway.hbone_mtls_port})
}

fn load_balancer(balancing: &LoadBalancing) -> Value {
    let scopes = balancing.routing_preference.iter().map(|scope| scope_name(*scope));
    json!({
        "routingPreferences": scopes.collect::<Vec<_>>(),
        "mode": match balancing.mode {
            LoadBalancingMode::Standard => "Standard",
            LoadBalancingMode::Strict => "Strict",
            LoadBalancingMode::Failover => "Failover",
            LoadBalancingMode::Passthrough => "Passthrough",
        },
        "healthPolicy": match balancing.health_policy {
            HealthPolicy::OnlyHealthy => "OnlyHealthy",
            HealthPolicy::AllowAll => "AllowAll",
        },
    })
}

fn ports(ports: Option<&BTreeMap<u16, u16>>) -> Value {
    let ports = ports.into_iter().flatten();
    Value::Object(ports.map(|(port, target)| (port.to_string(), json!(target))).collect())
}

fn protocol(protocol: TunnelProtocol) -> &'static str {
    match protocol {
        TunnelProtocol::None => "TCP",
        TunnelProtocol::Hbone => "HBONE",
    }
}

fn network_mode(mode: NetworkMode) -> &'static str {
    match mode {
        NetworkMode::Standard => "Standard",
        NetworkMode::HostNetwork => "HostNetwork",
    }
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Healthy => "Healthy",
        Health::Unhealthy => "Unhealthy",
    }
}

fn workload_type(of: WorkloadType) -> &'static str {
    match of {
        WorkloadType::Deployment => "deployment",
        WorkloadType::CronJob => "cronjob",
        WorkloadType::Pod => "pod",
        WorkloadType::Job => "job",
    }
}

fn visibility(visibility: Visibility) -> &'static str {
    match visibility {
        Visibility::Public => "Public",
        Visibility::Namespace => "Namespace",
    }
}

fn ip_families(families: IpFamilies) -> Option<&'static str> {
    match families {
        IpFamilies::Automatic => None,
        IpFamilies::V4Only => Some("IPv4"),
        IpFamilies::V6Only => Some("IPv6"),
        IpFamilies::Dual => Some("Dual"),
    }
}

fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Region => "Region",
        Scope::Zone => "Zone",
        Scope::Subzone => "Subzone",
        Scope::Node => "Node",
        Scope::Cluster => "Cluster",
        Scope::Network => "Network",
    }
}

fn plain(data: &impl Serialize) -> Value {
    serde_json::to_value(data).expect("strings, lists and maps with text keys are always JSON")
}

fn object(fields: BTreeMap<&str, Value>) -> Value {
    Value::Object(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// Sorts the keys of all objects, which the JSON library leaves to how it was built.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<String, Value> = fields.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            Value::Object(Map::from_iter(fields))
        }
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests;
