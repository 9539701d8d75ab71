//! The YAML of a local file, key by key. Unknown keys are refused: a misspelt one would be a fact that nobody acts on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use mesh_model::address::{GatewayAddress, GatewayDestination, NamespacedHostname, NetworkAddress, NetworkCidr};
use mesh_model::identity::SpiffeId;
use mesh_model::service::{self, HealthPolicy, IpFamilies, LoadBalancingMode, Visibility};
use mesh_model::workload::{self, ApplicationTunnelProtocol, Health, NetworkMode, PolicyKey, TunnelProtocol, Uid};
use mesh_policy::policy::{self, Entry};
use serde::de::{Deserializer, Error as _, IgnoredAny};
use serde::{Deserialize, de};

use super::LocalFile;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    workloads: Vec<Workload>,
    #[serde(default)]
    services: Vec<Service>,
    #[serde(default)]
    policies: Vec<Policy>,
}

impl File {
    pub fn into_nouns(self) -> LocalFile {
        LocalFile {
            workloads: self.workloads.into_iter().map(|one| Arc::new(one.into())).collect(),
            services: self.services.into_iter().map(|one| Arc::new(one.into())).collect(),
            policies: self.policies.into_iter().map(|one| Arc::new(one.into())).collect(),
        }
    }
}

// --- workloads

/// `trustDomain`, `serviceAccount` and `clusterId` stay empty when they are left out, other than on the wire: so the
/// field has it, and the identity is then one that nobody can prove.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Workload {
    workload_ips: Vec<Ip>,
    namespace: Arc<str>,
    services: BTreeMap<Named, BTreeMap<Port, Port>>,
    #[serde(default)]
    uid: Arc<str>,
    #[serde(default)]
    name: Arc<str>,
    #[serde(default)]
    service_account: Arc<str>,
    #[serde(default)]
    trust_domain: Arc<str>,
    #[serde(default)]
    protocol: Protocol,
    #[serde(default)]
    network_mode: Mode,
    #[serde(default)]
    network: Arc<str>,
    #[serde(default)]
    node: Arc<str>,
    #[serde(default)]
    hostname: Arc<str>,
    #[serde(default)]
    workload_name: Arc<str>,
    #[serde(default)]
    workload_type: Type,
    #[serde(default)]
    canonical_name: Arc<str>,
    #[serde(default)]
    canonical_revision: Arc<str>,
    #[serde(default)]
    native_tunnel: bool,
    application_tunnel: Option<Tunnel>,
    #[serde(default)]
    authorization_policies: Vec<PolicyName>,
    #[serde(default)]
    status: Status,
    #[serde(default)]
    cluster_id: Arc<str>,
    #[serde(default)]
    locality: Place,
    waypoint: Option<Gateway>,
    network_gateway: Option<Gateway>,
    #[serde(default = "one")]
    capacity: u32,
}

fn one() -> u32 {
    1
}

impl From<Workload> for workload::Workload {
    fn from(of: Workload) -> workload::Workload {
        let addresses: Vec<IpAddr> = of.workload_ips.into_iter().map(|ip| ip.0).collect();
        workload::Workload {
            uid: uid(&of.uid, &of.network, &of.namespace, &of.name, &addresses),
            name: of.name,
            namespace: of.namespace,
            trust_domain: of.trust_domain,
            service_account: of.service_account,
            addresses,
            hostname: of.hostname,
            network: of.network,
            network_mode: match of.network_mode {
                Mode::Standard => NetworkMode::Standard,
                Mode::HostNetwork => NetworkMode::HostNetwork,
            },
            network_gateway: of.network_gateway.map(Into::into),
            tunnel_protocol: match of.protocol {
                Protocol::Tcp => TunnelProtocol::None,
                Protocol::Hbone => TunnelProtocol::Hbone,
            },
            native_tunnel: of.native_tunnel,
            application_tunnel: of.application_tunnel.map(|tunnel| workload::ApplicationTunnel {
                protocol: match tunnel.protocol {
                    TunnelKind::None => ApplicationTunnelProtocol::None,
                    TunnelKind::Proxy => ApplicationTunnelProtocol::Proxy,
                },
                port: tunnel.port,
            }),
            waypoint: of.waypoint.map(Into::into),
            node: of.node,
            cluster_id: of.cluster_id,
            locality: workload::Locality { region: of.locality.region, zone: of.locality.zone, subzone: of.locality.subzone },
            canonical_name: of.canonical_name,
            canonical_revision: of.canonical_revision,
            workload_name: of.workload_name,
            workload_type: match of.workload_type {
                Type::Deployment => workload::WorkloadType::Deployment,
                Type::CronJob => workload::WorkloadType::CronJob,
                Type::Pod => workload::WorkloadType::Pod,
                Type::Job => workload::WorkloadType::Job,
            },
            authorization_policies: of.authorization_policies.into_iter().map(|name| name.0).collect(),
            status: match of.status {
                Status::Healthy => Health::Healthy,
                Status::Unhealthy => Health::Unhealthy,
            },
            capacity: of.capacity,
            services: of.services.into_iter().map(|(key, mapped)| (key.0, numbers(mapped))).collect(),
        }
    }
}

