//! The sockets of one pod's DNS proxy: UDP and TCP on its loopback. A packet comes in; what the mesh knows is answered at
//! once, everything else is passed on by a task of its own, so that a slow server delays nobody else.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use mesh_dns::Upstream;
use mesh_dns::ask::{Failed, framed, renumbered};
use mesh_model::directory::OwnWorkload;
use mesh_model::workload::Workload;
use mesh_net::accept::accept;
use mesh_net::net::{Accept, Datagrams, Net};
use mesh_runtime::{Drain, Watched};
use mesh_telemetry::Recorder;
use mesh_xds::world::World;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::answer::{Answer, Local, Naming, answer};
use super::cache::Cache;
use super::message::{self, Asked, Read, Transport};
use super::metrics::{DnsMetrics, Handles};
use super::rate::Rate;

/// Bounds of one pod's DNS proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Questions; more are refused.
    pub per_second: u32,
    /// Questions that wait for an upstream server; more fail at once.
    pub in_flight: usize,
    /// TCP connections; more wait in the kernel's queue.
    pub connections: usize,
}

/// What one pod's DNS proxy is made of.
#[derive(Clone)]
pub struct Settings<N> {
    pub net: N,
    /// Whose questions these are.
    pub own: OwnWorkload,
    pub naming: Naming,
    pub world: Watched<World>,
    pub servers: Vec<SocketAddr>,
    pub recorder: Recorder,
    pub limits: Limits,
}

/// One pod's DNS proxy: bound, and not yet running.
pub struct Server<N: Net> {
    shared: Arc<Shared<N>>,
    datagrams: Vec<Arc<N::Datagrams>>,
    listeners: Vec<N::Listener>,
}

struct Shared<N> {
    net: N,
    own: OwnWorkload,
    naming: Naming,
    world: Watched<World>,
    upstream: Upstream,
    cache: Mutex<Cache>,
    metrics: DnsMetrics,
    rate: Mutex<Rate>,
    in_flight: Semaphore,
    connections: usize,
}

/// What becomes of a packet.
enum Step {
    Reply(Vec<u8>),
    Forward(Box<Asked>, Arc<Handles>, Arc<Workload>),
    Nothing,
}

/// A question is at most this long over UDP: names have 255 bytes, and options a few hundred.
const QUESTION_BYTES: usize = 4096;
/// After this much silence nothing is under way to a socket that was given up: it comes over the pod's loopback.
const UNDER_WAY: Duration = Duration::from_millis(20);
/// How long a client may take for one question over TCP, and rest between two (spec/dataplane.md 7).
const TCP_PATIENCE: Duration = Duration::from_secs(5);

impl Limits {
    /// 5,000 a second are ten times what a busy resolver-less program asks; 256 open questions to servers that take 10 ms are
    /// 25,000 a second; 64 connections serve any client that fell back to TCP.
    pub const DEFAULT: Limits = Limits { per_second: 5_000, in_flight: 256, connections: 64 };
}

impl<N: Net> Server<N> {
    /// Opens the sockets, UDP and TCP on each address. An IPv6 address that the pod does not have is left out.
    ///
    /// # Errors
    /// Those of `bind`, with the address.
    pub async fn bind(settings: Settings<N>, addresses: &[SocketAddr]) -> io::Result<Server<N>> {
        let (mut datagrams, mut listeners) = (Vec::new(), Vec::new());
        for &address in addresses {
            match both(&settings.net, address).await {
                Ok((udp, tcp)) => {
                    datagrams.push(Arc::new(udp));
                    listeners.push(tcp);
                }
                Err(error) if address.is_ipv6() && lacks_ipv6(&error) && addresses.iter().any(SocketAddr::is_ipv4) => {
                    tracing::debug!(%address, "the pod has no IPv6 loopback, DNS is served on IPv4");
                }
                Err(error) => return Err(io::Error::new(error.kind(), format!("cannot serve DNS at {address}: {error}"))),
            }
        }
        let shared = Shared {
            net: settings.net,
            own: settings.own,
            naming: settings.naming,
            world: settings.world,
            upstream: Upstream::new(settings.servers),
            cache: Mutex::default(),
            metrics: DnsMetrics::new(settings.recorder),
            rate: Mutex::new(Rate::new(settings.limits.per_second, Instant::now())),
            in_flight: Semaphore::new(settings.limits.in_flight),
            connections: settings.limits.connections,
        };
        Ok(Server { shared: Arc::new(shared), datagrams, listeners })
    }

