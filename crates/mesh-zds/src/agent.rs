//! The agent's end: listens, greets each daemon with all pods of the node, then tells the newest of new pods and all of
//! those that left (spec/dataplane.md 3.3).

use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mesh_net::netns::Netns;
use mesh_net::seqpacket::{SeqListener, SeqPacket};
use prost::Message;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::messages::{
    AddWorkload, Answer, CapturedInbound, DelWorkload, KeepWorkload, Payload, SnapshotSent, WorkloadInfo, WorkloadRequest, WorkloadResponse,
    ZdsHello,
};
use crate::{RECEIVED_BYTES_MAX, SENT_BYTES_MAX};

/// For the hello, and for each answer. A later answer would be taken for the next request's, so the connection ends instead.
pub const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Between two accepted connections: a daemon that crashes in a loop does not keep the agent busy with snapshots.
const ACCEPT_EVERY: Duration = Duration::from_millis(200);
/// Daemons at once: one, two during an upgrade; more are a mistake that must not grow.
const CONNECTIONS_MAX: usize = 8;
/// Requests that wait for one connection. Senders wait beyond that.
const QUEUE: usize = 256;

/// A pod, as the daemon is told of it.
#[derive(Clone, Debug)]
pub struct Announcement {
    pub uid: String,
    pub workload: WorkloadInfo,
    /// Sent only to daemons that asked for it.
    pub mark: u32,
    /// The pod's rules are in force and capture what arrives in the clear, but for these ports. Sent only to daemons
    /// that know the mark, too.
    pub captured: Option<Vec<RangeInclusive<u16>>>,
    /// `None` when it cannot be opened (any more): daemons that have the pod keep it.
    pub netns: Option<Netns>,
}

/// Which kinds of daemon are connected: it decides which marks a pod's rules exempt (design decision 4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Daemons {
    /// How many are connected and have said hello.
    pub count: usize,
    /// One of them marks its sockets with 0x539.
    pub fixed_mark: bool,
}

/// What the connections need from the rest of the agent.
pub trait Pods: Send + Sync + 'static {
    /// All pods of the node. When this returns, their rules exempt the marks that `daemons` use, the asking one included.
    fn snapshot(&self, daemons: Daemons) -> impl Future<Output = Vec<Announcement>> + Send;

    /// What the daemon answered for a pod of the snapshot.
    fn answered(&self, uid: &str, done: Result<(), Undone>);
}

/// Why a daemon does not serve a pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undone {
    #[error("no node daemon is connected to the ZDS socket; is ztunnel running?")]
    NoDaemon,
    #[error("the node daemon answered: {0}")]
    Refused(String),
    #[error("the connection to the node daemon ended before it answered")]
    Lost,
    #[error("the node daemon did not answer in {} s", ANSWER_MAX.as_secs())]
    Late,
    #[error("the pod's names are too long for a ZDS packet of {SENT_BYTES_MAX} bytes")]
    TooLong,
}

/// Tells daemons of pods. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Agent(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// In the order of their coming: the last is the newest.
    connections: Mutex<Connections>,
    daemons: watch::Sender<Daemons>,
}

#[derive(Debug, Default)]
struct Connections {
    next: u64,
    live: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    id: u64,
    /// `None` before the hello.
    random_mark: Option<bool>,
    queue: mpsc::Sender<Job>,
}

#[derive(Debug)]
struct Job {
    message: Outgoing,
    done: oneshot::Sender<Result<(), Undone>>,
}

#[derive(Clone, Debug)]
enum Outgoing {
    Add(Announcement),
    Del { uid: String, drain: bool },
    SnapshotSent,
}

impl Default for Agent {
    fn default() -> Agent {
        Agent(Arc::new(Shared { connections: Mutex::default(), daemons: watch::Sender::default() }))
    }
}

