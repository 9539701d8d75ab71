use mesh_model::fixture::{self, Fixture};

use super::*;

/// The facts of one arrival, with defaults: from 10.0.0.1 as shop/client, at the pod's first address.
struct Case<'a> {
    mesh: &'a Fixture,
    me: &'a str,
    authority: &'a str,
    from: &'a str,
    forwarded: Option<&'a str>,
    network: Option<&'a str>,
    loopback: bool,
}

impl Case<'_> {
    fn decide(&self) -> Result<Admission, Refusal> {
        let me = self.mesh.workload(self.me);
        let network: Arc<str> = "".into();
        let host = Host {
            me: &me,
            network: &network,
            own_ports: &[15008, 15006, 15001],
            tunnel_over_loopback: self.loopback,
            only_port: None,
        };
        let identity = SpiffeId::new("cluster.local", "shop", "client");
        let arrival = Arrival {
            local: me.addresses[0],
            peer: self.from.parse().unwrap(),
            identity: Some(&identity),
            authority: &self.authority.parse().unwrap(),
            forwarded_host: self.forwarded,
            from_network: self.network,
        };
        admit(&self.mesh.directory, &host, &arrival)
    }

    fn show(&self) -> String {
        match self.decide() {
            Err(refusal) => format!("{} {refusal}", refusal.reason().words().status.unwrap()),
            Ok(admission) => {
                let dial_as = match admission.dial_as {
                    Source::Any => "itself".into(),
                    Source::Of(ip) => ip.to_string(),
                    Source::Loopback => "loopback".into(),
                };
                let header = admission.proxy_header.map_or(String::new(), |header| {
                    let hostname = header.hostname.map_or(String::new(), |hostname| format!(" {hostname}"));
                    format!(", PROXY {} to {}{hostname}", header.source, header.destination)
                });
                let judged =
                    if admission.judged == admission.dial { String::new() } else { format!(", judged {}", admission.judged) };
                let service = admission.service.map_or("-".into(), |service| format!("{}.{}", service.name, service.namespace));
                let source = admission.source.map_or("-".into(), |source| source.name.to_string());
                format!("{} as {dial_as}{judged}{header} | from {source} for {service}", admission.dial)
            }
        }
    }
}

fn case<'a>(mesh: &'a Fixture, me: &'a str, authority: &'a str) -> Case<'a> {
    Case { mesh, me, authority, from: "10.0.0.1:40000", forwarded: None, network: None, loopback: true }
}

#[track_caller]
fn check(text: &str, questions: &[(&str, &str, &str)]) {
    let mesh = fixture::parse(text).unwrap();
    for (me, authority, expected) in questions {
        assert_eq!(case(&mesh, me, authority).show(), *expected, "{authority} at {me}");
    }
}

const SHOP: &str = "
    node a: client 10.0.0.1 sa=shop/client
    node b: server 10.0.0.2 sa=shop/server
    node b: other  10.0.0.3 sa=shop/other
    service web.shop 10.96.0.1 80->8080,81->0,82->0 : server[81->8181]
    service rest.shop 10.96.0.2 90->9090 : other";

// Z-073 Z-074 Z-261
#[test]
fn a_pod_takes_what_is_addressed_to_itself() {
    check(
        SHOP,
        &[
            ("server", "10.0.0.2:8080", "10.0.0.2:8080 as 10.0.0.1 | from client for web.shop"),
            ("server", "10.0.0.2:1234", "10.0.0.2:1234 as 10.0.0.1 | from client for -"),
            // another pod, a service without a waypoint, a service's VIP, nobody
            ("server", "10.0.0.3:8080", "400 ip mismatch: 10.0.0.3 != 10.0.0.2"),
            ("server", "10.96.0.1:80", "400 ip mismatch: 10.96.0.1 != 10.0.0.2"),
            ("server", "10.96.0.2:90", "400 ip mismatch: 10.96.0.2 != 10.0.0.2"),
            ("server", "127.0.0.1:8080", "400 ip mismatch: 127.0.0.1 != 10.0.0.2"),
            ("server", "[::1]:8080", "400 ip mismatch: ::1 != 10.0.0.2"),
            ("server", "8.8.8.8:53", "400 ip mismatch: 8.8.8.8 != 10.0.0.2"),
        ],
    );
}

