use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use mesh_model::address::{NamespacedHostname, NetworkAddress};
use mesh_model::service::Service;
use mesh_model::workload::{PolicyKey, Workload};
use mesh_policy::{Action, Policy, Scope as PolicyScope};
use mesh_runtime::Watched;

use super::*;
use crate::catalog::{CatalogWriter, Update, catalog};
use crate::claim::Scope;
use crate::messages::Status;

// --- a small language: a push is shown as "Address +a +b -c"

fn shown(responses: &[DeltaDiscoveryResponse]) -> Vec<String> {
    let one = |response: &DeltaDiscoveryResponse| {
        let mut text = response.type_url.rsplit('.').next().unwrap_or_default().to_owned();
        response.resources.iter().for_each(|resource| text.push_str(&format!(" +{}", resource.name)));
        response.removed_resources.iter().for_each(|name| text.push_str(&format!(" -{name}")));
        text
    };
    responses.iter().map(one).collect()
}

fn workload(uid: &str, ip: &str, node: &str, services: &[&str]) -> Update {
    let mut workload = Workload::named(uid, "shop", uid);
    workload.addresses = vec![ip.parse().unwrap()];
    workload.node = node.into();
    workload.services = services.iter().map(|key| (NamespacedHostname::parse(key).unwrap(), BTreeMap::new())).collect();
    Update::workload(&workload)
}

fn service(hostname: &str, vip: &str) -> Update {
    let mut service = Service::named("shop", hostname);
    service.vips = vec![NetworkAddress::new("", vip.parse().unwrap())];
    Update::service(&service)
}

fn policy(name: &str, dry_run: bool) -> Update {
    let mut policy = Policy::new("shop", name, PolicyScope::Namespace, Action::Deny);
    policy.dry_run = dry_run;
    Update::policy(&policy.key(), &policy)
}

fn remove_policy(key: &str) -> Update {
    Update::remove_policy(&PolicyKey::new(key))
}

fn caller(node: Option<&str>, all_addresses: bool) -> Caller {
    let node: Option<Arc<str>> = node.map(Arc::from);
    let scope = Scope { account: None, node: node.clone(), all_addresses, policies: all_addresses, audiences: vec!["gw".into()], expires: None, revoked: Default::default() };
    Caller { scope, id: "ztunnel~1.1.1.1~z.y~x".into(), node }
}

fn request(type_url: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: type_url.into(), ..Default::default() }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

fn subscribe(on: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { resource_names_subscribe: names(on), ..request(ADDRESS) }
}

fn nothing_yet() -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { resource_names_unsubscribe: names(&["*"]), ..subscribe(&["*"]) }
}

fn reply(nonce: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { response_nonce: nonce.into(), ..request(ADDRESS) }
}

struct Bench {
    writer: CatalogWriter,
    watched: Watched<Catalog>,
    push: Push,
}

impl Bench {
    fn new(caller: Caller, updates: impl IntoIterator<Item = Update>) -> Bench {
        let (mut writer, watched) = catalog();
        writer.apply(updates);
        Bench { writer, watched, push: Push::new(caller, 10) }
    }

    fn ask(&mut self, request: &DeltaDiscoveryRequest) -> Vec<String> {
        shown(&self.push.request(request, &self.watched.load()).unwrap())
    }

    fn change(&mut self, updates: impl IntoIterator<Item = Update>) -> Vec<String> {
        self.writer.apply(updates);
        shown(&self.push.update(&self.watched.load()))
    }
}

fn two_workloads() -> [Update; 3] {
    [workload("w1", "10.0.0.1", "a", &["shop/web"]), workload("w2", "10.0.0.2", "b", &[]), service("web", "10.96.0.1")]
}

#[test]
fn the_first_request_of_each_type_is_always_answered() {
    let mut bench = Bench::new(caller(None, true), []);
    assert_eq!(bench.ask(&request(ADDRESS)), ["Address"]);
    assert_eq!(bench.ask(&request(AUTHORIZATION)), ["Authorization"]);
    assert_eq!(bench.ask(&request("type.googleapis.com/x.Unknown")), ["Unknown"]);
    assert_eq!(bench.change([]), [""; 0]);

    let mut bench = Bench::new(caller(None, true), two_workloads());
    assert_eq!(bench.ask(&request(ADDRESS)), ["Address +shop/web +w1 +w2"]);
}

