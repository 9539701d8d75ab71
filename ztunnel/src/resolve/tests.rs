use std::collections::BTreeMap;

use mesh_model::change::Change;
use mesh_model::fixture::{self, Fixture};

use super::*;

const OWN_PORTS: [u16; 4] = [15008, 15006, 15001, 15080];

fn ask(mesh: &Fixture, source: &str, to: &str, known: &Known, seed: u64) -> Result<Resolution, Refusal> {
    let source = mesh.workload(source);
    let network: Arc<str> = "".into();
    let ask = Ask { source: &source, to: to.parse().unwrap(), network: &network, own_ports: &OWN_PORTS, complete: true };
    resolve(&mesh.directory, &ask, known, seed)
}

/// One line per decision: how, where, for what, whom we expect; then why, the service and the workload of the far end.
fn show(resolution: Result<Resolution, Refusal>) -> String {
    match resolution {
        Err(refusal) => format!("refused: {refusal}"),
        Ok(Resolution::Need(need)) => format!("need {need:?}"),
        Ok(Resolution::Hop(hop)) => {
            let via = match &hop.via {
                Via::Plain(address) => format!("plain {address}"),
                Via::Tunnel(Passage { address, authority, expect }) => {
                    let expect: Vec<String> = expect.iter().map(SpiffeId::to_string).collect();
                    let expect = expect.join(" ").replace("spiffe://cluster.local/ns/", "").replace("/sa/", "/");
                    format!("tunnel {address} for {authority} expecting {expect}")
                }
            };
            let service = hop.service.map_or("-".into(), |service| format!("{}.{}", service.name, service.namespace));
            let workload = hop.destination.map_or("-".into(), |workload| workload.name.to_string());
            format!("{via} | {:?} {service} {workload}", hop.path)
        }
    }
}

#[track_caller]
fn check(text: &str, questions: &[(&str, &str, &str)]) {
    let mesh = fixture::parse(text).unwrap();
    for (source, to, expected) in questions {
        assert_eq!(show(ask(&mesh, source, to, &Known::default(), 1)), *expected, "{source} -> {to}");
    }
}

const SHOP: &str = "
    node a: client  10.0.0.1 sa=shop/client
    node a: near    10.0.0.2 sa=shop/server
    node b: far     10.0.0.3 sa=shop/server
    node a: old     10.0.0.4 sa=shop/old tcp
    node b: older   10.0.0.5 sa=shop/old tcp
    node b: agent   10.0.0.6 sa=sys/agent tcp host-network
    service web.shop 10.96.0.1 80->8080,81->0 : far
    service old.shop 10.96.0.2 80->8080 : older
    service agent.sys 10.96.0.3 80->9100 : agent
    service empty.shop 10.96.0.4 80
    service ill.shop 10.96.0.5 80 : ill
    node b: ill 10.0.0.7 sa=shop/ill unhealthy
    service free.shop 10.96.0.6 80 lb=passthrough : far";

// Z-077 Z-081 Z-082 Z-083 Z-084 Z-089 Z-090 Z-091 Z-094
#[test]
fn pods_services_and_the_rest_of_the_world() {
    check(
        SHOP,
        &[
            // nobody in the mesh
            ("client", "8.8.8.8:53", "plain 8.8.8.8:53 | Unknown - -"),
            ("client", "[2001:db8::1]:443", "plain [2001:db8::1]:443 | Unknown - -"),
            // pods by address, of this node and of another: the same
            ("client", "10.0.0.2:8080", "tunnel 10.0.0.2:15008 for 10.0.0.2:8080 expecting shop/server | Direct - near"),
            ("client", "10.0.0.3:8080", "tunnel 10.0.0.3:15008 for 10.0.0.3:8080 expecting shop/server | Direct - far"),
            ("client", "10.0.0.4:8080", "plain 10.0.0.4:8080 | Direct - old"),
            ("client", "10.0.0.5:8080", "plain 10.0.0.5:8080 | Direct - older"),
            // services
            ("client", "10.96.0.1:80", "tunnel 10.0.0.3:15008 for 10.0.0.3:8080 expecting shop/server | Direct web.shop far"),
            ("client", "10.96.0.2:80", "plain 10.0.0.5:8080 | Direct old.shop older"),
            ("client", "10.96.0.1:443", "refused: no healthy upstream: 10.96.0.1:443"),
            ("client", "10.96.0.1:81", "refused: no healthy upstream: 10.96.0.1:81"),
            ("client", "10.96.0.4:80", "refused: no healthy upstream: 10.96.0.4:80"),
            ("client", "10.96.0.5:80", "refused: no healthy upstream: 10.96.0.5:80"),
            // the node's own address is not a workload's, and still an endpoint
            ("client", "10.0.0.6:9100", "plain 10.0.0.6:9100 | Unknown - -"),
            ("client", "10.96.0.3:80", "plain 10.0.0.6:9100 | Direct agent.sys agent"),
            // a service that wants to be left alone
            ("client", "10.96.0.6:80", "plain 10.96.0.6:80 | Passthrough free.shop -"),
            // a service's endpoint that is the caller itself: through its own door, like any other
            ("far", "10.96.0.1:80", "tunnel 10.0.0.3:15008 for 10.0.0.3:8080 expecting shop/server | Direct web.shop far"),
        ],
    );
}