// Z-264
#[test]
fn a_tunnel_to_the_mesh_itself_is_a_loop() {
    check(
        SHOP,
        &[
            ("server", "10.0.0.2:15008", "503 attempted recursive call to ourselves: 10.0.0.2:15008"),
            ("server", "10.0.0.2:15001", "503 attempted recursive call to ourselves: 10.0.0.2:15001"),
            ("server", "10.0.0.2:15006", "503 attempted recursive call to ourselves: 10.0.0.2:15006"),
        ],
    );
    check(
        "node b: wp 10.0.0.9 sa=shop/wp tunnel=PROXY:15088
         node b: mad 10.0.0.8 tunnel=PROXY:15008
         service loop.shop 10.96.0.1 80->15001 : wp",
        &[
            ("wp", "10.96.0.1:15001", "503 attempted recursive call to ourselves: 10.0.0.9:15001"),
            ("wp", "loop.shop.svc.cluster.local:80", "503 attempted recursive call to ourselves: 10.0.0.9:15001"),
            // nor may a tunnel of the application end at one of our ports
            ("mad", "10.0.0.8:80", "503 attempted recursive call to ourselves: 10.0.0.8:15008"),
        ],
    );
}

// Z-074 Z-253 Z-254 Z-262 Z-263
#[test]
fn a_name_is_a_service_and_its_port_is_this_pods() {
    check(
        SHOP,
        &[
            ("server", "web.shop.svc.cluster.local:80", "10.0.0.2:8080 as 10.0.0.1 | from client for web.shop"),
            ("server", "web.shop.svc.cluster.local:81", "10.0.0.2:8181 as 10.0.0.1 | from client for web.shop"),
            (
                "server",
                "web.shop.svc.cluster.local:82",
                "503 requested service web.shop.svc.cluster.local:82 found, but cannot resolve port",
            ),
            (
                "server",
                "web.shop.svc.cluster.local:443",
                "503 requested service web.shop.svc.cluster.local:443 found, but cannot resolve port",
            ),
            ("server", "gone.shop.svc.cluster.local:80", "503 no service or workload for hostname gone.shop.svc.cluster.local"),
            // The pod need not be an endpoint: the port is the service's, and policy judges the pod.
            ("server", "rest.shop.svc.cluster.local:90", "10.0.0.2:9090 as 10.0.0.1 | from client for -"),
        ],
    );
}

#[test]
fn a_name_means_the_service_of_the_pods_own_namespace_first() {
    check(
        "node b: server 10.0.0.2 ns=shop
         node b: alien  10.0.0.3 ns=bank
         service web.a    - 80->1000 host=web.test
         service web.shop - 80->2000 host=web.test
         service web.z    - 80->3000 host=web.test canonical",
        &[
            ("server", "web.test:80", "10.0.0.2:2000 as 10.0.0.1 | from - for -"),
            ("alien", "web.test:80", "10.0.0.3:3000 as 10.0.0.1 | from - for -"),
        ],
    );
}

const WAYPOINTS: &str = "
    node a: client 10.0.0.1 sa=shop/client
    node b: server 10.0.0.2 sa=shop/server
    node b: named  10.0.0.3 sa=shop/named waypoint=10.0.0.9
    node b: vip    10.0.0.4 sa=shop/vip waypoint=10.96.0.9
    node b: host   10.0.0.5 sa=shop/host waypoint=shop/wp.test
    node b: free   10.0.0.6 sa=shop/free
    node b: wp     10.0.0.9 sa=shop/wp host=wp.test
    node b: wp2    10.0.0.10 sa=shop/wp2
    service wp.shop 10.96.0.9 15008 : wp
    service wp2.shop - 15008 : wp2
    service web.shop 10.96.0.1 80->8080 waypoint=wp.shop : server
    service two.shop 10.96.0.2 80->8080 waypoint=wp.shop waypoints=wp2.shop*1 : server
    service free.shop 10.96.0.3 80->8080 : free";

// Z-073 (waypoints), and weakness 37: one of several weighted waypoints is a waypoint as well.
#[test]
fn a_waypoint_takes_what_it_guards_and_nothing_else() {
    check(
        WAYPOINTS,
        &[
            ("wp", "10.96.0.1:80", "10.0.0.9:80 as 10.0.0.1 | from client for -"),
            ("wp", "10.0.0.3:80", "10.0.0.9:80 as 10.0.0.1 | from client for -"),
            ("wp", "10.0.0.4:80", "10.0.0.9:80 as 10.0.0.1 | from client for -"),
            ("wp", "10.0.0.5:80", "10.0.0.9:80 as 10.0.0.1 | from client for -"),
            ("wp", "10.96.0.2:80", "10.0.0.9:80 as 10.0.0.1 | from client for -"),
            ("wp2", "10.96.0.2:80", "10.0.0.10:80 as 10.0.0.1 | from client for -"),
            ("wp", "10.96.0.3:80", "400 ip mismatch: 10.96.0.3 != 10.0.0.9"),
            ("wp", "10.0.0.6:80", "400 ip mismatch: 10.0.0.6 != 10.0.0.9"),
            ("wp2", "10.96.0.1:80", "400 ip mismatch: 10.96.0.1 != 10.0.0.10"),
            ("wp2", "10.0.0.3:80", "400 ip mismatch: 10.0.0.3 != 10.0.0.10"),
            ("server", "10.96.0.1:80", "400 ip mismatch: 10.96.0.1 != 10.0.0.2"),
        ],
    );
}