#[test]
fn a_reconnect_is_told_the_difference_only() {
    let mut bench = Bench::new(caller(None, true), two_workloads());
    let catalog = bench.watched.load();
    let version = |name: &str| catalog.shelf(ADDRESS).unwrap().offer(name).unwrap().version.to_string();
    let claims = [("w1", version("w1")), ("w2", "old".into()), ("w3", "1".into()), ("shop/web", String::new())];
    let mut first = request(ADDRESS);
    first.initial_resource_versions = claims.into_iter().map(|(name, version)| (name.to_owned(), version)).collect();
    assert_eq!(bench.ask(&first), ["Address +shop/web +w2 -w3"]);
}

#[test]
fn a_change_is_pushed_once_to_who_asked_for_its_type() {
    let mut bench = Bench::new(caller(None, true), two_workloads());
    assert_eq!(bench.change([policy("p", false)]), [""; 0], "nobody asked yet");
    bench.ask(&request(ADDRESS));
    let moved = workload("w1", "10.0.0.9", "a", &[]);
    assert_eq!(bench.change([moved.clone(), Update::remove_address("w2"), workload("w3", "10.0.0.3", "a", &[])]), ["Address +w1 +w3 -w2"]);
    assert_eq!(bench.change([moved.clone(), Update::remove_address("w2")]), [""; 0], "the same again is nothing");
    assert_eq!(bench.change([workload("w4", "10.0.0.4", "a", &[]), Update::remove_address("w4")]), [""; 0], "came and went unseen");
    // Two publications between two looks are one push.
    bench.writer.apply([workload("w1", "10.0.0.8", "a", &[])]);
    assert_eq!(bench.change([moved]), [""; 0], "there and back");
}

#[test]
fn a_policy_comes_before_and_goes_after_the_workloads_that_list_it() {
    let mut bench = Bench::new(caller(None, true), [policy("old", false)]);
    bench.ask(&request(ADDRESS));
    bench.ask(&request(AUTHORIZATION));
    let change = [workload("w1", "10.0.0.1", "a", &[]), policy("new", false), remove_policy("shop/old")];
    assert_eq!(bench.change(change), ["Authorization +shop/new", "Address +w1", "Authorization -shop/old"]);
}

#[test]
fn acks_and_nacks_are_recorded_and_never_answered() {
    let mut bench = Bench::new(caller(None, true), two_workloads());
    bench.ask(&request(ADDRESS));
    assert_eq!(bench.ask(&reply("a-1")), [""; 0]);
    let status = bench.push.status().remove(ADDRESS).unwrap();
    assert_eq!((status.sent.as_str(), status.acked.as_str(), status.nacks), ("a-1", "a-1", 0));

    bench.change([workload("w3", "10.0.0.3", "a", &[])]);
    let error = Status { code: 0, message: "x".repeat(5_000), details: vec![] };
    assert_eq!(bench.ask(&DeltaDiscoveryRequest { error_detail: Some(error), ..reply("a-2") }), [""; 0]);
    let status = bench.push.status().remove(ADDRESS).unwrap();
    assert_eq!((status.acked.as_str(), status.nacks, status.last_nack.unwrap().len()), ("a-1", 1, NACK_CHARS));

    for stale in ["a-99", "b-1", "nonsense", "-"] {
        assert_eq!(bench.ask(&reply(stale)), [""; 0]);
    }
    assert_eq!(bench.push.status()[ADDRESS].stale, 4);
    let names_inside = DeltaDiscoveryRequest { resource_names_subscribe: names(&["w1"]), ..reply("b-1") };
    assert_eq!(bench.ask(&names_inside), ["Address +w1"], "a stale nonce does not lose the names beside it");
}

