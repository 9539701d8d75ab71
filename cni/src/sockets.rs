//! Pure: what the sockets of a pod's namespace mean to its rules.

use std::collections::BTreeSet;
use std::io;

use mesh_net::conntrack::{Tracked, Way};
use mesh_net::net::canonical;
use mesh_net::tcp_table::{Entry, Flow, Servers, uncarried};

use crate::pod::{Ports, Scope};
use crate::redirect::{DNS, FIXED_MARK, INBOUND, Marks, OUTBOUND, PROBE_V4, PROBE_V6};

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
    uncarried(entries, |entry| Ok(marks.are(entry.known_mark()?)), &REDIRECTED_TO)
}

/// The same on a machine that is no node, whose daemon marks nothing: what it accepted is told by the port.
///
/// # Errors
/// None.
pub fn bypassing_on_machine(entries: &[Entry]) -> io::Result<BTreeSet<Flow>> {
    let past_us = uncarried(entries, |entry| Ok(DAEMON_PORTS.contains(&entry.flow.local.port())), &REDIRECTED_TO)?;
    Ok(past_us.iter().map(|entry| entry.flow).collect())
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

/// What conntrack remembers of connections that ended while it did not look, since no rule of the pod wanted it to: whoever
/// calls from one of their ports again is taken for them, and so past every redirect. Only what our rules leave: nothing
/// that somebody else translates.
pub fn forgotten_ends(tracked: Vec<Tracked>, entries: &[Entry]) -> Vec<Tracked> {
    let there_are: BTreeSet<Flow> = entries.iter().filter(|entry| entry.is_connection()).map(|entry| entry.flow).collect();
    let is_there = |way: &Way| {
        let (from, to) = (canonical(way.from), canonical(way.to));
        there_are.contains(&Flow { local: from, remote: to }) || there_are.contains(&Flow { local: to, remote: from })
    };
    let is_ours = |one: &Tracked| {
        let (source_stays, target) = (one.back.to == one.there.from, one.back.from);
        source_stays && (target == one.there.to || [OUTBOUND, INBOUND, DNS].contains(&target.port()))
    };
    let mut ended = tracked;
    ended.retain(|one| one.state.takes_no_syn() && is_ours(one) && !is_there(&one.there) && !is_there(&one.back));
    ended
}

impl Marks {
    fn are(self, mark: u32) -> bool {
        mark == self.own || self.fixed_too && mark == FIXED_MARK
    }
}

#[cfg(test)]
mod tests;