const SANDWICH: &str = "
    node a: client 10.0.0.1 sa=shop/client
    node b: proxy  10.0.0.9 sa=shop/wp tunnel=PROXY:15088
    node b: loose  10.0.0.8 sa=shop/wp tunnel=PROXY
    node b: none   10.0.0.7 sa=shop/wp tunnel=NONE:8443
    node b: six    fd00::9 sa=shop/wp tunnel=PROXY:15088
    service web.shop fd96::1,10.96.0.1 80->8080
    service far.shop 10.97.0.1 80 network=far
    service head.shop - 80";

// Z-255 Z-256 Z-074 (application tunnel)
#[test]
fn an_application_tunnel_takes_everything_and_tells_the_application() {
    check(
        SANDWICH,
        &[
            // any address at all, over loopback, with the header
            (
                "proxy",
                "10.96.0.1:80",
                "127.0.0.1:15088 as loopback, judged 10.0.0.9:15088, PROXY 10.0.0.1:40000 to 10.96.0.1:80 | from client for -",
            ),
            (
                "proxy",
                "8.8.8.8:53",
                "127.0.0.1:15088 as loopback, judged 10.0.0.9:15088, PROXY 10.0.0.1:40000 to 8.8.8.8:53 | from client for -",
            ),
            (
                "six",
                "10.96.0.1:80",
                "[::1]:15088 as loopback, judged [fd00::9]:15088, PROXY 10.0.0.1:40000 to 10.96.0.1:80 | from client for -",
            ),
            // without a port of its own: the port that was asked for
            (
                "loose",
                "10.96.0.1:80",
                "127.0.0.1:80 as loopback, judged 10.0.0.8:80, PROXY 10.0.0.1:40000 to 10.96.0.1:80 | from client for -",
            ),
            // no PROXY: the pod's address, the client's own address kept
            ("none", "10.96.0.1:80", "10.0.0.7:8443 as 10.0.0.1 | from client for -"),
            // a name: an address of the service, IPv4 of the own network first
            (
                "proxy",
                "web.shop.svc.cluster.local:80",
                "127.0.0.1:15088 as loopback, judged 10.0.0.9:15088, \
                 PROXY 10.0.0.1:40000 to 10.96.0.1:80 web.shop.svc.cluster.local | from client for -",
            ),
            (
                "proxy",
                "far.shop.svc.cluster.local:80",
                "127.0.0.1:15088 as loopback, judged 10.0.0.9:15088, \
                 PROXY 10.0.0.1:40000 to 10.97.0.1:80 far.shop.svc.cluster.local | from client for -",
            ),
            (
                "proxy",
                "head.shop.svc.cluster.local:80",
                "503 requested service head.shop.svc.cluster.local found, but has no IP addresses",
            ),
            // where no header is written, none is missed
            ("none", "head.shop.svc.cluster.local:80", "10.0.0.7:8443 as 10.0.0.1 | from client for -"),
        ],
    );
    let mesh = fixture::parse(SANDWICH).unwrap();
    let answer = Case { loopback: false, ..case(&mesh, "proxy", "10.96.0.1:80") }.show();
    assert_eq!(answer, "10.0.0.9:15088 as 10.0.0.1, PROXY 10.0.0.1:40000 to 10.96.0.1:80 | from client for -");
    let header = case(&mesh, "proxy", "10.96.0.1:80").decide().unwrap().proxy_header.unwrap();
    assert_eq!(header.identity.as_deref(), Some("spiffe://cluster.local/ns/shop/sa/client"));
}

#[test]
fn the_client_address_is_kept_unless_it_is_the_pods_own() {
    let mesh = fixture::parse(SHOP).unwrap();
    let answer = Case { from: "10.0.0.2:40000", ..case(&mesh, "server", "10.0.0.2:8080") }.show();
    assert_eq!(answer, "10.0.0.2:8080 as itself | from server for web.shop");
}

// Z-097 (the receiving side)
#[test]
fn through_a_gateway_of_another_network_the_address_is_nobodys() {
    let mesh = fixture::parse(SHOP).unwrap();
    for (network, through_gateway) in [(None, false), (Some(""), false), (Some("far"), true)] {
        let admission = Case { network, ..case(&mesh, "server", "10.0.0.2:8080") }.decide().unwrap();
        assert_eq!((admission.through_gateway, admission.source.is_none()), (through_gateway, through_gateway), "{network:?}");
    }
    // Network names do not differ by case.
    let me = mesh.workload("server");
    let network: Arc<str> = "Prod".into();
    let host = Host { me: &me, network: &network, own_ports: &[], tunnel_over_loopback: true, only_port: None };
    let authority = "10.0.0.2:80".parse().unwrap();
    let arrival = Arrival {
        local: me.addresses[0],
        peer: "10.0.0.1:1".parse().unwrap(),
        identity: None,
        authority: &authority,
        forwarded_host: None,
        from_network: Some("PROD"),
    };
    assert!(!admit(&mesh.directory, &host, &arrival).unwrap().through_gateway);
}

