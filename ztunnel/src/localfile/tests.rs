use mesh_model::address::{GatewayDestination, NamespacedHostname, NetworkAddress};
use mesh_model::directory::Directory;
use mesh_model::service::{HealthPolicy, IpFamilies, LoadBalancingMode, Scope, Visibility};
use mesh_model::workload::{ApplicationTunnelProtocol, Health, NetworkMode, TunnelProtocol, WorkloadType};
use mesh_policy::policy::{Entry, StringMatch};

use super::*;

fn parse(text: &str) -> LocalFile {
    LocalFile::parse("mesh.yaml", text).unwrap_or_else(|error| panic!("{error}"))
}

// Z-171: a file makes a mesh, and a workload's membership makes its endpoints.
#[test]
fn a_file_makes_a_directory() {
    let file = parse(
        r#"
workloads:
- name: cart
  namespace: lab
  uid: Kubernetes//Pod/lab/cart
  serviceAccount: cart
  trustDomain: cluster.local
  protocol: HBONE
  node: n1
  workloadIps: [10.1.0.17]
  services: {"lab/svc.lab.svc.cluster.local": {80: 8080}}
- name: shop
  namespace: lab
  workloadIps: ["10.1.0.9", "fd00::9"]
  services: {}
services:
- name: svc
  namespace: lab
  hostname: svc.lab.svc.cluster.local
  vips: ["/10.96.0.7", "far/10.97.0.7"]
  ports: {80: 8080}
"#,
    );
    let mut directory = Directory::new();
    for change in file.changes() {
        directory.apply(change);
    }
    let service = directory.service_at(&NetworkAddress::new("", "10.96.0.7".parse().unwrap()), None).unwrap();
    let endpoints: Vec<_> = directory.endpoints(service).collect();
    assert_eq!(endpoints.len(), 1);
    assert_eq!(endpoints[0].services[&service.key()], [(80, 8080)].into());
    assert_eq!(endpoints[0].identity().to_string(), "spiffe://cluster.local/ns/lab/sa/cart");
    assert_eq!(endpoints[0].tunnel_protocol, TunnelProtocol::Hbone);
    assert_eq!(service.vips[1], NetworkAddress::new("far", "10.97.0.7".parse().unwrap()));

    let shop = directory.workload_at(&NetworkAddress::new("", "fd00::9".parse().unwrap())).unwrap();
    assert_eq!(shop.uid.to_string(), "local//lab/shop/10.1.0.9");
    assert_eq!((shop.tunnel_protocol, shop.capacity, shop.status), (TunnelProtocol::None, 1, Health::Healthy));
    // Left out means empty here, other than on the wire.
    assert_eq!((&*shop.trust_domain, &*shop.service_account, &*shop.cluster_id), ("", "", ""));
}

