use std::net::IpAddr;

use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use super::*;
use crate::address::NetworkCidr;
use crate::fixture;
use crate::service::Visibility;

fn directory(text: &str) -> Directory {
    fixture::parse(text).unwrap().directory
}

fn at(ip: &str) -> NetworkAddress {
    NetworkAddress::new("", ip.parse().unwrap())
}

/// What the namespace finds at a VIP, as `name.namespace`.
fn owner(directory: &Directory, ip: &str, client: Option<&str>) -> String {
    show(directory.service_at(&at(ip), client))
}

fn show(service: Option<&Arc<Service>>) -> String {
    service.map_or("nothing".into(), |service| format!("{}.{}", service.name, service.namespace))
}

fn names<'d>(workloads: impl Iterator<Item = &'d Arc<Workload>>) -> Vec<&'d str> {
    workloads.map(|workload| &*workload.name).collect()
}

// --- addresses

// Z-131
#[test]
fn an_address_is_a_workload_first_and_a_service_second() {
    let directory = directory(
        "node a: client 10.0.0.1
         node a: both   10.96.0.2
         service web.default 10.96.0.1 80 : client
         service twin.default 10.96.0.2 80 : client",
    );
    let kind = |ip| match directory.at(&at(ip), None) {
        Some(Addressed::Workload(workload)) => format!("workload {}", workload.name),
        Some(Addressed::Service(service)) => format!("service {}", service.name),
        None => "nothing".into(),
    };
    assert_eq!(kind("10.0.0.1"), "workload client");
    assert_eq!(kind("10.96.0.1"), "service web");
    assert_eq!(kind("10.96.0.2"), "workload both");
    assert_eq!(kind("10.0.0.9"), "nothing");
    assert_eq!(directory.at(&NetworkAddress::new("other", "10.0.0.1".parse().unwrap()), None), None);
}

// Z-166
#[test]
fn a_workload_is_in_every_index_and_leaves_every_index() {
    let text = |ip: &str, host: &str, service: &str| {
        format!(
            "node a: w {ip} sa=shop/w host={host} uid=u
             service one.shop - 80 : {}
             service two.shop - 80 : {}",
            if service == "one" { "w" } else { "" },
            if service == "two" { "w" } else { "" },
        )
    };
    let mut directory = directory(&text("10.0.0.1", "first.test", "one"));
    let one = NamespacedHostname::new("shop", "one.shop.svc.cluster.local");
    let two = NamespacedHostname::new("shop", "two.shop.svc.cluster.local");
    let own = OwnWorkload { node: Some("a".into()), namespace: "shop".into(), service_account: "w".into(), name: "w".into() };
    let found = |directory: &Directory, ip: &str, host: &str, service: &NamespacedHostname| {
        [
            directory.workload(&Uid::new("u")).is_some(),
            directory.workload_at(&at(ip)).is_some(),
            directory.workload_named(&NamespacedHostname::new("shop", host)).is_some(),
            directory.own_workload(&own).is_some(),
            directory.members(service).count() == 1,
        ]
    };
    assert_eq!(found(&directory, "10.0.0.1", "first.test", &one), [true; 5]);

    let changed = fixture::parse(&text("10.0.0.2", "second.test", "two")).unwrap().workload("w");
    let touched = directory.apply(Change::Workload(changed));
    assert_eq!(found(&directory, "10.0.0.2", "second.test", &two), [true; 5]);
    assert_eq!(found(&directory, "10.0.0.1", "first.test", &one), [true, false, false, true, false]);
    assert_eq!(touched.workloads, [Uid::new("u")].into());
    assert_eq!(touched.addresses, [at("10.0.0.1"), at("10.0.0.2")].into());
    assert_eq!(touched.endpoints, [one, two.clone()].into());
    assert!(touched.services.is_empty());

    directory.apply(Change::Remove("u".into()));
    assert_eq!(found(&directory, "10.0.0.2", "second.test", &two), [false; 5]);
    assert!(directory.apply(Change::Remove("u".into())).is_empty(), "removing what is not there touches nothing");
}

