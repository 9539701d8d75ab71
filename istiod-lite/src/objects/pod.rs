//! Pods. There are more of them than of everything else, each with kilobytes that nobody here reads, so they are read into
//! a shape of their own, and what many of them have in common is held once.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use serde::Deserialize;

use super::core::{Refused, port};
use super::meta::{Labels, Meta, Metadata, check_name};
use super::{Kind, Object};

/// Kubernetes' mark of a mirror pod; the only kind that a node's own credential may create.
const MIRROR: &str = "kubernetes.io/config.mirror";

#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    pub meta: Meta,
    pub generate_name: Option<Arc<str>>,
    pub owner: Option<Owner>,
    pub node: Arc<str>,
    pub service_account: Arc<str>,
    pub is_host_network: bool,
    /// The API server's picture of a pod that a kubelet runs from a file of its own.
    pub is_mirror: bool,
    /// Named TCP ports of containers and of native sidecars.
    pub ports: Ports,
    /// `None`: nobody has reported about this pod yet.
    pub status: Option<PodStatus>,
}

pub type Ports = Arc<[(Arc<str>, u16)]>;

#[derive(Clone, Debug, PartialEq)]
pub struct PodStatus {
    pub phase: Arc<str>,
    /// As written; a text that is no IP keeps the pod from being published.
    pub ips: Box<[Arc<str>]>,
    pub is_ready: bool,
}

/// The controlling owner of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Owner {
    pub kind: Arc<str>,
    pub name: Arc<str>,
}

/// What is read of a pod's text.
#[derive(Deserialize)]
pub struct Shape {
    #[serde(default)]
    metadata: Metadata,
    spec: Option<Spec>,
    status: Option<Status>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: Option<Arc<str>>,
    service_account_name: Option<Arc<str>>,
    service_account: Option<Arc<str>>,
    host_network: Option<bool>,
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    restart_policy: Option<String>,
    ports: Option<Vec<Port>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Port {
    name: Option<Arc<str>>,
    container_port: i32,
    protocol: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: Option<Arc<str>>,
    #[serde(rename = "podIP")]
    pod_ip: Option<Arc<str>>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<Ip>>,
    conditions: Option<Vec<Condition>>,
}

#[derive(Deserialize)]
struct Ip {
    ip: Arc<str>,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

impl Pod {
    pub fn take(shape: Shape) -> Result<Pod, Refused> {
        let Shape { metadata, spec, status } = shape;
        let is_mirror = metadata.has_annotation(MIRROR);
        let (generate_name, owner) = (metadata.generate_name.clone(), metadata.controller());
        let spec = spec.unwrap_or_default();
        let service_account = spec.service_account_name.or(spec.service_account).filter(|name| !name.is_empty());
        let service_account = service_account.unwrap_or_else(|| "default".into());
        check_name(&service_account).map_err(|why| ("spec.serviceAccountName", why))?;
        // Only native sidecars among the init containers run beside the application and can own one of its ports.
        let sidecars = spec.init_containers.into_iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
        let mut ports = Vec::new();
        for declared in spec.containers.into_iter().flatten().chain(sidecars).flat_map(|container| container.ports.unwrap_or_default()) {
            if let (Some(name), None | Some("TCP")) = (declared.name, declared.protocol.as_deref()) {
                ports.push((name, port("spec.containers.ports.containerPort", declared.container_port)?));
            }
        }
        Ok(Pod {
            meta: Meta::of(Kind::Pod, metadata)?,
            generate_name,
            owner,
            node: spec.node_name.unwrap_or_default(),
            service_account,
            is_host_network: spec.host_network == Some(true),
            is_mirror,
            ports: ports.into(),
            status: status.map(PodStatus::of),
        })
    }

    pub fn named_port(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|(known, _)| &**known == name).map(|(_, port)| *port)
    }

