//! Kubernetes as the source of pods: the API server says which pods of this node are to be in the mesh, the container
//! runtime's calls (by the plugin) say when one starts, and the node's processes say where one is that runs already.
//!
//! ```text
//!  watch pods of this node ──┐
//!  watch namespaces ─────────┼──▶ decide (pure) ──▶ lives ──▶ annotation
//!  the plugin: a sandbox ────┘         ▲
//!  now and again: all of them ─────────┘ repairs what was missed
//! ```

pub mod decide;
pub mod find;
pub mod annotation;
pub mod events;
pub mod api;
pub mod doors;
pub mod leave;
pub mod token;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::stream::select_all;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event as Seen, watcher};
use kube::{Api, Client};
use mesh_net::netns::Netns;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::annotation::{Annotation, REDIRECTION};
use self::decide::{Decision, Facts, Labels, Selection, Why, mode};
use self::find::{Finder, Found, Processes};
use self::leave::{Own, Stay, is_leaving};
use crate::lives::{Lives, Source};
use crate::plugin::event::Event;
use crate::podfile::{Phase, PodFile};
use crate::report::Report;
use crate::status::State;

/// How often all pods are looked at again: what was missed is repaired within it (spec/reliability.md F-41).
const RESYNC_EVERY: Duration = Duration::from_secs(10);
/// How often an agent that leaves looks whether all is undone.
const FAREWELL_EVERY: Duration = Duration::from_millis(500);
/// How long the runtime's call waits for a pod's enrolment; then it fails, and the runtime tries again.
pub const ENROL_MAX: Duration = Duration::from_secs(20);
/// For the API server, where a sandbox is told of before its pod or its namespace is; others wait meanwhile.
const LOOKUP_MAX: Duration = Duration::from_secs(3);
/// News that wait to be taken; more wait at the API server.
const NEWS_MAX: usize = 256;
/// Annotations that a pod's capture goes by; others come and go without being looked at.
const ANNOTATIONS: [&str; 3] = ["ambient.istio.io/", "ambient.isthmus.io/", "istio.io/reroute-virtual-interfaces"];

/// A call of the plugin, and where its answer goes: whether the pod is in the mesh now, or why it cannot start.
pub struct Asked {
    pub event: Event,
    pub answer: oneshot::Sender<Result<bool, String>>,
}

/// The pods of one node.
pub struct Cluster {
    client: Client,
    node: String,
    selection: Selection,
    finder: Finder,
    asked: mpsc::Receiver<Asked>,
    own: Own,
    stay: watch::Sender<Stay>,
    news: Option<mpsc::Receiver<News>>,
    pods: BTreeMap<String, Facts>,
    namespaces: BTreeMap<String, Labels>,
    /// Pods that have a life, by uid.
    enrolled: BTreeMap<String, Enrolled>,
    /// While a list is read: what it named so far.
    listed: BTreeSet<String>,
    /// The mesh stays after all, though this agent has begun to leave.
    recalled: bool,
}

/// What the life of a pod was told.
struct Enrolled {
    annotation: Annotation,
    place: Place,
    told: PodFile,
}

/// Where a pod is, and whether its processes already ran when it was found there.
#[derive(Clone)]
struct Place {
    netns: PathBuf,
    interface: Option<String>,
    phase: Phase,
    /// As the runtime's plugins gave them: the API server knows them later, and until then may have those of a sandbox
    /// before. Empty where the plugin was not asked.
    ips: Vec<IpAddr>,
}

impl Place {
    fn running(found: Found) -> Place {
        Place { netns: found.path, interface: found.interface, phase: Phase::Running, ips: Vec::new() }
    }

    fn ips(&self, facts: &Facts) -> Vec<IpAddr> {
        if self.ips.is_empty() { facts.ips.clone() } else { self.ips.clone() }
    }
}

enum News {
    Pod(Seen<Facts>),
    Namespace(Seen<(String, Labels)>),
    /// Whether this agent is to leave.
    Leave(bool),
}

/// What matters of an object; `None` when there is nothing.
fn reduced<A, B>(event: Seen<A>, matters: impl Fn(A) -> Option<B>) -> Option<Seen<B>> {
    Some(match event {
        Seen::Apply(object) => Seen::Apply(matters(object)?),
        Seen::Delete(object) => Seen::Delete(matters(object)?),
        Seen::Init => Seen::Init,
        Seen::InitApply(object) => Seen::InitApply(matters(object)?),
        Seen::InitDone => Seen::InitDone,
    })
}

