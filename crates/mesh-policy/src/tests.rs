//! The tables: one row, one fact. `oracle` compares everything against a second reading of the rules.

pub(crate) mod oracle;

use std::sync::Arc;

use mesh_model::identity::SpiffeId;
use mesh_model::workload::{PolicyKey, Workload};

use crate::decide::applicable;
use crate::*;

fn net(text: &str) -> Entry<ipnet::IpNet> {
    Entry::Value(text.parse().unwrap())
}

fn exact(text: &str) -> Entry<StringMatch> {
    StringMatch::exact(text).into()
}

fn prefix(text: &str) -> Entry<StringMatch> {
    StringMatch::prefix(text).into()
}

fn suffix(text: &str) -> Entry<StringMatch> {
    StringMatch::suffix(text).into()
}

fn presence() -> Entry<StringMatch> {
    StringMatch::Presence.into()
}

fn account(namespace: &str, service_account: &str) -> ServiceAccountMatch {
    ServiceAccountMatch { namespace: namespace.into(), service_account: service_account.into() }
}

/// One group of one rule of these matches.
fn policy(action: Action, matches: impl IntoIterator<Item = Match>) -> Policy {
    let mut policy = Policy::new("shop", "p", Scope::Namespace, action);
    policy.groups = vec![Group::new([Rule::new(matches)])];
    policy
}

fn server() -> Workload {
    Workload::named("server", "shop", "server")
}

fn flow(source: &str, identity: Option<&str>, destination: &str) -> Flow {
    let identity = identity.map(|text| text.parse::<SpiffeId>().unwrap());
    Flow::new(source.parse().unwrap(), identity, destination.parse().unwrap())
}

fn mtls() -> Flow {
    flow("10.0.0.1", Some("spiffe://td/ns/front/sa/cart"), "10.0.0.2:8080")
}

fn plaintext() -> Flow {
    flow("10.0.0.1", None, "10.0.0.2:8080")
}

fn set_of(policies: impl IntoIterator<Item = Policy>) -> PolicySet {
    let mut set = PolicySet::default();
    for policy in policies {
        set.insert(policy.key(), Arc::new(policy));
    }
    set
}

fn because(policies: impl IntoIterator<Item = Policy>, flow: &Flow) -> Because {
    decide(&set_of(policies), &server(), flow).because
}

fn allows(one: Match, flow: &Flow) -> bool {
    because([policy(Action::Allow, [one])], flow).is_allowed()
}

fn key(text: &str) -> PolicyKey {
    PolicyKey::new(text)
}

fn by_source(range: &str) -> Match {
    Match { source_ips: vec![net(range)], ..Match::default() }
}

fn to_port(port: u16) -> Match {
    Match { destination_ports: vec![port.into()], ..Match::default() }
}

// Z-109
#[test]
fn emptiness_means_what_the_table_says() {
    let yes = || to_port(8080);
    let no = || to_port(1);
    let empty = Match::default;
    // groups -> rules -> matches; does the policy match?
    type Groups = Vec<Vec<Vec<Match>>>;
    let table: Vec<(&str, Groups, bool)> = vec![
        ("no group", vec![], false),
        ("a group of no rules", vec![vec![]], true),
        ("a rule of no matches", vec![vec![vec![]]], true),
        ("only an empty match", vec![vec![vec![empty()]]], false),
        ("only empty matches", vec![vec![vec![empty(), empty()]]], false),
        ("an empty match is skipped", vec![vec![vec![empty(), yes()]]], true),
        ("an empty match does not help", vec![vec![vec![empty(), no()]]], false),
        ("a dead rule kills its group", vec![vec![vec![yes()], vec![empty()]]], false),
        ("a dead rule kills only its group", vec![vec![vec![empty()]], vec![vec![yes()]]], true),
        ("no matches and a match", vec![vec![vec![], vec![no()]]], false),
    ];
    for (name, groups, matches) in table {
        for action in [Action::Allow, Action::Deny] {
            let mut one = Policy::new("shop", "p", Scope::Namespace, action);
            one.groups = groups.iter().map(|group| Group::new(group.iter().cloned().map(Rule::new))).collect();
            let expected = match (action, matches) {
                (Action::Allow, true) => Because::AllowedBy(key("shop/p")),
                (Action::Allow, false) => Because::NoneAllowed { malformed: None },
                (Action::Deny, true) => Because::DeniedBy(key("shop/p")),
                (Action::Deny, false) => Because::NoAllowPolicy,
            };
            assert_eq!(because([one], &mtls()), expected, "{name}, {action:?}");
        }
    }
}

