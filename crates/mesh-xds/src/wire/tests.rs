use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_model::address::{GatewayAddress, GatewayDestination, NamespacedHostname, NetworkAddress, NetworkCidr};
use mesh_model::service::*;
use mesh_model::workload::*;
use mesh_policy::{Action, Entry, Group, Match, Rule, ServiceAccountMatch, StringMatch};
use proptest::prelude::*;

use super::*;
use crate::messages::workload as wl;

// --- addresses of bytes

// Z-159, Z-160, Z-161, Z-162, Z-163, Z-164, Z-165
#[test]
fn bytes_become_an_ip_only_when_there_are_4_or_16() {
    let v6 = |last: u8| [vec![0; 15], vec![last]].concat();
    let table: [(&str, Vec<u8>, Option<&str>); 9] = [
        ("garbage", b"not an ip".to_vec(), None),
        ("empty", vec![], None),
        ("unspecified", vec![0; 4], Some("0.0.0.0")),
        ("v4_loopback", vec![127, 0, 0, 1], Some("127.0.0.1")),
        ("v4_happy", vec![1, 1, 1, 1], Some("1.1.1.1")),
        ("v6_happy", vec![0x26, 6, 0x47, 0, 0x47, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11, 0x11], Some("2606:4700:4700::1111")),
        ("v6_loopback", v6(1), Some("::1")),
        ("v6_unspecified", v6(0), Some("::")),
        ("five bytes", vec![1; 5], None),
    ];
    for (name, bytes, expected) in table {
        let expected = expected.map(|text| text.parse::<IpAddr>().unwrap());
        assert_eq!(decode_ip("addresses", &bytes).ok(), expected, "{name}");
        if let Some(ip) = expected {
            assert_eq!(encode_ip(ip), bytes, "{name}");
        }
    }
}

// --- rejections

fn workload() -> wl::Workload {
    wl::Workload { uid: "u".into(), name: "w".into(), ..Default::default() }
}

fn service() -> wl::Service {
    wl::Service { namespace: "shop".into(), hostname: "web.shop".into(), ..Default::default() }
}

fn vip(bytes: &[u8], length: Option<u32>) -> wl::NetworkAddress {
    wl::NetworkAddress { network: String::new(), address: bytes.to_vec(), length }
}

fn gateway(destination: Option<wl::GatewayDestination>, port: u32) -> Option<wl::GatewayAddress> {
    Some(wl::GatewayAddress { destination, hbone_mtls_port: port })
}

fn port(service_port: u32, target_port: u32) -> wl::Port {
    wl::Port { service_port, target_port, app_protocol: 0 }
}

