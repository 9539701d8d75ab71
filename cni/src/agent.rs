//! All pods of a node: reads the folder that announces them, gives each a life of its own ([`crate::life`]), and serves
//! ZDS to the node daemon.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::Context;
use mesh_net::netns::Netns;
use mesh_runtime::signal::Signals;
use mesh_zds::agent::{Agent as Zds, Announcement, Daemons, Pods, Undone};
use tokio::sync::{mpsc, watch as channel};

use crate::apply::{Error, Place};
use crate::folder::{Event, Folder};
use crate::host::{self, ProbeSender};
use crate::life::{self, Desired};
use crate::metrics::Metrics;
use crate::podfile::{PodFile, status_path};
use crate::rules::Rules;
use crate::netlink;
use crate::status::{self, Counts, State};
use crate::watch;

/// Between two looks at the folder: enrolment takes 30 ms, so this is most of a pod's wait. 100 files cost 0.2 ms.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What the operator sets.
#[derive(Clone, Debug)]
pub struct Settings {
    pub pods: PathBuf,
    pub zds_socket: PathBuf,
    /// Whether DNS is captured where a pod does not say.
    pub dns: bool,
    /// Who probes pods from the node; nobody is exempt without.
    pub probes: Option<ProbeSender>,
}

/// What all pods share.
#[derive(Debug)]
pub struct Node {
    pub home: Netns,
    pub settings: Settings,
    pub zds: Zds,
    /// A daemon with the fixed mark is connected.
    pub fixed: Arc<AtomicBool>,
    known: Mutex<BTreeMap<String, Known>>,
    pub metrics: Metrics,
    /// One host table at a time; how it looked after it was last written.
    probing: Arc<Mutex<String>>,
}

/// A pod that daemons are told of.
#[derive(Debug)]
struct Known {
    announcement: Announcement,
    rules: Arc<Rules>,
    ips: Vec<IpAddr>,
    /// The host's end of its link.
    interface: Option<String>,
    /// Wakes the pod's life when a daemon refused it.
    refused: channel::Sender<Option<Undone>>,
}

impl Node {
    /// # Errors
    /// Without `/proc`.
    pub fn new(settings: Settings) -> anyhow::Result<Node> {
        Ok(Node {
            home: Netns::current().context("cannot open this process's own network namespace")?,
            settings,
            zds: Zds::default(),
            fixed: Arc::default(),
            known: Mutex::default(),
            probing: Arc::default(),
            metrics: Metrics::default(),
        })
    }

    /// From now on daemons are told of this pod. The receiver changes when one refuses it.
    ///
    /// # Errors
    /// When its namespace is another pod's.
    pub fn know(
        &self,
        announcement: Announcement,
        rules: Arc<Rules>,
        pod: &PodFile,
    ) -> Result<channel::Receiver<Option<Undone>>, String> {
        let identity = announcement.netns.as_ref().map(Netns::identity);
        let mut known = self.known();
        let same = known
            .values()
            .find(|k| k.announcement.uid != announcement.uid && k.announcement.netns.as_ref().map(Netns::identity) == identity);
        if let Some(other) = same {
            return Err(format!("netns: it is the network namespace of pod {} already", other.announcement.uid));
        }
        let (refused, receiver) = channel::channel(None);
        let (ips, interface) = (pod.ips.clone(), pod.host_interface.clone());
        known.insert(pod.uid.clone(), Known { announcement, rules, ips, interface, refused });
        self.metrics.pods.set(known.len() as f64);
        Ok(receiver)
    }

    /// Daemons that connect later are told that this pod's rules are in force.
    pub fn captures(&self, uid: &str, captured: Option<Vec<RangeInclusive<u16>>>) {
        if let Some(known) = self.known().get_mut(uid) {
            known.announcement.captured = captured;
        }
    }

    /// Daemons that connect later are no longer told of it.
    pub fn forget(&self, uid: &str) {
        let mut known = self.known();
        known.remove(uid);
        self.metrics.pods.set(known.len() as f64);
    }

