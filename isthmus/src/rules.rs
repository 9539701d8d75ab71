//! A node's own ruleset, as text for `nft -f -`: no pod may send with an address that is not its own, and service
//! addresses lead to pods for those whose traffic the mesh does not carry (what kube-proxy does in a cluster). Pure.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::plan::{NodePlan, Plan, PodPlan, ServiceRoute};

/// The ruleset of `node`; applying it again replaces the one before in one transaction.
pub fn node_ruleset(plan: &Plan, node: &NodePlan) -> String {
    let pods: Vec<&PodPlan> = plan.pods.values().filter(|pod| pod.node == node.name).collect();
    let mut text = String::from("table inet isthmus_node\ndelete table inet isthmus_node\ntable inet isthmus_node {\n");
    antispoof(&mut text, &pods);
    services(&mut text, &plan.routes);
    text.push_str("}\n");
    text
}

fn antispoof(text: &mut String, pods: &[&PodPlan]) {
    text.push_str("  chain antispoof {\n    type filter hook prerouting priority raw; policy accept;\n    iifname != \"pod*\" accept\n");
    for pod in pods {
        let _ = writeln!(text, "    iifname \"{}\" ip saddr {} accept", pod.veth, pod.addresses.v4);
        if let Some(v6) = pod.addresses.v6 {
            // Neighbour discovery speaks from link-local addresses, and from :: while an address is checked.
            let _ = writeln!(text, "    iifname \"{}\" ip6 saddr {{ {v6}, fe80::/10, :: }} accept", pod.veth);
        }
    }
    text.push_str("    counter drop\n  }\n");
}

fn services(text: &mut String, routes: &[ServiceRoute]) {
    text.push_str("  chain services {\n    type nat hook prerouting priority dstnat; policy accept;\n");
    for route in routes.iter().filter(|route| !route.to.is_empty()) {
        let (family, dnat) = match route.vip {
            IpAddr::V4(_) => ("ip", "ip"),
            IpAddr::V6(_) => ("ip6", "ip6"),
        };
        let protocol = if route.udp { "udp" } else { "tcp" };
        let to: Vec<String> = route.to.iter().enumerate().map(|(index, (ip, port))| format!("{index} : {ip} . {port}")).collect();
        let _ = writeln!(
            text,
            "    {family} daddr {} {protocol} dport {} dnat {dnat} to numgen random mod {} map {{ {} }}",
            route.vip,
            route.port,
            to.len(),
            to.join(", ")
        );
    }
    text.push_str("  }\n");
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use expect_test::expect;

    use super::*;
    use crate::objects::{self, Objects};
    use crate::plan::{Ids, Machine, Slots, plan};

    #[test]
    fn a_node_lets_its_pods_speak_only_for_themselves() {
        let mut read = Objects::default();
        let text = "kind: Pod\nmetadata: {name: a, labels: {app: a}}\nspec: {nodeName: n, containers: [{name: c, command: [x]}]}\n---\n\
                    kind: Service\nmetadata: {name: a}\nspec: {clusterIP: 10.96.0.1, selector: {app: a}, ports: [{port: 80, targetPort: 8080}]}\n---\n\
                    kind: Service\nmetadata: {name: gone}\nspec: {clusterIP: 10.96.0.2, selector: {app: b}, ports: [{port: 53, protocol: UDP}]}\n";
        assert_eq!(objects::read(Path::new("a"), text, &mut read), []);
        let machine = Machine { mesh: "t".into(), ipv6: true, ids: Ids::Shared };
        let (plan, _) = plan(&machine, &read, &mut Slots::default(), String::new);
        expect![[r#"
            table inet isthmus_node
            delete table inet isthmus_node
            table inet isthmus_node {
              chain antispoof {
                type filter hook prerouting priority raw; policy accept;
                iifname != "pod*" accept
                iifname "pod0" ip saddr 10.244.1.10 accept
                iifname "pod0" ip6 saddr { fd10:244:0:1::a, fe80::/10, :: } accept
                counter drop
              }
              chain services {
                type nat hook prerouting priority dstnat; policy accept;
                ip daddr 10.96.0.1 tcp dport 80 dnat ip to numgen random mod 1 map { 0 : 10.244.1.10 . 8080 }
              }
            }
        "#]]
        .assert_eq(&node_ruleset(&plan, plan.node("n").unwrap()));
    }
}
