use mesh_model::fixture::{self, Fixture};
use mesh_policy::policy::{Entry, Match, StringMatch};
use mesh_policy::{Action, Group, Policy, Rule, Scope};

use super::*;

const SHOP: &str = "
    node a: client 10.0.0.1 sa=shop/client
    node b: server 10.0.0.2 sa=shop/server
    node b: ill    10.0.0.3 sa=shop/server unhealthy
    node b: old    10.0.0.4 sa=shop/old tcp
    waypoint wp.shop 10.0.0.9 for service guarded.shop
    service web.shop 10.96.0.1 80->8080 : server ill
    service guarded.shop 10.96.0.2 80->8080 : server
    service lost.shop 10.96.0.3 80 waypoint=gone.shop : server
    service head.shop - 80->8080 : server
    service db.bank 10.96.0.5 5432 : old
    node c: named - host=db.test tcp
    service named.shop 10.96.0.6 80 : named";

fn explain(mesh: &Fixture, policies: &PolicySet, from: &str, to: &str) -> Result<Explanation, Unclear> {
    let network: Arc<str> = "".into();
    let question = Question {
        from,
        to,
        network: &network,
        own_ports: &[15008, 15006, 15001],
        cluster_domain: "cluster.local",
        complete: true,
    };
    why(&mesh.directory, policies, &question, 1)
}

fn deny(what: Match) -> PolicySet {
    let mut policy = Policy::new("shop", "no", Scope::Namespace, Action::Deny);
    policy.groups = vec![Group::new([Rule::new([what])])];
    let mut policies = PolicySet::default();
    policies.insert(policy.key(), Arc::new(policy));
    policies
}

#[test]
fn the_answer_in_one_sentence() {
    let mesh = fixture::parse(SHOP).unwrap();
    let none = PolicySet::default();
    let evil = deny(Match { service_accounts: vec![account("shop", "client")], ..Match::default() });
    for (policies, from, to, expected) in [
        (&none, "shop/client", "web:80", "allowed, in a tunnel: no allow policy selects the workload"),
        (&evil, "shop/client", "web:80", "refused by the destination's node, in a tunnel: explicitly denied by: shop/no"),
        (&evil, "client", "10.0.0.2:8080", "refused by the destination's node, in a tunnel: explicitly denied by: shop/no"),
        (&none, "client", "web:81", "refused by the caller's node: no healthy upstream: 10.96.0.1:81"),
        (&none, "client", "guarded:80", "goes to the waypoint at 10.0.0.9:15008 in a tunnel"),
        (&none, "client", "lost:80", "refused by the caller's node: unknown waypoint: shop/gone.shop.svc.cluster.local:15008"),
        // Known to the control plane and not enrolled: nothing captures what it sends.
        (&evil, "shop/old", "10.0.0.2:8080", "allowed, in the clear: no allow policy selects the workload"),
        (&evil, "shop/old", "web:80", "allowed, in the clear: no allow policy selects the workload"),
        (&none, "shop/old", "8.8.8.8:53", "the mesh has no part in it: neither the caller nor the destination is a pod of it"),
        (&none, "client", "8.8.8.8:53", "goes to 8.8.8.8:53 in the clear, as if there were no mesh"),
        (&none, "client", "db.bank:5432", "allowed, in the clear: no allow policy selects the workload"),
        (
            &none,
            "client",
            "127.0.0.1:15001",
            "refused by the caller's node: attempted recursive call to ourselves: 127.0.0.1:15001",
        ),
        (
            &none,
            "client",
            "shop/server:15006",
            "refused by the destination's node, in a tunnel: attempted recursive call to ourselves: 10.0.0.2:15006",
        ),
        (&none, "client", "named:80", "open until something was fetched: the name servers are asked for db.test"),
        (&none, "192.0.2.1", "shop/server:8080", "allowed, in the clear: no allow policy selects the workload"),
        (
            &none,
            "192.0.2.1",
            "192.0.2.2:80",
            "the mesh has no part in it: neither the caller nor the destination is a pod of it",
        ),
    ] {
        assert_eq!(explain(&mesh, policies, from, to).unwrap().answer, expected, "{from} -> {to}");
    }
}

fn account(namespace: &str, service_account: &str) -> mesh_policy::ServiceAccountMatch {
    mesh_policy::ServiceAccountMatch { namespace: namespace.into(), service_account: service_account.into() }
}