    /// Writes the node's table of probes anew.
    ///
    /// # Errors
    /// What nft says.
    pub async fn probe(&self) -> Result<(), String> {
        let Some(sender) = self.settings.probes.clone() else { return Ok(()) };
        let ips: Vec<IpAddr> = self.known().values().flat_map(|k| k.ips.clone()).collect();
        let (place, one) = (self.place(), self.probing.clone());
        let applied = tokio::task::spawn_blocking(move || {
            let mut listing = one.lock().expect("no code that holds this lock can panic");
            place.nft(&host::ruleset(&sender, &ips))?;
            *listing = place.listing("inet", host::TABLE)?;
            Ok::<_, Error>(())
        });
        applied.await.expect("it does not panic").map_err(|e| format!("cannot exempt the node's probes: {e}"))
    }

    /// Writes the node's tables anew if somebody else changed them. Whether all is as it should be now.
    async fn reprobe(&self) -> bool {
        if self.settings.probes.is_none() {
            return true;
        }
        let (place, one) = (self.place(), self.probing.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let listing = one.lock().expect("no code that holds this lock can panic");
            Ok::<_, Error>(place.listing("inet", host::TABLE)? == *listing)
        });
        match looked.await.expect("it does not panic") {
            Ok(true) => return true,
            Ok(false) => {}
            Err(error) => return self.unrepaired(&error.to_string()),
        }
        let interfaces: Vec<(String, String)> =
            self.known().iter().filter_map(|(uid, k)| Some((uid.clone(), k.interface.clone()?))).collect();
        for (uid, interface) in interfaces {
            if let Err(error) = self.at_home(host::interface_ruleset(&uid, &interface)).await {
                tracing::warn!(uid, interface, error, "cannot check what a pod's interface sends");
            }
        }
        if let Err(error) = self.probe().await {
            return self.unrepaired(&error);
        }
        tracing::warn!("somebody else had changed the node's rules about probes, they are in force again");
        self.metrics.repairs_of_node.increment(1);
        true
    }

    fn unrepaired(&self, error: &str) -> bool {
        tracing::error!(error, "somebody else has changed the node's rules about probes, and they cannot be put back");
        self.metrics.repairs_failed.increment(1);
        false
    }

    /// Applies rules of the node's own namespace.
    ///
    /// # Errors
    /// What nft says.
    pub async fn at_home(&self, ruleset: String) -> Result<(), String> {
        let place = self.place();
        tokio::task::spawn_blocking(move || place.nft(&ruleset)).await.expect("it does not panic").map_err(|e| e.to_string())
    }

    fn place(&self) -> Place {
        Place { home: self.home.clone(), within: self.home.clone() }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().expect("no code that holds this lock can panic")
    }

    /// Every pod's rules exempt the marks of these daemons when this returns.
    async fn remark(&self, daemons: Daemons) {
        self.metrics.daemons.set(daemons.count as f64);
        self.fixed.store(daemons.fixed_mark, SeqCst);
        let all: Vec<(String, Arc<Rules>)> = self.known().iter().map(|(uid, k)| (uid.clone(), k.rules.clone())).collect();
        for (uid, rules) in all {
            if let Err(error) = tokio::task::spawn_blocking(move || rules.remark()).await.expect("it does not panic") {
                tracing::warn!(uid, %error, "cannot change which marks are exempt in a pod");
            }
        }
    }
}

impl Pods for Node {
    async fn snapshot(&self, daemons: Daemons) -> Vec<Announcement> {
        self.remark(daemons).await;
        self.known().values().map(|k| k.announcement.clone()).collect()
    }

    fn answered(&self, uid: &str, done: Result<(), Undone>) {
        if let (Err(undone), Some(known)) = (done, self.known().get(uid)) {
            tracing::warn!(uid, %undone, "a node daemon does not serve a pod of its snapshot");
            known.refused.send_replace(Some(undone));
        }
    }
}

/// Runs until SIGTERM or SIGINT. Rules stay in place: captured pods fail closed until the next run takes over.
///
/// # Errors
/// What keeps it from starting, or from going on.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut signals = Signals::install().context("cannot listen for signals")?;
    let folder = settings.pods.clone();
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder of pods {}", folder.display()))?;
    let node = Arc::new(Node::new(settings)?);
    node.probe().await.map_err(anyhow::Error::msg)?;
    tokio::select! {
        ended = serve(node, &folder) => match ended? {},
        asked = signals.next() => {
            tracing::info!(?asked, "leaving; the rules of enrolled pods stay in force");
            Ok(())
        }
    }
}