// Z-110, Z-111
#[test]
fn groups_or_rules_and_matches_or_fields_and() {
    let [a, b, c] = [by_source("10.0.0.0/24"), by_source("10.0.1.0/24"), to_port(8080)];
    let mut one = Policy::new("shop", "p", Scope::Namespace, Action::Allow);
    one.groups = vec![Group::new([Rule::new([a, b]), Rule::new([c])])]; // (a or b) and c
    let table = [
        ("10.0.0.1", 8080, true),
        ("10.0.1.1", 8080, true),
        ("10.0.2.1", 8080, false),
        ("10.0.0.1", 80, false),
    ];
    let ask = |source: &str, port: u16| flow(source, None, &format!("10.0.0.2:{port}"));
    for (source, port, expected) in table {
        assert_eq!(because([one.clone()], &ask(source, port)).is_allowed(), expected, "{source} {port}");
    }
    // A second group is another way in; inside a match both fields must hold.
    let both = Match { source_ips: vec![net("10.9.0.0/16")], destination_ports: vec![80.into(), 81.into()], ..Match::default() };
    one.groups.push(Group::new([Rule::new([both])]));
    for (source, port, expected) in
        [("10.9.0.1", 80, true), ("10.9.0.1", 81, true), ("10.9.0.1", 82, false), ("10.8.0.1", 80, false), ("10.0.0.1", 8080, true)]
    {
        assert_eq!(because([one.clone()], &ask(source, port)).is_allowed(), expected, "{source} {port}");
    }
}

// Z-112
#[test]
fn string_matches() {
    use StringMatch as S;
    let table = [
        (S::exact("abc"), "abc", true),
        (S::exact("abc"), "Abc", false),
        (S::exact("abc"), "abcd", false),
        (S::exact(""), "", true),
        (S::prefix("ab"), "abc", true),
        (S::prefix("bc"), "abc", false),
        (S::prefix(""), "", true),
        (S::suffix("bc"), "abc", true),
        (S::suffix("ab"), "abc", false),
        (S::suffix(""), "x", true),
        (S::Presence, "x", true),
        (S::Presence, "", false),
    ];
    for (wanted, text, expected) in table {
        assert_eq!(wanted.matches(text), expected, "{wanted:?} {text:?}");
    }
}

