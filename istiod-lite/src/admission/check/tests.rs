//! Wrong objects, by hand and generated: each is refused, with its field and a hint (issue 4, bad input).

use serde_json::{Value, json};

use crate::admission::review::{Verdict, decide};
use crate::objects::Kind;

fn asked(kind: Kind, spec: &Value) -> Verdict {
    let (group, versions) = kind.group_versions();
    let object = json!({ "apiVersion": format!("{group}/{}", versions[0]), "kind": kind.name(), "metadata": { "namespace": "shop", "name": "o" }, "spec": spec });
    decide(kind, &object.to_string())
}

pub fn good() -> Vec<(Kind, Value)> {
    vec![
        (
            Kind::AuthorizationPolicy,
            json!({
                "selector": { "matchLabels": { "app": "cart" } },
                "action": "DENY",
                "rules": [{
                    "from": [{ "source": {
                        "principals": ["cluster.local/ns/shop/sa/*"], "notPrincipals": ["*/evil"], "namespaces": ["shop"], "notNamespaces": ["ops"],
                        "serviceAccounts": ["shop/web"], "notServiceAccounts": ["evil"], "ipBlocks": ["10.0.0.0/8"], "notIpBlocks": ["10.9.0.1"],
                    } }],
                    "to": [{ "operation": { "ports": ["80"], "notPorts": ["81"] } }],
                    "when": [{ "key": "destination.port", "values": ["80"], "notValues": ["81"] }],
                }],
            }),
        ),
        (Kind::PeerAuthentication, json!({ "selector": { "matchLabels": { "app": "cart" } }, "mtls": { "mode": "STRICT" }, "portLevelMtls": { "8080": { "mode": "PERMISSIVE" } } })),
        (
            Kind::ServiceEntry,
            json!({
                "hosts": ["a.example", "*.b.example"], "addresses": ["10.9.0.1", "10.8.0.0/16"], "resolution": "STATIC", "location": "MESH_EXTERNAL",
                "ports": [{ "number": 443, "name": "https", "protocol": "TLS", "targetPort": 8443 }, { "number": 53, "name": "dns", "protocol": "UDP" }, { "number": 53, "name": "dns-tcp", "protocol": "TCP" }],
                "endpoints": [{ "address": "10.7.0.1", "ports": { "https": 9443 }, "labels": { "a": "b" }, "network": "n1", "locality": "r/z/s", "weight": 3, "serviceAccount": "sa" }],
                "subjectAltNames": ["spiffe://cluster.local/ns/x/sa/y"], "exportTo": ["."],
            }),
        ),
        (
            Kind::RateLimit,
            json!({
                "targetRefs": [{ "group": "", "kind": "Service", "name": "cart" }], "phase": "BeforeAuthentication", "headers": true, "shadow": true, "grpcStatus": "ResourceExhausted",
                "local": [{
                    "name": "each", "requests": 10, "per": "1s", "burst": 20, "shared": true, "by": [{ "type": "SourcePrincipal", "key": "who", "optional": true }],
                    "matches": [{ "path": { "type": "Exact", "value": "/cart" }, "method": "POST", "headers": [{ "type": "Exact", "name": "x-a", "value": "1" }], "queryParams": [{ "name": "a", "value": "1" }] }],
                }],
                "global": {
                    "domain": "shop", "service": { "name": "ratelimit", "namespace": "infra", "port": 8081 }, "failureMode": "Closed", "timeout": "20ms",
                    "descriptors": [{ "by": [{ "type": "Path", "key": "who" }] }],
                },
            }),
        ),
        (Kind::RequestAuthentication, json!({ "targetRefs": [{ "kind": "Service", "group": "", "name": "web" }], "jwtRules": [{ "issuer": "https://a.example", "jwksUri": "https://a.example/keys" }] })),
        (Kind::DestinationRule, json!({ "host": "web", "trafficPolicy": { "loadBalancer": { "simple": "RANDOM" } }, "subsets": [{ "name": "v1", "labels": { "version": "v1" } }] })),
        (Kind::VirtualService, json!({ "hosts": ["web"], "http": [{ "match": [{ "uri": { "regex": "/a(b)" } }], "route": [{ "destination": { "host": "web" } }] }] })),
        (Kind::Telemetry, json!({ "tracing": [{ "providers": [{ "name": "otel" }], "randomSamplingPercentage": 10 }] })),
        (Kind::WorkloadEntry, json!({ "address": "vm.example", "ports": { "http": 8080 }, "labels": { "app": "vm" }, "network": "n1", "locality": "r", "weight": 1, "serviceAccount": "vm" })),
    ]
}

