//! Kubernetes' own kinds: Namespace, Node, Service, EndpointSlice. Pods are in `pod`.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::meta::{Labels, Meta};
use super::Kind;

/// Why an object cannot be taken: the field, and what is wrong with it.
pub type Refused = (&'static str, String);

#[derive(Clone, Debug, PartialEq)]
pub struct Namespace {
    pub meta: Meta,
}

/// Only its labels matter: they say where it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub meta: Meta,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub meta: Meta,
    pub is_external_name: bool,
    pub selector: Labels,
    pub cluster_ips: Vec<Arc<str>>,
    pub ip_families: Vec<Arc<str>>,
    pub ports: Vec<ServicePort>,
    pub internal_traffic_policy: Option<Arc<str>>,
    pub traffic_distribution: Option<Arc<str>>,
    pub publishes_not_ready: bool,
    pub session_affinity: Option<Arc<str>>,
    pub external_ips: Vec<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ServicePort {
    pub name: Arc<str>,
    pub port: u16,
    pub protocol: Arc<str>,
    pub app_protocol: Option<Arc<str>>,
    pub target: TargetPort,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TargetPort {
    Number(u16),
    Name(Arc<str>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSlice {
    pub meta: Meta,
    /// Label `kubernetes.io/service-name`; a slice without it belongs to nobody.
    pub service: Option<Arc<str>>,
    pub is_fqdn: bool,
    /// TCP ports with a name and a number.
    pub ports: Vec<(Arc<str>, u16)>,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    pub addresses: Vec<Arc<str>>,
    /// `None` in the slice reads as ready.
    pub is_ready: bool,
    pub target: Option<Target>,
}

/// What an endpoint is the address of.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub kind: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Arc<str>,
}

fn shared_list(list: Option<Vec<String>>) -> Vec<Arc<str>> {
    list.unwrap_or_default().into_iter().map(Into::into).collect()
}

pub fn port(field: &'static str, number: i32) -> Result<u16, Refused> {
    match u16::try_from(number) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err((field, format!("{number} is not a port: 1 to 65535"))),
    }
}

impl Namespace {
    pub fn take(object: k8s::Namespace) -> Result<Namespace, Refused> {
        Ok(Namespace { meta: Meta::of(Kind::Namespace, object.metadata)? })
    }
}

impl Node {
    pub fn take(object: k8s::Node) -> Result<Node, Refused> {
        Ok(Node { meta: Meta::of(Kind::Node, object.metadata)? })
    }
}

impl Service {
    pub fn take(object: k8s::Service) -> Result<Service, Refused> {
        let spec = object.spec.unwrap_or_default();
        let mut cluster_ips = shared_list(spec.cluster_ips);
        if cluster_ips.is_empty() {
            cluster_ips.extend(spec.cluster_ip.map(Into::into));
        }
        cluster_ips.retain(|ip| !ip.is_empty() && &**ip != "None");
        let mut ports = Vec::new();
        for declared in spec.ports.unwrap_or_default() {
            let number = port("spec.ports.port", declared.port)?;
            let target = match declared.target_port {
                None => TargetPort::Number(number),
                Some(IntOrString::Int(0)) => TargetPort::Number(number),
                Some(IntOrString::Int(target)) => TargetPort::Number(port("spec.ports.targetPort", target)?),
                Some(IntOrString::String(name)) if name.is_empty() => TargetPort::Number(number),
                Some(IntOrString::String(name)) => TargetPort::Name(name.into()),
            };
            ports.push(ServicePort {
                name: declared.name.unwrap_or_default().into(),
                port: number,
                protocol: declared.protocol.unwrap_or_else(|| "TCP".into()).into(),
                app_protocol: declared.app_protocol.map(Into::into),
                target,
            });
        }
        Ok(Service {
            meta: Meta::of(Kind::Service, object.metadata)?,
            is_external_name: spec.type_.as_deref() == Some("ExternalName"),
            selector: spec.selector.unwrap_or_default().into(),
            cluster_ips,
            ip_families: shared_list(spec.ip_families),
            ports,
            internal_traffic_policy: spec.internal_traffic_policy.map(Into::into),
            traffic_distribution: spec.traffic_distribution.map(Into::into),
            publishes_not_ready: spec.publish_not_ready_addresses == Some(true),
            session_affinity: spec.session_affinity.map(Into::into),
            external_ips: shared_list(spec.external_ips),
        })
    }
}

impl EndpointSlice {
    pub fn take(object: discovery::EndpointSlice) -> Result<EndpointSlice, Refused> {
        let meta = Meta::of(Kind::EndpointSlice, object.metadata)?;
        let mut ports = Vec::new();
        for declared in object.ports.unwrap_or_default() {
            // Without a name there is no service port to join it to, without a number it means any port.
            if let (None | Some("TCP"), Some(number)) = (declared.protocol.as_deref(), declared.port) {
                ports.push((declared.name.unwrap_or_default().into(), port("ports.port", number)?));
            }
        }
        let endpoints = object.endpoints.into_iter().map(|endpoint| Endpoint {
            addresses: endpoint.addresses.into_iter().map(Into::into).collect(),
            is_ready: endpoint.conditions.and_then(|conditions| conditions.ready).unwrap_or(true),
            target: endpoint.target_ref.map(|target| Target {
                kind: target.kind.unwrap_or_default().into(),
                namespace: target.namespace.map_or_else(|| meta.namespace.clone(), Into::into),
                name: target.name.unwrap_or_default().into(),
                uid: target.uid.unwrap_or_default().into(),
            }),
        });
        let endpoints = endpoints.collect();
        Ok(EndpointSlice {
            service: meta.labels.get("kubernetes.io/service-name").cloned(),
            meta,
            is_fqdn: object.address_type == "FQDN",
            ports,
            endpoints,
        })
    }
}