// Z-167
#[test]
fn of_two_workloads_at_one_address_the_other_is_found_when_one_goes() {
    let mut directory = directory(
        "node a: first  10.0.0.1 uid=Kubernetes//Pod/default/first
         node a: second 10.0.0.1 uid=Kubernetes//Pod/default/second",
    );
    assert_eq!(directory.workload_at(&at("10.0.0.1")).unwrap().name, "first".into());
    assert_eq!(names(directory.workloads_at(&at("10.0.0.1"))), ["first", "second"]);
    directory.apply(Change::Remove("Kubernetes//Pod/default/first".into()));
    assert_eq!(directory.workload_at(&at("10.0.0.1")).unwrap().name, "second".into());
    directory.apply(Change::Remove("Kubernetes//Pod/default/second".into()));
    assert_eq!(directory.workload_at(&at("10.0.0.1")), None);
}

#[test]
fn a_pod_is_preferred_at_an_address_then_hbone_then_the_smallest_uid() {
    for (first, second, expected) in [
        ("uid=a/entry", "uid=c//Pod/x/y tcp", "second"),
        ("uid=a/entry tcp", "uid=b/entry", "second"),
        ("uid=c//Pod/a tcp", "uid=c//Pod/b", "second"),
        ("uid=b/entry", "uid=a/entry", "second"),
        ("uid=a/entry", "uid=b/entry", "first"),
    ] {
        let directory = directory(&format!("node a: first 10.0.0.1 {first}\nnode a: second 10.0.0.1 {second}"));
        assert_eq!(&*directory.workload_at(&at("10.0.0.1")).unwrap().name, expected, "{first} | {second}");
    }
}

#[test]
fn a_host_network_workload_is_an_endpoint_but_not_an_address() {
    let directory = directory("node a: agent 10.0.0.1 host-network\nservice s.default - 80 : agent");
    assert_eq!(directory.workload_at(&at("10.0.0.1")), None);
    assert_eq!(directory.members(&NamespacedHostname::new("default", "s.default.svc.cluster.local")).count(), 1);
}

#[test]
fn own_workload_is_looked_for_on_its_node_only() {
    let directory = directory(
        "node a: w 10.0.0.1 sa=shop/w
         node b: w2 10.0.0.2 sa=shop/w
         node b: other 10.0.0.3 sa=shop/w2",
    );
    let find = |node: Option<&str>, name: &str| {
        let own =
            OwnWorkload { node: node.map(Arc::from), namespace: "shop".into(), service_account: "w".into(), name: name.into() };
        directory.own_workload(&own).map(|workload| workload.addresses[0].to_string())
    };
    assert_eq!(find(Some("a"), "w").as_deref(), Some("10.0.0.1"));
    assert_eq!(find(Some("b"), "w"), None);
    assert_eq!(find(None, "w2").as_deref(), Some("10.0.0.2"));
    assert_eq!(find(Some("b"), "other"), None, "the service account must be the same");
    assert_eq!(names(directory.workloads_of(None, &"shop".into(), &"w".into())), ["w", "w2"]);
    assert_eq!(names(directory.workloads_of(Some(&"b".into()), &"shop".into(), &"w".into())), ["w2"]);
}

// --- VIPs and hostnames

// Z-138
#[test]
fn a_shared_vip_belongs_to_the_clients_namespace_first() {
    let mut directory = directory(
        "service web.a 10.96.0.1 80
         service web.b 10.96.0.1 80
         service web.c 10.96.0.1 80 canonical",
    );
    assert_eq!(owner(&directory, "10.96.0.1", Some("a")), "web.a");
    assert_eq!(owner(&directory, "10.96.0.1", Some("b")), "web.b");
    assert_eq!(owner(&directory, "10.96.0.1", Some("elsewhere")), "web.c", "then the canonical one");
    assert_eq!(owner(&directory, "10.96.0.1", None), "web.c");
    directory.apply(Change::Remove("c/web.c.svc.cluster.local".into()));
    assert_eq!(owner(&directory, "10.96.0.1", None), "web.a", "then the smallest name");
    directory.apply(Change::Remove("a/web.a.svc.cluster.local".into()));
    assert_eq!(owner(&directory, "10.96.0.1", Some("a")), "web.b");
}

