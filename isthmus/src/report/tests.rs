//! Tables: facts in, what an operator is told out.

use std::collections::BTreeSet;

use serde_json::json;

use super::daemon::{Certificate, Daemon};
use super::*;
use crate::cluster::check::{self, Check, Outcome};
use crate::cluster::facts::{Bound, Controller, Facts, Labels, Node as FactNode, Part as Which, Pod as Fact, Rollout};
use crate::published::REDIRECTION;
use crate::waypoint::gateway::{Condition, Waypoint as Gateway};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn app(name: &str) -> Labels {
    labels(&[("app", name), ("app.kubernetes.io/part-of", "isthmus")])
}

fn part(name: &str, node: &str) -> Fact {
    Fact {
        namespace: "istio-system".into(),
        name: format!("{name}-{node}"),
        node: node.into(),
        labels: app(name),
        phase: "Running".into(),
        is_ready: true,
        image: format!("r/{name}:0.1.0"),
        ..Fact::default()
    }
}

fn pod(name: &str, node: &str, redirection: Option<&str>) -> Fact {
    let annotations = redirection.map(|value| labels(&[(REDIRECTION, value)])).unwrap_or_default();
    Fact {
        namespace: "shop".into(),
        name: name.into(),
        node: node.into(),
        address: "10.0.0.9".into(),
        account: name.into(),
        annotations,
        phase: "Running".into(),
        is_ready: true,
        ..Fact::default()
    }
}

fn rollout(kind: &str, name: &str, count: usize) -> Rollout {
    Rollout { kind: kind.into(), namespace: "istio-system".into(), name: name.into(), labels: app(name), desired: count, ready: count, updated: count }
}

fn daemon(pods: &[&str]) -> Daemon {
    Daemon {
        version: "0.1.0".into(),
        pods: pods.iter().map(|pod| ((*pod).to_owned(), "Up".to_owned())).collect(),
        certificates: pods.iter().map(|pod| Certificate { identity: format!("spiffe://cluster.local/ns/shop/sa/{pod}"), state: "Available".into(), ends: Some("2030-01-01T00:00:00Z".into()) }).collect(),
    }
}

/// Two nodes, the mesh whole, one enrolled pod on each.
fn healthy() -> Facts {
    let nodes = ["n1", "n2"].map(|name| FactNode { name: name.into(), address: "10.1.0.1".into(), is_ready: true, kernel: "6.1.0-13-amd64".into(), architecture: "amd64".into(), os: "linux".into() });
    let parts = ["n1", "n2"].into_iter().flat_map(|node| [part("ztunnel", node), part("mesh-cni", node)]).chain([part("istiod", "n1")]);
    let connected: BTreeSet<String> = ["n1", "n2"].map(|node| format!("istio-system/ztunnel-{node}")).into();
    Facts {
        about: "cluster test at https://api".into(),
        server_version: "v1.34.4".into(),
        nodes: nodes.into(),
        namespaces: [("shop".to_owned(), labels(&[("istio.io/dataplane-mode", "ambient")])), ("istio-system".to_owned(), Labels::new()), ("other".to_owned(), Labels::new())].into(),
        pods: parts.chain([pod("cart", "n1", Some("enabled")), pod("db", "n2", Some("enabled"))]).collect(),
        rollouts: vec![rollout("deployment", "istiod", 1), rollout("daemonset", "ztunnel", 2), rollout("daemonset", "mesh-cni", 2)],
        daemons: [("n1".to_owned(), Ok(daemon(&["shop/cart"]))), ("n2".to_owned(), Ok(daemon(&["shop/db"])))].into(),
        controllers: [("istio-system/istiod-n1".to_owned(), Ok(Controller { version: "0.1.0".into(), connected }))].into(),
        with_roots: ["shop".to_owned()].into(),
        crds: ["authorizationpolicies.security.istio.io", "peerauthentications.security.istio.io", "serviceentries.networking.istio.io", "workloadentries.networking.istio.io", "gateways.gateway.networking.k8s.io"]
            .map(str::to_owned)
            .into(),
        webhooks: [("istio-validator-istio-system".to_owned(), true)].into(),
        ..Facts::default()
    }
}

/// Facts with a change, as the problems that are told of them.
fn told(change: impl FnOnce(&mut Facts)) -> Vec<String> {
    let mut facts = healthy();
    change(&mut facts);
    let report = cluster::report(&facts);
    report.problems.iter().map(|problem| format!("{:?} {}: {}", problem.weight, problem.subject, problem.what)).collect()
}

fn find<'a>(facts: &'a mut Facts, name: &str) -> &'a mut Fact {
    facts.pods.iter_mut().find(|pod| pod.name == name).unwrap()
}

