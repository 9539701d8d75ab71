use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use mesh_model::address::{NamespacedHostname, NetworkAddress};
use mesh_model::service::Service;
use mesh_model::workload::{Health, PolicyKey, Uid, Workload};
use mesh_policy::{Action, Because, Entry, Flow, Group, Match, Policy, Rule, Scope, decide};
use mesh_runtime::{Ready, Watched};
use prost::Message;

use super::*;
use crate::catalog::{Offer, Update, catalog};
use crate::messages::discovery::Resource;
use crate::server::ServerLimits;
use crate::testing::{Network, Script, Wire, ads, client, config, network, resource, run, scripted};
use crate::world::{Follower, News, World, world};
use crate::{CatalogWriter, wire};

// --- things to send

fn a_workload(uid: &str, ip: &str) -> Workload {
    let mut workload = Workload::named(uid, "shop", uid);
    workload.addresses = vec![ip.parse().unwrap()];
    workload
}

fn member(uid: &str, ip: &str, service: &str) -> Workload {
    let mut workload = a_workload(uid, ip);
    workload.services = [(NamespacedHostname::parse(service).unwrap(), [(80, 8080)].into())].into();
    workload
}

fn a_policy(name: &str, action: Action) -> Policy {
    let mut policy = Policy::new("shop", name, Scope::Namespace, action);
    policy.groups = vec![Group::default()];
    policy
}

fn sent(workload: &Workload) -> Resource {
    resource(&workload.uid.0, wire::encode_workload(workload))
}

fn sent_service(service: &Service) -> Resource {
    resource(&service.key().to_string(), wire::encode_service(service))
}

fn sent_policy(policy: &Policy) -> Resource {
    resource(&policy.key().0, wire::encode_policy(policy))
}

fn key(text: &str) -> NamespacedHostname {
    NamespacedHostname::parse(text).unwrap()
}

fn uids<'a>(workloads: impl Iterator<Item = &'a Arc<Workload>>) -> Vec<String> {
    workloads.map(|workload| workload.uid.to_string()).collect()
}

fn verdict(world: &World, uid: &str) -> Because {
    let workload = world.directory.workload(&Uid::new(uid)).cloned().unwrap_or_else(|| a_workload(uid, "10.0.0.1").into());
    let from: IpAddr = "10.9.9.9".parse().unwrap();
    decide(&world.policies, &workload, &Flow::new(from, None, "10.0.0.1:80".parse().unwrap())).because
}

async fn until(world: &Watched<World>, wanted: impl FnMut(&World) -> bool) -> Arc<World> {
    world.clone().wait_for(wanted).await.expect("the client lives")
}

fn known(world: &World, uid: &str) -> bool {
    world.directory.workload(&Uid::new(uid)).is_some()
}

/// Our server with this in its catalog.
fn controller(updates: impl IntoIterator<Item = Update>) -> (CatalogWriter, crate::Ads, Network) {
    let (mut writer, watched) = catalog();
    writer.apply(updates);
    writer.mark_ready();
    let (ads, network) = ads(watched, ServerLimits::default(), CancellationToken::new());
    (writer, ads, network)
}

async fn scripted_client(on_demand: bool) -> (Network, mpsc::Receiver<Script>, Script, Watched<World>) {
    let (network, mut streams) = scripted();
    let (world, _) = run(&network, config(on_demand));
    let mut script = streams.recv().await.unwrap();
    script.open().await;
    (network, streams, script, world)
}

// --- readiness

// Z-216
#[tokio::test(start_paused = true)]
async fn readiness_waits_for_the_first_accepted_answer_of_each_type() {
    let (network, mut streams) = scripted();
    let (writer, watched) = world();
    let ready = Ready::new();
    let client = client(&network, config(false), writer).blocking(ready.block("state manager"));
    tokio::spawn(client.run(CancellationToken::new()));
    let mut script = streams.recv().await.unwrap();
    script.open().await;
    assert_eq!(verdict(&watched.load(), "w"), Because::NotSynced);

    assert_eq!(script.tell(ADDRESS, vec![sent(&a_workload("w", "10.0.0.1"))], &[]).await, "");
    assert!(watched.load().synced.addresses && !ready.is_ready());
    let mut unknown = wire::encode_policy(&a_policy("p", Action::Allow));
    unknown.action = 9;
    let refused = script.tell(AUTHORIZATION, vec![resource("shop/p", unknown), sent_policy(&a_policy("q", Action::Allow))], &[]).await;
    assert_eq!(refused, "shop/p: action: unknown value 9");
    assert!(!ready.is_ready() && !watched.load().synced.policies, "a refused answer does not count");
    assert_eq!(verdict(&watched.load(), "w"), Because::UnreadablePolicy(PolicyKey::new("shop/p")), "but it is decided by");

    assert_eq!(script.tell(AUTHORIZATION, vec![sent_policy(&a_policy("p", Action::Allow))], &[]).await, "");
    ready.until_ready().await;
    assert!(watched.load().synced.policies && verdict(&watched.load(), "w").is_allowed());
}