#[test]
fn every_key_of_a_workload_is_read() {
    let file = parse(
        r#"
workloads:
- workloadIps: [10.0.0.1]
  namespace: a
  services: {}
  uid: u
  name: n
  serviceAccount: s
  trustDomain: t
  protocol: TCP
  networkMode: HostNetwork
  network: net
  node: node
  hostname: h.test
  workloadName: wn
  workloadType: cronjob
  canonicalName: cn
  canonicalRevision: cr
  nativeTunnel: true
  applicationTunnel: {protocol: PROXY, port: 15088}
  authorizationPolicies: [a/p, b/q]
  status: Unhealthy
  clusterId: c
  locality: {region: r, zone: z, subzone: s}
  waypoint: {destination: a/wp.test, hboneMtlsPort: 15008}
  networkGateway: {destination: net/10.9.9.9, hboneMtlsPort: 15010}
  capacity: 7
"#,
    );
    let workload = &file.workloads[0];
    assert_eq!(workload.uid.to_string(), "u");
    assert_eq!(workload.identity().to_string(), "spiffe://t/ns/a/sa/s");
    assert_eq!((&*workload.name, &*workload.network, &*workload.node, &*workload.hostname), ("n", "net", "node", "h.test"));
    assert_eq!((&*workload.workload_name, workload.workload_type), ("wn", WorkloadType::CronJob));
    assert_eq!((&*workload.canonical_name, &*workload.canonical_revision), ("cn", "cr"));
    assert_eq!((workload.native_tunnel, workload.network_mode), (true, NetworkMode::HostNetwork));
    let tunnel = workload.application_tunnel.unwrap();
    assert_eq!((tunnel.protocol, tunnel.port), (ApplicationTunnelProtocol::Proxy, Some(15088)));
    assert_eq!(workload.authorization_policies.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a/p", "b/q"]);
    assert_eq!((workload.status, &*workload.cluster_id, workload.capacity), (Health::Unhealthy, "c", 7));
    assert_eq!((&*workload.locality.region, &*workload.locality.zone, &*workload.locality.subzone), ("r", "z", "s"));
    let waypoint = workload.waypoint.clone().unwrap();
    assert_eq!(waypoint.destination, GatewayDestination::Hostname(NamespacedHostname::new("a", "wp.test")));
    let gateway = workload.network_gateway.clone().unwrap();
    let address = NetworkAddress::new("net", "10.9.9.9".parse().unwrap());
    assert_eq!((gateway.destination, gateway.hbone_mtls_port), (GatewayDestination::Address(address), 15010));
}

#[test]
fn every_key_of_a_service_is_read() {
    let file = parse(
        r#"
services:
- name: s
  namespace: a
  hostname: s.test
  vips: []
  ports: {"80": 0}
  cidrVips: [{network: net, cidr: 10.0.0.0/8}]
  subjectAltNames: ["spiffe://td/ns/x/sa/y"]
  waypoint: {destination: /10.0.0.9, hboneMtlsPort: 0}
  weightedWaypoints: [{destination: {destination: a/canary.test, hboneMtlsPort: 15008}, weight: 3}]
  loadBalancer: {routingPreferences: [Network, Region, Zone, Subzone, Node, Cluster], mode: Strict, healthPolicy: AllowAll}
  ipFamilies: IPv6
  canonical: true
  visibility: Namespace
"#,
    );
    let service = &file.services[0];
    assert_eq!(service.ports, [(80, 0)].into());
    assert_eq!(service.cidr_vips[0].to_string(), "net/10.0.0.0/8");
    assert_eq!(&*service.subject_alt_names[0], "spiffe://td/ns/x/sa/y");
    assert_eq!(service.waypoint.as_ref().unwrap().hbone_mtls_port, 0);
    assert_eq!((service.weighted_waypoints[0].weight, service.canonical), (3, true));
    let balancing = &service.load_balancing;
    assert_eq!((balancing.mode, balancing.health_policy), (LoadBalancingMode::Strict, HealthPolicy::AllowAll));
    assert_eq!(balancing.routing_preference[..2], [Scope::Network, Scope::Region]);
    assert_eq!((service.ip_families, service.visibility), (IpFamilies::V6Only, Visibility::Namespace));
}

#[test]
fn every_key_of_a_policy_is_read() {
    let file = parse(
        r#"
policies:
- name: p
  namespace: lab
  scope: WorkloadSelector
  action: Deny
  dryRun: true
  rules:
  - - - namespaces: [{Exact: a}]
        notNamespaces: [{Prefix: b}]
        serviceAccounts: [{namespace: a, serviceAccount: s}]
        notServiceAccounts: [{namespace: a, serviceAccount: t}]
        principals: [{Suffix: /sa/x}]
        notPrincipals: [{Presence: []}]
        sourceIps: [10.0.0.0/8]
        notSourceIps: [10.1.0.1]
        destinationIps: ["fd00::/8"]
        notDestinationIps: [10.2.0.0/16]
        destinationPorts: [80]
        notDestinationPorts: [81, 82]
      - {}
    - []
  - []
"#,
    );
    let policy = &file.policies[0];
    assert_eq!((policy.key().to_string().as_str(), policy.dry_run), ("lab/p", true));
    assert_eq!((policy.scope, policy.action), (mesh_policy::Scope::WorkloadSelector, mesh_policy::Action::Deny));
    assert_eq!(policy.groups.iter().map(|group| group.rules.len()).collect::<Vec<_>>(), [2, 0]);
    let matches = &policy.groups[0].rules[0].matches;
    assert_eq!(matches.len(), 2);
    assert!(matches[1].is_empty());
    let one = &matches[0];
    assert_eq!(one.namespaces, [Entry::Value(StringMatch::exact("a"))]);
    assert_eq!(one.not_namespaces, [Entry::Value(StringMatch::prefix("b"))]);
    assert_eq!(one.principals, [Entry::Value(StringMatch::suffix("/sa/x"))]);
    assert_eq!(one.not_principals, [Entry::Value(StringMatch::Presence)]);
    assert_eq!(one.source_ips, [Entry::Value("10.0.0.0/8".parse().unwrap())]);
    assert_eq!(one.not_source_ips, [Entry::Value("10.1.0.1/32".parse().unwrap())]);
    assert_eq!(one.destination_ips, [Entry::Value("fd00::/8".parse().unwrap())]);
    assert_eq!(one.not_destination_ips, [Entry::Value("10.2.0.0/16".parse().unwrap())]);
    assert_eq!(one.destination_ports, [Entry::Value(80)]);
    assert_eq!(one.not_destination_ports, [Entry::Value(81), Entry::Value(82)]);
    assert_eq!(&*one.service_accounts[0].service_account, "s");
    assert_eq!(&*one.not_service_accounts[0].service_account, "t");
}

#[test]
fn json_is_read_too_and_nothing_is_a_file() {
    let file = parse(r#"{"services":[{"name":"s","namespace":"a","hostname":"h","vips":["/10.0.0.1"],"ports":{"80":8080}}]}"#);
    assert_eq!(file.services[0].ports, [(80, 8080)].into());
    assert_eq!(parse("{}"), LocalFile::default());
}

const SOUND: &str = "
workloads:
- workloadIps: [10.0.0.1]
  namespace: lab
  services: {}
";

#[test]
fn a_mistake_is_reported_with_file_line_and_field() {
    for (text, place, field, why) in [
        (
            &*SOUND.replace("10.0.0.1", "10.0.0.300"),
            "mesh.yaml:3:",
            "workloads.workloadIps",
            "\"10.0.0.300\" is not an IP address",
        ),
        (&*SOUND.replace("services: {}", "service: {}"), "mesh.yaml:5:", "workloads.service", "unknown field `service`"),
        (&*SOUND.replace("  services: {}\n", ""), "mesh.yaml:4:", "workloads", "missing field `services`"),
        (
            &*SOUND.replace("services: {}", "services: {web: {80: 80}}"),
            "mesh.yaml:5:",
            "workloads.services",
            "\"web\" is not NAMESPACE/HOSTNAME",
        ),
        (
            &*SOUND.replace("services: {}", "services: {a/b: {80: 80000}}"),
            "mesh.yaml:5:",
            "workloads.services",
            "\"80000\" is not a port number (0 to 65535)",
        ),
        (&*(SOUND.to_owned() + "  capacity: many\n"), "mesh.yaml:6:", "workloads.capacity", ""),
        (&*(SOUND.to_owned() + "  protocol: QUIC\n"), "mesh.yaml:6:", "workloads.protocol", "unknown variant `QUIC`"),
        (
            &*(SOUND.to_owned() + "  waypoint: {destination: wp, hboneMtlsPort: 15008}\n"),
            "mesh.yaml:6:",
            "workloads.waypoint",
            "\"wp\" is neither NETWORK/IP nor NAMESPACE/HOSTNAME",
        ),
        (
            &*(SOUND.to_owned() + "  waypoint: {destination: a/wp}\n"),
            "mesh.yaml:6:",
            "workloads.waypoint",
            "missing field `hboneMtlsPort`",
        ),
        (
            &*(SOUND.to_owned() + "  authorizationPolicies: [p]\n"),
            "mesh.yaml:6:",
            "workloads.authorizationPolicies",
            "\"p\" is not NAMESPACE/NAME of a policy",
        ),
        (&*(SOUND.to_owned() + "colour: red\n"), "mesh.yaml:6:", "colour", "unknown field `colour`"),
        (
            "services:\n- name: s\n  vips: [10.0.0.1]\n",
            "mesh.yaml:3:",
            "services.vips",
            "\"10.0.0.1\" is not NETWORK/IP (an empty network is written /10.0.0.1)",
        ),
        (
            "policies:\n- name: p\n  namespace: a\n  scope: Global\n  action: Allow\n  dryRun: false\n  rules: [[[{principal: [{Exact: x}]}]]]\n",
            "mesh.yaml:7:",
            "policies.rules",
            "unknown field `principal`",
        ),
        (
            "policies:\n- name: p\n  namespace: a\n  scope: Global\n  action: Allow\n  rules: []\n",
            "mesh.yaml:6:",
            "policies",
            "missing field `dryRun`",
        ),
        ("workloads: [", "mesh.yaml:1:", "workloads", ""),
    ] {
        let error = LocalFile::parse("mesh.yaml", text).expect_err(text);
        let message = error.to_string();
        assert!(message.starts_with(place), "{message}\n{text}");
        assert!(error.why.contains(why), "{message}\n{text}");
        assert!(error.field.as_deref() == Some(field), "{:?} is not {field}: {message}", error.field);
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn two_of_one_name_are_refused() {
    let twice = format!("{SOUND}{}", SOUND.replace("workloads:\n", ""));
    let error = LocalFile::parse("mesh.yaml", &twice).unwrap_err();
    assert_eq!(
        error.to_string(),
        "mesh.yaml: the workload local//lab//10.0.0.1 stands twice in the file; give each a name of its own"
    );
}

#[test]
fn a_file_that_lost_something_says_what_to_remove() {
    let before = parse(SOUND);
    let after = parse(&SOUND.replace("10.0.0.1", "10.0.0.2"));
    let gone: Vec<Change> = before.gone_in(&after).collect();
    assert_eq!(gone, [Change::Remove("local//lab//10.0.0.1".into())]);
    assert_eq!(before.gone_in(&before).count(), 0);
}