// Z-139
#[test]
fn a_private_vip_is_seen_from_its_own_namespace_only() {
    let directory = directory("service web.a 10.96.0.1 80 visibility=namespace canonical");
    assert_eq!(owner(&directory, "10.96.0.1", Some("a")), "web.a");
    assert_eq!(owner(&directory, "10.96.0.1", Some("b")), "nothing");
    assert_eq!(owner(&directory, "10.96.0.1", None), "web.a", "without a client nothing is filtered");
}

// Z-140
#[test]
fn a_vip_that_the_client_may_not_see_falls_through_to_a_range() {
    let directory = directory(
        "service private.a 10.96.0.1 80 visibility=namespace
         service range.b 10.96.0.0/16 80",
    );
    assert_eq!(owner(&directory, "10.96.0.1", Some("a")), "private.a");
    assert_eq!(owner(&directory, "10.96.0.1", Some("b")), "range.b");
}

// Z-141
#[test]
fn a_private_hostname_is_seen_from_its_own_namespace_only() {
    let directory = directory(
        "service web.a - 80 host=web.test visibility=namespace
         service web.b - 80 host=web.test
         service web.c - 80 host=web.test",
    );
    let named = |client, preferred| show(directory.service_named("web.test", client, preferred));
    assert_eq!(named(Some("a"), None), "web.a");
    assert_eq!(named(Some("x"), None), "web.b");
    assert_eq!(named(Some("x"), Some("c")), "web.c", "DNS may prefer a namespace");
    assert_eq!(named(Some("b"), Some("c")), "web.b");
    assert_eq!(named(None, None), "web.a");
    assert_eq!(show(directory.service_named("WEB.Test", Some("x"), None)), "web.b", "hostnames do not differ by case");
    assert_eq!(directory.services_named("web.test").count(), 3);
}

// Z-142 Z-143 Z-144 Z-145 Z-146 Z-147
#[test]
fn a_range_owns_its_addresses_and_the_longest_prefix_wins() {
    let directory = directory(
        "service wide.a   10.0.0.0/8 80
         service mid.a    10.1.0.0/16 80
         service odd.a    10.1.2.5/24 80
         service wide6.a  fd00::/16 80
         service narrow6.a fd00:0:0:1::/64 80
         service both.a   192.168.0.0/24,2001:db8::/32 80",
    );
    for (ip, expected) in [
        ("10.9.9.9", "wide.a"),
        ("10.1.9.9", "mid.a"),
        ("10.1.2.200", "odd.a"), // host bits of a range are not looked at
        ("11.0.0.1", "nothing"),
        ("fd00:1::1", "wide6.a"),
        ("fd00::1:0:0:0:7", "narrow6.a"),
        ("fe80::1", "nothing"),
        ("192.168.0.77", "both.a"),
        ("2001:db8::77", "both.a"),
        ("192.168.1.77", "nothing"),
        ("::ffff:10.1.2.3", "nothing"), // a v6 address is in no v4 range
    ] {
        assert_eq!(owner(&directory, ip, Some("a")), expected, "{ip}");
    }
}

// Z-148 Z-149 Z-150
#[test]
fn an_exact_vip_beats_every_range() {
    let directory = directory(
        "service exact4.a 10.1.2.3 80
         service range4.a 10.1.2.0/31 80
         service exact6.a fd00::5 80
         service range6.a fd00::/120 80
         service mixed.a 10.7.0.1,fd07::/64 80",
    );
    for (ip, expected) in [
        ("10.1.2.3", "exact4.a"),
        ("10.1.2.1", "range4.a"),
        ("fd00::5", "exact6.a"),
        ("fd00::6", "range6.a"),
        ("10.7.0.1", "mixed.a"),
        ("fd07::1", "mixed.a"),
    ] {
        assert_eq!(owner(&directory, ip, None), expected, "{ip}");
    }
    // Even of another namespace: ranges are asked only when no visible service owns the address itself.
    assert_eq!(owner(&directory, "10.1.2.3", Some("elsewhere")), "exact4.a");
}

