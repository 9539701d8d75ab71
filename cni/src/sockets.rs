//! Pure: what the sockets of a pod's namespace mean to its rules.

use std::collections::BTreeSet;
use std::io;

use mesh_net::tcp_table::{Entry, Flow, Servers, uncarried};

use crate::pod::{Ports, Scope};
use crate::redirect::{FIXED_MARK, Marks, PROBE_V4, PROBE_V6};

/// Where the daemon accepts connections (spec/dataplane.md 1.1).
const DAEMON_PORTS: [u16; 4] = [15001, 15006, 15008, 15080];
/// Where an application's own connections are redirected to.
const REDIRECTED_TO: [u16; 2] = [15001, 15053];
/// More connections than that at enrolment are not followed one by one: each is an element of a set in the kernel.
pub const OLDER_MAX: usize = 20_000;

/// Connections between the pod and the outside that the daemon does not carry.
///
/// # Errors
/// When the kernel does not show whose they are.
pub fn bypassing(entries: &[Entry], marks: Marks) -> io::Result<Vec<Entry>> {
    uncarried(entries, |mark| marks.are(mark), &REDIRECTED_TO)
}

/// How many connections the daemon has accepted in the pod and still holds.
pub fn carried(entries: &[Entry], marks: Marks) -> usize {
    let ours = |e: &&Entry| e.is_connection() && e.mark.is_some_and(|mark| marks.are(mark));
    entries.iter().filter(ours).filter(|e| DAEMON_PORTS.contains(&e.flow.local.port())).count()
}

/// Of those that bypass: connections that came about while the rules were not in force. Not those that are known to be
/// older, and not those that the rules let pass.
pub fn strays(bypassing: &[Entry], servers: &Servers, scope: &Scope, probes: bool, older: &BTreeSet<Flow>) -> Vec<Entry> {
    let within = |ranges: &[Ports], port: u16| ranges.iter().any(|r| (r.first..=r.last).contains(&port));
    let passes = |flow: &Flow| {
        let peer = flow.remote.ip();
        let probe = probes && (peer == PROBE_V4 || peer == PROBE_V6);
        match servers.accepted(flow) {
            true => probe || !scope.inbound || within(&scope.exclude_inbound, flow.local.port()),
            false => within(&scope.exclude_outbound, flow.remote.port()),
        }
    };
    // A socket whose peer has ended may only hold what is still to be read.
    let open = bypassing.iter().filter(|e| e.state.is_open());
    open.filter(|e| !older.contains(&e.flow) && !passes(&e.flow)).copied().collect()
}

impl Marks {
    fn are(self, mark: u32) -> bool {
        mark == self.own || self.fixed_too && mark == FIXED_MARK
    }
}

#[cfg(test)]
mod tests;
