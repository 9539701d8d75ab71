use std::time::Duration;

use mesh_model::fixture::{self, Fixture};
use mesh_xds::messages::waypoint as wire;
use prost::Message;

use super::*;

const WORLD: &str = "
node a: client 10.0.0.1 sa=shop/client
node a: twin   10.0.0.7 sa=shop/client
node b: server 10.0.0.2,fd00::2 sa=shop/server
node b: other  10.0.0.3 sa=shop/other
waypoint wp.shop 10.0.0.9 for workload server
waypoint far.shop 10.0.0.8 for workload other
service web.shop 10.96.0.1 80->8080,443 : server
service free.shop 10.96.0.2 80 : other
";

struct Place {
    mesh: Fixture,
    own: Own,
    gateway: NamespacedHostname,
    settings: Arc<Settings>,
    now: Instant,
    hops: u8,
}

fn key(name: &str) -> NamespacedHostname {
    NamespacedHostname::new("shop", &format!("{name}.shop.svc.cluster.local"))
}

fn place() -> Place {
    let own = Own { identity: id("wp"), network: "".into(), addresses: ["10.0.0.9".parse().unwrap()].into() };
    Place { mesh: fixture::parse(WORLD).unwrap(), own, gateway: key("wp"), settings: served(&[]), now: Instant::now(), hops: 0 }
}

/// The port 80 of `web`, and of these, which are unbound now.
fn served(unbound: &[&str]) -> Arc<Settings> {
    let (mut store, settings) = crate::settings::store(None);
    for name in unbound.iter().chain(&["web"]) {
        let host = wire::Host { namespace: "shop".into(), hostname: key(name).hostname.to_string() };
        let port = wire::ServicePort { host: Some(host), port: 80, ..Default::default() };
        store.take(wire::SERVICE_PORT, name, Some(&port.encode_to_vec())).unwrap();
    }
    store.publish();
    unbound.iter().for_each(|name| store.take(wire::SERVICE_PORT, name, None).unwrap());
    store.publish();
    settings.load()
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", account)
}

impl Place {
    fn ask(&self, to: &str, forwarded_for: Option<&str>, identity: &SpiffeId) -> Result<Arrival, Refused> {
        let (directory, settings, now) = (&self.mesh.directory, &*self.settings, self.now);
        let here = Here { own: &self.own, gateway: &self.gateway, directory, settings, now };
        let asked = Asked {
            to: &to.parse().unwrap(),
            identity,
            peer: "10.0.0.1:40000".parse().unwrap(),
            forwarded_for: forwarded_for.map(|address| address.parse().unwrap()),
            hops: self.hops,
        };
        arrive(&here, &asked)
    }

    fn target(&self, to: &str) -> Result<String, (u16, &'static str)> {
        match self.ask(to, None, &id("client")) {
            Ok(Arrival { target: Target::Service { key, port }, .. }) => Ok(format!("service {} {port}", key.hostname)),
            Ok(Arrival { target: Target::Workload { workload, port }, .. }) => Ok(format!("workload {} {port}", workload.name)),
            Err(refused) => Err((refused.status().as_u16(), refused.reason())),
        }
    }
}

// spec/waypoint.md 1.2, 11 row 1
#[test]
fn what_is_bound_here_is_let_in_and_nothing_else() {
    let place = place();
    let web = || Ok("service web.shop.svc.cluster.local 80".to_owned());
    for (to, expected) in [
        ("10.96.0.1:80", web()),
        ("web.shop.svc.cluster.local:80", web()),
        ("WEB.shop.svc.cluster.local:80", web()),
        ("10.96.0.1:443", Err((404, "no_port"))),
        ("10.96.0.1:15000", Err((404, "no_port"))),
        ("web.shop.svc.cluster.local:81", Err((404, "no_port"))),
        ("10.96.0.2:80", Err((403, "service_not_bound"))),
        ("free.shop.svc.cluster.local:80", Err((403, "service_not_bound"))),
        ("nobody.shop.svc.cluster.local:80", Err((404, "unknown_host"))),
        ("10.96.0.77:80", Err((404, "unknown_address"))),
        ("192.0.2.1:443", Err((404, "unknown_address"))),
        ("10.0.0.2:8080", Ok("workload server 8080".into())),
        ("[fd00::2]:9", Ok("workload server 9".into())),
        ("10.0.0.3:8080", Err((403, "workload_not_bound"))),
        ("10.0.0.1:8080", Err((403, "workload_not_bound"))),
        ("10.0.0.9:15000", Err((403, "own_address"))),
        ("10.0.0.9:15008", Err((403, "own_address"))),
        ("127.0.0.1:15000", Err((403, "own_address"))),
        ("[::1]:15000", Err((403, "own_address"))),
        ("0.0.0.0:15000", Err((403, "own_address"))),
    ] {
        assert_eq!(place.target(to), expected, "{to}");
    }
}