// Z-113, Z-114, Z-115, Z-116, Z-117, Z-118, Z-119, Z-120, Z-121, Z-122, Z-123, Z-124, Z-125
#[test]
fn every_field_against_plaintext_a_peer_and_another_peer() {
    let other = flow("192.168.0.9", Some("spiffe://td/ns/back/sa/db"), "10.7.7.7:9");
    // name, the match, allowed for: plaintext, mtls(), other
    let table: Vec<(&str, Match, [bool; 3])> = vec![
        ("namespaces", Match { namespaces: vec![exact("front")], ..Match::default() }, [false, true, false]),
        ("namespaces prefix", Match { namespaces: vec![prefix("fr")], ..Match::default() }, [false, true, false]),
        ("namespaces presence", Match { namespaces: vec![presence()], ..Match::default() }, [false, true, true]),
        ("namespaces empty prefix", Match { namespaces: vec![prefix("")], ..Match::default() }, [true, true, true]),
        ("not_namespaces", Match { not_namespaces: vec![exact("front")], ..Match::default() }, [true, false, true]),
        ("not_namespaces presence", Match { not_namespaces: vec![presence()], ..Match::default() }, [true, false, false]),
        ("service_accounts", Match { service_accounts: vec![account("front", "cart")], ..Match::default() }, [false, true, false]),
        ("service_accounts, both parts", Match { service_accounts: vec![account("front", "db")], ..Match::default() }, [false, false, false]),
        ("not_service_accounts", Match { not_service_accounts: vec![account("front", "cart")], ..Match::default() }, [true, false, true]),
        ("principals", Match { principals: vec![exact("td/ns/front/sa/cart")], ..Match::default() }, [false, true, false]),
        ("principals with scheme", Match { principals: vec![exact("spiffe://td/ns/front/sa/cart")], ..Match::default() }, [false, false, false]),
        ("principals presence", Match { principals: vec![presence()], ..Match::default() }, [false, true, true]),
        ("principals empty prefix", Match { principals: vec![prefix("")], ..Match::default() }, [false, true, true]),
        ("principals suffix", Match { principals: vec![suffix("/sa/db"), suffix("/sa/x")], ..Match::default() }, [false, false, true]),
        ("not_principals", Match { not_principals: vec![exact("td/ns/front/sa/cart")], ..Match::default() }, [true, false, true]),
        ("not_principals presence", Match { not_principals: vec![presence()], ..Match::default() }, [true, false, false]),
        ("source_ips", by_source("10.0.0.1/32"), [true, true, false]),
        ("not_source_ips", Match { not_source_ips: vec![net("10.0.0.1/32")], ..Match::default() }, [false, false, true]),
        ("destination_ips", Match { destination_ips: vec![net("10.0.0.2/32")], ..Match::default() }, [true, true, false]),
        ("not_destination_ips", Match { not_destination_ips: vec![net("10.0.0.2/32")], ..Match::default() }, [false, false, true]),
        ("cidr_range with host bits", by_source("10.0.0.77/24"), [true, true, false]),
        ("cidr_range everything", by_source("0.0.0.0/0"), [true, true, true]),
        ("cidr_range other family", by_source("::/0"), [false, false, false]),
        ("cidr_range mapped", by_source("::ffff:10.0.0.1/128"), [false, false, false]),
        ("destination_ports", to_port(8080), [true, true, false]),
        ("not_destination_ports", Match { not_destination_ports: vec![8080.into(), 81.into()], ..Match::default() }, [false, false, true]),
    ];
    for (name, one, expected) in table {
        let answers = [&plaintext(), &mtls(), &other].map(|flow| allows(one.clone(), flow));
        assert_eq!(answers, expected, "{name}");
    }
}

#[test]
fn a_mapped_peer_address_is_the_ipv4_address() {
    let mapped = flow("::ffff:10.0.0.1", None, "[::ffff:10.0.0.2]:8080");
    assert_eq!(mapped, plaintext());
    assert_eq!(because([policy(Action::Deny, [by_source("10.0.0.0/8")])], &mapped), Because::DeniedBy(key("shop/p")));
}

// Z-133
#[test]
fn deny_beats_allow_and_allow_excludes_the_rest() {
    let named = |name: &str, action, one: Match| {
        let mut policy = policy(action, [one]);
        policy.name = name.into();
        policy
    };
    let hit = || to_port(8080);
    let miss = || to_port(1);
    let allow = |one| named("allow", Action::Allow, one);
    let deny = |one| named("deny", Action::Deny, one);
    let denied = || Because::DeniedBy(key("shop/deny"));
    let allowed = || Because::AllowedBy(key("shop/allow"));
    let table = [
        (vec![], Because::NoAllowPolicy),
        (vec![deny(miss())], Because::NoAllowPolicy),
        (vec![deny(hit())], denied()),
        (vec![allow(hit())], allowed()),
        (vec![allow(miss())], Because::NoneAllowed { malformed: None }),
        (vec![allow(hit()), deny(miss())], allowed()),
        (vec![allow(hit()), deny(hit())], denied()),
        (vec![allow(miss()), deny(hit())], denied()),
        (vec![allow(miss()), deny(miss())], Because::NoneAllowed { malformed: None }),
        (vec![allow(miss()), named("allow-2", Action::Allow, hit())], Because::AllowedBy(key("shop/allow-2"))),
    ];
    for (policies, expected) in table {
        assert_eq!(because(policies.clone(), &mtls()), expected, "{policies:#?}");
    }
}

