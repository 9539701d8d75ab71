//! No field is ignored in silence: leaving it out of an example changes what waypoints are told or what is said of the object,
//! or it stands in a list here, with the reason.
//!
//! The examples are in `fields/`, specs of one kind in each file. A field that a reader knows and no example has fails here,
//! and so does one of the lists that means something by now.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{events, printed, translation};
use crate::cluster::Event;
use crate::objects::destination_rule::DestinationRuleSpec;
use crate::objects::policy::AuthorizationPolicySpec;
use crate::objects::rate_limit::RateLimitSpec;
use crate::objects::request::{RequestAuthenticationSpec, TelemetrySpec};
use crate::objects::route::{BackendTlsPolicySpec, GrpcRouteSpec, HttpRouteSpec, TcpRouteSpec, TlsRouteSpec};
use crate::objects::virtual_service::VirtualServiceSpec;
use crate::objects::{Kind, read};

type Silent = &'static [(&'static str, &'static str)];

/// The object says that the whole of it has no effect.
const TOLD_AS_ONE: &str = "told as one with what is beside it";
/// A name changes nothing but what a policy could name; none is for a rule of streams.
const NAME_OF_A_RULE: &str = "nothing names it";
/// The field's proxies make statistics of that name.
const NAME_IN_STATISTICS: &str = "a name in statistics that are not made here";
/// The reader has one type for all references.
const NOT_OF_THE_API: &str = "the definition of the kind has no such field";

/// Where a thing is within an example: keys and places in lists.
type Place = Vec<Value>;

fn at<'v>(value: &'v mut Value, place: &[Value]) -> &'v mut Value {
    place.iter().fold(value, |value, step| match step {
        Value::String(key) => &mut value[key.as_str()],
        index => &mut value[index.as_u64().and_then(|index| usize::try_from(index).ok()).expect("a place in a list")],
    })
}

fn written(place: &[Value]) -> String {
    place.iter().fold(String::new(), |text, step| match step {
        Value::String(key) if text.is_empty() => key.clone(),
        Value::String(key) => format!("{text}.{key}"),
        _ => format!("{text}[]"),
    })
}

/// All that has nothing in it, and all that has fields.
fn walk(value: &Value, place: &mut Place, leaves: &mut Vec<Place>, nodes: &mut Vec<Place>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            nodes.push(place.clone());
            for (key, value) in fields {
                place.push(json!(key));
                walk(value, place, leaves, nodes);
                place.pop();
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, value) in items.iter().enumerate() {
                place.push(json!(index));
                walk(value, place, leaves, nodes);
                place.pop();
            }
        }
        _ => leaves.push(place.clone()),
    }
}

fn without(example: &Value, leaf: &[Value]) -> Value {
    let mut example = example.clone();
    let (last, parent) = leaf.split_last().expect("an example has fields");
    match at(&mut example, parent) {
        Value::Object(fields) => drop(fields.remove(last.as_str().expect("a field has a name"))),
        Value::Array(items) => drop(items.remove(last.as_u64().and_then(|index| usize::try_from(index).ok()).expect("a place in a list"))),
        _ => unreachable!("a leaf is in something"),
    }
    example
}

/// What comes of an object: what waypoints are told, and what is said of it.
fn outcome(kind: Kind, base: &[Event], spec: &Value) -> String {
    let (group, versions) = kind.group_versions();
    let text = json!({ "apiVersion": format!("{group}/{}", versions[0]), "kind": kind.name(), "metadata": { "namespace": "shop", "name": "x" }, "spec": spec }).to_string();
    let contents = match read::document(read::Document { line: 1, text: &text }) {
        Ok(contents) => contents,
        Err(fault) => return format!("refused: {fault}"),
    };
    let mut translation = translation();
    let object = contents.objects.into_iter().map(|read| Event::Applied(read.object));
    translation.apply(base.iter().cloned().chain(object));
    // What differs from a default is in the bytes and not in what is printed.
    let resources = translation.derived().flat_map(|derived| &derived.resources);
    let mut told: Vec<String> = resources.map(|resource| format!("{} {} {:?} {:?}\n", resource.type_url, resource.name, resource.audiences, resource.body)).collect();
    told.sort();
    told.concat() + &printed(&translation)
}