// The peer may say which service it meant, among those that the pod really belongs to.
#[test]
fn a_service_for_telemetry_is_always_one_of_the_pods_own() {
    let mesh = fixture::parse(
        "node b: server 10.0.0.2 ns=shop
         service one.shop  10.96.0.1 80->8080 : server
         service two.shop  10.96.0.2 80->8080,90->9090 : server
         service twin.bank 10.96.0.4 80->8080 host=two.shop.svc.cluster.local : server
         service alien.shop 10.96.0.3 80->8080",
    )
    .unwrap();
    for (authority, forwarded, expected) in [
        ("10.0.0.2:8080", None, "twin.bank"), // the first that has the port
        ("10.0.0.2:9090", None, "two.shop"),
        ("10.0.0.2:9999", None, "-"),
        ("10.0.0.2:8080", Some("one.shop.svc.cluster.local"), "one.shop"),
        ("10.0.0.2:8080", Some("two.shop.svc.cluster.local"), "two.shop"), // the pod's own namespace first
        ("10.0.0.2:9999", Some("one.shop.svc.cluster.local"), "one.shop"),
        ("10.0.0.2:8080", Some("alien.shop.svc.cluster.local"), "twin.bank"),
        ("10.0.0.2:9090", Some("made.up"), "two.shop"),
        ("one.shop.svc.cluster.local:80", Some("two.shop.svc.cluster.local"), "one.shop"),
    ] {
        let answer = Case { forwarded, ..case(&mesh, "server", authority) }.show();
        assert!(answer.ends_with(&format!(" for {expected}")), "{authority} {forwarded:?}: {answer}");
    }
}

#[test]
fn plaintext_goes_where_it_was_meant_to() {
    let mesh = fixture::parse(SHOP).unwrap();
    let me = mesh.workload("server");
    let network: Arc<str> = "".into();
    let host =
        Host { me: &me, network: &network, own_ports: &[15008, 15006, 15001], tunnel_over_loopback: true, only_port: None };
    let decide = |peer: &str, to: &str| admit_plaintext(&mesh.directory, &host, peer.parse().unwrap(), to.parse().unwrap());
    let admission = decide("10.0.0.1:40000", "10.0.0.2:8080").unwrap();
    assert_eq!(admission.dial, "10.0.0.2:8080".parse().unwrap());
    assert_eq!(admission.judged, admission.dial);
    assert_eq!(admission.dial_as, Source::Of("10.0.0.1".parse().unwrap()));
    assert_eq!(admission.source, Some(mesh.workload("client")));
    assert_eq!(admission.service, Some(mesh.service("web.shop")));
    assert_eq!(decide("192.0.2.1:1", "10.0.0.2:8080").unwrap().source, None);
    for port in [15001, 15006, 15008] {
        let to = format!("10.0.0.2:{port}");
        assert_eq!(decide("10.0.0.1:40000", &to), Err(Refusal::SelfCall { to: to.parse().unwrap() }));
    }
}

// Z-267: the daemon's own listener serves one port, and no other address either.
#[test]
fn where_one_port_is_served_no_other_is() {
    let mesh = fixture::parse("node a: zt 10.0.0.1 sa=mesh/zt").unwrap();
    let me = mesh.workload("zt");
    let network: Arc<str> = "".into();
    let host = Host { me: &me, network: &network, own_ports: &[15008], tunnel_over_loopback: true, only_port: Some(15020) };
    for (authority, answer) in [
        ("10.0.0.1:15020", "10.0.0.1:15020"),
        ("10.0.0.1:15021", "only the daemon's metrics are served here, not 10.0.0.1:15021"),
        ("10.0.0.1:15000", "only the daemon's metrics are served here, not 10.0.0.1:15000"),
        ("10.0.0.1:15008", "attempted recursive call to ourselves: 10.0.0.1:15008"),
        ("10.0.0.2:15020", "ip mismatch: 10.0.0.2 != 10.0.0.1"),
    ] {
        let arrival = Arrival {
            local: me.addresses[0],
            peer: "10.0.0.9:40000".parse().unwrap(),
            identity: None,
            authority: &authority.parse().unwrap(),
            forwarded_host: None,
            from_network: None,
        };
        let said = admit(&mesh.directory, &host, &arrival)
            .map_or_else(|refusal| refusal.to_string(), |admission| admission.dial.to_string());
        assert_eq!(said, answer, "{authority}");
    }
}
