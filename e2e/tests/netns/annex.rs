//! One more place on the wire, beside the nodes: a network namespace for a daemon, or for a machine that is no node. It
//! goes with its value, and at the latest with the mesh.

use anyhow::Result;
use isthmus::lab::netns;
use isthmus::lab::node::{control_addresses, wire_netns};
use isthmus::plan::{Addresses, Ids, Machine};

use super::mesh::Mesh;

pub struct Annex<'a> {
    pub netns: String,
    pub addresses: Addresses,
    /// Its end of the cable, in the wire's namespace.
    port: &'static str,
    mesh: &'a Mesh,
}

impl Annex<'_> {
    /// `port`: a name for its cable; `host`: the number of its address on the wire (nodes and the controller are below 20).
    pub fn build<'a>(mesh: &'a Mesh, port: &'static str, host: u8) -> Result<Annex<'a>> {
        let addresses = lab(mesh).addresses(0, host);
        let annex = Annex { netns: format!("isthmus-{}-{port}", mesh.name), addresses, port, mesh };
        let (netns, wire) = (&annex.netns, wire_netns(&mesh.name));
        netns::add(netns)?;
        let quiet = ["all", "default"].map(|which| (format!("net/ipv6/conf/{which}/accept_dad"), "0"));
        netns::sysctl(netns, &quiet.each_ref().map(|(key, value)| (key.as_str(), *value)))?;
        netns::ip_batch(None, &format!("link add {port} netns {wire} type veth peer name eth0 netns {netns}\n"))?;
        netns::ip_batch(Some(&wire), &format!("link set {port} master wire\nlink set {port} up\n"))?;
        let mut text = format!("link set lo up\nlink set eth0 up\naddr add {}/24 dev eth0\n", addresses.v4);
        text += &addresses.v6.map_or(String::new(), |v6| format!("addr add {v6}/64 dev eth0 nodad\n"));
        netns::ip_batch(Some(netns), &text)?;
        Ok(annex)
    }

    /// Routes to the pods of all nodes, and by the first node to everything else.
    pub fn join_pods(&self) -> Result<()> {
        let state = self.mesh.state();
        let mut text = String::new();
        for node in &state.nodes {
            text += &format!("route add 10.244.{}.0/24 via {}\n", node.number, node.wire.v4);
            text += &node.wire.v6.map_or(String::new(), |v6| format!("route add fd10:244:0:{:x}::/64 via {v6}\n", node.number));
        }
        let first = &state.nodes[0].wire;
        text += &format!("route add default via {}\n", first.v4);
        text += &first.v6.map_or(String::new(), |v6| format!("route add default via {v6}\n"));
        netns::ip_batch(Some(&self.netns), &text)
    }

    /// Where the controller answers.
    pub fn controller(&self) -> String {
        format!("https://{}:15012", control_addresses(&lab(self.mesh)).v4)
    }

    /// A sample of the daemon that runs here.
    pub fn metric(&self, family: &str, with: &[&str]) -> Option<f64> {
        let text = self.mesh.rt.block_on(isthmus::mesh::ask::get(&self.netns, 15020, "/metrics")).ok()?;
        let text = String::from_utf8_lossy(&text);
        let mut samples = text.lines().filter(|line| line.starts_with(family) && with.iter().all(|label| line.contains(label)));
        samples.next()?.rsplit(' ').next()?.parse().ok()
    }
}

/// The machine that the mesh runs on, as far as addresses go by it.
fn lab(mesh: &Mesh) -> Machine {
    Machine { mesh: mesh.name.clone(), ipv6: true, ids: Ids::Shared }
}

impl Drop for Annex<'_> {
    fn drop(&mut self) {
        let _ = netns::delete(&self.netns);
        let _ = netns::ip_batch(Some(&wire_netns(&self.mesh.name)), &format!("link del {}\n", self.port));
    }
}