#[tokio::test(start_paused = true)]
async fn against_our_server_everything_is_there_when_ready() {
    let many = (0..3_000).map(|i| Update::workload(&a_workload(&format!("w{i}"), &format!("10.0.{}.{}", i >> 8, i & 255))));
    let (_writer, ads, network) = controller(many);
    let (writer, watched) = world();
    let ready = Ready::new();
    let client = client(&network, config(false), writer).blocking(ready.block("state manager"));
    let contact = client.contact();
    tokio::spawn(client.run(CancellationToken::new()));
    ready.until_ready().await;
    assert_eq!(watched.load().directory.workload_count(), 3_000);
    assert!(contact.borrow().connected && contact.borrow().silent_for(Instant::now()).is_zero());
    let status = &ads.clients()[0];
    assert_eq!((status.node.as_deref(), status.types.len()), (Some("node-a"), 2));
}

// --- responses

// Z-211, Z-212, Z-213, Z-215
#[tokio::test(start_paused = true)]
async fn endpoints_of_one_response_find_their_service_in_any_order() {
    let web = Service::named("shop", "web");
    let mut sick = member("sick", "10.0.0.3", "shop/web");
    sick.status = Health::Unhealthy;
    let resources = [
        sent(&member("w1", "10.0.0.1", "shop/web")),
        sent_service(&web),
        sent(&member("w2", "10.0.0.2", "shop/web")),
        sent(&sick),
        sent(&member("w4", "10.0.0.4", "shop/api")),
        sent_service(&Service::named("shop", "api")),
    ];
    for order in [[0, 1, 2, 3, 4, 5], [1, 5, 0, 2, 3, 4], [5, 4, 3, 2, 1, 0]] {
        let (_network, _streams, mut script, world) = scripted_client(false).await;
        assert_eq!(script.tell(ADDRESS, order.map(|i| resources[i].clone()).to_vec(), &[]).await, "");
        let now = world.load();
        let endpoints = |name: &str| uids(now.directory.endpoints(now.directory.service(&key(name)).unwrap()));
        assert_eq!((endpoints("shop/web"), endpoints("shop/api")), (vec!["w1".into(), "w2".into()], vec!["w4".to_string()]));

        assert_eq!(script.tell(ADDRESS, vec![], &["w1", "never there", "shop/api"]).await, "");
        let now = world.load();
        assert_eq!(uids(now.directory.endpoints(&web)), ["w2"]);
        assert!(now.directory.service(&key("shop/api")).is_none());
    }
}

// Z-214
#[tokio::test(start_paused = true)]
async fn a_bad_resource_is_refused_alone() {
    let (_network, _streams, mut script, world) = scripted_client(false).await;
    let mut bad = resource("bad", wire::encode_workload(&a_workload("bad", "10.0.0.9")));
    bad.resource.as_mut().unwrap().value = b"\x0a\x02\x1a\x00\xff".to_vec().into();
    let nothing = Resource { name: "nothing".into(), ..Resource::default() };
    let other_name = resource("w9", wire::encode_workload(&a_workload("w8", "10.0.0.8")));
    let unnamed = resource("", wire::encode_workload(&a_workload("w7", "10.0.0.7")));
    let all = vec![sent(&a_workload("w1", "10.0.0.1")), bad, nothing, other_name, unnamed, sent(&a_workload("w2", "10.0.0.2"))];
    let reasons = script.tell(ADDRESS, all, &[]).await;
    let reasons: Vec<&str> = reasons.split("; ").collect();
    assert_eq!(reasons.len(), 4);
    assert!(reasons[0].starts_with("bad: Address: "), "{}", reasons[0]);
    assert_eq!(reasons[1..], ["nothing: no content", "w9: it is called w8 inside", ": no name"]);
    assert_eq!(uids(world.load().directory.workloads()), ["w1", "w2"]);
    assert_eq!(script.tell("type.googleapis.com/other", vec![resource("x", wire::encode_workload(&a_workload("x", "10.0.0.1")))], &[]).await, "");
}

