//! Pure: how a pod's traffic is captured, as the text of an nftables ruleset (spec/dataplane.md 2.3, 2.4; design
//! decisions 4 and 13). Besides it a pod needs the rule and the route of [`crate::netlink`].
//!
//! The daemon's packets bear the pod's own mark. It is compared in full, set to 0 on the last hook (so that no process
//! can read it from a packet), and never kept in conntrack, which a root without capabilities may list; what has to be
//! found again there gets [`RETURN_MARK`] instead, which exempts nothing.
//!
//! A redirect looks at SYN only, so that connections older than the rules live on. That alone would be a way around
//! it (a first packet without SYN makes conntrack forget the redirect), hence `input` and `output`: no SYN passes them
//! that was not redirected, and, once the older connections are known, nothing else that conntrack does not know.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use mesh_net::tcp_table::Flow;

use crate::pod::{Ports, Scope};

pub const TABLE: &str = "isthmus";
pub const GUARD_TABLE: &str = "isthmus-guard";
/// The mark of daemons that do not know our extension. Known to everybody, so exempt only while one is connected.
pub const FIXED_MARK: u32 = 0x539;
/// Routes an application's answers to a spoofed client back to the daemon's socket.
pub const RETURN_MARK: u32 = 0x111;
/// Packets of the daemon's calls to the application have a conntrack zone of their own, and the answers the ordinary one: a
/// call has its client's address and a port of our choice, and the client may be using the same port itself, for a
/// connection that would then be taken for ours.
const OWN_CALLS: &str = "meta mark @exempt oif \"lo\" meta l4proto tcp ct original zone set 2";
/// Packets per second with foreign marks that pass (captured like all others): programs may use marks, but searching
/// 2^32 of them at this rate takes 16 months.
const FOREIGN_MARKS_PER_SECOND: u32 = 100;
/// The source of the node's own probes (spec/dataplane.md 0). The host lets nobody else use it ([`crate::host`]).
pub const PROBE_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 7, 127);
pub const PROBE_V6: Ipv6Addr = Ipv6Addr::new(0xfd16, 0x9254, 0x7127, 0x1337, 0xffff, 0xffff, 0xffff, 0xffff);

pub(crate) const OUTBOUND: u16 = 15001;
pub(crate) const INBOUND: u16 = 15006;
pub(crate) const HBONE: u16 = 15008;
pub(crate) const DNS: u16 = 15053;
/// The first packet of a connection and no other: what `listen` reacts to. Other flags (ECN, PSH) may be set.
pub(crate) const SYN: &str = "tcp flags & (fin|syn|rst|ack) == syn";

/// Which packets in the pod are the daemon's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// This pod's own mark: random, neither 0 nor [`FIXED_MARK`] nor [`RETURN_MARK`].
    pub own: u32,
    /// Whether [`FIXED_MARK`] is exempt too.
    pub fixed_too: bool,
}

/// All that decides the rules of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    pub marks: Marks,
    pub scope: Scope,
    /// The node's probes reach the application past the mesh.
    pub probes: bool,
    /// Connections that were open before; `None` while they are not known.
    pub older: Option<BTreeSet<Flow>>,
    /// Whether the daemon's calls are kept apart from what clients send. Not to be changed while there are such calls: each
    /// would be sought where it is not.
    pub apart: bool,
}

/// Whether a table, as nft shows it, keeps the daemon's calls apart.
pub fn keeps_apart(listing: &str) -> bool {
    listing.contains("ct original zone set 2")
}

/// Captures. Replaces what an earlier run installed, in one transaction.
pub fn ruleset(capture: &Capture) -> String {
    let mut chains = vec![
        raw_prerouting(&capture.scope),
        raw_output(capture),
        route_output(),
        nat_prerouting(capture),
        nat_output(&capture.scope),
    ];
    chains.extend(capture.scope.inbound.then(|| input(capture)));
    chains.push(output(capture));
    chains.push(last_postrouting());
    let mut sets = vec![exempt_set(capture.marks)];
    sets.extend(capture.older.iter().flat_map(older_sets));
    table(TABLE, &sets, &chains)
}