// Z-151
#[test]
fn a_range_belongs_to_one_network() {
    let directory = directory("service near.a 10.0.0.0/8 80\nservice far.a 10.0.0.0/8 80 network=far");
    assert_eq!(owner(&directory, "10.0.0.1", None), "near.a");
    let far = NetworkAddress::new("far", "10.0.0.1".parse().unwrap());
    assert_eq!(show(directory.service_at(&far, None)), "far.a");
    let elsewhere = NetworkAddress::new("elsewhere", "10.0.0.1".parse().unwrap());
    assert_eq!(show(directory.service_at(&elsewhere, None)), "nothing");
}

// Z-152
#[test]
fn a_removed_range_leaves_nothing_behind() {
    let mut directory = directory("service range.a 10.0.0.0/8,fd00::/8 80");
    let touched = directory.apply(Change::Remove("a/range.a.svc.cluster.local".into()));
    assert_eq!(owner(&directory, "10.0.0.1", None), "nothing");
    assert_eq!(directory, Directory::new());
    assert!(touched.concerns(&at("10.255.0.1")), "an address of the range is touched");
    assert!(!touched.concerns(&at("11.0.0.1")));
}

// Z-153 Z-154
#[test]
fn the_clients_namespace_beats_the_longer_prefix_and_that_beats_canonical() {
    let directory = directory(
        "service wide.a   10.0.0.0/8 80
         service narrow.b 10.0.0.0/24 80
         service wide.c   10.0.0.0/8 80 canonical",
    );
    assert_eq!(owner(&directory, "10.0.0.1", Some("a")), "wide.a");
    assert_eq!(owner(&directory, "10.0.0.1", Some("c")), "wide.c");
    assert_eq!(owner(&directory, "10.0.0.1", Some("x")), "narrow.b");
    assert_eq!(owner(&directory, "10.0.1.1", Some("x")), "wide.c");
    assert_eq!(owner(&directory, "10.0.1.1", None), "wide.c");
}

// --- endpoints

/// The endpoints of `web.shop`, and whether they are still waiting for the service.
fn endpoints(directory: &Directory) -> (Vec<&str>, bool) {
    let key = NamespacedHostname::new("shop", "web.shop.svc.cluster.local");
    match directory.service(&key) {
        Some(service) => (names(directory.endpoints(service)), directory.staged().any(|staged| *staged == key)),
        None => (names(directory.members(&key)), directory.staged().any(|staged| *staged == key)),
    }
}

fn workload(facts: &str) -> Change {
    let text = format!("node a: {facts}\nservice web.shop - 80 : {}", facts.split(' ').next().unwrap());
    fixture::parse(&text).unwrap().changes[0].clone()
}

fn web(facts: &str) -> Change {
    fixture::parse(&format!("service web.shop 10.96.0.1 80 {facts}")).unwrap().changes[0].clone()
}

fn uid_of(change: &Change) -> Change {
    match change {
        Change::Workload(workload) => Change::Remove(workload.uid.0.clone()),
        _ => panic!("not a workload"),
    }
}

// Z-155 Z-168
#[test]
fn endpoints_wait_for_their_service_and_the_unhealthy_do_not_become_endpoints() {
    let mut directory = Directory::new();
    directory.apply(workload("fine 10.0.0.1"));
    directory.apply(workload("ill 10.0.0.2 unhealthy"));
    assert_eq!(endpoints(&directory), (vec!["fine", "ill"], true));
    directory.apply(web(""));
    assert_eq!(endpoints(&directory), (vec!["fine"], false));

    let mut directory = Directory::new();
    directory.apply(workload("ill 10.0.0.2 unhealthy"));
    directory.apply(web("health=all"));
    assert_eq!(endpoints(&directory), (vec!["ill"], false));
}