/// Whether the agents of a DaemonSet are to leave, where this says it.
fn ends(event: &Seen<DaemonSet>) -> Option<bool> {
    match event {
        Seen::Apply(set) | Seen::InitApply(set) => Some(is_leaving(set)),
        Seen::Delete(_) => Some(true),
        Seen::Init | Seen::InitDone => None,
    }
}

fn labelled(namespace: v1::Namespace) -> Option<(String, Labels)> {
    Some((namespace.metadata.name?, namespace.metadata.labels.unwrap_or_default()))
}

impl Cluster {
    pub fn new(
        client: Client,
        node: String,
        selection: Selection,
        finder: Finder,
        asked: mpsc::Receiver<Asked>,
        own: Own,
        stay: watch::Sender<Stay>,
    ) -> Cluster {
        Cluster {
            client,
            node,
            selection,
            finder,
            asked,
            own,
            stay,
            news: None,
            pods: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            enrolled: BTreeMap::new(),
            listed: BTreeSet::new(),
            recalled: false,
        }
    }

    /// All watches, for ever; a watch that fails is made anew, and what is known stays.
    fn watch(&self) -> mpsc::Receiver<News> {
        let (tell, told) = mpsc::channel(NEWS_MAX);
        let of_node = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node));
        let pods = watcher(Api::<v1::Pod>::all(self.client.clone()), of_node).default_backoff();
        let namespaces = watcher(Api::<v1::Namespace>::all(self.client.clone()), watcher::Config::default()).default_backoff();
        let mut all = vec![
            pods.map(|one| one.map(|event| reduced(event, |pod| Facts::of(&pod)).map(News::Pod))).boxed(),
            namespaces.map(|one| one.map(|event| reduced(event, labelled).map(News::Namespace))).boxed(),
        ];
        if let Some(name) = self.own.daemon_set() {
            let sets = Api::<DaemonSet>::namespaced(self.client.clone(), &self.own.namespace);
            let own = watcher::Config::default().fields(&format!("metadata.name={name}"));
            let own = watcher(sets, own).default_backoff();
            all.push(own.map(|one| one.map(|event| ends(&event).map(News::Leave))).boxed());
        }
        let mut all = select_all(all);
        tokio::spawn(async move {
            while let Some(next) = all.next().await {
                match next {
                    Ok(None) => {} // nothing that matters
                    Ok(Some(news)) => {
                        if tell.send(news).await.is_err() {
                            return; // the agent is ending
                        }
                    }
                    Err(error) => tracing::warn!(%error, "a watch of the API server failed, trying again; pods stay as they are"),
                }
            }
        });
        told
    }

    /// What is to be looked at again because of it: one pod, those of a namespace, or all.
    fn take(&mut self, news: News) -> Look {
        match news {
            News::Pod(Seen::Apply(facts)) => {
                let uid = facts.uid.clone();
                self.pods.insert(uid.clone(), facts);
                Look::Pod(uid)
            }
            News::Pod(Seen::Delete(facts)) => {
                self.pods.remove(&facts.uid);
                Look::Pod(facts.uid)
            }
            News::Pod(Seen::Init) => {
                self.listed.clear();
                Look::None
            }
            News::Pod(Seen::InitApply(facts)) => {
                self.listed.insert(facts.uid.clone());
                self.pods.insert(facts.uid.clone(), facts);
                Look::None
            }
            News::Pod(Seen::InitDone) => {
                let listed = std::mem::take(&mut self.listed);
                self.pods.retain(|uid, _| listed.contains(uid));
                Look::All
            }
            News::Namespace(Seen::Apply((name, labels)) | Seen::InitApply((name, labels))) => {
                self.namespaces.insert(name.clone(), labels);
                Look::Namespace(name)
            }
            News::Namespace(Seen::Delete((name, _))) => {
                // Its pods go one by one; until then they are what they were.
                self.namespaces.remove(&name);
                Look::None
            }
            News::Namespace(Seen::Init | Seen::InitDone) => Look::None,
            News::Leave(leave) => {
                let now = *self.stay.borrow();
                if leave && !now.is_over() {
                    tracing::info!("the mesh is leaving this cluster: the node's pods are released");
                    self.stay.send_replace(now.ended());
                    return Look::All;
                }
                self.recalled |= !leave && now.is_over();
                Look::None
            }
        }
    }

    fn look(&mut self, look: Look, lives: &mut Lives, seen: Option<&mpsc::Sender<()>>) {
        lives.node().leaving.store(self.stay.borrow().is_over(), SeqCst);
        let uids: Vec<String> = match look {
            Look::None => return,
            Look::Pod(uid) => vec![uid],
            Look::Namespace(name) => self.pods.values().filter(|pod| pod.namespace == name).map(|pod| pod.uid.clone()).collect(),
            Look::All => self.pods.keys().chain(self.enrolled.keys()).cloned().collect::<BTreeSet<_>>().into_iter().collect(),
        };
        let mut processes = None; // looked at when the first needs it, and once for all
        for uid in uids {
            self.settle(&uid, lives, seen, &mut processes);
        }
    }

    /// Brings one pod's life to what the API server says.
    fn settle(&mut self, uid: &str, lives: &mut Lives, seen: Option<&mpsc::Sender<()>>, processes: &mut Option<Processes>) {
        let Some(facts) = self.pods.get(uid).cloned() else {
            if self.enrolled.remove(uid).is_some() {
                lives.ended(uid);
            }
            return;
        };
        // A namespace that the watch has not told yet: nothing is decided, neither way.
        let Some(namespace) = self.namespaces.get(&facts.namespace) else { return };
        let decision = self.decide(&facts, namespace);
        if let Some(enrolled) = self.enrolled.get_mut(uid) {
            // Once it was enrolled its processes run: should it leave and come back, it is not closed by a guard.
            let stands = enrolled.annotation.state();
            if matches!(stands, Some(State::Enabled | State::Releasing | State::Released)) {
                enrolled.place.phase = Phase::Running;
            }
            if facts.terminal {
                self.enrolled.remove(uid);
                lives.ended(uid);
                return;
            }
            let place = enrolled.place.clone();
            // A sandbox that was made anew where we were not asked, or one that never came to be, is looked for.
            let ips = place.ips(&facts);
            let place = if ips.is_empty() || self.finder.belongs(&place.netns, &ips) { Some(place) } else { self.find(&facts, processes) };
            if let Some(place) = place {
                self.tell(&facts, decision, place, lives, seen);
            }
            return;
        }
        let marked = facts.annotations.contains_key(REDIRECTION);
        if decision != Decision::Enrol && !marked || facts.host_network || facts.terminal || facts.ips.is_empty() {
            return; // not ours and never was; or there is no sandbox yet, and the plugin will tell of it
        }
        if let Some(place) = self.find(&facts, processes) {
            self.tell(&facts, decision, place, lives, seen);
        }
    }

    fn decide(&self, facts: &Facts, namespace: &Labels) -> Decision {
        if self.stay.borrow().is_over() { Decision::LeaveOut(Why::Leaving) } else { self.selection.decide(facts, namespace) }
    }

    /// Whether nothing of the mesh is left to be undone.
    fn has_left(&self) -> bool {
        let out = |one: &Enrolled| matches!(one.annotation.state(), Some(State::Released | State::Refused));
        *self.stay.borrow() == Stay::Unplugged && self.enrolled.values().all(out)
    }

    /// Pods that are not to be in the mesh, with rules of an earlier agent, which ended while it released them.
    fn left_behind(&self) -> JoinHandle<Vec<(String, Place)>> {
        let out = |pod: &&Facts| !self.enrolled.contains_key(&pod.uid) && !pod.host_network && !pod.terminal && !pod.ips.is_empty();
        let pods: Vec<Facts> = self.pods.values().filter(out).cloned().collect();
        let finder = self.finder.clone();
        tokio::task::spawn_blocking(move || {
            let processes = finder.processes().unwrap_or_default();
            let left = |facts: Facts| {
                let found = finder.find(&processes, &facts.runtime_uid, &facts.ips)?;
                let has_rules = finder.place(Netns::open(&found.path).ok()?).exempt().ok()?.is_some();
                has_rules.then(|| (facts.uid, Place::running(found)))
            };
            pods.into_iter().filter_map(left).collect()
        })
    }

    /// Where a pod is that runs already.
    fn find(&self, facts: &Facts, processes: &mut Option<Processes>) -> Option<Place> {
        let processes = processes.get_or_insert_with(|| {
            self.finder.processes().unwrap_or_else(|error| {
                tracing::warn!(%error, proc = %self.finder.proc.display(), "cannot look at the node's processes; pods that run already are not found");
                Processes::default()
            })
        });
        let Some(found) = self.finder.find(processes, &facts.runtime_uid, &facts.ips) else {
            tracing::debug!(uid = facts.uid, pod = facts.name, namespace = facts.namespace, "a pod's network namespace is not found (yet)");
            return None;
        };
        Some(Place::running(found))
    }

    fn let_go(&mut self, uid: &str, place: Place, lives: &mut Lives) {
        let Some(facts) = self.pods.get(uid).filter(|_| !self.enrolled.contains_key(uid)).cloned() else { return };
        let Some(namespace) = self.namespaces.get(&facts.namespace) else { return };
        let decision = self.decide(&facts, namespace);
        tracing::info!(uid, pod = facts.name, namespace = facts.namespace, "rules of an earlier agent are in a pod that is not of the mesh");
        self.tell(&facts, decision, place, lives, None);
    }

    /// Tells the pod's life, unless it was told just that.
    fn tell(&mut self, facts: &Facts, decision: Decision, place: Place, lives: &mut Lives, seen: Option<&mpsc::Sender<()>>) {
        let pod = described(facts, decision, &place);
        if let Some(enrolled) = self.enrolled.get_mut(&facts.uid)
            && enrolled.place.netns == place.netns
        {
            if enrolled.told != pod {
                lives.wanted(Report::Annotation(enrolled.annotation.clone()), Box::new(pod.clone()), seen);
                enrolled.told = pod;
            }
            return;
        }
        let annotation = Annotation::of(&self.client, facts, &self.node);
        lives.wanted(Report::Annotation(annotation.clone()), Box::new(pod.clone()), seen);
        self.enrolled.insert(facts.uid.clone(), Enrolled { annotation, place, told: pod });
    }

    /// A sandbox was made: the pod is to be in the mesh before it starts, or not at all.
    async fn sandbox(&mut self, asked: Asked, lives: &mut Lives) {
        let event = asked.event;
        let known = timeout(LOOKUP_MAX, async {
            let facts = self.named(&event).await?;
            let namespace = self.labels_of(&facts.namespace).await?;
            Ok((facts, namespace))
        });
        let known = known.await.unwrap_or_else(|_late| Err(format!("the API server did not answer in {} s", LOOKUP_MAX.as_secs())));
        let (facts, namespace) = match known {
            Ok(known) => known,
            Err(why) => return drop(asked.answer.send(Err(why))), // whoever asked may have given up
        };
        let decision = self.decide(&facts, &namespace);
        if decision != Decision::Enrol {
            tracing::debug!(uid = facts.uid, pod = facts.name, ?decision, "a pod starts outside of the mesh");
            return drop(asked.answer.send(Ok(false)));
        }
        let ips = event.addresses();
        let path = self.finder.seen(event.netns.as_ref());
        let Some(found) = self.finder.belonging(path.clone(), &ips) else {
            let text = format!("{} is no network namespace with an address of {ips:?}; are the runtime's namespaces mounted into the agent?", path.display());
            return drop(asked.answer.send(Err(text)));
        };
        self.pods.entry(facts.uid.clone()).or_insert_with(|| facts.clone());
        let place = Place { netns: found.path, interface: found.interface, phase: Phase::Starting, ips };
        self.tell(&facts, decision, place, lives, None);
        let Some(enrolled) = self.enrolled.get(&facts.uid) else { return };
        let (mut said, node, uid) = (enrolled.annotation.said(), lives.node().clone(), facts.uid);
        tokio::spawn(async move {
            let enabled = timeout(ENROL_MAX, said.wait_for(|said| said.as_ref().is_some_and(|said| said.state == State::Enabled))).await;
            let answer = match enabled {
                Ok(Ok(_)) => Ok(true),
                _ => {
                    let standing = node.standing().get(&uid).map(|standing| standing.reason.clone());
                    Err(standing.filter(|reason| !reason.is_empty()).unwrap_or_else(|| "its enrolment takes too long".to_owned()))
                }
            };
            let _ = asked.answer.send(answer);
        });
    }

    /// The pod that the runtime speaks of. The watch may not have told of it yet; then the API server is asked.
    async fn named(&self, event: &Event) -> Result<Facts, String> {
        let is_it = |pod: &&Facts| {
            pod.name == event.pod_name
                && pod.namespace == event.pod_namespace
                && (event.pod_uid.is_empty() || pod.runtime_uid == event.pod_uid)
        };
        if let Some(known) = self.pods.values().find(is_it) {
            return Ok(known.clone());
        }
        let api: Api<v1::Pod> = Api::namespaced(self.client.clone(), &event.pod_namespace);
        let pod = api.get(&event.pod_name).await.map_err(|error| format!("the API server was asked for the pod: {error}"))?;
        let facts = Facts::of(&pod).ok_or("the API server sent a pod without uid")?;
        match is_it(&&facts) {
            true => Ok(facts),
            false => Err(format!("the API server knows another pod of that name, with uid {}", facts.uid)),
        }
    }

    async fn labels_of(&self, namespace: &str) -> Result<Labels, String> {
        if let Some(labels) = self.namespaces.get(namespace) {
            return Ok(labels.clone());
        }
        let api: Api<v1::Namespace> = Api::all(self.client.clone());
        let namespace = api.get(namespace).await.map_err(|error| format!("the API server was asked for the namespace: {error}"))?;
        Ok(namespace.metadata.labels.unwrap_or_default())
    }

    /// Takes the annotation from all pods that have it: the mesh is removed.
    pub async fn take_annotations(client: Client, node: &str) -> anyhow::Result<usize> {
        let pods: Api<v1::Pod> = Api::all(client.clone());
        let of_node = kube::api::ListParams::default().fields(&format!("spec.nodeName={node}"));
        let mut taken = 0;
        for pod in pods.list(&of_node).await.context("cannot list the node's pods")? {
            let Some(facts) = Facts::of(&pod).filter(|facts| facts.annotations.contains_key(REDIRECTION)) else { continue };
            let annotation = Annotation::of(&client, &facts, node);
            annotation.say(State::Released, "");
            annotation.written().await;
            taken += 1;
        }
        Ok(taken)
    }
}

