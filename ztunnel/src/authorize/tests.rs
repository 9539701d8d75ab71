use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mesh_model::change::Change;
use mesh_model::identity::SpiffeId;
use mesh_model::workload::PolicyKey;
use mesh_policy::{Action, Group, Match, Policy, PolicySet, Rule, Scope, StringMatch};
use mesh_xds::world::{Edit, WorldWriter, world};

use super::*;

fn server(policies: &[&str]) -> Workload {
    let mut workload = Workload::named("Kubernetes//Pod/shop/web", "shop", "web");
    workload.service_account = "web".into();
    workload.authorization_policies = policies.iter().map(|key| PolicyKey::new(key)).collect();
    workload
}

fn own() -> OwnWorkload {
    OwnWorkload { node: None, namespace: "shop".into(), service_account: "web".into(), name: "web".into() }
}

fn flow(account: Option<&str>) -> Flow {
    let identity = account.map(|name| SpiffeId::new("cluster.local", "shop", name));
    Flow::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)), identity, SocketAddr::from(([10, 0, 0, 1], 80)))
}

fn deny(name: &str, scope: Scope, account: &str) -> (PolicyKey, Arc<Policy>) {
    let mut policy = Policy::new("shop", name, scope, Action::Deny);
    let principal = StringMatch::Exact(SpiffeId::new("cluster.local", "shop", account).principal().into());
    let matches = [Match { principals: vec![principal.into()], ..Match::default() }];
    policy.groups = vec![Group::new([Rule::new(matches)])];
    (policy.key(), Arc::new(policy))
}

fn put(writer: &mut WorldWriter, (key, policy): (PolicyKey, Arc<Policy>)) {
    writer.apply([Edit::Policy(key, policy)]);
}

/// A synced world with the server in it, and its watcher running.
fn serving() -> (WorldWriter, Watched<World>, Permits) {
    let (mut writer, watched) = world();
    writer.apply([Edit::Address(Change::Workload(Arc::new(server(&[])))), Edit::PoliciesSynced, Edit::AddressesSynced]);
    let permits = Permits::default();
    tokio::spawn(permits.clone().watch(watched.clone(), own()));
    (writer, watched, permits)
}

/// Lets the watcher and everything it woke run until nothing more happens.
async fn settle() {
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
}

fn is_lost(permit: &mut Permit) -> Option<Because> {
    permit.lost.try_recv().ok()
}

// Z-072
#[tokio::test(start_paused = true)]
async fn a_policy_change_takes_back_only_what_it_denies() {
    let (mut writer, world, permits) = serving();
    settle().await;
    let mut evil = permits.authorize(&world, &server(&[]), flow(Some("evil"))).unwrap();
    let mut good = permits.authorize(&world, &server(&[]), flow(Some("good"))).unwrap();
    put(&mut writer, deny("no-evil", Scope::Namespace, "evil"));
    assert_eq!(evil.lost().await, Because::DeniedBy(PolicyKey::new("shop/no-evil")));
    settle().await;
    assert_eq!(is_lost(&mut good), None);
    assert!(permits.authorize(&world, &server(&[]), flow(Some("evil"))).is_err());
}

#[tokio::test(start_paused = true)]
async fn attaching_a_known_policy_cuts_open_connections() {
    let (mut writer, world, permits) = serving();
    put(&mut writer, deny("no-evil", Scope::WorkloadSelector, "evil"));
    settle().await;
    let mut evil = permits.authorize(&world, &server(&[]), flow(Some("evil"))).unwrap();
    writer.apply([Edit::Address(Change::Workload(Arc::new(server(&["shop/no-evil"]))))]);
    assert_eq!(evil.lost().await, Because::DeniedBy(PolicyKey::new("shop/no-evil")));
}

#[tokio::test(start_paused = true)]
async fn a_reference_to_an_unknown_policy_refuses() {
    let (mut writer, world, permits) = serving();
    settle().await;
    let mut open = permits.authorize(&world, &server(&[]), flow(None)).unwrap();
    writer.apply([Edit::Address(Change::Workload(Arc::new(server(&["shop/later"]))))]);
    assert_eq!(open.lost().await, Because::UnknownPolicy(PolicyKey::new("shop/later")));
}

#[tokio::test(start_paused = true)]
async fn changes_elsewhere_judge_nobody() {
    let (mut writer, world, permits) = serving();
    settle().await;
    // A permit for what policy has since refused, so that any new judgement would show.
    let mut held = permits.authorize(&Watched::constant(World::new(Default::default(), PolicySet::default())), &server(&[]), flow(Some("evil"))).unwrap();
    writer.apply([Edit::Address(Change::Workload(Arc::new(Workload::named("other", "elsewhere", "other"))))]);
    let mut elsewhere = Policy::new("elsewhere", "deny-all", Scope::Namespace, Action::Deny);
    elsewhere.groups = vec![Group::default()];
    put(&mut writer, (elsewhere.key(), Arc::new(elsewhere)));
    settle().await;
    assert_eq!(is_lost(&mut held), None);
    assert!(world.load().policies.len() == 1);
}

#[tokio::test(start_paused = true)]
async fn a_workload_whose_description_goes_keeps_its_policies() {
    let (mut writer, world, permits) = serving();
    settle().await;
    let mut evil = permits.authorize(&world, &server(&[]), flow(Some("evil"))).unwrap();
    writer.apply([Edit::Address(Change::Remove("Kubernetes//Pod/shop/web".into()))]);
    settle().await;
    assert_eq!(is_lost(&mut evil), None);
    put(&mut writer, deny("no-evil", Scope::Namespace, "evil"));
    assert_eq!(evil.lost().await, Because::DeniedBy(PolicyKey::new("shop/no-evil")));
}

// Z-070 Z-071
#[tokio::test(start_paused = true)]
async fn every_holder_is_told_and_dropping_a_permit_frees_its_place() {
    let (mut writer, world, permits) = serving();
    settle().await;
    let mut both = [0, 1].map(|_| permits.authorize(&world, &server(&[]), flow(Some("evil"))).unwrap());
    let other = permits.authorize(&world, &server(&[]), flow(Some("good"))).unwrap();
    assert_eq!(permits.len(), 3);
    drop(other);
    assert_eq!(permits.len(), 2);
    put(&mut writer, deny("no-evil", Scope::Global, "evil"));
    for permit in &mut both {
        assert!(!permit.lost().await.is_allowed());
    }
    assert!(permits.is_empty());
}
