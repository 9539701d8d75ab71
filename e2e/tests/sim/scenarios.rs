//! Small fixed scenarios over the simulated network: who is captured where, services, policy, drain.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh_model::address::NetworkAddress;
use mesh_model::change::Change;
use mesh_model::service::Service;
use mesh_policy::{Action, Group, Policy, Scope};
use mesh_sim::cable::State;
use mesh_xds::world::Edit;
use tokio::time::Instant;

use crate::sim::app::{Call, call};
use crate::sim::mesh::{NAMESPACE, PORT, Sabotage, Sim, at, is_inbound, workload};

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

/// Lets what was pushed arrive.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// Two pods, each on a node and enrolled or not.
async fn two(client: (&str, bool), server: (&str, bool)) -> Sim {
    between(Sim::new(1, Sabotage::Nothing), client, server).await
}

async fn between(mut sim: Sim, client: (&str, bool), server: (&str, bool)) -> Sim {
    sim.add_node("a");
    sim.add_node("b");
    sim.add_pod(client.0, ip(1), "front", client.1).await;
    sim.add_pod(server.0, ip(2), "cart", server.1).await;
    settle().await;
    sim
}

async fn ask(sim: &Sim, to: SocketAddr) -> Call {
    call(sim.fabric.application(ip(1)), to, 1, 3, Duration::from_millis(1), |_| {}).await
}

fn answered_by(call: &Call) -> &str {
    match call {
        Call::Answered { by, .. } => by,
        other => panic!("not answered: {other:?}"),
    }
}

/// Which accounts there are after a call, as direction and outcome.
fn accounts(sim: &Sim) -> Vec<(&'static str, u64, u64)> {
    let closed = sim.closed.lock();
    let mut accounts: Vec<_> =
        closed.iter().map(|ended| (if is_inbound(ended) { "in" } else { "out" }, ended.forward, ended.backward)).collect();
    accounts.sort_unstable();
    accounts
}

/// Three blocks there; a greeting and three blocks back.
const MOVED: (u64, u64) = (3 * 64, 4 * 64);

// Z-230 Z-234 Z-242 Z-245: captured on both sides, on one node and across nodes; exact byte counts Z-241.
#[tokio::test(start_paused = true)]
async fn between_enrolled_pods() {
    for server_node in ["a", "b"] {
        let sim = two(("a", true), (server_node, true)).await;
        assert_eq!(answered_by(&ask(&sim, at(ip(2))).await), "cart-2");
        settle().await;
        assert_eq!(accounts(&sim), [("in", MOVED.0, MOVED.1), ("out", MOVED.0, MOVED.1)]);
        assert_eq!(sim.markers.load(std::sync::atomic::Ordering::Relaxed), 0);
    }
}

// Z-231 Z-235 Z-243: a server outside the mesh is reached in the clear, by a captured client.
#[tokio::test(start_paused = true)]
async fn a_server_outside_the_mesh() {
    let sim = two(("a", true), ("b", false)).await;
    assert_eq!(answered_by(&ask(&sim, at(ip(2))).await), "cart-2");
    settle().await;
    assert_eq!(accounts(&sim), [("out", MOVED.0, MOVED.1)]);
}

// Z-244: a client outside the mesh reaches a captured server, without an identity.
#[tokio::test(start_paused = true)]
async fn a_client_outside_the_mesh() {
    let sim = two(("a", false), ("b", true)).await;
    assert_eq!(answered_by(&ask(&sim, at(ip(2))).await), "cart-2");
    settle().await;
    assert_eq!(accounts(&sim), [("in", MOVED.0, MOVED.1)]);
}

/// A service of these pods at 10.96.0.1:80.
fn serve_by(sim: &mut Sim, pods: &[IpAddr]) -> SocketAddr {
    let mut service = Service::named(NAMESPACE, "web.shop.svc.cluster.local");
    let vip = IpAddr::from(Ipv4Addr::new(10, 96, 0, 1));
    service.vips = vec![NetworkAddress::new("", vip)];
    service.ports.insert(80, PORT);
    let key = service.key();
    sim.push(Edit::Address(Change::Service(Arc::new(service))));
    for pod in pods {
        let mut member = workload(&sim.places[pod].clone());
        member.services.insert(key.clone(), [(80, PORT)].into());
        sim.push(Edit::Address(Change::Workload(Arc::new(member))));
    }
    SocketAddr::new(vip, 80)
}

// Z-232 Z-236 Z-257: a service is reached at its address, and its endpoints share the calls.
#[tokio::test(start_paused = true)]
async fn a_service_and_its_endpoints() {
    let mut sim = two(("a", true), ("b", true)).await;
    sim.add_pod("a", ip(3), "cart", true).await;
    let vip = serve_by(&mut sim, &[ip(2), ip(3)]);
    settle().await;
    let mut by = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..60 {
        *by.entry(answered_by(&ask(&sim, vip).await).to_owned()).or_default() += 1;
    }
    assert!(by.len() == 2 && by.values().all(|calls| *calls > 10), "{by:?}");
}

