use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::fixture::{self, Fixture};

/// How often each endpoint of `web.shop` is picked for `client` in 10,000 tries, in percent, rounded.
fn shares(text: &str) -> BTreeMap<String, u32> {
    let mesh = fixture::parse(text).unwrap();
    let mut rng = SmallRng::seed_from_u64(7);
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..10_000 {
        let picked = pick_with(&mesh, 80, Purpose::Traffic, &mut rng);
        *counts.entry(picked.map_or("nobody".into(), |picked| picked.workload.name.to_string())).or_default() += 1;
    }
    counts.into_iter().map(|(name, count)| (name, (count + 50) / 100)).collect()
}

fn pick_with<'d>(mesh: &'d Fixture, port: u16, purpose: Purpose, rng: &mut SmallRng) -> Option<Picked<'d>> {
    pick(&mesh.directory, &mesh.workload("client"), &mesh.service("web.shop"), port, purpose, rng)
}

#[track_caller]
fn check(text: &str, expected: &[(&str, u32)]) {
    let shares = shares(text);
    assert_eq!(shares.len(), expected.len(), "{shares:?}");
    for (name, percent) in expected {
        assert!(shares.get(*name).is_some_and(|share| share.abs_diff(*percent) <= 2), "{name}: {shares:?}");
    }
}

#[test]
fn capacity_is_the_weight() {
    check(
        "node a: client 10.0.0.1
         node a: one 10.0.0.2
         node a: three 10.0.0.3 capacity=3
         node a: idle 10.0.0.4 capacity=0
         service web.shop - 80 : one three idle",
        &[("one", 25), ("three", 75)],
    );
    check("node a: client 10.0.0.1\nnode a: idle 10.0.0.4 capacity=0\nservice web.shop - 80 : idle", &[("nobody", 100)]);
    check("node a: client 10.0.0.1\nservice web.shop - 80", &[("nobody", 100)]);
    // The sum of the weights is wider than a weight.
    check(
        "node a: client 10.0.0.1
         node a: one 10.0.0.2 capacity=4294967295
         node a: two 10.0.0.3 capacity=4294967295
         service web.shop - 80 : one two",
        &[("one", 50), ("two", 50)],
    );
}

/// Endpoints named after the places they share with the client.
const PLACES: &str = "
    node n: client  10.0.0.1 locality=r/z/s
    node n: node    10.0.0.2 locality=r/z/s
    node m: subzone 10.0.0.3 locality=r/z/s
    node m: zone    10.0.0.4 locality=r/z/x
    node m: region  10.0.0.5 locality=r/x/x
    node m: none    10.0.0.6 locality=x/x/x
    node m: zone-of-another-region 10.0.0.7 locality=x/z/s";

fn places(service: &str) -> String {
    format!("{PLACES}\n{service}")
}

// Z-136
#[test]
fn strict_takes_only_endpoints_that_match_every_preference() {
    check(
        &places("service web.shop - 80 lb=strict:region,zone : node subzone zone region none"),
        &[("node", 33), ("subzone", 33), ("zone", 33)],
    );
    check(&places("service web.shop - 80 lb=strict:node : node subzone"), &[("node", 100)]);
    check(&places("service web.shop - 80 lb=strict:node : subzone zone"), &[("nobody", 100)]);
    check(&places("service web.shop - 80 lb=strict : subzone none"), &[("subzone", 50), ("none", 50)]);
    check(&places("service web.shop - 80 lb=strict:network,zone : zone none"), &[("zone", 100)]);
    check(&places("service web.shop - 80 lb=strict:network,zone : none"), &[("nobody", 100)]);
}

// Z-136
#[test]
fn failover_takes_the_closest_there_are() {
    let failover = |endpoints: &str| places(&format!("service web.shop - 80 lb=failover:region,zone,subzone,node : {endpoints}"));
    check(&failover("node subzone zone region none"), &[("node", 100)]);
    check(&failover("subzone zone region none"), &[("subzone", 100)]);
    check(&failover("zone region none"), &[("zone", 100)]);
    check(&failover("region none"), &[("region", 100)]);
    check(&failover("none"), &[("none", 100)]);
    // The count stops at the first mismatch: the zone of another region is not close.
    check(&failover("region zone-of-another-region"), &[("region", 100)]);
    check(&failover("none zone-of-another-region"), &[("none", 50), ("zone-of-another-region", 50)]);
    check(&places("service web.shop - 80 lb=passthrough:region : region none"), &[("region", 100)]);
}

// Z-136
#[test]
fn without_a_mode_places_do_not_matter() {
    check(&places("service web.shop - 80 : node none"), &[("node", 50), ("none", 50)]);
}

// An unhealthy or empty local place is passed over for the next one.
#[test]
fn only_usable_endpoints_count_as_close() {
    check(
        "node n: client 10.0.0.1 locality=r/z/s
         node n: ill 10.0.0.2 locality=r/z/s unhealthy
         node n: idle 10.0.0.3 locality=r/z/s capacity=0
         node n: nowhere - locality=r/z/s
         node m: far 10.0.0.4 locality=x/x/x
         service web.shop - 80 lb=failover:region,zone : ill idle nowhere far",
        &[("far", 100)],
    );
}

