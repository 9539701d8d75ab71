//! One pod, from its announcement to its end: enrolled in the order that lets no request fail (design decision 13),
//! kept as its file says, released.

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use mesh_net::netns::Netns;
use mesh_net::tcp_table::Flow;
use mesh_runtime::Backoff;
use mesh_zds::agent::{Announcement, Undone};
use mesh_zds::messages::WorkloadInfo;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::agent::{Node, Standing};
use crate::apply::Error;
use crate::host;
use crate::pod::{Scope, Wanted, wanted};
use crate::podfile::{Phase, PodFile};
use crate::report::Report;
use crate::rules::{Found, Rules};
use crate::status::{Counts, State};
use crate::watch::over_pod;

/// The first and the longest wait before a pod is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often ended older connections are forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Between saying that a pod leaves and capturing no more: the controller tells its peers in that time.
const RELEASE_NOTICE: Duration = Duration::from_secs(5);
/// How often a leaving pod's connections are counted, and the longest wait for their end.
const DRAIN_LOOK_EVERY: Duration = Duration::from_secs(1);
const DRAIN_MAX: Duration = Duration::from_secs(3600);

/// The reason of a pod that is on its ordinary way into the mesh.
pub const ENROLLING: &str = "being enrolled";

/// What its source says of a pod.
#[derive(Clone, Debug)]
pub enum Desired {
    Wanted(Report, Box<PodFile>),
    /// What its source says cannot be understood (any more): the pod stays as it is.
    Broken(String),
    /// It is to leave the mesh; whether it lives on is told by its namespace.
    Gone,
    /// Its processes have ended.
    Ended,
}

impl Desired {
    /// Whether a release that goes on is pointless: the pod is to be in the mesh again, or it has ended.
    fn overtakes_release(&self, dns: bool) -> bool {
        match self {
            Desired::Wanted(_, pod) => matches!(wanted(pod, dns), Ok(Wanted::Enrolled(_))),
            Desired::Broken(_) | Desired::Gone => false,
            Desired::Ended => true,
        }
    }
}

/// Runs one pod's life; ends when the pod's file is gone and nothing of ours is left in the pod.
pub async fn live(node: Arc<Node>, uid: String, mut desired: watch::Receiver<Desired>, mut unseen: Option<mpsc::Sender<()>>) {
    let mut life = Life { node, uid, report: None, named: (String::new(), String::new()), enrolled: None, was_enabled: false, older: 0, note: String::new() };
    let mut retry = Backoff::new(RETRY.0, RETRY.1);
    while desired.has_changed().is_ok() {
        // else the agent is ending
        let now = desired.borrow_and_update().clone();
        let settled = match now {
            Desired::Wanted(report, pod) => life.follow(report, &pod, &mut desired, &mut unseen).await,
            Desired::Broken(reason) => {
                life.refuse(reason);
                Ok(())
            }
            Desired::Gone | Desired::Ended => {
                life.release(&mut desired).await;
                if let Desired::Gone | Desired::Ended = *desired.borrow() {
                    return life.end();
                }
                continue;
            }
        };
        unseen = None; // whatever came of it, the first look is over
        match settled {
            Ok(()) => {
                retry.reset();
                life.rest(&mut desired).await;
            }
            Err(reason) => {
                life.node.metrics.retries.increment(1);
                life.say(life.standing(), &reason);
                let wait = retry.next(&mut rand::rng());
                let _ = timeout(wait, desired.changed()).await; // whichever comes first
            }
        }
    }
}

struct Life {
    node: Arc<Node>,
    uid: String,
    report: Option<Report>,
    /// Its name and namespace.
    named: (String, String),
    enrolled: Option<Enrolled>,
    /// An earlier run had enrolled it: while this one takes over, it is captured and served as before.
    was_enabled: bool,
    older: usize,
    /// What is wrong with the file that the pod does not follow.
    note: String,
}

struct Enrolled {
    /// Every step of the enrolment is done.
    complete: bool,
    rules: Arc<Rules>,
    scope: Scope,
    pod: PodFile,
    refused: watch::Receiver<Option<Undone>>,
    /// A daemon refused it since it last was acknowledged, or was not told what is captured now.
    unserved: bool,
    /// How often others' changes were put back.
    repairs: watch::Receiver<u64>,
    /// Puts back what others change.
    _watch: AbortOnDropHandle<()>,
}

