use mesh_model::fixture::{self, Fixture};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;

fn mesh() -> Fixture {
    fixture::parse(
        "
        node a:  client 10.0.0.1,fd00::1 sa=ns1/client
        node a:  stray  10.0.0.2 sa=ns3/stray
        node b:  ep0 10.0.1.1,fd00::11 sa=ns1/ep
        node b:  ep1 10.0.1.2 sa=ns1/ep
        node b:  ep2 10.0.1.3 sa=ns1/ep unhealthy
        node c:  far 10.9.1.4 sa=ns1/ep network=remote
        service a.ns1 10.10.10.10,fd00::a 80
        service b.ns2 10.10.10.11 80
        service deep.svc1.ns2 10.10.10.12 80 host=deep.b.ns2.svc.cluster.local
        service headless.ns1 - 80 : ns1/ep0 ns1/ep1 ns1/ep2 ns1/far
        service hollow.ns1 - 80
        service everyone.ns1 - 80 health=all : ns1/ep1 ns1/ep2
        service six.ns1 10.10.10.13,fd00::d 80 families=v6
        service four.ns1 10.10.10.14,fd00::e 80 families=v4
        service elsewhere.ns1 10.10.10.15 80 network=remote
        service range.ns1 10.20.0.0/16 80
        service secret.ns2 10.10.10.16 80 visibility=namespace
        service ext.ns1 240.240.0.1,2001:2::1 443 host=www.example.com
        service wild.ns1 240.240.0.2 443 host=*.example.com
        service wilder.ns1 240.240.0.3 443 host=*.com
        service bare.ns1 - 443 host=bare.example.org
        service twice.ns1 240.240.1.1 443 host=twice.example.org
        service twice.ns2 240.240.1.2 443 host=twice.example.org
        service thrice.ns2 240.240.1.3 443 host=thrice.example.org
        service thrice.ns4 240.240.1.4 443 host=thrice.example.org canonical
        service order.ns2 240.240.1.5 443 host=order.example.org
        service order.ns4 240.240.1.6 443 host=order.example.org
        service any.ns9 10.10.10.17 80 host=*.ns9.svc.cluster.local
        service x.ns9 10.10.10.18 80 host=x.ns9
        ",
    )
    .unwrap()
}

fn naming() -> Naming {
    Naming { cluster_domain: "cluster.local".into(), search: None, preferred_namespace: None, ipv6: true }
}

fn shown(answer: Answer) -> String {
    let Answer::Local(local) = answer else { return "forward".to_owned() };
    let mut addresses: Vec<String> = local.addresses.iter().map(ToString::to_string).collect();
    addresses.sort();
    let alias = local.alias_of.map(|labels| format!("first {labels}: ")).unwrap_or_default();
    if addresses.is_empty() { format!("{alias}nothing") } else { format!("{alias}{}", addresses.join(" ")) }
}

fn ask(mesh: &Fixture, client: &str, naming: &Naming, question: &str) -> String {
    let (name, family) = question.split_once(' ').unwrap();
    let family = if family == "A" { Family::V4 } else { Family::V6 };
    let client = mesh.workload(client);
    shown(answer(&mesh.directory, &client, naming, name, family, &mut SmallRng::seed_from_u64(1)))
}