// Z-134
#[test]
fn who_is_selected() {
    let deny_all = |namespace: &str, scope| {
        let mut one = Policy::new(namespace, "p", scope, Action::Deny);
        one.groups = vec![Group::default()];
        one
    };
    // the policy, the workload's namespace, what it lists, denied?
    let table = [
        (deny_all("root", Scope::Global), "shop", "", true),
        (deny_all("shop", Scope::Namespace), "shop", "", true),
        (deny_all("shop", Scope::Namespace), "other", "", false),
        (deny_all("shop", Scope::Namespace), "other", "shop/p", true),
        (deny_all("shop", Scope::WorkloadSelector), "shop", "", false),
        (deny_all("shop", Scope::WorkloadSelector), "shop", "shop/p", true),
        (deny_all("root", Scope::WorkloadSelector), "shop", "root/p", true),
        // A namespace policy of no namespace: the reading that enforces more.
        (deny_all("", Scope::Namespace), "shop", "", true),
    ];
    for (policy, namespace, listed, denied) in table {
        let mut workload = Workload::named("w", namespace, "w");
        workload.authorization_policies = Some(listed).filter(|key| !key.is_empty()).map(key).into_iter().collect();
        let set = set_of([policy.clone()]);
        let verdict = decide(&set, &workload, &mtls());
        assert_eq!(!verdict.is_allowed(), denied, "{policy:?} on {namespace}, listed {listed:?}");
        assert_eq!(applicable(&set, &workload).count(), usize::from(denied));
    }
}

// Z-135
#[test]
fn dry_run_is_noted_and_never_decides() {
    let dry = |name: &str, action, one| {
        let mut policy = policy(action, [one]);
        (policy.name, policy.dry_run) = (name.into(), true);
        policy
    };
    let verdict = |policies: Vec<Policy>| decide(&set_of(policies), &server(), &mtls());
    let hit = || to_port(8080);
    let miss = || to_port(1);

    let answer = verdict(vec![dry("deny", Action::Deny, hit())]);
    assert_eq!(answer.because, Because::NoAllowPolicy);
    assert_eq!(answer.dry_run, [DryRunNote::WouldDeny(key("shop/deny"))]);
    assert_eq!(answer.dry_run[0].to_string(), "dry-run: would be denied by: shop/deny");

    let answer = verdict(vec![dry("allow", Action::Allow, miss()), dry("deny", Action::Deny, miss())]);
    assert_eq!(answer.because, Because::NoAllowPolicy, "a dry-run ALLOW is not an existing ALLOW");
    assert_eq!(answer.dry_run, [DryRunNote::WouldNotAllow(key("shop/allow"))]);

    let answer = verdict(vec![dry("allow", Action::Allow, hit()), policy(Action::Allow, [miss()])]);
    assert_eq!(answer.because, Because::NoneAllowed { malformed: None }, "a dry-run ALLOW allows nothing");
    assert_eq!(answer.dry_run, [DryRunNote::WouldAllow(key("shop/allow"))]);
}

// Z-137
#[test]
fn a_policy_that_changes_scope_leaves_no_stale_index() {
    let at = |namespace: &str, scope| {
        let mut one = Policy::new(namespace, "p", scope, Action::Deny);
        one.groups = vec![Group::default()];
        Arc::new(one)
    };
    let name = key("x/p");
    let denied_in = |set: &PolicySet| -> Vec<&str> {
        let denied = |namespace: &&str| !decide(set, &Workload::named("w", namespace, "w"), &mtls()).is_allowed();
        ["shop", "back", "other"].into_iter().filter(denied).collect()
    };
    let steps = [
        (at("shop", Scope::Namespace), vec!["shop"]),
        (at("shop", Scope::WorkloadSelector), vec![]),
        (at("shop", Scope::Global), vec!["shop", "back", "other"]),
        (at("back", Scope::Namespace), vec!["back"]),
        (at("shop", Scope::Namespace), vec!["shop"]),
    ];
    let mut set = PolicySet::default();
    for (policy, expected) in steps {
        let before = set.clone();
        let seen_before = denied_in(&before).len();
        set.insert(name.clone(), policy);
        assert_eq!(denied_in(&set), expected);
        assert_eq!(denied_in(&before).len(), seen_before, "a snapshot taken earlier never changes");
    }
    set.remove(&name);
    assert!(denied_in(&set).is_empty() && set.is_empty());
}