// Z-090
#[test]
fn a_target_port_is_a_number_or_the_endpoints_own() {
    check(
        "node a: client 10.0.0.1
         node a: server 10.0.0.2
         service web.default 10.96.0.1 80->8080,90->0,91->0 : server[90->9090]",
        &[
            (
                "client",
                "10.96.0.1:80",
                "tunnel 10.0.0.2:15008 for 10.0.0.2:8080 expecting default/default | Direct web.default server",
            ),
            (
                "client",
                "10.96.0.1:90",
                "tunnel 10.0.0.2:15008 for 10.0.0.2:9090 expecting default/default | Direct web.default server",
            ),
            ("client", "10.96.0.1:91", "refused: no healthy upstream: 10.96.0.1:91"),
        ],
    );
}

// T-03, Z-264 (the part that the caller's side decides)
#[test]
fn our_own_ports_within_the_pod_are_a_loop() {
    check(
        SHOP,
        &[
            ("client", "127.0.0.1:15001", "refused: attempted recursive call to ourselves: 127.0.0.1:15001"),
            ("client", "[::1]:15006", "refused: attempted recursive call to ourselves: [::1]:15006"),
            ("client", "127.9.9.9:15008", "refused: attempted recursive call to ourselves: 127.9.9.9:15008"),
            ("client", "10.0.0.1:15001", "refused: attempted recursive call to ourselves: 10.0.0.1:15001"),
            ("client", "127.0.0.1:15080", "refused: attempted recursive call to ourselves: 127.0.0.1:15080"),
            ("client", "127.0.0.1:15021", "plain 127.0.0.1:15021 | Unknown - -"),
            // another pod's: its side refuses
            ("client", "10.0.0.2:15001", "tunnel 10.0.0.2:15008 for 10.0.0.2:15001 expecting shop/server | Direct - near"),
        ],
    );
}

const WAYPOINTS: &str = "
    node a: client   10.0.0.1 sa=shop/client
    node b: server   10.0.0.2 sa=shop/server
    node b: plain    10.0.0.3 sa=shop/plain tcp
    waypoint wp.shop 10.0.0.9 for service web.shop workload server workload plain service empty.shop service free.shop
    service web.shop 10.96.0.1 80->8080 : server
    service bare.shop 10.96.0.2 80->8080 : server
    service empty.shop 10.96.0.3 80
    service free.shop 10.96.0.4 80 lb=passthrough";