#[test]
fn good_objects_are_stored_and_told_what_is_not_honoured() {
    for (kind, spec) in good() {
        let verdict = asked(kind, &spec);
        assert_eq!(verdict.refused, None, "{kind}");
        let told = verdict.warnings.iter().any(|warning| warning.starts_with("spec.exportTo is not honoured"));
        assert_eq!(told, kind == Kind::ServiceEntry, "{kind}: {:?}", verdict.warnings);
    }
    let l7 = asked(Kind::AuthorizationPolicy, &json!({ "rules": [{ "to": [{ "operation": { "methods": ["GET"] } }] }] }));
    assert!(l7.refused.is_none() && l7.warnings[0].starts_with("only a waypoint can look at methods"), "{l7:?}");
    let empty = asked(Kind::AuthorizationPolicy, &json!({ "action": "DENY" }));
    assert!(empty.refused.is_none() && empty.warnings[0].contains("denies nothing"), "{empty:?}");
    let audit = asked(Kind::AuthorizationPolicy, &json!({ "action": "AUDIT" }));
    assert!(audit.refused.is_none() && audit.warnings[0].contains("cannot be enforced at L4"), "{audit:?}");
}

#[test]
fn wrong_values_are_refused_with_field_and_hint() {
    let policy = |rules: Value| (Kind::AuthorizationPolicy, json!({ "rules": rules }));
    let source = |source: Value| policy(json!([{ "from": [{ "source": source }] }]));
    let operation = |operation: Value| policy(json!([{ "to": [{ "operation": operation }] }]));
    let when = |when: Value| policy(json!([{ "when": [when] }]));
    let peer = |spec: Value| (Kind::PeerAuthentication, spec);
    let entry = |more: Value| {
        let mut spec = json!({ "hosts": ["a.example"], "resolution": "STATIC" });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        (Kind::ServiceEntry, spec)
    };
    let ports = |ports: Value| entry(json!({ "ports": ports }));
    let endpoint = |endpoint: Value| entry(json!({ "endpoints": [endpoint] }));
    let workload = |spec: Value| (Kind::WorkloadEntry, spec);
    let table = [
        ((Kind::AuthorizationPolicy, json!({ "action": "BLOCK" })), "spec.action", "is not ALLOW, DENY, AUDIT or CUSTOM"),
        ((Kind::AuthorizationPolicy, json!({ "selector": {}, "targetRefs": [{ "kind": "Service", "name": "s" }] })), "spec.selector", "exclude each other"),
        (source(json!({})), "spec.rules[0].from[0].source", "is empty"),
        (operation(json!({})), "spec.rules[0].to[0].operation", "is empty"),
        (source(json!({ "principals": [""] })), "source.principals", "is empty"),
        (source(json!({ "principals": ["a*b"] })), "source.principals", "neither its first nor its last"),
        (source(json!({ "notPrincipals": ["*a*"] })), "source.notPrincipals", "neither its first nor its last"),
        (source(json!({ "namespaces": ["a*b*"] })), "source.namespaces", "neither its first nor its last"),
        (source(json!({ "ipBlocks": ["10.0.0.0/33"] })), "source.ipBlocks", "neither an IP address nor a range"),
        (source(json!({ "ipBlocks": ["10.0.0"] })), "source.ipBlocks", "neither an IP address nor a range"),
        (source(json!({ "remoteIpBlocks": ["10.0.0.0/33"] })), "source.remoteIpBlocks", "neither an IP address nor a range"),
        (source(json!({ "notRemoteIpBlocks": [""] })), "source.notRemoteIpBlocks", "neither an IP address nor a range"),
        ((Kind::AuthorizationPolicy, json!({ "selector": { "matchLabels": { "a b": "c" } } })), "spec.selector.matchLabels", "no key of a label"),
        (peer(json!({ "selector": { "matchLabels": { "UPPER/a": "c" } } })), "spec.selector.matchLabels", "no key of a label"),
        (entry(json!({ "workloadSelector": { "labels": { "a": "b c" } } })), "spec.workloadSelector.labels", "no value of label a"),
        (source(json!({ "notIpBlocks": ["nowhere"] })), "source.notIpBlocks", "neither an IP address nor a range"),
        (source(json!({ "serviceAccounts": ["A/b"] })), "source.serviceAccounts", "is not namespace/account"),
        (source(json!({ "notServiceAccounts": ["a/b/c"] })), "source.notServiceAccounts", "is not namespace/account"),
        (source(json!({ "trustDomains": ["td"] })), "source.trustDomains", "write principals with their trust domain"),
        (source(json!({ "notTrustDomains": ["td"] })), "source.notTrustDomains", "write principals with their trust domain"),
        (operation(json!({ "ports": ["http"] })), "operation.ports", "is not a port"),
        (operation(json!({ "ports": ["0"] })), "operation.ports", "is not a port"),
        (operation(json!({ "notPorts": ["65536"] })), "operation.notPorts", "is not a port"),
        (when(json!({ "key": "source.ip" })), "when[0]", "neither values nor notValues"),
        (when(json!({ "key": "source.port", "values": ["1"] })), "when[0].key", "is not an attribute"),
        (when(json!({ "key": "source.ip", "values": ["x"] })), "when[0].values", "neither an IP address nor a range"),
        (when(json!({ "key": "destination.port", "notValues": ["x"] })), "when[0].notValues", "is not a port"),
        (peer(json!({ "mtls": { "mode": "strict" } })), "spec.mtls.mode", "is not UNSET, DISABLE, PERMISSIVE or STRICT"),
        (peer(json!({ "selector": { "matchLabels": { "a": "b" } }, "portLevelMtls": { "0": { "mode": "STRICT" } } })), "spec.portLevelMtls", "is not a port"),
        (peer(json!({ "selector": { "matchLabels": { "a": "b" } }, "portLevelMtls": { "70000": { "mode": "STRICT" } } })), "spec.portLevelMtls", "is not a port"),
        (peer(json!({ "selector": { "matchLabels": { "a": "b" } }, "portLevelMtls": { "80": { "mode": "OPEN" } } })), "spec.portLevelMtls[80].mode", "is not UNSET"),
        (peer(json!({ "portLevelMtls": { "80": { "mode": "STRICT" } } })), "spec.portLevelMtls", "no effect without spec.selector"),
        ((Kind::ServiceEntry, json!({})), "spec.hosts", "name at least one"),
        (entry(json!({ "hosts": ["*"] })), "spec.hosts[0]", "name a domain"),
        (entry(json!({ "hosts": ["a.example", "b c"] })), "spec.hosts[1]", "is no DNS name"),
        (entry(json!({ "hosts": ["a.*.example"] })), "spec.hosts[0]", "only the first may be *"),
        (entry(json!({ "hosts": ["-a.example"] })), "spec.hosts[0]", "is no DNS name"),
        (entry(json!({ "addresses": ["10.0.0.300"] })), "spec.addresses[0]", "neither an IP address nor a range"),
        (entry(json!({ "addresses": ["10.0.0.1", "10.0.0.0/40"] })), "spec.addresses[1]", "neither an IP address nor a range"),
        (entry(json!({ "resolution": "dns" })), "spec.resolution", "is not one of NONE, STATIC, DNS"),
        (entry(json!({ "location": "OUTSIDE" })), "spec.location", "is not one of MESH_EXTERNAL"),
        (ports(json!([{ "number": 0, "name": "a" }])), "spec.ports[0].number", "is not a port"),
        (ports(json!([{ "number": 70000, "name": "a" }])), "spec.ports[0].number", "is not a port"),
        (ports(json!([{ "number": 80, "name": "a", "targetPort": 0 }])), "spec.ports[0].targetPort", "is not a port"),
        (ports(json!([{ "number": 80 }])), "spec.ports[0].name", "joined to ports by their names"),
        (ports(json!([{ "number": 80, "name": "a" }, { "number": 81, "name": "a" }])), "spec.ports[1].name", "the name of a port before it"),
        (ports(json!([{ "number": 80, "name": "a" }, { "number": 80, "name": "b" }])), "spec.ports[1].number", "the number of a port before it"),
        (entry(json!({ "workloadSelector": { "labels": { "a": "b" } }, "endpoints": [{ "address": "1.2.3.4" }] })), "spec.endpoints", "leave one of them out"),
        (endpoint(json!({})), "spec.endpoints[0].address", "is empty"),
        (endpoint(json!({ "address": "a.example" })), "spec.endpoints[0].address", "write DNS there"),
        (endpoint(json!({ "address": "1.2.3.4", "ports": { "a": 0 } })), "spec.endpoints[0].ports[a]", "is not a port"),
        (endpoint(json!({ "address": "1.2.3.4", "locality": "a/b/c/d" })), "spec.endpoints[0].locality", "region/zone/subzone"),
        (entry(json!({ "endpoints": [{ "address": "1.2.3.4" }, { "address": "1.2.3.4" }] })), "spec.endpoints[1].address", "of an endpoint before it"),
        (workload(json!({})), "spec.address", "is empty"),
        (workload(json!({ "address": "not a name" })), "spec.address", "is no DNS name"),
        (workload(json!({ "address": "1.2.3.4", "ports": { "http": 99999 } })), "spec.ports[http]", "is not a port"),
        (workload(json!({ "address": "1.2.3.4", "locality": "a/b/c/d" })), "spec.locality", "region/zone/subzone"),
    ];
    for ((kind, spec), field, hint) in table {
        let said = asked(kind, &spec).refused.unwrap_or_else(|| panic!("{kind} {spec} is not refused"));
        assert!(said.contains(field) && said.contains(hint), "{kind} {spec}: {said}");
    }
}

