use mesh_model::fixture::{self, Fixture};
use mesh_model::identity::SpiffeId;
use mesh_xds::messages::waypoint::{BackendPolicy, ConnectionPool, ForwardProxy, TlsClient, TlsMode};

use super::*;
use crate::choose::{BackendKey, Members, Policy};
use crate::facts::Target;

const WORLD: &str = "
node a: client 10.0.0.1 sa=shop/client
node b: server 10.0.0.2,fd00::2 sa=shop/server
node b: plain  10.0.0.3 tcp
service web.shop 10.96.0.1 80->8080 : server plain
";

struct Scene {
    mesh: Fixture,
    own: Own,
    arrival: Arrival,
}

fn place(dialled: &str) -> Scene {
    let mesh = fixture::parse(WORLD).unwrap();
    let id = |account| SpiffeId::new("cluster.local", "shop", account);
    let arrival = Arrival {
        identity: id("client"),
        peer: "10.0.0.1:1".parse().unwrap(),
        source: "10.0.0.1:40000".parse().unwrap(),
        source_workload: None,
        dialled: Some(dialled.parse().unwrap()),
        hops: 0,
        target: Target::Service { key: mesh.service("web.shop").key(), port: 80 },
    };
    Scene { mesh, own: Own { identity: id("wp"), network: "".into(), addresses: ["10.0.0.9".parse().unwrap()].into() }, arrival }
}

impl Scene {
    fn backend(&self, policy: &BackendPolicy) -> Backend {
        let key = BackendKey { host: self.mesh.service("web.shop").key(), port: 80, subset: "".into() };
        let policy: Policy = choose::compile(policy).unwrap();
        Backend { key, kind: choose::Kind::Workloads, target_port: 0, members: Members::All, policy }
    }

    fn go(&self, to: Place, backend: &Backend) -> Result<Endpoint, ConnectError> {
        let way = Going {
            own: &self.own,
            directory: &self.mesh.directory,
            arrival: &self.arrival,
            connect_timeout: Duration::from_secs(7),
        };
        Endpoint::of_picked(&way, &choose::Endpoint { id: "chosen".into(), place: to, port: 8080 }, backend, Alpn::Http2)
    }

    fn workload(&self, name: &str) -> Place {
        Place::Workload(self.mesh.workload(name))
    }
}

// spec/waypoint.md 1.4
#[test]
fn a_workload_of_the_mesh_is_reached_in_a_tunnel_as_exactly_itself_and_another_in_the_clear() {
    let place = place("10.96.0.1:80");
    let backend = place.backend(&BackendPolicy::default());
    let endpoint = place.go(place.workload("server"), &backend).unwrap();
    let target = "10.0.0.2:8080".parse().unwrap();
    let expect = SpiffeId::new("cluster.local", "shop", "server");
    assert_eq!(endpoint.way, Way::Tunnel { door: "10.0.0.2:15008".parse().unwrap(), target, expect });
    assert_eq!((endpoint.tls, endpoint.preface, endpoint.connect_timeout), (None, None, Duration::from_secs(7)));
    let endpoint = place.go(place.workload("plain"), &backend).unwrap();
    assert_eq!((endpoint.way, endpoint.to), (Way::Plain, To::Address("10.0.0.3:8080".parse().unwrap())));
}

// What is asked for and cannot be done is refused; the connection does not go in the clear instead.
#[test]
fn what_cannot_be_done_as_asked_is_refused() {
    let place = place("10.96.0.1:80");
    let mut named = (*place.mesh.workload("server")).clone();
    (named.addresses, named.hostname) = (Vec::new(), "server.example".into());
    let refused = place.go(Place::Workload(named.clone().into()), &place.backend(&BackendPolicy::default())).unwrap_err();
    assert!(refused.message.contains("tunnels only"), "{refused:?}");
    named.tunnel_protocol = TunnelProtocol::None;
    assert!(place.go(Place::Workload(named.into()), &place.backend(&BackendPolicy::default())).is_ok());
}

#[test]
fn the_clients_family_is_preferred() {
    let place = place("[fd00::99]:80");
    let endpoint = place.go(place.workload("server"), &place.backend(&BackendPolicy::default())).unwrap();
    assert_eq!(endpoint.to, To::Address("[fd00::2]:8080".parse().unwrap()));
}

#[test]
fn there_is_no_way_to_another_network() {
    let place = place("10.96.0.1:80");
    let far = Workload { network: "far".into(), ..(*place.mesh.workload("server")).clone() };
    let refused = place.go(Place::Workload(Arc::new(far)), &place.backend(&BackendPolicy::default())).unwrap_err();
    assert!(refused.message.contains("\"far\""), "{refused}");
}

