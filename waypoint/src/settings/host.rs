//! All that is known of one service, and what is made of it. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use mesh_model::address::NamespacedHostname;
use mesh_model::workload::Uid;
use mesh_xds::messages::waypoint::{self as wire, PortProtocol};

use super::policies::{Attached, Policies, Telemetry};
use super::{Routes, ServiceView};
use crate::choose::{self, BackendKey, Members};
use crate::route::{Age, Rule, StreamRule, Table, TlsTable, stream};

/// What was said of one service; each by the name of its resource.
#[derive(Clone, Debug, Default)]
pub struct Host {
    pub http: BTreeMap<Arc<str>, Placed<Rule>>,
    pub tls: BTreeMap<Arc<str>, Placed<StreamRule>>,
    pub tcp: BTreeMap<Arc<str>, Placed<StreamRule>>,
    pub attached: Attached,
    pub treatment: Arc<Treatment>,
}

/// A rule, and for which port and clients of the service it is.
#[derive(Clone, Debug)]
pub struct Placed<R> {
    /// 0: every port that speaks what the rule is about.
    pub port: u16,
    /// Empty: all clients.
    pub consumer: Arc<str>,
    pub rule: Arc<R>,
}

/// How a service's endpoints are reached.
#[derive(Clone, Debug, Default)]
pub struct Treatment {
    /// By the name of the resource.
    pub ports: BTreeMap<Arc<str>, Arc<Port>>,
    pub subsets: BTreeMap<Arc<str>, Arc<Subset>>,
    pub policies: BTreeMap<Arc<str>, Arc<Treated>>,
}

/// A port of a service that this waypoint serves.
#[derive(Clone, Debug)]
pub struct Port {
    pub port: u16,
    pub wire: wire::ServicePort,
}

#[derive(Clone, Debug)]
pub struct Subset {
    pub name: Arc<str>,
    pub workloads: BTreeSet<Uid>,
}

/// A policy for endpoints, and for which of them it is.
#[derive(Clone, Debug)]
pub struct Treated {
    /// 0: every port.
    pub port: u16,
    /// Empty: whatever the subset.
    pub subset: Arc<str>,
    /// It comes from a policy that is about TLS alone (BackendTLSPolicy), and what it says of it counts before all others.
    pub is_about_tls: bool,
    pub age: Age,
    pub policy: choose::Policy,
}

impl Treatment {
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.subsets.is_empty() && self.policies.is_empty()
    }

    fn port(&self, port: u16) -> Option<&Arc<Port>> {
        self.ports.values().find(|known| known.port == port)
    }

    /// Policies for this backend, the most specific first: port and subset, subset, port, service (spec/waypoint.md 5.7).
    /// Of two for the same the older. Before them what is about TLS alone, so that a rule which means other things of a port
    /// or a subset does not end the encryption (2.10).
    fn policies_for(&self, key: &BackendKey) -> impl Iterator<Item = &choose::Policy> {
        let for_it = |treated: &&Arc<Treated>| {
            (treated.port == 0 || treated.port == key.port) && (treated.subset.is_empty() || treated.subset == key.subset)
        };
        let mut found: Vec<&Arc<Treated>> = self.policies.values().filter(for_it).collect();
        found.sort_by_key(|treated| (!treated.is_about_tls, treated.subset.is_empty(), treated.port == 0, &treated.age));
        found.into_iter().map(|treated| &treated.policy)
    }
}

pub fn backend(key: &BackendKey, treatment: Option<&Treatment>, mesh: &Treatment) -> choose::Backend {
    let port = treatment.and_then(|treatment| treatment.port(key.port));
    let members = match (&*key.subset, treatment) {
        ("", _) => Members::All,
        (name, Some(treatment)) => {
            let found = treatment.subsets.values().find(|subset| *subset.name == *name);
            found.map_or(Members::Missing, |subset| Members::Only(subset.workloads.clone()))
        }
        (_, None) => Members::Missing,
    };
    let own = treatment.into_iter().flat_map(|treatment| treatment.policies_for(key));
    let kind = port.map_or(choose::Kind::Workloads, |port| choose::Kind::of(&port.wire));
    let target_port = port.and_then(|port| u16::try_from(port.wire.target_port).ok()).unwrap_or(0);
    let policy = choose::Policy::merged(own.chain(mesh.policies_for(key)));
    choose::Backend::new(key.clone(), kind, target_port, members, policy)
}

/// Policies that are attached elsewhere than at the service.
pub struct Around<'s> {
    pub mesh: &'s Attached,
    pub gateway: &'s Attached,
    /// Of the two above.
    pub merged: &'s Arc<Policies>,
    pub telemetry: Telemetry<'s>,
    pub routes: &'s HashMap<RouteKey, Attached>,
}

/// A user's route object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteKey {
    pub kind: String,
    pub namespace: String,
    pub name: String,
}

impl RouteKey {
    pub fn of(source: &wire::SourceRef) -> RouteKey {
        RouteKey { kind: source.kind.clone(), namespace: source.namespace.clone(), name: source.name.clone() }
    }
}

impl Host {
    pub fn is_empty(&self) -> bool {
        self.http.is_empty()
            && self.tls.is_empty()
            && self.tcp.is_empty()
            && self.attached.is_empty()
            && self.treatment.is_empty()
    }