/// Paths of all fields.
fn fields(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = format!("{at}/{key}");
                fields(value, &path, found);
                found.push(path);
            }
        }
        Value::Array(list) => list.iter().enumerate().for_each(|(index, value)| fields(value, &format!("{at}/{index}"), found)),
        _ => {}
    }
}

#[test]
fn every_field_of_another_type_and_every_misspelt_one_is_refused() {
    let mut refused = 0;
    for (kind, spec) in good() {
        let mut paths = Vec::new();
        fields(&spec, "", &mut paths);
        for path in paths {
            let mut wrong = spec.clone();
            let value = wrong.pointer_mut(&path).unwrap();
            *value = match value {
                Value::String(_) => json!([["x"]]),
                Value::Number(_) => json!("x"),
                _ => json!(7),
            };
            let said = asked(kind, &wrong).refused.unwrap_or_else(|| panic!("{kind}: {path} of another type is not refused"));
            assert!(said.starts_with("field spec"), "{kind}: {path}: {said}");

            // Names within labels and ports are the user's own.
            let (place, name) = path.rsplit_once('/').unwrap();
            if ["/matchLabels", "/labels", "/endpoints/0/ports"].iter().any(|map| place.ends_with(map)) || place == "/ports" || place == "/portLevelMtls" {
                continue;
            }
            let mut misspelt = spec.clone();
            let fields = misspelt.pointer_mut(place).and_then(Value::as_object_mut).unwrap();
            let value = fields.remove(name).unwrap();
            fields.insert(format!("{name}X"), value);
            let said = asked(kind, &misspelt).refused.unwrap_or_else(|| panic!("{kind}: {path}X is not refused"));
            assert!(said.starts_with("field spec") && said.contains(&format!("unknown field `{name}X`")), "{kind}: {path}X: {said}");
            refused += 2;
        }
    }
    assert!(refused > 80, "{refused}");
}

