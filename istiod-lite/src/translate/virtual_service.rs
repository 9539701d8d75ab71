//! VirtualServices at waypoints (spec/waypoint.md 5.1): rules in the order in which they are listed. Only those of the
//! service's namespace count, or of the waypoint's; where a route of the Gateway API is attached, that one counts.

use std::sync::Arc;

use mesh_xds::messages::waypoint::{
    BackendRef, HTTP_ROUTE, Host, HttpRoute as Message, Invalid, MatchOrder, ParentRef, TCP_ROUTE, TLS_ROUTE, TcpRoute as TcpMessage, TlsRoute as TlsMessage, WeightedBackend,
};

use super::resource::{Audience, Resource, source};
use super::route::backend_as_dialled;
use super::{Derived, Lens, Read, Report, service, waypoint};
use crate::cluster::attach::full_host;
use crate::objects::virtual_service::{Destination, HttpDestination, HttpRule, StreamMatch};
use crate::objects::{Kind, Meta, NsName, ObjectKey, VirtualService};

mod http;

/// A service that is meant, and who routes to it.
struct Place {
    key: ObjectKey,
    host: Host,
    audience: Audience,
    namespace: Arc<str>,
}

pub fn virtual_service(lens: &Lens<'_>, object: &VirtualService) -> Derived {
    let meta = &object.meta;
    let key = ObjectKey { kind: Kind::VirtualService, name: meta.ns_name() };
    let mut report = Report::default();
    let mut derived = Derived::default();
    if !object.spec.gateways.is_empty() && object.spec.gateways.iter().all(|gateway| &**gateway != "mesh") {
        report.note("has no effect: it is for gateways alone, and waypoints are `mesh`");
        derived.reports.push((key, report));
        return derived;
    }
    let mut rules = Rules { lens, meta, problems: Vec::new() };
    let http: Vec<Option<Message>> = object.spec.http.iter().enumerate().map(|(index, rule)| rules.http(index, rule)).collect();
    let tcp: Vec<Vec<WeightedBackend>> = object.spec.tcp.iter().enumerate().map(|(index, rule)| rules.stream("tcp", index, &rule.r#match, rule.route.iter().map(|to| (&to.destination, to.weight)).collect())).collect();
    let tls: Vec<Vec<WeightedBackend>> = object.spec.tls.iter().enumerate().map(|(index, rule)| rules.stream("tls", index, &rule.r#match, rule.route.iter().map(|to| (&to.destination, to.weight)).collect())).collect();
    report.notes = rules.problems;

    for host in &object.spec.hosts {
        let places = places(lens, meta, host, &mut report);
        for place in places {
            let name = |section: &str, index: usize, port: u32| format!("VirtualService/{}/{section}{index}@{}/{}:{port}", meta.ns_name(), place.host.namespace, place.host.hostname);
            let parent = |port: u32| Some(ParentRef { host: Some(place.host.clone()), port });
            let is_routed = |kinds: &[Kind]| lens.routes_of_parent(&place.key).any(|route| kinds.contains(&route.kind) && route.name.namespace == place.namespace);
            if is_routed(&[Kind::HttpRoute, Kind::GrpcRoute]) && !http.is_empty() {
                report.note(format!("spec.http has no effect for {}: a route of the Gateway API is attached to it", place.host.hostname));
            } else {
                for (index, rule) in http.iter().enumerate() {
                    let Some(rule) = rule else { continue };
                    let message = Message { meta: source(Kind::VirtualService, meta, &section(&object.spec.http[index].name, index)), parent: parent(0), ..rule.clone() };
                    derived.resources.push(Resource::new(HTTP_ROUTE, &name("http", index, 0), &message, &place.audience));
                }
            }
            if is_routed(&[Kind::TcpRoute, Kind::TlsRoute]) && !(tcp.is_empty() && tls.is_empty()) {
                report.note(format!("spec.tcp and spec.tls have no effect for {}: a route of the Gateway API is attached to it", place.host.hostname));
                continue;
            }
            for (index, backends) in tcp.iter().enumerate() {
                for port in ports_of(&object.spec.tcp[index].r#match) {
                    let message = TcpMessage { meta: source(Kind::VirtualService, meta, &format!("tcp[{index}]")), parent: parent(port), rule_order: order(index), backends: backends.clone(), ..TcpMessage::default() };
                    derived.resources.push(Resource::new(TCP_ROUTE, &name("tcp", index, port), &message, &place.audience));
                }
            }
            for (index, backends) in tls.iter().enumerate() {
                for port in ports_of(&object.spec.tls[index].r#match) {
                    let matching = object.spec.tls[index].r#match.iter().filter(|one| one.port == 0 || one.port == port);
                    let server_names = matching.flat_map(|one| &one.sni_hosts).map(|name| name.to_string()).collect();
                    let message = TlsMessage { meta: source(Kind::VirtualService, meta, &format!("tls[{index}]")), parent: parent(port), rule_order: order(index), server_names, backends: backends.clone(), ..TlsMessage::default() };
                    derived.resources.push(Resource::new(TLS_ROUTE, &name("tls", index, port), &message, &place.audience));
                }
            }
        }
    }
    derived.reports.push((key, report));
    derived
}

fn section(name: &str, index: usize) -> String {
    if name.is_empty() { format!("http[{index}]") } else { name.to_owned() }
}

fn order(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// The ports that a list of matches is about; 0: all.
fn ports_of(matches: &[StreamMatch]) -> std::collections::BTreeSet<u32> {
    if matches.is_empty() { [0].into() } else { matches.iter().map(|one| one.port).collect() }
}

fn places(lens: &Lens<'_>, meta: &Meta, host: &Arc<str>, report: &mut Report) -> Vec<Place> {
    if host.starts_with('*') {
        report.note(format!("spec.hosts: {host} has no effect: waypoints serve services, each by its name"));
        return Vec::new();
    }
    let host = full_host(host, &meta.namespace, &lens.settings.cluster_domain);
    lens.note(Read::Claims(host.clone()));
    let local = service::service_named(lens.settings, &host).map(|name| name.namespace);
    let namespaces = local.into_iter().chain(lens.cluster.entries_of_host(&host).map(|(namespace, _)| namespace.clone()));
    let mut found = Vec::new();
    let mut exists = false;
    for namespace in namespaces.collect::<std::collections::BTreeSet<_>>() {
        let Some(owner) = lens.owner(&namespace, &host) else { continue };
        exists = true;
        let serving = match owner.kind {
            Kind::Service => lens.service(&owner.name).map(|object| waypoint::serving(lens, &object.meta, mesh_model::service::Visibility::Public)),
            _ => lens.service_entry(&owner.name).map(|entry| waypoint::serving(lens, &entry.meta, service::visibility(lens, &namespace))),
        };
        let serving: Vec<NsName> = serving.unwrap_or_default();
        let audience = Audience::of(serving.iter().filter(|gateway| meta.namespace == namespace || meta.namespace == gateway.namespace).cloned());
        match (serving.is_empty(), audience.is_empty()) {
            (true, _) => report.note(format!("spec.hosts: {namespace}/{host} is bound to no waypoint, so nobody routes by this object")),
            (false, true) => report.note(format!("spec.hosts: {namespace}/{host} takes no rules from namespace {}: only from its own and its waypoint's", meta.namespace)),
            _ => found.push(Place { key: owner, host: Host { namespace: namespace.to_string(), hostname: host.to_string() }, audience, namespace }),
        }
    }
    if !exists {
        report.note(format!("spec.hosts: {host} is neither a Service nor in a ServiceEntry"));
    }
    found
}

/// Makes rules, and notes what of them is not done.
struct Rules<'a, 'l> {
    lens: &'a Lens<'l>,
    meta: &'a Meta,
    problems: Vec<String>,
}

impl Rules<'_, '_> {
    /// `None`: the rule matches nobody at a waypoint.
    fn http(&mut self, index: usize, rule: &HttpRule) -> Option<Message> {
        let field = format!("spec.http[{index}]");
        let matches = http::matches(&rule.r#match, &field, &mut self.problems)?;
        let mut filters = http::filters(rule, &field, &mut self.problems);
        for (to, percentage) in http::mirrors(rule) {
            match self.destination(to) {
                Ok(backend) => filters.push(http::mirror(backend, percentage)),
                Err(why) => self.problems.push(format!("{field}.mirrors: {why}; the copy is not sent")),
            }
        }
        let backends: Vec<WeightedBackend> = rule.route.iter().map(|to| self.weighted(to, rule.route.len(), &field)).collect();
        let answers = rule.redirect.is_some() || rule.direct_response.is_some();
        let mut invalid = (backends.is_empty() && !answers).then(|| Invalid { reason: "NoBackendRefs".into(), status: 500 });
        if rule.delegate.is_some() {
            self.problems.push(format!("{field}.delegate is not followed: requests that the rule matches are answered with 500; write the rules here"));
            invalid = Some(Invalid { reason: "UnsupportedValue".into(), status: 500 });
        }
        Some(Message {
            rule_order: order(index),
            rule_name: rule.name.to_string(),
            matches,
            order: MatchOrder::Listed as i32,
            filters,
            backends,
            request_timeout_ms: rule.timeout.map_or(0, |span| span.ms()),
            retry: rule.retries.as_ref().map(|retry| {
                let (policy, unknown) = super::retry::of_istio(retry);
                if !unknown.is_empty() {
                    self.problems.push(format!("{field}.retries.retryOn: {} are no causes of a retry here", unknown.join(", ")));
                }
                if retry.retry_remote_localities.is_some() {
                    self.problems.push(format!("{field}.retries.retryRemoteLocalities has no effect: a retry goes where the next request would"));
                }
                policy
            }),
            invalid,
            ..Message::default()
        })
    }

    fn weighted(&mut self, to: &HttpDestination, count: usize, field: &str) -> WeightedBackend {
        let weight = if count == 1 { 1 } else { to.weight };
        let filters = to.headers.iter().flat_map(http::headers).collect();
        match self.destination(&to.destination) {
            Ok(backend) => WeightedBackend { weight, backend: Some(backend), filters, invalid: None },
            Err(why) => {
                self.problems.push(format!("{field}.route: {why}; requests that it would take are answered with 500"));
                WeightedBackend { weight, invalid: Some(Invalid { reason: "BackendNotFound".into(), status: 500 }), ..WeightedBackend::default() }
            }
        }
    }

    fn destination(&self, to: &Destination) -> Result<BackendRef, String> {
        let host = full_host(&to.host, &self.meta.namespace, &self.lens.settings.cluster_domain);
        let port = to.port.and_then(|port| u16::try_from(port.number).ok());
        let found = backend_as_dialled(self.lens, &self.meta.namespace, &host, port).map_err(|(_, why)| why)?;
        Ok(BackendRef { subset: to.subset.to_string(), ..found })
    }

    fn stream(&mut self, section: &str, index: usize, matches: &[StreamMatch], route: Vec<(&Destination, u32)>) -> Vec<WeightedBackend> {
        let field = format!("spec.{section}[{index}]");
        for one in matches {
            let asked = [("sourceLabels", !one.source_labels.is_empty()), ("destinationSubnets", !one.destination_subnets.is_empty()), ("sourceSubnet", !one.source_subnet.is_empty()), ("sourceNamespace", !one.source_namespace.is_empty())];
            for (name, _) in asked.into_iter().filter(|(_, is_asked)| *is_asked) {
                self.problems.push(format!("{field}.match.{name} has no effect: at a waypoint streams are told apart by port and server name"));
            }
        }
        let count = route.len();
        let mut backends = Vec::new();
        for (to, weight) in route {
            let weight = if count == 1 { 1 } else { weight };
            match self.destination(to) {
                Ok(backend) => backends.push(WeightedBackend { weight, backend: Some(backend), ..WeightedBackend::default() }),
                Err(why) => {
                    self.problems.push(format!("{field}.route: {why}; connections that it would take are reset"));
                    backends.push(WeightedBackend { weight, invalid: Some(Invalid { reason: "BackendNotFound".into(), status: 500 }), ..WeightedBackend::default() });
                }
            }
        }
        backends
    }
}