/// Captures nothing new, but serves what is open: translations and marks go on until the last connection ends.
pub fn draining(marks: Marks, scope: &Scope, apart: bool) -> String {
    let nat = |hook: &str, priority: &str| chain(hook, &format!("nat-{hook}"), "nat", priority, &[]);
    let chains = [
        raw_prerouting(scope),
        chain("output", "raw-output", "filter", "raw", &zones_of_daemon(scope, apart)),
        route_output(),
        nat("prerouting", "dstnat"), // empty: the kernel translates only while such a chain exists
        nat("output", "-100"),
        last_postrouting(),
    ];
    table(TABLE, &[exempt_set(marks)], &chains)
}

/// Closes a pod: nothing but its loopback passes.
pub fn guard() -> String {
    let closed =
        |lo: &str| vec![format!("{lo} \"lo\" accept"), counted("meta l4proto { tcp, udp }", "drop", "guarded until enrolled")];
    let chains = [
        chain("input", "input", "filter", "filter", &closed("iif")),
        chain("output", "output", "filter", "filter", &closed("oif")),
        chain("forward", "forward", "filter", "filter", &closed("iif")),
    ];
    table(GUARD_TABLE, &[], &chains)
}

/// Opens a guarded pod again.
pub fn unguard() -> String {
    no_table(GUARD_TABLE)
}

/// Removes all of ours.
pub fn removal() -> String {
    no_table(TABLE) + &no_table(GUARD_TABLE)
}

/// Changes whose packets are exempt, and nothing else, in one transaction.
pub fn remark(marks: Marks) -> String {
    format!("flush set inet {TABLE} exempt\nadd element inet {TABLE} exempt {{ {} }}\n", elements(marks))
}

fn elements(marks: Marks) -> String {
    let fixed = if marks.fixed_too { format!(", {FIXED_MARK:#010x}") } else { String::new() };
    format!("{:#010x}{fixed}", marks.own)
}

fn exempt_set(marks: Marks) -> String {
    format!("\tset exempt {{\n\t\ttype mark\n\t\telements = {{ {} }}\n\t}}\n", elements(marks))
}

pub(crate) fn older_sets(older: &BTreeSet<Flow>) -> [String; 2] {
    [
        older_set("older4", "ipv4_addr", older.iter().filter(|f| f.local.is_ipv4())),
        older_set("older6", "ipv6_addr", older.iter().filter(|f| f.local.is_ipv6())),
    ]
}

fn older_set<'a>(name: &str, family: &str, flows: impl Iterator<Item = &'a Flow>) -> String {
    let flows: Vec<String> =
        flows.map(|f| format!("{} . {} . {} . {}", f.local.ip(), f.local.port(), f.remote.ip(), f.remote.port())).collect();
    let elements = match flows.is_empty() {
        true => String::new(),
        false => format!("\t\telements = {{ {} }}\n", flows.join(", ")),
    };
    format!("\tset {name} {{\n\t\ttype {family} . inet_service . {family} . inet_service\n{elements}\t}}\n")
}

/// Answers to the daemon's own DNS queries have a conntrack zone of their own: an application's redirected query may
/// have had the same addresses and ports.
fn raw_prerouting(scope: &Scope) -> String {
    let rules = match scope.dns {
        true => vec!["iif != \"lo\" udp sport 53 ct zone set 1".to_owned()],
        false => vec![],
    };
    chain("prerouting", "raw-prerouting", "filter", "raw", &rules)
}

fn zones_of_daemon(scope: &Scope, apart: bool) -> Vec<String> {
    let dns = scope.dns.then_some("meta mark @exempt udp dport 53 ct zone set 1");
    dns.into_iter().chain(apart.then_some(OWN_CALLS)).map(str::to_owned).collect()
}

