//! Nodes and the wire between them. Every interface is inside a namespace of ours, so the machine's own network never
//! changes and all of it goes when the namespaces go.

use crate::lab::netns;
use crate::plan::{Addresses, Machine, NodePlan, Plan};

/// The namespaces beside the nodes': the wire with its bridge, and the one that the controller runs in.
pub fn wire_netns(mesh: &str) -> String {
    format!("isthmus-{mesh}-wire")
}

pub fn control_netns(mesh: &str) -> String {
    format!("isthmus-{mesh}-control")
}

/// Where the controller listens.
pub fn control_addresses(machine: &Machine) -> Addresses {
    machine.addresses(0, 2)
}

/// The wire's port of a node; also what a packet socket on the wire listens to.
pub fn wire_port(node: &NodePlan) -> String {
    format!("n{}", node.number)
}

/// The bridge that joins the nodes, and the controller's namespace on it.
pub fn build_wire(machine: &Machine) -> anyhow::Result<()> {
    let (wire, control) = (wire_netns(&machine.mesh), control_netns(&machine.mesh));
    netns::add(&wire)?;
    // No spanning tree, no snooping: the bridge is a plain cable with many ends.
    netns::ip_batch(Some(&wire), "link set lo up\nlink add wire type bridge stp_state 0 mcast_snooping 0\nlink set wire up\n")?;
    netns::add(&control)?;
    join(machine, "control", &control, control_addresses(machine))
}

/// A node: its end of the wire, its gateway address, and forwarding.
pub fn build_node(machine: &Machine, node: &NodePlan) -> anyhow::Result<()> {
    netns::add(&node.netns)?;
    join(machine, &wire_port(node), &node.netns, node.wire)?;
    netns::sysctl(&node.netns, &[("net/ipv4/ip_forward", "1")])?;
    // The pods' gateway address belongs to no cable: packets from the node to any of its pods bear it.
    let mut text = format!("addr add {}/32 dev lo\n", node.gateway.v4);
    if let Some(v6) = node.gateway.v6 {
        netns::sysctl(&node.netns, &[("net/ipv6/conf/all/forwarding", "1")])?;
        text += &format!("addr add {v6}/128 dev lo nodad\n");
    }
    netns::ip_batch(Some(&node.netns), &text)
}

/// Routes between the nodes: each pod subnet lies behind its node.
pub fn connect_nodes(machine: &Machine, plan: &Plan) -> anyhow::Result<()> {
    let control = control_netns(&machine.mesh);
    let everyone = plan.nodes.iter().map(|node| (node.netns.as_str(), Some(node.number))).chain([(control.as_str(), None)]);
    for (netns, own) in everyone {
        let mut text = String::new();
        for node in plan.nodes.iter().filter(|node| Some(node.number) != own) {
            text += &format!("route add 10.244.{}.0/24 via {}\n", node.number, node.wire.v4);
            if let Some(v6) = node.wire.v6 {
                text += &format!("route add fd10:244:0:{:x}::/64 via {v6}\n", node.number);
            }
        }
        netns::ip_batch(Some(netns), &text)?;
    }
    Ok(())
}

/// A cable from namespace `netns` (there: `eth0`) to a port of the wire.
fn join(machine: &Machine, port: &str, netns: &str, addresses: Addresses) -> anyhow::Result<()> {
    let wire = wire_netns(&machine.mesh);
    quiet_ipv6(machine, netns)?;
    netns::ip_batch(None, &format!("link add {port} netns {wire} type veth peer name eth0 netns {netns}\n"))?;
    netns::ip_batch(Some(&wire), &format!("link set {port} master wire\nlink set {port} up\n"))?;
    let mut text = format!("link set lo up\nlink set eth0 up\naddr add {}/24 dev eth0\n", addresses.v4);
    if let Some(v6) = addresses.v6 {
        text += &format!("addr add {v6}/64 dev eth0 nodad\n");
    }
    netns::ip_batch(Some(netns), &text)
}

/// Addresses are given by hand: no router announcements, and no waiting for duplicate address detection.
pub fn quiet_ipv6(machine: &Machine, netns: &str) -> anyhow::Result<()> {
    if !machine.ipv6 {
        return Ok(());
    }
    let settings = ["all", "default"].map(|which| {
        [("disable_ipv6", "0"), ("accept_ra", "0"), ("accept_dad", "0")].map(|(key, value)| (format!("net/ipv6/conf/{which}/{key}"), value))
    });
    let settings: Vec<(&str, &str)> = settings.iter().flatten().map(|(key, value)| (key.as_str(), *value)).collect();
    netns::sysctl(netns, &settings)
}