    /// Where UDP is served, and where TCP is.
    pub fn addresses(&self) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
        let udp = self.datagrams.iter().map(|socket| socket.local_addr()).collect();
        (udp, self.listeners.iter().map(Accept::local_addr).collect())
    }

    /// Starts serving until the drain begins. What was asked before is still answered.
    pub fn start(self, drain: &Drain) {
        for socket in self.datagrams {
            drain.spawn(by_udp(self.shared.clone(), socket, drain.clone()));
        }
        let room = Arc::new(Semaphore::new(self.shared.connections));
        for listener in self.listeners {
            drain.spawn(by_tcp(self.shared.clone(), listener, room.clone(), drain.clone()));
        }
    }
}

async fn both<N: Net>(net: &N, address: SocketAddr) -> io::Result<(N::Datagrams, N::Listener)> {
    Ok((net.bind_datagrams(address).await?, net.listen(address).await?))
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32)
}

async fn by_udp<N: Net>(shared: Arc<Shared<N>>, socket: Arc<N::Datagrams>, drain: Drain) {
    let mut buffer = vec![0; QUESTION_BYTES];
    let mut is_retired = false;
    loop {
        let received = tokio::select! {
            biased;
            () = drain.soft(), if !is_retired => {
                // A client whose question is lost waits five seconds before it asks again: those that have come are answered,
                // and while answers are outstanding, which keeps the socket open, none must come to it any more.
                if let Err(error) = socket.retire() {
                    tracing::debug!(%error, "questions may still come to a socket that is given up");
                    return;
                }
                is_retired = true;
                continue;
            }
            received = socket.recv_from(&mut buffer) => received,
            () = tokio::time::sleep(UNDER_WAY), if is_retired => return,
        };
        let (length, from) = match received {
            Ok(received) => received,
            Err(error) => {
                // Mostly the echo of an answer that nobody took; a pause keeps a lasting error from burning the CPU.
                tracing::debug!(%error, "a DNS packet could not be received");
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
        };
        let packet = &buffer[..length];
        match shared.consider(packet, Transport::Udp) {
            Step::Nothing => {}
            Step::Reply(reply) => send(&*socket, &reply, from).await,
            Step::Forward(asked, handles, client) => {
                let (shared, socket, packet, watch) = (shared.clone(), socket.clone(), packet.to_vec(), drain.clone());
                drain.spawn(async move {
                    tokio::select! {
                        biased;
                        () = watch.forced() => {}
                        reply = shared.forward(&packet, &asked, Transport::Udp, &handles, &client) => send(&*socket, &reply, from).await,
                    }
                });
            }
        }
    }
}

async fn send(socket: &impl Datagrams, reply: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(reply, to).await {
        // The client is gone; it would ask again if it still cared.
        tracing::debug!(%error, %to, "a DNS answer could not be sent");
    }
}

async fn by_tcp<N: Net>(shared: Arc<Shared<N>>, mut listener: N::Listener, room: Arc<Semaphore>, drain: Drain) {
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let accepted = tokio::select! { biased; () = drain.soft() => return, accepted = accept(&mut listener) => accepted };
        let stream = match accepted {
            Ok(accepted) => accepted.stream,
            Err(error) => {
                tracing::error!(%error, at = %listener.local_addr(), "DNS over TCP ends: its listener is broken");
                return;
            }
        };
        let (shared, watch) = (shared.clone(), drain.clone());
        drain.spawn(async move {
            let _place = place;
            tokio::select! {
                biased;
                () = watch.forced() => {}
                // An end of any kind is the client's affair.
                _ = converse(&shared, stream, &watch) => {}
            }
        });
    }
}

/// Answers one question after the other, until the client ends or is too slow.
async fn converse<N: Net>(shared: &Shared<N>, mut stream: N::Stream, drain: &Drain) -> io::Result<()> {
    loop {
        let packet = tokio::select! {
            biased;
            () = drain.soft() => return Ok(()),
            packet = timeout(TCP_PATIENCE, receive::<N>(&mut stream)) => packet??,
        };
        let reply = match shared.consider(&packet, Transport::Tcp) {
            Step::Nothing => return Ok(()),
            Step::Reply(reply) => reply,
            Step::Forward(asked, handles, client) => shared.forward(&packet, &asked, Transport::Tcp, &handles, &client).await,
        };
        timeout(TCP_PATIENCE, stream.write_all(&framed(&reply))).await??;
    }
}

