//! The network: pods on nodes, the three capture rules of an enrolled pod, virtual addresses as a node's proxy would
//! serve them to pods outside the mesh, and connections that take time between nodes.
//!
//! One `SimNet` is the network as one party in one pod sees it: the application, whose connections are captured when the
//! pod is enrolled, or the daemon, whose sockets bear the mark.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh_net::memory::{self, Memory};
use mesh_net::net::{Accept, Accepted, Datagrams, Net, Source};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::sync::{mpsc, watch};

use crate::cable::{self, Cable, State, Tap};

/// The daemon's ports in a pod (spec/dataplane.md 0).
const OUTBOUND: u16 = 15001;
const PLAINTEXT: u16 = 15006;
const HBONE: u16 = 15008;
/// Bytes on the way in one direction of a connection: small, so that back-pressure happens in every run.
const ROOM: usize = 16 * 1024;
/// The longest delay of a chunk between two nodes.
const LATENCY: Duration = Duration::from_millis(2);
/// Dialling somebody who never answers ends after this (spec/dataplane.md 0).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that wait to be accepted at one port.
const BACKLOG: usize = 128;

#[derive(Clone)]
pub struct Fabric(Arc<Mutex<Wiring>>);

struct Wiring {
    rng: SmallRng,
    pods: BTreeMap<IpAddr, Pod>,
    /// Virtual address and port to backends: what a pod outside the mesh sees.
    vips: BTreeMap<SocketAddr, Vec<SocketAddr>>,
    links: BTreeMap<(String, String), watch::Sender<State>>,
    tap: Arc<Mutex<Option<Tap>>>,
    next_port: u16,
}

struct Pod {
    node: String,
    enrolled: bool,
    listeners: BTreeMap<u16, mpsc::Sender<Accepted<Memory>>>,
    datagrams: BTreeMap<u16, mpsc::Sender<(Vec<u8>, SocketAddr)>>,
}

/// Who speaks in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Application,
    Daemon,
}

/// The network as one party in one pod sees it.
#[derive(Clone)]
pub struct SimNet {
    fabric: Fabric,
    ip: IpAddr,
    role: Role,
    /// A peer that answers nothing for so long is gone, as the kernel finds it out.
    dead_after: Option<Duration>,
}

pub struct SimListener {
    queue: mpsc::Receiver<Accepted<Memory>>,
    local: SocketAddr,
}

pub struct SimDatagrams {
    fabric: Fabric,
    queue: tokio::sync::Mutex<mpsc::Receiver<(Vec<u8>, SocketAddr)>>,
    local: SocketAddr,
}

impl Fabric {
    pub fn new(seed: u64) -> Fabric {
        Fabric(Arc::new(Mutex::new(Wiring {
            rng: SmallRng::seed_from_u64(seed),
            pods: BTreeMap::new(),
            vips: BTreeMap::new(),
            links: BTreeMap::new(),
            tap: Arc::default(),
            next_port: 32_768,
        })))
    }

    /// A pod with this address on this node; it replaces one that had the address before.
    pub fn add_pod(&self, node: &str, ip: IpAddr) {
        let pod = Pod { node: node.to_owned(), enrolled: false, listeners: BTreeMap::new(), datagrams: BTreeMap::new() };
        self.0.lock().pods.insert(ip, pod);
    }

    /// The pod is gone: its listeners close, connections to it are not answered.
    pub fn remove_pod(&self, ip: IpAddr) {
        self.0.lock().pods.remove(&ip);
    }

    /// Whether the capture rules are in the pod.
    pub fn enrol(&self, ip: IpAddr, enrolled: bool) {
        if let Some(pod) = self.0.lock().pods.get_mut(&ip) {
            pod.enrolled = enrolled;
        }
    }

    /// What a virtual address stands for, to those who are not in the mesh.
    pub fn vip(&self, at: SocketAddr, backends: Vec<SocketAddr>) {
        self.0.lock().vips.insert(at, backends);
    }

    /// The application's network in a pod.
    pub fn application(&self, ip: IpAddr) -> SimNet {
        SimNet { fabric: self.clone(), ip, role: Role::Application, dead_after: None }
    }

