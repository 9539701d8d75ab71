//! BackendTLSPolicy: TLS from the waypoint to a service (spec/waypoint.md 2.10).

use mesh_xds::messages::waypoint::{BACKEND_POLICY, BackendPolicy, Host, ServiceTarget, TlsClient, TlsMode};

use crate::cluster::Cluster;
use crate::objects::route::LocalReference;
use crate::objects::{BackendTlsPolicy, Kind, NsName, ObjectKey};
use crate::translate::resource::{Audience, Resource, source};
use crate::translate::{Derived, Lens, Read, Report, ports, service};

pub fn backend_tls_policy(lens: &Lens<'_>, policy: &BackendTlsPolicy) -> Derived {
    let meta = &policy.meta;
    let mut derived = Derived::default();
    let mut report = Report::default();
    let tls = client(policy);
    if !tls.invalid.is_empty() {
        report.fails("ResolvedRefs", "InvalidCACertificateRef", format!("{}; connections to its targets fail", tls.invalid));
    }
    lens.note(Read::Within(Kind::BackendTlsPolicy, meta.namespace.clone()));
    for target in &policy.spec.target_refs {
        let others = Cluster::within(&lens.cluster.backend_tls_policies, &meta.namespace).filter(|other| other.meta.seniority() < meta.seniority());
        if let Some(older) = others.into_iter().find(|other| other.spec.target_refs.contains(target)) {
            report.fails("Accepted", "Conflicted", format!("{} {}: {} is older and has the same target", target.kind, target.name, older.meta.name));
            continue;
        }
        match places(lens, policy, target) {
            Ok(places) => {
                for (host, port) in places {
                    let name = format!("{}/{}@{}/{}:{port}", meta.namespace, meta.name, host.namespace, host.hostname);
                    let target = ServiceTarget { host: Some(host), port };
                    let message = BackendPolicy { meta: source(Kind::BackendTlsPolicy, meta, ""), service: Some(target), tls: Some(tls.clone()), ..BackendPolicy::default() };
                    derived.resources.push(Resource::new(BACKEND_POLICY, &name, &message, &Audience::everybody()));
                }
            }
            Err(why) => report.fails("Accepted", "TargetNotFound", format!("{} {}: {why}", target.kind, target.name)),
        }
    }
    if !policy.spec.options.is_empty() {
        report.note("spec.options are not known here");
    }
    derived.reports.push((ObjectKey { kind: Kind::BackendTlsPolicy, name: meta.ns_name() }, report));
    derived
}

fn client(policy: &BackendTlsPolicy) -> TlsClient {
    let asked = &policy.spec.validation;
    let names = asked.subject_alt_names.iter().filter_map(|name| name.hostname.as_ref().or(name.uri.as_ref())).map(|name| name.to_string());
    let invalid = match (asked.well_known_ca_certificates.as_deref(), asked.ca_certificate_refs.is_empty()) {
        (Some("System"), true) => String::new(),
        (Some(other), true) => format!("validation.wellKnownCACertificates: {other:?} is not System"),
        (_, false) => "validation.caCertificateRefs: ConfigMaps of users are not read by this controller; write wellKnownCACertificates: System".into(),
        (None, true) => "validation names no authority".into(),
    };
    TlsClient { mode: TlsMode::Simple as i32, server_name: asked.hostname.to_string(), subject_alt_names: names.collect(), invalid, ..TlsClient::default() }
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