#[test]
fn a_change_names_those_it_affects() {
    let at = |scope| Arc::new(Policy::new("shop", "p", scope, Action::Deny));
    let name = key("shop/p");
    let shop = || Affected::Namespace("shop".into());
    let listed = || Affected::Referrers(name.clone());
    let mut set = PolicySet::awaiting();
    assert_eq!(set.insert(name.clone(), at(Scope::Namespace)), [shop(), listed()]);
    assert_eq!(set.insert(name.clone(), at(Scope::Namespace)), [], "an equal policy affects nobody");
    assert_eq!(set.insert(name.clone(), at(Scope::Global)), [Affected::Everyone, shop(), listed()]);
    assert_eq!(set.insert(name.clone(), at(Scope::WorkloadSelector)), [Affected::Everyone, listed()]);
    set.reference(&name);
    assert_eq!(set.remove(&name), [], "those that list it keep the last content");
    assert_eq!(set.remove(&name), []);
    assert_eq!(set.mark_synced(), [Affected::Everyone]);
    assert_eq!(set.mark_synced(), []);
}

// F-44
#[test]
fn an_unknown_reference_refuses_until_it_is_known() {
    let allow = Arc::new(policy(Action::Allow, [to_port(8080)]));
    let mut workload = server();
    workload.authorization_policies = vec![key("shop/p")];
    let unknown = Because::UnknownPolicy(key("shop/p"));

    // workload first, policy second
    let mut set = PolicySet::default();
    set.reference(&key("shop/p"));
    assert_eq!(decide(&set, &workload, &mtls()).because, unknown);
    set.insert(key("shop/p"), allow.clone());
    assert_eq!(decide(&set, &workload, &mtls()).because, Because::AllowedBy(key("shop/p")));

    // removed while listed: the last content stays, also its refusals
    set.remove(&key("shop/p"));
    assert_eq!(decide(&set, &workload, &mtls()).because, Because::AllowedBy(key("shop/p")));
    let elsewhere = flow("10.0.0.1", None, "10.0.0.2:81");
    assert_eq!(decide(&set, &workload, &elsewhere).because, Because::NoneAllowed { malformed: None });
    // ... but no more for those that do not list it
    assert_eq!(decide(&set, &server(), &elsewhere).because, Because::NoAllowPolicy);

    // the last reference goes, and with it the content
    set.unreference(&key("shop/p"));
    assert_eq!(set.retired().count(), 0);
    assert_eq!(decide(&set, &workload, &mtls()).because, unknown);

    // a matching DENY is the better reason
    let mut deny = policy(Action::Deny, [to_port(8080)]);
    deny.name = "deny".into();
    set.insert(deny.key(), Arc::new(deny));
    assert_eq!(decide(&set, &workload, &mtls()).because, Because::DeniedBy(key("shop/deny")));
}

