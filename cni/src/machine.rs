//! Pure: how the traffic of a machine is captured that is no Kubernetes node, for the daemon in dedicated mode: the text
//! of an nftables ruleset for the machine's own network namespace. Besides it the machine needs the rule and the route of
//! [`crate::netlink`].
//!
//! What differs from a pod's ruleset ([`crate::redirect`]):
//!
//! | | a pod | a machine |
//! |---|---|---|
//! | the daemon is told | by a secret mark | by its user, whom nobody else may become, or its cgroup: nothing is to be kept secret |
//! | packets for others | there are none | are not touched (containers, virtual machines, routing) |
//! | the daemon's own DNS | zone 1 in both directions | zone 1 for its queries alone, so that others' answers are not moved |
//! | ways in that stay open | none | those that the operator names: else a daemon that is down would lock them out |

use std::collections::BTreeSet;

use mesh_net::tcp_table::Flow;

use crate::host::in_cgroup;
use crate::pod::Ports;
use crate::redirect::{
    DNS, HBONE, INBOUND, OUTBOUND, RETURN_MARK, SYN, TABLE, chain, counted, excluded, listed, of_no_known_connection, older_sets,
    table,
};

/// Ways in that are not captured unless the operator says otherwise: remote login, and the daemon's own metrics and
/// readiness.
pub const EXCLUDE_INBOUND: &str = "22,15020,15021";

/// Whose sockets are the daemon's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// A user that runs nothing else, and is not root.
    User(u32),
    /// A cgroup (v2; path below its root) that holds nothing else. The kernel keeps the number that it has when the rules
    /// are loaded: one that is made anew has another one, and the rules have to be loaded again.
    Cgroup(String),
}

/// All that decides the rules of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    pub daemon: Daemon,
    pub dns: bool,
    /// Whether plaintext that arrives goes to 15006.
    pub inbound: bool,
    pub exclude_inbound: Vec<Ports>,
    pub exclude_outbound: Vec<Ports>,
    /// Connections that were open before; `None` while they are not known.
    pub older: Option<BTreeSet<Flow>>,
}

impl Daemon {
    /// # Errors
    /// Why this user cannot be told from the machine's other programs.
    pub fn user(uid: u32) -> Result<Daemon, String> {
        match uid {
            0 => {
                Err("root runs the machine's other programs too: run the daemon as a user of its own, or name its cgroup"
                    .to_owned())
            }
            uid => Ok(Daemon::User(uid)),
        }
    }

    /// # Errors
    /// Why this is no path of a cgroup.
    pub fn cgroup(path: &str) -> Result<Daemon, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.@:".contains(c);
        let good = !path.trim_matches('/').is_empty() && path.chars().all(plain);
        good.then(|| Daemon::Cgroup(path.to_owned()))
            .ok_or_else(|| format!("{path:?} is not the path of a cgroup below its root"))
    }

    /// # Errors
    /// Whose user this is, where /etc/subuid lets somebody without privileges become it.
    pub fn check_delegated(&self, subuid: &str) -> Result<(), String> {
        let Daemon::User(uid) = self else { return Ok(()) };
        match delegated_to(*uid, subuid) {
            Some(owner) => Err(format!(
                "user {uid} is within a range that /etc/subuid gives to {owner}, whose programs may become it and would not be \
                 captured: run the daemon as another user"
            )),
            None => Ok(()),
        }
    }

    fn selector(&self) -> String {
        match self {
            Daemon::User(uid) => format!("meta skuid {uid}"),
            Daemon::Cgroup(path) => in_cgroup(path),
        }
    }
}

