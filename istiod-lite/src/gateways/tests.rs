//! What is made for Gateways, what is deleted, and what is said; then all of it beside an API server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use expect_test::expect;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::apply::deploy;
use super::plan::{Plan, Subject, plan};
use super::seen::*;
use super::template::Settings;
use crate::objects::NsName;
use crate::status::plan::Page;
use crate::testing::api_server::ApiServer;

fn settings() -> Settings {
    Settings {
        image: "hub/waypoint:1".into(),
        pull_policy: "IfNotPresent".into(),
        pull_secrets: vec![],
        discovery: "istiod.istio-system.svc:15012".into(),
        root_namespace: "istio-system".into(),
        cluster_id: "Kubernetes".into(),
        cluster_domain: "cluster.local".into(),
        trust_domain: "cluster.local".into(),
        log_level: "info".into(),
        log_as_json: false,
        env: BTreeMap::new(),
    }
}

/// A Gateway `shop/w`, with more in its metadata and its spec.
fn gateway(metadata: Value, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": { "name": "w", "namespace": "shop", "uid": "u1", "generation": 3 },
        "spec": { "gatewayClassName": CLASS, "listeners": [{ "name": "mesh", "port": 15008, "protocol": "HBONE" }] },
    });
    super::overlay::merge(&mut object["metadata"], metadata);
    super::overlay::merge(&mut object["spec"], spec);
    object
}

fn world(gateways: &[Value]) -> World {
    let read = |object: &Value| Gateway::of(serde_json::from_value(object.clone()).unwrap()).unwrap();
    let gateways = gateways.iter().map(|object| { let gateway = read(object); (gateway.ns_name(), gateway) }).collect();
    let class = |controller: &str| Class { controller: controller.into(), generation: 1, status: Value::Null };
    let classes = [(CLASS.to_owned(), class(CONTROLLER)), ("mine".to_owned(), class(CONTROLLER)), ("foreign".to_owned(), class("other.io/x"))].into();
    let namespaces = ["shop", "istio-system"].map(|name| (name.to_owned(), BTreeMap::new())).into();
    World { gateways, classes, namespaces, ..World::default() }
}

fn revisions() -> BTreeSet<Arc<str>> {
    BTreeSet::from(["default".into(), "stable".into()])
}

fn planned(world: &World) -> Plan {
    plan(world, &settings(), &revisions(), "now")
}

/// What the API server would hold after it.
fn settled(mut world: World, ready: u64) -> World {
    for (place, mut object) in planned(&world).apply {
        object["metadata"]["uid"] = json!(format!("uid of {place}"));
        match place.kind {
            Made::Deployment => object["status"] = json!({ "replicas": 1, "readyReplicas": ready }),
            Made::Service => object["spec"]["clusterIP"] = json!("10.96.0.9"),
            _ => {}
        }
        world.made.insert(place, object);
    }
    world
}

fn status(world: &World) -> Value {
    let name = NsName::new("shop", "w");
    planned(world).statuses.into_iter().find(|(subject, _)| *subject == Subject::Gateway(name.clone())).map(|(_, status)| status).unwrap_or_default()
}

/// `Accepted=True/Accepted Programmed=False/AddressNotAssigned: ...`
fn said(conditions: &Value) -> Vec<String> {
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    conditions.as_array().into_iter().flatten().map(|one| format!("{}={}/{}: {}", text(one, "type"), text(one, "status"), text(one, "reason"), text(one, "message"))).collect()
}

fn places(world: &World) -> Vec<String> {
    planned(world).apply.iter().map(|(place, _)| place.to_string()).collect()
}

#[test]
fn a_waypoint_is_these_objects() {
    let plan = planned(&world(&[gateway(json!({}), json!({}))]));
    let text: Vec<String> = plan.apply.iter().map(|(_, object)| serde_json::to_string_pretty(object).unwrap()).collect();
    expect_test::expect_file!["tests/waypoint.json"].assert_eq(&(text.join("\n") + "\n"));
    assert!(plan.delete.is_empty() && !plan.creates_class);
}