// F-21
#[tokio::test(start_paused = true)]
async fn conflicts_have_one_winner_whatever_the_order() {
    let mut plain = a_workload("cluster//Pod/shop/b", "10.0.0.1");
    plain.capacity = 5;
    let external = a_workload("aaa/WorkloadEntry/x", "10.0.0.1");
    let same_vip = |name: &str| {
        let mut service = Service::named("shop", name);
        service.vips = vec![NetworkAddress::new("", "10.96.0.1".parse().unwrap())];
        service
    };
    let resources = [sent(&plain), sent(&external), sent_service(&same_vip("b")), sent_service(&same_vip("a"))];
    let mut results = Vec::new();
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
        let (_network, _streams, mut script, world) = scripted_client(false).await;
        script.tell(ADDRESS, order.map(|i| resources[i].clone()).to_vec(), &["unknown"]).await;
        // Added and removed in one response: removed, as everywhere in the field.
        script.tell(AUTHORIZATION, vec![sent_policy(&a_policy("p", Action::Deny))], &["shop/p"]).await;
        let now = world.load();
        let at = |ip: &str| NetworkAddress::new("", ip.parse().unwrap());
        let winner = now.directory.workload_at(&at("10.0.0.1")).unwrap().uid.to_string();
        let service = now.directory.service_at(&at("10.96.0.1"), None).unwrap().hostname.to_string();
        assert!(now.policies.is_empty());
        results.push((winner, service, now.directory.clone()));
    }
    assert_eq!((results[0].0.as_str(), results[0].1.as_str()), ("cluster//Pod/shop/b", "a"));
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}

// F-15
#[tokio::test(start_paused = true)]
async fn ten_thousand_bent_responses_neither_stop_nor_confuse_the_client() {
    use rand::{Rng, SeedableRng};
    let (_network, _streams, mut script, world) = scripted_client(false).await;
    assert_eq!(script.tell(ADDRESS, vec![sent(&a_workload("kept", "10.0.0.1"))], &[]).await, "");
    assert_eq!(script.tell(AUTHORIZATION, vec![sent_policy(&a_policy("kept", Action::Deny))], &[]).await, "");
    let mut rng = SmallRng::seed_from_u64(15);
    let mut strict = a_policy("bent", Action::Allow);
    let from = Match { source_ips: vec![Entry::Value("10.1.0.0/16".parse().unwrap())], destination_ports: vec![80.into()], ..Match::default() };
    strict.groups = vec![Group::new([Rule::new([from])])];
    let bodies = [
        wire::encode_workload(&member("bent", "10.0.0.2", "shop/web")).encode_to_vec(),
        wire::encode_service(&Service::named("shop", "bent")).encode_to_vec(),
        wire::encode_policy(&strict).encode_to_vec(),
    ];
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..10_000 {
        let kind = rng.random_range(0..3);
        let mut body = bodies[kind].clone();
        for _ in 0..rng.random_range(1..4) {
            match rng.random_range(0..3) {
                0 => body.truncate(rng.random_range(0..=body.len())),
                1 => body.insert(rng.random_range(0..=body.len()), rng.random()),
                _ if body.is_empty() => {}
                _ => {
                    let at = rng.random_range(0..body.len());
                    body[at] = rng.random();
                }
            }
        }
        let name = ["bent", "shop/bent", "shop/bent"][kind];
        let type_url = if rng.random_bool(0.1) { "nonsense" } else { [ADDRESS, ADDRESS, AUTHORIZATION][kind] };
        let mut bent = resource(name, wire::encode_workload(&a_workload("x", "10.0.0.1")));
        bent.resource.as_mut().unwrap().value = body.into();
        match script.tell(type_url, vec![bent], &[]).await.as_str() {
            "" => taken += 1,
            reason => {
                assert!(reason.starts_with(name), "a NACK names the resource: {reason}");
                refused += 1;
            }
        }
    }
    assert!(taken > 500 && refused > 500, "{taken} {refused}");
    assert_eq!(script.tell(ADDRESS, vec![sent(&a_workload("after", "10.0.0.3"))], &["bent"]).await, "");
    let now = world.load();
    assert!(known(&now, "kept") && known(&now, "after"));
    assert_eq!(verdict(&now, "kept"), Because::DeniedBy(PolicyKey::new("shop/kept")));
}

// --- reconnects