impl Enrolled {
    /// Whether its namespace is still the pod's.
    fn is_there(&self) -> bool {
        netns_of(&self.pod).is_ok_and(|now| now.identity() == self.rules.namespace())
    }
}

impl Life {
    /// Brings the pod to where its file wants it. An error is worth another try.
    async fn follow(
        &mut self,
        report: Report,
        pod: &PodFile,
        desired: &mut watch::Receiver<Desired>,
        unseen: &mut Option<mpsc::Sender<()>>,
    ) -> Result<(), String> {
        self.report = Some(report);
        self.named = (pod.name.clone(), pod.namespace.clone());
        let scope = match wanted(pod, self.node.settings.dns) {
            Ok(Wanted::Enrolled(scope)) => scope,
            Ok(Wanted::NotEnrolled) => {
                self.find_left(pod).await?;
                self.release(desired).await;
                self.say(State::Released, "");
                return Ok(());
            }
            Err(reason) => {
                self.refuse(reason);
                return Ok(());
            }
        };
        self.note.clear();
        let same = match &self.enrolled {
            Some(enrolled) => netns_of(pod)?.identity() == enrolled.rules.namespace(),
            None => false,
        };
        if !same {
            self.drop_at_once().await; // the pod got another namespace: the old one's rules are not its own any more
        }
        if same && self.complete() {
            self.keep(pod, scope, desired).await?;
        } else {
            self.enrol(pod, scope, desired, unseen).await?;
        }
        self.say(State::Enabled, "");
        Ok(())
    }

    /// A pod that is enrolled, and whose file changed, or whom a daemon refused lately.
    async fn keep(&mut self, pod: &PodFile, scope: Scope, desired: &mut watch::Receiver<Desired>) -> Result<(), String> {
        let Some(enrolled) = &mut self.enrolled else { return Ok(()) };
        let rules = enrolled.rules.clone();
        let announcement = announcement(pod, &rules, netns_of(pod)?, captured_inbound(&scope));
        if enrolled.scope != scope {
            let older = blocking(&rules, Rules::bypassing).await?; // what was not captured lives on
            capture(&self.node, &rules, scope.clone(), older).await?;
            enrolled.unserved |= announcement.captured != captured_inbound(&enrolled.scope);
            enrolled.scope = scope;
        }
        if enrolled.pod != *pod {
            enrolled.refused = self.node.know(announcement.clone(), rules, pod)?;
            enrolled.pod = pod.clone();
            self.probes(pod).await?;
        }
        if self.enrolled.as_ref().is_some_and(|e| e.unserved) {
            self.announce(announcement, desired).await?;
        }
        if let Some(enrolled) = &mut self.enrolled {
            enrolled.unserved = false;
        }
        Ok(())
    }

    /// Rules that an earlier run left in a pod that is not to be enrolled: there is something to release.
    async fn find_left(&mut self, pod: &PodFile) -> Result<(), String> {
        if self.enrolled.is_some() {
            return Ok(());
        }
        let netns = netns_of(pod)?;
        let (rules, found) = self.adopt(&netns).await?;
        if found != Found::Nothing {
            self.was_enabled = true;
            let Ok(Wanted::Enrolled(scope)) = wanted(&PodFile { labels: [].into(), ..pod.clone() }, self.node.settings.dns)
            else {
                return Ok(());
            };
            let announced = announcement(pod, &rules, netns, captured_inbound(&scope));
            let refused = self.node.know(announced, rules.clone(), pod)?;
            self.enrolled = Some(Enrolled { complete: true, ..self.begun(rules, scope, pod, refused) });
        }
        Ok(())
    }

    async fn adopt(&self, netns: &Netns) -> Result<(Arc<Rules>, Found), String> {
        let place = self.node.place_in(netns.clone());
        let fixed = self.node.fixed.clone();
        let adopting = move || Rules::adopt(place, fixed, rand::random);
        let (rules, found) = tokio::task::spawn_blocking(adopting).await.expect("it does not panic").map_err(text)?;
        Ok((Arc::new(rules), found))
    }