#[test]
fn everything_is_meant_by_no_name_or_a_star_that_is_not_taken_back() {
    let table: [(&[&str], &[&str], bool); 6] =
        [(&[], &[], true), (&["*"], &[], true), (&["*", "x"], &[], true), (&["*"], &["*"], false), (&[], &["*"], false), (&["x"], &[], false)];
    for (subscribe, unsubscribe, expected) in table {
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: names(subscribe),
            resource_names_unsubscribe: names(unsubscribe),
            ..request(ADDRESS)
        };
        assert_eq!(wants_everything(&request), expected, "{subscribe:?} {unsubscribe:?}");
    }
}

#[test]
fn only_the_node_daemon_may_subscribe_to_all_addresses_and_to_policies() {
    let mut bench = Bench::new(caller(None, false), two_workloads());
    for type_url in [ADDRESS, WORKLOAD] {
        assert_eq!(bench.push.request(&request(type_url), &bench.watched.load()), Err(Refused::AllAddresses));
    }
    let by_name = DeltaDiscoveryRequest { resource_names_subscribe: names(&["shop/p"]), ..request(AUTHORIZATION) };
    for asked in [request(AUTHORIZATION), by_name] {
        assert_eq!(bench.push.request(&asked, &bench.watched.load()), Err(Refused::Policies));
    }
    assert_eq!(bench.ask(&subscribe(&["w1"])), ["Address +w1"]);
}

#[test]
fn types_and_names_of_a_stream_are_bounded() {
    let mut bench = Bench::new(caller(None, true), []);
    for i in 0..TYPES_MAX {
        bench.ask(&request(&format!("type/{i}")));
    }
    assert_eq!(bench.push.request(&request("one more"), &bench.watched.load()), Err(Refused::TooManyTypes));

    let mut bench = Bench::new(caller(None, false), []);
    let many: Vec<String> = (0..=NAMES_MAX).map(|i| format!("n{i}")).collect();
    let request = DeltaDiscoveryRequest { resource_names_subscribe: many, ..request(ADDRESS) };
    assert_eq!(bench.push.request(&request, &bench.watched.load()), Err(Refused::TooManyNames));
}

// Z-217
#[test]
fn names_asked_for_on_demand() {
    let mut bench = Bench::new(caller(Some("b"), false), two_workloads());
    assert_eq!(bench.ask(&nothing_yet()), ["Address +w2"], "nothing but the workloads of its own node");
    assert_eq!(bench.ask(&subscribe(&["/10.0.0.1"])), ["Address +w1"], "by address");
    assert_eq!(bench.ask(&subscribe(&["/10.9.9.9"])), ["Address -/10.9.9.9"], "there is none");
    assert_eq!(bench.ask(&subscribe(&["w1"])), ["Address +w1"], "asked again, told again");
    assert_eq!(bench.change([workload("w9", "10.9.9.9", "a", &[])]), ["Address +w9"], "what was not there came later");
    assert_eq!(bench.change([workload("w8", "10.8.8.8", "a", &[])]), [""; 0], "a stranger");
    assert_eq!(bench.change([workload("w7", "10.7.7.7", "b", &[])]), ["Address +w7"], "a new pod of its node");
    assert_eq!(bench.change([Update::remove_address("w9"), Update::remove_address("w8")]), ["Address -w9"]);

    let resources = bench.push.request(&subscribe(&["w1"]), &bench.watched.load()).unwrap().remove(0).resources;
    assert_eq!(resources[0].aliases, ["/10.0.0.1"], "so that who asked by address knows the answer");

    let forget = DeltaDiscoveryRequest { resource_names_unsubscribe: names(&["w1", "/10.0.0.1"]), ..request(ADDRESS) };
    assert_eq!(bench.ask(&forget), [""; 0]);
    assert_eq!(bench.change([workload("w1", "10.0.0.1", "c", &[])]), [""; 0]);
}