#[test]
fn the_policy_of_the_backend_says_how() {
    let place = place("10.96.0.1:80");
    let policy = BackendPolicy {
        tls: Some(TlsClient { mode: TlsMode::Simple as i32, insecure_skip_verify: true, ..TlsClient::default() }),
        pool: Some(ConnectionPool { connect_timeout_ms: 300, ..ConnectionPool::default() }),
        proxy_header: ProxyHeader::V1 as i32,
        ..BackendPolicy::default()
    };
    let endpoint = place.go(Place::Name("out.test".into()), &place.backend(&policy)).unwrap();
    let tls = endpoint.tls.unwrap();
    assert_eq!((&*tls.host, tls.alpn), ("web.shop.svc.cluster.local", Alpn::Http2));
    assert_eq!(endpoint.connect_timeout, Duration::from_millis(300));
    assert_eq!(endpoint.preface.unwrap(), "PROXY TCP4 10.0.0.1 10.96.0.1 40000 80\r\n");
    assert_eq!((endpoint.to, &*endpoint.id), (To::Name("out.test".into(), 8080), "chosen"));
    let off = BackendPolicy { tls: Some(TlsClient { mode: TlsMode::Disable as i32, ..TlsClient::default() }), ..BackendPolicy::default() };
    assert_eq!(place.go(place.workload("server"), &place.backend(&off)).unwrap().tls, None);
    let wildcard = Backend { kind: choose::Kind::DynamicDns, ..place.backend(&policy) };
    assert_eq!(&*place.go(Place::Name("a.out.test".into()), &wildcard).unwrap().tls.unwrap().host, "a.out.test");
}

#[test]
fn a_proxy_outside_is_what_is_connected_to_and_connections_through_it_are_their_own() {
    let place = place("10.96.0.1:80");
    let through = |host: &str| {
        let tunnel = ForwardProxy { target_host: host.into(), target_port: 443, post: false };
        place.backend(&BackendPolicy { forward_proxy: Some(tunnel), ..BackendPolicy::default() })
    };
    let go = |backend: &Backend| place.go(Place::Name("proxy.test".into()), backend).unwrap();
    let endpoint = go(&through("a.test"));
    assert_eq!((&endpoint.to, endpoint.through.is_some()), (&To::Name("proxy.test".into(), 8080), true));
    assert_eq!(endpoint, go(&through("a.test")));
    assert_ne!(endpoint, go(&through("b.test")));
    assert_ne!(endpoint, go(&place.backend(&BackendPolicy::default())));
}

#[test]
fn an_entry_of_one_logical_address_is_not_spread() {
    let place = place("10.96.0.1:80");
    let backend = |one| Backend { kind: choose::Kind::Dns { names: Vec::new(), one }, ..place.backend(&BackendPolicy::default()) };
    let spread = |one| place.go(Place::Name("db.test".into()), &backend(one)).unwrap().spread;
    assert_eq!([spread(false), spread(true)], [true, false]);
}

// Two policies that say the same share connections, two that do not never.
#[test]
fn what_may_share_a_connection_is_equal() {
    let place = place("10.96.0.1:80");
    let tls = |names: &[&str]| TlsClient {
        mode: TlsMode::Simple as i32,
        insecure_skip_verify: true,
        subject_alt_names: names.iter().map(|name| name.to_string()).collect(),
        ..TlsClient::default()
    };
    let go = |names: &[&str]| {
        let policy = BackendPolicy { tls: Some(tls(names)), ..BackendPolicy::default() };
        place.go(place.workload("server"), &place.backend(&policy)).unwrap()
    };
    assert_eq!(go(&["a.test"]), go(&["a.test"]));
    assert_ne!(go(&["a.test"]), go(&["b.test"]));
    assert_ne!(go(&[]), place.go(place.workload("server"), &place.backend(&BackendPolicy::default())).unwrap());
}

#[tokio::test]
async fn a_policy_that_cannot_be_kept_refuses_instead_of_going_in_the_clear() {
    for wire in [
        TlsClient { mode: TlsMode::Simple as i32, invalid: "the secret shop/ca is not there".into(), ..TlsClient::default() },
        TlsClient { mode: TlsMode::Disable as i32, invalid: "broken".into(), ..TlsClient::default() },
        TlsClient { mode: TlsMode::Mutual as i32, ..TlsClient::default() },
        TlsClient { mode: TlsMode::Simple as i32, ca_pem: "nonsense".into(), ..TlsClient::default() },
        TlsClient { mode: 77, ..TlsClient::default() },
    ] {
        let origin = Origin::compile(&wire);
        assert!(origin.wrong().is_some() && !origin.is_off(), "{wire:?}");
        let (near, _far) = mesh_net::memory::pair(64);
        let refused = origin.secure(Box::new(near), "web.test", Alpn::None).await.err().unwrap();
        assert_eq!(refused.kind, Kind::Tls);
    }
}