#[test]
fn the_ranks_of_the_network_first_preference() {
    let mesh = fixture::parse(
        "node n: client 10.0.0.1 network=own locality=r/z/s
         node n: e      10.0.0.2 network=own locality=r/z/s
         service web.shop - 80 lb=failover:network,region,zone : e",
    )
    .unwrap();
    let (client, service) = (mesh.workload("client"), mesh.service("web.shop"));
    for (network, region, zone, expected) in [
        ("own", "r", "z", 5),
        ("own", "r", "x", 4),
        ("own", "x", "z", 3),
        ("far", "r", "z", 2),
        ("far", "r", "x", 1),
        ("far", "x", "z", 0),
    ] {
        let mut endpoint = Workload::clone(&mesh.workload("e"));
        endpoint.network = network.into();
        (endpoint.locality.region, endpoint.locality.zone) = (region.into(), zone.into());
        let fit = judge(&client, &service, &endpoint, 80, Purpose::Traffic).unwrap();
        assert_eq!(fit.rank, expected, "{network} {region} {zone}");
    }
}

#[test]
fn the_reasons_against_an_endpoint() {
    let mesh = fixture::parse(
        "node n: client  10.0.0.1
         node n: fine    10.0.0.2
         node n: ill     10.0.0.3 unhealthy
         node n: nowhere -
         node n: named   - host=db.test
         node n: beyond  - network=far gateway=10.9.9.9
         node n: lost    - network=far
         node n: idle    10.0.0.5 capacity=0
         node m: remote  10.0.0.6
         service web.shop - 80 lb=strict:node : fine ill nowhere named beyond lost idle remote",
    )
    .unwrap();
    let judged = survey(&mesh.directory, &mesh.workload("client"), &mesh.service("web.shop"), 80, Purpose::Traffic);
    let judged: BTreeMap<&str, Result<Fit, Unfit>> = judged.into_iter().map(|(w, judgement)| (&*w.name, judgement)).collect();
    let fit = Ok(Fit { port: 80, rank: 1, weight: 1 });
    let expected = BTreeMap::from([
        ("fine", fit),
        ("ill", Err(Unfit::Unhealthy)),
        ("nowhere", Err(Unfit::Unreachable)),
        ("named", fit),
        ("beyond", fit),
        ("lost", Err(Unfit::Unreachable)),
        ("idle", Err(Unfit::NoCapacity)),
        ("remote", Err(Unfit::OutOfScope)),
    ]);
    assert_eq!(judged, expected);
    let (client, service) = (mesh.workload("client"), mesh.service("web.shop"));
    assert_eq!(judge(&client, &service, &mesh.workload("fine"), 81, Purpose::Traffic), Err(Unfit::NoPort));
}

// Z-132
#[test]
fn the_target_port_is_the_endpoints_own_then_the_services_then_the_tunnels() {
    let mesh = fixture::parse(
        "node n: client 10.0.0.1
         node n: own    10.0.0.2
         node n: plain  10.0.0.3
         node n: tunnel 10.0.0.4 tunnel=PROXY:15088
         node n: loose  10.0.0.5 tunnel=NONE
         service web.shop - 80->8080,90->0 : own[80->9090,90->9099,91->9191] plain tunnel loose",
    )
    .unwrap();
    let service = mesh.service("web.shop");
    let port = |name: &str, port, purpose| target_port(&service, &mesh.workload(name), port, purpose);
    for (name, asked, traffic, waypoint) in [
        ("own", 80, Some(9090), Some(9090)),
        ("own", 90, Some(9099), Some(9099)),
        ("own", 91, None, None), // not a port of the service
        ("plain", 80, Some(8080), Some(8080)),
        ("plain", 90, None, None), // a named port that the endpoint does not have
        ("plain", 15008, None, None),
        ("tunnel", 80, Some(8080), Some(8080)),
        ("tunnel", 90, Some(90), Some(90)),
        ("tunnel", 15008, None, Some(15008)), // behind a tunnel a waypoint takes any port
        ("loose", 15008, None, None),         // a tunnel without a port of its own says nothing about the number
    ] {
        assert_eq!(port(name, asked, Purpose::Traffic), traffic, "{name}:{asked} for traffic");
        assert_eq!(port(name, asked, Purpose::Waypoint), waypoint, "{name}:{asked} for a waypoint");
    }
}