    /// The daemon's network in a pod.
    pub fn daemon(&self, ip: IpAddr) -> SimNet {
        SimNet { fabric: self.clone(), ip, role: Role::Daemon, dead_after: None }
    }

    /// Does something to every connection between two nodes, those of now and those to come.
    pub fn link(&self, one: &str, other: &str, state: State) {
        let mut wiring = self.0.lock();
        wiring.link(one, other).send_replace(state);
    }

    /// Shows every chunk between nodes to `tap`.
    pub fn tap(&self, tap: Tap) {
        *self.0.lock().tap.lock() = Some(tap);
    }

    async fn dial(&self, net: &SimNet, to: SocketAddr, source: Source) -> io::Result<Memory> {
        let patience = net.dead_after.unwrap_or(CONNECT_TIMEOUT).min(CONNECT_TIMEOUT);
        let (mut way, latency) = {
            let mut wiring = self.0.lock();
            let way = wiring.way(net.ip, net.role, to, source)?;
            let latency = if way.cable.is_some() { wiring.rng.random_range(1..2_000) } else { wiring.rng.random_range(1..50) };
            (way, Duration::from_micros(latency))
        };
        tokio::time::sleep(latency).await;
        if let Some(cable) = &mut way.cable {
            cable.dead_after = net.dead_after;
            let mut state = cable.state.clone();
            let answer = async { drop(state.wait_for(|state| *state != State::Held).await) };
            if tokio::time::timeout(patience, answer).await.is_err() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if *cable.state.borrow() == State::Reset {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
        }
        let (near, far) = match way.cable {
            None => memory::pair(ROOM),
            Some(cable) => {
                let (near, inner_near) = memory::pair(ROOM);
                let (inner_far, far) = memory::pair(ROOM);
                tokio::spawn(cable::carry(cable, inner_near, inner_far));
                (near, far)
            }
        };
        let accepted = Accepted { from: way.from, to: way.to, local: way.local, stream: far };
        match way.listener.try_send(accepted) {
            Ok(()) => Ok(near),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(io::ErrorKind::ConnectionRefused.into()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                tokio::time::sleep(patience).await;
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }
}

/// Where a connection ends up and what its accepter is told.
struct Way {
    listener: mpsc::Sender<Accepted<Memory>>,
    from: SocketAddr,
    to: SocketAddr,
    local: SocketAddr,
    cable: Option<Cable>,
}

impl Wiring {
    fn link(&mut self, one: &str, other: &str) -> &watch::Sender<State> {
        let key = if one < other { (one.to_owned(), other.to_owned()) } else { (other.to_owned(), one.to_owned()) };
        self.links.entry(key).or_insert_with(|| watch::channel(State::Whole).0)
    }

    fn port(&mut self) -> u16 {
        self.next_port = if self.next_port == u16::MAX { 32_768 } else { self.next_port + 1 };
        self.next_port
    }

    fn way(&mut self, from_pod: IpAddr, role: Role, to: SocketAddr, source: Source) -> io::Result<Way> {
        let source_port = self.port();
        let pod = self.pods.get(&from_pod).ok_or(io::ErrorKind::NetworkUnreachable)?;
        let (node, captured) = (pod.node.clone(), pod.enrolled && role == Role::Application);
        let own = to.ip() == from_pod || to.ip().is_loopback();
        let from = match source {
            Source::Any => SocketAddr::new(if to.ip().is_loopback() { to.ip() } else { from_pod }, source_port),
            Source::Of(ip) => SocketAddr::new(ip, source_port),
            Source::Loopback if to.is_ipv4() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), source_port),
            Source::Loopback => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), source_port),
        };
        // The pod's own addresses are never captured on the way out; the daemon's packets bear the mark.
        if captured && !own {
            let listener = self.listener(from_pod, OUTBOUND)?;
            let local = SocketAddr::new(from_pod, OUTBOUND);
            return Ok(Way { listener, from, to, local, cable: None });
        }
        if own {
            let listener = self.listener(from_pod, to.port())?;
            return Ok(Way { listener, from, to, local: to, cable: None });
        }
        let to = match self.vips.get(&to) {
            Some(backends) if backends.is_empty() => return Err(io::ErrorKind::ConnectionRefused.into()),
            Some(backends) => backends[self.rng.random_range(0..backends.len())],
            None => to,
        };
        let far = self.pods.get(&to.ip()).ok_or(io::ErrorKind::HostUnreachable)?;
        let port = if far.enrolled && to.port() != HBONE { PLAINTEXT } else { to.port() };
        let far_node = far.node.clone();
        let listener = self.listener(to.ip(), port)?;
        let cable = (far_node != node).then(|| {
            let seed = self.rng.next_u64();
            let tap = self.tap.clone();
            Cable { state: self.link(&node, &far_node).subscribe(), seed, latency: LATENCY, tap, dead_after: None }
        });
        Ok(Way { listener, from, to, local: SocketAddr::new(to.ip(), port), cable })
    }

    fn listener(&self, ip: IpAddr, port: u16) -> io::Result<mpsc::Sender<Accepted<Memory>>> {
        let open = self.pods.get(&ip).and_then(|pod| pod.listeners.get(&port)).filter(|queue| !queue.is_closed());
        open.cloned().ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
    }
}