// Z-016, Z-021
#[test]
fn the_table_of_names() {
    let mesh = mesh();
    for (question, want) in [
        // services of the cluster, in every form
        ("a.ns1.svc.cluster.local A", "10.10.10.10"),
        ("a.ns1.svc.cluster.local AAAA", "fd00::a"),
        ("a A", "10.10.10.10"),
        ("a.ns1 A", "10.10.10.10"),
        ("a.ns1.svc A", "10.10.10.10"),
        ("b A", "forward"),
        ("b.ns2 A", "10.10.10.11"),
        ("b.ns2 AAAA", "nothing"),
        ("deep.b.ns2 A", "10.10.10.12"),
        ("deep.b.ns2.svc A", "10.10.10.12"),
        // what the resolver's own search list makes of names: the answer is for the stripped one
        ("b.ns2.ns1.svc.cluster.local A", "first 2: 10.10.10.11"),
        ("b.ns2.svc.svc.cluster.local A", "first 3: 10.10.10.11"),
        ("b.ns2.cluster.local A", "first 2: 10.10.10.11"),
        ("b.ns2.cluster.local AAAA", "nothing"),
        ("www.example.com.svc.cluster.local A", "first 3: 240.240.0.1"),
        ("www.example.com.cluster.local A", "first 3: 240.240.0.1"),
        ("other.example.com.cluster.local A", "240.240.0.2"),
        // headless services: healthy endpoints of this network
        ("headless A", "10.0.1.1 10.0.1.2"),
        ("headless AAAA", "fd00::11"),
        ("hollow A", "nothing"),
        ("everyone A", "10.0.1.2 10.0.1.3"),
        // families, networks, ranges, visibility
        ("six A", "nothing"),
        ("six AAAA", "fd00::d"),
        ("four A", "10.10.10.14"),
        ("four AAAA", "nothing"),
        ("elsewhere A", "nothing"),
        ("range A", "nothing"),
        ("secret.ns2 A", "forward"),
        // names outside of the cluster
        ("www.example.com A", "240.240.0.1"),
        ("www.example.com AAAA", "2001:2::1"),
        ("x.example.com A", "240.240.0.2"),
        ("y.x.example.com A", "240.240.0.2"),
        ("example.com A", "240.240.0.3"),
        ("com A", "forward"),
        // a wildcard for an earlier reading beats the exact name of a later one
        ("x.ns9.svc.cluster.local A", "10.10.10.17"),
        ("x.ns9 A", "10.10.10.18"),
        ("bare.example.org A", "forward"),
        ("www.example.org A", "forward"),
        // several services of one name: the own namespace, the canonical one, the first
        ("twice.example.org A", "240.240.1.1"),
        ("thrice.example.org A", "240.240.1.4"),
        ("order.example.org A", "240.240.1.5"),
        // pods' own names are the cluster DNS's
        ("ep0.headless.ns1.svc.cluster.local A", "forward"),
    ] {
        assert_eq!(ask(&mesh, "ns1/client", &naming(), question), want, "{question}");
    }
}

#[test]
fn who_asks_decides() {
    let mesh = mesh();
    for (client, question, want) in [
        ("ns3/stray", "a A", "forward"),
        ("ns3/stray", "a.ns1 A", "10.10.10.10"),
        ("ns3/stray", "twice.example.org A", "240.240.1.1"),
        ("ns3/stray", "secret.ns2.svc.cluster.local A", "forward"),
        ("ns1/far", "elsewhere A", "10.10.10.15"),
        ("ns1/far", "a A", "nothing"),
        ("ns1/far", "headless A", "10.9.1.4"),
    ] {
        assert_eq!(ask(&mesh, client, &naming(), question), want, "{client} {question}");
    }
}

#[test]
fn settings_decide() {
    let mesh = mesh();
    let preferring = Naming { preferred_namespace: Some("ns4".into()), ..naming() };
    assert_eq!(ask(&mesh, "ns1/client", &preferring, "order.example.org A"), "240.240.1.6");
    assert_eq!(ask(&mesh, "ns1/client", &preferring, "twice.example.org A"), "240.240.1.1", "the own namespace comes first");
    let no_ipv6 = Naming { ipv6: false, ..naming() };
    assert_eq!(ask(&mesh, "ns1/client", &no_ipv6, "a AAAA"), "nothing");
    let own_search = Naming { search: Some(vec!["corp.example".to_owned()]), ..naming() };
    assert_eq!(ask(&mesh, "ns1/client", &own_search, "b.ns2.corp.example A"), "first 2: 10.10.10.11");
    assert_eq!(ask(&mesh, "ns1/client", &own_search, "b.ns2.cluster.local A"), "forward");
    let own_domain = Naming { cluster_domain: "mesh.test".into(), ..naming() };
    assert_eq!(ask(&mesh, "ns1/client", &own_domain, "a A"), "forward");
}

#[test]
fn addresses_are_shuffled_and_bounded() {
    let mut text = "node a: client 10.0.0.1 sa=ns1/client\nservice many.ns1 ".to_owned();
    let vips: Vec<String> = (0..2000).map(|n| format!("10.1.{}.{}", n / 250, n % 250)).collect();
    text += &vips.join(",");
    text += " 80\n";
    let mesh = fixture::parse(&text).unwrap();
    let client = mesh.workload("client");
    let first = |seed| match answer(&mesh.directory, &client, &naming(), "many", Family::V4, &mut SmallRng::seed_from_u64(seed)) {
        Answer::Local(local) => (local.addresses.len(), local.addresses[0]),
        Answer::Forward => panic!("the service is known"),
    };
    assert_eq!(first(1).0, MOST_ADDRESSES);
    assert_ne!(first(1).1, first(2).1);
}