/// Who is who, before anything else: marks are searched for slowly, and the probes' address is not the pod's to use.
fn raw_output(capture: &Capture) -> String {
    let mut rules = zones_of_daemon(&capture.scope, capture.apart);
    rules.push("meta mark @exempt accept".to_owned());
    if capture.probes {
        rules.push(counted(&format!("ip saddr {PROBE_V4}"), "drop", "forged probe"));
        rules.push(counted(&format!("ip6 saddr {PROBE_V6}"), "drop", "forged probe"));
    }
    let rate = format!("limit rate over {FOREIGN_MARKS_PER_SECOND}/second burst {FOREIGN_MARKS_PER_SECOND} packets");
    rules.push("meta mark 0 accept".to_owned());
    rules.push("counter comment \"foreign mark\"".to_owned());
    rules.push(counted(&rate, "drop", "foreign marks too fast"));
    chain("output", "raw-output", "filter", "raw", &rules)
}

/// The daemon calls the application with its client's address as source; the answers must not leave by the pod's
/// interface. The daemon's side of such a connection is told from the application's by direction, not by mark alone.
fn route_output() -> String {
    let rules = [
        format!("meta mark @exempt oif \"lo\" ct direction original ct mark set {RETURN_MARK:#x}"),
        "meta mark @exempt accept".to_owned(),
        format!("ct mark {RETURN_MARK:#x} ct direction reply meta mark set {RETURN_MARK:#x}"),
    ];
    chain("output", "route-output", "route", "mangle", &rules)
}

fn nat_prerouting(capture: &Capture) -> String {
    let scope = &capture.scope;
    let mut rules = Vec::new();
    if !scope.virtual_interfaces.is_empty() {
        let from = format!("iifname {{ {} }}", quoted(&scope.virtual_interfaces));
        rules.push(counted(&format!("{from} {SYN}"), &format!("redirect to :{OUTBOUND}"), "outbound of a virtual interface"));
        rules.push(format!("{from} accept"));
    }
    if scope.inbound {
        rules.push("iif \"lo\" accept".to_owned());
        rules.extend(from_probes(capture));
        rules.push(format!("tcp dport {{ {HBONE}{} }} accept", listed(&scope.exclude_inbound)));
        rules.push(counted(SYN, &format!("redirect to :{INBOUND}"), "inbound"));
    }
    chain("prerouting", "nat-prerouting", "nat", "dstnat", &rules)
}

fn nat_output(scope: &Scope) -> String {
    let mut rules = vec!["meta mark @exempt accept".to_owned(), "oif \"lo\" accept".to_owned()];
    if scope.dns {
        rules.push(counted("udp dport 53", &format!("redirect to :{DNS}"), "dns"));
        rules.push(counted(&format!("tcp dport 53 {SYN}"), &format!("redirect to :{DNS}"), "dns"));
    }
    rules.extend(excluded("dport", &scope.exclude_outbound));
    rules.push(counted(SYN, &format!("redirect to :{OUTBOUND}"), "outbound"));
    chain("output", "nat-output", "nat", "-100", &rules)
}

/// After translation: whoever connects from outside ends at the daemon, whatever conntrack made of its packets before.
fn input(capture: &Capture) -> String {
    let scope = &capture.scope;
    let mut rules = vec!["iif \"lo\" accept".to_owned()];
    if !scope.virtual_interfaces.is_empty() {
        rules.push(format!("iifname {{ {} }} tcp dport {OUTBOUND} accept", quoted(&scope.virtual_interfaces)));
    }
    rules.extend(from_probes(capture));
    let ours = format!("tcp dport != {{ {INBOUND}, {HBONE}{} }}", listed(&scope.exclude_inbound));
    rules.push(counted(&format!("{SYN} {ours}"), "drop", "around the capture"));
    chain("input", "input", "filter", "filter", &rules)
}

