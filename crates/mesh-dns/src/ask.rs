//! Asking: a packet, byte for byte but for its number, to the servers of a resolv.conf, by sockets of whichever network the
//! caller is in. What comes back is believed only if it answers that question from that server.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hickory_proto::op::{Message, ResponseCode};
use mesh_net::net::{Datagrams, Net, Source};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout_at};

/// How a message travels, and therefore how long it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    Udp,
    Tcp,
}

/// The servers, and which of them answered last: a dead first one costs its wait once, not each time.
#[derive(Debug)]
pub struct Upstream {
    servers: Vec<SocketAddr>,
    good: AtomicUsize,
}

/// An answer, as it came (with the number of our question) and as it reads.
#[derive(Clone, Debug)]
pub struct Reply {
    pub packet: Vec<u8>,
    pub message: Message,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("resolv.conf names no server")]
    NoServers,
    #[error("no server answered in {TOTAL:?}")]
    TimedOut,
    #[error("cannot reach {0}: {1}")]
    Unreachable(SocketAddr, io::Error),
    #[error("{0} answered {1}")]
    Refused(SocketAddr, ResponseCode),
    #[error("{0} answered something else than was asked")]
    Garbage(SocketAddr),
}

/// As long as clients wait themselves (resolv.conf(5)); the field's limit for TCP too (spec/dataplane.md 7).
const TOTAL: Duration = Duration::from_secs(5);
/// After this the next server is asked as well, while the first may still answer.
const HEDGE: Duration = Duration::from_secs(1);
/// Questions sent for one: enough for two rounds of two servers, and a bound on amplification.
const MOST_TRIES: usize = 4;
/// What is taken over UDP; a longer answer is asked for again over TCP by the client.
const UDP_BYTES: usize = 4096;

impl Upstream {
    pub fn new(servers: Vec<SocketAddr>) -> Upstream {
        Upstream { servers, good: AtomicUsize::new(0) }
    }

    /// Asks the servers in turn until one answers. `number` replaces the question's, which others could guess.
    ///
    /// # Errors
    /// None of them gives an answer that can be believed, in the time that clients wait.
    pub async fn ask<N: Net>(&self, net: &N, question: &[u8], number: u16, transport: Transport) -> Result<Reply, Failed> {
        let question = renumbered(question, number);
        let deadline = Instant::now() + TOTAL;
        let first = self.good.load(Ordering::Relaxed);
        // Two rounds over UDP, where packets are lost; over TCP a server that did not answer will not.
        let rounds = if transport == Transport::Udp { 2 } else { 1 };
        let mut order = (0..self.servers.len() * rounds).map(|step| (first + step) % self.servers.len()).take(MOST_TRIES);
        let mut tries = FuturesUnordered::new();
        let mut next_try = Instant::now();
        let mut failed = if self.servers.is_empty() { Failed::NoServers } else { Failed::TimedOut };
        let mut more = true;
        loop {
            if more && next_try <= Instant::now() {
                match order.next() {
                    Some(index) => tries.push(self.one(net, &question, index, transport)),
                    None => more = false,
                }
                next_try = Instant::now() + HEDGE;
            }
            if !more && tries.is_empty() {
                return Err(failed);
            }
            tokio::select! {
                biased;
                Some((index, outcome)) = tries.next() => match outcome {
                    Ok(reply) => {
                        self.good.store(index, Ordering::Relaxed);
                        return Ok(reply);
                    }
                    Err(why) => {
                        failed = why;
                        next_try = Instant::now(); // this server is done with: no reason to wait for the next
                    }
                },
                () = sleep_until(next_try.min(deadline)), if more => {}
                () = sleep_until(deadline) => return Err(failed),
            }
            if Instant::now() >= deadline {
                return Err(failed);
            }
        }
    }

    async fn one<N: Net>(&self, net: &N, question: &[u8], index: usize, transport: Transport) -> (usize, Result<Reply, Failed>) {
        let server = self.servers[index];
        let deadline = Instant::now() + TOTAL;
        let answered = match transport {
            Transport::Udp => timeout_at(deadline, by_udp(net, server, question)).await,
            Transport::Tcp => timeout_at(deadline, by_tcp(net, server, question)).await,
        };
        let outcome = match answered {
            Ok(Ok(packet)) => read(server, question, packet),
            Ok(Err(error)) => Err(Failed::Unreachable(server, error)),
            Err(_) => Err(Failed::TimedOut),
        };
        (index, outcome)
    }
}

/// One question over UDP from a port of its own, so that an answer cannot be guessed from outside.
async fn by_udp<N: Net>(net: &N, server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = net.bind_datagrams(SocketAddr::new(any, 0)).await?;
    socket.send_to(question, server).await?;
    let mut buffer = vec![0; UDP_BYTES];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await?;
        // Anybody may send to the port: what is not from the server, or not about the question, is not looked at.
        if same_place(from, server) && answers(question, &buffer[..length]) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn by_tcp<N: Net>(net: &N, server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = net.dial(server, Source::Any).await?;
    stream.write_all(&framed(question)).await?;
    stream.flush().await?;
    let length = stream.read_u16().await?;
    let mut packet = vec![0; usize::from(length)];
    stream.read_exact(&mut packet).await?;
    Ok(packet)
}

/// A message as it travels over TCP: after its length (RFC 1035 4.2.2).
pub fn framed(packet: &[u8]) -> Vec<u8> {
    // A message that was read or made here is at most 65,535 bytes long.
    let length = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    let mut framed = Vec::with_capacity(2 + packet.len());
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(&packet[..usize::from(length)]);
    framed
}

/// The packet with another number.
pub fn renumbered(packet: &[u8], number: u16) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet.get_mut(..2).expect("a packet that was read as a question has a header").copy_from_slice(&number.to_be_bytes());
    packet
}

/// An IPv6 scope is not part of who somebody is.
fn same_place(from: SocketAddr, server: SocketAddr) -> bool {
    (from.ip().to_canonical(), from.port()) == (server.ip().to_canonical(), server.port())
}

/// Whether the packet is a response with the number of the question, and repeats it (or repeats nothing, as some do who refuse).
fn answers(question: &[u8], packet: &[u8]) -> bool {
    let (Some(asked), Some(head)) = (question_section(question), packet.first_chunk::<12>()) else { return false };
    let is_response = head[2] & 0x80 != 0;
    let repeats_nothing = head[4..6] == [0, 0];
    is_response
        && head[..2] == question[..2]
        && (repeats_nothing || packet.get(12..12 + asked.len()).is_some_and(|repeated| repeated.eq_ignore_ascii_case(asked)))
}

/// The bytes of the first question: labels up to the root, then type and class.
fn question_section(packet: &[u8]) -> Option<&[u8]> {
    let body = packet.get(12..)?;
    let mut at = 0;
    loop {
        match *body.get(at)? {
            0 => return body.get(..at + 5),
            // Compression has nothing to point to in the first name.
            length if length < 64 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

fn read(server: SocketAddr, question: &[u8], packet: Vec<u8>) -> Result<Reply, Failed> {
    let sound = answers(question, &packet).then(|| Message::from_vec(&packet).ok()).flatten();
    let message = sound.ok_or(Failed::Garbage(server))?;
    match message.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(Reply { packet, message }),
        code => Err(Failed::Refused(server, code)),
    }
}

#[cfg(test)]
mod tests;