#[test]
fn which_gateways_are_deployed() {
    let all = vec!["ServiceAccount shop/w", "Deployment shop/w", "Service shop/w"];
    let table = [
        ("of the class", json!({}), json!({}), all.clone()),
        ("of a class of the user's with our controller", json!({}), json!({"gatewayClassName": "mine"}), all.clone()),
        ("of another controller", json!({}), json!({"gatewayClassName": "foreign"}), vec![]),
        ("of a class that is not there", json!({}), json!({"gatewayClassName": "nobody"}), vec![]),
        // controlplane 11 row 5
        ("of another revision", json!({"labels": {"istio.io/rev": "other"}}), json!({}), vec![]),
        ("of a tag of ours", json!({"labels": {"istio.io/rev": "stable"}}), json!({}), all.clone()),
        ("taken over by a newer controller", json!({"annotations": {"gateway.istio.io/controller-version": "6"}}), json!({}), vec![]),
        ("made by this version", json!({"annotations": {"gateway.istio.io/controller-version": "5"}}), json!({}), all.clone()),
        ("being deleted", json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), json!({}), vec![]),
        ("with a program of the user's", json!({}), json!({"addresses": [{"type": "Hostname", "value": "w.shop.svc.cluster.local"}]}), vec![]),
        ("with several addresses", json!({}), json!({"addresses": [{"value": "1.1.1.1"}, {"value": "1.1.1.2"}]}), vec![]),
        ("with an address for its Service", json!({}), json!({"addresses": [{"type": "IPAddress", "value": "10.96.0.77"}]}), all.clone()),
        (
            "with names of its own",
            json!({"annotations": {"gateway.istio.io/name-override": "n", "gateway.istio.io/service-account": "a"}}),
            json!({}),
            vec!["ServiceAccount shop/a", "Deployment shop/n", "Service shop/n"],
        ),
    ];
    for (what, metadata, spec, expected) in table {
        assert_eq!(places(&world(&[gateway(metadata, spec)])), expected, "{what}");
    }
    let mut of_namespace = world(&[gateway(json!({}), json!({}))]);
    of_namespace.namespaces.get_mut("shop").unwrap().insert("istio.io/rev".into(), "other".into());
    assert_eq!(places(&of_namespace), Vec::<String>::new(), "the namespace's revision counts where the Gateway has none");
}

#[test]
fn the_class_is_made_once() {
    let mut world = world(&[gateway(json!({}), json!({}))]);
    world.classes.remove(CLASS);
    assert!(planned(&world).creates_class);
    assert_eq!(places(&world).len(), 3, "nobody waits for it");
    let said: Vec<Subject> = planned(&world).statuses.into_iter().map(|(subject, _)| subject).collect();
    assert!(said.contains(&Subject::Class("mine".into())) && !said.contains(&Subject::Class("foreign".into())));
}

#[test]
fn labels_and_annotations_are_the_gateways_or_those_it_asks_for() {
    let of = |metadata: Value, spec: Value| {
        let plan = planned(&world(&[gateway(metadata, spec)]));
        let deployment = plan.apply.into_iter().find(|(place, _)| place.kind == Made::Deployment).unwrap().1;
        (deployment["metadata"].clone(), deployment["spec"]["template"]["metadata"].clone())
    };
    let own = json!({
        "labels": { "team": "a", "istio.io/waypoint-for": "all", "gateway.networking.k8s.io/gateway-name": "lie", "istio.io/dataplane-mode": "ambient" },
        "annotations": { "note": "n", "kubectl.kubernetes.io/last-applied-configuration": "{}", "gateway.istio.io/name-override": "w" },
    });
    let (object, pods) = of(own.clone(), json!({}));
    assert_eq!((&object["labels"]["team"], &object["labels"][GATEWAY_NAME], &object["labels"][MANAGED]), (&json!("a"), &json!("w"), &json!(MANAGED_BY)));
    assert_eq!(object["annotations"], json!({ "note": "n" }));
    assert_eq!((&pods["labels"]["istio.io/waypoint-for"], &pods["labels"]["istio.io/dataplane-mode"]), (&json!("all"), &json!("none")), "its pods are never captured");
    let (object, pods) = of(own, json!({ "infrastructure": { "labels": { "only": "this", "gateway.networking.k8s.io/x": "no" }, "annotations": { "and": "that" } } }));
    assert_eq!((&object["labels"]["only"], &object["labels"]["team"], &object["labels"]["gateway.networking.k8s.io/x"]), (&json!("this"), &Value::Null, &Value::Null));
    assert_eq!((&object["annotations"], &pods["annotations"]["and"]), (&json!({ "and": "that" }), &json!("that")));
}

