//! PeerAuthentication to policies that refuse callers without an identity (spec/controlplane.md 5.2).
//!
//! One function, `attached`, decides what a PeerAuthentication means; the workload's list and the published policy both
//! come from it, so a workload never lists a policy that is not there.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_model::workload::PolicyKey;
use mesh_policy::{Action, Entry, Group, Match, Policy, Rule, Scope, StringMatch};

use super::{Derived, Lens, Report, ports};
use crate::cluster::Cluster;
use crate::objects::policy::{MODES, MutualTls, PeerAuthenticationSpec};
use crate::objects::{Kind, Labels, NsName, ObjectKey, PeerAuthentication};

const STATIC_STRICT: &str = "istio_converted_static_strict";
const CONVERTED: &str = "converted_peer_authentication_";

/// Whether callers need an identity. DISABLE is permissive: a node daemon never refuses mutual TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Strictness {
    #[default]
    Permissive,
    Strict,
}

/// The strictness of the mesh and of the namespaces that differ by an own PeerAuthentication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    pub mesh: Strictness,
    pub namespaces: BTreeMap<Arc<str>, Strictness>,
}

/// What a workload lists because of PeerAuthentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attached {
    Nothing,
    StaticStrict,
    Converted(Vec<Group>),
}

impl Modes {
    pub fn of(&self, namespace: &Arc<str>) -> Strictness {
        self.namespaces.get(namespace).copied().unwrap_or(self.mesh)
    }
}

/// The mode that a namespace's own PeerAuthentication sets; `None`: it sets none and inherits.
pub fn namespace_mode(cluster: &Cluster, namespace: &Arc<str>) -> Option<Strictness> {
    let whole = Cluster::within(&cluster.peer_authentications, namespace).filter(|policy| policy.selector().is_none());
    mode(whole.min_by(|a, b| a.meta.seniority().cmp(&b.meta.seniority()))?.spec.mtls.as_ref())
}

/// `None`: UNSET. A word that is not known is read as STRICT, which can only refuse too much.
fn mode(mtls: Option<&MutualTls>) -> Option<Strictness> {
    match mtls?.mode.as_deref()? {
        "UNSET" => None,
        "PERMISSIVE" | "DISABLE" => Some(Strictness::Permissive),
        _ => Some(Strictness::Strict),
    }
}

/// What a PeerAuthentication with a selector means for the workloads it selects.
pub fn attached(parent: Strictness, spec: &PeerAuthenticationSpec) -> Attached {
    let base = mode(spec.mtls.as_ref()).unwrap_or(parent);
    let differing: Vec<u16> = spec
        .port_level_mtls
        .iter()
        .filter(|(_, mtls)| mode(Some(mtls)).is_some_and(|mode| mode != base))
        .filter_map(|(port, _)| ports::as_port(*port))
        .collect();
    match (base, differing.as_slice()) {
        (Strictness::Permissive, []) => Attached::Nothing,
        (Strictness::Strict, []) => Attached::StaticStrict,
        (Strictness::Permissive, strict) => Attached::Converted(strict.iter().map(|port| unidentified_at(*port)).collect()),
        (Strictness::Strict, open) => Attached::Converted(vec![unidentified_except(open)]),
    }
}

/// Policies listed on a workload because of PeerAuthentication: at most one.
pub fn selecting(lens: &Lens<'_>, namespace: &Arc<str>, labels: &Labels) -> Option<PolicyKey> {
    let parent = lens.strictness(namespace);
    let own = if *namespace == lens.settings.root_namespace { None } else { oldest_selecting(lens, namespace, labels) };
    let meant = match own {
        Some(policy) => attached(parent, &policy.spec),
        None if parent == Strictness::Strict => Attached::StaticStrict,
        None => Attached::Nothing,
    };
    let key = match (meant, own) {
        (Attached::Nothing, _) => return None,
        (Attached::Converted(_), Some(policy)) => format!("{namespace}/{CONVERTED}{}", policy.meta.name),
        (Attached::StaticStrict | Attached::Converted(_), _) => format!("{}/{STATIC_STRICT}", lens.settings.root_namespace),
    };
    Some(PolicyKey::new(&key))
}

