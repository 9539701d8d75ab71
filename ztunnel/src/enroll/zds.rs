//! The shell of enrolment: keeps a connection to the node agent, carries out what the book (`mod.rs`) says, and answers.
//!
//! Pods go on being served while the agent is away; only readiness tells.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh_net::netns::Netns;
use mesh_runtime::{Backoff, BlockReady, Drain, Ready};
use mesh_zds::daemon::{Daemon, Error};
use mesh_zds::request::{Request, Unreadable};
use tokio::time::{MissedTickBehavior, interval};

use super::{Action, Answer, Broken, Enrolled, Enrolment, Event, PodInfo, PodUid};
use crate::pods::Pods;

/// First and longest wait before another try to connect (spec/dataplane.md 3.4).
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// How often pods that could not be started are tried again (spec/dataplane.md 3.4).
const RETRY: Duration = Duration::from_secs(5);
/// The name under which readiness waits for the snapshot (spec/dataplane.md 8.4).
const TASK: &str = "workload proxy manager";

/// A pod's namespace as the book compares it: the same device and inode is the same namespace.
#[derive(Clone, Debug)]
pub struct Place(pub Netns);

impl PartialEq for Place {
    fn eq(&self, other: &Place) -> bool {
        self.0.identity() == other.0.identity()
    }
}

/// The connection to the agent, and what it makes happen.
pub struct Zds {
    socket: PathBuf,
    pods: Arc<Pods>,
    book: Enrolment<Place>,
    ready: Ready,
    block: Option<BlockReady>,
}

impl Zds {
    pub fn new(socket: PathBuf, pods: Arc<Pods>, ready: Ready) -> Zds {
        let block = Some(ready.block(TASK));
        Zds { socket, pods, book: Enrolment::default(), ready, block }
    }

    /// Runs until the node drains.
    ///
    /// # Errors
    /// The agent breaks the protocol in a way that leaves unclear which pods are ours.
    pub async fn run(mut self, drain: Drain) -> Result<(), Broken> {
        tokio::select! {
            biased;
            () = drain.soft() => Ok(()),
            broken = self.keep_connected() => Err(broken),
        }
    }

    async fn keep_connected(&mut self) -> Broken {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut told = false;
        loop {
            match Daemon::connect(&self.socket).await {
                Ok(daemon) => {
                    tracing::info!(socket = %self.socket.display(), "connected to the node agent");
                    told = false;
                    match self.serve(daemon, &mut backoff).await {
                        Ended::Broken(broken) => return broken,
                        Ended::Lost(error) => tracing::warn!(%error, "lost the node agent; pods are served on"),
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, socket = %self.socket.display(), "cannot reach the node agent, trying again; is mesh-cni running, and is INPOD_UDS its socket?");
                    }
                }
            }
            let wait = backoff.next(&mut rand::rng());
            self.wait(wait).await;
        }
    }

    /// Pods that wait are tried also while there is no agent.
    async fn wait(&mut self, wait: Duration) {
        let until = tokio::time::Instant::now() + wait;
        tokio::time::sleep_until(until).await;
        if self.book.pending().next().is_some() {
            self.carry_out(Event::Retry, None).await;
        }
    }

    async fn serve(&mut self, mut daemon: Daemon, backoff: &mut Backoff) -> Ended {
        self.carry_out(Event::Connected, None).await;
        let mut retry = interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let request = tokio::select! {
                biased;
                request = daemon.next() => request,
                _ = retry.tick() => {
                    self.carry_out(Event::Retry, None).await;
                    continue;
                }
            };
            let event = match request {
                Ok(request) => match event(request) {
                    Ok(event) => event,
                    Err(why) => {
                        if let Err(error) = daemon.ack(Err(&why)).await {
                            return Ended::Lost(error);
                        }
                        continue;
                    }
                },
                Err(Error::Unreadable(Unreadable::NoWorkloadInfo { uid })) => {
                    return Ended::Broken(Broken::NoInfo(PodUid(uid.into())));
                }
                Err(error) => return Ended::Lost(error),
            };
            backoff.reset();
            if let Some(ended) = self.carry_out(event, Some(&mut daemon)).await {
                return ended;
            }
        }
    }

    /// Does what the book says about an event. `agent` gets the answers.
    async fn carry_out(&mut self, event: Event<Place>, mut agent: Option<&mut Daemon>) -> Option<Ended> {
        let answer = if agent.is_some() { Answer::Expected } else { Answer::NotExpected };
        let mut todo: std::collections::VecDeque<Action<Place>> = self.book.handle(event).into();
        let mut lost = None;
        while let Some(action) = todo.pop_front() {
            match action {
                Action::Start(pod) => {
                    let outcome = self.start(&pod).await;
                    todo.extend(self.book.started(pod, outcome, answer));
                }
                Action::Stop { uid, how } => self.pods.stop(&uid, how),
                Action::Captured { uid, captured } => self.pods.captured(&uid, captured),
                Action::Ack => lost = reply(&mut agent, Ok(())).await.or(lost),
                Action::Nack(why) => {
                    tracing::warn!(%why, "answering the node agent");
                    lost = reply(&mut agent, Err(&why)).await.or(lost);
                }
                Action::Give(broken) => return Some(Ended::Broken(broken)),
                Action::Ready(true) => self.block = None,
                Action::Ready(false) => {
                    if self.block.is_none() {
                        self.block = Some(self.ready.block(TASK));
                    }
                }
            }
        }
        self.pods.count(self.book.pending().map(|pod| (pod.uid.clone(), pod.info.clone())).collect());
        lost.map(Ended::Lost)
    }

    async fn start(&self, pod: &Enrolled<Place>) -> Result<(), String> {
        let started = self.pods.start(pod).await;
        if let Err(why) = &started {
            tracing::warn!(pod = %pod.info.name, namespace = %pod.info.namespace, %why, "cannot serve a pod yet, trying again");
        }
        started.map_err(|why| why.to_string())
    }
}

/// How a connection to the agent ended.
enum Ended {
    Lost(Error),
    Broken(Broken),
}

async fn reply(agent: &mut Option<&mut Daemon>, done: Result<(), &str>) -> Option<Error> {
    match agent {
        Some(daemon) => daemon.ack(done).await.err(),
        None => None,
    }
}

fn event(request: Request) -> Result<Event<Place>, String> {
    let uid = |text: String| PodUid(text.into());
    Ok(match request {
        Request::Add(add) => {
            let netns = Netns::from_fd(add.netns).map_err(|why| format!("failure to read message : {why}"))?;
            let info = PodInfo {
                name: add.workload.name.into(),
                namespace: add.workload.namespace.into(),
                service_account: add.workload.service_account.into(),
            };
            Event::Add { uid: uid(add.uid), info: Some(info), netns: Place(netns), mark: add.mark, captured: add.captured.map(Into::into) }
        }
        Request::Keep { uid: kept } => Event::Keep { uid: uid(kept) },
        Request::Del { uid: gone, drain } => Event::Delete { uid: uid(gone), drain },
        Request::SnapshotSent => Event::SnapshotSent,
    })
}
