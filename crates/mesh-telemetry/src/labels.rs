//! The labels of traffic metrics: which, in which order, and what they say about whom (spec/dataplane.md 8.1).

use std::sync::Arc;

use mesh_model::identity::SpiffeId;
use mesh_model::service::Service;
use mesh_model::workload::Workload;
use metrics::{Label, SharedString};

/// What stands for a value that is missing or empty.
pub const UNKNOWN: &str = "unknown";
/// What stands for a source's canonical revision that is missing, at a waypoint.
const LATEST: &str = "latest";

/// On which side of a connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reporter {
    Source,
    Destination,
    Waypoint,
}

/// Whether the hop that is reported was encrypted and both ends proved who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Security {
    MutualTls,
    Unknown,
}

/// How a connection ended, in the field's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResponseFlags {
    None,
    Deny,
    Connect,
    TlsFailure,
    H2HandshakeFailure,
    NetworkPolicy,
    IdentityError,
    CertRevoked,
}

/// What a peer says of itself (the baggage of a tunnel); believed for telemetry only. Empty means not said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Derived {
    pub cluster: Arc<str>,
    pub namespace: Arc<str>,
    pub workload_name: Arc<str>,
    pub canonical_name: Arc<str>,
    pub canonical_revision: Arc<str>,
    pub region: Arc<str>,
    pub zone: Arc<str>,
}

/// What is known of one end of a connection.
#[derive(Clone, Copy, Debug)]
pub enum End<'a> {
    Known(&'a Workload),
    Told(&'a Derived),
    Unknown,
}

/// All that decides the labels of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Labelled<'a> {
    pub reporter: Reporter,
    pub source: End<'a>,
    /// The identity that TLS proved; none for plaintext.
    pub source_principal: Option<&'a SpiffeId>,
    pub destination: End<'a>,
    /// Known from the directory, for plaintext too.
    pub destination_principal: Option<&'a SpiffeId>,
    pub service: Option<&'a Service>,
    pub security: Security,
}

impl Reporter {
    pub fn as_str(self) -> &'static str {
        match self {
            Reporter::Source => "source",
            Reporter::Destination => "destination",
            Reporter::Waypoint => "waypoint",
        }
    }
}

impl Security {
    pub fn as_str(self) -> &'static str {
        match self {
            Security::MutualTls => "mutual_tls",
            Security::Unknown => UNKNOWN,
        }
    }
}

impl ResponseFlags {
    pub const ALL: [ResponseFlags; 8] = [
        ResponseFlags::None,
        ResponseFlags::Deny,
        ResponseFlags::Connect,
        ResponseFlags::TlsFailure,
        ResponseFlags::H2HandshakeFailure,
        ResponseFlags::NetworkPolicy,
        ResponseFlags::IdentityError,
        ResponseFlags::CertRevoked,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            ResponseFlags::None => "-",
            ResponseFlags::Deny => "DENY",
            ResponseFlags::Connect => "CONNECT",
            ResponseFlags::TlsFailure => "TLS_FAILURE",
            ResponseFlags::H2HandshakeFailure => "H2_HANDSHAKE_FAILURE",
            ResponseFlags::NetworkPolicy => "NETWORK_POLICY",
            ResponseFlags::IdentityError => "IDENTITY_ERROR",
            ResponseFlags::CertRevoked => "CERT_REVOKED",
        }
    }
}

/// The 27 labels of a traffic series, in the field's order.
pub fn traffic(what: &Labelled<'_>, flags: ResponseFlags) -> Vec<Label> {
    let (source, destination) = (Shown::of(what.source), Shown::of(what.destination));
    let service = |of: fn(&Service) -> &Arc<str>| what.service.map(|service| of(service).clone()).unwrap_or_default();
    let service = [service(|service| &service.hostname), service(|service| &service.namespace), service(|service| &service.name)];
    let mut labels = ends(what, &source, &destination, &service);
    labels.push(fixed("request_protocol", "tcp"));
    labels.push(fixed("response_flags", flags.as_str()));
    labels.push(fixed("connection_security_policy", what.security.as_str()));
    labels.push(said("source_region", &source.region));
    labels.push(said("source_zone", &source.zone));
    labels.push(said("destination_region", &destination.region));
    labels.push(said("destination_zone", &destination.zone));
    labels
}

/// The labels that say whom a series of a waypoint is about (spec/waypoint.md 6.1); what it is about is added by the caller.
/// The namespace of a source is that of its identity, which is proven. `service`: hostname, namespace, name; a destination
/// that is no service is called by its endpoint's canonical name.
pub fn waypoint(what: &Labelled<'_>, service: Option<[Arc<str>; 3]>) -> Vec<Label> {
    let (mut source, destination) = (Shown::of(what.source), Shown::of(what.destination));
    if let Some(identity) = what.source_principal {
        source.namespace = identity.namespace.clone();
    }
    if source.canonical_revision.is_empty() {
        source.canonical_revision = LATEST.into();
    }
    let of_endpoint = || [&destination.canonical_service, &destination.namespace, &destination.canonical_service].map(Arc::clone);
    let service = service.unwrap_or_else(of_endpoint);
    ends(what, &source, &destination, &service)
}

