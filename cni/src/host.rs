//! Pure: the rules of the node's own network namespace, so that the kubelet's probes reach applications past the mesh
//! and nobody else can (spec/dataplane.md 2.4, 2.5; spec/reliability.md T-05).
//!
//! The kubelet's own sockets, told by user or cgroup, get the probes' source address on their way to an enrolled pod.
//! Whatever *arrives* at the node with that address is forged: dropped from every interface when it is routed, and from
//! a pod's own interface before a bridge could pass it on.

use std::fmt::Write;
use std::net::IpAddr;

use crate::redirect::{PROBE_V4, PROBE_V6};

pub const TABLE: &str = "isthmus-probes";

/// Whose connections from the node to a pod are probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeSender {
    /// Processes of this user. Where that is root, every root process of the node's namespace is meant.
    User(u32),
    /// Processes of this cgroup (v2; path below its root), the exact way.
    Cgroup(String),
}

/// The table of the node, for these pods' addresses, in one transaction.
pub fn ruleset(sender: &ProbeSender, pods: &[IpAddr]) -> String {
    let sender = match sender {
        ProbeSender::User(uid) => format!("meta skuid {uid}"),
        ProbeSender::Cgroup(path) => in_cgroup(path),
    };
    let mut text = format!("add table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
    for (name, family, v4) in [("pods4", "ipv4_addr", true), ("pods6", "ipv6_addr", false)] {
        let ips: Vec<String> = pods.iter().filter(|ip| ip.is_ipv4() == v4).map(IpAddr::to_string).collect();
        let elements = if ips.is_empty() { String::new() } else { format!("\t\telements = {{ {} }}\n", ips.join(", ")) };
        let _ = write!(text, "\tset {name} {{\n\t\ttype {family}\n{elements}\t}}\n"); // a String takes all
    }
    let _ = write!(
        text,
        "\tchain forged {{\n\t\ttype filter hook prerouting priority raw; policy accept;\n\
         \t\tiif \"lo\" accept\n\
         \t\tip saddr {PROBE_V4} counter drop comment \"forged probe\"\n\
         \t\tip6 saddr {PROBE_V6} counter drop comment \"forged probe\"\n\t}}\n\
         \tchain probes {{\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\tmeta l4proto tcp {sender} ip daddr @pods4 counter snat ip to {PROBE_V4}\n\
         \t\tmeta l4proto tcp {sender} ip6 daddr @pods6 counter snat ip6 to {PROBE_V6}\n\t}}\n}}\n"
    );
    text
}

/// Sockets of a cgroup (v2; path below its root), and of no cgroup below another.
pub(crate) fn in_cgroup(path: &str) -> String {
    let path = path.trim_matches('/');
    format!("socket cgroupv2 level {} \"{path}\"", path.split('/').count())
}

/// Undoes all of it.
pub fn removal() -> String {
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\nadd table netdev {TABLE}\ndelete table netdev {TABLE}\n")
}

/// What a pod's own interface may not send. One transaction per pod: it fails when the interface is gone, and then
/// must not take others along. The chain goes with its interface.
pub fn interface_ruleset(uid: &str, interface: &str) -> String {
    let chain = format!("netdev {TABLE} pod-{uid}");
    format!(
        "add table netdev {TABLE}\n\
         add chain {chain} {{ type filter hook ingress device \"{interface}\" priority -500; policy accept; }}\n\
         flush chain {chain}\n\
         add rule {chain} ip saddr {PROBE_V4} counter drop comment \"forged probe\"\n\
         add rule {chain} ip6 saddr {PROBE_V6} counter drop comment \"forged probe\"\n"
    )
}

/// Undoes [`interface_ruleset`] for an interface that lives on.
pub fn interface_removal(uid: &str) -> String {
    format!("delete chain netdev {TABLE} pod-{uid}\n")
}

#[cfg(test)]
mod tests;
