//! Pure: what `/proc/net/tcp` and `/proc/net/tcp6` say about the connections of a network namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A TCP connection as its socket in the pod sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// A socket of the table. States are those of `include/net/tcp_states.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub flow: Flow,
    pub state: u8,
}

const TIME_WAIT: u8 = 6;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;
/// Where the daemon accepts connections (spec/dataplane.md 1.1).
const DAEMON_PORTS: [u16; 4] = [15001, 15006, 15008, 15080];
/// More connections than that at enrolment are not followed one by one: each is an element of a set in the kernel.
pub const OLDER_MAX: usize = 20_000;

/// The sockets of one table; lines that are no sockets (the head) are left out. IPv4 in IPv6 form becomes IPv4.
pub fn parse(text: &str) -> Vec<Entry> {
    text.lines().filter_map(entry).collect()
}

/// Connections to the outside that no rule of ours redirected: both ends in the namespace means that the other end is
/// the daemon (or the pod talking to itself).
pub fn bypassing(entries: &[Entry]) -> BTreeSet<Flow> {
    let live = || entries.iter().filter(|e| is_connection(e)).map(|e| e.flow);
    let mut redirected: BTreeMap<SocketAddr, ()> = BTreeMap::new();
    let mut all: BTreeSet<Flow> = BTreeSet::new();
    for flow in live() {
        all.insert(flow);
        if DAEMON_PORTS.contains(&flow.local.port()) {
            redirected.insert(flow.remote, ());
        }
    }
    live()
        .filter(|f| !f.local.ip().is_loopback() && !f.remote.ip().is_loopback())
        .filter(|f| !DAEMON_PORTS.contains(&f.local.port()))
        .filter(|f| !redirected.contains_key(&f.local))
        .filter(|f| !all.contains(&Flow { local: f.remote, remote: f.local }))
        .collect()
}

/// Connections that the daemon holds in this namespace.
pub fn carried(entries: &[Entry]) -> usize {
    entries.iter().filter(|e| is_connection(e) && DAEMON_PORTS.contains(&e.flow.local.port())).count()
}

fn is_connection(entry: &Entry) -> bool {
    !matches!(entry.state, TIME_WAIT | CLOSE | LISTEN)
}

/// `  0: 0100007F:1F90 0100007F:A1B2 01 …`
fn entry(line: &str) -> Option<Entry> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = address(fields.next()?)?;
    let remote = address(fields.next()?)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    Some(Entry { flow: Flow { local, remote }, state })
}

/// The address is printed as 32-bit words in the machine's own byte order, the port as a number.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for n in 0..4 {
                bytes[n * 4..n * 4 + 4].copy_from_slice(&word(n * 8)?);
            }
            IpAddr::from(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests;