async fn serve(node: Arc<Node>, folder: &Path) -> anyhow::Result<Infallible> {
    let mut lives = Lives { node: node.clone(), by_uid: BTreeMap::new(), by_path: BTreeMap::new() };
    let mut folder = Folder::new(folder);

    // Pods that are there already come first: a daemon drains whatever the snapshot does not name.
    let (seen, mut all_seen) = mpsc::channel(1);
    lives.take(folder.changes().context("cannot read the folder of pods")?, Some(&seen));
    drop(seen);
    while all_seen.recv().await.is_some() {}

    let socket = node.settings.zds_socket.clone();
    let serving = node.zds.serve(&socket, node.clone());
    let looking = async {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match folder.changes() {
                Ok(events) => lives.take(events, None),
                Err(error) => tracing::warn!(%error, "cannot read the folder of pods, pods stay as they are"),
            }
        }
    };
    let mut daemons = node.zds.daemons();
    let remarking = async {
        while daemons.changed().await.is_ok() {
            let now = *daemons.borrow_and_update();
            node.remark(now).await;
        }
    };
    let monitors = match netlink::tables_monitor() {
        Ok(monitor) => vec![monitor],
        Err(error) => {
            tracing::warn!(%error, "cannot hear of changes to the node's rules, looking at them every few seconds");
            vec![]
        }
    };
    let repairing = watch::over(monitors, || node.reprobe());
    tokio::select! {
        served = serving => served.context("cannot serve ZDS"),
        () = repairing => unreachable!("it never ends"),
        () = looking => unreachable!("it never ends"),
        () = remarking => unreachable!("the node holds the sender"),
    }
}

/// The lives of pods, and which file speaks for which.
struct Lives {
    node: Arc<Node>,
    by_uid: BTreeMap<String, channel::Sender<Desired>>,
    by_path: BTreeMap<PathBuf, String>,
}

impl Lives {
    /// `seen` is held by each new life until daemons may be told of its pod.
    fn take(&mut self, events: Vec<Event>, seen: Option<&mpsc::Sender<()>>) {
        self.by_uid.retain(|_, life| !life.is_closed());
        for event in events {
            match event {
                Event::Removed(path) => self.gone(&path),
                Event::Changed(path, Ok(pod)) => self.wanted(path, pod, seen),
                Event::Changed(path, Err(reason)) => self.broken(&path, reason),
            }
        }
    }

    fn gone(&mut self, path: &Path) {
        match self.by_path.remove(path).and_then(|uid| self.by_uid.get(&uid)) {
            Some(life) => drop(life.send_replace(Desired::Gone)),
            None => drop(std::fs::remove_file(status_path(path))), // of a file that never was a pod
        }
    }

    fn wanted(&mut self, path: PathBuf, pod: Box<PodFile>, seen: Option<&mpsc::Sender<()>>) {
        if self.by_path.get(&path).is_some_and(|uid| *uid != pod.uid) {
            self.gone(&path); // another pod took the name
        }
        if let Some((other, _)) = self.by_path.iter().find(|(other, uid)| **uid == pod.uid && **other != path) {
            let reason = format!("uid: {} is announced by {} already", pod.uid, other.display());
            return self.broken(&path, reason);
        }
        self.by_path.insert(path.clone(), pod.uid.clone());
        let uid = pod.uid.clone();
        let desired = Desired::Wanted(path, pod);
        match self.by_uid.get(&uid) {
            Some(life) => drop(life.send_replace(desired)),
            None => {
                let (sender, receiver) = channel::channel(desired);
                tokio::spawn(life::live(self.node.clone(), uid.clone(), receiver, seen.cloned()));
                self.by_uid.insert(uid, sender);
            }
        }
    }

    fn broken(&mut self, path: &Path, reason: String) {
        tracing::warn!(reason, "a pod file is refused");
        match self.by_path.get(path).and_then(|uid| self.by_uid.get(uid)) {
            Some(life) => drop(life.send_replace(Desired::Broken(reason))),
            None => {
                if let Err(error) = status::write(&status_path(path), "", State::Refused, &reason, Counts::default()) {
                    tracing::warn!(%error, path = %path.display(), "cannot write a status file");
                }
            }
        }
    }
}