    /// The ports that are served, as requests will see them. `backend` finds the one of that name.
    pub fn views(
        &self,
        host: &NamespacedHostname,
        around: &Around<'_>,
        backend: impl Fn(&BackendKey) -> Arc<choose::Backend>,
    ) -> Vec<Arc<ServiceView>> {
        let mut tables = Tables::default();
        let mut views = BTreeMap::new();
        for port in self.treatment.ports.values() {
            let groups = self.groups(host, port, &mut tables);
            let mut view = ServiceView {
                host: host.clone(),
                port: port.port,
                port_name: port.wire.port_name.as_str().into(),
                protocol: port.wire.protocol(),
                kind: port.wire.kind(),
                external: port.wire.external,
                backend: backend(&BackendKey { host: host.clone(), port: port.port, subset: "".into() }),
                policies: around.merged.clone(),
                policies_of_rules: HashMap::new(),
                groups,
            };
            self.judge(&mut view, around);
            views.entry(port.port).or_insert_with(|| Arc::new(view));
        }
        views.into_values().collect()
    }

    /// Puts in force what is attached now.
    pub fn judge(&self, view: &mut ServiceView, around: &Around<'_>) {
        view.policies = if self.attached.concerns(view.port, "") {
            Arc::new(Policies::merged(&[around.mesh, around.gateway, &self.attached], view.port, "", &around.telemetry))
        } else {
            around.merged.clone()
        };
        view.policies_of_rules.clear();
        if around.routes.is_empty() {
            return;
        }
        for placed in self.http.values().filter(|placed| placed.port == 0 || placed.port == view.port) {
            let rule = &placed.rule;
            let Some(attached) = around.routes.get(&RouteKey::of(&rule.source)) else { continue };
            if attached.concerns(view.port, &rule.rule_name) {
                let places = [around.mesh, around.gateway, &self.attached, attached];
                let merged = Policies::merged(&places, view.port, &rule.rule_name, &around.telemetry);
                view.policies_of_rules.insert(rule.resource.clone(), Arc::new(merged));
            }
        }
    }

    fn groups(&self, host: &NamespacedHostname, port: &Port, tables: &mut Tables) -> HashMap<Arc<str>, Routes, RandomState> {
        let protocol = port.wire.protocol();
        let http = grouped(host, port.port, &self.http, !matches!(protocol, PortProtocol::Tcp | PortProtocol::Tls));
        let mut tls = grouped(host, port.port, &self.tls, matches!(protocol, PortProtocol::Tls | PortProtocol::Auto));
        let mut tcp =
            grouped(host, port.port, &self.tcp, matches!(protocol, PortProtocol::Tcp | PortProtocol::Tls | PortProtocol::Auto));
        let mut groups = HashMap::default();
        // GRPCRoute, HTTPRoute, TLSRoute, TCPRoute: the first of these that there is (spec/waypoint.md 2.3).
        for (consumer, rules) in http {
            groups.insert(consumer, Routes::Http(tables.of(in_force(rules))));
        }
        for (consumer, rules) in std::mem::take(&mut tls) {
            groups.entry(consumer).or_insert_with(|| Routes::Tls(Arc::new(TlsTable::new(rules))));
        }
        for (consumer, rules) in std::mem::take(&mut tcp) {
            if let Some(rule) = stream::oldest(rules) {
                groups.entry(consumer).or_insert(Routes::Tcp(rule));
            }
        }
        groups
    }
}

/// Rules for this port by their clients. Those of the service's own namespace are for everyone (spec/waypoint.md 2.7).
fn grouped<R>(
    host: &NamespacedHostname,
    port: u16,
    rules: &BTreeMap<Arc<str>, Placed<R>>,
    spoken: bool,
) -> BTreeMap<Arc<str>, Vec<Arc<R>>> {
    let mut groups: BTreeMap<Arc<str>, Vec<Arc<R>>> = BTreeMap::new();
    for placed in rules.values().filter(|placed| spoken && (placed.port == 0 || placed.port == port)) {
        let consumer = if placed.consumer == host.namespace { "".into() } else { placed.consumer.clone() };
        groups.entry(consumer).or_default().push(placed.rule.clone());
    }
    groups
}

/// GRPCRoutes before HTTPRoutes, and these before VirtualServices (spec/waypoint.md 2.3, 5.1).
fn in_force(mut rules: Vec<Arc<Rule>>) -> Vec<Arc<Rule>> {
    let rank = |rule: &Arc<Rule>| (!rule.grpc, rule.listed);
    let first = rules.iter().map(rank).min();
    rules.retain(|rule| Some(rank(rule)) == first);
    rules
}

/// Tables of one service: ports with the same rules share one.
#[derive(Default)]
struct Tables(Vec<(Vec<Arc<Rule>>, Arc<Table>)>);

impl Tables {
    fn of(&mut self, rules: Vec<Arc<Rule>>) -> Arc<Table> {
        let same = |known: &[Arc<Rule>]| known.len() == rules.len() && known.iter().zip(&rules).all(|(a, b)| Arc::ptr_eq(a, b));
        if let Some((_, table)) = self.0.iter().find(|(known, _)| same(known)) {
            return table.clone();
        }
        let table = Arc::new(Table::new(rules.iter().cloned()));
        self.0.push((rules, table.clone()));
        table
    }
}