// Z-218
#[tokio::test(start_paused = true)]
async fn a_reconnect_brings_only_what_changed() {
    let (mut writer, ads, network) = controller((0..50).map(|i| Update::workload(&a_workload(&format!("w{i}"), &format!("10.0.0.{i}")))));
    let (world, _) = run(&network, config(false));
    until(&world, |world| world.synced.addresses && world.synced.policies).await;
    let sent = || ads.counters().resources.load(SeqCst);
    assert_eq!(sent(), 50);

    network.set(Wire::Cut);
    writer.apply([Update::workload(&a_workload("w7", "10.1.0.7")), Update::remove_address("w8"), Update::workload(&a_workload("new", "10.1.0.1"))]);
    network.set(Wire::Open);
    let now = until(&world, |world| known(world, "new")).await;
    assert_eq!(sent(), 52, "w7 and the new one; the rest is claimed by its version");
    // Removals come after the resources of the same answer.
    until(&world, |world| !known(world, "w8")).await;
    assert!(now.directory.workload_at(&NetworkAddress::new("", "10.1.0.7".parse().unwrap())).is_some());
}

// Z-220
#[tokio::test(start_paused = true)]
async fn added_then_aborted_then_removed() {
    let (_network, mut streams, mut script, world) = scripted_client(false).await;
    assert_eq!(script.tell(ADDRESS, vec![sent(&a_workload("w1", "10.0.0.1")), sent(&a_workload("w2", "10.0.0.2"))], &[]).await, "");
    let mut unreadable = wire::encode_policy(&a_policy("bad", Action::Allow));
    unreadable.action = 9;
    script.tell(AUTHORIZATION, vec![resource("shop/bad", unreadable)], &[]).await;
    assert_eq!(verdict(&world.load(), "w1").code(), "unreadable_policy");
    script.responses.send(Err(Status::unknown("aborted"))).await.unwrap();
    drop(script);

    let mut script = streams.recv().await.unwrap();
    let [policies, addresses] = script.open().await;
    let claims: Vec<_> = addresses.initial_resource_versions.keys().cloned().collect();
    assert_eq!(claims, ["w1", "w2"], "what we have is named, so what is gone can be said");
    assert_eq!(policies.initial_resource_versions.get("shop/bad").map(String::as_str), Some(""), "without a version");
    assert!(known(&world.load(), "w1"), "a lost controller loses nothing");
    assert_eq!(script.tell(ADDRESS, vec![], &["w1"]).await, "");
    assert_eq!(script.tell(AUTHORIZATION, vec![], &["shop/bad"]).await, "");
    assert_eq!(uids(world.load().directory.workloads()), ["w2"]);
    assert_eq!(verdict(&world.load(), "w2"), Because::NoAllowPolicy);
}

// F-14
#[tokio::test(start_paused = true)]
async fn a_half_open_connection_is_found_and_replaced() {
    let (mut writer, _ads, network) = controller([Update::workload(&a_workload("w1", "10.0.0.1"))]);
    let (writer_of_world, world) = world();
    let client = client(&network, config(false), writer_of_world);
    let mut contact = client.contact();
    tokio::spawn(client.run(CancellationToken::new()));
    until(&world, |world| known(world, "w1")).await;

    let held = Instant::now();
    network.set(Wire::Held);
    contact.wait_for(|contact| !contact.connected).await.unwrap();
    let noticed = held.elapsed();
    assert!(noticed <= PING_EVERY + PING_TIMEOUT + Duration::from_secs(1), "{noticed:?}");

    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(contact.borrow().silent_for(Instant::now()) >= Duration::from_secs(60));
    writer.apply([Update::workload(&a_workload("w2", "10.0.0.2"))]);
    network.set(Wire::Open);
    let healed = Instant::now();
    until(&world, |world| known(world, "w2")).await;
    assert!(healed.elapsed() <= Duration::from_secs(20), "{:?}", healed.elapsed());
    assert!(known(&world.load(), "w1"));
}

// F-14
#[tokio::test(start_paused = true)]
async fn tries_are_spread_and_grow_rarer() {
    let (network, _incoming) = network();
    network.set(Wire::Cut);
    let (world, _) = run(&network, config(false));
    tokio::time::sleep(Duration::from_secs(600)).await;
    // Ten doublings from 20 ms to 15 s, then one try each 7.5 to 15 s.
    assert!((45..=95).contains(&network.dials()), "{} tries in 600 s", network.dials());
    assert_eq!(world.version(), 0);
}

