//! The lives of a node's pods, by uid: what their source says of each is passed on, and a new one begins where there is
//! none. Where pods come from is the source's matter: a folder ([`crate::folder`]), or Kubernetes ([`crate::kubernetes`]).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::agent::Node;
use crate::life::{self, Desired};
use crate::podfile::PodFile;
use crate::report::Report;

/// Where pods are announced.
pub trait Source: Send {
    /// Takes the pods that are there already. Each new life holds a clone of `seen` until daemons may be told of its pod.
    ///
    /// # Errors
    /// What keeps it from being read.
    fn first(&mut self, lives: &mut Lives, seen: &mpsc::Sender<()>) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Follows what changes, for ever.
    ///
    /// # Errors
    /// What ends it.
    fn follow(&mut self, lives: &mut Lives) -> impl Future<Output = anyhow::Result<Infallible>> + Send;
}

/// The lives that go on.
pub struct Lives {
    node: Arc<Node>,
    by_uid: BTreeMap<String, watch::Sender<Desired>>,
}

impl Lives {
    pub fn new(node: Arc<Node>) -> Lives {
        Lives { node, by_uid: BTreeMap::new() }
    }

    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    pub fn wanted(&mut self, report: Report, pod: Box<PodFile>, seen: Option<&mpsc::Sender<()>>) {
        self.by_uid.retain(|_, life| !life.is_closed());
        let uid = pod.uid.clone();
        let desired = Desired::Wanted(report, pod);
        match self.by_uid.get(&uid) {
            Some(life) => drop(life.send_replace(desired)),
            None => {
                let (sender, receiver) = watch::channel(desired);
                tokio::spawn(life::live(self.node.clone(), uid.clone(), receiver, seen.cloned()));
                self.by_uid.insert(uid, sender);
            }
        }
    }

    /// What the source says of it cannot be understood. Whether there is such a life.
    pub fn broken(&self, uid: &str, reason: &str) -> bool {
        self.tell(uid, Desired::Broken(reason.to_owned()))
    }

    /// Its source no longer names it. Whether there was such a life.
    pub fn gone(&self, uid: &str) -> bool {
        self.tell(uid, Desired::Gone)
    }

    /// Its processes have ended.
    pub fn ended(&self, uid: &str) {
        self.tell(uid, Desired::Ended);
    }

    fn tell(&self, uid: &str, desired: Desired) -> bool {
        let life = self.by_uid.get(uid).filter(|life| !life.is_closed());
        life.is_some_and(|life| {
            life.send_replace(desired);
            true
        })
    }
}