async fn receive<N: Net>(stream: &mut N::Stream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut packet = Vec::new();
    // Grows with what really comes: a length alone reserves nothing.
    stream.take(u64::from(length)).read_to_end(&mut packet).await?;
    if packet.len() < usize::from(length) { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(packet) }
}

impl<N: Net> Shared<N> {
    /// Decides about one packet without waiting for anything.
    fn consider(&self, packet: &[u8], transport: Transport) -> Step {
        if !self.rate.lock().take(Instant::now()) {
            return message::refused(packet).map_or(Step::Nothing, Step::Reply);
        }
        let asked = match message::read(packet) {
            Read::Asked(asked) => asked,
            Read::Refused(reply) => return Step::Reply(reply),
            Read::Nothing => return Step::Nothing,
        };
        let (client, ours) = self.world.with(|world| {
            let client = world.directory.own_workload(&self.own).cloned();
            let question = asked.name().zip(asked.family()).zip(client.as_ref());
            let ours = question.map_or(Answer::Forward, |((name, family), client)| {
                answer(&world.directory, client, &self.naming, &name, family, &mut rand::rng())
            });
            (client, ours)
        });
        let handles = self.metrics.handles(asked.type_name(), transport, client.as_ref());
        handles.asked();
        let Some(client) = client else {
            // Who asks is not known yet, so neither is what he may see.
            return Step::Reply(asked.failure(ResponseCode::ServFail));
        };
        match ours {
            Answer::Local(local) => {
                told(&client, &asked, if local.addresses.is_empty() { "no records" } else { "success" }, Some(&local));
                Step::Reply(asked.local(&local, transport))
            }
            Answer::Forward => match self.cache.lock().find(&asked, transport, Instant::now()) {
                Some(reply) => Step::Reply(reply),
                None => Step::Forward(asked, handles, client),
            },
        }
    }

    /// Passes the question on and returns the packet for the client, an answer or a failure.
    async fn forward(&self, packet: &[u8], asked: &Asked, transport: Transport, handles: &Handles, client: &Workload) -> Vec<u8> {
        let Ok(_place) = self.in_flight.try_acquire() else {
            return asked.failure(ResponseCode::ServFail);
        };
        let begun = Instant::now();
        let answered = self.upstream.ask(&self.net, packet, rand::random(), transport).await;
        handles.forwarded(begun.elapsed(), answered.is_ok());
        match answered {
            Ok(reply) => {
                told(client, asked, "forwarded", None);
                self.cache.lock().keep(asked, &reply.message, reply.packet.len(), Instant::now());
                if reply.packet.len() > asked.room(transport) {
                    return message::fitted(renumbered_message(reply.message, asked), asked.room(transport));
                }
                renumbered(&reply.packet, asked.id())
            }
            Err(why) => {
                told_failure(client, asked, &why);
                asked.failure(ResponseCode::ServFail)
            }
        }
    }
}

fn renumbered_message(mut message: hickory_proto::op::Message, asked: &Asked) -> hickory_proto::op::Message {
    message.metadata.id = asked.id();
    message
}

/// The line of a question in the log, for the curious (spec/dataplane.md 7).
fn told(client: &Workload, asked: &Asked, result: &'static str, local: Option<&Local>) {
    if !tracing::enabled!(target: "dns", tracing::Level::DEBUG) {
        return;
    }
    let endpoints: Vec<String> = local.into_iter().flat_map(|local| &local.addresses).map(ToString::to_string).collect();
    tracing::debug!(target: "dns", {
        src.workload = &*client.name,
        src.namespace = &*client.namespace,
        query = asked.type_name(),
        domain = asked.shown_name(),
        result,
        endpoints = endpoints.join(",")
    }, "");
}

fn told_failure(client: &Workload, asked: &Asked, why: &Failed) {
    tracing::debug!(target: "dns", {
        src.workload = &*client.name,
        src.namespace = &*client.namespace,
        query = asked.type_name(),
        domain = asked.shown_name(),
        result = format!("forwarding failed ({why})")
    }, "");
}

#[cfg(test)]
mod tests;