// F-15
#[test]
fn what_a_workload_is_refused_for() {
    let at = |bytes: &[u8], length| Some(wl::GatewayDestination::Address(vip(bytes, length)));
    let one = |key: &str, ports| BTreeMap::from([(key.to_owned(), wl::PortList { ports })]);
    let tunnel = |protocol, port| Some(wl::ApplicationTunnel { protocol, port });
    let table: Vec<(&str, wl::Workload)> = vec![
        ("addresses: an address has 4 or 16 bytes, this one has 3", wl::Workload { addresses: vec![vec![1; 4], vec![1; 3]], ..workload() }),
        ("uid: empty", wl::Workload { uid: String::new(), ..workload() }),
        ("waypoint: no destination", wl::Workload { waypoint: gateway(None, 15008), ..workload() }),
        ("waypoint: 70000 is not a port", wl::Workload { waypoint: gateway(at(&[1; 4], None), 70_000), ..workload() }),
        ("addresses: an address has 4 or 16 bytes, this one has 0", wl::Workload { network_gateway: gateway(at(&[], None), 1), ..workload() }),
        ("network_gateway: /10.0.0.0/8 is a range, not an address", wl::Workload { network_gateway: gateway(at(&[10, 0, 0, 0], Some(8)), 1), ..workload() }),
        ("network_gateway: no destination", wl::Workload { network_gateway: gateway(None, 1), ..workload() }),
        ("tunnel_protocol: unknown value 3", wl::Workload { tunnel_protocol: 3, ..workload() }),
        ("tunnel_protocol: LEGACY_ISTIO_MTLS is not supported", wl::Workload { tunnel_protocol: 2, ..workload() }),
        ("status: unknown value 2", wl::Workload { status: 2, ..workload() }),
        ("network_mode: unknown value -1", wl::Workload { network_mode: -1, ..workload() }),
        ("application_tunnel: unknown value 2", wl::Workload { application_tunnel: tunnel(2, 0), ..workload() }),
        ("application_tunnel: 65536 is not a port", wl::Workload { application_tunnel: tunnel(1, 65_536), ..workload() }),
        ("services: \"web.shop\" has no /", wl::Workload { services: one("web.shop", vec![]), ..workload() }),
        ("services: 65616 is not a port", wl::Workload { services: one("shop/web", vec![port(80, 65_616)]), ..workload() }),
    ];
    for (reason, message) in table {
        assert_eq!(decode_workload(message).unwrap_err().to_string(), reason);
    }
    assert!(decode_workload(workload()).is_ok());
    let lenient = wl::Workload { workload_type: 9, ..workload() };
    assert_eq!(decode_workload(lenient).unwrap().workload_type, WorkloadType::Deployment);
}

// F-15
#[test]
fn what_a_service_is_refused_for() {
    let balance = |scope: Vec<i32>, mode, health_policy| {
        Some(wl::LoadBalancing { routing_preference: scope, mode, health_policy })
    };
    let table: Vec<(&str, wl::Service)> = vec![
        ("hostname: empty", wl::Service { hostname: String::new(), ..service() }),
        ("addresses: 10.0.0.0 cannot have a prefix of 33 bits", wl::Service { addresses: vec![vip(&[10, 0, 0, 0], Some(33))], ..service() }),
        ("addresses: :: cannot have a prefix of 129 bits", wl::Service { addresses: vec![vip(&[0; 16], Some(129))], ..service() }),
        ("addresses: 10.0.0.0 cannot have a prefix of 288 bits", wl::Service { addresses: vec![vip(&[10, 0, 0, 0], Some(256 + 32))], ..service() }),
        ("addresses: an address has 4 or 16 bytes, this one has 1", wl::Service { addresses: vec![vip(&[1], None)], ..service() }),
        ("ports: 65616 is not a port", wl::Service { ports: vec![port(65_616, 80)], ..service() }),
        ("waypoint: no destination", wl::Service { waypoint: gateway(None, 1), ..service() }),
        ("weighted_waypoints: no destination", wl::Service { weighted_waypoints: vec![wl::WeightedWaypoint { destination: None, weight: 1 }], ..service() }),
        ("weighted_waypoints: no destination", wl::Service { weighted_waypoints: vec![wl::WeightedWaypoint { destination: gateway(None, 1), weight: 1 }], ..service() }),
        ("ip_families: unknown value 4", wl::Service { ip_families: 4, ..service() }),
        ("load_balancing: unspecified scope", wl::Service { load_balancing: balance(vec![1, 0], 0, 0), ..service() }),
        ("load_balancing: unknown value 7", wl::Service { load_balancing: balance(vec![7], 0, 0), ..service() }),
        ("load_balancing: unknown value 4", wl::Service { load_balancing: balance(vec![], 4, 0), ..service() }),
        ("load_balancing: unknown value 2", wl::Service { load_balancing: balance(vec![], 0, 2), ..service() }),
    ];
    for (reason, message) in table {
        assert_eq!(decode_service(message).unwrap_err().to_string(), reason);
    }
    let lenient = decode_service(wl::Service {
        visibility: 7,
        ports: vec![port(80, 1), wl::Port { app_protocol: 77, ..port(80, 2) }],
        addresses: vec![vip(&[10, 0, 0, 1], Some(32)), vip(&[0; 16], Some(128)), vip(&[10, 0, 0, 1], Some(8))],
        ..service()
    })
    .unwrap();
    assert_eq!(lenient.visibility, Visibility::Public);
    assert_eq!(lenient.ports, BTreeMap::from([(80, 2)]), "the later mapping replaces the earlier");
    assert!(lenient.app_protocols.is_empty());
    assert_eq!((lenient.vips.len(), lenient.cidr_vips.len()), (2, 1), "a full length is a host");
    assert_eq!(decode_address(wl::Address { kind: None }).unwrap_err().to_string(), "Address: neither a workload nor a service");
}