// Z-086 Z-088 Z-095 Z-249 Z-252
#[test]
fn a_waypoint_stands_before_what_it_guards() {
    check(
        WAYPOINTS,
        &[
            // of a service: the waypoint is asked for the VIP itself
            ("client", "10.96.0.1:80", "tunnel 10.0.0.9:15008 for 10.96.0.1:80 expecting shop/wp | ServiceWaypoint web.shop wp"),
            // even for a port that the service does not have, and without any endpoint: the waypoint answers
            ("client", "10.96.0.1:81", "tunnel 10.0.0.9:15008 for 10.96.0.1:81 expecting shop/wp | ServiceWaypoint web.shop wp"),
            (
                "client",
                "10.96.0.3:80",
                "tunnel 10.0.0.9:15008 for 10.96.0.3:80 expecting shop/wp | ServiceWaypoint empty.shop wp",
            ),
            ("client", "10.96.0.4:80", "tunnel 10.0.0.9:15008 for 10.96.0.4:80 expecting shop/wp | ServiceWaypoint free.shop wp"),
            // of a workload: asked for the pod's address
            ("client", "10.0.0.2:8080", "tunnel 10.0.0.9:15008 for 10.0.0.2:8080 expecting shop/wp | WorkloadWaypoint - wp"),
            ("client", "10.0.0.3:8080", "tunnel 10.0.0.9:15008 for 10.0.0.3:8080 expecting shop/wp | WorkloadWaypoint - wp"),
            // by a service without one, a workload's waypoint is not asked
            ("client", "10.96.0.2:80", "tunnel 10.0.0.2:15008 for 10.0.0.2:8080 expecting shop/server | Direct bare.shop server"),
            // the waypoint itself, like any pod
            ("client", "10.0.0.9:8080", "tunnel 10.0.0.9:15008 for 10.0.0.9:8080 expecting shop/wp | Direct - wp"),
        ],
    );
}

// Z-085, and the way of a sandwiched waypoint's own traffic.
#[test]
fn a_waypoint_is_not_sent_to_itself() {
    check(
        WAYPOINTS,
        &[
            ("wp", "10.0.0.2:8080", "tunnel 10.0.0.2:15008 for 10.0.0.2:8080 expecting shop/server | Direct - server"),
            ("wp", "10.0.0.3:8080", "plain 10.0.0.3:8080 | Direct - plain"),
            ("wp", "10.96.0.1:80", "tunnel 10.0.0.2:15008 for 10.0.0.2:8080 expecting shop/server | Direct web.shop server"),
        ],
    );
    // A caller's own waypoint is for those who call it, not for where it calls.
    check(
        "node a: client 10.0.0.1 sa=shop/client
         node b: server 10.0.0.2 sa=shop/server
         waypoint wp.shop 10.0.0.9 for workload client",
        &[("client", "10.0.0.2:80", "tunnel 10.0.0.2:15008 for 10.0.0.2:80 expecting shop/server | Direct - server")],
    );
    // The identity alone does not make a waypoint, nor the address alone.
    check(
        "node a: impostor 10.0.0.1 sa=shop/wp
         node b: server   10.0.0.2 sa=shop/server waypoint=10.0.0.9
         node b: other    10.0.0.9 sa=shop/other
         node b: wp       10.0.0.8 sa=shop/wp",
        &[("impostor", "10.0.0.2:80", "tunnel 10.0.0.9:15008 for 10.0.0.2:80 expecting shop/other | WorkloadWaypoint - other")],
    );
}

#[test]
fn a_waypoint_may_be_named_by_service_by_hostname_or_by_address() {
    let mesh = |waypoint: &str| {
        format!(
            "node a: client 10.0.0.1 sa=shop/client
             node b: server 10.0.0.2 sa=shop/server waypoint={waypoint}
             node b: wp1    10.0.0.9,fd00::9 sa=shop/wp host=wp.test
             service wp.shop 10.96.0.9 15008->15009 sans=spiffe://cluster.local/ns/shop/sa/alias : wp1"
        )
    };
    for (waypoint, expected) in [
        ("wp.shop", "tunnel 10.0.0.9:15009 for 10.0.0.2:80 expecting shop/alias shop/wp | WorkloadWaypoint - wp1"),
        ("10.96.0.9", "tunnel 10.0.0.9:15009 for 10.0.0.2:80 expecting shop/alias shop/wp | WorkloadWaypoint - wp1"),
        ("10.0.0.9:15010", "tunnel 10.0.0.9:15010 for 10.0.0.2:80 expecting shop/wp | WorkloadWaypoint - wp1"),
        ("[fd00::9]:15010", "tunnel [fd00::9]:15010 for 10.0.0.2:80 expecting shop/wp | WorkloadWaypoint - wp1"),
        ("shop/wp.test:15010", "tunnel 10.0.0.9:15010 for 10.0.0.2:80 expecting shop/wp | WorkloadWaypoint - wp1"),
        // Port 0 stays 0: the control plane must say the port.
        ("10.0.0.9:0", "tunnel 10.0.0.9:0 for 10.0.0.2:80 expecting shop/wp | WorkloadWaypoint - wp1"),
        // the service does not have that port
        ("wp.shop:80", "refused: unknown waypoint: shop/wp.shop.svc.cluster.local:80"),
        // a hostname belongs to its namespace
        ("other/wp.test:15010", "refused: unknown waypoint: other/wp.test:15010"),
    ] {
        check(&mesh(waypoint), &[("client", "10.0.0.2:80", expected)]);
    }
}

