//! Connections that are older than their pod's enrolment: they pass the mesh by, because a redirect looks at the first
//! packet only. They live on as long as policy would let plaintext from there pass, and are cut a while after it does not
//! (design decision 13; docs/decisions/older-connections.md).
//!
//! The kernel is asked for the pod's sockets when something happened that may matter, never by the clock: the agent said
//! that the pod's rules are in force, or policy changed; and once more when a refused connection's time is up.

mod judge;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use mesh_model::workload::Workload;
use mesh_net::linux::PodNet;
use mesh_net::tcp_table::{self, Entry, Servers};
use mesh_policy::{Because, Flow, decide};
use mesh_telemetry::access_log::Direction;
use mesh_telemetry::families;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use self::judge::Judge;
use crate::admit::admit_plaintext;
use crate::capture::{DNS, OUTBOUND};
use crate::dump::OlderDump;
use crate::error::{Closed, Refusal};
use crate::passthrough;
use crate::pod::Pod;

/// Between two looks at a pod's sockets: a look walks the node's table of connections, and policies may flap.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The node's own probes, which the agent's rules exempt (spec/dataplane.md 0).
const PROBES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 7, 127)),
    IpAddr::V6(Ipv6Addr::new(0xfd16, 0x9254, 0x7127, 0x1337, 0xffff, 0xffff, 0xffff, 0xffff)),
];

/// The ports at which the pod takes plaintext past us because it is said to; `None`: its rules are not in force, or take
/// nothing that arrives, so that nothing is ours to judge.
pub type Captured = Option<Arc<[RangeInclusive<u16>]>>;

/// The watch over one pod's older connections. It ends when the pod drains.
#[derive(Debug)]
pub struct Older {
    captured: watch::Sender<Captured>,
    seen: Arc<Mutex<OlderDump>>,
}

impl Older {
    pub fn watch(pod: Arc<Pod<PodNet>>, captured: Captured) -> Older {
        let (captured, told) = watch::channel(captured);
        let seen = Arc::<Mutex<OlderDump>>::default();
        let watcher = Watcher { judge: Judge::new(pod.mesh.settings.older_grace), pod, seen: seen.clone() };
        tokio::spawn(watcher.run(told));
        Older { captured, seen }
    }

    /// The agent said what is captured, perhaps what it said before: the rules may have been put in place anew.
    pub fn captured(&self, captured: Captured) {
        self.captured.send_replace(captured);
    }

    /// What the last look found.
    pub fn seen(&self) -> OlderDump {
        self.seen.lock().clone()
    }
}

struct Watcher {
    pod: Arc<Pod<PodNet>>,
    judge: Judge,
    seen: Arc<Mutex<OlderDump>>,
}

impl Watcher {
    async fn run(mut self, mut captured: watch::Receiver<Captured>) {
        let mut policy = self.pod.permits.judged();
        loop {
            let looked = Instant::now();
            policy.borrow_and_update();
            let spared = captured.borrow_and_update().clone();
            let due = match spared {
                Some(spared) => self.look(spared).await,
                None => None,
            };
            let leaving = tokio::select! {
                () = self.pod.drain.soft() => true,
                told = captured.changed() => told.is_err(),
                told = policy.changed() => told.is_err(),
                () = at(due) => false,
            };
            if leaving {
                return;
            }
            sleep_until(looked + LOOK_EVERY).await;
        }
    }

    /// Judges what is open now, and cuts what was refused for long enough. When to look again.
    async fn look(&mut self, spared: Arc<[RangeInclusive<u16>]>) -> Option<Instant> {
        let world = self.pod.mesh.world.load();
        let me = world.directory.own_workload(&self.pod.own).cloned()?; // when it is known, policy changes for the pod
        let older = match self.inside(move |pod| older(pod, &spared)).await {
            Ok(older) => older,
            Err(error) => return self.troubled(&error, 0),
        };
        let judged = self.judge.judge(Instant::now(), &older, |entry| {
            let flow = Flow::new(entry.flow.remote.ip(), None, entry.flow.local);
            let because = decide(&world.policies, &me, &flow).because;
            (!because.is_allowed()).then_some(because)
        });
        {
            let mut seen = self.seen.lock();
            (seen.open, seen.refused) = (older.len(), judged.refused);
        }
        if judged.overdue.is_empty() {
            return judged.next;
        }
        let overdue: Vec<Entry> = judged.overdue.iter().map(|(entry, _)| *entry).collect();
        let count = overdue.len();
        match self.inside(move |pod| pod.net.within(|| overdue.iter().try_for_each(tcp_table::destroy))).await {
            Ok(()) => {
                for (entry, because) in judged.overdue {
                    self.account(&me, &entry, because);
                }
                let mut seen = self.seen.lock();
                seen.open -= count;
                seen.refused -= count;
                seen.cut += count as u64;
                seen.trouble = None;
                judged.next
            }
            Err(error) => self.troubled(&error, count),
        }
    }

    /// Work that blocks for the time of a few system calls, away from the threads that carry traffic.
    async fn inside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Pod<PodNet>) -> std::io::Result<T> + Send + 'static,
    ) -> std::io::Result<T> {
        let pod = self.pod.clone();
        tokio::task::spawn_blocking(move || work(&pod)).await.map_err(std::io::Error::other)?
    }

    /// One log line, the counters and the memory of refusals, as for every other connection.
    fn account(&self, me: &Arc<Workload>, entry: &Entry, because: Because) {
        let (from, to) = (entry.flow.remote, entry.flow.local);
        let mut account = self.pod.mesh.accounts.open(Direction::Inbound, from, to);
        let world = self.pod.mesh.world.load();
        if let Ok(admission) = admit_plaintext(&world.directory, &self.pod.host(me), from, to) {
            account.tell(passthrough::told(me, to, &admission));
        }
        account.close(Err(&Closed::Refused(Refusal::Older(because))));
    }

    /// They live on, though they should not: tried again after another grace.
    fn troubled(&self, error: &std::io::Error, uncut: usize) -> Option<Instant> {
        let pod = &self.pod.info;
        tracing::error!(%error, pod = %pod.name, namespace = %pod.namespace, uncut, "connections older than a pod's enrolment cannot be judged or cut; restart the pod to be rid of them");
        let recorder = self.pod.mesh.accounts.traffic().recorder();
        recorder.counter(&families::OLDER_TROUBLES, &[]).increment(1);
        self.seen.lock().trouble = Some(error.to_string());
        Some(Instant::now() + self.pod.mesh.settings.older_grace.max(LOOK_EVERY))
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Connections that the pod accepted past us, but for those that it is meant to.
fn older(pod: &Pod<PodNet>, spared: &[RangeInclusive<u16>]) -> std::io::Result<Vec<Entry>> {
    let (entries, clients) = pod.net.within(|| Ok((tcp_table::list()?, tcp_table::client_ports()?)))?;
    let servers = Servers::of(&entries, clients);
    let mark = pod.net.mark().unwrap_or_default();
    let mut older = tcp_table::uncarried(&entries, |other| other == mark, &[OUTBOUND, DNS])?;
    older.retain(|entry| {
        let (port, from) = (entry.flow.local.port(), entry.flow.remote.ip());
        // A daemon of another mark, from which we take over, has connections at these ports.
        let ours = pod.mesh.settings.own_ports.contains(&port);
        !ours && servers.accepted(&entry.flow) && !spared.iter().any(|range| range.contains(&port)) && !PROBES.contains(&from)
    });
    Ok(older)
}
