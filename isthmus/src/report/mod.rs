//! How a mesh is: its parts, its nodes, its pods, and what is wrong with the command that repairs it. The same nouns for
//! a mesh on one machine and for one on a cluster; both are made by a pure function from what was gathered.

pub mod daemon;
pub mod machine;
pub mod cluster;
pub mod show;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Serialize;

/// The whole picture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Which mesh, in one line.
    pub about: String,
    pub parts: Vec<Part>,
    pub nodes: Vec<Node>,
    pub namespaces: Vec<Namespace>,
    pub pods: Vec<Pod>,
    pub waypoints: Vec<Waypoint>,
    pub problems: Vec<Problem>,
}

/// What serves whom at layer 7.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Waypoint {
    pub name: String,
    /// What passes through it: service, workload, all or none.
    pub traffic: String,
    pub ready: usize,
    pub instances: usize,
    /// Services that are bound to it, by namespace.
    pub serves: BTreeMap<String, usize>,
    pub is_programmed: bool,
    /// Why it is as it is.
    pub why: String,
}

/// A program of the mesh, all of its processes together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Part {
    pub name: String,
    /// Where it runs: a namespace of the cluster or of the machine.
    pub place: String,
    pub desired: usize,
    pub ready: usize,
    /// Version to the number of processes that have it.
    pub versions: BTreeMap<String, usize>,
    pub restarts: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Node {
    pub name: String,
    pub address: String,
    /// Whether its node daemon answers and is told of the mesh.
    pub ztunnel: Link,
    /// Pods in the mesh, of those that are to be in it.
    pub enrolled: usize,
    pub wanted: usize,
    pub certificates: Certificates,
}

/// What is known of a node's daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state", content = "why")]
pub enum Link {
    Connected,
    /// It runs on what it was told last.
    Disconnected,
    #[default]
    Absent,
    /// It could not be asked.
    Unknown(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Certificates {
    pub valid: usize,
    pub all: usize,
    /// When the first of them ends, RFC 3339.
    pub first_end: Option<String>,
}

/// A namespace that is labelled for the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Namespace {
    pub name: String,
    pub enrolled: usize,
    pub wanted: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pod {
    pub name: String,
    pub node: String,
    pub address: String,
    pub account: String,
    pub state: String,
    pub restarts: u32,
    pub mesh: Membership,
}

/// Where a pod stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state", content = "why")]
pub enum Membership {
    /// Nobody asks for it.
    #[default]
    Outside,
    Enrolled,
    /// Its labels ask for it, and it is not (yet): what is waited for.
    Waiting(String),
    /// Its labels ask for it no longer, and what is open is let end.
    Leaving,
    /// It cannot be, for this reason.
    Refused(String),
}

impl Membership {
    pub fn is_wanted(&self) -> bool {
        *self != Membership::Outside
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    pub weight: Weight,
    /// What it is about, as `pod shop/cart`.
    pub subject: String,
    pub what: String,
    /// The command that repairs it, or shows more.
    pub repair: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    Error,
    Warning,
}

impl Problem {
    pub fn error(subject: impl Into<String>, what: impl Into<String>, repair: impl Into<String>) -> Problem {
        Problem { weight: Weight::Error, subject: subject.into(), what: what.into(), repair: Some(repair.into()) }
    }

    pub fn warning(subject: impl Into<String>, what: impl Into<String>, repair: impl Into<String>) -> Problem {
        Problem { weight: Weight::Warning, ..Problem::error(subject, what, repair) }
    }
}

impl Report {
    /// Whether nothing is wrong; warnings do not count.
    pub fn is_well(&self) -> bool {
        self.problems.iter().all(|problem| problem.weight == Weight::Warning)
    }

    /// Pods and namespaces of one namespace only; parts and nodes as they are.
    pub fn only(mut self, namespace: &str) -> Report {
        self.namespaces.retain(|one| one.name == namespace);
        self.waypoints.retain(|waypoint| waypoint.name.split_once('/').is_some_and(|(of, _)| of == namespace) || waypoint.serves.contains_key(namespace));
        self.pods.retain(|pod| pod.name.split_once('/').is_some_and(|(of, _)| of == namespace));
        let is_other = |subject: &str| subject.split_once(' ').and_then(|(_, name)| name.split_once('/')).is_some_and(|(of, _)| of != namespace);
        self.problems.retain(|problem| !is_other(&problem.subject));
        self
    }
}
