//! The TCP connections that the kernel tracks in a network namespace (ctnetlink), and the end of what it remembers of one.
//!
//! Pure: what is read from the kernel's answer. Conntrack looks at packets only while some rule of the namespace wants it
//! to; what it knew when the last such rule went stays, unchanged, for up to five days.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use crate::netlink::{ACKNOWLEDGE, DUMP, REQUEST, ask, attributes, dump, message};

/// One way of a connection, as its packets say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Way {
    pub from: SocketAddr,
    pub to: SocketAddr,
}

/// What conntrack knows of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// Of the packets of who called, before any translation.
    pub there: Way,
    /// Of the answers, before they are translated back.
    pub back: Way,
    pub state: State,
    /// The attributes that name it to the kernel, and its family.
    name: (u8, Vec<u8>),
}

/// As in `include/uapi/linux/netfilter/nf_conntrack_tcp.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State(pub u8);

impl State {
    pub const SYN_RECEIVED: State = State(2);
    pub const ESTABLISHED: State = State(3);
    pub const LAST_ACK: State = State(6);
    pub const TIME_WAIT: State = State(7);

    /// Whether a SYN of who called is taken for one that got lost, not for the first packet of a new connection: nothing
    /// then looks at it that looks at new connections only, a redirect for example (`tcp_conntracks` in
    /// `net/netfilter/nf_conntrack_proto_tcp.c`).
    pub fn takes_no_syn(self) -> bool {
        (State::SYN_RECEIVED.0..=State::LAST_ACK.0).contains(&self.0)
    }
}

/// `NFNL_SUBSYS_CTNETLINK`, and in it `IPCTNL_MSG_CT_NEW`, `_GET` and `_DELETE`.
const NEW: u16 = 0x100;
const GET: u16 = 0x101;
const DELETE: u16 = 0x102;
/// `struct nfgenmsg`: family, version, a number that is not used here.
const HEAD_BYTES: usize = 4;
/// Bits of an attribute's kind that only say how it is written.
const KIND: u16 = 0x3fff;
/// `CTA_*` of `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.
const TUPLE_THERE: u16 = 1;
const TUPLE_BACK: u16 = 2;
const PROTOCOL_INFO: u16 = 4;
const ID: u16 = 12;
const ZONE: u16 = 18;

/// All TCP connections that are tracked in the calling thread's namespace. Walks the whole machine's table.
///
/// # Errors
/// Those of netlink; `Unsupported` or the like on a kernel without CONFIG_NF_CT_NETLINK.
pub fn list() -> io::Result<Vec<Tracked>> {
    let mut all = Vec::new();
    let question = message(GET, REQUEST | DUMP, &[libc::AF_UNSPEC as u8, 0, 0, 0]);
    let listed = dump(SockProtocol::NetlinkNetFilter, &question, |kind, body| {
        if kind == NEW {
            all.extend(tracked(body));
        }
    });
    listed.map_err(|error| named("cannot list tracked connections", error))?;
    Ok(all)
}

/// Forgets what is known of one in the calling thread's namespace: its next packet is judged as that of a new one. One
/// that is gone already is fine.
///
/// # Errors
/// `PermissionDenied` without CAP_NET_ADMIN there.
pub fn forget(tracked: &Tracked) -> io::Result<()> {
    let (family, name) = &tracked.name;
    let body = [&[*family, 0, 0, 0][..], name].concat();
    match ask(SockProtocol::NetlinkNetFilter, &message(DELETE, REQUEST | ACKNOWLEDGE, &body)) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(named("cannot forget a tracked connection", error)),
    }
}

fn named(what: &str, error: Errno) -> io::Error {
    io::Error::new(io::Error::from(error).kind(), format!("{what}: {error}"))
}

/// `None` for what is no TCP connection.
fn tracked(body: &[u8]) -> Option<Tracked> {
    let (head, rest) = (body.get(..HEAD_BYTES)?, body.get(HEAD_BYTES..)?);
    let (mut there, mut back, mut state, mut name) = (None, None, None, Vec::new());
    for (kind, content) in attributes(rest) {
        match kind & KIND {
            TUPLE_THERE => there = Some(way(content)?),
            TUPLE_BACK => back = Some(way(content)?),
            PROTOCOL_INFO => state = Some(tcp_state(content)?),
            _ => {}
        }
        if [TUPLE_THERE, ID, ZONE].contains(&(kind & KIND)) {
            name.extend(((4 + content.len()) as u16).to_ne_bytes());
            name.extend(kind.to_ne_bytes());
            name.extend(content);
            name.resize(name.len().next_multiple_of(4), 0);
        }
    }
    Some(Tracked { there: there?, back: back?, state: state?, name: (head[0], name) })
}