/// A workload without a uid is named after what tells it apart.
fn uid(given: &str, network: &str, namespace: &str, name: &str, addresses: &[IpAddr]) -> Uid {
    if !given.is_empty() {
        return Uid::new(given);
    }
    let address = addresses.first().map(ToString::to_string).unwrap_or_default();
    Uid::new(&format!("local/{network}/{namespace}/{name}/{address}"))
}

#[derive(Deserialize, Default)]
enum Protocol {
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "HBONE")]
    Hbone,
}

#[derive(Deserialize, Default)]
enum Mode {
    #[default]
    Standard,
    HostNetwork,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum Type {
    #[default]
    Deployment,
    CronJob,
    Pod,
    Job,
}

#[derive(Deserialize, Default)]
enum Status {
    #[default]
    Healthy,
    Unhealthy,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Place {
    region: Arc<str>,
    zone: Arc<str>,
    subzone: Arc<str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tunnel {
    protocol: TunnelKind,
    port: Option<u16>,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum TunnelKind {
    None,
    Proxy,
}

// --- services

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Service {
    name: Arc<str>,
    namespace: Arc<str>,
    hostname: Arc<str>,
    vips: Vec<Vip>,
    ports: BTreeMap<Port, Port>,
    #[serde(default)]
    cidr_vips: Vec<Range>,
    #[serde(default)]
    subject_alt_names: Vec<SpiffeId>,
    waypoint: Option<Gateway>,
    #[serde(default)]
    weighted_waypoints: Vec<Weighted>,
    load_balancer: Option<LoadBalancer>,
    ip_families: Option<Families>,
    #[serde(default)]
    canonical: bool,
    #[serde(default)]
    visibility: Seen,
}

impl From<Service> for service::Service {
    fn from(of: Service) -> service::Service {
        service::Service {
            name: of.name,
            vips: of.vips.into_iter().map(|vip| vip.0).collect(),
            cidr_vips: of.cidr_vips.into_iter().map(|range| range.0).collect(),
            ports: numbers(of.ports),
            subject_alt_names: of.subject_alt_names.iter().map(|id| id.to_string().into()).collect(),
            waypoint: of.waypoint.map(Into::into),
            weighted_waypoints: of.weighted_waypoints.into_iter().map(Into::into).collect(),
            load_balancing: of.load_balancer.map(Into::into).unwrap_or_default(),
            ip_families: match of.ip_families {
                None => IpFamilies::Automatic,
                Some(Families::IPv4) => IpFamilies::V4Only,
                Some(Families::IPv6) => IpFamilies::V6Only,
                Some(Families::Dual) => IpFamilies::Dual,
            },
            canonical: of.canonical,
            visibility: match of.visibility {
                Seen::Public => Visibility::Public,
                Seen::Namespace => Visibility::Namespace,
            },
            ..service::Service::named(&of.namespace, &of.hostname)
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Weighted {
    destination: Gateway,
    weight: u32,
}

impl From<Weighted> for service::WeightedWaypoint {
    fn from(of: Weighted) -> service::WeightedWaypoint {
        service::WeightedWaypoint { destination: of.destination.into(), weight: of.weight }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LoadBalancer {
    routing_preferences: Vec<Scope>,
    mode: BalancingMode,
    health_policy: Healthiness,
}

impl From<LoadBalancer> for service::LoadBalancing {
    fn from(of: LoadBalancer) -> service::LoadBalancing {
        let scope = |scope| match scope {
            Scope::Region => service::Scope::Region,
            Scope::Zone => service::Scope::Zone,
            Scope::Subzone => service::Scope::Subzone,
            Scope::Node => service::Scope::Node,
            Scope::Cluster => service::Scope::Cluster,
            Scope::Network => service::Scope::Network,
        };
        service::LoadBalancing {
            routing_preference: of.routing_preferences.into_iter().map(scope).collect(),
            mode: match of.mode {
                BalancingMode::Standard => LoadBalancingMode::Standard,
                BalancingMode::Strict => LoadBalancingMode::Strict,
                BalancingMode::Failover => LoadBalancingMode::Failover,
                BalancingMode::Passthrough => LoadBalancingMode::Passthrough,
            },
            health_policy: match of.health_policy {
                Healthiness::OnlyHealthy => HealthPolicy::OnlyHealthy,
                Healthiness::AllowAll => HealthPolicy::AllowAll,
            },
        }
    }
}

#[derive(Deserialize)]
enum Scope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

#[derive(Deserialize)]
enum BalancingMode {
    Standard,
    Strict,
    Failover,
    Passthrough,
}

#[derive(Deserialize)]
enum Healthiness {
    OnlyHealthy,
    AllowAll,
}

#[derive(Deserialize)]
enum Families {
    IPv4,
    IPv6,
    Dual,
}

#[derive(Deserialize, Default)]
enum Seen {
    #[default]
    Public,
    Namespace,
}

// --- policies

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Policy {
    name: Arc<str>,
    namespace: Arc<str>,
    scope: Reach,
    action: Action,
    rules: Vec<Vec<Vec<Match>>>,
    dry_run: bool,
}

impl From<Policy> for policy::Policy {
    fn from(of: Policy) -> policy::Policy {
        let rule = |matches: Vec<Match>| policy::Rule::new(matches.into_iter().map(Into::into));
        policy::Policy {
            name: of.name,
            namespace: of.namespace,
            scope: match of.scope {
                Reach::Global => policy::Scope::Global,
                Reach::Namespace => policy::Scope::Namespace,
                Reach::WorkloadSelector => policy::Scope::WorkloadSelector,
            },
            action: match of.action {
                Action::Allow => policy::Action::Allow,
                Action::Deny => policy::Action::Deny,
            },
            groups: of.rules.into_iter().map(|rules| policy::Group::new(rules.into_iter().map(rule))).collect(),
            dry_run: of.dry_run,
        }
    }
}

#[derive(Deserialize)]
enum Reach {
    Global,
    Namespace,
    WorkloadSelector,
}

#[derive(Deserialize)]
enum Action {
    Allow,
    Deny,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Match {
    namespaces: Vec<Text>,
    not_namespaces: Vec<Text>,
    service_accounts: Vec<Account>,
    not_service_accounts: Vec<Account>,
    principals: Vec<Text>,
    not_principals: Vec<Text>,
    source_ips: Vec<Cidr>,
    not_source_ips: Vec<Cidr>,
    destination_ips: Vec<Cidr>,
    not_destination_ips: Vec<Cidr>,
    destination_ports: Vec<u16>,
    not_destination_ports: Vec<u16>,
}

impl From<Match> for policy::Match {
    fn from(of: Match) -> policy::Match {
        let texts = |of: Vec<Text>| of.into_iter().map(|text| Entry::Value(text.into())).collect();
        let ranges = |of: Vec<Cidr>| of.into_iter().map(|range| Entry::Value(range.0)).collect();
        let ports = |of: Vec<u16>| of.into_iter().map(Entry::Value).collect();
        let accounts = |of: Vec<Account>| of.into_iter().map(Into::into).collect();
        policy::Match {
            namespaces: texts(of.namespaces),
            not_namespaces: texts(of.not_namespaces),
            service_accounts: accounts(of.service_accounts),
            not_service_accounts: accounts(of.not_service_accounts),
            principals: texts(of.principals),
            not_principals: texts(of.not_principals),
            source_ips: ranges(of.source_ips),
            not_source_ips: ranges(of.not_source_ips),
            destination_ips: ranges(of.destination_ips),
            not_destination_ips: ranges(of.not_destination_ips),
            destination_ports: ports(of.destination_ports),
            not_destination_ports: ports(of.not_destination_ports),
        }
    }
}

#[derive(Deserialize)]
enum Text {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Suffix(Arc<str>),
    /// The value says nothing; the dump writes an empty list.
    Presence(IgnoredAny),
}

impl From<Text> for policy::StringMatch {
    fn from(of: Text) -> policy::StringMatch {
        match of {
            Text::Exact(text) => policy::StringMatch::Exact(text),
            Text::Prefix(text) => policy::StringMatch::Prefix(text),
            Text::Suffix(text) => policy::StringMatch::Suffix(text),
            Text::Presence(_) => policy::StringMatch::Presence,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Account {
    namespace: Arc<str>,
    service_account: Arc<str>,
}

impl From<Account> for policy::ServiceAccountMatch {
    fn from(of: Account) -> policy::ServiceAccountMatch {
        policy::ServiceAccountMatch { namespace: of.namespace, service_account: of.service_account }
    }
}

// --- words with a form of their own

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Gateway {
    destination: Destination,
    hbone_mtls_port: u16,
}

impl From<Gateway> for GatewayAddress {
    fn from(of: Gateway) -> GatewayAddress {
        GatewayAddress { destination: of.destination.0, hbone_mtls_port: of.hbone_mtls_port }
    }
}

/// `network/ip` or `namespace/hostname`.
struct Destination(GatewayDestination);

impl<'de> Deserialize<'de> for Destination {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Destination, D::Error> {
        text(from, |text| {
            let wrong = || format!("{text:?} is neither NETWORK/IP nor NAMESPACE/HOSTNAME");
            let (before, after) = text.split_once('/').ok_or_else(wrong)?;
            Ok(Destination(match after.parse::<IpAddr>() {
                Ok(ip) => GatewayDestination::Address(NetworkAddress::new(before, ip)),
                Err(_) => GatewayDestination::Hostname(NamespacedHostname::new(before, after)),
            }))
        })
    }
}

/// `namespace/hostname`.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Named(NamespacedHostname);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Named, D::Error> {
        text(from, |text| {
            let name = NamespacedHostname::parse(text).ok_or_else(|| format!("{text:?} is not NAMESPACE/HOSTNAME"))?;
            Ok(Named(name))
        })
    }
}

/// `namespace/name`.
struct PolicyName(PolicyKey);

impl<'de> Deserialize<'de> for PolicyName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<PolicyName, D::Error> {
        text(from, |text| match text.split_once('/') {
            Some(_) => Ok(PolicyName(PolicyKey::new(text))),
            None => Err(format!("{text:?} is not NAMESPACE/NAME of a policy")),
        })
    }
}

struct Ip(IpAddr);

impl<'de> Deserialize<'de> for Ip {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Ip, D::Error> {
        text(from, |text| text.parse().map(Ip).map_err(|_| format!("{text:?} is not an IP address")))
    }
}

/// `network/ip`; the network may be empty.
struct Vip(NetworkAddress);

impl<'de> Deserialize<'de> for Vip {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Vip, D::Error> {
        text(from, |text| {
            let parts = text.split_once('/').and_then(|(network, ip)| Some((network, ip.parse().ok()?)));
            let (network, ip) =
                parts.ok_or_else(|| format!("{text:?} is not NETWORK/IP (an empty network is written /10.0.0.1)"))?;
            Ok(Vip(NetworkAddress::new(network, ip)))
        })
    }
}

/// A range, or one address.
struct Cidr(IpNet);

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Cidr, D::Error> {
        text(from, |text| cidr(text).map(Cidr))
    }
}

fn cidr(text: &str) -> Result<IpNet, String> {
    let one = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| one()).map_err(|_| format!("{text:?} is not a range of IP addresses such as 10.0.0.0/8"))
}

/// `{network, cidr}`.
struct Range(NetworkCidr);

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Range, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Parts {
            #[serde(default)]
            network: Arc<str>,
            cidr: Cidr,
        }
        let Parts { network, cidr } = Parts::deserialize(from)?;
        Ok(Range(NetworkCidr { network, cidr: cidr.0 }))
    }
}

/// A port as a key or a value: a number, or the same in quotes as JSON has keys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Port(u16);

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Port, D::Error> {
        text(from, |text| text.parse().map(Port).map_err(|_| format!("{text:?} is not a port number (0 to 65535)")))
    }
}

fn numbers(ports: BTreeMap<Port, Port>) -> super::Ports {
    ports.into_iter().map(|(port, target)| (port.0, target.0)).collect()
}

/// Reads a scalar as text and makes something of it; what is wrong is said at its place in the file.
fn text<'de, D: Deserializer<'de>, T>(from: D, read: impl FnOnce(&str) -> Result<T, String>) -> Result<T, D::Error> {
    struct Text;
    impl de::Visitor<'_> for Text {
        type Value = String;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a word or a number")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
        fn visit_u64<E: de::Error>(self, number: u64) -> Result<String, E> {
            Ok(number.to_string())
        }
        fn visit_i64<E: de::Error>(self, number: i64) -> Result<String, E> {
            Ok(number.to_string())
        }
    }
    read(&from.deserialize_str(Text)?).map_err(D::Error::custom)
}
