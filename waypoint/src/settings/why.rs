//! Which rule a request falls under, and why not another: what an operator asks. Pure.

use std::net::{Ipv4Addr, SocketAddr};

use http::{HeaderMap, Method};
use mesh_model::address::NamespacedHostname;
use mesh_model::identity::SpiffeId;
use serde_json::{Value, json};

use super::{Routes, Settings, dump};
use crate::facts::{Arrival, Head, Target};

/// Rules that are told of that the request does not fall under. The first ones are the ones that are asked about.
pub const PASSED_MAX: usize = 100;

/// A request that nobody has sent.
#[derive(Clone, Debug)]
pub struct Asked {
    pub service: NamespacedHostname,
    pub port: u16,
    /// Namespace of the client.
    pub client: String,
    pub method: Method,
    pub authority: String,
    pub path: String,
    pub query: Option<String>,
    pub headers: HeaderMap,
    /// Of a stream of TLS instead of a request.
    pub server_name: Option<String>,
}

pub fn why(settings: &Settings, asked: &Asked) -> Value {
    let Some(view) = settings.service(&asked.service, asked.port) else {
        let why = if settings.serves(&asked.service) {
            "the service has no such port"
        } else {
            "the service is not bound to this waypoint"
        };
        return json!({"answer": "refused", "why": why});
    };
    let plain =
        || json!({"answer": "forwarded", "why": "no route is attached for these clients", "policies": view.policies(None).names});
    let Some(group) = view.group(&asked.client) else { return plain() };
    let own = view.groups().any(|(clients, _)| !asked.client.is_empty() && **clients == *asked.client);
    let clients = dump::clients_of(if own { &asked.client } else { "" });
    match group {
        Routes::Http(table) => {
            let arrival = asked.arrival();
            let head = asked.head(&arrival);
            let found = table.find(&head);
            let is_found = |rule: &std::sync::Arc<_>, by| {
                found.as_ref().is_some_and(|found| std::sync::Arc::ptr_eq(rule, &found.rule) && found.by == by)
            };
            let before = table.matches().take_while(|(rule, by)| !is_found(rule, *by));
            let passed = before.take(PASSED_MAX).map(|(rule, by)| {
                let matcher = &rule.matches[by];
                let missed = matcher.misses(&head).map(|condition| condition.to_string());
                json!({"rule": rule.name, "match": matcher.to_string(), "misses": missed})
            });
            let passed: Vec<Value> = passed.collect();
            match &found {
                Some(found) => json!({
                    "answer": "routed",
                    "clients": clients,
                    "match": found.matcher().to_string(),
                    "rule": dump::rule(settings, &found.rule),
                    "policies": view.policies(Some(&found.rule)).names,
                    "passed": passed,
                }),
                None => {
                    json!({"answer": "404", "why": "routes are attached, and none matches", "clients": clients, "passed": passed})
                }
            }
        }
        Routes::Tls(table) => match table.find(asked.server_name.as_deref()) {
            Some(rule) => {
                json!({"answer": "routed", "clients": clients, "rule": rule.name, "policies": view.policies(None).names})
            }
            None => json!({"answer": "closed", "why": "no route is for this server name", "clients": clients}),
        },
        Routes::Tcp(rule) => {
            json!({"answer": "routed", "clients": clients, "rule": rule.name, "policies": view.policies(None).names})
        }
    }
}

impl Asked {
    /// Whoever would send it: only the namespace is looked at by routes.
    fn arrival(&self) -> Arrival {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Arrival {
            identity: SpiffeId::new("", &self.client, ""),
            peer: nowhere,
            source: nowhere,
            source_workload: None,
            dialled: None,
            hops: 0,
            target: Target::Service { key: self.service.clone(), port: self.port },
        }
    }