// Z-087, and decision 5: what cannot be asked for policy is not passed by.
#[test]
fn a_waypoint_that_cannot_be_found_refuses() {
    check(
        "node a: client 10.0.0.1 sa=shop/client
         node b: server 10.0.0.2 sa=shop/server waypoint=10.0.0.77
         node b: lost   10.0.0.3 sa=shop/server waypoint=gone.shop
         node b: wp     10.0.0.9 sa=shop/wp unhealthy
         service wp.shop - 15008 : wp
         service free.shop 10.96.0.8 15008 lb=passthrough : server
         service web.shop 10.96.0.1 80 waypoint=wp.shop : lost
         service odd.shop 10.96.0.2 80 waypoint=10.96.0.8 : server",
        &[
            ("client", "10.0.0.2:80", "refused: unknown waypoint: /10.0.0.77:15008"),
            ("client", "10.0.0.3:80", "refused: unknown waypoint: shop/gone.shop.svc.cluster.local:15008"),
            ("client", "10.96.0.1:80", "refused: unknown waypoint: shop/wp.shop.svc.cluster.local:15008"),
            ("client", "10.96.0.2:80", "refused: unknown waypoint: /10.96.0.8:15008"),
        ],
    );
}

// Z-255 Z-256 (the caller's side): a waypoint behind an application tunnel need not list the port.
#[test]
fn a_sandwiched_waypoint_takes_any_port() {
    check(
        "node a: client 10.0.0.1 sa=shop/client
         node b: server 10.0.0.2 sa=shop/server
         node b: wp     10.0.0.9 sa=shop/wp tunnel=PROXY:15088
         service wp.shop - 80 : wp
         service web.shop 10.96.0.1 80->8080 waypoint=wp.shop : server",
        &[("client", "10.96.0.1:80", "tunnel 10.0.0.9:15008 for 10.96.0.1:80 expecting shop/wp | ServiceWaypoint web.shop wp")],
    );
}

// Z-127, checklist 22
#[test]
fn weighted_waypoints_share_connections_and_the_chosen_one_is_not_replaced() {
    let text = |weights: &str| {
        format!(
            "node a: client 10.0.0.1 sa=shop/client
             waypoint stable.shop 10.0.0.8
             waypoint canary.shop 10.0.0.9
             service web.shop 10.96.0.1 80 waypoint=stable.shop waypoints={weights}"
        )
    };
    let count = |weights: &str| {
        let mesh = fixture::parse(&text(weights)).unwrap();
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for seed in 0..1_000 {
            let answer = show(ask(&mesh, "client", "10.96.0.1:80", &Known::default(), seed));
            *counts.entry(answer.rsplit(' ').next().unwrap().to_owned()).or_default() += 1;
        }
        counts
    };
    let counts = count("stable.shop*3,canary.shop*1");
    assert!(counts["canary"].abs_diff(250) < 50, "{counts:?}");
    assert_eq!(counts["canary"] + counts["stable"], 1_000);
    assert_eq!(count("canary.shop*0"), BTreeMap::from([("stable".into(), 1_000)]));
    let counts = count("gone.shop*1,canary.shop*1");
    let refused = counts["shop/gone.shop.svc.cluster.local:15008"];
    assert!(refused.abs_diff(500) < 80 && counts["canary"] + refused == 1_000, "{counts:?}");
}