// controlplane 11 row 4
#[test]
fn what_users_lay_over_objects() {
    let mut world = world(&[gateway(json!({}), json!({ "infrastructure": { "parametersRef": { "group": "", "kind": "ConfigMap", "name": "p" } } }))]);
    let parameters = |name: &str, data: &[(&str, &str)]| Parameters { name: name.into(), data: data.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect() };
    let name = NsName::new("shop", "p");
    assert_eq!(planned(&world).config_maps, BTreeSet::from([name.clone()]));
    assert_eq!(places(&world), Vec::<String>::new(), "nothing is made before they were read: it would roll at once");

    world.defaults.insert(CLASS.into(), vec![parameters("istio-system/d", &[("deployment", "spec: {replicas: 2, template: {spec: {terminationGracePeriodSeconds: 90, nodeSelector: {a: b}}}}")])]);
    let hpa = ("horizontalPodAutoscaler", "spec: {minReplicas: 2, maxReplicas: 5}");
    let more = ("deployment", "metadata: {name: other, labels: {x: y, gateway.istio.io/managed: no}}\nspec: {selector: null, template: {spec: {terminationGracePeriodSeconds: 60}}}");
    world.parameters.insert(name.clone(), Some(parameters("shop/p", &[hpa, more, ("podDisruptionBudget", "spec: {minAvailable: 1}")])));
    let plan = planned(&world);
    let object = |made: Made| plan.apply.iter().find(|(place, _)| place.kind == made).unwrap().1.clone();
    let deployment = object(Made::Deployment);
    let pods = &deployment["spec"]["template"]["spec"];
    assert_eq!((&pods["terminationGracePeriodSeconds"], &pods["nodeSelector"]), (&json!(60), &json!({ "a": "b" })), "the Gateway's own come after its class's");
    let told = pods["containers"][0]["env"].as_array().unwrap().iter().find(|one| one["name"] == "TERMINATION_GRACE_PERIOD_SECONDS").unwrap();
    assert_eq!(told["value"], "60", "the program is told");
    assert_eq!(deployment["spec"]["replicas"], Value::Null, "an autoscaler has it");
    assert_eq!((&deployment["metadata"]["name"], &deployment["metadata"]["labels"]["x"], &deployment["metadata"]["labels"][MANAGED]), (&json!("w"), &json!("y"), &json!(MANAGED_BY)));
    assert_eq!(deployment["spec"]["selector"], json!({ "matchLabels": { GATEWAY_NAME: "w" } }));
    assert_eq!((&object(Made::HorizontalPodAutoscaler)["spec"]["maxReplicas"], &object(Made::HorizontalPodAutoscaler)["spec"]["scaleTargetRef"]["name"]), (&json!(5), &json!("w")));
    assert_eq!(object(Made::PodDisruptionBudget)["spec"], json!({ "minAvailable": 1, "selector": { "matchLabels": { GATEWAY_NAME: "w" } } }));

    // [GAP] of the field: an overlay that goes leaves nothing behind
    let mut settled = settled(world.clone(), 1);
    settled.parameters.insert(name.clone(), Some(parameters("shop/p", &[])));
    let gone: Vec<String> = planned(&settled).delete.iter().map(|(place, uid)| format!("{place}, {uid}")).collect();
    assert_eq!(gone, ["HorizontalPodAutoscaler shop/w, uid of HorizontalPodAutoscaler shop/w", "PodDisruptionBudget shop/w, uid of PodDisruptionBudget shop/w"]);

    // what cannot be used changes nothing
    for (wrong, why) in [
        (None, "spec.infrastructure.parametersRef: there is no ConfigMap shop/p"),
        (Some(parameters("shop/p", &[("deploiment", "{}")])), "ConfigMap shop/p: deploiment is none of serviceAccount, deployment, service, horizontalPodAutoscaler, podDisruptionBudget"),
        (Some(parameters("shop/p", &[("deployment", "text")])), "ConfigMap shop/p: deployment is no object"),
    ] {
        settled.parameters.insert(name.clone(), wrong);
        let plan = planned(&settled);
        assert!(plan.apply.is_empty() && plan.delete.is_empty(), "{why}");
        assert_eq!(said(&status(&settled)["conditions"])[0], format!("Accepted=False/InvalidParameters: {why}"));
    }
    settled.gateways.values_mut().for_each(|gateway| gateway.spec.infrastructure.as_mut().unwrap().parameters_ref.as_mut().unwrap().kind = "Secret".into());
    assert!(said(&status(&settled)["conditions"])[0].contains("Secret of group \"\" is not read; name a ConfigMap"));
}

