//! VirtualServices at waypoints (spec/waypoint.md 5.1): rules in the order in which they are listed. Only those of the
//! service's namespace count, or of the waypoint's; where a route of the Gateway API is attached, that one counts.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh_model::address::NamespacedHostname;
use mesh_xds::messages::waypoint::{
    BackendRef, HTTP_ROUTE, Host, HttpRoute as Message, Invalid, MatchOrder, ParentRef, PortProtocol, TCP_ROUTE, TLS_ROUTE, TcpRoute as TcpMessage, TlsRoute as TlsMessage, WeightedBackend,
};

use super::resource::{Audience, Resource, source};
use super::route::{backend_as_dialled, ports_of_parent};
use super::served::speaks_http;
use super::{Derived, Lens, Read, Report, service};
use crate::cluster::attach::full_host;
use crate::objects::virtual_service::{Destination, HttpDestination, HttpRule, StreamMatch};
use crate::objects::{Kind, Meta, NsName, ObjectKey, VirtualService};

mod delegate;
mod dialled;
mod http;

/// A service that is meant, and who routes to it.
struct Place {
    key: ObjectKey,
    host: Host,
    audience: Audience,
    namespace: Arc<str>,
    ports: Vec<(u16, PortProtocol)>,
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
    if !object.spec.export_to.is_empty() && !object.spec.hosts.is_empty() {
        report.note("spec.exportTo has no effect: at a waypoint rules of the host's namespace, and of the waypoint's, count for every client");
    }
    let mut rules = Rules { lens, meta, problems: Vec::new() };
    let http = rules.all_http(&object.spec.http);
    let tcp: Vec<Vec<WeightedBackend>> = object.spec.tcp.iter().enumerate().map(|(index, rule)| rules.stream("tcp", index, &rule.r#match, rule.route.iter().map(|to| (&to.destination, to.weight)).collect())).collect();
    let tls: Vec<Vec<WeightedBackend>> = object.spec.tls.iter().enumerate().map(|(index, rule)| rules.stream("tls", index, &rule.r#match, rule.route.iter().map(|to| (&to.destination, to.weight)).collect())).collect();
    report.notes.append(&mut rules.problems);

    for host in &object.spec.hosts {
        let places = places(lens, meta, host, &mut report);
        for place in places {
            let name = |section: &str, port: u32| format!("VirtualService/{}/{section}@{}/{}:{port}", meta.ns_name(), place.host.namespace, place.host.hostname);
            let parent = |port: u32| Some(ParentRef { host: Some(place.host.clone()), port });
            let is_routed = |kinds: &[Kind]| lens.routes_of_parent(&place.key).any(|route| kinds.contains(&route.kind) && route.name.namespace == place.namespace);
            if is_routed(&[Kind::HttpRoute, Kind::GrpcRoute]) && !http.is_empty() {
                report.note(format!("spec.http has no effect for {}: a route of the Gateway API is attached to it", place.host.hostname));
            } else {
                for one in &http {
                    let ports = place.ports.iter().filter(|(_, protocol)| speaks_http(*protocol)).map(|(port, _)| *port);
                    for (port, message) in dialled::http(lens, &one.message, ports) {
                        report.notes.extend(unreached(lens, &one.message.backends, port, &format!("{}.route", one.section), "requests that it would take there are answered with 500"));
                        let message = Message { meta: source(Kind::VirtualService, meta, &one.section), parent: parent(port), ..message };
                        derived.resources.push(Resource::new(HTTP_ROUTE, &name(&one.label, port), &message, &place.audience));
                    }
                }
            }
            if is_routed(&[Kind::TcpRoute, Kind::TlsRoute]) && !(tcp.is_empty() && tls.is_empty()) {
                report.note(format!("spec.tcp and spec.tls have no effect for {}: a route of the Gateway API is attached to it", place.host.hostname));
                continue;
            }
            for (index, backends) in tcp.iter().enumerate() {
                for port in place.streamed(backends, ports_of(&object.spec.tcp[index].r#match)) {
                    report.notes.extend(unreached(lens, backends, port.into(), &format!("spec.tcp[{index}].route"), "connections there are reset"));
                    let backends = dialled::at(lens, backends, port);
                    let port = u32::from(port);
                    let message = TcpMessage { meta: source(Kind::VirtualService, meta, &format!("tcp[{index}]")), parent: parent(port), rule_order: order(index), backends, ..TcpMessage::default() };
                    derived.resources.push(Resource::new(TCP_ROUTE, &name(&format!("tcp{index}"), port), &message, &place.audience));
                }
            }
            for (index, backends) in tls.iter().enumerate() {
                for port in place.streamed(backends, ports_of(&object.spec.tls[index].r#match)) {
                    report.notes.extend(unreached(lens, backends, port.into(), &format!("spec.tls[{index}].route"), "connections there are reset"));
                    let backends = dialled::at(lens, backends, port);
                    let port = u32::from(port);
                    let matching = of_mesh(&object.spec.tls[index].r#match).filter(|one| one.port == 0 || one.port == port);
                    let server_names = matching.flat_map(|one| &one.sni_hosts).map(|name| name.to_string()).collect();
                    let message = TlsMessage { meta: source(Kind::VirtualService, meta, &format!("tls[{index}]")), parent: parent(port), rule_order: order(index), server_names, backends, ..TlsMessage::default() };
                    derived.resources.push(Resource::new(TLS_ROUTE, &name(&format!("tls{index}"), port), &message, &place.audience));
                }
            }
        }
    }
    derived.reports.push((key, report));
    derived
}

/// Destinations without a port that are not there where the client dials.
fn unreached(lens: &Lens<'_>, backends: &[WeightedBackend], port: u32, field: &str, effect: &str) -> Vec<String> {
    let Ok(port) = u16::try_from(port) else { return Vec::new() };
    let missing = if port == 0 { Vec::new() } else { dialled::missing(lens, backends, port) };
    missing.into_iter().map(|host| format!("{field}: host {host} has no port {port}, which clients dial; {effect}")).collect()
}

/// A rule of `http` as it is told.
struct Told {
    /// A part of the resource's name.
    label: String,
    /// What operators know the rule by.
    section: String,
    message: Message,
}

impl Place {
    /// The ports that a rule for streams is told for; 0: all at once. Where a destination hangs on what was dialled, each.
    fn streamed(&self, backends: &[WeightedBackend], asked: BTreeSet<u16>) -> BTreeSet<u16> {
        if !dialled::is_open(backends) || !asked.contains(&0) {
            return asked;
        }
        let all = self.ports.iter().map(|(port, _)| *port);
        asked.into_iter().filter(|port| *port != 0).chain(all).collect()
    }
}

fn order(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// The matches that are for waypoints; others are for gateways alone.
fn of_mesh(matches: &[StreamMatch]) -> impl Iterator<Item = &StreamMatch> {
    matches.iter().filter(|one| one.gateways.is_empty() || one.gateways.iter().any(|gateway| &**gateway == "mesh"))
}

/// The ports that a list of matches is about; 0: all.
fn ports_of(matches: &[StreamMatch]) -> BTreeSet<u16> {
    // A number that no port has matches nothing.
    if matches.is_empty() { [0].into() } else { of_mesh(matches).filter_map(|one| u16::try_from(one.port).ok()).collect() }
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
    for namespace in namespaces.collect::<BTreeSet<_>>() {
        let Some(owner) = lens.owner(&namespace, &host) else { continue };
        exists = true;
        let serving: Vec<NsName> = service::serving(lens, &NamespacedHostname { namespace: namespace.clone(), hostname: host.clone() });
        let audience = Audience::of(serving.iter().filter(|gateway| meta.namespace == namespace || meta.namespace == gateway.namespace).cloned());
        match (serving.is_empty(), audience.is_empty()) {
            (true, _) => report.note(format!("spec.hosts: {namespace}/{host} is bound to no waypoint, so nobody routes by this object")),
            (false, true) => report.note(format!("spec.hosts: {namespace}/{host} takes no rules from namespace {}: only from its own and its waypoint's", meta.namespace)),
            _ => {
                let ports = ports_of_parent(lens, &owner);
                found.push(Place { key: owner, host: Host { namespace: namespace.to_string(), hostname: host.to_string() }, audience, namespace, ports });
            }
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
    /// In their order; those that match nobody at a waypoint are left out.
    fn all_http(&mut self, rules: &[HttpRule]) -> Vec<Told> {
        let mut told: Vec<Told> = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let field = format!("spec.http[{index}]");
            let label = format!("http{index}");
            let section = |rule: &HttpRule, label: &str| if rule.name.is_empty() { label.to_owned() } else { rule.name.to_string() };
            if rule.delegate.is_none() {
                let message = self.http(&field, rule);
                told.extend(message.map(|message| Told { section: section(rule, &format!("http[{index}]")), label, message }));
                continue;
            }
            match delegate::target(self.lens, self.meta, rule) {
                Ok(found) => {
                    // Names of hosts are short for those of its own namespace.
                    let mut others = Rules { lens: self.lens, meta: &found.meta, problems: Vec::new() };
                    for (at, inner) in found.spec.http.iter().enumerate() {
                        let field = format!("{field}.delegate: VirtualService {}, spec.http[{at}]", found.meta.ns_name());
                        match delegate::merged(rule, inner) {
                            Ok(Some(both)) => {
                                let message = others.http(&field, &both);
                                told.extend(message.map(|message| Told { section: section(&both, &format!("http[{index}].{at}")), label: format!("{label}.{at}"), message }));
                            }
                            Ok(None) => others.problems.push(format!("{field}: matches nothing that the rule here matches")),
                            Err(why) => {
                                others.problems.push(format!("{field}: {why}; requests that the rule here matches are answered with 500"));
                                told.extend(others.failing(&field, rule).map(|message| Told { section: section(rule, &format!("http[{index}]")), label: label.clone(), message }));
                                break;
                            }
                        }
                    }
                    self.problems.append(&mut others.problems);
                }
                Err(why) => {
                    self.problems.push(format!("{field}.delegate: {why}; requests that the rule matches are answered with 500"));
                    told.extend(self.failing(&field, rule).map(|message| Told { section: section(rule, &format!("http[{index}]")), label, message }));
                }
            }
        }
        for (index, one) in told.iter_mut().enumerate() {
            one.message.rule_order = order(index);
        }
        told
    }

    /// What cannot be done as it is written fails: left out, it would let others match.
    fn failing(&mut self, field: &str, rule: &HttpRule) -> Option<Message> {
        let message = self.http(field, &HttpRule { delegate: None, ..rule.clone() })?;
        Some(Message { invalid: Some(Invalid { reason: "UnsupportedValue".into(), status: 500 }), ..message })
    }

    /// `None`: the rule matches nobody at a waypoint.
    fn http(&mut self, field: &str, rule: &HttpRule) -> Option<Message> {
        let matches = http::matches(&rule.r#match, field, &mut self.problems)?;
        let mut filters = http::filters(rule, field, &mut self.problems);
        for (to, percentage) in http::mirrors(rule) {
            match self.destination(to) {
                Ok(backend) => filters.push(http::mirror(backend, percentage)),
                Err(why) => self.problems.push(format!("{field}.mirrors: {why}; the copy is not sent")),
            }
        }
        let backends: Vec<WeightedBackend> = rule.route.iter().map(|to| self.weighted(to, rule.route.len(), field)).collect();
        let answers = rule.redirect.is_some() || rule.direct_response.is_some();
        let invalid = (backends.is_empty() && !answers).then(|| Invalid { reason: "NoBackendRefs".into(), status: 500 });
        Some(Message {
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