// Z-156 Z-170
#[test]
fn what_waits_for_a_service_goes_with_its_workload() {
    let mut directory = Directory::new();
    let (one, two) = (workload("one 10.0.0.1"), workload("two 10.0.0.2"));
    directory.apply(one.clone());
    directory.apply(two.clone());
    directory.apply(uid_of(&one));
    assert_eq!(endpoints(&directory), (vec!["two"], true));
    directory.apply(uid_of(&two));
    assert_eq!(directory, Directory::new());
    directory.apply(web(""));
    assert_eq!(endpoints(&directory), (vec![], false));
}

// Z-157 Z-169
#[test]
fn an_endpoint_that_falls_ill_leaves_and_comes_back_when_it_recovers() {
    let mut directory = Directory::new();
    directory.apply(web(""));
    directory.apply(workload("w 10.0.0.1"));
    assert_eq!(endpoints(&directory).0, ["w"]);
    directory.apply(workload("w 10.0.0.1 unhealthy"));
    assert!(endpoints(&directory).0.is_empty());
    directory.apply(workload("w 10.0.0.1"));
    assert_eq!(endpoints(&directory).0, ["w"]);
}

// Z-158
#[test]
fn a_workload_that_was_removed_and_came_again_is_an_endpoint_once() {
    let mut directory = Directory::new();
    directory.apply(web(""));
    let w = workload("w 10.0.0.1");
    directory.apply(w.clone());
    directory.apply(uid_of(&w));
    assert!(endpoints(&directory).0.is_empty());
    directory.apply(workload("w 10.0.0.9"));
    assert_eq!(endpoints(&directory).0, ["w"]);
    assert_eq!(directory.workload_at(&at("10.0.0.1")), None);
}

// Z-169b: a service that goes back to AllowAll has all its endpoints again, without a word about the workloads.
#[test]
fn a_change_of_health_policy_takes_effect_both_ways_at_once() {
    let mut directory = Directory::new();
    directory.apply(workload("fine 10.0.0.1"));
    directory.apply(workload("ill 10.0.0.2 unhealthy"));
    for _ in 0..3 {
        directory.apply(web("health=all"));
        assert_eq!(endpoints(&directory).0, ["fine", "ill"]);
        directory.apply(web("health=healthy"));
        assert_eq!(endpoints(&directory).0, ["fine"]);
    }
}

#[test]
fn a_service_that_goes_and_comes_again_has_its_endpoints() {
    let mut directory = Directory::new();
    directory.apply(web(""));
    directory.apply(workload("w 10.0.0.1"));
    directory.apply(Change::Remove("shop/web.shop.svc.cluster.local".into()));
    assert_eq!(endpoints(&directory), (vec!["w"], true));
    directory.apply(web(""));
    assert_eq!(endpoints(&directory), (vec!["w"], false));
}

// --- changes

#[test]
fn the_same_again_touches_nothing() {
    let mut directory = Directory::new();
    for change in [workload("w 10.0.0.1"), web("")] {
        assert!(!directory.apply(change.clone()).is_empty());
        assert!(directory.apply(change).is_empty());
    }
}

#[test]
fn a_snapshot_does_not_see_later_changes() {
    let mut directory = Directory::new();
    directory.apply(workload("w 10.0.0.1"));
    let before = directory.clone();
    directory.apply(workload("w 10.0.0.2"));
    directory.apply(web(""));
    assert!(before.workload_at(&at("10.0.0.1")).is_some());
    assert!(before.workload_at(&at("10.0.0.2")).is_none());
    assert_eq!(before.service_count(), 0);
    assert_eq!(directory.service_count(), 1);
}