/// The fields that the reader would know in the place of one that it does not; none: any would do.
fn known<Spec: DeserializeOwned>(example: &Value, node: &[Value]) -> BTreeSet<String> {
    let mut example = example.clone();
    at(&mut example, node)["zzz"] = json!(1);
    let said = serde_json::from_str::<Spec>(&example.to_string()).map(drop).map_err(|error| error.to_string()).err().unwrap_or_default();
    let Some((_, expected)) = said.split_once("unknown field `zzz`, expected ") else { return BTreeSet::new() };
    // Older names of a field are names, too.
    expected.split('`').skip(1).step_by(2).filter(|name| !name.contains('_')).map(str::to_owned).collect()
}

/// What structures have, by all that they may have.
type Structures = BTreeMap<BTreeSet<String>, BTreeSet<String>>;

fn check<Spec: DeserializeOwned>(kind: Kind, examples: &str, silent: Silent) {
    complete(kind.name(), looked_at::<Spec>(kind, examples, silent));
}

fn complete(what: &str, structures: Structures) {
    let missing: Vec<&String> = structures.iter().flat_map(|(known, present)| known.difference(present)).collect();
    assert!(missing.is_empty(), "{what}: fields that no example has: {missing:?}");
}

fn looked_at<Spec: DeserializeOwned>(kind: Kind, examples: &str, silent: Silent) -> Structures {
    let examples: Vec<Value> = serde_saphyr::from_str(examples).unwrap_or_else(|error| panic!("{kind}: {error}"));
    let other = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {namespace: shop, name: e2, labels: {istio.io/use-waypoint: wp}}\nspec: {hosts: [b.example], resolution: DNS, ports: [{name: http, number: 80, protocol: HTTP}]}\n---\n\
        apiVersion: v1\nkind: Service\nmetadata: {namespace: shop, name: selected}\nspec: {clusterIP: 10.96.0.8, selector: {app: a}, ports: [{port: 80}]}\n---\n";
    let base = events(&(super::route::mesh() + other + &super::pod("shop", "a", "10.0.0.1", "app: a, version: v1") + &super::pod("shop", "b", "10.0.0.2", "app: a")));
    let mut heard: BTreeSet<String> = BTreeSet::new();
    let mut all: BTreeSet<String> = BTreeSet::new();
    let mut structures = Structures::new();
    for example in &examples {
        let whole = outcome(kind, &base, example);
        assert!(!whole.starts_with("refused"), "{kind}: {example}: {whole}");
        // Words such as `y` are no texts everywhere: what is known would not be found out.
        serde_json::from_str::<Spec>(&example.to_string()).unwrap_or_else(|error| panic!("{kind}: {error}: {example}"));
        let (mut leaves, mut nodes) = (Vec::new(), Vec::new());
        walk(example, &mut Vec::new(), &mut leaves, &mut nodes);
        for leaf in leaves {
            all.insert(written(&leaf));
            if outcome(kind, &base, &without(example, &leaf)) != whole {
                heard.insert(written(&leaf));
            }
        }
        for node in nodes {
            let present = at(&mut example.clone(), &node).as_object().into_iter().flat_map(|fields| fields.keys().cloned()).collect::<Vec<_>>();
            let known = known::<Spec>(example, &node);
            structures.entry(known).or_default().extend(present);
        }
    }
    structures.remove(&BTreeSet::new());
    let found: Vec<&str> = all.difference(&heard).map(String::as_str).collect();
    let listed: BTreeSet<&str> = silent.iter().map(|(path, _)| *path).collect();
    assert_eq!(found, listed.into_iter().collect::<Vec<_>>(), "{kind}: fields that are ignored in silence, and those that are listed");
    structures
}