    fn head<'a>(&'a self, arrival: &'a Arrival) -> Head<'a> {
        Head {
            arrival,
            remote: arrival.source.ip(),
            method: &self.method,
            scheme: "http",
            authority: &self.authority,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
            grpc: false,
            claims: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(target: &str, client: &str, headers: &[(&'static str, &'static str)]) -> Asked {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query.to_owned())));
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let service = NamespacedHostname::new("shop", "web");
        Asked {
            service,
            port: 80,
            client: client.into(),
            method: Method::GET,
            authority: "web".into(),
            path: path.into(),
            query,
            headers,
            server_name: None,
        }
    }

    #[test]
    fn an_operator_hears_which_rule_and_why_not_another() {
        let text = "\
type: ServicePort
name: shop/web:80
spec: {host: {namespace: shop, hostname: web}, port: 80, portName: http, protocol: HTTP1}
---
type: HttpRoute
name: a
spec: {meta: {source: {kind: HTTPRoute, namespace: shop, name: a}}, parent: {host: {namespace: shop, hostname: web}}, ruleName: one, matches: [{path: {kind: PREFIX_SEGMENT, value: /a}, headers: [{name: x, value: {kind: {exact: y}}}], query: [{name: q, value: {kind: {regex: 'z+'}}}]}], filters: [{kind: {redirect: {status: 301}}}], backends: [{weight: 3, backend: {host: {namespace: shop, hostname: web}, port: 80}}, {weight: 1, invalid: {}}], requestTimeoutMs: 7}
---
type: HttpRoute
name: b
spec: {meta: {source: {kind: HTTPRoute, namespace: shop, name: b}}, parent: {host: {namespace: shop, hostname: web}}, matches: [{path: {kind: EXACT, value: /b}, method: {kind: {exact: GET}}}]}
---
type: HttpRoute
name: c
spec: {meta: {source: {kind: HTTPRoute, namespace: test, name: c}}, parent: {host: {namespace: shop, hostname: web}}, consumerNamespace: test}
---
type: AuthzPolicy
name: p
spec: {targets: [{kind: {mesh: {}}}]}
";
        let (mut store, settings) = super::super::store(None);
        let file = super::super::file::File::parse("f", text).unwrap();
        for ((type_url, name), content) in &file.resources {
            store.take(type_url, name, Some(&content.bytes)).unwrap();
        }
        store.publish();
        let settings = settings.load();
        let told = |asked: &Asked| why(&settings, asked);
        let found = told(&asked("/a?q=zz", "shop", &[("x", "y")]));
        assert_eq!(found["answer"], "routed");
        assert_eq!(found["match"], "path /a/*, header x = y, parameter q ~ ^(?:z+)$");
        assert_eq!(found["rule"]["rule"], "shop/a/one");
        assert_eq!(found["rule"]["filters"], json!(["redirect"]));
        assert_eq!(found["rule"]["backends"][0]["percent"], 75);
        assert_eq!(found["rule"]["backends"][1]["answeredWith"], 500);
        assert_eq!((&found["policies"], &found["clients"]), (&json!(["p"]), &json!("all others")));
        assert_eq!(found["passed"][0], json!({"rule": "shop/b", "match": "path = /b, method = GET", "misses": "path = /b"}));
        let none = told(&asked("/a?q=zz", "shop", &[]));
        assert_eq!((&none["answer"], &none["passed"][1]["misses"]), (&json!("404"), &json!("header x = y")));
        let consumer = told(&asked("/", "test", &[]));
        assert_eq!((&consumer["rule"]["rule"], &consumer["clients"]), (&json!("test/c"), &json!("of namespace test")));
        assert_eq!(consumer["match"], "every request");
        assert_eq!(told(&Asked { port: 81, ..asked("/", "shop", &[]) })["why"], "the service has no such port");
        let other = NamespacedHostname::new("shop", "other");
        assert_eq!(told(&Asked { service: other, ..asked("/", "shop", &[]) })["answer"], "refused");
        let all = dump::dump(&settings, None);
        let service = &all["services"][0];
        assert_eq!(
            (&service["service"], &service["protocol"], &service["portName"]),
            (&json!("shop/web"), &json!("HTTP1"), &json!("http"))
        );
        let rules: Vec<&str> =
            service["groups"][0]["routes"].as_array().unwrap().iter().map(|rule| rule["rule"].as_str().unwrap()).collect();
        assert_eq!(rules, ["shop/b", "shop/a/one"], "in the order in which they are tried");
        assert_eq!(dump::dump(&settings, Some("shop/x"))["services"], json!([]));
    }
}