/// A small world in which names, addresses, hostnames and services collide all the time.
fn any_workload(rng: &mut SmallRng, number: u32) -> Workload {
    let uid = if number.is_multiple_of(3) { format!("entry/{number}") } else { format!("k//Pod/x/{number}") };
    let mut workload = Workload::named(&uid, ["x", "y"].choose(rng).unwrap(), ["n", "m"].choose(rng).unwrap());
    workload.network = (*["", "far"].choose(rng).unwrap()).into();
    workload.node = (*["a", "b"].choose(rng).unwrap()).into();
    workload.hostname = (*["", "h.test", "i.test"].choose(rng).unwrap()).into();
    workload.tunnel_protocol = *[TunnelProtocol::None, TunnelProtocol::Hbone].choose(rng).unwrap();
    workload.network_mode = *[NetworkMode::Standard, NetworkMode::Standard, NetworkMode::HostNetwork].choose(rng).unwrap();
    workload.status = *[Health::Healthy, Health::Unhealthy].choose(rng).unwrap();
    for _ in 0..rng.random_range(0..3) {
        workload.addresses.push(any_ip(rng));
    }
    for _ in 0..rng.random_range(0..3) {
        let key = any_service(rng, 0).key();
        workload.services.insert(key, [(80, rng.random_range(0..2))].into());
    }
    workload
}

fn any_service(rng: &mut SmallRng, number: u32) -> Service {
    let namespace = ["x", "y", "z"][number as usize % 3];
    let hostname = ["Web.test", "web.test", "api.test"][number as usize / 3 % 3];
    let mut service = Service::named(namespace, hostname);
    service.canonical = rng.random();
    service.visibility = *[Visibility::Public, Visibility::Namespace].choose(rng).unwrap();
    service.load_balancing.health_policy = *[HealthPolicy::OnlyHealthy, HealthPolicy::AllowAll].choose(rng).unwrap();
    for _ in 0..rng.random_range(0..3) {
        service.vips.push(NetworkAddress { network: (*["", "far"].choose(rng).unwrap()).into(), ip: any_ip(rng) });
        let (ip, bits) = (any_ip(rng), rng.random_range(0..=32));
        let cidr = ipnet::IpNet::new(ip, bits).unwrap();
        service.cidr_vips.push(NetworkCidr { network: (*["", "far"].choose(rng).unwrap()).into(), cidr });
    }
    service
}

fn any_ip(rng: &mut SmallRng) -> IpAddr {
    let last = rng.random_range(0..4);
    if rng.random() { IpAddr::from([10, 0, 0, last]) } else { IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)]) }
}

/// A list of names, each with what happens to it in order; the last word on each name decides.
fn any_story(rng: &mut SmallRng) -> Vec<Vec<Change>> {
    let workload = |rng: &mut SmallRng, number| Change::Workload(Arc::new(any_workload(rng, number)));
    let service = |rng: &mut SmallRng, number| Change::Service(Arc::new(any_service(rng, number)));
    let mut story: Vec<Vec<Change>> = Vec::new();
    for number in 0..rng.random_range(1..12) {
        story.push((0..rng.random_range(1..4)).map(|_| workload(rng, number)).collect());
    }
    for number in 0..rng.random_range(1..10) {
        story.push((0..rng.random_range(1..4)).map(|_| service(rng, number)).collect());
    }
    for of_one_name in &mut story {
        if rng.random_range(0..4) == 0 {
            let name = match &of_one_name[0] {
                Change::Workload(workload) => workload.uid.0.clone(),
                Change::Service(service) => service.key().to_string().into(),
                Change::Remove(name) => name.clone(),
            };
            of_one_name.insert(rng.random_range(0..=of_one_name.len()), Change::Remove(name));
        }
    }
    story
}

/// The changes of all names in one stream; the order within a name is kept, between names it is chance.
fn shuffled(story: &[Vec<Change>], rng: &mut SmallRng) -> Vec<Change> {
    let mut turns: Vec<usize> = story.iter().enumerate().flat_map(|(name, changes)| vec![name; changes.len()]).collect();
    turns.shuffle(rng);
    let mut next = vec![0; story.len()];
    let one = |name: usize| {
        next[name] += 1;
        story[name][next[name] - 1].clone()
    };
    turns.into_iter().map(one).collect()
}

fn told(changes: impl IntoIterator<Item = Change>) -> Directory {
    let mut directory = Directory::new();
    for change in changes {
        directory.apply(change);
    }
    directory
}