// F-14
#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_up_at_once_is_not_hammered_and_one_that_answered_is_tried_soon() {
    for (answers, tries) in [(false, 3..=14), (true, 30..=3_000)] {
        let (network, mut streams) = scripted();
        let (_world, _) = run(&network, config(false));
        let server = tokio::spawn(async move {
            while let Some(mut script) = streams.recv().await {
                if answers {
                    script.open().await;
                    script.tell(ADDRESS, vec![], &[]).await;
                }
                // Dropping the script ends the stream in order.
            }
        });
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(tries.contains(&network.dials()), "{} tries, answers: {answers}", network.dials());
        server.abort();
    }
}

// F-16
#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_refused_and_what_is_known_stays() {
    let (mut writer, _ads, network) = controller([Update::workload(&a_workload("w1", "10.0.0.1"))]);
    let mut small = config(false);
    small.limits.message_bytes_max = 64 * 1024;
    small.limits.resources_max = 3;
    let (writer_of_world, world) = world();
    let client = client(&network, small, writer_of_world);
    let mut contact = client.contact();
    tokio::spawn(client.run(CancellationToken::new()));
    until(&world, |world| known(world, "w1")).await;

    let mut giant = a_workload("giant", "10.0.0.2");
    giant.name = "x".repeat(100_000).as_str().into();
    writer.apply([Update::workload(&giant)]);
    contact.wait_for(|contact| !contact.connected).await.unwrap();
    let why = contact.borrow().last_error.clone().unwrap();
    assert!(why.contains("OutOfRange") || why.contains("ResourceExhausted"), "{why}");
    assert!(known(&world.load(), "w1") && !known(&world.load(), "giant"));

    writer.apply([Update::remove_address("giant"), Update::workload(&a_workload("w2", "10.0.0.2"))]);
    until(&world, |world| known(world, "w2")).await;

    // More resources than the limit: refused one by one, and replaced ones are still taken.
    writer.apply((3..9).map(|i| Update::workload(&a_workload(&format!("w{i}"), &format!("10.0.0.{i}")))));
    until(&world, |world| known(world, "w3")).await;
    writer.apply([Update::workload(&a_workload("w1", "10.0.0.77"))]);
    until(&world, |world| world.directory.workload_at(&NetworkAddress::new("", "10.0.0.77".parse().unwrap())).is_some()).await;
    assert_eq!(world.load().directory.workload_count(), 3);
}