#[test]
fn a_service_brings_its_endpoints_also_those_that_join_later() {
    let mut bench = Bench::new(caller(None, false), two_workloads());
    bench.ask(&nothing_yet());
    assert_eq!(bench.ask(&subscribe(&["/10.96.0.1"])), ["Address +shop/web +w1"], "by its VIP");
    assert_eq!(bench.change([workload("w3", "10.0.0.3", "c", &["shop/web"])]), ["Address +w3"]);
    assert_eq!(bench.change([workload("w4", "10.0.0.4", "c", &["shop/api"])]), [""; 0]);
    // A service that is asked for before it exists, with endpoints that do.
    assert_eq!(bench.ask(&subscribe(&["shop/api"])), ["Address -shop/api"]);
    assert_eq!(bench.change([service("api", "10.96.0.2")]), ["Address +shop/api +w4"]);
    assert_eq!(bench.change([Update::remove_address("shop/api"), Update::remove_address("w4")]), ["Address -shop/api -w4"]);
    assert_eq!(bench.change([workload("w5", "10.0.0.5", "c", &["shop/api"])]), [""; 0], "nobody follows a service that is gone");
}

#[test]
fn a_reconnect_on_demand_holds_on_to_its_names() {
    let mut bench = Bench::new(caller(Some("b"), false), two_workloads());
    let catalog = bench.watched.load();
    let version = catalog.shelf(ADDRESS).unwrap().offer("w1").unwrap().version.to_string();
    let mut first = nothing_yet();
    first.initial_resource_versions =
        [("w1".to_owned(), version), ("gone".to_owned(), "1".to_owned()), ("/10.96.0.1".to_owned(), String::new())].into();
    assert_eq!(bench.ask(&first), ["Address +shop/web +w2 -gone"], "w1 it has; the open question is answered; w2 is of its node");
    assert_eq!(bench.change([workload("w1", "10.0.0.7", "a", &[])]), ["Address +w1"], "claims are subscriptions");
}

#[test]
fn what_has_an_audience_is_shown_to_no_other() {
    const ROUTE: &str = "type/Route";
    let offer = |name: &str, body: &'static str, audience: Option<&str>| {
        let audiences = audience.map(|list| list.split_whitespace().map(Arc::from).collect());
        Update::Put(ROUTE, Offer { audiences, ..Offer::new(name, body.into()) })
    };
    let mut bench = Bench::new(caller(None, false), [offer("mine", "1", Some("other gw")), offer("theirs", "1", Some("other")), offer("nobody's", "1", Some("")), offer("all", "1", None)]);
    let route = |on: &[&str]| DeltaDiscoveryRequest { resource_names_subscribe: names(on), ..request(ROUTE) };
    assert_eq!(bench.ask(&route(&[])), ["type/Route +all +mine"]);
    assert_eq!(bench.ask(&route(&["theirs"])), ["type/Route -theirs"]);
    assert_eq!(bench.change([offer("theirs", "2", Some("other")), offer("mine", "2", Some("other")), offer("all", "2", Some("gw"))]), ["type/Route +all -mine"]);
}

#[test]
fn the_first_answer_is_one_message_and_pushes_are_at_most_a_mebibyte() {
    let big = |i: u32| {
        let mut workload = Workload::named(&format!("w{i}"), "shop", &"x".repeat(500));
        workload.addresses = vec![Ipv4Addr::from(i).into()];
        Update::workload(&workload)
    };
    let mut bench = Bench::new(caller(None, true), (0..5_000).map(big));
    let first = bench.push.request(&request(ADDRESS), &bench.watched.load()).unwrap();
    assert_eq!((first.len(), first[0].resources.len()), (1, 5_000));
    assert!(first[0].encoded_len() > 2 * PUSH_BYTES);

    bench.writer.apply((0..5_000).map(|i| Update::remove_address(&format!("w{i}"))).chain((5_000..10_000).map(big)));
    let parts = bench.push.update(&bench.watched.load());
    assert!(parts.len() > 2 && parts.iter().all(|part| part.encoded_len() <= PUSH_BYTES + 1024));
    assert_eq!(parts.iter().map(|part| part.resources.len()).sum::<usize>(), 5_000);
    assert_eq!(parts.iter().map(|part| part.removed_resources.len()).sum::<usize>(), 5_000);
    let nonces: BTreeSet<_> = parts.iter().map(|part| &part.nonce).collect();
    assert_eq!(nonces.len(), parts.len());

    let huge = Update::Put(ADDRESS, Offer::new("huge", vec![0; 3 * PUSH_BYTES].into()));
    assert_eq!(bench.change([huge, big(1)]), ["Address +huge", "Address +w1"], "what is larger goes alone");
}

