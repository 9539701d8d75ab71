//! Sockets with the options of the mesh, made synchronously (so that they can be made inside a namespace).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::net::{Source, canonical};

/// Connections that wait to be accepted. More than the field's 128, which a burst of one busy client overruns while
/// an accepting task waits for its turn; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

/// What every socket of one place gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `SO_MARK`: exempts our own packets from capture. `None` in a namespace where nothing is captured.
    pub mark: Option<u32>,
    /// `SO_REUSEPORT` on listeners: an old and a new daemon may both listen while one takes over.
    pub port_reuse: bool,
    pub keepalive: Option<Keepalive>,
    /// `TCP_USER_TIMEOUT`.
    pub user_timeout: Option<Duration>,
    pub spoofing: Spoofing,
    pub connect_timeout: Duration,
}

/// TCP keepalive (spec/dataplane.md 1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    pub idle: Duration,
    pub interval: Duration,
    pub retries: u32,
}

/// Whether a connection to the application carries its client's address (`ENABLE_ORIG_SRC`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoofing {
    /// Where the kernel lets us; else our own address, with a warning.
    Auto,
    /// A dial fails when it is impossible.
    Required,
    Never,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            mark: None,
            port_reuse: true,
            keepalive: Some(Keepalive::default()),
            user_timeout: None,
            spoofing: Spoofing::Auto,
            connect_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for Keepalive {
    fn default() -> Keepalive {
        Keepalive { idle: Duration::from_secs(180), interval: Duration::from_secs(180), retries: 9 }
    }
}

/// What goes from node to node is probed as often as the kernel can: a probe is 40 bytes that no daemon wakes up for.
const PROBE_EVERY: Duration = Duration::from_secs(1);

impl Options {
    /// For sockets from node to node. The kernels of both ends probe each other, so a daemon that stands still or gets
    /// little CPU is not taken for a machine that is gone.
    pub fn between_nodes(&self, dead_after: Duration) -> Options {
        // With a user timeout that ends a silent connection the count is not looked at (tcp(7)); the largest there is.
        let keepalive = Keepalive { idle: PROBE_EVERY, interval: PROBE_EVERY, retries: 127 };
        Options {
            keepalive: Some(keepalive),
            user_timeout: Some(dead_after),
            connect_timeout: dead_after.min(self.connect_timeout),
            ..self.clone()
        }
    }
}

/// A listening TCP socket. Mark, keepalive and `TCP_NODELAY` are set here once: accepted sockets inherit them.
///
/// # Errors
/// Those of `socket`, `setsockopt`, `bind` and `listen`.
pub fn listener(at: SocketAddr, options: &Options) -> io::Result<Socket> {
    let socket = stream_socket(at, options)?;
    socket.set_reuse_address(true)?; // a restarted daemon does not wait for TIME_WAIT
    socket.set_reuse_port(options.port_reuse)?;
    if options.spoofing != Spoofing::Never {
        // Best effort: without it only the replies to spoofed sources are affected, and the dial reports that.
        let _ = transparent(&socket, at.ip());
    }
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// A TCP socket that is ready to connect to `to`, and why the wished source could not be had, if so.
///
/// # Errors
/// Those of `socket`, `setsockopt` and `bind`; a source that cannot be had only under [`Spoofing::Required`].
pub fn dialer(to: SocketAddr, from: Source, options: &Options) -> io::Result<(Socket, Option<io::Error>)> {
    let socket = stream_socket(to, options)?;
    let bound = match from {
        Source::Any => Ok(()),
        Source::Loopback => {
            bind_source(&socket, if to.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() })
        }
        Source::Of(ip) => spoof(&socket, to, ip.to_canonical(), options.spoofing),
    };
    match (bound, from, options.spoofing) {
        (Ok(()), ..) => Ok((socket, None)),
        (Err(error), Source::Of(_), Spoofing::Auto) => Ok((socket, Some(error))),
        (Err(error), ..) => Err(error),
    }
}

/// A UDP socket.
///
/// # Errors
/// Those of `socket`, `setsockopt` and `bind`.
pub fn datagrams(at: SocketAddr, options: &Options) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    mark(&socket, options)?;
    socket.set_reuse_port(options.port_reuse && at.port() != 0)?;
    socket.bind(&at.into())?;
    Ok(socket)
}

/// Where the client meant to connect. `local` is the answer when nothing was redirected (spec/dataplane.md 2.1).
pub fn original_destination(socket: &impl AsFd, local: SocketAddr) -> SocketAddr {
    let socket = SockRef::from(socket);
    let found = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    found.ok().and_then(|address| address.as_socket()).map_or(local, canonical)
}

/// Whether sockets of this namespace can take a foreign source address, for both families at once.
///
/// # Errors
/// Why not: `PermissionDenied` without CAP_NET_RAW or CAP_NET_ADMIN.
pub fn can_spoof() -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    transparent(&socket, Ipv4Addr::UNSPECIFIED.into())
}

/// Whether sockets can be marked.
///
/// # Errors
/// Why not: `PermissionDenied` without CAP_NET_RAW or CAP_NET_ADMIN.
pub fn can_mark() -> io::Result<()> {
    Socket::new(Domain::IPV4, Type::STREAM.cloexec(), Some(Protocol::TCP))?.set_mark(1)
}

fn stream_socket(family_of: SocketAddr, options: &Options) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(family_of), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    mark(&socket, options)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(k) = options.keepalive {
        let keepalive = TcpKeepalive::new().with_time(k.idle).with_interval(k.interval).with_retries(k.retries);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    if options.user_timeout.is_some() {
        socket.set_tcp_user_timeout(options.user_timeout)?;
    }
    Ok(socket)
}

fn mark(socket: &Socket, options: &Options) -> io::Result<()> {
    match options.mark {
        Some(mark) => socket.set_mark(mark).map_err(|e| io::Error::new(e.kind(), format!("SO_MARK: {e}"))),
        None => Ok(()),
    }
}

fn spoof(socket: &Socket, to: SocketAddr, source: IpAddr, spoofing: Spoofing) -> io::Result<()> {
    if spoofing == Spoofing::Never {
        return Ok(());
    }
    if source.is_ipv4() != to.is_ipv4() {
        let text = format!("a connection to {} cannot come from {source}: another address family", to.ip());
        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text));
    }
    transparent(socket, source)?; // lets it bind to any address; IP_FREEBIND would add nothing
    bind_source(socket, source)
}

fn transparent(socket: &Socket, family_of: IpAddr) -> io::Result<()> {
    if family_of.is_ipv4() { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) }
}

fn bind_source(socket: &Socket, source: IpAddr) -> io::Result<()> {
    // The port is chosen at connect, when the destination is known: else 28,000 connections of one client were all.
    setsockopt(socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::new(source, 0).into())
}