/// Reporter, source and destination. `service`: hostname, namespace, name.
fn ends(what: &Labelled<'_>, source: &Shown, destination: &Shown, service: &[Arc<str>; 3]) -> Vec<Label> {
    let mut labels = Vec::with_capacity(27);
    labels.push(fixed("reporter", what.reporter.as_str()));
    push_source(&mut labels, source, what.source_principal);
    labels.push(said("destination_service", &service[0]));
    labels.push(said("destination_service_namespace", &service[1]));
    labels.push(said("destination_service_name", &service[2]));
    labels.push(said("destination_workload", &destination.workload));
    labels.push(said("destination_canonical_service", &destination.canonical_service));
    labels.push(said("destination_canonical_revision", &destination.canonical_revision));
    labels.push(said("destination_workload_namespace", &destination.namespace));
    labels.push(principal("destination_principal", what.destination_principal));
    labels.push(said("destination_app", &destination.app));
    labels.push(said("destination_version", &destination.version));
    labels.push(said("destination_cluster", &destination.cluster));
    labels
}

/// The eight labels of a source (2 to 9 of the traffic labels), for families that tell only who asked.
pub fn source(of: End<'_>, identity: Option<&SpiffeId>) -> Vec<Label> {
    let mut labels = Vec::with_capacity(8);
    push_source(&mut labels, &Shown::of(of), identity);
    labels
}

fn push_source(labels: &mut Vec<Label>, source: &Shown, identity: Option<&SpiffeId>) {
    labels.push(said("source_workload", &source.workload));
    labels.push(said("source_canonical_service", &source.canonical_service));
    labels.push(said("source_canonical_revision", &source.canonical_revision));
    labels.push(said("source_workload_namespace", &source.namespace));
    labels.push(principal("source_principal", identity));
    labels.push(said("source_app", &source.app));
    labels.push(said("source_version", &source.version));
    labels.push(said("source_cluster", &source.cluster));
}

/// The labels of the DNS families: what was asked, how, and who asked.
pub fn dns(query_type: &str, protocol: &'static str, client: Option<&Workload>) -> Vec<Label> {
    let client = Shown::of(client.map_or(End::Unknown, End::Known));
    vec![
        said("request_query_type", &query_type.to_ascii_lowercase().into()),
        fixed("request_protocol", protocol),
        said("source_canonical_service", &client.canonical_service),
        said("source_canonical_revision", &client.canonical_revision),
    ]
}

/// One label whose value may be missing or empty.
pub fn said(name: &'static str, value: &Arc<str>) -> Label {
    if value.is_empty() {
        Label::from_static_parts(name, UNKNOWN)
    } else {
        Label::new(name, SharedString::from_shared(value.clone()))
    }
}

/// One label whose value is a word of ours.
pub fn fixed(name: &'static str, value: &'static str) -> Label {
    Label::from_static_parts(name, value)
}

fn principal(name: &'static str, identity: Option<&SpiffeId>) -> Label {
    match identity {
        Some(identity) => Label::new(name, identity.to_string()),
        None => Label::from_static_parts(name, UNKNOWN),
    }
}

/// One end in the words of the labels.
#[derive(Default)]
struct Shown {
    workload: Arc<str>,
    canonical_service: Arc<str>,
    canonical_revision: Arc<str>,
    /// What the revision is, where it is known.
    version: Arc<str>,
    namespace: Arc<str>,
    app: Arc<str>,
    cluster: Arc<str>,
    region: Arc<str>,
    zone: Arc<str>,
}

impl Shown {
    fn of(end: End<'_>) -> Shown {
        match end {
            End::Known(workload) => Shown {
                workload: workload.workload_name.clone(),
                canonical_service: workload.canonical_name.clone(),
                canonical_revision: workload.canonical_revision.clone(),
                version: workload.canonical_revision.clone(),
                namespace: workload.namespace.clone(),
                app: workload.canonical_name.clone(),
                cluster: workload.cluster_id.clone(),
                region: workload.locality.region.clone(),
                zone: workload.locality.zone.clone(),
            },
            End::Told(told) => Shown {
                workload: told.workload_name.clone(),
                canonical_service: told.canonical_name.clone(),
                canonical_revision: told.canonical_revision.clone(),
                version: told.canonical_revision.clone(),
                namespace: told.namespace.clone(),
                // The app of a peer that only tells about itself is its workload name: so the field does it.
                app: told.workload_name.clone(),
                cluster: told.cluster.clone(),
                region: told.region.clone(),
                zone: told.zone.clone(),
            },
            End::Unknown => Shown::default(),
        }
    }
}

#[cfg(test)]
mod tests;