#[test]
fn the_bytes_of_a_resource_are_shared_by_all_streams() {
    let mut bench = Bench::new(caller(None, true), two_workloads());
    let catalog = bench.watched.load();
    let own = &catalog.shelf(ADDRESS).unwrap().offer("w1").unwrap().body;
    for _ in 0..2 {
        let sent = Push::new(caller(None, true), 1).request(&request(ADDRESS), &catalog).unwrap();
        let w1 = sent[0].resources.iter().find(|resource| resource.name == "w1").unwrap();
        assert_eq!(w1.resource.as_ref().unwrap().value.as_ptr(), own.as_ptr());
    }
    bench.ask(&request(ADDRESS));
}

// spec/waypoint.md 11 row 24: bound and unbound, a service is never served by a part of what is configured for it.
#[test]
fn what_opens_a_service_comes_last_and_goes_first() {
    use crate::messages::waypoint::{AUTHZ_POLICY, HTTP_ROUTE, SERVICE_PORT, SUBSET, TCP_ROUTE};
    let types = [SERVICE_PORT, SUBSET, TCP_ROUTE, HTTP_ROUTE, AUTHZ_POLICY];
    let mut bench = Bench::new(caller(None, true), []);
    types.iter().for_each(|type_url| drop(bench.ask(&request(type_url))));
    let put = |type_url: &&'static str| Update::Put(type_url, Offer::new("r", Default::default()));
    assert_eq!(bench.change(types.iter().map(put)), ["AuthzPolicy +r", "HttpRoute +r", "Subset +r", "TcpRoute +r", "ServicePort +r"]);
    let removed = bench.change(types.map(|type_url| Update::Remove(type_url, "r".into())));
    assert_eq!(removed, ["ServicePort -r", "HttpRoute -r", "Subset -r", "TcpRoute -r", "AuthzPolicy -r"]);
}

/// What a client has after it applied everything in order.
fn apply(has: &mut BTreeMap<String, String>, responses: Vec<DeltaDiscoveryResponse>) {
    for response in responses {
        has.extend(response.resources.into_iter().map(|resource| (resource.name, resource.version)));
        response.removed_resources.iter().for_each(|name| drop(has.remove(name)));
    }
}