// Z-079 (decided, not carried), Z-078
#[test]
fn another_network_is_refused_with_what_stands_in_the_way() {
    check(
        "node a: client 10.0.0.1 sa=shop/client
         node x: remote 10.0.0.2 sa=shop/server network=far gateway=gw.istio-system
         node x: split  -        sa=shop/server network=far gateway=gw.istio-system uid=far/split
         node x: lost   -        sa=shop/server network=far gateway=gone.istio-system uid=far/lost
         node x: bare   10.0.0.5 sa=shop/server network=far
         node g: gw1    10.0.0.9 sa=istio-system/gw
         service gw.istio-system - 15008 : gw1
         service one.shop 10.96.0.1 80 : remote
         service two.shop 10.96.0.2 80 : split
         service three.shop 10.96.0.3 80 : lost
         service four.shop 10.96.0.4 80 : bare
         service none.shop 10.96.0.5 80
         node x: wp1 - sa=shop/wp network=far gateway=gw.istio-system uid=far/wp
         service wp.shop - 15008 : wp1
         service five.shop 10.96.0.6 80 waypoint=wp.shop
         node b: near 10.0.0.6 sa=shop/near
         service shadow.shop 10.0.0.6 80 : remote",
        &[
            // a workload was addressed, and the service that shares its address has only remote endpoints
            ("client", "10.0.0.6:80", "refused: no service for target address: 10.0.0.6:80"),
            ("client", "10.96.0.1:80", "refused: the destination is in another network: \"far\""),
            ("client", "10.96.0.2:80", "refused: the destination is in another network: \"far\""),
            (
                "client",
                "10.96.0.3:80",
                "refused: unknown network gateway: istio-system/gone.istio-system.svc.cluster.local:15008",
            ),
            ("client", "10.96.0.4:80", "refused: no valid routing destination for workload: Kubernetes//Pod/shop/bare"),
            ("client", "10.96.0.6:80", "refused: the destination is in another network: \"far\""),
            // An address of another network means nothing here.
            ("client", "10.0.0.2:80", "plain 10.0.0.2:80 | Unknown - -"),
        ],
    );
}

// Z-080
#[test]
fn a_local_endpoint_is_preferred_and_a_remote_one_taken_when_there_is_no_other() {
    let mesh = |local: &str| {
        format!(
            "node a: client 10.0.0.1 sa=shop/client
             node a: local  10.0.0.2 sa=shop/server {local}
             node x: remote -        sa=shop/server network=far gateway=gw.istio-system uid=far/r
             node g: gw1    10.0.0.9 sa=istio-system/gw
             service gw.istio-system - 15008 : gw1
             service web.shop 10.96.0.1 80 lb=failover:network : local remote"
        )
    };
    check(
        &mesh(""),
        &[("client", "10.96.0.1:80", "tunnel 10.0.0.2:15008 for 10.0.0.2:80 expecting shop/server | Direct web.shop local")],
    );
    check(&mesh("unhealthy"), &[("client", "10.96.0.1:80", "refused: the destination is in another network: \"far\"")]);
}

// A daemon in one network that serves a pod of another (multi-homed): the pod's own network decides who is meant.
#[test]
fn the_network_of_the_source_decides_whom_an_address_means() {
    let mesh = fixture::parse(
        "node a: client 10.0.0.1 sa=shop/client network=far
         node b: near   10.0.0.2 sa=shop/near
         node b: far    10.0.0.2 sa=shop/far network=far",
    )
    .unwrap();
    let answer = show(ask(&mesh, "client", "10.0.0.2:80", &Known::default(), 1));
    assert_eq!(answer, "tunnel 10.0.0.2:15008 for 10.0.0.2:80 expecting shop/far | Direct - far");
}

// Z-092 Z-093
#[test]
fn of_several_addresses_the_one_asked_for_or_one_of_its_family() {
    check(
        "node a: client 10.0.0.1
         node b: dual   10.0.0.2,fd00::2
         node b: four   10.0.0.3
         service web.default 10.96.0.1,fd96::1 80 : dual
         service six.default 10.96.0.2 80 families=v6 : dual
         service none.default fd96::3 80 families=v6 : four",
        &[
            ("client", "[fd00::2]:80", "tunnel [fd00::2]:15008 for [fd00::2]:80 expecting default/default | Direct - dual"),
            (
                "client",
                "10.96.0.1:80",
                "tunnel 10.0.0.2:15008 for 10.0.0.2:80 expecting default/default | Direct web.default dual",
            ),
            (
                "client",
                "[fd96::1]:80",
                "tunnel [fd00::2]:15008 for [fd00::2]:80 expecting default/default | Direct web.default dual",
            ),
            (
                "client",
                "10.96.0.2:80",
                "tunnel [fd00::2]:15008 for [fd00::2]:80 expecting default/default | Direct six.default dual",
            ),
            ("client", "[fd96::3]:80", "refused: no valid routing destination for workload: Kubernetes//Pod/default/four"),
        ],
    );
}