/// Who may become this user by newuidmap (subuid(5): `NAME:FIRST:COUNT` a line).
fn delegated_to(uid: u32, subuid: &str) -> Option<&str> {
    subuid.lines().find_map(|line| {
        let mut fields = line.split(':').map(str::trim);
        let (owner, first, count) = (fields.next()?, fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
        (first..first.saturating_add(count)).contains(&u64::from(uid)).then_some(owner)
    })
}

/// Captures. Replaces what an earlier run installed, in one transaction.
pub fn ruleset(capture: &Capture) -> String {
    let daemon = capture.daemon.selector();
    let mut chains = Vec::new();
    if capture.dns {
        // An application's redirected query may have had the same addresses and ports as one of the daemon's own.
        let own = [format!("{daemon} udp dport 53 ct original zone set 1")];
        chains.push(chain("output", "raw-output", "filter", "raw", &own));
    }
    chains.push(route_output(&daemon));
    if capture.inbound {
        chains.push(nat_prerouting(capture));
    }
    chains.push(nat_output(capture, &daemon));
    if capture.inbound {
        chains.push(input(capture));
    }
    chains.push(output(capture, &daemon));
    let sets: Vec<String> = capture.older.iter().flat_map(older_sets).collect();
    table(TABLE, &sets, &chains)
}

/// The daemon calls the application with its client's address as source; the answers must come back to it.
fn route_output(daemon: &str) -> String {
    let rules = [
        format!("{daemon} oif \"lo\" ct direction original ct mark set {RETURN_MARK:#x}"),
        format!("{daemon} accept"),
        format!("ct mark {RETURN_MARK:#x} ct direction reply meta mark set {RETURN_MARK:#x}"),
    ];
    chain("output", "route-output", "route", "mangle", &rules)
}

fn nat_prerouting(capture: &Capture) -> String {
    let rules = [
        "iif \"lo\" accept".to_owned(),
        "fib daddr type != local accept".to_owned(),
        format!("tcp dport {{ {HBONE}{} }} accept", listed(&capture.exclude_inbound)),
        counted(SYN, &format!("redirect to :{INBOUND}"), "inbound"),
    ];
    chain("prerouting", "nat-prerouting", "nat", "dstnat", &rules)
}

fn nat_output(capture: &Capture, daemon: &str) -> String {
    let mut rules = vec![format!("{daemon} accept"), "oif \"lo\" accept".to_owned()];
    if capture.dns {
        rules.push(counted("udp dport 53", &format!("redirect to :{DNS}"), "dns"));
        rules.push(counted(&format!("tcp dport 53 {SYN}"), &format!("redirect to :{DNS}"), "dns"));
    }
    rules.extend(excluded("dport", &capture.exclude_outbound));
    rules.push(counted(SYN, &format!("redirect to :{OUTBOUND}"), "outbound"));
    chain("output", "nat-output", "nat", "-100", &rules)
}

/// After translation: whoever connects from outside ends at the daemon, whatever conntrack made of its packets before.
fn input(capture: &Capture) -> String {
    let ours = format!("tcp dport != {{ {INBOUND}, {HBONE}{} }}", listed(&capture.exclude_inbound));
    let rules = ["iif \"lo\" accept".to_owned(), counted(&format!("{SYN} {ours}"), "drop", "around the capture")];
    chain("input", "input", "filter", "filter", &rules)
}

/// After translation: whoever connects to outside was redirected (`oif` is where the packet was going before). When
/// conntrack has forgotten a connection, the application's bytes do not leave in the clear.
fn output(capture: &Capture, daemon: &str) -> String {
    let mut rules = vec![format!("{daemon} accept"), "oif \"lo\" accept".to_owned()];
    rules.extend(excluded("dport", &capture.exclude_outbound));
    rules.push(counted(&format!("{SYN} ct status ! dnat"), "drop", "around the capture"));
    if capture.older.is_some() && capture.inbound {
        rules.extend(excluded("sport", &capture.exclude_inbound));
        rules.push(format!("{SYN} accept"));
        rules.extend(of_no_known_connection());
    }
    chain("output", "output", "filter", "filter", &rules)
}

#[cfg(test)]
mod tests;
