//! What a pod finds in /etc: its own name, and where names are asked for. Pure.

use std::collections::BTreeSet;

use crate::plan::{Plan, PodPlan};

/// The pod's /etc/hosts: itself, and, when no mesh answers its DNS questions, the services by their names.
pub fn hosts(pod: &PodPlan, plan: &Plan, meshed: bool) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost\n");
    for ip in pod.addresses.all() {
        text += &format!("{ip}\t{}\n", pod.name.name);
    }
    if meshed && pod.enrolled {
        return text;
    }
    let mut seen = BTreeSet::new();
    for route in plan.routes.iter().filter(|route| seen.insert((route.vip, &route.service))) {
        let (name, namespace) = (&route.service.name, &route.service.namespace);
        let short = if *namespace == pod.name.namespace { format!(" {name}") } else { String::new() };
        text += &format!("{}\t{name}.{namespace}.svc.cluster.local {name}.{namespace}.svc {name}.{namespace}{short}\n", route.vip);
    }
    text
}

/// As the kubelet writes it. The mesh answers; nothing is at the address itself.
pub fn resolv_conf(namespace: &str) -> String {
    format!("search {namespace}.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5 timeout:2\n")
}
