//! What was gathered of a cluster, without any judgement. Data only, so that reports and checks are tables to test.

use std::collections::{BTreeMap, BTreeSet};

use crate::report::daemon::Daemon;
use crate::waypoint::gateway::Waypoint;

pub type Labels = BTreeMap<String, String>;

/// Everything that `status` and `check` look at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// The kubeconfig's context and the server's address.
    pub about: String,
    /// As the API server says it, `v1.34.4`.
    pub server_version: String,
    pub nodes: Vec<Node>,
    pub namespaces: BTreeMap<String, Labels>,
    pub pods: Vec<Pod>,
    /// Deployments and DaemonSets of the mesh.
    pub rollouts: Vec<Rollout>,
    /// By node: its daemon, or why it could not be asked.
    pub daemons: BTreeMap<String, Result<Daemon, String>>,
    /// By pod of the controller.
    pub controllers: BTreeMap<String, Result<Controller, String>>,
    /// Namespaces in which the root certificates can be read (`istio-ca-root-cert`).
    pub with_roots: BTreeSet<String>,
    /// Names of CustomResourceDefinitions.
    pub crds: BTreeSet<String>,
    /// Validating webhooks of the mesh: name, and whether the API server has the authority's certificate for it.
    pub webhooks: BTreeMap<String, bool>,
    /// Names of mutating webhooks: other meshes add their proxies by them.
    pub injectors: BTreeSet<String>,
    /// Settings of CNI plugins that do not go with others, as `key=value` by config map.
    pub cni_settings: BTreeMap<String, String>,
    pub waypoints: Vec<Waypoint>,
    /// Services that ask for a waypoint by a label of their own or of their namespace, as far as a controller has said
    /// what became of it.
    pub bound: Vec<Bound>,
    /// What the operator was not allowed to see.
    pub unseen: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub address: String,
    pub is_ready: bool,
    pub kernel: String,
    pub architecture: String,
    pub os: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub node: String,
    pub address: String,
    pub account: String,
    pub labels: Labels,
    pub annotations: Labels,
    pub phase: String,
    pub is_ready: bool,
    pub is_host_network: bool,
    pub is_leaving: bool,
    pub restarts: u32,
    /// Why a container of it does not run, as the kubelet says it.
    pub trouble: Option<String>,
    /// Image of the first container.
    pub image: String,
}

/// A program that the cluster keeps running: a Deployment or a DaemonSet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rollout {
    /// `deployment` or `daemonset`, as kubectl takes it.
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub labels: Labels,
    pub desired: usize,
    pub ready: usize,
    pub updated: usize,
}

/// What a controller says about a service that asks for a waypoint (condition `istio.io/WaypointBound`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// `service shop/cart` or `serviceentry shop/outside`, as kubectl takes it.
    pub object: String,
    pub namespace: String,
    /// NAMESPACE/NAME of the waypoint that is asked for.
    pub waypoint: String,
    pub is_bound: bool,
    pub message: String,
}

/// A process of the controller, by its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Controller {
    pub version: String,
    /// Pods of node daemons that have a stream to it.
    pub connected: BTreeSet<String>,
}

/// The parts of the mesh that run as pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Controller,
    Daemon,
    Agent,
}

pub const PARTS: [Part; 3] = [Part::Controller, Part::Agent, Part::Daemon];

impl Part {
    /// By the labels of the chart, which are also those by which others find these parts (spec/controlplane.md 9).
    pub fn of(labels: &Labels) -> Option<Part> {
        let app = labels.get("app").map(String::as_str);
        match (app, labels.get("k8s-app").map(String::as_str)) {
            (Some("istiod"), _) => Some(Part::Controller),
            (Some("ztunnel"), _) => Some(Part::Daemon),
            (Some("mesh-cni"), _) | (_, Some("istio-cni-node")) => Some(Part::Agent),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Part::Controller => "istiod-lite",
            Part::Daemon => "ztunnel",
            Part::Agent => "mesh-cni",
        }
    }
}

impl Pod {
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether it has ended: nothing of it can be called.
    pub fn has_ended(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }

    /// The tag of its image: the version, until its program says it itself.
    pub fn tag(&self) -> String {
        let name = self.image.split('@').next().unwrap_or_default();
        name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map(|(_, tag)| tag.to_owned()).unwrap_or_default()
    }
}

impl Facts {
    pub fn rollout(&self, part: Part) -> Option<&Rollout> {
        self.rollouts.iter().find(|rollout| Part::of(&rollout.labels) == Some(part))
    }

    /// Pods of a part of the mesh, in the namespace of its rollout.
    pub fn pods_of(&self, part: Part) -> impl Iterator<Item = &Pod> {
        let namespace = self.rollout(part).map(|rollout| rollout.namespace.clone());
        self.pods.iter().filter(move |pod| Part::of(&pod.labels) == Some(part) && namespace.as_ref().is_none_or(|one| *one == pod.namespace) && !pod.has_ended())
    }

    /// Where the mesh is installed; none if it is not.
    pub fn mesh_namespace(&self) -> Option<&str> {
        PARTS.into_iter().find_map(|part| self.rollout(part)).map(|rollout| rollout.namespace.as_str())
    }
}