#[test]
fn what_is_said_on_the_way() {
    let mut early = world(&[gateway(json!({}), json!({}))]);
    assert_eq!(said(&status(&early)["conditions"]), ["Accepted=True/Accepted: deployed as a waypoint", "Programmed=False/AddressNotAssigned: its Deployment and Service are being made"]);
    early = settled(early, 0);
    let none_ready = "no instance of Deployment w is ready, 1 are there";
    assert_eq!(said(&status(&early)["conditions"])[1], format!("Programmed=False/AddressNotAssigned: {none_ready}"));
    assert_eq!(status(&early)["addresses"], json!([]));

    let mut ready = settled(early.clone(), 1);
    let status_of_ready = status(&ready);
    expect![[r#"
        {
          "addresses": [
            {
              "type": "IPAddress",
              "value": "10.96.0.9"
            },
            {
              "type": "Hostname",
              "value": "w.shop.svc.cluster.local"
            }
          ],
          "conditions": [
            {
              "lastTransitionTime": "now",
              "message": "deployed as a waypoint",
              "observedGeneration": 3,
              "reason": "Accepted",
              "status": "True",
              "type": "Accepted"
            },
            {
              "lastTransitionTime": "now",
              "message": "served by w.shop.svc.cluster.local:15008",
              "observedGeneration": 3,
              "reason": "Programmed",
              "status": "True",
              "type": "Programmed"
            }
          ],
          "listeners": [
            {
              "attachedRoutes": 0,
              "conditions": [
                {
                  "lastTransitionTime": "now",
                  "message": "tunnels arrive here",
                  "observedGeneration": 3,
                  "reason": "Accepted",
                  "status": "True",
                  "type": "Accepted"
                },
                {
                  "lastTransitionTime": "now",
                  "message": "no listener is in the way of another",
                  "observedGeneration": 3,
                  "reason": "NoConflicts",
                  "status": "False",
                  "type": "Conflicted"
                },
                {
                  "lastTransitionTime": "now",
                  "message": "instances listen",
                  "observedGeneration": 3,
                  "reason": "Programmed",
                  "status": "True",
                  "type": "Programmed"
                },
                {
                  "lastTransitionTime": "now",
                  "message": "nothing is missing",
                  "observedGeneration": 3,
                  "reason": "ResolvedRefs",
                  "status": "True",
                  "type": "ResolvedRefs"
                }
              ],
              "name": "mesh",
              "supportedKinds": [
                {
                  "group": "gateway.networking.k8s.io",
                  "kind": "GRPCRoute"
                },
                {
                  "group": "gateway.networking.k8s.io",
                  "kind": "HTTPRoute"
                },
                {
                  "group": "gateway.networking.k8s.io",
                  "kind": "TCPRoute"
                },
                {
                  "group": "gateway.networking.k8s.io",
                  "kind": "TLSRoute"
                }
              ]
            }
          ]
        }"#]].assert_eq(&serde_json::to_string_pretty(&status_of_ready).unwrap());

    // It is said once, and what is said beside it does not count.
    let mut shown = status_of_ready.clone();
    shown["conditions"].as_array_mut().unwrap().push(json!({ "type": "Else", "status": "True" }));
    ready.gateways.values_mut().for_each(|gateway| gateway.status = shown.clone());
    assert_eq!(status(&ready), Value::Null);
    ready.attached.insert(NsName::new("shop", "w"), BTreeMap::from([("mesh".into(), 2)]));
    assert_eq!(status(&ready)["listeners"][0]["attachedRoutes"], 2);
    ready.attached.clear();

    // An address that was given stays: services are bound by it while the program restarts.
    let mut down = settled(ready.clone(), 0);
    assert_eq!(said(&status(&down)["conditions"])[1], format!("Programmed=False/NoResources: {none_ready}"));
    assert_eq!(status(&down)["addresses"], status_of_ready["addresses"]);
    let place = Place { kind: Made::Deployment, name: NsName::new("shop", "w") };
    down.made.get_mut(&place).unwrap()["status"]["conditions"] = json!([{ "type": "ReplicaFailure", "status": "True", "message": "exceeded quota" }]);
    assert_eq!(said(&status(&down)["conditions"])[1], format!("Programmed=False/NoResources: {none_ready}: exceeded quota"));
    down.refused.insert(place, "is forbidden".into());
    assert_eq!(said(&status(&down)["conditions"])[1], "Programmed=False/NoResources: Deployment shop/w cannot be applied: is forbidden");
}

#[test]
fn which_addresses_are_reported() {
    for (wanted, expected) in [("IPAddress", json!([{"type": "IPAddress", "value": "10.96.0.9"}])), ("Hostname", json!([{"type": "Hostname", "value": "w.shop.svc.cluster.local"}]))] {
        let world = world(&[gateway(json!({"annotations": {"networking.istio.io/address-type": wanted}}), json!({}))]);
        assert_eq!(status(&settled(world, 1))["addresses"], expected);
    }
    let mut own = world(&[gateway(json!({}), json!({"addresses": [{"type": "Hostname", "value": "proxy"}]}))]);
    assert_eq!(said(&status(&own)["conditions"])[1], "Programmed=False/AddressNotAssigned: spec.addresses: there is no Service shop/proxy");
    assert_eq!(planned(&own).services, BTreeSet::from([NsName::new("shop", "proxy")]));
    own.taken.insert(Place { kind: Made::Service, name: NsName::new("shop", "proxy") });
    assert_eq!(status(&own)["addresses"], json!([{"type": "Hostname", "value": "proxy.shop.svc.cluster.local"}]));
    let wrong = world(&[gateway(json!({}), json!({"addresses": [{"value": "1.1.1.1"}, {"value": "1.1.1.2"}]}))]);
    assert!(said(&status(&wrong)["conditions"])[0].starts_with("Accepted=False/UnsupportedAddress"));
}

#[test]
fn listeners_that_a_waypoint_does_not_have() {
    let of = |listeners: Value| {
        let status = status(&settled(world(&[gateway(json!({}), json!({ "listeners": listeners }))]), 1));
        (said(&status["conditions"])[0].clone(), status["listeners"].clone())
    };
    let (accepted, listeners) = of(json!([{ "name": "web", "port": 80, "protocol": "HTTP" }]));
    assert_eq!(accepted, "Accepted=True/Accepted: deployed as a waypoint", "a waypoint with a listener too many still works");
    assert_eq!(said(&listeners[0]["conditions"])[0], "Accepted=False/UnsupportedProtocol: Expected a single listener on port 15008 with protocol \"HBONE\"");
    assert_eq!(listeners[0]["supportedKinds"], json!([]));
    assert_eq!(of(json!([{ "name": "x", "port": 80, "protocol": "FOO" }])).0, "Accepted=False/ListenersNotValid: no listener is valid");
    let both = json!([{ "name": "mesh", "port": 15008, "protocol": "HBONE" }, { "name": "x", "port": 80, "protocol": "FOO" }]);
    assert!(of(both).0.starts_with("Accepted=True/ListenersNotValid"));
    let kinds = json!([{ "name": "mesh", "port": 15008, "protocol": "HBONE", "allowedRoutes": { "kinds": [{ "kind": "HTTPRoute" }, { "kind": "UDPRoute" }] } }]);
    let (_, listeners) = of(kinds);
    assert_eq!(listeners[0]["supportedKinds"], json!([{ "group": "gateway.networking.k8s.io", "kind": "HTTPRoute" }]));
    assert_eq!(said(&listeners[0]["conditions"])[3], "ResolvedRefs=False/InvalidRouteKinds: allowedRoutes.kinds: UDPRoute do not attach to a waypoint");
}

#[test]
fn nobodys_objects_are_written_to() {
    let mut world = world(&[gateway(json!({}), json!({}))]);
    let place = |kind| Place { kind, name: NsName::new("shop", "w") };
    world.taken.insert(place(Made::ServiceAccount));
    assert_eq!(places(&world), ["Deployment shop/w", "Service shop/w"], "an account of the user's is used");
    world.taken.insert(place(Made::Service));
    assert_eq!(places(&world), ["Deployment shop/w"]);
    assert!(said(&status(&world)["conditions"])[1].contains("Service shop/w is there and was not made for a Gateway; name the Gateway otherwise"));

    // two Gateways with one name for what is made
    let first = settled(self::world(&[gateway(json!({}), json!({}))]), 1);
    let second = gateway(json!({ "name": "v", "uid": "u2", "annotations": { "gateway.istio.io/name-override": "w" } }), json!({}));
    let mut both = self::world(&[gateway(json!({}), json!({})), second]);
    both.made = first.made;
    let plan = planned(&both);
    let said_of = |name: &str| plan.statuses.iter().find(|(subject, _)| *subject == Subject::Gateway(NsName::new("shop", name))).map(|(_, status)| said(&status["conditions"])[1].clone()).unwrap();
    assert!(said_of("v").contains("Deployment shop/w was made for Gateway w"), "{}", said_of("v"));
    assert!(said_of("w").starts_with("Programmed=True"));
    assert!(plan.delete.is_empty());
}

#[test]
fn what_was_made_goes_when_it_is_not_wanted() {
    let made = settled(world(&[gateway(json!({}), json!({}))]), 1);
    let gone = |metadata: Value, spec: Value| {
        let mut world = world(&[gateway(metadata, spec)]);
        world.made = made.made.clone();
        planned(&world).delete.iter().map(|(place, _)| place.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(gone(json!({}), json!({})), Vec::<String>::new());
    assert_eq!(gone(json!({}), json!({"gatewayClassName": "foreign"})), ["ServiceAccount shop/w", "Deployment shop/w", "Service shop/w"]);
    assert_eq!(gone(json!({"annotations": {"gateway.istio.io/name-override": "n"}}), json!({})), ["Deployment shop/w", "Service shop/w"]);
    assert_eq!(gone(json!({}), json!({"gatewayClassName": "nobody"})), Vec::<String>::new(), "a class may come back");
    assert_eq!(gone(json!({"labels": {"istio.io/rev": "other"}}), json!({})), Vec::<String>::new(), "they are another controller's now");
    assert_eq!(gone(json!({"uid": "another"}), json!({})), Vec::<String>::new(), "those of a Gateway that is gone are for the garbage collector");
}

const GATEWAYS: &str = "/apis/gateway.networking.k8s.io/v1/gateways";
const CLASSES: &str = "/apis/gateway.networking.k8s.io/v1/gatewayclasses";
const DEPLOYMENTS: &str = "/apis/apps/v1/deployments";

#[tokio::test(start_paused = true)]
async fn beside_an_api_server() {
    let server = ApiServer::new();
    server.put("/api/v1/namespaces", json!({ "metadata": { "name": "shop" } }));
    server.put("/api/v1/services", json!({ "metadata": { "namespace": "shop", "name": "v" } }));
    let page = Page { revisions: revisions(), ..Page::default() };
    let (_pages, shown) = watch::channel(Arc::new(page));
    let running = tokio::spawn(deploy(server.client(), settings(), shown));

    // before there are definitions nothing is done, and nothing ends
    server.until("Gateways are asked for", |server| server.asked("GET", GATEWAYS) > 1).await;
    server.define(crate::objects::Kind::Gateway);
    server.define(crate::objects::Kind::GatewayClass);
    server.until("the class", |server| server.object(CLASSES, "", CLASS).is_some_and(|class| class["status"]["conditions"][0]["status"] == "True")).await;

    server.put(GATEWAYS, gateway(json!({}), json!({})));
    let condition = |server: &ApiServer, name: &str, at: usize| server.object(GATEWAYS, "shop", name).map(|gateway| gateway["status"]["conditions"][at].clone()).unwrap_or_default();
    server.until("the Deployment, and word of it", |server| server.object(DEPLOYMENTS, "shop", "w").is_some() && condition(server, "w", 1)["reason"] == "AddressNotAssigned").await;
    let mut service = server.object("/api/v1/services", "shop", "w").unwrap();
    service["spec"]["clusterIP"] = json!("10.96.0.9");
    server.put("/api/v1/services", service);
    let mut deployment = server.object(DEPLOYMENTS, "shop", "w").unwrap();
    deployment["status"] = json!({ "replicas": 1, "readyReplicas": 1 });
    server.put(DEPLOYMENTS, deployment.clone());
    server.until("it is programmed", |server| condition(server, "w", 1)["status"] == "True").await;

    // what somebody changes is put back; what its own controller says about it is nobody's change
    let writes = server.asked("PATCH", "/deployments/w");
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!("evil");
    server.put(DEPLOYMENTS, deployment);
    server.until("the image is ours again", |server| server.object(DEPLOYMENTS, "shop", "w").unwrap()["spec"]["template"]["spec"]["containers"][0]["image"] == "hub/waypoint:1").await;
    assert_eq!(server.asked("PATCH", "/deployments/w"), writes + 1);

    // a name that somebody else's object has
    server.put(GATEWAYS, gateway(json!({ "name": "v", "uid": "u2" }), json!({})));
    server.until("the Gateway is told", |server| condition(server, "v", 1)["message"].as_str().is_some_and(|text| text.contains("was not made for a Gateway"))).await;
    assert!(server.object("/api/v1/services", "shop", "v").unwrap()["spec"].is_null(), "it was not touched");

    // an overlay comes and goes
    let map = |text: &str| json!({ "metadata": { "namespace": "istio-system", "name": "d", "labels": { DEFAULTS_FOR_CLASS: CLASS } }, "data": { "podDisruptionBudget": text } });
    let budgets = "/apis/policy/v1/poddisruptionbudgets";
    server.put("/api/v1/configmaps", map("spec: {minAvailable: 1}"));
    server.until("the budget", |server| server.object(budgets, "shop", "w").is_some()).await;
    server.delete("/api/v1/configmaps", "istio-system", "d");
    server.until("no budget", |server| server.object(budgets, "shop", "w").is_none()).await;
    running.abort();
}