enum Look {
    None,
    Pod(String),
    Namespace(String),
    All,
}

/// What a pod's life is told: only what its capture goes by, so that other changes wake nobody.
fn described(facts: &Facts, decision: Decision, place: &Place) -> PodFile {
    let captured_by = |key: &str| key != REDIRECTION && ANNOTATIONS.iter().any(|prefix| key.starts_with(prefix));
    let annotations = facts.annotations.iter().filter(|(key, _)| captured_by(key));
    PodFile {
        uid: facts.uid.clone(),
        name: facts.name.clone(),
        namespace: facts.namespace.clone(),
        service_account: facts.service_account.clone(),
        netns: place.netns.clone(),
        ips: place.ips(facts),
        host_interface: place.interface.clone(),
        labels: mode(decision),
        annotations: annotations.map(|(key, value)| (key.clone(), value.clone())).collect(),
        phase: place.phase,
        host_network: facts.host_network,
    }
}

impl Source for Cluster {
    async fn first(&mut self, lives: &mut Lives, seen: &mpsc::Sender<()>) -> anyhow::Result<()> {
        let mut news = self.watch();
        let (mut pods, mut namespaces) = (false, false);
        while !(pods && namespaces) {
            let one = news.recv().await.context("the watches of the API server ended")?;
            pods |= matches!(one, News::Pod(Seen::InitDone));
            namespaces |= matches!(one, News::Namespace(Seen::InitDone));
            self.take(one);
        }
        self.news = Some(news);
        self.look(Look::All, lives, Some(seen));
        tracing::info!(node = self.node, pods = self.pods.len(), enrolled = self.enrolled.len(), "the pods of the node are known");
        Ok(())
    }

