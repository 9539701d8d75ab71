use std::net::IpAddr;

use mesh_model::service::Service;
use mesh_policy::{Action, Because, Flow, Group, Scope, decide};

use super::*;
use crate::recent;

fn workload(uid: &str, namespace: &str, ip: &str, policies: &[&str]) -> Workload {
    let mut workload = Workload::named(uid, namespace, uid);
    workload.addresses = vec![ip.parse().unwrap()];
    workload.authorization_policies = policies.iter().map(|key| PolicyKey::new(key)).collect();
    workload
}

fn put(workload: &Workload) -> Edit {
    Edit::Address(Change::Workload(Arc::new(workload.clone())))
}

fn remove(name: &str) -> Edit {
    Edit::Address(Change::Remove(name.into()))
}

/// A policy of `shop` that matches everything.
fn policy(key: &str, scope: Scope, action: Action) -> Edit {
    let mut policy = Policy::new("shop", "p", scope, action);
    policy.groups = vec![Group::default()];
    Edit::Policy(PolicyKey::new(key), Arc::new(policy))
}

fn address(ip: &str) -> NetworkAddress {
    NetworkAddress::new("", ip.parse().unwrap())
}

fn verdict(world: &World, workload: &Workload) -> Because {
    let from: IpAddr = "10.9.9.9".parse().unwrap();
    decide(&world.policies, workload, &Flow::new(from, None, "10.0.0.1:80".parse().unwrap())).because
}

#[tokio::test]
async fn a_follower_hears_what_touches_its_pod_and_nothing_else() {
    let (mut writer, world) = world();
    let mine = workload("mine", "shop", "10.0.0.1", &["shop/p"]);
    writer.apply([put(&mine), Edit::PoliciesSynced]);
    let (mut follower, now) = Follower::new(world);
    assert!(now.directory.workload(&mine.uid).is_some());

    writer.apply([put(&workload("other", "back", "10.0.0.2", &[])), policy("back/x", Scope::WorkloadSelector, Action::Deny)]);
    let (_, news) = follower.next().await;
    assert!(news.touches_workload(&Uid::new("other")) && news.touches_address(&address("10.0.0.2")));
    assert!(!news.touches_workload(&mine.uid) && !news.touches_address(&address("10.0.0.1")) && !news.touches_policies_of(&mine));

    writer.apply([policy("shop/p", Scope::WorkloadSelector, Action::Deny)]);
    writer.apply([remove("other")]);
    let (now, news) = follower.next().await; // both batches at once
    assert!(news.touches_policies_of(&mine) && news.touches_workload(&Uid::new("other")));
    assert_eq!(verdict(&now, &mine), Because::DeniedBy(PolicyKey::new("shop/p")));

    let (_, nothing) = follower.look();
    assert!(nothing.is_nothing());
}

#[test]
fn what_changes_nothing_is_not_published() {
    let (mut writer, world) = world();
    let one = workload("one", "shop", "10.0.0.1", &[]);
    for _ in 0..3 {
        writer.apply([put(&one), remove("unknown"), Edit::AddressesSynced]);
    }
    assert_eq!((world.version(), world.load().version()), (1, 1));
    writer.apply([]);
    assert_eq!(world.version(), 1);
}

#[test]
fn large_updates_are_published_in_batches() {
    let (mut writer, world) = world();
    writer.apply((0..2_500).map(|i| put(&workload(&format!("w{i}"), "shop", &format!("10.0.{}.{}", i / 250, i % 250), &[]))));
    assert_eq!(world.version(), 3);
    assert_eq!(world.load().directory.workload_count(), 2_500);
}

#[test]
fn the_memory_of_changes_is_bounded_and_says_so() {
    let (mut writer, world) = world();
    let (mut follower, _) = Follower::new(world.clone());
    writer.apply((0..100_000).map(|i| put(&workload(&format!("w{i}"), "shop", &format!("10.{}.{}.{}", i >> 16, i >> 8 & 255, i & 255), &[]))));
    let now = world.load();
    let keys = now.recent.keys();
    assert!(keys <= recent::KEYS && keys > recent::KEYS - 3 * BATCH, "{keys}");
    let (_, news) = follower.look();
    assert!(matches!(news, News::Everything) && news.touches_workload(&Uid::new("whoever")));

    for i in 0..=recent::BATCHES {
        writer.apply([Edit::Address(Change::Service(Arc::new(Service::named("shop", &format!("s{i}")))))]);
    }
    assert_eq!(world.load().recent.len(), recent::BATCHES);
    assert!(matches!(follower.look().1, News::Everything), "one batch more than is remembered");
    writer.apply([remove("shop/s0")]);
    let (_, news) = follower.look();
    assert!(matches!(news, News::These(_)) && news.touches_service(&NamespacedHostname::new("shop", "s0")));
}

// F-44
#[test]
fn a_reference_and_its_policy_may_come_and_go_in_any_order() {
    let (mut writer, world) = world();
    let with = workload("w", "shop", "10.0.0.1", &["shop/p"]);
    let without = workload("w", "shop", "10.0.0.1", &[]);
    let key = || PolicyKey::new("shop/p");
    let allow = || policy("shop/p", Scope::WorkloadSelector, Action::Allow);
    let now = |workload: &Workload| verdict(&world.load(), workload);
    assert_eq!(now(&with), Because::NotSynced);
    writer.apply([Edit::PoliciesKnown]);

    // workload first: refused until the policy comes
    writer.apply([put(&with)]);
    assert_eq!(now(&with), Because::UnknownPolicy(key()));
    writer.apply([allow()]);
    assert_eq!(now(&with), Because::AllowedBy(key()));

    // policy removed first: in force until the workload lets it go, also when the workload is sent again in between
    writer.apply([Edit::RemovePolicy(key())]);
    let mut again = with.clone();
    again.capacity = 2;
    writer.apply([put(&again)]);
    assert_eq!(now(&with), Because::AllowedBy(key()));
    writer.apply([put(&without)]);
    assert_eq!(now(&with), Because::UnknownPolicy(key()), "the content went with the last reference");

    // policy first, then the workload; then the workload goes altogether
    writer.apply([allow(), put(&with)]);
    assert_eq!(now(&with), Because::AllowedBy(key()));
    writer.apply([Edit::RemovePolicy(key()), remove("w")]);
    assert_eq!(world.load().policies.retired().count(), 0);
}

#[test]
fn policies_become_known_before_they_are_all_readable() {
    let (mut writer, world) = world();
    let one = workload("w", "shop", "10.0.0.1", &[]);
    writer.apply([Edit::RejectPolicy(PolicyKey::new("shop/bad"), Affected::Namespace("shop".into())), Edit::PoliciesKnown]);
    assert!(!world.load().synced.policies);
    assert_eq!(verdict(&world.load(), &one), Because::UnreadablePolicy(PolicyKey::new("shop/bad")));
    assert_eq!(verdict(&world.load(), &workload("x", "back", "10.0.0.2", &[])), Because::NoAllowPolicy);
    writer.apply([policy("shop/bad", Scope::Namespace, Action::Allow), Edit::PoliciesSynced]);
    assert!(world.load().synced.policies);
    assert_eq!(verdict(&world.load(), &one), Because::AllowedBy(PolicyKey::new("shop/bad")));
}