    /// A starting pod: guard, rules, the daemon's acknowledgement, guard lifted. A running one: the acknowledgement,
    /// then all rules at once. One that an earlier run captured: its rules as they were, then the acknowledgement.
    async fn enrol(
        &mut self,
        pod: &PodFile,
        scope: Scope,
        desired: &mut watch::Receiver<Desired>,
        unseen: &mut Option<mpsc::Sender<()>>,
    ) -> Result<(), String> {
        let netns = netns_of(pod)?;
        if [self.node.home.identity(), self.node.host.identity()].contains(&netns.identity()) {
            return Err("netns: it is the node's own network namespace".to_owned());
        }
        let (rules, found) = self.adopt(&netns).await?;
        self.was_enabled |= matches!(found, Found::Captured { guarded: false, .. });
        self.say(self.standing(), ENROLLING);
        let acknowledged_first = match &found {
            Found::Nothing => pod.phase == Phase::Running,
            Found::Draining => true,
            Found::Captured { .. } => false,
        };
        let captured = captured_inbound(&scope);
        let in_force = if acknowledged_first { None } else { captured.clone() };
        let mut announced = announcement(pod, &rules, netns, in_force);
        let refused = self.node.know(announced.clone(), rules.clone(), pod)?;
        self.enrolled = Some(self.begun(rules.clone(), scope.clone(), pod, refused)); // from here on there is something to undo

        match (found, pod.phase) {
            (Found::Captured { older: Some(older), .. }, _) => capture(&self.node, &rules, scope, Some(older)).await?,
            (Found::Captured { older: None, .. }, _) => capture_running(&self.node, &rules, scope).await?,
            (Found::Nothing, Phase::Starting) => {
                blocking(&rules, Rules::guard).await?;
                capture(&self.node, &rules, scope, Some([].into())).await?;
            }
            (Found::Nothing, Phase::Running) | (Found::Draining, _) => {
                *unseen = None;
                self.announce(announced.clone(), desired).await?;
                capture_running(&self.node, &rules, scope).await?;
                announced.captured = captured.clone(); // from now on older connections are the daemon's to judge
                self.node.captures(&self.uid, captured);
            }
        }
        *unseen = None; // daemons may be told of it: its rules are in force
        self.announce(announced, desired).await?;
        blocking(&rules, Rules::unguard).await?; // also one that an earlier run left
        self.probes(pod).await?;
        self.older = blocking(&rules, Rules::sweep).await?;
        if let Some(enrolled) = &mut self.enrolled {
            enrolled.complete = true;
        }
        self.node.metrics.enrolled.increment(1);
        tracing::info!(uid = self.uid, pod = pod.name, namespace = pod.namespace, older = self.older, "enrolled");
        Ok(())
    }

    /// What there is to undo of a pod from the first step of its enrolment on, and its watch.
    fn begun(&self, rules: Arc<Rules>, scope: Scope, pod: &PodFile, refused: watch::Receiver<Option<Undone>>) -> Enrolled {
        let (counted, repairs) = watch::channel(0);
        let watch = over_pod(self.uid.clone(), rules.clone(), self.node.metrics.clone(), counted);
        let watch = AbortOnDropHandle::new(tokio::spawn(watch));
        Enrolled { complete: false, rules, scope, pod: pod.clone(), refused, unserved: false, repairs, _watch: watch }
    }

    /// Until a daemon serves the pod. An error when the pod is no longer wanted this way.
    async fn announce(&self, pod: Announcement, desired: &mut watch::Receiver<Desired>) -> Result<(), String> {
        let mut retry = Backoff::new(RETRY.0, RETRY.1);
        let mut daemons = self.node.zds.daemons();
        loop {
            daemons.borrow_and_update();
            let Err(undone) = self.node.zds.add(pod.clone()).await else { return Ok(()) };
            self.say(self.standing(), &undone.to_string());
            let wait = retry.next(&mut rand::rng());
            tokio::select! {
                () = sleep(wait) => {}
                _ = daemons.changed() => {}
                _ = desired.changed() => {
                    desired.mark_changed();
                    return Err(undone.to_string());
                }
            }
        }
    }

    async fn probes(&self, pod: &PodFile) -> Result<(), String> {
        if self.node.settings.probes.is_none() {
            return Ok(());
        }
        if let Some(interface) = &pod.host_interface {
            let ruleset = host::interface_ruleset(&pod.uid, interface);
            self.node.at_home(ruleset).await.map_err(|e| format!("hostInterface {interface}: {e}"))?;
        }
        self.node.probe().await
    }