    pub fn phase(&self) -> &str {
        self.status.as_ref().map_or("", |status| &status.phase)
    }
}

impl PodStatus {
    fn of(status: Status) -> PodStatus {
        let mut ips: Vec<Arc<str>> = status.pod_ips.unwrap_or_default().into_iter().map(|ip| ip.ip).collect();
        if ips.is_empty() {
            ips.extend(status.pod_ip.filter(|ip| !ip.is_empty()));
        }
        let is_ready = status.conditions.iter().flatten().any(|condition| condition.r#type == "Ready" && condition.status == "True");
        PodStatus { phase: status.phase.unwrap_or_default(), ips: ips.into(), is_ready }
    }
}

/// What pods have in common: one copy of each text, and of each set of labels, annotations and ports.
#[derive(Debug, Default)]
pub struct Common {
    texts: Shelf<Arc<str>>,
    labels: Shelf<Labels>,
    ports: Shelf<Ports>,
}

#[derive(Debug)]
struct Shelf<T> {
    copies: HashSet<T>,
    /// So many are looked through for copies that nobody holds any more.
    sweep_at: usize,
}

/// Below it nothing is swept: it is little, and in use.
const SWEEP_LEAST: usize = 1024;

impl<T> Default for Shelf<T> {
    fn default() -> Shelf<T> {
        Shelf { copies: HashSet::new(), sweep_at: SWEEP_LEAST }
    }
}

impl<T: Clone + Eq + Hash> Shelf<T> {
    fn share(&mut self, one: &mut T, is_held: impl Fn(&T) -> bool) {
        match self.copies.get(one) {
            Some(copy) => *one = copy.clone(),
            None => {
                if self.copies.len() >= self.sweep_at {
                    self.copies.retain(is_held);
                    self.sweep_at = (2 * self.copies.len()).max(SWEEP_LEAST);
                }
                self.copies.insert(one.clone());
            }
        }
    }
}

impl Common {
    /// Makes an object that nobody else holds yet hold what is held already.
    pub fn share(&mut self, object: &mut Object) {
        let Object::Pod(pod) = object else { return };
        let Some(pod) = Arc::get_mut(pod) else { return };
        let Common { texts, labels, ports } = self;
        let mut text = |one: &mut Arc<str>| texts.share(one, |copy| Arc::strong_count(copy) > 1);
        [&mut pod.meta.namespace, &mut pod.node, &mut pod.service_account].into_iter().for_each(&mut text);
        pod.generate_name.iter_mut().for_each(&mut text);
        pod.status.iter_mut().for_each(|status| text(&mut status.phase));
        if let Some(owner) = &mut pod.owner {
            text(&mut owner.kind);
            text(&mut owner.name);
        }
        for set in [&mut pod.meta.labels, &mut pod.meta.annotations] {
            labels.share(set, Labels::is_shared);
        }
        ports.share(&mut pod.ports, |copy| Arc::strong_count(copy) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::read::sent;

    fn pod(name: &str, app: &str) -> Object {
        let text = serde_json::json!({
            "metadata": { "namespace": "shop", "name": name, "labels": { "b": "1", "app": app }, "annotations": { "ambient.istio.io/redirection": "enabled", "foreign": "x" },
                "managedFields": [{ "fieldsV1": {} }], "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "u", "controller": true }] },
            "spec": { "nodeName": "n1", "serviceAccountName": "sa", "containers": [{ "name": "c", "image": "i", "ports": [{ "name": "web", "containerPort": 8080 }] }], "volumes": null },
            "status": { "phase": "Running", "podIPs": [{ "ip": "10.0.0.1" }], "conditions": [{ "type": "Ready", "status": "True", "lastProbeTime": null }] },
        });
        sent(Kind::Pod, &text.to_string()).unwrap()
    }

    #[test]
    fn what_pods_have_in_common_is_held_once_and_nothing_is_changed() {
        let mut common = Common::default();
        let all = || [pod("a", "x"), pod("b", "x"), pod("c", "y")];
        let (before, mut pods) = (all(), all());
        pods.iter_mut().for_each(|pod| common.share(pod));
        assert_eq!(pods, before);
        let [Object::Pod(a), Object::Pod(b), Object::Pod(c)] = &pods else { panic!("pods") };
        assert!(Arc::ptr_eq(&a.node, &b.node) && Arc::ptr_eq(&a.ports, &c.ports) && a.meta.labels.is_same(&b.meta.labels));
        assert!(!a.meta.labels.is_same(&c.meta.labels) && a.meta.annotations.is_same(&c.meta.annotations));
    }

    #[test]
    fn what_nobody_holds_any_more_is_let_go() {
        let mut common = Common::default();
        for index in 0..10 * SWEEP_LEAST {
            common.share(&mut pod("a", &format!("app-{index}")));
        }
        assert!(common.labels.copies.len() <= SWEEP_LEAST + 1, "{}", common.labels.copies.len());
    }
}