// Z-092 Z-093
#[test]
fn the_address_is_the_one_asked_for_then_one_of_its_family_within_the_services_families() {
    let mesh = fixture::parse(
        "node n: dual 10.0.0.2,fd00::2,10.0.0.3
         node n: v4   10.0.0.4
         node n: none -
         service any.shop - 80
         service four.shop - 80 families=v4
         service six.shop - 80 families=v6
         service both.shop - 80 families=dual",
    )
    .unwrap();
    for (name, service, original, expected) in [
        ("dual", "any.shop", "10.0.0.3", Some("10.0.0.3")),
        ("dual", "any.shop", "10.96.0.1", Some("10.0.0.2")),
        ("dual", "any.shop", "fd96::1", Some("fd00::2")),
        ("dual", "both.shop", "fd96::1", Some("fd00::2")),
        ("dual", "four.shop", "fd96::1", Some("10.0.0.2")),
        ("dual", "six.shop", "10.96.0.1", Some("fd00::2")),
        ("dual", "six.shop", "10.0.0.2", Some("10.0.0.2")), // an address of its own is not asked for its family
        ("v4", "any.shop", "fd96::1", Some("10.0.0.4")),
        ("v4", "six.shop", "fd96::1", None),
        ("none", "any.shop", "10.96.0.1", None),
    ] {
        let found = destination_ip(&mesh.workload(name), Some(&mesh.service(service)), original.parse().unwrap());
        assert_eq!(found.map(|ip| ip.to_string()).as_deref(), expected, "{name} by {service} for {original}");
    }
    let found = destination_ip(&mesh.workload("dual"), None, "fd96::1".parse().unwrap());
    assert_eq!(found.map(|ip| ip.to_string()).as_deref(), Some("fd00::2"), "without a service");
}

// Z-127
#[test]
fn a_weighted_waypoint_is_sampled_by_weight() {
    let count = |facts: &str| {
        let mesh = fixture::parse(&format!("service web.shop - 80 {facts}")).unwrap();
        let service = mesh.service("web.shop");
        let mut rng = SmallRng::seed_from_u64(7);
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..10_000 {
            let sampled = waypoint(&service, &mut rng);
            *counts.entry(sampled.map_or("none".into(), |sampled| sampled.destination.to_string())).or_default() += 1;
        }
        counts.into_iter().map(|(name, count)| format!("{name} {}", (count + 50) / 100)).collect::<Vec<_>>()
    };
    let (stable, canary) = ("shop/stable.shop.svc.cluster.local", "shop/canary.shop.svc.cluster.local");
    assert_eq!(count(""), ["none 100"]);
    assert_eq!(count("waypoint=stable.shop"), [format!("{stable} 100")]);
    assert_eq!(count("waypoint=stable.shop waypoints=canary.shop*1"), [format!("{canary} 100")]);
    assert_eq!(count("waypoint=stable.shop waypoints=canary.shop*0"), [format!("{stable} 100")], "all weights zero");
    let shares = count("waypoints=stable.shop*9,canary.shop*1");
    assert_eq!(shares, [format!("{canary} 10"), format!("{stable} 90")]);
}

// Whoever is picked is fit and of the best rank; nobody is picked only when nobody is fit.
#[test]
fn only_the_best_are_picked_and_somebody_if_anybody() {
    use rand::Rng;
    let mut picked_somebody = 0;
    for seed in 0..1_000 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let modes = ["", "lb=failover:network,zone,node", "lb=strict:zone", "lb=failover:node", "health=all"];
        let mut text = format!(
            "node a: client 10.0.0.1 locality=r/z\nservice web.shop - 80->8080,81->0 {} :",
            modes[rng.random_range(0..5)]
        );
        for number in 0..rng.random_range(0..30) {
            text += &format!(" e{number}{}", ["", "[81->9090]"][rng.random_range(0..2)]);
            let facts =
                ["unhealthy", "capacity=0", "capacity=7", "locality=r/z", "network=far", "network=far gateway=10.9.9.9", ""];
            let (one, two) = (facts[rng.random_range(0..7)], facts[rng.random_range(0..7)]);
            let address = ["-", "10.0.0.2"][rng.random_range(0..2)];
            let node = ["a", "b"][rng.random_range(0..2)];
            text = format!("node {node}: e{number} {address} {one} {two}\n{text}");
        }
        let mesh = fixture::parse(&text).unwrap();
        for port in [80, 81, 82] {
            let (client, service) = (mesh.workload("client"), mesh.service("web.shop"));
            let judged = survey(&mesh.directory, &client, &service, port, Purpose::Traffic);
            let best = judged.iter().filter_map(|(_, judgement)| judgement.ok()).map(|fit| fit.rank).max();
            let picked = pick_with(&mesh, port, Purpose::Traffic, &mut rng);
            let fit = picked.map(|picked| judge(&client, &service, picked.workload, port, Purpose::Traffic).unwrap());
            assert_eq!(fit.map(|fit| fit.rank), best, "seed {seed} port {port}\n{text}");
            assert_eq!(fit.map(|fit| fit.port), picked.map(|picked| picked.port), "seed {seed} port {port}");
            picked_somebody += usize::from(picked.is_some());
        }
    }
    assert!(picked_somebody > 500, "{picked_somebody}: the meshes are too poor to prove anything");
}