// spec/waypoint.md 11 row 24
#[test]
fn what_was_bound_until_a_moment_ago_is_let_in_and_what_may_be_in_a_moment_is_early() {
    let mut place = place();
    place.settings = served(&["free"]);
    let free = || Ok("service free.shop.svc.cluster.local 80".to_owned());
    assert_eq!((place.target("10.96.0.2:80"), place.target("free.shop.svc.cluster.local:80")), (free(), free()));
    place.now += Duration::from_secs(6);
    for (to, early) in [
        ("10.96.0.2:80", true),
        ("free.shop.svc.cluster.local:80", true),
        ("10.96.0.1:443", true),
        ("10.0.0.3:8080", true),
        ("10.96.0.2:81", false),
        ("10.96.0.1:444", false),
        ("192.0.2.1:443", false),
        ("nobody.shop.svc.cluster.local:80", false),
        ("10.0.0.9:15000", false),
    ] {
        let refused = place.ask(to, None, &id("client")).unwrap_err();
        assert_eq!(refused.is_early(), early, "{to}: {refused}");
    }
}

// T-19
#[test]
fn what_has_come_through_too_many_waypoints_is_a_loop() {
    let mut place = place();
    for (hops, expected) in [(3, Ok("service web.shop.svc.cluster.local 80".to_owned())), (4, Err((508, "loop"))), (255, Err((508, "loop")))] {
        place.hops = hops;
        assert_eq!(place.target("10.96.0.1:80"), expected, "{hops}");
    }
}

// spec/waypoint.md 1.9: a name reaches nothing that is hidden from the client, bound or not.
#[test]
fn a_service_that_is_hidden_from_the_client_is_not_reached_by_its_name() {
    let mut place = place();
    let mut web = (*place.mesh.service("web.shop")).clone();
    web.visibility = mesh_model::service::Visibility::Namespace;
    place.mesh.directory.apply(mesh_model::change::Change::Service(web.into()));
    let to = "web.shop.svc.cluster.local:80";
    assert!(place.ask(to, None, &id("client")).is_ok());
    let foreign = SpiffeId::new("cluster.local", "elsewhere", "client");
    assert_eq!(place.ask(to, None, &foreign).unwrap_err().reason(), "unknown_host");
}

// spec/waypoint.md 1.6
#[test]
fn the_client_is_who_its_node_says_where_it_has_that_identity() {
    let place = place();
    for (account, forwarded, source, workload) in [
        ("client", None, "10.0.0.1:40000", Some("client")),
        ("client", Some("10.0.0.7:5"), "10.0.0.7:5", Some("twin")),
        ("client", Some("10.0.0.2:5"), "10.0.0.1:40000", Some("client")),
        ("client", Some("192.0.2.1:5"), "10.0.0.1:40000", Some("client")),
        ("stranger", Some("10.0.0.7:5"), "10.0.0.1:40000", None),
    ] {
        let arrival = place.ask("10.96.0.1:80", forwarded, &id(account)).unwrap();
        let found = arrival.source_workload.as_ref().map(|workload| &*workload.name);
        assert_eq!((arrival.source.to_string().as_str(), found), (source, workload), "{account} {forwarded:?}");
        assert_eq!((arrival.identity, arrival.dialled), (id(account), Some("10.96.0.1:80".parse().unwrap())));
    }
}

#[test]
fn a_workloads_port_speaks_what_its_services_declare() {
    let place = place();
    let mut directory = place.mesh.directory.clone();
    let mut web = (*place.mesh.service("web.shop")).clone();
    web.app_protocols = [(80, AppProtocol::Grpc)].into();
    directory.apply(mesh_model::change::Change::Service(web.into()));
    let server = place.mesh.workload("server");
    assert_eq!(declared(&directory, &server, 8080), PortProtocol::Grpc);
    assert_eq!(declared(&directory, &server, 9), PortProtocol::Auto);
}