#[test]
fn defaults_of_what_is_not_sent() {
    let read = decode_workload(workload()).unwrap();
    let mut expected = Workload::named("u", "", "w");
    expected.cluster_id = "Kubernetes".into();
    assert_eq!(read, expected);
    assert_eq!((&*read.trust_domain, &*read.service_account, read.capacity), ("cluster.local", "default", 1));
    let weightless = decode_workload(wl::Workload { capacity: Some(0), ..workload() }).unwrap();
    assert_eq!(weightless.capacity, 0, "an explicit 0 is never chosen");
    assert_eq!(encode_workload(&expected).encode_to_vec(), encode_workload(&read).encode_to_vec());
}

// F-15
#[test]
fn a_policy_is_refused_for_its_scope_or_action_only() {
    let read = |name: &str, scope, action, namespace: &str| {
        let message = security::Authorization { scope, action, namespace: namespace.into(), ..Default::default() };
        decode_policy(name, message)
    };
    let everyone = Affected::Everyone;
    let shop = Affected::Namespace("shop".into());
    let listed = Affected::Referrers(PolicyKey::new("shop/p"));
    let table = [
        (("shop/p", 3, 0, "shop"), "scope: unknown value 3", shop.clone()),
        (("p", 3, 0, "shop"), "scope: unknown value 3", everyone.clone()),
        (("shop/p", 0, 2, "root"), "action: unknown value 2", everyone.clone()),
        (("shop/p", 1, 2, "shop"), "action: unknown value 2", shop.clone()),
        (("shop/p", 1, 2, ""), "action: unknown value 2", everyone),
        (("shop/p", 2, -5, "shop"), "action: unknown value -5", listed),
    ];
    for ((name, scope, action, namespace), reason, reach) in table {
        let unreadable = read(name, scope, action, namespace).unwrap_err();
        assert_eq!((unreadable.reason.to_string().as_str(), unreadable.reach), (reason, reach));
    }
    assert_eq!(read_policy("shop/p", b"\xff\xff\xff").unwrap_err().reach, shop);
}

// F-15
#[test]
fn entries_that_cannot_be_read_keep_their_place() {
    use security::{Address, Match as M, StringMatch as S};
    let range = |bytes: &[u8], length| Address { address: bytes.to_vec(), length };
    let one = M {
        principals: vec![S { kind: None }, S { kind: Some(security::StringMatchKind::Exact("x".into())) }],
        source_ips: vec![range(&[1, 2, 3], 8), range(&[10, 0, 0, 1], 33), range(&[10, 0, 0, 1], 256 + 8), range(&[10, 0, 0, 1], 8), range(&[0; 16], 129)],
        destination_ports: vec![80, 65_616],
        ..M::default()
    };
    let message = security::Authorization {
        groups: vec![security::Group { rules: vec![security::Rules { matches: vec![one] }] }],
        ..Default::default()
    };
    let policy = decode_policy("shop/p", message).unwrap();
    let one = &policy.groups[0].rules[0].matches[0];
    assert_eq!(one.principals, [Entry::Malformed, StringMatch::exact("x").into()]);
    let sound: ipnet::IpNet = "10.0.0.1/8".parse().unwrap();
    assert_eq!(one.source_ips, [Entry::Malformed, Entry::Malformed, Entry::Malformed, sound.into(), Entry::Malformed]);
    assert_eq!(one.destination_ports, [80.into(), Entry::Malformed]);
}