/// `CTA_TUPLE_IP` and `CTA_TUPLE_PROTO`, each with attributes of its own.
fn way(tuple: &[u8]) -> Option<Way> {
    let within = |wanted: u16, bytes| attributes(bytes).find(|(kind, _)| kind & KIND == wanted).map(|(_, content)| content);
    let (addresses, protocol) = (within(1, tuple)?, within(2, tuple)?);
    let address = |v4: u16, v6: u16| -> Option<IpAddr> {
        match within(v4, addresses) {
            Some(bytes) => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
            None => Some(Ipv6Addr::from(<[u8; 16]>::try_from(within(v6, addresses)?).ok()?).into()),
        }
    };
    let port = |kind: u16| Some(u16::from_be_bytes(within(kind, protocol)?.try_into().ok()?));
    let is_tcp = *within(1, protocol)? == [libc::IPPROTO_TCP as u8];
    is_tcp.then_some(())?;
    Some(Way { from: SocketAddr::new(address(1, 3)?, port(2)?), to: SocketAddr::new(address(2, 4)?, port(3)?) })
}

/// `CTA_PROTOINFO_TCP`, and in it `CTA_PROTOINFO_TCP_STATE`.
fn tcp_state(info: &[u8]) -> Option<State> {
    let (_, tcp) = attributes(info).find(|(kind, _)| kind & KIND == 1)?;
    let (_, state) = attributes(tcp).find(|(kind, _)| kind & KIND == 1)?;
    state.first().copied().map(State)
}

impl Tracked {
    /// For tests of decisions about them.
    #[doc(hidden)]
    pub fn made_up(there: Way, back: Way, state: State) -> Tracked {
        Tracked { there, back, state, name: (0, Vec::new()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
        let mut bytes = [&((4 + content.len()) as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), content].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn nested(kind: u16, within: &[Vec<u8>]) -> Vec<u8> {
        attribute(kind | libc::NLA_F_NESTED as u16, &within.concat())
    }

    fn tuple(kind: u16, from: &str, to: &str, protocol: i32) -> Vec<u8> {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let address = |number: u16, ip: IpAddr| match ip {
            IpAddr::V4(ip) => attribute(number, &ip.octets()),
            IpAddr::V6(ip) => attribute(number + 2, &ip.octets()),
        };
        let port = |number: u16, port: u16| attribute(number, &port.to_be_bytes());
        let addresses = nested(1, &[address(1, from.ip()), address(2, to.ip())]);
        nested(kind, &[addresses, nested(2, &[attribute(1, &[protocol as u8]), port(2, from.port()), port(3, to.port())])])
    }

    fn body(from: &str, to: &str, ended_at: &str, protocol: i32) -> Vec<u8> {
        let info = nested(PROTOCOL_INFO, &[nested(1, &[attribute(1, &[3]), attribute(2, &[7])])]);
        let parts = [tuple(TUPLE_THERE, from, to, protocol), tuple(TUPLE_BACK, ended_at, from, protocol), info, attribute(ID, &[1, 2, 3, 4]), attribute(99, b"?")];
        [&[libc::AF_INET as u8, 0, 0, 0][..], &parts.concat()].concat()
    }

    #[test]
    fn a_connection_is_read_with_its_translation_and_its_name() {
        for (from, to, ended_at) in [("10.0.0.7:4000", "10.0.1.5:80", "10.0.1.5:15006"), ("[fd00::7]:4000", "[fd00::5]:80", "[fd00::5]:80")] {
            let read = tracked(&body(from, to, ended_at, libc::IPPROTO_TCP)).unwrap();
            let at = |text: &str| text.parse().unwrap();
            assert_eq!(read.there, Way { from: at(from), to: at(to) });
            assert_eq!(read.back, Way { from: at(ended_at), to: at(from) });
            assert_eq!(read.state, State::ESTABLISHED);
            let name = [tuple(TUPLE_THERE, from, to, libc::IPPROTO_TCP), attribute(ID, &[1, 2, 3, 4])].concat();
            assert_eq!(read.name, (libc::AF_INET as u8, name), "by what it is called to be forgotten");
        }
    }

    #[test]
    fn what_is_no_tcp_connection_and_what_is_cut_short_is_left_out() {
        assert_eq!(tracked(&body("10.0.0.7:4000", "10.0.1.5:53", "10.0.1.5:53", libc::IPPROTO_UDP)), None);
        let whole = body("10.0.0.7:4000", "10.0.1.5:80", "10.0.1.5:80", libc::IPPROTO_TCP);
        let needed = whole.len() - attribute(ID, &[0; 4]).len() - attribute(99, b"?").len();
        for length in 0..needed {
            assert_eq!(tracked(&whole[..length]), None, "{length}");
        }
    }

    #[test]
    fn states_in_which_a_syn_is_none() {
        let none: Vec<u8> = (0..=9).filter(|state| State(*state).takes_no_syn()).collect();
        assert_eq!(none, [2, 3, 4, 5, 6]);
    }
}