fn oldest_selecting<'a>(lens: &Lens<'a>, namespace: &Arc<str>, labels: &Labels) -> Option<&'a PeerAuthentication> {
    let cluster = lens.cluster;
    let keys = cluster.selectors_of(Kind::PeerAuthentication, namespace, labels);
    let found = keys.iter().filter_map(|key| cluster.peer_authentications.get(&key.name));
    found.map(|policy| &**policy).min_by(|a, b| a.meta.seniority().cmp(&b.meta.seniority()))
}

/// The policy of one PeerAuthentication, if it becomes one of its own, and what of it has no effect.
pub fn converted(lens: &Lens<'_>, name: &NsName) -> Derived {
    let Some(policy) = lens.cluster.peer_authentications.get(name) else { return Derived::default() };
    let mut derived = Derived::default();
    let mut report = Report::default();
    let is_root = name.namespace == lens.settings.root_namespace;
    if policy.selector().is_some()
        && !is_root
        && let Attached::Converted(groups) = attached(lens.strictness(&name.namespace), &policy.spec)
    {
        let name = format!("{CONVERTED}{}", policy.meta.name);
        let converted = Policy { groups, ..Policy::new(&policy.meta.namespace, &name, Scope::WorkloadSelector, Action::Deny) };
        derived.policies.push(converted.into());
    }
    unhonoured(lens, policy, is_root, &mut report);
    if !report.is_empty() {
        derived.reports.push((ObjectKey { kind: Kind::PeerAuthentication, name: name.clone() }, report));
    }
    derived
}

fn unhonoured(lens: &Lens<'_>, policy: &PeerAuthentication, is_root: bool, report: &mut Report) {
    let spec = &policy.spec;
    if policy.selector().is_some() && is_root {
        report.note("has no effect: a PeerAuthentication with a selector is not read in the root namespace");
    }
    if policy.selector().is_none() {
        if !spec.port_level_mtls.is_empty() {
            report.note("spec.portLevelMtls has no effect without a selector");
        }
        let whole = Cluster::within(&lens.cluster.peer_authentications, &policy.meta.namespace).filter(|other| other.selector().is_none());
        let oldest = whole.min_by(|a, b| a.meta.seniority().cmp(&b.meta.seniority()));
        if let Some(oldest) = oldest.filter(|oldest| oldest.meta.name != policy.meta.name) {
            report.note(format!("has no effect: {} is older and for the same namespace", oldest.meta.name));
        }
    }
    let is_known = |mtls: &MutualTls| mtls.mode.as_deref().is_none_or(|mode| MODES.contains(&mode));
    if spec.mtls.as_ref().is_some_and(|mtls| !is_known(mtls)) {
        report.note("spec.mtls.mode is not UNSET, DISABLE, PERMISSIVE or STRICT; it is read as STRICT");
    }
    for (port, mtls) in &spec.port_level_mtls {
        if ports::as_port(*port).is_none() {
            report.note(format!("spec.portLevelMtls: {port} is not a port"));
        }
        if !is_known(mtls) {
            report.note(format!("spec.portLevelMtls[{port}].mode is not UNSET, DISABLE, PERMISSIVE or STRICT; it is read as STRICT"));
        }
    }
}

/// The policy of plain STRICT, shared by all workloads; there as soon as it could be listed.
pub fn static_strict(lens: &Lens<'_>) -> Derived {
    if lens.cluster.peer_authentications.is_empty() {
        return Derived::default();
    }
    let group = Group::new([Rule::new([unidentified()])]);
    let policy = Policy { groups: vec![group], ..Policy::new(&lens.settings.root_namespace, STATIC_STRICT, Scope::WorkloadSelector, Action::Deny) };
    Derived { policies: vec![policy.into()], ..Derived::default() }
}

/// Callers that proved no identity.
fn unidentified() -> Match {
    Match { not_principals: vec![Entry::Value(StringMatch::Presence)], ..Match::default() }
}

fn unidentified_at(port: u16) -> Group {
    Group::new([Rule::new([Match { destination_ports: vec![Entry::Value(port)], ..unidentified() }])])
}

fn unidentified_except(ports: &[u16]) -> Group {
    let exception = |port: &u16| Rule::new([Match { not_destination_ports: vec![Entry::Value(*port)], ..Match::default() }]);
    Group::new(std::iter::once(Rule::new([unidentified()])).chain(ports.iter().map(exception)))
}