/// Bytes written down by hand from the field numbers: a renumbered field would still agree with itself in the properties.
#[test]
fn field_numbers_are_those_of_the_contract() {
    let bytes = [
        &[0x0a, 0x1d][..],                    // Address.workload = 1, 29 bytes
        &[0x0a, 1, b'n', 0x12, 1, b's'],      // name 1, namespace 2
        &[0x1a, 4, 10, 0, 0, 1],              // addresses 3
        &[0x28, 1],                           // tunnel_protocol 5 = HBONE
        &[0x82, 1, 3, b'a', b'/', b'b'],      // authorization_policies 16
        &[0xa2, 1, 1, b'u'],                  // uid 20
        &[0xda, 1, 2, 8, 7],                  // capacity 27 = {value 1: 7}
    ]
    .concat();
    let Change::Workload(read) = read_address(&bytes).unwrap() else { panic!("a service?") };
    let mut expected = Workload::named("u", "s", "n");
    expected.addresses = vec!["10.0.0.1".parse().unwrap()];
    expected.tunnel_protocol = TunnelProtocol::Hbone;
    expected.authorization_policies = vec![PolicyKey::new("a/b")];
    expected.capacity = 7;
    assert_eq!(*read, expected);

    // Authorization {name 1, scope 3 = 2, action 4 = 1, groups 5 {rules 1 {matches 2 {not_principals 4 {presence 4 {}}}}}}
    let bytes = [&[0x0a, 1, b'p', 0x18, 2, 0x20, 1][..], &[0x2a, 8, 0x0a, 6, 0x12, 4, 0x22, 2, 0x22, 0]].concat();
    let strict = read_policy("shop/p", &bytes).unwrap();
    let only = Match { not_principals: vec![StringMatch::Presence.into()], ..Match::default() };
    assert_eq!(strict.groups, [Group::new([Rule::new([only])])]);
    assert_eq!((strict.scope, strict.action), (mesh_policy::Scope::WorkloadSelector, Action::Deny));
}

// --- properties

fn text() -> impl Strategy<Value = Arc<str>> {
    "[a-z.]{0,6}".prop_map(|text| text.as_str().into())
}

