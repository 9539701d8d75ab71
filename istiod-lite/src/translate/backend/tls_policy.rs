//! BackendTLSPolicy: TLS from the waypoint to a service (spec/waypoint.md 2.10). What it demands and cannot be had fails
//! connections; nothing goes in the clear because of a mistake in it.

use std::collections::BTreeSet;

use mesh_model::address::NamespacedHostname;
use mesh_xds::messages::waypoint::{BACKEND_POLICY, BackendPolicy, Host, ServiceTarget, TlsClient, TlsMode};

use super::material;
use crate::cluster::Cluster;
use crate::objects::route::{GROUP, LocalReference, ParentReference};
use crate::objects::{BackendTlsPolicy, Kind, NsName, ObjectKey};
use crate::translate::report::{Condition, ParentReport};
use crate::translate::resource::{Audience, Resource, source};
use crate::translate::{Derived, Lens, Read, Report, ports, service};

/// What the definition of the kind lets a status have.
const ANCESTORS_MAX: usize = 16;

/// What is to be said: the first thing that is wrong of each condition, and remarks.
#[derive(Default)]
struct Said {
    accepted: Option<(&'static str, String)>,
    resolved: Option<(&'static str, String)>,
    remark: String,
}

pub fn backend_tls_policy(lens: &Lens<'_>, policy: &BackendTlsPolicy) -> Derived {
    let meta = &policy.meta;
    let mut derived = Derived::default();
    let mut said = Said::default();
    let tls = client(lens, policy, &mut said);
    let mut waypoints: BTreeSet<NsName> = BTreeSet::new();
    lens.note(Read::Within(Kind::BackendTlsPolicy, meta.namespace.clone()));
    for target in &policy.spec.target_refs {
        let places = match places(lens, policy, target) {
            Ok(places) => places,
            Err(why) => {
                said.refused("TargetNotFound", format!("{} {}: {why}", target.kind, target.name));
                continue;
            }
        };
        let serving = places.iter().flat_map(|(host, _)| service::serving(lens, &NamespacedHostname { namespace: host.namespace.as_str().into(), hostname: host.hostname.as_str().into() }));
        waypoints.extend(serving);
        let others = Cluster::within(&lens.cluster.backend_tls_policies, &meta.namespace).filter(|other| other.meta.seniority() < meta.seniority());
        if let Some(older) = others.into_iter().find(|other| other.spec.target_refs.contains(target)) {
            said.refused("Conflicted", format!("{} {}: {} is older and has the same target", target.kind, target.name, older.meta.name));
            continue;
        }
        for (host, port) in places {
            let name = format!("{}/{}@{}/{}:{port}", meta.namespace, meta.name, host.namespace, host.hostname);
            let target = ServiceTarget { host: Some(host), port };
            let message = BackendPolicy { meta: source(Kind::BackendTlsPolicy, meta, ""), service: Some(target), tls: Some(tls.clone()), ..BackendPolicy::default() };
            derived.resources.push(Resource::new(BACKEND_POLICY, &name, &message, &Audience::everybody()));
        }
    }
    if !policy.spec.options.is_empty() {
        let names: Vec<&str> = policy.spec.options.keys().map(String::as_str).collect();
        said.remark = format!("; spec.options: {} are not known here and have no effect", names.join(", "));
    }
    let parents = ancestors(policy, waypoints).into_iter().map(|reference| ParentReport { reference, conditions: said.conditions(), routed_by: BTreeSet::new() }).collect();
    derived.reports.push((ObjectKey { kind: Kind::BackendTlsPolicy, name: meta.ns_name() }, Report { parents, ..Report::default() }));
    derived
}

/// Whom it is told about: the waypoints that serve its targets, or, of targets that none serves, the targets.
fn ancestors(policy: &BackendTlsPolicy, waypoints: BTreeSet<NsName>) -> Vec<ParentReference> {
    let gateway = |name: NsName| ParentReference { group: Some(GROUP.into()), kind: Some("Gateway".into()), namespace: Some(name.namespace), name: name.name, ..ParentReference::default() };
    let target = |target: &LocalReference| ParentReference {
        group: Some(target.group.clone()),
        kind: Some(target.kind.clone()),
        namespace: Some(policy.meta.namespace.clone()),
        name: target.name.clone(),
        section_name: target.section_name.clone(),
        port: None,
    };
    let mut all: Vec<ParentReference> = match waypoints.is_empty() {
        true => policy.spec.target_refs.iter().map(target).collect(),
        false => waypoints.into_iter().map(gateway).collect(),
    };
    all.truncate(ANCESTORS_MAX);
    all
}

impl Said {
    fn refused(&mut self, reason: &'static str, why: String) {
        self.accepted.get_or_insert((reason, why));
    }

    fn conditions(&self) -> Vec<Condition> {
        let one = |kind: &'static str, wrong: &Option<(&'static str, String)>, good: (&'static str, &str)| match wrong {
            Some((reason, why)) => Condition { kind, is_true: false, reason, message: format!("{why}{}", self.remark) },
            None => Condition { kind, is_true: true, reason: good.0, message: format!("{}{}", good.1, self.remark) },
        };
        vec![
            one("Accepted", &self.accepted, ("Accepted", "connections to its targets are made with TLS")),
            one("ResolvedRefs", &self.resolved, ("ResolvedRefs", "every authority can be used")),
        ]
    }
}

fn client(lens: &Lens<'_>, policy: &BackendTlsPolicy, said: &mut Said) -> TlsClient {
    let asked = &policy.spec.validation;
    let mut message = TlsClient { mode: TlsMode::Simple as i32, server_name: asked.hostname.to_string(), ..TlsClient::default() };
    let mut fail = |said: &mut Said, reason, why: String| {
        message.invalid = why.clone();
        said.refused(reason, format!("{why}; connections to its targets fail"));
    };
    let mut names = Vec::new();
    for (index, name) in asked.subject_alt_names.iter().enumerate() {
        match (&*name.r#type, &name.hostname, &name.uri) {
            ("Hostname", Some(text), _) | ("URI", _, Some(text)) => names.push(text.to_string()),
            _ => fail(said, "Invalid", format!("validation.subjectAltNames[{index}] is neither a Hostname with hostname nor a URI with uri")),
        }
    }
    let mut ca_pem = String::new();
    match (asked.well_known_ca_certificates.as_deref(), asked.ca_certificate_refs.as_slice()) {
        (Some("System"), []) => {}
        (Some(_), [_, ..]) => fail(said, "Invalid", "validation names both caCertificateRefs and wellKnownCACertificates".into()),
        (Some(other), []) => fail(said, "Invalid", format!("validation.wellKnownCACertificates: {other:?} is not System")),
        (None, []) => fail(said, "Invalid", "validation names no authority".into()),
        (None, references) => {
            let (pem, wrong) = material::authorities(lens, &policy.meta.namespace, references);
            ca_pem = pem;
            let all: Vec<&str> = wrong.iter().map(|(_, why)| why.as_str()).collect();
            if ca_pem.is_empty() {
                fail(said, "NoValidCACertificate", format!("validation.caCertificateRefs: {}", all.join("; ")));
            }
            if let Some(&(reason, _)) = wrong.first() {
                said.resolved = Some((reason, format!("validation.caCertificateRefs: {}", all.join("; "))));
            }
        }
    }
    TlsClient { ca_pem, subject_alt_names: names, ..message }
}

/// Host and port (0: all) of a target.
fn places(lens: &Lens<'_>, policy: &BackendTlsPolicy, target: &LocalReference) -> Result<Vec<(Host, u32)>, String> {
    let name = NsName { namespace: policy.meta.namespace.clone(), name: target.name.clone() };
    let host = |hostname: &str| Host { namespace: name.namespace.to_string(), hostname: hostname.to_owned() };
    let numbered = |found: Vec<u16>| match (&target.section_name, found.first()) {
        (None, _) => Ok(0),
        (Some(_), Some(port)) => Ok(u32::from(*port)),
        (Some(section), None) => Err(format!("has no port of the name {section}")),
    };
    let is_named = |port: &str| target.section_name.as_deref() == Some(port);
    match (&*target.group, &*target.kind) {
        ("" | "core", "Service") => {
            let object = lens.service(&name).ok_or("does not exist")?;
            let port = numbered(object.ports.iter().filter(|port| is_named(&port.name)).map(|port| port.port).collect())?;
            Ok(vec![(host(&service::key_of_service(lens.settings, object).hostname), port)])
        }
        ("networking.istio.io", "ServiceEntry") => {
            let entry = lens.service_entry(&name).ok_or("does not exist")?;
            let port = numbered(ports::entry_ports(entry).filter(|(_, port)| is_named(&port.name)).map(|(number, _)| number).collect())?;
            Ok(entry.spec.hosts.iter().map(|name| (host(name), port)).collect())
        }
        _ => Err("is no kind that TLS can be spoken to".into()),
    }
}