#[tokio::test(start_paused = true)]
async fn a_service_without_endpoints_refuses_at_once() {
    let mut sim = two(("a", true), ("b", true)).await;
    let vip = serve_by(&mut sim, &[]);
    settle().await;
    let begun = Instant::now();
    assert_eq!(ask(&sim, vip).await, Call::Cut { by: None, blocks: 0 });
    assert!(begun.elapsed() < Duration::from_secs(1));
}

// Z-260
#[tokio::test(start_paused = true)]
async fn a_denied_call_is_cut_before_a_byte_arrives() {
    let mut sim = two(("a", true), ("b", true)).await;
    let mut deny = Policy::new(NAMESPACE, "nobody", Scope::Namespace, Action::Deny);
    deny.groups = vec![Group::default()];
    sim.push(Edit::Policy(deny.key(), Arc::new(deny)));
    settle().await;
    assert_eq!(ask(&sim, at(ip(2))).await, Call::Cut { by: None, blocks: 0 });
    settle().await;
    assert!(accounts(&sim).iter().all(|(_, forward, backward)| (*forward, *backward) == (0, 0)), "{:?}", accounts(&sim));
}

/// Found by seed 3: the client's node had not heard of the server yet, and passed the connection on in the clear, by
/// policy that goes by identity.
#[tokio::test(start_paused = true)]
async fn an_unknown_address_of_the_mesh_is_waited_for_and_never_passed_through() {
    let mut sim = two(("a", true), ("b", true)).await;
    let place = sim.places[&ip(2)].clone();
    sim.push(Edit::Address(Change::Remove(format!("Kubernetes//Pod/{NAMESPACE}/{}", place.name).into())));
    settle().await;
    let begun = Instant::now();
    assert_eq!(ask(&sim, at(ip(2))).await, Call::Cut { by: None, blocks: 0 });
    assert_eq!(begun.elapsed().as_millis() / 100, 10);

    let net = sim.fabric.application(ip(1));
    let calling = tokio::spawn(async move { call(net, at(ip(2)), 1, 3, Duration::from_millis(1), |_| {}).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    sim.push(Edit::Address(Change::Workload(Arc::new(workload(&place)))));
    assert_eq!(answered_by(&calling.await.unwrap()), "cart-2");
    assert_eq!(sim.markers.load(std::sync::atomic::Ordering::Relaxed), 0);
}

// Z-259: the server's node goes down; the client sees an end with an error, not a hang and not a clean end.
#[tokio::test(start_paused = true)]
async fn a_servers_node_that_stops_cuts_its_connections() {
    let mut sim = two(("a", true), ("b", true)).await;
    let net = sim.fabric.application(ip(1));
    let calling = tokio::spawn(async move { call(net, at(ip(2)), 1, 1_000, Duration::from_millis(100), |_| {}).await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    sim.crash("b").await;
    assert!(matches!(calling.await.unwrap(), Call::Cut { by: Some(_), .. }));
    settle().await;
    assert_eq!(answered_by(&ask(&sim, at(ip(2))).await), "cart-2");
}

/// An open call and a new one while the link is held: how long after its beginning each ended, and how.
async fn outage(held: Duration) -> ((Duration, Call), (Duration, Call)) {
    let sim = two(("a", true), ("b", true)).await;
    let net = sim.fabric.application(ip(1));
    let open = tokio::spawn(async move {
        let ended = call(net, at(ip(2)), 1, 200, Duration::from_millis(100), |_| {}).await;
        (Instant::now(), ended)
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    let off = Instant::now();
    sim.fabric.link("a", "b", State::Held);
    let new = async {
        let ended = ask(&sim, at(ip(2))).await;
        (off.elapsed(), ended)
    };
    let back = async {
        tokio::time::sleep(held).await;
        sim.fabric.link("a", "b", State::Whole);
    };
    let (new, (), open) = tokio::join!(new, back, open);
    let (ended, open) = open.expect("the task of the open connection ends");
    ((ended - off, open), new)
}

// F-29, G13: whoever talks to a node that is gone is told within five seconds; so is whoever begins.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_gone_is_told_within_five_seconds() {
    let ((open, ended), (new, refused)) = outage(Duration::from_secs(30)).await;
    assert!(matches!(ended, Call::Cut { by: Some(_), .. }), "{ended:?}");
    assert!(matches!(refused, Call::Cut { by: None, .. }), "{refused:?}");
    for (what, after) in [("open", open), ("new", new)] {
        assert!((Duration::from_secs(3)..Duration::from_secs(5)).contains(&after), "{what}: after {after:?}");
    }
}

// F-29: one endpoint's node is gone, and connections to the service go to the other. Who found it out was told.
#[tokio::test(start_paused = true)]
async fn connections_go_elsewhere_once_a_node_was_found_gone() {
    let mut sim = two(("a", true), ("b", true)).await;
    sim.add_node("c");
    sim.add_pod("c", ip(3), "bank", true).await;
    let vip = serve_by(&mut sim, &[ip(2), ip(3)]);
    settle().await;
    sim.fabric.link("a", "b", State::Held);
    let mut failed = 0;
    for _ in 0..60 {
        let begun = Instant::now();
        match ask(&sim, vip).await {
            Call::Answered { by, .. } => assert_eq!(by, "bank-3"),
            ended => {
                failed += 1;
                assert!(begun.elapsed() < Duration::from_secs(5), "{ended:?} after {:?}", begun.elapsed());
            }
        }
    }
    assert_eq!(failed, 1, "of 60 one connection found out");
}

// F-13, G5: certificates of two seconds are renewed under connections of a second and of a minute, and nobody notices.
#[tokio::test(start_paused = true)]
async fn certificates_of_two_seconds_cut_nothing() {
    let sim = Sim::with_certificates_of(Duration::from_secs(2), 1, Sabotage::Nothing);
    let sim = between(sim, ("a", true), ("b", true)).await;
    let net = sim.fabric.application(ip(1));
    let long = tokio::spawn(async move { call(net, at(ip(2)), 9, 600, Duration::from_millis(100), |_| {}).await });
    for number in 0..250 {
        assert_eq!(answered_by(&ask(&sim, at(ip(2))).await), "cart-2", "call {number}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(answered_by(&long.await.unwrap()), "cart-2");
}

// F-09: without an authority everything goes on until the certificates end, and never in the clear afterwards.
#[tokio::test(start_paused = true)]
async fn an_authority_may_be_away_until_certificates_end() {
    let away = |sim: &Sim, away: bool| sim.ca_away.store(away, std::sync::atomic::Ordering::Relaxed);
    let sim = between(Sim::with_certificates_of(Duration::from_secs(60), 1, Sabotage::Nothing), ("a", true), ("b", true)).await;
    assert_eq!(answered_by(&ask(&sim, at(ip(2))).await), "cart-2", "both have their certificates");
    away(&sim, true);
    let begun = Instant::now();
    let (mut last_answer, mut refused) = (Duration::ZERO, 0);
    while begun.elapsed() < Duration::from_secs(120) {
        let asked = begun.elapsed();
        match ask(&sim, at(ip(2))).await {
            Call::Answered { .. } => {
                assert_eq!(refused, 0, "answered after the end, at {asked:?}");
                last_answer = asked;
            }
            _ => refused += 1,
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!((55..=61).contains(&last_answer.as_secs()) && refused > 3, "the last answer after {last_answer:?}, then {refused} refusals");
    away(&sim, false);
    let back = Instant::now();
    while !matches!(ask(&sim, at(ip(2))).await, Call::Answered { .. }) {
        assert!(back.elapsed() < Duration::from_secs(4), "still nothing");
    }
    assert!(back.elapsed() < Duration::from_secs(2), "{:?} after the authority was back", back.elapsed());
    assert_eq!(sim.markers.load(std::sync::atomic::Ordering::Relaxed), 0);
}

// F-30, G13: an outage of three seconds is none.
#[tokio::test(start_paused = true)]
async fn an_outage_of_three_seconds_breaks_nothing() {
    let ((_, open), (_, new)) = outage(Duration::from_secs(3)).await;
    assert_eq!((answered_by(&open), answered_by(&new)), ("cart-2", "cart-2"));
}

// Z-227 Z-228 in one daemon: what is open ends by itself within the drain time, or is cut at its end.
#[tokio::test(start_paused = true)]
async fn a_pod_that_is_released_drains() {
    for (blocks, whole) in [(20, true), (1_000, false)] {
        let sim = two(("a", true), ("b", true)).await;
        let net = sim.fabric.application(ip(1));
        let calling = tokio::spawn(async move { call(net, at(ip(2)), 1, blocks, Duration::from_millis(100), |_| {}).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        let begun = Instant::now();
        let drained = sim.nodes["a"].pods[&ip(1)].stop(ztunnel::enroll::Stop::Drain).await;
        let ended = calling.await.unwrap();
        if whole {
            assert_eq!((drained, answered_by(&ended)), (mesh_runtime::Drained::Clean, "cart-2"));
        } else {
            assert!(matches!(ended, Call::Cut { .. }), "{ended:?}");
            assert!((5..7).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        }
    }
}

/// The daemon is replaced, or the pod released, in the moment between a connection's acceptance and its tunnel.
#[tokio::test(start_paused = true)]
async fn a_connection_that_was_accepted_before_the_drain_gets_its_tunnel() {
    let sim = two(("a", true), ("b", true)).await;
    sim.fabric.link("a", "b", State::Held);
    let net = sim.fabric.application(ip(1));
    let calling = tokio::spawn(async move { call(net, at(ip(2)), 1, 3, Duration::from_millis(1), |_| {}).await });
    settle().await;
    let healing = async {
        settle().await;
        sim.fabric.link("a", "b", State::Whole);
    };
    let (drained, ()) = tokio::join!(sim.nodes["a"].pods[&ip(1)].stop(ztunnel::enroll::Stop::Drain), healing);
    assert_eq!((drained, answered_by(&calling.await.unwrap())), (mesh_runtime::Drained::Clean, "cart-2"));
}
