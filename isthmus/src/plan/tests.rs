//! Tables for the plan: text of a folder in, places and complaints out.

use std::path::Path;

use super::*;
use crate::objects;

fn machine() -> Machine {
    Machine { mesh: "t".into(), ipv6: true, ids: Ids::Own { first: 1 << 30, count: 65_536 } }
}

fn planned(text: &str, slots: &mut Slots) -> (Plan, Vec<String>) {
    let mut read = Objects::default();
    assert_eq!(objects::read(Path::new("a.yaml"), text, &mut read), []);
    let mut count = 0;
    let (plan, complaints) = plan(&machine(), &read, slots, || {
        count += 1;
        format!("uid-{count}")
    });
    (plan, complaints.into_iter().map(|complaint| complaint.problem).collect())
}

fn pod(name: &str, rest: &str) -> String {
    format!("kind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\nspec: {{containers: [{{name: c, command: [run], ports: [{{name: http, containerPort: 8080}}]}}]{rest}}}\n---\n")
}

fn of<'a>(plan: &'a Plan, name: &str) -> &'a PodPlan {
    &plan.pods[&PodName { namespace: "shop".into(), name: name.into() }]
}

#[test]
fn pods_are_spread_over_two_nodes_when_they_name_none() {
    let (plan, complaints) = planned(&["a", "b", "c"].map(|name| pod(name, "")).concat(), &mut Slots::default());
    assert!(complaints.is_empty(), "{complaints:?}");
    let places: Vec<_> = plan.pods.values().map(|pod| (pod.node.as_str(), pod.addresses.v4.to_string())).collect();
    assert_eq!(places, [("node-1", "10.244.1.10".into()), ("node-2", "10.244.2.10".into()), ("node-1", "10.244.1.11".to_owned())]);
}

#[test]
fn the_ranges_of_the_mesh_are_its_pods_and_services_and_not_its_wire() {
    let (plan, _) = planned("", &mut Slots::default());
    let ranges = mesh_ranges(&plan.nodes);
    assert_eq!(ranges, ["10.96.0.0/16", "fd10:96::/108", "10.244.1.0/24", "fd10:244:0:1::/64", "10.244.2.0/24", "fd10:244:0:2::/64"]);
}

#[test]
fn a_pod_keeps_its_place_while_it_lives_and_leaves_it_free_after() {
    let mut slots = Slots::default();
    let (first, _) = planned(&(pod("a", "") + &pod("b", "") + &pod("c", "")), &mut slots);
    let (second, _) = planned(&(pod("b", "") + &pod("c", "") + &pod("d", "")), &mut slots);
    assert_eq!(of(&first, "c"), of(&second, "c"));
    assert_eq!(of(&second, "d").addresses, of(&first, "a").addresses, "the place of the pod that went is used again");
    assert_eq!(of(&second, "d").slot.order, of(&first, "a").slot.order);
}

#[test]
fn a_named_node_is_built_and_used() {
    let (plan, _) = planned(&pod("a", ", nodeName: east"), &mut Slots::default());
    assert_eq!(plan.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["east", "node-1"]);
    assert_eq!(of(&plan, "a").node, "east");
}

#[test]
fn enrolment_follows_the_labels() {
    for (namespace, label, enrolled) in [
        ("ambient", None, true),
        ("ambient", Some("none"), false),
        ("other", None, false),
        ("other", Some("ambient"), true),
    ] {
        let labels = label.map_or(String::new(), |value| format!("{MODE_LABEL}: {value}"));
        let text = format!(
            "kind: Namespace\nmetadata: {{name: shop, labels: {{{MODE_LABEL}: {namespace}}}}}\n---\nkind: Pod\nmetadata: {{name: a, namespace: shop, labels: {{{labels}}}}}\nspec: {{containers: [{{name: c, command: [run]}}]}}\n"
        );
        let (plan, _) = planned(&text, &mut Slots::default());
        assert_eq!(of(&plan, "a").enrolled, enrolled, "{namespace} {label:?}");
    }
}

#[test]
fn what_cannot_be_run_is_told() {
    for (text, part) in [
        (pod("a", ", hostNetwork: true"), "hostNetwork"),
        ("kind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: x}]}\n".to_owned(), "command is missing"),
        ("kind: Pod\nmetadata: {name: a}\nspec: {containers: []}\n".to_owned(), "spec.containers is empty"),
        ("kind: Pod\nmetadata: {name: a}\nspec: {securityContext: {runAsUser: 70000}, containers: [{name: c, command: [x]}]}\n".to_owned(), "runAsUser"),
        ("kind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, command: [x], env: [{name: E, valueFrom: {secretKeyRef: {}}}]}]}\n".to_owned(), "valueFrom"),
    ] {
        let (plan, complaints) = planned(&text, &mut Slots::default());
        assert!(plan.pods.is_empty());
        assert!(complaints[0].contains(part), "{complaints:?} should name {part}");
    }
}

#[test]
fn a_service_without_an_address_is_given_one_that_it_keeps() {
    let service = |name: &str, rest: &str| format!("kind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{selector: {{app: a}}, ports: [{{port: 80}}]{rest}}}\n---\n");
    let mut slots = Slots::default();
    let (first, _) = planned(&(service("b", "") + &service("headless", ", clusterIP: None") + &service("out", ", type: ExternalName")), &mut slots);
    let given: Vec<_> = first.vips.iter().map(|(name, vip)| (name.name.as_str(), vip.to_string())).collect();
    assert_eq!(given, [("b", "10.96.128.1".to_owned())]);
    let (second, _) = planned(&(pod("a", "") + &service("a", "") + &service("b", "")), &mut slots);
    let given: Vec<_> = second.vips.iter().map(|(name, vip)| (name.name.as_str(), vip.to_string())).collect();
    assert_eq!(given, [("a", "10.96.128.2".to_owned()), ("b", "10.96.128.1".to_owned())]);
    assert_eq!(second.routes.len(), 2, "the address leads somewhere");
}

#[test]
fn services_lead_to_the_pods_that_they_select() {
    let text = pod("a", "") + &pod("b", "") + "kind: Service\nmetadata: {name: a, namespace: shop}\nspec: {clusterIPs: [10.96.0.1, 'fd10:96::1'], selector: {app: a}, ports: [{port: 80, targetPort: http}]}\n";
    let (plan, _) = planned(&text, &mut Slots::default());
    let found: Vec<_> = plan.routes.iter().map(|route| (route.vip.to_string(), route.port, route.to.clone())).collect();
    let a = of(&plan, "a");
    assert_eq!(
        found,
        [
            ("10.96.0.1".to_owned(), 80, vec![(IpAddr::V4(a.addresses.v4), 8080)]),
            ("fd10:96::1".to_owned(), 80, vec![(IpAddr::V6(a.addresses.v6.unwrap()), 8080)]),
        ]
    );
}