// F-22
#[tokio::test(start_paused = true)]
async fn a_leader_of_an_earlier_generation_changes_nothing() {
    let (network, mut streams) = scripted();
    let (writer, world) = world();
    let client = client(&network, config(false), writer);
    let contact = client.contact();
    tokio::spawn(client.run(CancellationToken::new()));
    let answer = |epoch: u64, workload: &Workload| DeltaDiscoveryResponse {
        system_version_info: crate::epoch::system_version(epoch, 1),
        resources: vec![sent(workload)],
        type_url: ADDRESS.into(),
        nonce: "n".into(),
        removed_resources: vec![],
    };
    let mut script = streams.recv().await.unwrap();
    script.open().await;
    script.responses.send(Ok(answer(4, &a_workload("w1", "10.0.0.1")))).await.unwrap();
    until(&world, |world| known(world, "w1")).await;
    drop(script);

    let mut stale = streams.recv().await.unwrap();
    stale.open().await;
    stale.responses.send(Ok(answer(3, &a_workload("w1", "10.6.6.6")))).await.unwrap();
    let mut next = streams.recv().await.unwrap();
    next.open().await;
    assert_eq!((contact.borrow().connected, contact.borrow().streams), (false, 3), "the third has not answered yet");
    assert_eq!(world.load().directory.workload(&Uid::new("w1")).unwrap().addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    next.responses.send(Ok(answer(4, &a_workload("w1", "10.0.0.2")))).await.unwrap();
    until(&world, |world| world.directory.workload(&Uid::new("w1")).unwrap().addresses == ["10.0.0.2".parse::<IpAddr>().unwrap()]).await;
}

// F-43
#[tokio::test(start_paused = true)]
async fn a_policy_that_flaps_is_always_one_of_its_contents() {
    let flip = |round: u64| {
        let mut policy = a_policy("flap", if round.is_multiple_of(2) { Action::Allow } else { Action::Deny });
        policy.groups = vec![Group::new([Rule::new([Match { destination_ports: vec![80.into()], ..Match::default() }])])];
        policy
    };
    let (mut writer, ads, network) = controller([Update::policy(&flip(0).key(), &flip(0)), Update::workload(&a_workload("w", "10.0.0.1"))]);
    let (world, _) = run(&network, config(false));
    until(&world, |world| world.synced.policies && world.synced.addresses).await;
    let (mut follower, _) = Follower::new(world.clone());
    let seen = Arc::new(AtomicU64::new(0));
    let counted = seen.clone();
    tokio::spawn(async move {
        loop {
            let (now, news) = follower.next().await;
            assert!(matches!(&news, News::These(_)) && news.touches_policies_of(&a_workload("w", "10.0.0.1")));
            let allowed = Because::AllowedBy(PolicyKey::new("shop/flap"));
            let denied = Because::DeniedBy(PolicyKey::new("shop/flap"));
            assert!([allowed, denied].contains(&verdict(&now, "w")), "never without the policy");
            counted.fetch_add(1, SeqCst);
        }
    });
    // A hundred a second for five minutes.
    for round in 1..=30_000 {
        writer.apply([Update::policy(&flip(round).key(), &flip(round))]);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    writer.apply([Update::policy(&flip(1).key(), &flip(1))]);
    let asked = Instant::now();
    until(&world, |world| verdict(world, "w") == Because::DeniedBy(PolicyKey::new("shop/flap"))).await;
    assert!(asked.elapsed() <= Duration::from_millis(100));
    assert!(seen.load(SeqCst) > 29_000, "each one was seen: {}", seen.load(SeqCst));
    assert!(ads.counters().responses.load(SeqCst) <= 30_010, "and sent at most once");
}

// --- on demand

// Z-217, Z-219
#[tokio::test(start_paused = true)]
async fn who_asks_for_a_name_is_let_go_when_the_answer_is_applied() {
    let mut web = Service::named("shop", "web");
    web.vips = vec![NetworkAddress::new("", "10.96.0.1".parse().unwrap())];
    let (mut writer, _ads, network) = controller([
        Update::workload(&member("w1", "10.0.0.1", "shop/web")),
        Update::workload(&a_workload("w2", "10.0.0.2")),
        Update::service(&web),
    ]);
    let (world, demand) = run(&network, config(true));
    until(&world, |world| world.synced.policies).await;
    assert_eq!((world.load().directory.workload_count(), world.load().synced.addresses), (0, false), "nothing unasked");

    demand.fetch("/10.0.0.2").await.unwrap();
    assert_eq!(uids(world.load().directory.workloads()), ["w2"], "asked by address, known when the wait is over");
    demand.fetch("/10.9.9.9").await.unwrap();
    assert_eq!(world.load().directory.workload_count(), 1, "there is none, and the wait is over too");
    demand.fetch("/10.96.0.1").await.unwrap();
    assert!(known(&world.load(), "w1") && world.load().directory.service(&key("shop/web")).is_some());
    let (one, two) = tokio::join!(demand.fetch("shop/web"), demand.fetch("shop/web"));
    assert_eq!((one, two), (Ok(()), Ok(())), "one question, two who wait");

    // What was asked for is kept up to date, also over a reconnect.
    network.set(Wire::Cut);
    writer.apply([Update::remove_address("w2"), Update::workload(&member("w3", "10.0.0.3", "shop/web"))]);
    let waiting = tokio::spawn({
        let demand = demand.clone();
        async move { demand.fetch("/10.0.0.4").await }
    });
    writer.apply([Update::workload(&a_workload("w4", "10.0.0.4"))]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!waiting.is_finished(), "waits through the outage");
    network.set(Wire::Open);
    waiting.await.unwrap().unwrap();
    let now = until(&world, |world| known(world, "w3") && !known(world, "w2")).await;
    assert!(known(&now, "w1") && known(&now, "w4"));
}

#[tokio::test(start_paused = true)]
async fn open_questions_are_bounded_and_abandoned_ones_make_place() {
    let (network, mut streams) = scripted();
    let mut few = config(true);
    few.limits.pending_max = 2;
    let (_world, demand) = run(&network, few);
    let mut script = streams.recv().await.unwrap();
    script.open().await;
    let ask = |name: &'static str| {
        let demand = demand.clone();
        tokio::spawn(async move { demand.fetch(name).await })
    };
    let (one, two) = (ask("/10.0.0.1"), ask("/10.0.0.2"));
    for _ in 0..2 {
        assert_eq!(script.hear().await.resource_names_subscribe.len(), 1);
    }
    assert_eq!(ask("/10.0.0.3").await.unwrap(), Err(NotAsked));
    one.abort();
    assert!(one.await.is_err());
    let three = ask("/10.0.0.3");
    assert_eq!(script.hear().await.resource_names_subscribe, ["/10.0.0.3"]);
    // A refused resource is an answer as well.
    let mut bad = resource("w3", wire::encode_workload(&a_workload("other", "10.0.0.3")));
    bad.aliases = vec!["/10.0.0.3".into()];
    assert_eq!(script.tell(ADDRESS, vec![bad], &["/10.0.0.2"]).await, "w3: it is called other inside");
    assert_eq!((two.await.unwrap(), three.await.unwrap()), (Ok(()), Ok(())));
}

// --- headers

#[tokio::test(start_paused = true)]
async fn the_token_is_read_for_each_stream_and_never_needed_to_be_the_same() {
    let (_catalog_writer, ads, network) = controller([]);
    let (writer, world) = world();
    let tokens = Arc::new(AtomicU64::new(0));
    let counted = tokens.clone();
    let dialing = network.clone();
    let token = move || match counted.fetch_add(1, SeqCst) {
        0 => Err("no such file".to_owned()),
        1 => Ok(Some("bad\ntoken".to_owned())),
        2 => Ok(None),
        _ => Ok(Some("ztunnel node-a 60\n".to_owned())),
    };
    let client = Client::new(config(false), move || dialing.clone().dial(), token, writer, rand::SeedableRng::seed_from_u64(1));
    let mut contact = client.contact();
    tokio::spawn(client.run(CancellationToken::new()));
    let mut reasons = Vec::new();
    while reasons.len() < 3 {
        contact.changed().await.unwrap();
        reasons.extend(contact.borrow_and_update().last_error.clone());
    }
    assert_eq!(reasons[0], "reading the token: no such file");
    assert_eq!(reasons[1], "header authorization: the value has characters that HTTP does not allow");
    assert!(reasons[2].contains("Unauthenticated"), "{}", reasons[2]);
    until(&world, |world| world.synced.policies).await;
    // The token lives for a minute; the stream ends with it and comes back with another.
    contact.wait_for(|contact| contact.connected).await.unwrap();
    let opened = Instant::now();
    contact.wait_for(|contact| !contact.connected).await.unwrap();
    assert_eq!(opened.elapsed().as_secs(), 60);
    contact.wait_for(|contact| contact.connected).await.unwrap();
    assert_eq!(ads.counters().unauthenticated.load(SeqCst), 1);
    assert_eq!(tokens.load(SeqCst), 5);
}

// A stream that ends with its token every minute comes back at once each time, not ever later.
#[tokio::test(start_paused = true)]
async fn streams_that_lived_long_are_no_series_of_failures() {
    let (_catalog_writer, ads, network) = controller([]);
    let (writer, _world) = world();
    let token = || Ok(Some("ztunnel node-a 60".to_owned()));
    let client = Client::new(config(false), move || network.clone().dial(), token, writer, rand::SeedableRng::seed_from_u64(1));
    tokio::spawn(client.run(CancellationToken::new()));
    tokio::time::sleep(Duration::from_secs(60 * 60)).await;
    assert_eq!(ads.counters().streams.load(SeqCst), 60);
}

#[test]
fn usual_ends() {
    let broken = Status::from_error(Box::new(io::Error::from(io::ErrorKind::BrokenPipe)));
    for (status, usual) in [
        (Status::unknown("x"), true),
        (Status::cancelled("x"), true),
        (Status::deadline_exceeded("x"), true),
        (Status::unavailable("I am full"), false),
        (Status::permission_denied("x"), false),
        (Status::resource_exhausted("x"), false),
        (Status::unauthenticated("x"), false),
    ] {
        assert_eq!(is_usual(&status), usual, "{status:?}");
    }
    assert!(matches!(broken.code(), Code::Unknown | Code::Unavailable), "{broken:?}");
    assert!(is_usual(&broken));
}

// --- what callers count

#[tokio::test(start_paused = true)]
async fn messages_refusals_and_ends_are_reported() {
    #[derive(Default)]
    struct Counts {
        messages: AtomicU64,
        bytes: AtomicU64,
        rejected: AtomicU64,
        ends: parking_lot::Mutex<Vec<Termination>>,
    }
    struct Observer(Arc<Counts>);
    impl Observe for Observer {
        fn message(&self, _: &str, bytes: usize) {
            self.0.messages.fetch_add(1, SeqCst);
            self.0.bytes.fetch_add(bytes as u64, SeqCst);
        }
        fn rejected(&self, type_url: &str, resources: usize) {
            assert_eq!(type_url, ADDRESS);
            self.0.rejected.fetch_add(resources as u64, SeqCst);
        }
        fn terminated(&self, how: Termination) {
            self.0.ends.lock().push(how);
        }
    }
    let counts = Arc::new(Counts::default());
    let (network, mut streams) = scripted();
    let (writer, _world) = world();
    tokio::spawn(client(&network, config(false), writer).observed_by(Observer(counts.clone())).run(CancellationToken::new()));
    let mut script = streams.recv().await.unwrap();
    script.open().await;
    script.tell(ADDRESS, vec![Resource { name: "x".into(), ..Resource::default() }], &[]).await;
    script.responses.send(Err(Status::permission_denied("go away"))).await.unwrap();
    drop(script);
    drop(streams.recv().await.unwrap());
    let mut script = streams.recv().await.unwrap();
    script.open().await;
    network.set(Wire::Cut);
    while counts.ends.lock().len() < 4 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    use Termination::*;
    assert_eq!(counts.ends.lock()[..4], [Error, Complete, Reconnect, ConnectionError]);
    assert_eq!((counts.messages.load(SeqCst), counts.rejected.load(SeqCst)), (1, 1));
    assert!(counts.bytes.load(SeqCst) > 40);
}

// F-42
#[tokio::test(start_paused = true)]
async fn a_large_mesh_is_synced_whole_and_a_change_stays_small() {
    // The full size is 200,000 workloads; a tenth keeps the test short, MESH_XDS_WORKLOADS sets another number.
    let count: usize = std::env::var("MESH_XDS_WORKLOADS").map_or(20_000, |text| text.parse().unwrap());
    let service = |i: usize| Update::service(&Service::named("shop", &format!("s{i}")));
    let workload = |i: usize| member(&format!("w{i}"), &std::net::Ipv4Addr::from(0x0a00_0000 + i as u32).to_string(), &format!("shop/s{}", i / 2));
    let policy = |i: usize| a_policy(&format!("p{i}"), Action::Deny);
    let services = (0..count / 2).map(service);
    let policies = (0..count / 20).map(|i| Update::policy(&policy(i).key(), &policy(i)));
    let began = std::time::Instant::now();
    let (mut writer, ads, network) = controller(services.chain(policies).chain((0..count).map(|i| Update::workload(&workload(i)))));
    let built = began.elapsed();
    let (world, _) = run(&network, config(false));
    until(&world, |world| world.synced.addresses && world.synced.policies).await;
    println!("{count} workloads: catalog {built:?}, sync {:?}", began.elapsed() - built);
    assert_eq!((world.load().directory.workload_count(), world.load().policies.len()), (count, count / 20));
    let counters = ads.counters();
    let before = (counters.responses.load(SeqCst), counters.resources.load(SeqCst));
    assert_eq!(before, (2, (count + count / 2 + count / 20) as u64), "one answer per type");
    let version = world.version();
    writer.apply([Update::workload(&a_workload("w7", "10.255.0.1"))]);
    until(&world, |now| now.directory.workload_at(&NetworkAddress::new("", "10.255.0.1".parse().unwrap())).is_some()).await;
    assert_eq!((counters.responses.load(SeqCst), counters.resources.load(SeqCst)), (3, before.1 + 1));
    assert_eq!(world.version(), version + 1);
}

// A catalog entry that no client can read must not keep the others from becoming ready for ever: it is refused, and sound
// answers of the same type make up for it.
#[tokio::test(start_paused = true)]
async fn nacks_reach_the_operator() {
    let (mut writer, ads, network) = controller([Update::Put(ADDRESS, Offer::new("broken", b"\xff".to_vec().into()))]);
    let (world, _) = run(&network, config(false));
    until(&world, |world| world.synced.policies).await;
    writer.apply([Update::workload(&a_workload("w1", "10.0.0.1"))]);
    until(&world, |world| world.synced.addresses).await;
    let status = loop {
        let status = ads.clients().remove(0).types.remove(ADDRESS).unwrap();
        if !status.acked.is_empty() {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert_eq!((status.nacks, ads.counters().nacks.load(SeqCst)), (1, 1));
    assert!(status.last_nack.unwrap().starts_with("broken: Address: "));
    assert_eq!(status.sent, status.acked);
}