#[test]
fn a_healthy_cluster_is_shown_whole_and_has_no_problem() {
    let report = cluster::report(&healthy());
    assert_eq!(report.problems, []);
    assert!(report.is_well());
    assert_eq!(report.about, "cluster test at https://api (Kubernetes v1.34.4): mesh in namespace istio-system");
    let parts: Vec<String> = report.parts.iter().map(|part| format!("{} {}/{} {:?}", part.name, part.ready, part.desired, part.versions)).collect();
    assert_eq!(parts, [r#"istiod-lite 1/1 {"0.1.0": 1}"#, r#"mesh-cni 2/2 {"0.1.0": 2}"#, r#"ztunnel 2/2 {"0.1.0": 2}"#]);
    let nodes: Vec<_> = report.nodes.iter().map(|node| (node.name.as_str(), &node.ztunnel, node.enrolled, node.wanted, node.certificates.valid)).collect();
    assert_eq!(nodes, [("n1", &Link::Connected, 1, 1, 1), ("n2", &Link::Connected, 1, 1, 1)]);
    assert_eq!(report.namespaces, [Namespace { name: "shop".into(), enrolled: 2, wanted: 2 }]);
    assert_eq!(report.pods.iter().map(|pod| (pod.name.as_str(), &pod.mesh)).collect::<Vec<_>>(), [("shop/cart", &Membership::Enrolled), ("shop/db", &Membership::Enrolled)]);
    assert!(check::all_hold(&check::after(&healthy(), &report)));
}

#[test]
fn each_thing_that_is_wrong_is_told_with_its_cause() {
    type Case = (fn(&mut Facts), &'static [&'static str]);
    let cases: [Case; 13] = [
        (|facts| find(facts, "db").annotations.clear(), &["Error pod shop/db: it is to be in the mesh and is not: the node's agent has not seen it, or is told to leave its namespace out"]),
        (
            |facts| {
                find(facts, "db").annotations.clear();
                find(facts, "mesh-cni-n2").is_ready = false;
            },
            &["Error pod shop/db: it is to be in the mesh and is not: mesh-cni on node n2 is not ready"],
        ),
        (|facts| find(facts, "db").annotations = labels(&[(REDIRECTION, "pending")]), &["Error pod shop/db: it is to be in the mesh and is not: being enrolled"]),
        (
            |facts| {
                let db = find(facts, "db");
                db.annotations.clear();
                db.address.clear();
            },
            &["Warning pod shop/db: it is to be in the mesh and is not: it has no address yet"],
        ),
        (|facts| find(facts, "db").is_host_network = true, &["Warning pod shop/db: it cannot be in the mesh: it uses its node's network (hostNetwork)"]),
        (|facts| drop(facts.daemons.insert("n2".into(), Ok(daemon(&[])))), &["Error pod shop/db: it is to be in the mesh and is not: it is captured, but its node's daemon does not serve it"]),
        (|facts| drop(facts.daemons.insert("n2".into(), Err("no answer".into()))), &["Warning node n2: its ztunnel cannot be asked: no answer"]),
        (
            |facts| {
                let mut changed = daemon(&["shop/db"]);
                changed.certificates[0].state = "Unavailable: the authority says no".into();
                facts.daemons.insert("n2".into(), Ok(changed));
            },
            &["Error node n2: spiffe://cluster.local/ns/shop/sa/shop/db has no certificate: the authority says no"],
        ),
        (
            |facts| {
                facts.controllers = [("istio-system/istiod-n1".to_owned(), Ok(Controller { version: "0.1.0".into(), connected: ["istio-system/ztunnel-n1".to_owned()].into() }))].into();
            },
            &["Error node n2: its ztunnel has no stream to the controller: it goes on with what it was told last"],
        ),
        (
            |facts| {
                facts.rollouts[0].ready = 0;
                let istiod = find(facts, "istiod-n1");
                istiod.is_ready = false;
                istiod.trouble = Some("ImagePullBackOff (container istiod)".into());
            },
            &["Error istiod-lite: 0 of 1 are ready (istiod-n1 on n1: ImagePullBackOff (container istiod))"],
        ),
        (
            |facts| {
                facts.rollouts[1].ready = 1;
                find(facts, "ztunnel-n2").is_ready = false;
            },
            &["Error ztunnel: 1 of 2 are ready (ztunnel-n2 on n2: running, not ready)"],
        ),
        (|facts| find(facts, "ztunnel-n2").image = "r/ztunnel:0.2.0".into(), &["Warning ztunnel: it is being replaced: versions 0.1.0, 0.2.0"]),
        (|facts| facts.unseen.push("you may not list nodes".into()), &["Warning permissions: you may not list nodes: what depends on it is not shown"]),
    ];
    for (change, expected) in cases {
        assert_eq!(told(change), expected);
    }
}

#[test]
fn a_cluster_without_the_mesh_says_how_to_install_it() {
    let mut facts = healthy();
    facts.rollouts.clear();
    facts.pods.clear();
    facts.daemons.clear();
    facts.controllers.clear();
    let report = cluster::report(&facts);
    assert!(report.about.ends_with("no mesh is installed") && !report.is_well());
    assert_eq!(report.problems.len(), 3);
    assert!(report.problems.iter().all(|problem| problem.what == "it is not installed" && problem.repair.as_deref() == Some(cluster::INSTALL)));
}

#[test]
fn a_pod_that_leaves_and_one_outside_are_no_problem() {
    let mut facts = healthy();
    facts.namespaces.insert("shop".into(), Labels::new());
    find(&mut facts, "db").annotations.clear();
    let report = cluster::report(&facts);
    assert_eq!(report.pods.iter().map(|pod| (pod.name.as_str(), &pod.mesh)).collect::<Vec<_>>(), [("shop/cart", &Membership::Leaving)]);
    assert_eq!(report.problems, []);
}

#[test]
fn one_namespace_can_be_looked_at() {
    let mut facts = healthy();
    facts.namespaces.insert("other".into(), labels(&[("istio.io/dataplane-mode", "ambient")]));
    facts.pods.push(Fact { namespace: "other".into(), ..pod("lost", "n1", None) });
    let report = cluster::report(&facts).only("shop");
    assert_eq!(report.pods.len(), 2);
    assert_eq!((report.namespaces.len(), report.problems.len()), (1, 0));
    assert_eq!(cluster::report(&facts).only("other").problems.len(), 1);
}

fn outcome(checks: &[Check], part: &str) -> String {
    let check = checks.iter().find(|check| check.what.contains(part)).unwrap_or_else(|| panic!("no check about {part}"));
    match &check.outcome {
        Outcome::Holds => "holds".to_owned(),
        Outcome::Warning { why, .. } => format!("warns: {why}"),
        Outcome::Fails { why, .. } => format!("fails: {why}"),
    }
}

#[test]
fn before_an_installation_each_obstacle_is_named() {
    let mut facts = healthy();
    facts.rollouts.clear();
    let clean = check::before(&facts, &[], "istio-system");
    assert!(check::all_hold(&clean), "{clean:?}");
    assert!(clean.iter().all(|check| check.outcome == Outcome::Holds), "{clean:?}");

    facts.server_version = "v1.29.1".into();
    facts.nodes[1].kernel = "4.19.0".into();
    facts.nodes[0].architecture = "riscv64".into();
    facts.namespaces.insert("istio-system".into(), labels(&[("pod-security.kubernetes.io/enforce", "restricted")]));
    facts.cni_settings.insert("kube-system/cilium-config".into(), "cni-exclusive=true".into());
    facts.rollouts = vec![Rollout { labels: labels(&[("app", "ztunnel")]), ..rollout("daemonset", "ztunnel", 2) }];
    facts.injectors.insert("istio-sidecar-injector".into());
    facts.crds.clear();
    let checks = check::before(&facts, std::slice::from_ref(&check::RIGHTS[1]), "istio-system");
    for (part, expected) in [
        ("version is supported", "fails: the API server is v1.29.1; Kubernetes 1.31 is the oldest that is supported"),
        ("Linux 5.2", "fails: too old: n2 (4.19.0)"),
        ("image for every node", "warns: without an image for them, these stay outside of the mesh: n1 (linux/riscv64)"),
        ("create customresourcedefinitions", "fails: the API server says no to create customresourcedefinitions.apiextensions.k8s.io"),
        ("create daemonsets", "holds"),
        ("lets node components run", "fails: it enforces the pod security level \"restricted\", and node components need host paths and capabilities"),
        ("CNI plugin", "fails: Cilium removes the configuration of other plugins (cni-exclusive)"),
        ("of these names", "fails: there are: daemonset istio-system/ztunnel"),
        ("adds proxies", "warns: istio-sidecar-injector does; pods with such a proxy are left alone"),
        ("Gateways", "warns: the CRDs of the Gateway API are missing; only waypoints and gateways need them"),
    ] {
        assert_eq!(outcome(&checks, part), expected);
    }
    let without_repair = checks.iter().filter(|check| matches!(&check.outcome, Outcome::Fails { repair: None, .. } | Outcome::Warning { repair: None, .. }));
    assert_eq!(without_repair.count(), 0, "each has a command");
}

#[test]
fn after_an_installation_what_is_wrong_fails_one_check() {
    let after = |change: fn(&mut Facts)| {
        let mut facts = healthy();
        change(&mut facts);
        let report = cluster::report(&facts);
        check::after(&facts, &report)
    };
    let unwell = |checks: &[Check]| checks.iter().filter(|check| check.outcome != Outcome::Holds).map(|check| check.what.clone()).collect::<Vec<_>>();
    assert_eq!(unwell(&after(|facts| find(facts, "db").annotations.clear())), ["shop: 1 of 2 pods are in the mesh"]);
    assert_eq!(unwell(&after(|facts| facts.with_roots.clear())), ["the root certificates are in every namespace of the mesh"]);
    assert_eq!(unwell(&after(|facts| facts.webhooks.values_mut().for_each(|has| *has = false))), ["the API server can ask the controller about objects (its webhook)"]);
    assert_eq!(unwell(&after(|facts| facts.crds.clear())), ["the CRDs of the mesh are there"]);
    assert_eq!(unwell(&after(|facts| facts.namespaces.values_mut().for_each(BTreeMap::clear))), ["a namespace is in the mesh"]);
}

#[test]
fn a_daemons_dump_is_read() {
    let dump = json!({
        "version": {"version": "0.1.0"},
        "workloadState": {"u": {"state": "Up", "info": {"namespace": "shop", "name": "cart"}}},
        "certificates": [{"identity": "a", "state": "Available", "certChain": [{"expirationTime": "2030-01-02T00:00:00Z"}]}, {"identity": "b", "state": "Unavailable: x", "certChain": []}],
    });
    let daemon = Daemon::read(&dump);
    assert_eq!(daemon.pods, [("shop/cart".to_owned(), "Up".to_owned())].into());
    assert_eq!(daemon.certificates(), Certificates { valid: 1, all: 2, first_end: Some("2030-01-02T00:00:00Z".into()) });
    assert_eq!(daemon.problems("n", "fix").len(), 1);
}

#[test]
fn parts_are_known_by_the_labels_that_others_know_them_by() {
    for (pairs, expected) in [
        ([("app", "istiod")], Some(Which::Controller)),
        ([("app", "ztunnel")], Some(Which::Daemon)),
        ([("app", "mesh-cni")], Some(Which::Agent)),
        ([("k8s-app", "istio-cni-node")], Some(Which::Agent)),
        ([("app", "cart")], None),
    ] {
        assert_eq!(Which::of(&labels(&pairs)), expected);
    }
}

#[test]
fn waypoints_and_whom_they_serve() {
    let condition = |status: &str, message: &str| Condition { kind: "Programmed".into(), status: status.into(), reason: "R".into(), message: message.into() };
    let gateway = |name: &str, status: &str, message: &str| Gateway { namespace: "shop".into(), name: name.into(), traffic: "service".into(), conditions: vec![condition(status, message)], ..Gateway::default() };
    let bound = |object: &str, namespace: &str, waypoint: &str, is_bound: bool| Bound { object: object.into(), namespace: namespace.into(), waypoint: waypoint.into(), is_bound, message: "as it is".into() };
    let instance = |name: &str, is_ready: bool| Fact { labels: labels(&[("gateway.networking.k8s.io/gateway-name", "good")]), is_ready, ..pod(name, "n1", None) };
    let facts = Facts {
        waypoints: vec![gateway("good", "True", "served by good.shop"), gateway("bad", "False", "no instance is ready")],
        pods: vec![instance("good-1", true), instance("good-2", false), Fact { is_leaving: true, ..instance("good-3", true) }],
        bound: vec![
            bound("service shop/a", "shop", "shop/good", true),
            bound("service web/b", "web", "shop/good", true),
            bound("service web/c", "web", "shop/bad", false),
            bound("service shop/d", "shop", "shop/none-such", false),
        ],
        ..Facts::default()
    };
    let whole = cluster::report(&facts);
    let good = &whole.waypoints[0];
    assert_eq!((good.name.as_str(), good.ready, good.instances, good.is_programmed, good.why.as_str()), ("shop/good", 1, 2, true, "R: served by good.shop"));
    assert_eq!(good.serves, [("shop".to_owned(), 1), ("web".to_owned(), 1)].into());
    let told: Vec<String> = whole.problems.iter().filter(|problem| !problem.subject.starts_with(char::is_uppercase) && problem.subject.contains('/')).map(|problem| format!("{}: {} | {}", problem.subject, problem.what, problem.repair.clone().unwrap_or_default())).collect();
    assert_eq!(told, [
        "service shop/d: it is not served by its waypoint: as it is | isthmus waypoint apply -n shop --name none-such",
        "service web/c: it is not served by its waypoint: as it is | isthmus waypoint status -n shop",
        "waypoint shop/bad: R: no instance is ready | kubectl -n shop describe pods -l gateway.networking.k8s.io/gateway-name=bad",
    ]);
    let web = whole.only("web");
    assert_eq!(web.waypoints.iter().map(|waypoint| waypoint.name.as_str()).collect::<Vec<_>>(), ["shop/good"], "who serves a namespace is shown with it");
    assert!(web.problems.iter().all(|problem| !problem.subject.contains("shop/")));
}