    async fn follow(&mut self, lives: &mut Lives) -> anyhow::Result<Infallible> {
        let mut news = self.news.take().context("the watches were not begun")?;
        let mut resync = interval(RESYNC_EVERY);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut farewell = interval(FAREWELL_EVERY);
        farewell.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut said = false;
        let (mut left_behind, mut looked) = (self.left_behind(), false);
        loop {
            tokio::select! {
                asked = self.asked.recv() => match asked {
                    Some(asked) => self.sandbox(asked, lives).await,
                    None => anyhow::bail!("the plugin's socket is closed"),
                },
                one = news.recv() => {
                    let look = self.take(one.context("the watches of the API server ended")?);
                    self.look(look, lives, None);
                    anyhow::ensure!(!self.recalled, "the mesh stays after all: this agent starts anew");
                }
                left = &mut left_behind, if !looked => {
                    looked = true;
                    left?.into_iter().for_each(|(uid, place)| self.let_go(&uid, place, lives));
                }
                _ = resync.tick() => self.look(Look::All, lives, None),
                _ = farewell.tick(), if !said && self.has_left() => match self.own.say_left(&self.client).await {
                    Ok(()) => {
                        said = true;
                        tracing::info!("nothing of the mesh is left on this node; waiting to be removed");
                    }
                    Err(error) => tracing::warn!(%error, "cannot say that this agent has left, trying again"),
                },
            }
        }
    }
}