#[test]
fn objects_for_waypoints() {
    let table = [
        (Kind::DestinationRule, json!({ "host": "" }), "spec.host: is empty"),
        (Kind::DestinationRule, json!({ "host": "a", "subsets": [{ "name": "x" }, { "name": "x" }] }), "spec.subsets: \"x\" is the name of a subset before it"),
        (Kind::DestinationRule, json!({ "host": "a", "trafficPolicy": { "tls": { "mode": "MAYBE" } } }), "spec.trafficPolicy.tls.mode: \"MAYBE\" is not one of DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL"),
        (Kind::DestinationRule, json!({ "host": "a", "trafficPolicy": { "outlierDetection": { "interval": "soon" } } }), "field spec"),
        (Kind::VirtualService, json!({ "hosts": [] }), "spec.hosts: is empty"),
        (Kind::VirtualService, json!({ "hosts": [], "http": [{}], "tcp": [{}] }), "spec.hosts: is empty"),
        (Kind::VirtualService, json!({ "hosts": ["a"], "http": [{ "delegate": { "name": "d" }, "route": [{}] }] }), "spec.http[0]: delegate excludes"),
        (Kind::VirtualService, json!({ "hosts": ["a"], "http": [{ "match": [{ "uri": { "regex": "(" } }] }] }), "spec.http[0].match[0].uri.regex: "),
        (Kind::VirtualService, json!({ "hosts": ["a"], "http": [{ "fault": { "abort": { "percentage": { "value": 200 } } } }] }), "spec.http[0].fault.abort.percentage: 200 is not 0 to 100"),
        (Kind::RequestAuthentication, json!({ "jwtRules": [{ "issuer": "" }] }), "spec.jwtRules[0].issuer: is empty"),
        (Kind::RequestAuthentication, json!({ "jwtRules": [{ "issuer": "a", "jwksUri": "ftp://a" }] }), "spec.jwtRules[0].jwksUri: "),
        (Kind::Telemetry, json!({ "tracing": [{ "randomSamplingPercentage": 101 }] }), "spec.tracing[0].randomSamplingPercentage: 101 is not 0 to 100"),
    ];
    for (kind, spec, why) in table {
        let said = asked(kind, &spec).refused.unwrap_or_default();
        assert!(said.starts_with(why), "{kind} {spec}: {said}");
    }
}