#[test]
fn the_names_of_the_service_are_expected_too_and_nonsense_among_them_is_not() {
    check(
        "node a: client 10.0.0.1
         node b: server 10.0.0.2
         service web.default 10.96.0.1 80 sans=spiffe://td/ns/x/sa/y,nonsense,spiffe://td/ns/x : server",
        &[(
            "client",
            "10.96.0.1:80",
            "tunnel 10.0.0.2:15008 for 10.0.0.2:80 expecting spiffe://td/ns/x/y default/default | Direct web.default server",
        )],
    );
}

#[test]
fn a_private_service_is_the_rest_of_the_world_to_others() {
    check(
        "node a: inside  10.0.0.1 ns=shop
         node a: outside 10.0.0.2 ns=bank
         node b: server  10.0.0.3 ns=shop
         service web.shop 10.96.0.1 80 visibility=namespace : server",
        &[
            ("inside", "10.96.0.1:80", "tunnel 10.0.0.3:15008 for 10.0.0.3:80 expecting shop/default | Direct web.shop server"),
            ("outside", "10.96.0.1:80", "plain 10.96.0.1:80 | Unknown - -"),
        ],
    );
}

// An address that is a workload's and an empty service's: the workload was meant, and it is in the mesh.
#[test]
fn an_empty_service_does_not_uncover_a_workload_at_its_address() {
    check(
        "node a: client 10.0.0.1
         node b: server 10.0.0.2
         service shadow.default 10.0.0.2 80",
        &[("client", "10.0.0.2:80", "tunnel 10.0.0.2:15008 for 10.0.0.2:80 expecting default/default | Direct - server")],
    );
}

// Z-257
#[test]
fn a_service_spreads_over_all_its_endpoints_and_a_seed_repeats_its_choice() {
    let mesh = fixture::parse(
        "node a: client 10.0.0.1
         node a: one 10.0.0.2
         node b: two 10.0.0.3
         node b: old 10.0.0.4 tcp
         service web.default 10.96.0.1 80 : one two old",
    )
    .unwrap();
    let answer = |seed| show(ask(&mesh, "client", "10.96.0.1:80", &Known::default(), seed));
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for seed in 0..3_000 {
        *counts.entry(answer(seed)).or_default() += 1;
        assert_eq!(answer(seed), answer(seed));
    }
    assert_eq!(counts.len(), 3);
    assert!(counts.values().all(|count| count.abs_diff(1_000) < 150), "{counts:?}");
}

// Z-233 Z-236 (the decision)
#[test]
fn an_endpoint_known_by_hostname_is_asked_of_dns() {
    let mesh = fixture::parse(
        "node a: client 10.0.0.1
         node -: db - tcp host=db.test
         service db.default 240.240.0.1,2001:2::1 5432 : db
         service six.default 240.240.0.2 5432 families=v6 : db",
    )
    .unwrap();
    let with = |ips: &[&str]| Known {
        names: [("db.test".into(), ips.iter().map(|ip| ip.parse().unwrap()).collect())].into(),
        ..Known::default()
    };
    let nothing = Known::default();
    let to = "240.240.0.1:5432";
    assert_eq!(show(ask(&mesh, "client", to, &nothing, 1)), "need Dns(\"db.test\")");
    let both = with(&["192.0.2.7", "2001:db8::7"]);
    for (to, known, expected) in [
        (to, &both, "plain 192.0.2.7:5432 | Direct db.default db"),
        ("[2001:2::1]:5432", &both, "plain [2001:db8::7]:5432 | Direct db.default db"),
        (to, &with(&["2001:db8::7"]), "plain [2001:db8::7]:5432 | Direct db.default db"),
        (to, &with(&[]), "refused: no ip addresses were resolved for db.test"),
        ("240.240.0.2:5432", &both, "plain [2001:db8::7]:5432 | Direct six.default db"),
        ("240.240.0.2:5432", &with(&["192.0.2.7"]), "refused: no ip addresses were resolved for db.test"),
    ] {
        assert_eq!(show(ask(&mesh, "client", to, known, 1)), expected);
    }
    let many: Vec<String> = (0..50).map(|last| format!("192.0.2.{last}")).collect();
    let many = with(&many.iter().map(String::as_str).collect::<Vec<_>>());
    let answers: BTreeSet<String> = (0..50).map(|seed| show(ask(&mesh, "client", to, &many, seed))).collect();
    assert!(answers.len() > 10, "one of the addresses by chance");
}