impl Agent {
    /// Listens at `path` and serves daemons for as long as the future is polled.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub async fn serve<P: Pods>(&self, path: &Path, pods: Arc<P>) -> io::Result<std::convert::Infallible> {
        let listener = SeqListener::bind(path)?;
        tracing::info!(path = %path.display(), "waiting for node daemons");
        loop {
            match listener.accept().await {
                Ok(socket) => match self.admit(&socket) {
                    Ok(()) => {
                        let (agent, pods) = (self.clone(), pods.clone());
                        tokio::spawn(async move { agent.attend(socket, &*pods).await });
                    }
                    Err(reason) => tracing::warn!(reason, "refused a connection to the ZDS socket"),
                },
                Err(error) => tracing::warn!(%error, "cannot accept on the ZDS socket now"),
            }
            tokio::time::sleep(ACCEPT_EVERY).await;
        }
    }

    /// Tells the newest daemon of a pod, and waits for its answer.
    ///
    /// # Errors
    /// [`Undone`]: nobody serves the pod yet; try again.
    pub async fn add(&self, pod: Announcement) -> Result<(), Undone> {
        let newest = self.connections().live.last().map(|c| c.queue.clone());
        ask(newest.ok_or(Undone::NoDaemon)?, Outgoing::Add(pod)).await
    }

    /// Tells every daemon that a pod is gone, or that it leaves the mesh (`drain`).
    ///
    /// # Errors
    /// The first refusal; with no daemon connected there is none, since nobody serves the pod.
    pub async fn del(&self, uid: &str, drain: bool) -> Result<(), Undone> {
        let queues: Vec<_> = self.connections().live.iter().map(|c| c.queue.clone()).collect();
        let mut outcome = Ok(());
        for queue in queues {
            let done = ask(queue, Outgoing::Del { uid: uid.to_owned(), drain }).await;
            if !matches!(done, Err(Undone::Lost | Undone::Late)) {
                outcome = outcome.and(done);
            } // a daemon that went away learns it from the next snapshot
        }
        outcome
    }

    /// Which daemons are connected; changes when one comes or goes.
    pub fn daemons(&self) -> watch::Receiver<Daemons> {
        self.0.daemons.subscribe()
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.0.connections.lock().expect("no code that holds this lock can panic")
    }

    /// V-64: the socket's mode keeps others out; this is for the case that somebody widened it.
    fn admit(&self, socket: &SeqPacket) -> Result<(), &'static str> {
        let uid = socket.peer_uid().map_err(|_| "its user is unknown")?;
        if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
            return Err("it is neither root's nor ours");
        }
        if self.connections().live.len() >= CONNECTIONS_MAX {
            return Err("too many daemons are connected");
        }
        Ok(())
    }

    /// One connection, from its accept to its end.
    async fn attend<P: Pods>(&self, socket: SeqPacket, pods: &P) {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let entered = self.enter(queue); // the newest from now on, before its hello
        let reason = match entered.converse(socket, pods, jobs).await {
            Ok(never) => match never {},
            Err(reason) => reason,
        };
        tracing::info!(connection = entered.id, reason, "a node daemon's connection ended");
    }

    fn enter(&self, queue: mpsc::Sender<Job>) -> Entered<'_> {
        let mut connections = self.connections();
        let id = connections.next;
        connections.next += 1;
        connections.live.push(Connection { id, random_mark: None, queue });
        Entered { agent: self, id }
    }

    /// Publishes who is connected, after one said hello or left.
    fn recount(&self) -> Daemons {
        let known: Vec<bool> = self.connections().live.iter().filter_map(|c| c.random_mark).collect();
        let daemons = Daemons { count: known.len(), fixed_mark: known.contains(&false) };
        self.0.daemons.send_if_modified(|current| std::mem::replace(current, daemons) != daemons);
        daemons
    }
}

async fn ask(queue: mpsc::Sender<Job>, message: Outgoing) -> Result<(), Undone> {
    let (done, answer) = oneshot::channel();
    queue.send(Job { message, done }).await.map_err(|_| Undone::Lost)?;
    answer.await.unwrap_or(Err(Undone::Lost))
}

/// A connection's place in the list; leaves it when dropped.
struct Entered<'a> {
    agent: &'a Agent,
    id: u64,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.agent.connections().live.retain(|c| c.id != self.id);
        self.agent.recount();
    }
}

