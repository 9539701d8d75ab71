//! What all pods of a node share, and the agent itself: pods come from a source, each has a life of its own
//! ([`crate::life`]), and node daemons are told of them by ZDS.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::Context;
use mesh_net::netns::Netns;
use mesh_runtime::signal::Signals;
use mesh_zds::agent::{Agent as Zds, Announcement, Daemons, Pods, Undone};
use serde::Serialize;
use tokio::sync::{mpsc, watch as channel};

use crate::apply::{Error, Place};
use crate::host::{self, ProbeSender};
use crate::lives::{Lives, Source};
use crate::metrics::Metrics;
use crate::podfile::PodFile;
use crate::rules::Rules;
use crate::netlink;
use crate::status::State;
use crate::watch;

/// What the operator sets.
#[derive(Clone, Debug)]
pub struct Settings {
    pub zds_socket: PathBuf,
    /// Whether DNS is captured where a pod does not say.
    pub dns: bool,
    /// Who probes pods from the node; nobody is exempt without.
    pub probes: Option<ProbeSender>,
    /// Where settings of network namespaces can be written: [`crate::apply::SYSCTLS`], mostly.
    pub sysctls: PathBuf,
}

/// What all pods share.
#[derive(Debug)]
pub struct Node {
    /// The namespace of this process.
    pub home: Netns,
    /// The node's, where the kubelet is: mostly the same.
    pub host: Netns,
    pub settings: Settings,
    pub zds: Zds,
    /// A daemon with the fixed mark is connected.
    pub fixed: Arc<AtomicBool>,
    /// The pods that were there at the start are in force, and daemons are being told of them.
    pub serving: AtomicBool,
    /// The mesh is being removed.
    pub leaving: AtomicBool,
    /// How each pod stands, by uid.
    standing: Mutex<BTreeMap<String, Standing>>,
    known: Mutex<BTreeMap<String, Known>>,
    pub metrics: Metrics,
    /// One host table at a time; how it looked after it was last written.
    probing: Arc<Mutex<String>>,
}

/// How a pod stands, for the operator's page.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    pub name: String,
    pub namespace: String,
    pub state: State,
    pub reason: String,
    pub older_connections: usize,
    pub repairs: u64,
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
    /// Without `/proc`. `host`: the node's namespace, where this process is in another.
    pub fn new(settings: Settings, host: Option<Netns>) -> anyhow::Result<Node> {
        let home = Netns::current().context("cannot open this process's own network namespace")?;
        Ok(Node {
            host: host.unwrap_or_else(|| home.clone()),
            home,
            settings,
            zds: Zds::default(),
            fixed: Arc::default(),
            serving: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            standing: Mutex::default(),
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

    /// The node's own namespace.
    fn place(&self) -> Place {
        self.place_in(self.host.clone())
    }

    /// A pod's.
    pub fn place_in(&self, within: Netns) -> Place {
        Place { home: self.home.clone(), within, sysctls: self.settings.sysctls.clone() }
    }

    /// How each pod stands, by uid.
    pub fn standing(&self) -> MutexGuard<'_, BTreeMap<String, Standing>> {
        self.standing.lock().expect("no code that holds this lock can panic")
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
pub async fn run(node: Arc<Node>, source: impl Source, signals: &mut Signals) -> anyhow::Result<()> {
    node.probe().await.map_err(anyhow::Error::msg)?;
    tokio::select! {
        ended = serve(node, source) => match ended? {},
        asked = signals.next() => {
            tracing::info!(?asked, "leaving; the rules of enrolled pods stay in force");
            Ok(())
        }
    }
}

async fn serve(node: Arc<Node>, mut source: impl Source) -> anyhow::Result<Infallible> {
    let mut lives = Lives::new(node.clone());
    // Pods that are there already come first: a daemon drains whatever the snapshot does not name.
    let (seen, mut all_seen) = mpsc::channel(1);
    source.first(&mut lives, &seen).await?;
    drop(seen);
    while all_seen.recv().await.is_some() {}

    let socket = node.settings.zds_socket.clone();
    let serving = node.zds.serve(&socket, node.clone());
    let following = source.follow(&mut lives);
    let mut daemons = node.zds.daemons();
    let remarking = async {
        while daemons.changed().await.is_ok() {
            let now = *daemons.borrow_and_update();
            node.remark(now).await;
        }
    };
    let monitors = match node.host.run(&node.home, netlink::tables_monitor) {
        Ok(monitor) => vec![monitor],
        Err(error) => {
            tracing::warn!(%error, "cannot hear of changes to the node's rules, looking at them every few seconds");
            vec![]
        }
    };
    let repairing = watch::over(monitors, || node.reprobe());
    node.serving.store(true, SeqCst);
    tokio::select! {
        served = serving => served.context("cannot serve ZDS"),
        followed = following => followed,
        () = repairing => unreachable!("it never ends"),
        () = remarking => unreachable!("the node holds the sender"),
    }
}