// F-21: whatever the order of arrival, the same directory; and it is the one that knows only the last words.
#[test]
fn the_order_of_arrival_does_not_matter() {
    for seed in 0..1_000 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let story = any_story(&mut rng);
        let last_words = told(story.iter().map(|changes| changes.last().unwrap().clone()));
        for _ in 0..3 {
            let directory = told(shuffled(&story, &mut rng));
            assert_eq!(directory, last_words, "seed {seed}");
        }
        let mut emptied = last_words.clone();
        for workload in last_words.workloads() {
            emptied.apply(Change::Remove(workload.uid.0.clone()));
        }
        for service in last_words.services() {
            emptied.apply(Change::Remove(service.key().to_string().into()));
        }
        assert_eq!(emptied, Directory::new(), "seed {seed}: something was left behind");
    }
}

/// The rules of the lookups said again, as slowly and as plainly as possible, over the bare lists.
mod oracle {
    use super::*;

    pub fn service_at<'d>(directory: &'d Directory, address: &NetworkAddress, client: Option<&str>) -> Option<&'d Arc<Service>> {
        let seen = |service: &&Arc<Service>| {
            service.visibility == Visibility::Public || client.is_none_or(|client| client == &*service.namespace)
        };
        let exact: Vec<_> = directory.services().filter(seen).filter(|service| service.vips.contains(address)).collect();
        let ranked = |services: Vec<(u8, &'d Arc<Service>)>| {
            let mut services = services;
            services.sort_by_key(|(bits, service)| {
                let home = client == Some(&*service.namespace);
                (!home, std::cmp::Reverse(*bits), !service.canonical, service.key())
            });
            services.first().map(|(_, service)| *service)
        };
        if !exact.is_empty() {
            return ranked(exact.into_iter().map(|service| (0, service)).collect());
        }
        let mut ranges = Vec::new();
        for service in directory.services().filter(seen) {
            for range in &service.cidr_vips {
                if range.network == address.network && range.cidr.contains(&address.ip) {
                    ranges.push((range.cidr.prefix_len(), service));
                }
            }
        }
        ranked(ranges)
    }

    pub fn workload_at<'d>(directory: &'d Directory, address: &NetworkAddress) -> Option<&'d Arc<Workload>> {
        let here = |workload: &&Arc<Workload>| {
            workload.network == address.network
                && workload.network_mode == NetworkMode::Standard
                && workload.addresses.contains(&address.ip)
        };
        directory.workloads().filter(here).min_by_key(|workload| {
            (!workload.uid.0.contains("//Pod/"), workload.tunnel_protocol == TunnelProtocol::None, workload.uid.clone())
        })
    }
}

#[test]
fn lookups_agree_with_a_naive_oracle() {
    for seed in 0..1_000 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let directory = told(any_story(&mut rng).into_iter().flatten());
        for _ in 0..20 {
            let address = NetworkAddress { network: (*["", "far"].choose(&mut rng).unwrap()).into(), ip: any_ip(&mut rng) };
            let client = *[None, Some("x"), Some("y"), Some("elsewhere")].choose(&mut rng).unwrap();
            assert_eq!(
                directory.service_at(&address, client),
                oracle::service_at(&directory, &address, client),
                "seed {seed}: {address} seen from {client:?}"
            );
            assert_eq!(directory.workload_at(&address), oracle::workload_at(&directory, &address), "seed {seed}: {address}");
        }
    }
}

// What a lookup answers changes only for keys that the change names.
#[test]
fn a_lookup_that_was_not_touched_answers_as_before() {
    for seed in 0..1_000 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let story = any_story(&mut rng);
        let mut directory = Directory::new();
        for change in shuffled(&story, &mut rng) {
            let before = directory.clone();
            let touched = directory.apply(change);
            for last in 0..4 {
                let address = at(&format!("10.0.0.{last}"));
                if !touched.concerns(&address) {
                    assert_eq!(before.at(&address, Some("x")), directory.at(&address, Some("x")), "seed {seed}: {address}");
                }
            }
            for service in before.services().filter(|service| !touched.endpoints.contains(&service.key())) {
                assert!(before.members(&service.key()).eq(directory.members(&service.key())), "seed {seed}: {}", service.key());
            }
        }
    }
}