    /// Until there is something to do: the file changed, or a daemon refused the pod.
    async fn rest(&mut self, desired: &mut watch::Receiver<Desired>) {
        loop {
            let Some(enrolled) = &mut self.enrolled else {
                let _ = desired.changed().await; // an error means that the agent is ending
                return;
            };
            tokio::select! {
                _ = desired.changed() => return,
                _ = enrolled.refused.changed() => {
                    enrolled.unserved = true;
                    return;
                }
                Ok(()) = enrolled.repairs.changed() => {} // else the watch ended, and only the agent ends it
                () = sleep(SWEEP_EVERY) => {}
            }
            let swept = blocking(&enrolled.rules.clone(), Rules::sweep).await;
            match swept {
                Ok(older) => {
                    self.older = older;
                    let reason = if self.note.is_empty() { self.daemon_missing() } else { &self.note };
                    self.say(self.state(), reason);
                }
                Err(error) => tracing::warn!(uid = self.uid, error, "cannot look at a pod's older connections"),
            }
        }
    }

    /// Out of the mesh. A pod that is gone is dropped at once; one that lives on is first said to leave, then captures
    /// nothing new, and loses its rules when the last connection has ended. Returns early when the pod is wanted again.
    async fn release(&mut self, desired: &mut watch::Receiver<Desired>) {
        self.was_enabled = false;
        let Some(enrolled) = self.enrolled.take() else {
            self.node.forget(&self.uid);
            return;
        };
        let ended = matches!(*desired.borrow(), Desired::Ended);
        let alive = !ended && enrolled.is_there();
        if alive {
            self.say(State::Releasing, "leaving the mesh: its peers are being told");
            let told = async {
                if let Some(report) = &self.report {
                    report.known().await;
                }
                sleep(RELEASE_NOTICE).await;
            };
            if self.overtaken(told, desired).await {
                self.enrolled = Some(enrolled);
                return;
            }
        }
        self.node.forget(&self.uid);
        if let Err(error) = self.node.probe().await {
            tracing::warn!(uid = self.uid, error, "a released pod's addresses stay in the node's table of probes");
        }
        if alive {
            if let Some(interface) = &enrolled.pod.host_interface
                && self.node.settings.probes.is_some()
                && let Err(error) = self.node.at_home(host::interface_removal(&self.uid)).await
            {
                tracing::debug!(uid = self.uid, interface, error, "the check of a released pod's interface stays");
            }
            let scope = enrolled.scope.clone();
            self.warn("stop the capture of", blocking(&enrolled.rules, move |r| r.drain(&scope)).await);
        }
        let told = self.node.zds.del(&self.uid, alive).await;
        self.warn("tell the node daemon of the end of", told.map_err(|e| e.to_string()));
        if alive {
            self.say(State::Releasing, "waiting for its connections to end");
            if self.overtaken(self.drained(&enrolled.rules), desired).await {
                return; // the next enrolment finds its rules, or nobody needs them
            }
            self.warn("remove the rules of", blocking(&enrolled.rules, Rules::remove).await);
        }
        self.node.metrics.released.increment(1);
        tracing::info!(uid = self.uid, pod = enrolled.pod.name, alive, "released");
    }

    /// Nothing of it is worth waiting for.
    async fn drop_at_once(&mut self) {
        let Some(enrolled) = self.enrolled.take() else { return };
        self.node.forget(&self.uid);
        let told = self.node.zds.del(&self.uid, false).await;
        self.warn("tell the node daemon of the end of", told.map_err(|e| e.to_string()));
        if enrolled.is_there() {
            self.warn("remove the rules of", blocking(&enrolled.rules, Rules::remove).await);
        }
    }

    /// Whether the release came to be pointless before this was done.
    async fn overtaken(&self, done: impl Future<Output = ()>, desired: &mut watch::Receiver<Desired>) -> bool {
        let dns = self.node.settings.dns;
        let overtaken = tokio::select! {
            biased;
            () = done => false,
            overtaken = desired.wait_for(|now| now.overtakes_release(dns)) => {
                drop(overtaken); // it holds the channel
                true
            }
        };
        if overtaken {
            desired.mark_changed();
        }
        overtaken
    }

    async fn drained(&self, rules: &Arc<Rules>) {
        let until = Instant::now() + DRAIN_MAX;
        while Instant::now() < until {
            match blocking(rules, Rules::carried).await {
                Ok(0) => return,
                Ok(_) => sleep(DRAIN_LOOK_EVERY).await,
                Err(error) => return self.warn("count the connections of", Err(error)),
            }
        }
    }