#[test]
fn the_whole_story_as_data() {
    let mesh = fixture::parse(SHOP).unwrap();
    let policies = deny(Match { destination_ports: vec![Entry::Value(8080)], ..Match::default() });
    let told = explain(&mesh, &policies, "shop/client", "web:80").unwrap();
    let json = serde_json::to_value(&told).unwrap();
    let reason = json["policy"]["reason"].clone();
    assert_eq!(reason["code"], "denied");
    assert_eq!(reason["stage"], "authorize");
    let mut json = json;
    json["policy"].as_object_mut().unwrap().remove("reason");
    assert_eq!(
        json,
        serde_json::json!({
            "answer": "refused by the destination's node, in a tunnel: explicitly denied by: shop/no",
            "from": {"address": "10.0.0.1", "identity": "spiffe://cluster.local/ns/shop/sa/client", "workload": "Kubernetes//Pod/shop/client"},
            "to": {"address": "10.96.0.1:80", "stands_for": "service shop/web.shop.svc.cluster.local"},
            "resolve": {
                "outcome": "hop", "because": "straight to the workload", "address": "10.0.0.2:15008", "via": "tunnel",
                "authority": "10.0.0.2:8080", "expect": ["spiffe://cluster.local/ns/shop/sa/server"],
                "service": "shop/web.shop.svc.cluster.local", "workload": "Kubernetes//Pod/shop/server",
            },
            "endpoints": [
                {"workload": "Kubernetes//Pod/shop/ill", "judgement": "not ready"},
                {"workload": "Kubernetes//Pod/shop/server", "judgement": "fit", "port": 8080, "rank": 0, "weight": 1},
            ],
            "policy": {
                "judge": "Kubernetes//Pod/shop/server", "destination": "10.0.0.2:8080", "allowed": false,
                "because": "explicitly denied by: shop/no", "code": "denied", "policy": "shop/no",
            },
        })
    );
}

#[test]
fn a_refusal_comes_with_its_reason() {
    let mesh = fixture::parse(SHOP).unwrap();
    let told = explain(&mesh, &PolicySet::default(), "client", "web:81").unwrap();
    let reason = told.resolve.unwrap().reason.unwrap();
    assert_eq!((reason.code, reason.stage), ("no_healthy_upstream", "resolve"));
    let judgements: Vec<_> = told.endpoints.iter().map(|endpoint| endpoint.judgement).collect();
    assert_eq!(judgements, ["not ready", "does not serve this port"]);
    assert_eq!(told.policy, None, "nobody is asked about what does not leave");
}

#[test]
fn policy_judges_the_port_behind_an_application_tunnel() {
    let mesh = fixture::parse("node a: client 10.0.0.1\nnode b: wp 10.0.0.9 tunnel=PROXY:15088").unwrap();
    let told = explain(&mesh, &PolicySet::default(), "client", "10.0.0.9:80").unwrap();
    assert_eq!(told.policy.unwrap().destination, "10.0.0.9:15088");
}

// STRICT as the destination sees it: the same pod, with and without an identity.
#[test]
fn a_caller_outside_the_mesh_has_no_identity() {
    let mesh = fixture::parse(SHOP).unwrap();
    let strict = deny(Match { not_principals: vec![Entry::Value(StringMatch::Presence)], ..Match::default() });
    let told = explain(&mesh, &strict, "192.0.2.1", "10.0.0.2:8080").unwrap();
    assert!(!told.policy.unwrap().allowed);
    assert_eq!(told.resolve, None);
    assert!(explain(&mesh, &strict, "client", "10.0.0.2:8080").unwrap().policy.unwrap().allowed);
}

#[test]
fn a_name_is_completed_as_dns_does_it() {
    let mesh = fixture::parse(SHOP).unwrap();
    let none = PolicySet::default();
    for (to, address) in [
        ("web:80", "10.96.0.1:80"),
        ("web.shop:80", "10.96.0.1:80"),
        ("web.shop.svc:80", "10.96.0.1:80"),
        ("web.shop.svc.cluster.local:80", "10.96.0.1:80"),
        ("shop/web.shop.svc.cluster.local:80", "10.96.0.1:80"),
        ("head:8080", "10.0.0.2:8080"),
        ("shop/server:8080", "10.0.0.2:8080"),
        ("[fd00::1]:80", "[fd00::1]:80"),
    ] {
        assert_eq!(explain(&mesh, &none, "client", to).unwrap().to.address, address, "{to}");
    }
}

#[test]
fn an_unclear_question_says_what_is_missing() {
    let mesh = fixture::parse(&format!(
        "{SHOP}\nnode a: client2 10.0.1.1 ns=shop\nnode a: twin 10.0.1.2 ns=x\nnode a: twin 10.0.1.3 ns=y"
    ))
    .unwrap();
    let none = PolicySet::default();
    for (from, to, expected) in [
        ("nobody", "web:80", "from=nobody: no workload is called so; say NAMESPACE/NAME, a uid or an address"),
        ("twin", "web:80", "from=twin: several workloads are called so; say NAMESPACE/NAME or an address"),
        ("named", "web:80", "from=named: this workload has no address, so it calls nobody"),
        ("client", "web", "to=web: say HOST:PORT"),
        ("client", "web:http", "to=web:http: the port is not a number from 0 to 65535"),
        ("client", "nothing:80", "to=nothing:80: no service or workload is called so"),
    ] {
        assert_eq!(explain(&mesh, &none, from, to).unwrap_err().to_string(), expected);
    }
}