// F-15
#[test]
fn a_malformed_entry_never_widens() {
    let m = Match::default;
    let hit = || net("10.0.0.0/8");
    let miss = || net("172.16.0.0/12");
    // the match, does an ALLOW match, does a DENY match (the flow comes from 10.0.0.1 to port 8080)
    let table: Vec<(&str, Match, bool, bool)> = vec![
        ("alone", Match { source_ips: vec![Entry::Malformed], ..m() }, false, true),
        ("alone, not", Match { not_source_ips: vec![Entry::Malformed], ..m() }, false, true),
        ("beside a hit", Match { source_ips: vec![Entry::Malformed, hit()], ..m() }, true, true),
        ("beside a miss", Match { source_ips: vec![miss(), Entry::Malformed], ..m() }, false, true),
        ("not, beside a hit", Match { not_source_ips: vec![Entry::Malformed, hit()], ..m() }, false, false),
        ("not, beside a miss", Match { not_source_ips: vec![miss(), Entry::Malformed], ..m() }, false, true),
        ("another field misses", Match { source_ips: vec![Entry::Malformed], destination_ports: vec![1.into()], ..m() }, false, false),
        ("another field hits", Match { source_ips: vec![Entry::Malformed], destination_ports: vec![8080.into()], ..m() }, false, true),
        ("port", Match { destination_ports: vec![Entry::Malformed], ..m() }, false, true),
        ("not port", Match { not_destination_ports: vec![Entry::Malformed, 8080.into()], ..m() }, false, false),
        ("principal", Match { principals: vec![Entry::Malformed], ..m() }, false, true),
        ("not principal", Match { not_principals: vec![Entry::Malformed], ..m() }, false, true),
        ("namespace", Match { namespaces: vec![Entry::Malformed, exact("front")], ..m() }, true, true),
        ("destination", Match { destination_ips: vec![Entry::Malformed], ..m() }, false, true),
    ];
    for (name, one, allow, deny) in table {
        let answer = because([policy(Action::Allow, [one.clone()])], &mtls());
        assert_eq!(answer.is_allowed(), allow, "ALLOW, {name}: {answer}");
        let answer = because([policy(Action::Deny, [one])], &mtls());
        assert_eq!(!answer.is_allowed(), deny, "DENY, {name}: {answer}");
    }
    let one = || Match { source_ips: vec![Entry::Malformed], ..m() };
    assert_eq!(because([policy(Action::Allow, [one()])], &mtls()), Because::NoneAllowed { malformed: Some(key("shop/p")) });
    assert_eq!(because([policy(Action::Deny, [one()])], &mtls()), Because::MayBeDeniedBy(key("shop/p")));
}

// F-15
#[test]
fn an_unreadable_policy_refuses_those_it_may_reach() {
    let shop = server();
    let other = Workload::named("o", "other", "o");
    let mut listing = other.clone();
    listing.authorization_policies = vec![key("shop/p")];
    let refused = |set: &PolicySet| [&shop, &other, &listing].map(|one| !decide(set, one, &mtls()).is_allowed());
    let table = [
        (Affected::Everyone, [true, true, true]),
        (Affected::Namespace("shop".into()), [true, false, true]),
        (Affected::Referrers(key("shop/p")), [false, false, true]),
    ];
    for (reach, expected) in table {
        let mut set = PolicySet::default();
        set.reject(key("shop/p"), reach.clone());
        assert_eq!(refused(&set), expected, "{reach:?}");
        set.remove(&key("shop/p"));
        assert_eq!(refused(&set), [false, false, true], "removed: only the unknown reference is left");
        set.reject(key("shop/p"), reach.clone());
        set.insert(key("shop/p"), Arc::new(policy(Action::Allow, [to_port(8080)])));
        assert_eq!(refused(&set), [false; 3], "a readable one takes its place");
        set.reject(key("shop/p"), reach);
        assert_eq!(refused(&set), [false; 3], "earlier content stays in force");
    }
}

#[test]
fn a_set_that_awaits_its_control_plane_refuses() {
    let mut set = PolicySet::awaiting();
    assert_eq!(decide(&set, &server(), &mtls()).because, Because::NotSynced);
    set.mark_synced();
    assert_eq!(decide(&set, &server(), &mtls()).because, Because::NoAllowPolicy);
}

#[test]
fn reasons_read_as_in_the_field() {
    assert_eq!(Because::DeniedBy(key("a/b")).to_string(), "explicitly denied by: a/b");
    assert_eq!(Because::NoneAllowed { malformed: None }.to_string(), "allow policies exist, but none allowed");
    let all = [
        Because::NoAllowPolicy,
        Because::AllowedBy(key("a/b")),
        Because::DeniedBy(key("a/b")),
        Because::MayBeDeniedBy(key("a/b")),
        Because::NoneAllowed { malformed: None },
        Because::NoneAllowed { malformed: Some(key("a/b")) },
        Because::UnknownPolicy(key("a/b")),
        Because::UnreadablePolicy(key("a/b")),
        Because::NotSynced,
    ];
    let codes: std::collections::BTreeSet<_> = all.iter().map(Because::code).collect();
    assert_eq!(codes.len(), all.len(), "each reason has its own code");
    for because in all {
        let verdict = Verdict { because: because.clone(), dry_run: Vec::new() };
        assert_eq!(verdict.policy().is_some(), because.to_string().contains("a/b"), "{because}");
    }
}