/// They are made of the same parts.
#[test]
fn of_routes() {
    let of_http = &[
        ("rules[].filters[].extensionRef.group", TOLD_AS_ONE),
        ("rules[].filters[].extensionRef.sectionName", NOT_OF_THE_API),
        ("rules[].filters[].requestMirror.backendRef.filters[].requestHeaderModifier.remove[]", NOT_OF_THE_API),
        ("rules[].filters[].requestMirror.backendRef.filters[].type", NOT_OF_THE_API),
        ("rules[].filters[].requestMirror.backendRef.weight", NOT_OF_THE_API),
    ];
    let of_streams = &[
        ("rules[].backendRefs[].filters[].requestHeaderModifier.remove[]", NOT_OF_THE_API),
        ("rules[].backendRefs[].filters[].type", NOT_OF_THE_API),
        ("rules[].name", NAME_OF_A_RULE),
    ];
    let mut all = looked_at::<HttpRouteSpec>(Kind::HttpRoute, include_str!("fields/http_route.yaml"), of_http);
    let others = [
        looked_at::<GrpcRouteSpec>(Kind::GrpcRoute, include_str!("fields/grpc_route.yaml"), &[]),
        looked_at::<TcpRouteSpec>(Kind::TcpRoute, include_str!("fields/tcp_route.yaml"), of_streams),
        looked_at::<TlsRouteSpec>(Kind::TlsRoute, include_str!("fields/tls_route.yaml"), of_streams),
    ];
    for (known, present) in others.into_iter().flatten() {
        all.entry(known).or_default().extend(present);
    }
    complete("routes", all);
}

#[test]
fn of_backend_tls_policies() {
    check::<BackendTlsPolicySpec>(Kind::BackendTlsPolicy, include_str!("fields/backend_tls_policy.yaml"), &[("validation.caCertificateRefs[].sectionName", NOT_OF_THE_API)]);
}

#[test]
fn of_virtual_services() {
    let silent = &[
        ("http[].fault.abort.http2Error", TOLD_AS_ONE),
        ("http[].fault.delay.exponentialDelay", TOLD_AS_ONE),
        ("http[].match[].name", NAME_IN_STATISTICS),
        ("http[].match[].statPrefix", NAME_IN_STATISTICS),
    ];
    check::<VirtualServiceSpec>(Kind::VirtualService, include_str!("fields/virtual_service.yaml"), silent);
}

#[test]
fn of_destination_rules() {
    let silent = &[
        ("trafficPolicy.connectionPool.http.http2KeepAlive.interval", TOLD_AS_ONE),
        ("trafficPolicy.connectionPool.http.http2KeepAlive.probes", TOLD_AS_ONE),
        ("trafficPolicy.connectionPool.http.http2KeepAlive.time", TOLD_AS_ONE),
        ("trafficPolicy.connectionPool.http.http2KeepAlive.timeout", TOLD_AS_ONE),
        ("trafficPolicy.connectionPool.tcp.tcpKeepalive.interval", TOLD_AS_ONE),
        ("trafficPolicy.connectionPool.tcp.tcpKeepalive.probes", TOLD_AS_ONE),
        ("trafficPolicy.connectionPool.tcp.tcpKeepalive.time", TOLD_AS_ONE),
        ("trafficPolicy.connectionPool.tcp.tcpKeepalive.timeout", TOLD_AS_ONE),
        ("trafficPolicy.loadBalancer.consistentHash.httpCookie.attributes[].name", TOLD_AS_ONE),
        ("trafficPolicy.loadBalancer.consistentHash.httpCookie.attributes[].value", TOLD_AS_ONE),
        ("workloadSelector.matchLabels.a", TOLD_AS_ONE),
    ];
    check::<DestinationRuleSpec>(Kind::DestinationRule, include_str!("fields/destination_rule.yaml"), silent);
}

#[test]
fn of_authorization_policies() {
    check::<AuthorizationPolicySpec>(Kind::AuthorizationPolicy, include_str!("fields/authorization_policy.yaml"), &[]);
}

#[test]
fn of_request_authentications() {
    check::<RequestAuthenticationSpec>(Kind::RequestAuthentication, include_str!("fields/request_authentication.yaml"), &[("selector.matchLabels.a", TOLD_AS_ONE)]);
}

#[test]
fn of_telemetry() {
    check::<TelemetrySpec>(Kind::Telemetry, include_str!("fields/telemetry.yaml"), &[("selector.matchLabels.a", TOLD_AS_ONE), ("tracing[].customTags.i.formatter.value", TOLD_AS_ONE)]);
}

#[test]
fn of_rate_limits() {
    check::<RateLimitSpec>(Kind::RateLimit, include_str!("fields/rate_limit.yaml"), &[]);
}