/// After translation: whoever connects to outside was redirected (`oif` is where the packet was going before).
fn output(capture: &Capture) -> String {
    let scope = &capture.scope;
    let mut rules = vec!["meta mark @exempt accept".to_owned(), "oif \"lo\" accept".to_owned()];
    rules.extend(excluded("dport", &scope.exclude_outbound));
    rules.push(counted(&format!("{SYN} ct status ! dnat"), "drop", "around the capture"));
    if capture.older.is_some() && scope.inbound {
        rules.extend(excluded("sport", &scope.exclude_inbound));
        if capture.probes {
            rules.push(format!("ip daddr {PROBE_V4} accept"));
            rules.push(format!("ip6 daddr {PROBE_V6} accept"));
        }
        rules.push(format!("{SYN} accept"));
        rules.extend(of_no_known_connection());
    }
    chain("output", "output", "filter", "filter", &rules)
}

/// Packets of the application that conntrack would take for the first of a connection, in the middle of one.
pub(crate) fn of_no_known_connection() -> [String; 2] {
    [("ip", "older4"), ("ip6", "older6")].map(|(ip, set)| {
        let unknown = format!("ct state {{ invalid, new }} {ip} saddr . tcp sport . {ip} daddr . tcp dport != @{set}");
        counted(&unknown, "drop", "of no known connection")
    })
}

/// From here on the packet can be seen by others: on loopback, and by packet sockets.
fn last_postrouting() -> String {
    chain("postrouting", "last", "filter", "2147483647", &["meta mark @exempt meta mark set 0".to_owned()])
}

fn from_probes(capture: &Capture) -> Vec<String> {
    match capture.probes {
        true => vec![format!("ip saddr {PROBE_V4} accept"), format!("ip6 saddr {PROBE_V6} accept")],
        false => vec![],
    }
}

pub(crate) fn excluded(port: &str, ranges: &[Ports]) -> Option<String> {
    let all: Vec<String> = ranges.iter().map(Ports::to_string).collect();
    (!all.is_empty()).then(|| format!("tcp {port} {{ {} }} accept", all.join(", ")))
}

pub(crate) fn listed(ranges: &[Ports]) -> String {
    ranges.iter().fold(String::new(), |mut list, range| {
        let _ = write!(list, ", {range}"); // writing to a String cannot fail
        list
    })
}

fn quoted(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|n| format!("\"{n}\"")).collect();
    names.join(", ")
}

pub(crate) fn counted(matches: &str, then: &str, comment: &str) -> String {
    format!("{matches} counter {then} comment \"{comment}\"")
}

pub(crate) fn chain(hook: &str, name: &str, kind: &str, priority: &str, rules: &[String]) -> String {
    let mut text = format!("\tchain {name} {{\n\t\ttype {kind} hook {hook} priority {priority}; policy accept;\n");
    for rule in rules {
        let _ = writeln!(text, "\t\t{rule}");
    }
    text + "\t}\n"
}

/// Adding before deleting makes deleting succeed also when there was no such table.
fn no_table(name: &str) -> String {
    format!("add table inet {name}\ndelete table inet {name}\n")
}

pub(crate) fn table(name: &str, sets: &[String], chains: &[String]) -> String {
    format!("{}table inet {name} {{\n{}{}}}\n", no_table(name), sets.concat(), chains.concat())
}

/// Reads a pod's own mark back from the elements of its `exempt` set.
pub fn own_mark(elements: &[u32]) -> Option<u32> {
    elements.iter().copied().find(|mark| *mark != FIXED_MARK)
}

/// A mark for a pod from random bits; `None` for those that mean something else (ask for others).
pub fn usable_mark(bits: u32) -> Option<u32> {
    // Also not a mark whose low bits others compare: 0x539 and 0x111 under the mask 0xfff (spec/dataplane.md 2.2).
    let taken = bits == 0 || matches!(bits & 0xfff, FIXED_MARK | RETURN_MARK);
    (!taken).then_some(bits)
}

#[cfg(test)]
mod tests;
