//! The one span of a request, and its tags (spec/waypoint.md 6.4).

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use mesh_model::workload::{Workload, WorkloadType};

use super::super::plan::{TagSource, Tracing};
use super::super::view::View;
use super::Trace;
use crate::facts::Target;

#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub trace: Trace,
    pub name: String,
    pub start: SystemTime,
    pub end: SystemTime,
    pub tags: Vec<(Cow<'static, str>, String)>,
    pub error: bool,
    /// Of the proxy.
    pub service: Arc<str>,
    pub address: Option<IpAddr>,
    /// Of the proxy, as attributes of the resource.
    pub resource: Vec<(&'static str, Arc<str>)>,
}

/// A header may be larger than what a collector takes in one tag.
const TAG_BYTES_MAX: usize = 256;

pub fn span(view: &View<'_>, trace: Trace, tracing: &Tracing) -> Span {
    let (told, own) = (view.told, view.own);
    let host = match &told.arrival.target {
        Target::Service { key, .. } => key.hostname.to_string(),
        Target::Workload { workload, .. } => workload.canonical_name.to_string(),
    };
    let mut tags: Vec<(Cow<'static, str>, String)> = Vec::with_capacity(48);
    let mut tag = |name: &'static str, value: Option<String>| {
        if let Some(mut value) = value.filter(|value| !value.is_empty()) {
            value.truncate(value.floor_char_boundary(TAG_BYTES_MAX));
            tags.push((name.into(), value));
        }
    };
    let error = told.status.is_none_or(|status| status >= 500) || told.flows.grpc_status().is_some_and(|status| status != 0);
    tag("component", Some("proxy".to_owned()));
    tag("node_id", Some(own.node_id.to_string()));
    if let Some(head) = &told.head {
        tag("http.url", Some(format!("{}://{}{}", head.scheme, head.authority, head.path)));
        tag("http.method", Some(head.method.to_string()));
    }
    tag("http.protocol", told.protocol().map(str::to_owned));
    tag("http.status_code", Some(told.response_code().to_string()));
    tag("request_size", Some(view.body_received().to_string()));
    tag("response_size", Some(view.body_sent().to_string()));
    tag("response_flags", Some(told.flags.to_string()));
    tag("user_agent", view.request_header(&http::header::USER_AGENT).map(Cow::into_owned));
    tag("guid:x-request-id", view.request_header(&http::HeaderName::from_static("x-request-id")).map(Cow::into_owned));
    tag("peer.address", Some(told.arrival.source.ip().to_string()));
    let cluster = told.cluster();
    tag("upstream_cluster", cluster.clone());
    tag("upstream_cluster.name", cluster);
    if let Some(status) = told.flows.grpc_status() {
        tag("grpc.status_code", Some(status.to_string()));
        tag("grpc.path", told.head.as_ref().map(|head| head.path.clone()));
        tag("grpc.authority", told.head.as_ref().map(|head| head.authority.clone()));
    }
    if error {
        tag("error", Some("true".to_owned()));
    }
    if tracing.istio_tags {
        tag("istio.canonical_service", Some(own.canonical_name.to_string()));
        tag("istio.canonical_revision", Some(own.canonical_revision.to_string()));
        tag("istio.mesh_id", Some(own.mesh_id.to_string()));
        tag("istio.namespace", Some(own.namespace.to_string()));
        tag("istio.cluster_id", Some(own.cluster.to_string()));
        peer(&mut tag, SOURCE, view.source());
        peer(&mut tag, DESTINATION, view.destination());
    }
    for (name, value) in &told.notes {
        tag(name, Some(value.clone()));
    }
    for custom in &tracing.tags {
        let or = |value: Option<String>, other: &str| value.unwrap_or_else(|| other.to_owned());
        let mut value = match &custom.source {
            TagSource::Literal(text) => text.clone(),
            TagSource::Header(name, other) => or(view.request_header(name).map(Cow::into_owned), other),
            TagSource::Environment(name, other) => or(own.environment.get(name).cloned(), other),
        };
        value.truncate(value.floor_char_boundary(TAG_BYTES_MAX));
        if !value.is_empty() {
            tags.push((custom.name.clone().into(), value));
        }
    }
    Span {
        trace,
        name: format!("{host}:{}/*", told.arrival.target.port()),
        start: told.begun_at,
        end: told.begun_at + view.duration(),
        tags,
        error,
        service: format!("{}.{}", own.canonical_name, own.namespace).into(),
        address: told.arrival.dialled.map(|address| address.ip()),
        resource: vec![
            ("service.namespace", own.namespace.clone()),
            ("service.version", own.version.clone()),
            ("k8s.cluster.name", own.cluster.clone()),
            ("k8s.namespace.name", own.namespace.clone()),
            ("k8s.pod.name", own.hostname.clone()),
        ],
    }
}

/// Names of the tags of one end: workload, namespace, cluster, canonical service, canonical revision, app, version, type,
/// instance.
type Names = [&'static str; 9];

const SOURCE: Names = [
    "istio.source_workload",
    "istio.source_namespace",
    "istio.source_cluster_id",
    "istio.source_canonical_service",
    "istio.source_canonical_revision",
    "istio.source_app",
    "istio.source_app_version",
    "istio.source_workload_type",
    "istio.source_instance_name",
];
const DESTINATION: Names = [
    "istio.destination_workload",
    "istio.destination_namespace",
    "istio.destination_cluster_id",
    "istio.destination_canonical_service",
    "istio.destination_canonical_revision",
    "istio.destination_app",
    "istio.destination_app_version",
    "istio.destination_workload_type",
    "istio.destination_instance_name",
];

fn peer(tag: &mut impl FnMut(&'static str, Option<String>), names: Names, workload: Option<&Workload>) {
    let Some(workload) = workload else { return };
    let kind = match workload.workload_type {
        WorkloadType::Deployment => "deployment",
        WorkloadType::CronJob => "cronjob",
        WorkloadType::Pod => "pod",
        WorkloadType::Job => "job",
    };
    let values: [&str; 9] = [
        &workload.workload_name,
        &workload.namespace,
        &workload.cluster_id,
        &workload.canonical_name,
        &workload.canonical_revision,
        &workload.canonical_name,
        &workload.canonical_revision,
        kind,
        &workload.name,
    ];
    for (name, value) in names.into_iter().zip(values) {
        tag(name, Some(value.to_owned()));
    }
}