fn filled() -> impl Strategy<Value = Arc<str>> {
    "[a-z.]{1,6}".prop_map(|text| text.as_str().into())
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn hostname() -> impl Strategy<Value = NamespacedHostname> {
    // The key on the wire is `namespace/hostname`: a namespace with a slash could not be told from a hostname with one.
    (text(), text()).prop_map(|(namespace, hostname)| NamespacedHostname { namespace, hostname })
}

fn network_address() -> impl Strategy<Value = NetworkAddress> {
    (text(), ip()).prop_map(|(network, ip)| NetworkAddress { network, ip })
}

fn range() -> impl Strategy<Value = ipnet::IpNet> {
    (ip(), 0..=128u8).prop_map(|(ip, length)| ipnet::IpNet::new(ip, length % if ip.is_ipv4() { 33 } else { 129 }).unwrap())
}

fn a_gateway() -> impl Strategy<Value = GatewayAddress> {
    let destination = prop_oneof![
        hostname().prop_map(GatewayDestination::Hostname),
        network_address().prop_map(GatewayDestination::Address)
    ];
    (destination, any::<u16>()).prop_map(|(destination, hbone_mtls_port)| GatewayAddress { destination, hbone_mtls_port })
}

fn ports() -> impl Strategy<Value = BTreeMap<u16, u16>> {
    prop::collection::btree_map(any::<u16>(), any::<u16>(), 0..3)
}

prop_compose! {
    fn a_workload()(
        names in prop::collection::vec(text(), 9), must in prop::collection::vec(filled(), 4),
        addresses in prop::collection::vec(ip(), 0..3), gateways in (prop::option::of(a_gateway()), prop::option::of(a_gateway())),
        flags in any::<(bool, bool, bool, bool)>(), kind in 0..4usize, tunnel in prop::option::of((any::<bool>(), any::<u16>())),
        policies in prop::collection::vec(text(), 0..3), capacity in any::<u32>(),
        locality in (text(), text(), text()), services in prop::collection::btree_map(hostname(), ports(), 0..3),
    ) -> Workload {
        Workload {
            uid: Uid(must[0].clone()), name: names[0].clone(), namespace: names[1].clone(),
            trust_domain: must[1].clone(), service_account: must[2].clone(), cluster_id: must[3].clone(), addresses,
            hostname: names[2].clone(), network: names[3].clone(),
            network_mode: if flags.0 { NetworkMode::HostNetwork } else { NetworkMode::Standard },
            waypoint: gateways.0, network_gateway: gateways.1,
            tunnel_protocol: if flags.1 { TunnelProtocol::Hbone } else { TunnelProtocol::None },
            native_tunnel: flags.2,
            application_tunnel: tunnel.map(|(proxy, port)| ApplicationTunnel {
                protocol: if proxy { ApplicationTunnelProtocol::Proxy } else { ApplicationTunnelProtocol::None },
                port: Some(port).filter(|port| *port != 0),
            }),
            node: names[4].clone(),
            locality: Locality { region: locality.0, zone: locality.1, subzone: locality.2 },
            canonical_name: names[5].clone(), canonical_revision: names[6].clone(), workload_name: names[7].clone(),
            workload_type: [WorkloadType::Deployment, WorkloadType::CronJob, WorkloadType::Pod, WorkloadType::Job][kind],
            authorization_policies: policies.into_iter().map(PolicyKey).collect(),
            status: if flags.3 { Health::Unhealthy } else { Health::Healthy },
            capacity, services,
        }
    }
}

prop_compose! {
    fn a_service()(
        names in (text(), text(), filled()), vips in prop::collection::vec(network_address(), 0..3),
        ranges in prop::collection::vec((text(), range()), 0..3), ports in ports(), speak in prop::collection::vec(0..6usize, 3),
        sans in prop::collection::vec(text(), 0..3), waypoint in prop::option::of(a_gateway()),
        weighted in prop::collection::vec((a_gateway(), any::<u32>()), 0..3),
        preference in prop::collection::vec(0..6usize, 0..4), kinds in (0..4usize, any::<bool>(), 0..4usize),
        flags in any::<(bool, bool, bool)>(),
    ) -> Service {
        let protocols = [None, Some(AppProtocol::Http11), Some(AppProtocol::Http2), Some(AppProtocol::Grpc), Some(AppProtocol::Tcp), Some(AppProtocol::Tls)];
        Service {
            name: names.0, namespace: names.1, hostname: names.2, vips,
            // A range of full length is a single address.
            cidr_vips: ranges.into_iter().filter(|(_, cidr)| cidr.prefix_len() != cidr.max_prefix_len())
                .map(|(network, cidr)| NetworkCidr { network, cidr }).collect(),
            app_protocols: ports.keys().zip(speak).filter_map(|(port, kind)| Some((*port, protocols[kind]?))).collect(),
            ports, subject_alt_names: sans, waypoint,
            weighted_waypoints: weighted.into_iter().map(|(destination, weight)| WeightedWaypoint { destination, weight }).collect(),
            load_balancing: LoadBalancing {
                routing_preference: preference.into_iter().map(|n| [Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node, Scope::Cluster, Scope::Network][n]).collect(),
                mode: [LoadBalancingMode::Standard, LoadBalancingMode::Strict, LoadBalancingMode::Failover, LoadBalancingMode::Passthrough][kinds.0],
                health_policy: if kinds.1 { HealthPolicy::AllowAll } else { HealthPolicy::OnlyHealthy },
            },
            ip_families: [IpFamilies::Automatic, IpFamilies::V4Only, IpFamilies::V6Only, IpFamilies::Dual][kinds.2],
            canonical: flags.0, ingress_use_waypoint: flags.1,
            visibility: if flags.2 { Visibility::Namespace } else { Visibility::Public },
        }
    }
}

fn entries<T: std::fmt::Debug + Clone>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<Entry<T>>> {
    prop::collection::vec(prop::option::weighted(0.8, value).prop_map(|one| one.map_or(Entry::Malformed, Entry::Value)), 0..3)
}

fn a_string() -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        text().prop_map(StringMatch::Exact),
        text().prop_map(StringMatch::Prefix),
        text().prop_map(StringMatch::Suffix),
        Just(StringMatch::Presence)
    ]
}

