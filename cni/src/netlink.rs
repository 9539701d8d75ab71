//! The routing rule and the route that a captured pod needs: what bears the return mark is delivered locally
//! (spec/dataplane.md 2.2).

use std::io;
use std::net::IpAddr;

use mesh_net::netlink::{self, Monitor};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use crate::redirect::RETURN_MARK;

/// Before the main table (32766), like the field's.
const PRIORITY: u32 = 32764;
const TABLE: u8 = 100;
/// The index of `lo` in every namespace.
const LOOPBACK_INDEX: u32 = 1;

/// Which of the two families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Add,
    Remove,
}

/// Adds or removes rule and route for a family, in the calling thread's namespace. Adding what is there, and removing
/// what is not, succeed. Whether something was changed.
///
/// # Errors
/// Those of netlink, with what was being changed in the text.
pub fn change(family: Family, change: Change) -> io::Result<bool> {
    let mut changed = false;
    for (what, message) in [("route", route(family, change)), ("rule", rule(family, change))] {
        match (change, netlink::ask(SockProtocol::NetlinkRoute, &message)) {
            (_, Ok(())) => changed = true,
            (Change::Add, Err(Errno::EEXIST)) | (Change::Remove, Err(Errno::ENOENT | Errno::ESRCH)) => {}
            (_, Err(errno)) => {
                let text = format!("cannot {} the {family:?} {what} of table {TABLE}: {errno}", change.verb());
                return Err(io::Error::new(io::Error::from(errno).kind(), text));
            }
        }
    }
    Ok(changed)
}

/// Hears of changes to rules and routes of routing in the calling thread's namespace.
///
/// # Errors
/// Those of netlink.
pub fn routes_monitor() -> io::Result<Monitor> {
    const GROUPS: [u32; 4] = [7, 8, 11, 19]; // RTNLGRP_IPV4_ROUTE, IPV4_RULE, IPV6_ROUTE, IPV6_RULE
    Monitor::open(SockProtocol::NetlinkRoute, GROUPS.iter().fold(0, |mask, group| mask | 1 << (group - 1)))
}

/// Hears of changes to nftables in the calling thread's namespace.
///
/// # Errors
/// Those of netlink.
pub fn tables_monitor() -> io::Result<Monitor> {
    const GROUP: u32 = 7; // NFNLGRP_NFTABLES
    Monitor::open(SockProtocol::NetlinkNetFilter, 1 << (GROUP - 1))
}

/// `ip route … local default dev lo table 100`
fn route(family: Family, change: Change) -> Vec<u8> {
    const LOCAL: u8 = 2; // RTN_LOCAL
    const STATIC: u8 = 4; // RTPROT_STATIC
    const SCOPE_HOST: u8 = 254;
    let kind = if change == Change::Add { libc::RTM_NEWROUTE } else { libc::RTM_DELROUTE };
    let head = [family.number(), 0, 0, 0, TABLE, STATIC, SCOPE_HOST, LOCAL, 0, 0, 0, 0];
    message(kind, change, &head, &[(libc::RTA_OIF, LOOPBACK_INDEX)])
}

/// `ip rule … pref 32764 fwmark 0x111 lookup 100`
fn rule(family: Family, change: Change) -> Vec<u8> {
    const TO_TABLE: u8 = 1; // FR_ACT_TO_TBL
    const FRA_PRIORITY: u16 = 6;
    const FRA_FWMARK: u16 = 10;
    const FRA_FWMASK: u16 = 16;
    let kind = if change == Change::Add { libc::RTM_NEWRULE } else { libc::RTM_DELRULE };
    let head = [family.number(), 0, 0, 0, TABLE, 0, 0, TO_TABLE, 0, 0, 0, 0];
    message(kind, change, &head, &[(FRA_PRIORITY, PRIORITY), (FRA_FWMARK, RETURN_MARK), (FRA_FWMASK, u32::MAX)])
}

/// A message with 32-bit attributes, as rtnetlink(7) lays it out.
fn message(kind: u16, change: Change, head: &[u8; 12], attributes: &[(u16, u32)]) -> Vec<u8> {
    let create = if change == Change::Add { (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16 } else { 0 };
    let mut body = head.to_vec();
    attributes.iter().for_each(|(name, value)| body.extend(netlink::attribute(*name, *value)));
    netlink::message(kind, netlink::REQUEST | netlink::ACKNOWLEDGE | create, &body)
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub index: u32,
    /// The index of its other end, where that is in another namespace.
    pub peer: Option<u32>,
}

/// The interfaces of the calling thread's namespace.
///
/// # Errors
/// Those of netlink.
pub fn links() -> io::Result<Vec<Link>> {
    let mut links = Vec::new();
    let question = netlink::message(libc::RTM_GETLINK, netlink::REQUEST | netlink::DUMP, &[0; 16]);
    netlink::dump(SockProtocol::NetlinkRoute, &question, |kind, body| {
        if kind == libc::RTM_NEWLINK {
            links.extend(link(body));
        }
    })?;
    Ok(links)
}

/// `struct ifinfomsg` and its attributes.
fn link(body: &[u8]) -> Option<Link> {
    let index = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
    let attributes = body.get(16..)?;
    let attribute = |wanted: u16| netlink::attributes(attributes).find(|(kind, _)| *kind == wanted).map(|(_, content)| content);
    let name = String::from_utf8_lossy(attribute(libc::IFLA_IFNAME)?).trim_end_matches('\0').to_owned();
    // Both ends may have the same index, each in its own namespace: the number of the other namespace tells.
    let elsewhere = attribute(libc::IFLA_LINK_NETNSID).is_some();
    let peer = attribute(libc::IFLA_LINK).and_then(|content| Some(u32::from_ne_bytes(content.try_into().ok()?)));
    Some(Link { name, index, peer: peer.filter(|peer| elsewhere && *peer != 0) })
}

/// The addresses of the calling thread's namespace.
///
/// # Errors
/// Those of netlink.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    let question = netlink::message(libc::RTM_GETADDR, netlink::REQUEST | netlink::DUMP, &[0; 8]);
    netlink::dump(SockProtocol::NetlinkRoute, &question, |kind, body| {
        if kind == libc::RTM_NEWADDR {
            addresses.extend(address(body));
        }
    })?;
    Ok(addresses)
}

/// `struct ifaddrmsg` and its attributes; the own address where the link names both ends.
fn address(body: &[u8]) -> Option<IpAddr> {
    let attributes = || netlink::attributes(body.get(8..).unwrap_or_default());
    let find = |wanted: u16| attributes().find(|(kind, _)| *kind == wanted).map(|(_, content)| content);
    let content = find(libc::IFA_LOCAL).or_else(|| find(libc::IFA_ADDRESS))?;
    match content.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(content).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(content).ok()?)),
        _ => None,
    }
}

impl Change {
    fn verb(self) -> &'static str {
        match self {
            Change::Add => "add",
            Change::Remove => "remove",
        }
    }
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Family::V4 => libc::AF_INET as u8,
            Family::V6 => libc::AF_INET6 as u8,
        }
    }
}