    fn warn(&self, what: &str, done: Result<(), String>) {
        if let Err(error) = done {
            tracing::warn!(uid = self.uid, error, "cannot {what} a released pod");
        }
    }

    fn complete(&self) -> bool {
        self.enrolled.as_ref().is_some_and(|e| e.complete)
    }

    /// The pod stays as it is.
    fn refuse(&mut self, reason: String) {
        self.say(self.state(), &reason);
        self.note = reason;
    }

    fn state(&self) -> State {
        if self.complete() { State::Enabled } else { State::Refused }
    }

    fn daemon_missing(&self) -> &'static str {
        match self.node.zds.daemons().borrow().count {
            0 => "captured, but no node daemon is connected to the ZDS socket; is ztunnel running?",
            _ => "",
        }
    }

    /// Between enrolment and the end of it, whatever is being tried.
    fn standing(&self) -> State {
        if self.complete() || self.was_enabled { State::Enabled } else { State::Pending }
    }

    fn end(&self) {
        if let Some(report) = &self.report {
            report.end(&self.uid);
        }
        self.node.standing().remove(&self.uid);
    }

    fn say(&self, state: State, reason: &str) {
        let Some(report) = &self.report else { return }; // broken before it was ever read: its source has said so
        let repairs = self.enrolled.as_ref().map_or(0, |enrolled| *enrolled.repairs.borrow());
        let counts = Counts { older_connections: self.older, repairs };
        report.say(&self.uid, state, reason, counts);
        let (name, namespace) = self.named.clone();
        let standing = Standing { name, namespace, state, reason: reason.to_owned(), older_connections: self.older, repairs };
        self.node.standing().insert(self.uid.clone(), standing);
    }
}

async fn capture(node: &Node, rules: &Arc<Rules>, scope: Scope, older: Option<BTreeSet<Flow>>) -> Result<(), String> {
    let probes = node.settings.probes.is_some();
    blocking(rules, move |r| r.capture(scope, probes, older)).await
}

/// First rules that let every older connection live, then, once those are listed, rules that let no other past.
async fn capture_running(node: &Node, rules: &Arc<Rules>, scope: Scope) -> Result<(), String> {
    capture(node, rules, scope.clone(), None).await?;
    match blocking(rules, Rules::forget_ended).await {
        Ok(0) => {}
        Ok(count) => tracing::debug!(count, "conntrack remembered connections of a pod that have long ended"),
        Err(error) => tracing::warn!(error, "what conntrack remembers of a pod's ended connections cannot be looked at: a caller that uses such a one's port again is not answered; does the kernel have CONFIG_NF_CT_NETLINK?"),
    }
    match blocking(rules, Rules::bypassing).await? {
        Some(older) => capture(node, rules, scope, Some(older)).await,
        None => Ok(()), // too many to list: they live on uncounted
    }
}

/// At which ports plaintext passes the daemon by, as it is told; `None` where it is not captured at all.
fn captured_inbound(scope: &Scope) -> Option<Vec<RangeInclusive<u16>>> {
    scope.inbound.then(|| scope.exclude_inbound.iter().map(|ports| ports.first..=ports.last).collect())
}

fn announcement(pod: &PodFile, rules: &Rules, netns: Netns, captured: Option<Vec<RangeInclusive<u16>>>) -> Announcement {
    let workload =
        WorkloadInfo { name: pod.name.clone(), namespace: pod.namespace.clone(), service_account: pod.service_account.clone() };
    Announcement { uid: pod.uid.clone(), workload, mark: rules.mark(), captured, netns: Some(netns) }
}

fn netns_of(pod: &PodFile) -> Result<Netns, String> {
    Netns::open(&pod.netns).map_err(|e| format!("netns: {e}"))
}

/// Runs something that blocks on a pod's rules away from the threads that serve.
async fn blocking<T: Send + 'static>(
    rules: &Arc<Rules>,
    work: impl FnOnce(&Rules) -> Result<T, Error> + Send + 'static,
) -> Result<T, String> {
    let rules = rules.clone();
    tokio::task::spawn_blocking(move || work(&rules)).await.expect("it does not panic").map_err(text)
}

fn text(error: Error) -> String {
    error.to_string()
}