impl Entered<'_> {
    async fn converse<P: Pods>(
        &self,
        socket: SeqPacket,
        pods: &P,
        mut jobs: mpsc::Receiver<Job>,
    ) -> Result<std::convert::Infallible, String> {
        let mut wire = Wire { socket, buffer: vec![0; RECEIVED_BYTES_MAX].into(), random_mark: false };
        let hello = wire.hello().await?;
        wire.random_mark = hello.random_mark;
        tracing::info!(connection = self.id, version = hello.version, random_mark = hello.random_mark, "a node daemon connected");
        if let Some(us) = self.agent.connections().live.iter_mut().find(|c| c.id == self.id) {
            us.random_mark = Some(hello.random_mark);
        }
        let daemons = self.agent.recount();
        for pod in pods.snapshot(daemons).await {
            let uid = pod.uid.clone();
            let done = wire.request(Outgoing::Add(pod)).await?;
            pods.answered(&uid, done);
        }
        if let Err(undone) = wire.request(Outgoing::SnapshotSent).await? {
            tracing::warn!(connection = self.id, %undone, "the snapshot was not accepted");
        }
        loop {
            let job = tokio::select! {
                job = jobs.recv() => job.expect("our own entry in the list holds a sender"),
                unasked = wire.receive() => {
                    unasked?;
                    return Err("it sent something that was not asked for".to_owned());
                }
            };
            let answer = wire.request(job.message).await;
            let lost = answer.as_ref().err().cloned();
            let _ = job.done.send(answer.unwrap_or(Err(Undone::Late))); // whoever asked may have given up
            if let Some(reason) = lost {
                return Err(reason);
            }
        }
    }
}

/// The socket, one request at a time.
struct Wire {
    socket: SeqPacket,
    buffer: Box<[u8]>,
    random_mark: bool,
}

impl Wire {
    async fn hello(&mut self) -> Result<ZdsHello, String> {
        let packet = timeout(ANSWER_MAX, self.receive()).await.map_err(|_| "it said no hello in 5 s".to_owned())??;
        ZdsHello::decode(packet).map_err(|e| format!("its hello cannot be read: {e}"))
    }

    /// Sends and waits for the answer. The outer error ends the connection.
    async fn request(&mut self, message: Outgoing) -> Result<Result<(), Undone>, String> {
        let (packet, netns) = encode(message, self.random_mark);
        if packet.len() > SENT_BYTES_MAX {
            return Ok(Err(Undone::TooLong));
        }
        use std::os::fd::AsFd;
        let exchange = async {
            self.socket.send(&packet, netns.as_ref().map(AsFd::as_fd)).await.map_err(|e| e.to_string())?;
            let answer = self.receive().await?;
            let answer = WorkloadResponse::decode(answer).map_err(|e| format!("its answer cannot be read: {e}"))?;
            match answer.payload {
                Some(Answer::Ack(ack)) if ack.error.is_empty() => Ok(Ok(())),
                Some(Answer::Ack(ack)) => Ok(Err(Undone::Refused(ack.error))),
                None => Err("it sent an answer without payload".to_owned()),
            }
        };
        timeout(ANSWER_MAX, exchange).await.map_err(|_| "it did not answer in 5 s".to_owned())?
    }

    /// The next packet. Cancel-safe.
    async fn receive(&mut self) -> Result<&[u8], String> {
        let packet = self.socket.recv(&mut self.buffer).await.map_err(|e| e.to_string())?;
        match packet.length {
            0 => Err("it went away".to_owned()),
            _ if packet.truncated => Err(format!("it sent more than {RECEIVED_BYTES_MAX} bytes")),
            _ if !packet.descriptors.is_empty() => Err("it sent a descriptor".to_owned()),
            length => Ok(&self.buffer[..length]),
        }
    }
}

fn encode(message: Outgoing, random_mark: bool) -> (Vec<u8>, Option<Netns>) {
    let (payload, netns) = match message {
        Outgoing::Add(Announcement { uid, workload, mark, captured, netns: Some(netns) }) => {
            let mark = if random_mark { mark } else { 0 };
            let captured = captured.filter(|_| random_mark).map(|spared| CapturedInbound::except(&spared));
            (Payload::Add(AddWorkload { uid, workload_info: Some(workload), mark, captured }), Some(netns))
        }
        Outgoing::Add(Announcement { uid, netns: None, .. }) => (Payload::Keep(KeepWorkload { uid }), None),
        Outgoing::Del { uid, drain } => (Payload::Del(DelWorkload { uid, drain }), None),
        Outgoing::SnapshotSent => (Payload::SnapshotSent(SnapshotSent {}), None),
    };
    (WorkloadRequest { payload: Some(payload) }.encode_to_vec(), netns)
}

#[cfg(test)]
mod tests;
