//! spec/controlplane.md 4.1 and 5.4: what the mesh's configuration leaves out, shows and reports.

use std::collections::{BTreeMap, BTreeSet};

use expect_test::expect;

use super::{check, events, pod, printed, translated, translation};
use crate::cluster::Event;
use crate::objects::{Kind, ObjectKey};
use crate::status::plan;
use crate::watch::Findings;

fn config(mesh: &str) -> String {
    let indented: String = mesh.lines().map(|line| format!("    {line}\n")).collect();
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{namespace: istio-system, name: istio}}\ndata:\n  mesh: |\n{indented}---\n")
}

fn namespace(name: &str, labels: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n---\n")
}

fn entry(namespace: &str, name: &str, hosts: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec: {{hosts: [{hosts}], addresses: [10.9.0.1], resolution: STATIC, endpoints: [{{address: 1.2.3.4}}]}}\n---\n")
}

const DISCOVERY: &str = "discoverySelectors:\n- matchLabels: {mesh: \"yes\"}\n- matchExpressions: [{key: team, operator: In, values: [a, b]}]";

// 4.1: any of the selectors, and the root namespace whatever its labels are
#[test]
fn namespaces_that_are_not_selected_are_not_looked_at() {
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {namespace: istio-system, name: all}\nspec: {}\n---\n";
    check(
        &[
            config(DISCOVERY), namespace("in", "mesh: \"yes\""), namespace("also", "team: b"), namespace("out", "team: c"), policy.into(),
            pod("in", "a", "10.1.0.1", ""), pod("also", "b", "10.1.0.2", ""), pod("out", "c", "10.1.0.3", ""), pod("unknown", "d", "10.1.0.4", ""),
            entry("out", "e", "x.example"),
        ]
        .concat(),
        expect![[r#"
            policy istio-system/all Global Allow 
            workload Kubernetes//Pod/also/b 10.1.0.2 sa=b-sa node=n1 name=b
            workload Kubernetes//Pod/in/a 10.1.0.1 sa=a-sa node=n1 name=a
            AuthorizationPolicy istio-system/all: ZtunnelAccepted=True Accepted: attached to node daemons
        "#]],
    );
}

#[test]
fn a_namespace_that_gets_the_label_brings_its_objects_and_takes_them_along() {
    let mut translation = translation();
    let uids = |changes: &crate::translate::Changes| changes.workloads.iter().map(|(uid, workload)| format!("{}{uid}", if workload.is_some() { '+' } else { '-' })).collect::<Vec<_>>();
    let pods = |changes: &crate::translate::Changes| changes.pods.len();
    let text = [config(DISCOVERY), namespace("out", ""), pod("out", "a", "10.1.0.1", ""), pod("out", "b", "10.1.0.2", ""), namespace("in", "mesh: \"yes\""), pod("in", "c", "10.1.0.3", "")].concat();
    let changes = translation.apply(events(&text));
    assert_eq!((uids(&changes), pods(&changes)), (vec!["+Kubernetes//Pod/in/c".to_owned()], 1));

    // The objects themselves are not told again.
    let changes = translation.apply(events(&namespace("out", "team: a")));
    assert_eq!((uids(&changes), pods(&changes)), (vec!["+Kubernetes//Pod/out/a".to_owned(), "+Kubernetes//Pod/out/b".to_owned()], 2));
    assert_eq!(changes.units_computed, 2, "only what came into sight");
    // What changes out of sight is remembered.
    translation.apply(events(&namespace("out", "")));
    translation.apply(events(&pod("out", "a", "10.1.0.9", "")));
    translation.apply([Event::Deleted(ObjectKey::new(Kind::Pod, "out", "b"))]);
    let changes = translation.apply(events(&namespace("out", "mesh: \"yes\"")));
    assert_eq!(uids(&changes), ["+Kubernetes//Pod/out/a"]);
    assert!(printed(&translation).contains("10.1.0.9"));
    // Without a configuration everything is looked at.
    let changes = translation.apply([Event::Deleted(ObjectKey::new(Kind::Namespace, "", "out")), Event::Deleted(ObjectKey::new(Kind::ConfigMap, "istio-system", "istio"))]);
    assert_eq!(uids(&changes), Vec::<String>::new());
    assert!(printed(&translation).contains("Pod/out/a"));
}

#[test]
fn what_is_left_out_is_said() {
    let text = [config(DISCOVERY), pod("out", "a", "10.1.0.1", ""), pod("out", "b", "10.1.0.2", ""), pod("elsewhere", "c", "10.1.0.3", "")].concat();
    let page = plan::page(&translated(&text), &BTreeMap::new(), &Findings::default(), &BTreeSet::new(), true);
    let notes: Vec<_> = page.objects.iter().map(|entry| (&*entry.kind, entry.notes.join("; "))).collect();
    assert_eq!(notes, [("ConfigMap", "data.mesh.discoverySelectors leave out: elsewhere (1 objects), out (2 objects)".to_owned())]);
    let text = [config("serviceEntryVisibility: {defaultVisibility: NONE}"), entry("shop", "e", "x.example")].concat();
    let page = plan::page(&translated(&text), &BTreeMap::new(), &Findings::default(), &BTreeSet::new(), true);
    let notes: Vec<_> = page.objects.iter().map(|entry| (&*entry.kind, entry.notes.join("; "))).collect();
    assert_eq!(notes, [("ServiceEntry", "is not published: serviceEntryVisibility of the mesh's configuration lets nobody see it".to_owned())]);
}

const VISIBILITY: &str = "serviceEntryVisibility:\n  defaultVisibility: NAMESPACE\n  policies:\n  - {visibility: NONE, matchingRules: [{namespaceSelector: {matchLabels: {team: a}}}, {namespaceSelector: {matchLabels: {hidden: \"yes\"}}}]}\n  - {visibility: PUBLIC, matchingRules: [{namespaceSelector: {matchLabels: {team: a}}}]}";

// 4.9.2, 4.13, 5.4; row 25 of the integration checklist: the first policy of which all rules match, else the default
#[test]
fn who_sees_a_service_entry() {
    check(
        &[
            config(VISIBILITY), namespace("public", "team: a"), namespace("hidden", "team: a, hidden: \"yes\""), namespace("own", "team: b"),
            entry("public", "e", "p.example"), entry("hidden", "e", "h.example"), entry("own", "e", "o.example"), entry("unknown", "e", "u.example"),
        ]
        .concat(),
        expect![[r#"
            service own/o.example vips(/10.9.0.1) own-namespace-only
            service public/p.example vips(/10.9.0.1) canonical
            service unknown/u.example vips(/10.9.0.1) own-namespace-only
            workload Kubernetes/networking.istio.io/ServiceEntry/own/e/1.2.3.4 1.2.3.4 sa=default name=e [own/o.example ]
            workload Kubernetes/networking.istio.io/ServiceEntry/public/e/1.2.3.4 1.2.3.4 sa=default host-network name=e [public/p.example ]
            workload Kubernetes/networking.istio.io/ServiceEntry/unknown/e/1.2.3.4 1.2.3.4 sa=default host-network name=e [unknown/u.example ]
            ServiceEntry own/e: istio.io/VisibilityApplied=True Namespace: clients of its own namespace see it
            ServiceEntry public/e: istio.io/VisibilityApplied=True Public: every client sees it
            ServiceEntry public/e: note: spec.endpoints[0].address: 1.2.3.4 is ServiceEntry own/e's too; connections to the bare address are for that one
            ServiceEntry unknown/e: istio.io/VisibilityApplied=True Namespace: clients of its own namespace see it
            ServiceEntry unknown/e: note: spec.endpoints[0].address: 1.2.3.4 is ServiceEntry own/e's too; connections to the bare address are for that one
        "#]],
    );
}

// 4.9.3: an entry that only its own namespace sees is nobody else's answer
#[test]
fn the_canonical_service_is_the_oldest_that_all_see() {
    let aged = |text: String, year: u32| text.replacen("name: e", &format!("name: e, creationTimestamp: \"{year}-01-01T00:00:00Z\""), 1);
    check(
        &[config(VISIBILITY), namespace("young", "team: a"), aged(entry("own", "e", "x.example"), 2020), aged(entry("young", "e", "x.example"), 2024)].concat(),
        expect![[r#"
            service own/x.example vips(/10.9.0.1) own-namespace-only
            service young/x.example vips(/10.9.0.1) canonical
            workload Kubernetes/networking.istio.io/ServiceEntry/own/e/1.2.3.4 1.2.3.4 sa=default name=e [own/x.example ]
            workload Kubernetes/networking.istio.io/ServiceEntry/young/e/1.2.3.4 1.2.3.4 sa=default host-network name=e [young/x.example ]
            ServiceEntry own/e: istio.io/VisibilityApplied=True Namespace: clients of its own namespace see it
            ServiceEntry young/e: istio.io/VisibilityApplied=True Public: every client sees it
            ServiceEntry young/e: note: spec.endpoints[0].address: 1.2.3.4 is ServiceEntry own/e's too; connections to the bare address are for that one
        "#]],
    );
    let mut translation = translated(&[config(VISIBILITY), namespace("a", "team: a"), namespace("b", "team: a"), aged(entry("a", "e", "x.example"), 2020), aged(entry("b", "e", "x.example"), 2024)].concat());
    let canonical = |translation: &crate::translate::Translation| {
        let services = translation.derived().flat_map(|derived| &derived.services).filter(|service| service.canonical);
        services.map(|service| service.namespace.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(canonical(&translation), ["a"]);
    // The label of one namespace decides about the service of another.
    translation.apply(events(&namespace("a", "team: b")));
    assert_eq!(canonical(&translation), ["b"]);
    translation.apply(events(&namespace("a", "team: a, hidden: \"yes\"")));
    assert_eq!(canonical(&translation), ["b"]);
    translation.apply(events(&config("{}")));
    assert_eq!(canonical(&translation), ["a"]);
}

// 4.10, last row
#[test]
fn an_entry_of_one_namespace_has_no_waypoint_of_another() {
    let waypoint = |namespace: &str| format!("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{namespace: {namespace}, name: wp}}\nspec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {{namespaces: {{from: All}}}}}}]}}\nstatus: {{addresses: [{{value: 10.2.0.1}}]}}\n---\n");
    let using = |namespace: &str| entry("own", "e", "x.example").replacen("name: e", &format!("name: e, labels: {{istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: {namespace}}}"), 1);
    check(&[config(VISIBILITY), waypoint("other"), using("other")].concat(), expect![[r#"
        service own/x.example vips(/10.9.0.1) own-namespace-only
        workload Kubernetes/networking.istio.io/ServiceEntry/own/e/1.2.3.4 1.2.3.4 sa=default name=e [own/x.example ]
        ServiceEntry own/e: istio.io/VisibilityApplied=True Namespace: clients of its own namespace see it
        ServiceEntry own/e: istio.io/WaypointBound=False CrossNamespaceWaypointForbidden: waypoint other/wp is in another namespace, and only clients of own may see this host
    "#]]);
    check(&[config(VISIBILITY), waypoint("own"), using("own")].concat(), expect![[r#"
        service own/x.example vips(/10.9.0.1) own-namespace-only waypoint=/10.2.0.1:15008
        workload Kubernetes/networking.istio.io/ServiceEntry/own/e/1.2.3.4 1.2.3.4 sa=default name=e [own/x.example ]
        ServiceEntry own/e: istio.io/VisibilityApplied=True Namespace: clients of its own namespace see it
        ServiceEntry own/e: istio.io/WaypointBound=True WaypointAccepted: attached to own/wp
    "#]]);
}

// 5.4: nothing is ignored in silence
#[test]
fn settings_that_are_not_honoured_are_said() {
    check(
        &config("trustDomain: td2\nrootNamespace: root\naccessLogFile: /dev/stdout\ndefaultConfig: {discoveryAddress: x}\noutboundTrafficPolicy: {mode: REGISTRY_ONLY}\ntrustDomainAliases: [a]\nnosuch: 1\nserviceEntryVisibility: {applyToSidecars: true}"),
        expect![[r#"
            ConfigMap istio-system/istio: note: data.mesh.defaultConfig: discoveryAddress have no effect: they are for proxies of another make
            ConfigMap istio-system/istio: note: data.mesh.outboundTrafficPolicy is not honoured: node daemons decide by MESH_RANGES what becomes of unknown destinations
            ConfigMap istio-system/istio: note: data.mesh.rootNamespace: root is not in force, istio-system is: restart the controller with --namespace=root
            ConfigMap istio-system/istio: note: data.mesh.serviceEntryVisibility.applyToSidecars has no effect: sidecars are not configured here
            ConfigMap istio-system/istio: note: data.mesh.trustDomain: td2 is not in force, cluster.local is: restart the controller with --trust-domain=td2
            ConfigMap istio-system/istio: note: data.mesh.trustDomainAliases is honoured by waypoints only: at layer 4 principals of policies must carry the trust domain itself
            ConfigMap istio-system/istio: note: data.mesh: nosuch are not settings that are known here
        "#]],
    );
    check(&config("trustDomain: cluster.local\nrootNamespace: istio-system"), expect![[""]]);
    check(&config("{}").replace("name: istio}", "name: other}"), expect![[r#"
        ConfigMap istio-system/other: note: is not the mesh's configuration: that is ConfigMap istio-system/istio
    "#]]);
}

// 4.1, 7.1: a tag is another name of a revision
#[test]
fn objects_of_a_tag_of_our_revision_are_ours() {
    let tagged = |tag: &str| entry("shop", "e", "x.example").replacen("name: e", &format!("name: e, labels: {{istio.io/rev: {tag}}}"), 1);
    let tag = "apiVersion: v1\nkind: Service\nmetadata: {namespace: istio-system, name: istiod-revision-tag-prod, labels: {istio.io/tag: prod, istio.io/rev: default}}\nspec: {clusterIP: 10.96.0.9}\n";
    let has_entry = |translation: &crate::translate::Translation| printed(translation).contains("x.example");
    let mut translation = translated(&tagged("prod"));
    assert!(!has_entry(&translation));
    translation.apply(events(tag));
    assert!(has_entry(&translation));
    translation.apply([Event::Deleted(ObjectKey::new(Kind::Service, "istio-system", "istiod-revision-tag-prod"))]);
    assert!(!has_entry(&translation));
    assert!(!has_entry(&translated(&[tagged("other"), tag.into()].concat())));
}