fn accounts() -> impl Strategy<Value = Vec<ServiceAccountMatch>> {
    prop::collection::vec((text(), text()).prop_map(|(namespace, service_account)| ServiceAccountMatch { namespace, service_account }), 0..2)
}

prop_compose! {
    fn a_match()(
        strings in [entries(a_string()), entries(a_string()), entries(a_string()), entries(a_string())],
        ranges in [entries(range()), entries(range()), entries(range()), entries(range())],
        ports in [entries(any::<u16>()), entries(any::<u16>())], accounts in [accounts(), accounts()],
    ) -> Match {
        let [namespaces, not_namespaces, principals, not_principals] = strings;
        let [source_ips, not_source_ips, destination_ips, not_destination_ips] = ranges;
        let [destination_ports, not_destination_ports] = ports;
        let [service_accounts, not_service_accounts] = accounts;
        Match {
            namespaces, not_namespaces, service_accounts, not_service_accounts, principals, not_principals, source_ips,
            not_source_ips, destination_ips, not_destination_ips, destination_ports, not_destination_ports,
        }
    }
}

prop_compose! {
    fn a_policy()(
        names in (text(), text()), scope in 0..3usize, flags in any::<(bool, bool)>(),
        groups in prop::collection::vec(prop::collection::vec(prop::collection::vec(a_match(), 0..2), 0..3), 0..3),
    ) -> Policy {
        use mesh_policy::Scope;
        let mut policy = Policy::new(&names.0, &names.1, [Scope::Global, Scope::Namespace, Scope::WorkloadSelector][scope],
            if flags.0 { Action::Deny } else { Action::Allow });
        policy.dry_run = flags.1;
        policy.groups = groups.into_iter().map(|group| Group::new(group.into_iter().map(Rule::new))).collect();
        policy
    }
}

prop_compose! {
    fn a_flow()(source in ip(), target in ip(), port in any::<u16>(), id in prop::option::of((filled(), filled(), filled()))) -> mesh_policy::Flow {
        let id = id.map(|(trust_domain, namespace, service_account)| mesh_model::identity::SpiffeId { trust_domain, namespace, service_account });
        mesh_policy::Flow::new(source, id, (target, port).into())
    }
}

fn strings(one: &mut security::Match) -> impl Iterator<Item = &mut security::StringMatch> {
    let security::Match { namespaces, not_namespaces, principals, not_principals, .. } = one;
    namespaces.iter_mut().chain(not_namespaces).chain(principals).chain(not_principals)
}

fn ranges(one: &mut security::Match) -> impl Iterator<Item = &mut security::Address> {
    let security::Match { source_ips, not_source_ips, destination_ips, not_destination_ips, .. } = one;
    source_ips.iter_mut().chain(not_source_ips).chain(destination_ips).chain(not_destination_ips)
}

fn port_numbers(one: &mut security::Match) -> impl Iterator<Item = &mut u32> {
    one.destination_ports.iter_mut().chain(&mut one.not_destination_ports)
}

fn make_sound(one: &mut security::Match) {
    strings(one).filter(|text| text.kind.is_none()).for_each(|text| text.kind = Some(security::StringMatchKind::Prefix("a".into())));
    ranges(one).filter(|range| range.address.is_empty()).for_each(|range| range.address = vec![10, 0, 0, 0]);
    port_numbers(one).filter(|port| **port > 65_535).for_each(|port| *port = 80);
}

