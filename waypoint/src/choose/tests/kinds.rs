//! Services that are not made of workloads (spec/waypoint.md 1.9).

use super::*;

#[test]
fn services_that_are_not_made_of_workloads() {
    let mut world = World::new(&format!("{}\nservice range.shop 192.0.2.0/24 5432", mesh(2)), "{loadBalancer: {balance: ROUND_ROBIN}}");
    let name = |hostname: &str, port| Name { hostname: hostname.into(), port, weight: 1 };
    let names = vec![name("a.example.com", 443), name("192.0.2.7", 8443)];
    world.backend(|backend| backend.kind = Kind::Dns { names: names.clone(), one: false });
    assert_eq!(world.spread(10, ok), BTreeMap::from([("192.0.2.7".to_owned(), 5), ("a.example.com".to_owned(), 5)]));
    world.backend(|backend| backend.kind = Kind::Dns { names, one: true });
    assert_eq!(world.spread(10, ok).len(), 1);

    world.backend(|backend| {
        backend.kind = Kind::Passthrough;
        backend.key = BackendKey { host: NamespacedHostname::new("shop", "range.shop.svc.cluster.local"), port: 5432, subset: "".into() };
    });
    let picked = world.ask_from(&arrival(Some("192.0.2.9:5432")), PLAIN).unwrap();
    assert_eq!((&*picked.endpoint.id, picked.endpoint.port), ("192.0.2.9:5432", 5432));
    // What another service's route sends here was dialled at that one's address; and a port of its own is not another's.
    for dialled in [None, Some("10.96.0.1:5432"), Some("192.0.3.9:5432"), Some("192.0.2.9:22")] {
        assert_eq!(world.ask_from(&arrival(dialled), PLAIN).unwrap_err(), NoEndpoint::NotDialled, "{dialled:?}");
    }

    // spec/waypoint.md 11, row 5
    world.backend(|backend| {
        backend.kind = Kind::DynamicDns;
        backend.key.host = NamespacedHostname::new("shop", "*.Example.com");
        backend.key.port = 443;
    });
    for (host, expected) in [
        (Some("a.example.com"), Ok("a.example.com:443")),
        (Some("A.b.EXAMPLE.com:8443"), Ok("a.b.example.com:443")),
        (Some("a.example.com."), Ok("a.example.com:443")),
        (Some("example.com"), Err(404)),
        (Some(".example.com"), Err(404)),
        (Some("a.example.com.evil.org"), Err(404)),
        (Some("evilexample.com"), Err(404)),
        (Some("169.254.169.254"), Err(404)),
        (Some("[::1]:80"), Err(404)),
        (Some("a/../b.example.com"), Err(404)),
        (Some("user@a.example.com"), Err(404)),
        (None, Err(404)),
    ] {
        let found = world.ask(With { host, ..PLAIN }).map(|picked| picked.endpoint.id.to_string());
        assert_eq!(found.map_err(NoEndpoint::status), expected.map(str::to_owned), "{host:?}");
    }
}
