//! Which pods of this node are ours: what the node agent says (ZDS) becomes pods to start and to stop.
//!
//! Pure: `handle(event)` gives actions, the shell (`zds.rs`) carries them out and reports how a start went with
//! `started`. Rules: spec/dataplane.md 3.4. A namespace is anything that knows which one it is.

pub mod zds;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::older::Captured;

/// `metadata.uid` of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodUid(pub Arc<str>);

/// Who the agent says a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInfo {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
}

/// A pod that is to be served: its namespace, and the mark by which its rules know our packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled<Ns> {
    pub uid: PodUid,
    pub info: PodInfo,
    pub netns: Ns,
    /// `None`: the agent does not know the extension, the mark of the field is in the rules (design decision 4).
    pub mark: Option<u32>,
    pub captured: Captured,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<Ns> {
    /// A new connection to the agent; a snapshot will follow.
    Connected,
    Add { uid: PodUid, info: Option<PodInfo>, netns: Ns, mark: Option<u32>, captured: Captured },
    Keep { uid: PodUid },
    Delete { uid: PodUid, drain: bool },
    SnapshotSent,
    /// It is time to try pending pods again.
    Retry,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<Ns> {
    /// Start this pod, then report with `started`.
    Start(Enrolled<Ns>),
    Stop { uid: PodUid, how: Stop },
    /// What of a running pod is captured was said anew.
    Captured { uid: PodUid, captured: Captured },
    /// Answer the request.
    Ack,
    Nack(String),
    /// The agent breaks the protocol: answer with this and end the process (spec/dataplane.md 3.4).
    Give(Broken),
    /// Whether every pod of the agent's snapshot is served.
    Ready(bool),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("pod {} was added without workload_info; the agent must name every pod it adds", .0.0)]
    NoInfo(PodUid),
    #[error("pod {} was kept after the snapshot was complete", .0.0)]
    KeepAfterSnapshot(PodUid),
    #[error("a second end of snapshot on one connection")]
    SecondSnapshot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The pod is gone: its sockets are worth nothing any more.
    Immediate,
    /// The pod lives on without the mesh: connections end by themselves.
    Drain,
}

/// The book of enrolled pods.
#[derive(Debug)]
pub struct Enrolment<Ns> {
    running: BTreeMap<PodUid, Enrolled<Ns>>,
    /// Could not be started; tried again.
    pending: BTreeMap<PodUid, Enrolled<Ns>>,
    /// The pods named on this connection so far; `None` once the snapshot is complete.
    snapshot: Option<BTreeSet<PodUid>>,
}

impl<Ns> Default for Enrolment<Ns> {
    fn default() -> Enrolment<Ns> {
        Enrolment { running: BTreeMap::new(), pending: BTreeMap::new(), snapshot: Some(BTreeSet::new()) }
    }
}

impl<Ns: Clone + PartialEq> Enrolment<Ns> {
    pub fn handle(&mut self, event: Event<Ns>) -> Vec<Action<Ns>> {
        match event {
            Event::Connected => {
                self.pending.clear();
                self.snapshot = Some(BTreeSet::new());
                Vec::new()
            }
            Event::Add { uid, info: None, .. } => {
                let broken = Broken::NoInfo(uid);
                vec![Action::Nack(broken.to_string()), Action::Give(broken)]
            }
            Event::Add { uid, info: Some(info), netns, mark, captured } => {
                self.add(Enrolled { uid, info, netns, mark, captured })
            }
            Event::Keep { uid } => match &mut self.snapshot {
                Some(named) => {
                    named.insert(uid);
                    vec![Action::Ack]
                }
                None => {
                    let broken = Broken::KeepAfterSnapshot(uid);
                    vec![Action::Nack(broken.to_string()), Action::Give(broken)]
                }
            },
            Event::Delete { uid, drain } => self.delete(uid, drain),
            Event::SnapshotSent => self.snapshot_sent(),
            Event::Retry => self.pending.values().cloned().map(Action::Start).collect(),
        }
    }

    /// How a start went. A start that an event asked for is answered; one that `Retry` asked for is not.
    pub fn started(&mut self, pod: Enrolled<Ns>, outcome: Result<(), String>, answer: Answer) -> Vec<Action<Ns>> {
        let uid = pod.uid.clone();
        let mut actions = Vec::new();
        match outcome {
            Ok(()) => {
                self.pending.remove(&uid);
                self.running.insert(uid, pod);
                if answer == Answer::Expected {
                    actions.push(Action::Ack);
                }
            }
            Err(why) => {
                self.pending.insert(uid, pod);
                if answer == Answer::Expected {
                    actions.push(Action::Nack(format!("failure to start proxy : {why}")));
                }
            }
        }
        actions.extend(self.readiness());
        actions
    }

    pub fn running(&self) -> impl Iterator<Item = &Enrolled<Ns>> {
        self.running.values()
    }

    pub fn pending(&self) -> impl Iterator<Item = &Enrolled<Ns>> {
        self.pending.values()
    }

    fn add(&mut self, pod: Enrolled<Ns>) -> Vec<Action<Ns>> {
        if let Some(named) = &mut self.snapshot {
            named.insert(pod.uid.clone());
        }
        match self.running.get(&pod.uid) {
            Some(old) if old.netns == pod.netns && old.mark == pod.mark => {
                let told = pod.captured.is_some() || old.captured.is_some();
                let captured = told.then(|| Action::Captured { uid: pod.uid.clone(), captured: pod.captured.clone() });
                self.running.insert(pod.uid.clone(), pod);
                captured.into_iter().chain([Action::Ack]).collect()
            }
            Some(_) => {
                self.running.remove(&pod.uid);
                vec![Action::Stop { uid: pod.uid.clone(), how: Stop::Immediate }, Action::Start(pod)]
            }
            None => vec![Action::Start(pod)],
        }
    }

    fn delete(&mut self, uid: PodUid, drain: bool) -> Vec<Action<Ns>> {
        self.pending.remove(&uid);
        if let Some(named) = &mut self.snapshot {
            // Not in the snapshot any more: its end stops the pod, if it runs.
            named.remove(&uid);
            return vec![Action::Ack];
        }
        let mut actions = Vec::new();
        if self.running.remove(&uid).is_some() {
            actions.push(Action::Stop { uid, how: if drain { Stop::Drain } else { Stop::Immediate } });
        }
        actions.push(Action::Ack);
        actions.extend(self.readiness());
        actions
    }

    fn snapshot_sent(&mut self) -> Vec<Action<Ns>> {
        let Some(named) = self.snapshot.take() else {
            return vec![Action::Nack(Broken::SecondSnapshot.to_string()), Action::Give(Broken::SecondSnapshot)];
        };
        let gone: Vec<PodUid> = self.running.keys().filter(|uid| !named.contains(*uid)).cloned().collect();
        let mut actions = Vec::new();
        for uid in gone {
            self.running.remove(&uid);
            actions.push(Action::Stop { uid, how: Stop::Immediate });
        }
        actions.push(Action::Ack);
        actions.extend(self.readiness());
        actions
    }

    /// Ready is who has once been told of all pods of the node and serves them, whatever becomes of the agent. The field's
    /// daemon is not ready while it has no agent; but Kubernetes lets one that is not ready go at once, and during an upgrade,
    /// in which the agent is away for a moment too, there would be nobody until its successor is ready.
    fn readiness(&self) -> Option<Action<Ns>> {
        self.snapshot.is_none().then(|| Action::Ready(self.pending.is_empty()))
    }
}

/// Whether the agent waits for the outcome of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Expected,
    NotExpected,
}

#[cfg(test)]
mod tests;