/// Half of the entries, by the bits of `turn`.
fn spoil_some(one: &mut security::Match, turn: &mut u64) {
    let mut heads = || {
        *turn = turn.rotate_left(1);
        *turn & 1 == 1
    };
    strings(one).filter(|_| heads()).for_each(|text| text.kind = None);
    ranges(one).filter(|_| heads()).for_each(|range| range.length += 129);
    port_numbers(one).filter(|_| heads()).for_each(|port| *port += 65_536);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_workload_reads_back(one in a_workload()) {
        let bytes = encode_workload(&one).encode_to_vec();
        prop_assert_eq!(read_address(&bytes), Ok(Change::Workload(Arc::new(one))));
    }

    #[test]
    fn a_service_reads_back(one in a_service()) {
        let bytes = encode_service(&one).encode_to_vec();
        prop_assert_eq!(read_address(&bytes), Ok(Change::Service(Arc::new(one))));
    }

    #[test]
    fn a_policy_reads_back(one in a_policy()) {
        let bytes = encode_policy(&one).encode_to_vec();
        prop_assert_eq!(read_policy("any/name", &bytes), Ok(one));
    }

    // F-15: entries of a sound policy are spoilt on the wire. Whatever they were, nobody gets in who did not before.
    #[test]
    fn a_spoilt_entry_never_widens_a_policy(sound in a_policy(), spoil in any::<u64>(), flows in prop::collection::vec(a_flow(), 8)) {
        use mesh_policy::{PolicySet, decide};
        let mut message = encode_policy(&sound);
        message.scope = 1;
        message.namespace = "shop".into();
        message.dry_run = false;
        // Sound to begin with: what a generator left malformed is filled in.
        for one in message.groups.iter_mut().flat_map(|group| &mut group.rules).flat_map(|rules| &mut rules.matches) {
            make_sound(one);
        }
        let before = message.clone();
        let mut turn = spoil;
        for one in message.groups.iter_mut().flat_map(|group| &mut group.rules).flat_map(|rules| &mut rules.matches) {
            spoil_some(one, &mut turn);
        }
        let book = |message: security::Authorization| {
            let policy = read_policy("shop/p", &message.encode_to_vec()).unwrap();
            let mut set = PolicySet::default();
            set.insert(PolicyKey::new("shop/p"), Arc::new(policy));
            set
        };
        let (before, after) = (book(before), book(message));
        let workload = Workload::named("w", "shop", "w");
        for flow in &flows {
            let (was, is) = (decide(&before, &workload, flow), decide(&after, &workload, flow));
            prop_assert!(was.is_allowed() || !is.is_allowed(), "{} became {}", was.because, is.because);
        }
    }

    // F-15
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_address(&bytes);
        let _ = read_policy("shop/p", &bytes);
    }

    // F-15
    #[test]
    fn bent_messages_never_panic_and_what_is_read_can_be_written(one in a_workload(), two in a_policy(), bends in prop::collection::vec(any::<(usize, u8)>(), 1..8)) {
        let bend = |mut bytes: Vec<u8>| {
            for (at, byte) in &bends {
                if let Some(len) = std::num::NonZero::new(bytes.len()) {
                    bytes[*at % len] = *byte;
                }
            }
            bytes
        };
        if let Ok(Change::Workload(read)) = read_address(&bend(encode_workload(&one).encode_to_vec())) {
            prop_assert_eq!(read_address(&encode_workload(&read).encode_to_vec()), Ok(Change::Workload(read)));
        }
        if let Ok(read) = read_policy("shop/p", &bend(encode_policy(&two).encode_to_vec())) {
            prop_assert_eq!(read_policy("shop/p", &encode_policy(&read).encode_to_vec()), Ok(read));
        }
    }
}
