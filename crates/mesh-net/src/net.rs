//! `Net`: how a pod talks to the network. Linux gives one implementation ([`crate::linux`]), the simulator the other;
//! nothing else is replaced in tests.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::duplex::Duplex;

/// The network as one place sees it: a pod's network namespace, the host's, or a simulated one.
pub trait Net: Clone + Send + Sync + 'static {
    type Stream: Duplex + AsyncRead + AsyncWrite + Unpin + Send + 'static;
    type Listener: Accept<Stream = Self::Stream>;
    type Datagrams: Datagrams;

    /// The same place for sockets from node to node: a peer whose machine has answered nothing for `dead_after`, to bytes
    /// or to the kernel's own probes, is gone. Their reads then fail with `TimedOut`, and a dial waits no longer either.
    fn between_nodes(&self, dead_after: Duration) -> Self;

    /// Listens for connections. `[::]` takes IPv4 too; port 0 takes any port ([`Accept::local_addr`] tells which).
    ///
    /// # Errors
    /// Those of `bind` and `listen`; `PermissionDenied` when the namespace cannot be entered.
    fn listen(&self, at: SocketAddr) -> impl Future<Output = io::Result<Self::Listener>> + Send;

    /// Connects, within the connect timeout of this network (10 s, spec/dataplane.md 0).
    ///
    /// # Errors
    /// Those of `connect`; `TimedOut` when nobody answered in time.
    fn dial(&self, to: SocketAddr, from: Source) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// A UDP socket at this address.
    ///
    /// # Errors
    /// Those of `bind`.
    fn bind_datagrams(&self, at: SocketAddr) -> impl Future<Output = io::Result<Self::Datagrams>> + Send;
}

/// A listening socket. [`crate::accept::accept`] is the loop's way to use it: it knows what to do with each error.
pub trait Accept: Send + 'static {
    type Stream;

    /// The next connection.
    ///
    /// # Errors
    /// Those of `accept`; most of them concern one connection or pass by themselves.
    fn accept(&mut self) -> impl Future<Output = io::Result<Accepted<Self::Stream>>> + Send;

    /// Where this listens.
    fn local_addr(&self) -> SocketAddr;
}

/// A UDP socket, shared by the tasks that answer on it.
pub trait Datagrams: Send + Sync + 'static {
    /// The next datagram, cut to the buffer; and who sent it.
    ///
    /// # Errors
    /// Those of `recvfrom`; an ICMP error of an earlier send shows up here as `ConnectionRefused`.
    fn recv_from(&self, buffer: &mut [u8]) -> impl Future<Output = io::Result<(usize, SocketAddr)>> + Send;

    /// Sends one datagram.
    ///
    /// # Errors
    /// Those of `sendto`.
    fn send_to(&self, datagram: &[u8], to: SocketAddr) -> impl Future<Output = io::Result<()>> + Send;

    /// Nothing new comes here any more: who sends to this address reaches another socket of it, or is refused. What has come
    /// is still received, and answers are still sent.
    ///
    /// # Errors
    /// Those of `connect`.
    fn retire(&self) -> io::Result<()>;

    /// Where this is bound.
    fn local_addr(&self) -> SocketAddr;
}

/// A connection that came in. IPv4 in IPv6 form is shown as plain IPv4 everywhere.
#[derive(Debug)]
pub struct Accepted<S> {
    /// Who connected.
    pub from: SocketAddr,
    /// Where they meant to connect: before redirection, when there was one; else `local`.
    pub to: SocketAddr,
    /// Our end of the connection.
    pub local: SocketAddr,
    pub stream: S,
}

/// The source address of a connection that we open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Whatever the routing table says.
    Any,
    /// This address, even if it is not ours, where the kernel lets us: the application then sees its real client.
    Of(IpAddr),
    /// 127.0.0.1 or ::1, by the family of the destination.
    Loopback,
}

/// `::ffff:10.0.0.1` as `10.0.0.1`: a dual-stack socket's peers are compared with plain addresses (spec/dataplane.md 1.1).
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
