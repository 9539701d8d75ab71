//! The TCP sockets of a network namespace as the kernel lists them (sock_diag(7)), and the end of one of them.
//!
//! Pure: what is read from the kernel's answer, and which of the sockets are connections that nobody of ours carries.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use crate::net::canonical;
use crate::netlink::{ACKNOWLEDGE, DUMP, REQUEST, ask, attributes, dump, message};

/// A TCP connection as its socket in the namespace sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// One socket of the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub flow: Flow,
    pub state: State,
    /// `SO_MARK`; `None`: the kernel does not show it to us.
    pub mark: Option<u32>,
    name: Name,
}

/// How the kernel calls a socket: no other ever has the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name {
    family: u8,
    /// `struct inet_diag_sockid`: ports, addresses, interface, cookie.
    id: [u8; 48],
}

/// States as in `include/net/tcp_states.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State(pub u8);

impl State {
    pub const ESTABLISHED: State = State(1);
    pub const SYN_SENT: State = State(2);
    pub const SYN_RECEIVED: State = State(3);
    const TIME_WAIT: State = State(6);
    const CLOSED: State = State(7);
    pub const LISTEN: State = State(10);

    /// Both sides may still send, or are about to.
    pub fn is_open(self) -> bool {
        [State::ESTABLISHED, State::SYN_SENT, State::SYN_RECEIVED].contains(&self)
    }
}

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY`.
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
const MARK: u16 = 15; // INET_DIAG_MARK
/// `struct inet_diag_msg`.
const ENTRY_BYTES: usize = 72;

/// All sockets of the calling thread's namespace, but for those that only wait for their name to be free again.
///
/// # Errors
/// Those of netlink.
pub fn list() -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    // IPv4 first: an application's IPv4 socket is listed before the daemon's dual-stack end of it, which is older then.
    for family in [libc::AF_INET, libc::AF_INET6] {
        let listed = dump(SockProtocol::NetlinkSockDiag, &listing(family as u8), |kind, body| {
            if kind == BY_FAMILY {
                entries.extend(entry(body));
            }
        });
        match listed {
            Ok(()) => {}
            Err(Errno::ENOENT) if family == libc::AF_INET6 => {} // a kernel without IPv6
            Err(error) => return Err(named("cannot list TCP sockets", error)),
        }
    }
    Ok(entries)
}

/// Ends a socket of the calling thread's namespace: both sides are told by a reset. One that is gone already is fine.
///
/// # Errors
/// `Unsupported` on a kernel without CONFIG_INET_DIAG_DESTROY, `PermissionDenied` without CAP_NET_ADMIN there.
pub fn destroy(entry: &Entry) -> io::Result<()> {
    let request = request(entry.name.family, 0, &entry.name.id);
    match ask(SockProtocol::NetlinkSockDiag, &message(DESTROY, REQUEST | ACKNOWLEDGE, &request)) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(named("cannot end a TCP connection", error)),
    }
}

fn named(what: &str, error: Errno) -> io::Error {
    let why = if error == Errno::EOPNOTSUPP { ": the kernel is built without CONFIG_INET_DIAG_DESTROY" } else { "" };
    io::Error::new(io::Error::from(error).kind(), format!("{what}: {error}{why}"))
}

fn listing(family: u8) -> Vec<u8> {
    let left_out = (1 << State::TIME_WAIT.0) | (1 << State::CLOSED.0);
    message(BY_FAMILY, REQUEST | DUMP, &request(family, !left_out, &[0; 48]))
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, states: u32, id: &[u8; 48]) -> Vec<u8> {
    let mut bytes = vec![family, libc::IPPROTO_TCP as u8, 0, 0];
    bytes.extend(states.to_ne_bytes());
    bytes.extend(id);
    bytes
}

fn entry(body: &[u8]) -> Option<Entry> {
    let head = body.get(..ENTRY_BYTES)?;
    let (family, state) = (head[0], State(head[1]));
    let id: [u8; 48] = head[4..52].try_into().ok()?;
    let address = |port: usize, ip: usize| -> Option<SocketAddr> {
        let ip = match i32::from(family) {
            libc::AF_INET => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(&id[ip..ip + 4]).ok()?)),
            libc::AF_INET6 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(&id[ip..ip + 16]).ok()?)),
            _ => return None,
        };
        Some(canonical(SocketAddr::new(ip, u16::from_be_bytes([id[port], id[port + 1]]))))
    };
    let flow = Flow { local: address(0, 4)?, remote: address(2, 20)? };
    let mark = attributes(&body[ENTRY_BYTES..]).find(|(kind, _)| *kind == MARK);
    let mark = mark.and_then(|(_, content)| Some(u32::from_ne_bytes(content.try_into().ok()?)));
    Some(Entry { flow, state, mark, name: Name { family, id } })
}

impl Entry {
    /// Tells this socket from every other that ever was.
    pub fn cookie(&self) -> [u8; 8] {
        let mut cookie = [0; 8];
        cookie.copy_from_slice(&self.name.id[40..]);
        cookie
    }

    /// For tests of decisions about sockets: one that differs from every other by its cookie.
    #[doc(hidden)]
    pub fn numbered(number: u8) -> Entry {
        let at = SocketAddr::from(([10, 0, 0, 1], 80));
        let mut id = [0; 48];
        id[40] = number;
        let flow = Flow { local: at, remote: SocketAddr::from(([10, 0, 0, 2], 40_000)) };
        Entry { flow, state: State::ESTABLISHED, mark: Some(0), name: Name { family: libc::AF_INET as u8, id } }
    }

    pub fn is_connection(&self) -> bool {
        self.state != State::LISTEN
    }

    /// # Errors
    /// `PermissionDenied`.
    pub fn known_mark(&self) -> io::Result<u32> {
        let hidden = || io::Error::new(io::ErrorKind::PermissionDenied, "the marks of sockets are shown to CAP_NET_ADMIN only");
        self.mark.ok_or_else(hidden)
    }
}

/// Connections between the namespace and the outside that no socket with one of our marks carries. One that we carry has
/// both ends here, ours and the application's: where we called the application they are each other's mirror; where the
/// application's call was redirected, ours was accepted on one of the ports `redirected_to`.
///
/// # Errors
/// `PermissionDenied` when the marks are not shown to us: without them ours are not told from others.
pub fn uncarried(entries: &[Entry], ours: impl Fn(u32) -> bool, redirected_to: &[u16]) -> io::Result<Vec<Entry>> {
    let mut redirected = BTreeSet::new();
    let mut flows = BTreeSet::new();
    let mut others = Vec::new();
    for entry in entries.iter().filter(|entry| entry.is_connection()) {
        flows.insert(entry.flow);
        if !ours(entry.known_mark()?) {
            others.push(*entry);
        } else if redirected_to.contains(&entry.flow.local.port()) {
            redirected.insert(entry.flow.remote);
        }
    }
    others.retain(|entry| {
        let Flow { local, remote } = entry.flow;
        let loopback = local.ip().is_loopback() || remote.ip().is_loopback();
        !loopback && !redirected.contains(&local) && !flows.contains(&Flow { local: remote, remote: local })
    });
    Ok(others)
}

/// Which side of a connection is here. The kernel does not say who called; but clients get their ports from a range in
/// which nobody listens.
#[derive(Clone, Debug)]
pub struct Servers {
    listening: BTreeSet<u16>,
    clients: RangeInclusive<u16>,
}

impl Servers {
    /// `clients`: `net.ipv4.ip_local_port_range`.
    pub fn of(entries: &[Entry], clients: RangeInclusive<u16>) -> Servers {
        let listening = entries.iter().filter(|entry| !entry.is_connection()).map(|entry| entry.flow.local.port());
        Servers { listening: listening.collect(), clients }
    }

    /// Whether the connection was accepted here. Where a listener is gone since, its port still tells when it is not one
    /// that clients get.
    pub fn accepted(&self, flow: &Flow) -> bool {
        let port = flow.local.port();
        self.listening.contains(&port) || !self.clients.contains(&port)
    }
}

/// From which ports clients of the calling thread's namespace connect.
///
/// # Errors
/// Those of reading the setting.
pub fn client_ports() -> io::Result<RangeInclusive<u16>> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let mut numbers = text.split_ascii_whitespace().map(str::parse::<u16>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok(first..=last),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("ip_local_port_range: {text:?}"))),
    }
}

#[cfg(test)]
mod tests;