// Whatever changes, however often the stream looks and reconnects, the client ends with what the catalog says.
#[test]
fn a_client_ends_with_what_the_catalog_says() {
    use rand::{Rng, SeedableRng};
    for seed in 0..300 {
        let mut rng = rand::rngs::SmallRng::seed_from_u64(seed);
        let mut bench = Bench::new(caller(Some("a"), true), []);
        let mut by_name = Push::new(caller(Some("a"), false), 2);
        let (mut all, mut some) = (BTreeMap::new(), BTreeMap::new());
        apply(&mut all, bench.push.request(&request(ADDRESS), &bench.watched.load()).unwrap());
        apply(&mut some, by_name.request(&nothing_yet(), &bench.watched.load()).unwrap());
        let mut asked = BTreeSet::new();
        for _ in 0..60 {
            let node = ["a", "b"][rng.random_range(0..2)];
            let key = rng.random_range(0..6);
            let update = match rng.random_range(0..4) {
                0 => Update::remove_address(&format!("w{key}")),
                1 if rng.random_bool(0.3) => Update::remove_address("shop/web"),
                1 => service("web", &format!("10.96.0.{}", 1 + key % 2)),
                _ => workload(&format!("w{key}"), &format!("10.0.0.{}", rng.random_range(0..6)), node, if key % 2 == 0 { &["shop/web"] } else { &[] }),
            };
            bench.writer.apply([update]);
            let now = bench.watched.load();
            if rng.random_bool(0.4) {
                apply(&mut all, bench.push.update(&now));
            }
            if rng.random_bool(0.4) {
                apply(&mut some, by_name.update(&now));
            }
            if rng.random_bool(0.1) {
                let name = ["w1", "w2", "/10.0.0.3", "shop/web"][rng.random_range(0..4)];
                asked.insert(name);
                apply(&mut some, by_name.update(&now));
                apply(&mut some, by_name.request(&subscribe(&[name]), &now).unwrap());
            }
            if rng.random_bool(0.05) {
                bench.push = Push::new(caller(Some("a"), true), 3);
                let first = DeltaDiscoveryRequest { initial_resource_versions: all.clone(), ..request(ADDRESS) };
                apply(&mut all, bench.push.request(&first, &now).unwrap());
            }
        }
        let now = bench.watched.load();
        apply(&mut all, bench.push.update(&now));
        apply(&mut some, by_name.update(&now));
        let shelf = now.shelf(ADDRESS).unwrap();
        let whole: BTreeMap<String, String> = shelf.offers().map(|offer| (offer.name.to_string(), offer.version.to_string())).collect();
        assert_eq!(all, whole, "seed {seed}");
        // On demand: everything that it must have, in its present version, and nothing that does not exist.
        for (name, version) in &some {
            assert_eq!(whole.get(name), Some(version), "seed {seed}: {name} is outdated or gone");
        }
        let mut must: BTreeSet<&str> = shelf.on_node("a").map(|offer| &*offer.name).collect();
        for name in asked {
            for offer in shelf.find(name) {
                must.insert(&offer.name);
                must.extend(shelf.endpoints(&offer.name).map(|offer| &*offer.name));
            }
        }
        for name in must {
            assert!(some.contains_key(name), "seed {seed}: {name} is missing");
        }
    }
}

#[test]
fn what_a_client_does_not_do_is_known_until_it_is_told_anew() {
    use crate::messages::waypoint::{HTTP_ROUTE, HttpRoute, Meta, RESOURCE_STATUS, ResourceState, ResourceStatus};
    let route = |name: &str, order: u32, audience: &str| {
        let source = SourceRef { kind: "HTTPRoute".into(), namespace: "shop".into(), name: name.into(), ..SourceRef::default() };
        let message = HttpRoute { meta: Some(Meta { source: Some(source), created_unix: 0 }), rule_order: order, ..HttpRoute::default() };
        Update::Put(HTTP_ROUTE, Offer { audiences: Some(vec![audience.into()]), ..Offer::new(name, message.encode_to_vec().into()) })
    };
    let mut bench = Bench::new(caller(None, true), [route("r", 0, "gw"), route("theirs", 0, "other")]);
    assert_eq!(bench.ask(&request(HTTP_ROUTE)), ["HttpRoute +r"]);
    let detail = |name: &str| {
        let status = ResourceStatus { name: name.into(), state: ResourceState::Rejected as i32, reason: "BadRegex".into(), message: "why".into(), ..ResourceStatus::default() };
        Any { type_url: RESOURCE_STATUS.into(), value: status.encode_to_vec().into() }
    };
    let garbage = Any { type_url: RESOURCE_STATUS.into(), value: vec![0xff].into() };
    let error = messages::Status { details: vec![detail("r"), detail("theirs"), detail("none"), garbage], ..messages::Status::default() };
    bench.ask(&DeltaDiscoveryRequest { error_detail: Some(error), ..request(HTTP_ROUTE) });
    let rejected = |bench: &Bench| bench.push.status()[HTTP_ROUTE].rejected.iter().map(|(name, why)| format!("{name} {} {}", why.source.name, why.reason)).collect::<Vec<_>>();
    assert_eq!(rejected(&bench), ["r r BadRegex"], "of what it may not see it has no say");
    bench.change([route("r", 1, "gw")]);
    assert!(rejected(&bench).is_empty());
}