impl Net for SimNet {
    type Stream = Memory;
    type Listener = SimListener;
    type Datagrams = SimDatagrams;

    fn between_nodes(&self, dead_after: Duration) -> SimNet {
        SimNet { dead_after: Some(dead_after), ..self.clone() }
    }

    async fn listen(&self, at: SocketAddr) -> io::Result<SimListener> {
        let mut wiring = self.fabric.0.lock();
        let port = if at.port() == 0 { wiring.port() } else { at.port() };
        let pod = wiring.pods.get_mut(&self.ip).ok_or(io::ErrorKind::AddrNotAvailable)?;
        // A second listener takes the port over, as a new daemon does from an old one.
        let (sender, queue) = mpsc::channel(BACKLOG);
        pod.listeners.insert(port, sender);
        Ok(SimListener { queue, local: SocketAddr::new(self.ip, port) })
    }

    async fn dial(&self, to: SocketAddr, from: Source) -> io::Result<Memory> {
        self.fabric.dial(self, to, from).await
    }

    async fn bind_datagrams(&self, at: SocketAddr) -> io::Result<SimDatagrams> {
        let mut wiring = self.fabric.0.lock();
        let port = if at.port() == 0 { wiring.port() } else { at.port() };
        let pod = wiring.pods.get_mut(&self.ip).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let (sender, queue) = mpsc::channel(BACKLOG);
        pod.datagrams.insert(port, sender);
        let local = SocketAddr::new(self.ip, port);
        Ok(SimDatagrams { fabric: self.fabric.clone(), queue: tokio::sync::Mutex::new(queue), local })
    }
}

impl Accept for SimListener {
    type Stream = Memory;

    async fn accept(&mut self) -> io::Result<Accepted<Memory>> {
        // The sender is in the pod: without the pod, nobody will ever connect.
        self.queue.recv().await.ok_or_else(|| io::Error::from_raw_os_error(EBADF))
    }

    fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

/// "Bad file descriptor": what accept says of a socket that is no more.
const EBADF: i32 = 9;

impl Datagrams for SimDatagrams {
    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let received = self.queue.lock().await.recv().await;
        let (datagram, from) = received.ok_or_else(|| io::Error::from_raw_os_error(EBADF))?;
        let length = datagram.len().min(buffer.len());
        buffer[..length].copy_from_slice(&datagram[..length]);
        Ok((length, from))
    }

    async fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        let ip = if to.ip().is_loopback() { self.local.ip() } else { to.ip() };
        let target = self.fabric.0.lock().pods.get(&ip).and_then(|pod| pod.datagrams.get(&to.port()).cloned());
        // Datagrams to nobody, and those that find a full queue, are lost, as on a network.
        if let Some(target) = target {
            let _ = target.try_send((datagram.to_vec(), self.local));
        }
        Ok(())
    }

    /// Whoever binds the address next takes it over; two at a time are not simulated.
    fn retire(&self) -> io::Result<()> {
        Ok(())
    }

    fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

#[cfg(test)]
mod tests;