/// Plays the page: fetches what is needed from `world` into an empty directory, and counts the rounds.
fn on_demand(world: &Fixture, source: &str, to: &str) -> (String, usize) {
    let source = world.workload(source);
    let mut directory = Directory::new();
    directory.apply(Change::Workload(source.clone()));
    let network: Arc<str> = "".into();
    let ask = Ask { source: &source, to: to.parse().unwrap(), network: &network, own_ports: &OWN_PORTS, complete: false };
    let mut known = Known::default();
    for round in 1..=4 {
        let answer = resolve(&directory, &ask, &known, 7);
        let Ok(Resolution::Need(need)) = answer else { return (show(answer), round) };
        match &need {
            Need::Dns(_) => panic!("nothing here is asked of DNS"),
            Need::Address(address) => match world.directory.at(address, None) {
                Some(Addressed::Workload(workload)) => _ = directory.apply(Change::Workload(workload.clone())),
                Some(Addressed::Service(service)) => learn(&mut directory, world, service),
                None => {}
            },
            Need::Hostname(name) => {
                if let Some(service) = world.directory.service(name) {
                    learn(&mut directory, world, service);
                }
            }
        }
        known.asked.insert(need);
    }
    panic!("four rounds and no answer");
}

/// The control plane sends a service together with its endpoints.
fn learn(directory: &mut Directory, world: &Fixture, service: &Arc<Service>) {
    directory.apply(Change::Service(service.clone()));
    for workload in world.directory.members(&service.key()) {
        directory.apply(Change::Workload(workload.clone()));
    }
}

#[test]
fn on_demand_the_answer_is_the_same_after_a_few_rounds() {
    let world = fixture::parse(WAYPOINTS).unwrap();
    for (to, rounds) in [("8.8.8.8:53", 2), ("10.96.0.2:80", 2), ("10.96.0.1:80", 3), ("10.0.0.2:80", 3), ("10.96.0.4:80", 3)] {
        let complete = show(ask(&world, "client", to, &Known::default(), 7));
        assert_eq!(on_demand(&world, "client", to), (complete, rounds), "{to}");
    }
}

// Whatever is asked of whatever mesh: an answer, never a panic; plain text only for those who are not in the mesh.
#[test]
fn nothing_in_the_mesh_is_sent_in_the_clear() {
    use rand::Rng;
    for seed in 0..2_000 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut text = String::from("node a: client 10.0.0.1 sa=shop/client\n");
        for last in 2..8 {
            let facts = ["", "unhealthy", "waypoint=wp.shop", "waypoint=gone.shop", "capacity=0", "network=far", "host=x.test"];
            let (one, two) = (facts[rng.random_range(0..facts.len())], facts[rng.random_range(0..facts.len())]);
            text += &format!("node b: w{last} 10.0.0.{last} sa=shop/w{last} {one} {two}\n");
        }
        let modes = [
            "",
            "lb=strict:node",
            "lb=failover:network,zone",
            "health=all",
            "waypoint=wp.shop",
            "waypoints=wp.shop*1,gone.shop*1",
        ];
        for last in 2..6 {
            let mode = modes[rng.random_range(0..modes.len())];
            let (a, b) = (rng.random_range(2..8), rng.random_range(2..8));
            text += &format!("service s{last}.shop 10.96.0.{last},10.0.0.{last} 80 {mode} : w{a} w{b}\n");
        }
        text += "waypoint wp.shop 10.0.0.9\n";
        let mesh = fixture::parse(&text).unwrap();
        for last in 2..10 {
            for to in [format!("10.0.0.{last}:80"), format!("10.96.0.{last}:80")] {
                let address = NetworkAddress::new("", to.parse::<SocketAddr>().unwrap().ip());
                let answer = ask(&mesh, "client", &to, &Known::default(), seed);
                if let Ok(Resolution::Hop(Hop { via: Via::Plain(_), .. })) = answer {
                    assert_eq!(mesh.directory.at(&address, Some("shop")), None, "seed {seed}: {to} in the clear\n{text}");
                }
            }
        }
    }
}
