use super::*;

/// A cluster with two nodes.
struct Cluster;

impl Facts for Cluster {
    fn pod(&self, namespace: &str, name: &str) -> Option<PodFact> {
        let fact = |uid: &str, account: &str, node: Option<&str>| {
            Some(PodFact { uid: uid.into(), service_account: account.into(), node: node.map(Into::into) })
        };
        match (namespace, name) {
            ("system", "zt-1") => fact("u1", "ztunnel", Some("n1")),
            ("system", "zt-2") => fact("u2", "ztunnel", Some("n2")),
            ("system", "zt-new") => fact("u3", "ztunnel", None),
            ("shop", "zt-1") => fact("u1", "ztunnel", Some("n1")),
            _ => None,
        }
    }

    fn phases_on(&self, node: &str, namespace: &str, service_account: &str) -> Vec<Phase> {
        match (node, namespace, service_account) {
            ("n1", "shop", "cart") => vec![Phase::Running],
            ("n1", "shop", "starting") => vec![Phase::Pending],
            ("n1", "shop", "lost") => vec![Phase::Unknown],
            ("n1", "shop", "failed") => vec![Phase::Failed],
            ("n1", "shop", "done") => vec![Phase::Succeeded, Phase::Failed],
            ("n1", "shop", "mixed") => vec![Phase::Succeeded, Phase::Running],
            ("n2", "shop", "web") => vec![Phase::Running],
            ("n1" | "n2", "shop", "both") => vec![Phase::Running],
            _ => vec![],
        }
    }
}

fn caller(namespace: &str, service_account: &str, proof: Proof) -> Caller {
    Caller { namespace: namespace.into(), service_account: service_account.into(), proof }
}

fn pod(name: &str, uid: &str) -> Proof {
    Proof::Pod { name: name.into(), uid: uid.into() }
}

fn rules() -> Rules {
    Rules::parse("system/ztunnel, kube-system/ztunnel", "td").unwrap()
}

fn ask(caller: &Caller, account: &str) -> Result<SpiffeId, Refused> {
    impersonate(caller, &format!("spiffe://td/ns/shop/sa/{account}"), &rules(), &Cluster)
}

// T-30: who runs on the caller's node
#[test]
fn a_node_gets_identities_of_its_own_live_workloads_only() {
    let daemon = caller("system", "ztunnel", pod("zt-1", "u1"));
    for (account, allowed) in [
        ("cart", true), ("starting", true), ("lost", true), ("mixed", true), ("both", true),
        ("failed", false), ("done", false), ("web", false), ("nobody", false),
    ] {
        match ask(&daemon, account) {
            Ok(identity) => assert!(allowed && identity == SpiffeId::new("td", "shop", account), "{account}: got {identity}"),
            Err(Refused::NotOnNode { node, .. }) => assert!(!allowed && node == "n1", "{account}"),
            Err(other) => panic!("{account}: {other}"),
        }
    }
    assert!(ask(&caller("system", "ztunnel", pod("zt-2", "u2")), "web").is_ok());
}

// T-30: who asks
#[test]
fn a_caller_must_be_a_trusted_daemon_in_a_pod_that_is_still_there() {
    type Row = (&'static str, Caller, fn(&Refused) -> bool);
    let rows: [Row; 9] = [
        ("other account", caller("system", "cart", pod("zt-1", "u1")), |err| matches!(err, Refused::NotTrusted { .. })),
        ("other namespace", caller("shop", "ztunnel", pod("zt-1", "u1")), |err| matches!(err, Refused::NotTrusted { .. })),
        ("no pod", caller("system", "ztunnel", Proof::Unbound), |err| *err == Refused::Unbound),
        ("unknown pod", caller("system", "ztunnel", pod("zt-9", "u1")), |err| *err == Refused::UnknownPod("system/zt-9".into())),
        ("replaced pod", caller("system", "ztunnel", pod("zt-1", "u0")), |err| *err == Refused::OtherPod("system/zt-1".into())),
        ("empty uid", caller("system", "ztunnel", pod("zt-1", "")), |err| *err == Refused::OtherPod("system/zt-1".into())),
        ("pod of another namespace of the list", caller("kube-system", "ztunnel", pod("zt-1", "u1")),
            |err| *err == Refused::UnknownPod("kube-system/zt-1".into())),
        ("not scheduled", caller("system", "ztunnel", pod("zt-new", "u3")), |err| *err == Refused::NotScheduled("system/zt-new".into())),
        ("other node", caller("system", "ztunnel", pod("zt-2", "u2")), |err| matches!(err, Refused::NotOnNode { .. })),
    ];
    for (what, caller, expect) in rows {
        let err = ask(&caller, "cart").unwrap_err();
        assert!(expect(&err), "{what}: {err}");
    }
}

// T-30: the pod runs as someone else than the token says
#[test]
fn the_pods_account_must_be_the_tokens() {
    let rules = Rules::parse("system/ztunnel,system/other", "td").unwrap();
    let caller = caller("system", "other", pod("zt-1", "u1"));
    let err = impersonate(&caller, "spiffe://td/ns/shop/sa/cart", &rules, &Cluster).unwrap_err();
    assert_eq!(err, Refused::OtherAccount("system/zt-1".into()));
}

// T-30, T-07, spec/reliability.md 8.14
#[test]
fn the_wish_must_be_an_identity_of_our_trust_domain() {
    let daemon = caller("system", "ztunnel", pod("zt-1", "u1"));
    let ask = |wish: &str| impersonate(&daemon, wish, &rules(), &Cluster);
    assert!(matches!(ask("spiffe://td2/ns/shop/sa/cart"), Err(Refused::TrustDomain { .. })));
    for wish in ["", "*", "cart", "shop/cart", "spiffe://td/ns/shop/sa/", "spiffe://td/ns/shop/sa/cart,spiffe://td/ns/shop/sa/web", "spiffe://td/ns/shop/sa/*/x"] {
        assert!(matches!(ask(wish), Err(Refused::NotAnIdentity(_))), "{wish:?}");
    }
    assert!(matches!(ask("spiffe://td/ns/shop/sa/*"), Err(Refused::NotOnNode { .. })), "a star is a name like any other");
}

#[test]
fn without_trusted_accounts_nobody_may() {
    let rules = Rules::parse("", "td").unwrap();
    let daemon = caller("system", "ztunnel", pod("zt-1", "u1"));
    assert!(matches!(impersonate(&daemon, "spiffe://td/ns/shop/sa/cart", &rules, &Cluster), Err(Refused::NotTrusted { .. })));
    for bad in ["ztunnel", "a/b/c", "/b", "a/"] {
        assert!(Rules::parse(bad, "td").unwrap_err().contains("expected NAMESPACE/SERVICE-ACCOUNT"));
    }
}

#[test]
fn a_token_of_our_own_issuer_may_be_bound_to_a_node() {
    let daemon = caller("system", "ztunnel", Proof::Node { name: "n2".into() });
    assert!(ask(&daemon, "web").is_ok());
    assert!(matches!(ask(&daemon, "cart"), Err(Refused::NotOnNode { .. })));
}

#[test]
fn only_lag_is_worth_a_second_question() {
    assert!(Refused::UnknownPod(String::new()).is_transient());
    assert!(!Refused::OtherPod(String::new()).is_transient());
    assert!(!Refused::Unbound.is_transient());
}
