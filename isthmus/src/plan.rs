//! The decision what to build: objects of the folder in, nodes and pods with addresses, names and commands out.
//! Pure. A pod keeps its slot (address, interface, user ids) for as long as it lives: the `Slots` remember.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::objects::{Complaint, Container, Found, Objects, PodName, PodObject, SecurityContext, ServiceObject, TargetPort};

/// The label by which a namespace or a pod is in the mesh (spec/dataplane.md 4.4).
pub const MODE_LABEL: &str = "istio.io/dataplane-mode";
/// Pods per node: the host part of a /24 without the network's own addresses.
const SLOTS_MAX: u8 = 240;
/// The first host number of a pod; lower ones are the node's own.
const FIRST_SLOT: u8 = 10;
/// Where service addresses lie: the usual ranges of clusters, IPv6 with the longest prefix that Kubernetes takes.
const SERVICE_RANGES: [&str; 2] = ["10.96.0.0/16", "fd10:96::/108"];
/// Service addresses that are given out; of 10.96.0.0/16, the usual range of clusters, the upper half.
const FIRST_VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 128, 1);
const VIPS_MAX: u32 = 0x7ffe;
/// More nodes than this on one machine are a mistake in a file, not a wish.
const NODES_MAX: usize = 32;

/// What the machine can give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub mesh: String,
    pub ipv6: bool,
    pub ids: Ids,
}

/// Which user ids pods get on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ids {
    /// Each pod has `count` ids of its own, the first pod from `first` on.
    Own { first: u32, count: u32 },
    /// There is one id only, that of the user who runs `up`: all pods share it.
    Shared,
}

/// Everything to build.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub nodes: Vec<NodePlan>,
    pub pods: BTreeMap<PodName, PodPlan>,
    pub routes: Vec<ServiceRoute>,
    /// Addresses of services whose authors left them to the cluster.
    pub vips: BTreeMap<PodName, Ipv4Addr>,
}

/// A node: a network namespace on the wire, with a subnet for its pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePlan {
    pub name: String,
    /// 1 and up; part of every address of the node.
    pub number: u8,
    pub netns: String,
    pub wire: Addresses,
    pub gateway: Addresses,
}

/// One address of each family; IPv6 is absent where the kernel has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    pub v4: Ipv4Addr,
    pub v6: Option<Ipv6Addr>,
}

/// A pod to run.
#[derive(Clone, Debug, PartialEq)]
pub struct PodPlan {
    pub name: PodName,
    pub uid: String,
    pub node: String,
    pub netns: String,
    /// The node's end of the pod's cable.
    pub veth: String,
    pub addresses: Addresses,
    pub service_account: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub enrolled: bool,
    pub slot: Slot,
    pub containers: Vec<Run>,
    pub ports: BTreeMap<String, u16>,
}

/// A process of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub container: String,
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub directory: Option<String>,
    pub user: Option<u32>,
    pub group: Option<u32>,
}

/// A service address and where a pod outside the mesh is sent for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRoute {
    pub service: PodName,
    pub vip: IpAddr,
    pub port: u16,
    pub udp: bool,
    pub to: Vec<(IpAddr, u16)>,
}

/// Which pod has which place. Kept between plans.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    pods: BTreeMap<PodName, Slot>,
    services: BTreeMap<PodName, Ipv4Addr>,
}

/// The place of a pod: on a node, and on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub node: String,
    pub host: u8,
    /// Unique on the machine while the pod lives; picks the user ids.
    pub order: u32,
    pub uid: String,
}

/// Plans what the objects ask for. `uid` makes a fresh Kubernetes-like uid for a pod that has none.
pub fn plan(machine: &Machine, objects: &Objects, slots: &mut Slots, mut uid: impl FnMut() -> String) -> (Plan, Vec<Complaint>) {
    let mut complaints = Vec::new();
    let nodes = nodes(machine, objects);
    slots.pods.retain(|name, _| objects.pods.contains_key(name));
    let vips = slots.vips(objects);
    let mut pods = BTreeMap::new();
    for (name, found) in &objects.pods {
        match plan_pod(machine, objects, &nodes, name, &found.object, slots, &mut uid) {
            Ok(pod) => {
                pods.insert(name.clone(), pod);
            }
            Err(problem) => complaints.push(at(found, format!("Pod {name}: {problem}"))),
        }
    }
    let routes = routes(objects, &vips, &pods);
    (Plan { nodes, pods, routes, vips }, complaints)
}

/// What is in the objects and has no effect on one machine; told once, so that nobody waits for it.
pub fn without_effect(objects: &Objects) -> Vec<Complaint> {
    let mut told = Vec::new();
    for (name, found) in &objects.pods {
        let spec = &found.object.spec;
        let mut fields: BTreeSet<String> = spec.rest.keys().map(|key| format!("spec.{key}")).collect();
        for container in &spec.containers {
            fields.extend(container.rest.keys().map(|key| format!("spec.containers[].{key}")));
        }
        // These describe what holds anyway: a command is always started again.
        fields.remove("spec.restartPolicy");
        if !fields.is_empty() {
            let fields = fields.into_iter().collect::<Vec<_>>().join(", ");
            told.push(at(found, format!("Pod {name}: {fields} has no effect on one machine")));
        }
    }
    told
}

/// Takes out pods on nodes that were not there at the start: nodes are fixed then.
pub fn refuse_strange_nodes(objects: &mut Objects) -> Vec<Complaint> {
    let known = &objects.nodes;
    let names = known.iter().cloned().collect::<Vec<_>>().join(", ");
    let mut complaints = Vec::new();
    objects.pods.retain(|name, found| {
        let strange = found.object.spec.node_name.as_ref().filter(|node| !known.contains(*node));
        let problem = |node| format!("Pod {name}: node {node:?} was not there when the mesh started; start it anew, or name one of: {names}");
        complaints.extend(strange.map(|node| at(found, problem(node))));
        strange.is_none()
    });
    complaints
}

fn at(found: &Found<PodObject>, problem: String) -> Complaint {
    Complaint { file: found.file.clone(), line: found.line, problem, is_syntax: false }
}

/// Nodes that objects name, and as many of our own as it takes to have two.
fn nodes(machine: &Machine, objects: &Objects) -> Vec<NodePlan> {
    let mut names: BTreeSet<String> = objects.nodes.clone();
    names.extend(objects.pods.values().filter_map(|found| found.object.spec.node_name.clone()));
    for number in 1.. {
        if names.len() >= 2 {
            break;
        }
        names.insert(format!("node-{number}"));
    }
    names.into_iter().take(NODES_MAX).enumerate().map(|(index, name)| node(machine, name, index as u8 + 1)).collect()
}

fn node(machine: &Machine, name: String, number: u8) -> NodePlan {
    NodePlan {
        netns: format!("isthmus-{}-{name}", machine.mesh),
        name,
        number,
        wire: machine.addresses(0, FIRST_SLOT + number),
        gateway: machine.addresses(number, 1),
    }
}

impl Machine {
    /// Host `host` of subnet `subnet`; subnet 0 is the wire between the nodes.
    pub fn addresses(&self, subnet: u8, host: u8) -> Addresses {
        let v6 = Ipv6Addr::new(0xfd10, 0x244, 0, u16::from(subnet), 0, 0, 0, u16::from(host));
        Addresses { v4: Ipv4Addr::new(10, 244, subnet, host), v6: self.ipv6.then_some(v6) }
    }
}

/// The ranges of pods and services, as `MESH_RANGES` takes them: the pod subnet of each node, and the service ranges
/// that `up` and authors take addresses from. The wire between the nodes is none of them.
pub fn mesh_ranges(nodes: &[NodePlan]) -> Vec<String> {
    let mut ranges: Vec<String> = SERVICE_RANGES.map(str::to_owned).into();
    for node in nodes {
        ranges.push(format!("{}/24", Ipv4Addr::from_bits(node.gateway.v4.to_bits() & !0xff)));
        ranges.extend(node.gateway.v6.map(|v6| format!("{}/64", Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64))));
    }
    ranges
}

impl Addresses {
    pub fn all(&self) -> Vec<IpAddr> {
        std::iter::once(IpAddr::V4(self.v4)).chain(self.v6.map(IpAddr::V6)).collect()
    }
}

impl Plan {
    pub fn node(&self, name: &str) -> Option<&NodePlan> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

impl PodPlan {
    /// Whether a change from `self` to `next` needs the pod to be started anew; labels and annotations do not.
    pub fn is_same_process(&self, next: &PodPlan) -> bool {
        (&self.uid, &self.node, &self.addresses, &self.service_account, &self.containers)
            == (&next.uid, &next.node, &next.addresses, &next.service_account, &next.containers)
    }
}

fn plan_pod(
    machine: &Machine,
    objects: &Objects,
    nodes: &[NodePlan],
    name: &PodName,
    pod: &PodObject,
    slots: &mut Slots,
    uid: &mut impl FnMut() -> String,
) -> Result<PodPlan, String> {
    if pod.spec.host_network {
        return Err("spec.hostNetwork: a node here runs only the mesh's own programs; remove the field".to_owned());
    }
    let slot = slots.place(name, pod, nodes, uid)?;
    let node = nodes.iter().find(|node| node.name == slot.node).ok_or("its node is gone")?;
    let addresses = machine.addresses(node.number, slot.host);
    let facts = Facts { name, uid: &slot.uid, node: &slot.node, addresses, service_account: pod.spec.service_account_name.as_deref().unwrap_or("default") };
    let containers = pod
        .spec
        .containers
        .iter()
        .map(|container| run(container, pod.spec.security_context.as_ref(), &facts, machine.ids))
        .collect::<Result<Vec<_>, _>>()?;
    if containers.is_empty() {
        return Err("spec.containers is empty: one with a command is needed".to_owned());
    }
    let ports = pod.spec.containers.iter().flat_map(|c| &c.ports).filter_map(|port| Some((port.name.clone()?, port.container_port))).collect();
    Ok(PodPlan {
        name: name.clone(),
        uid: slot.uid.clone(),
        node: slot.node.clone(),
        netns: format!("isthmus-{}-{}.{}", machine.mesh, name.namespace, name.name),
        veth: format!("pod{}", slot.order),
        addresses,
        service_account: facts.service_account.to_owned(),
        labels: pod.metadata.labels.clone(),
        annotations: pod.metadata.annotations.clone(),
        enrolled: is_wanted(objects.namespaces.get(&name.namespace), &pod.metadata.labels, &pod.metadata.annotations),
        slot,
        containers,
        ports,
    })
}

/// Whether a pod is to be in the mesh, by its namespace's labels and its own labels and annotations: the default
/// selectors of ambient (spec/dataplane.md 4.4).
pub fn is_wanted(namespace: Option<&BTreeMap<String, String>>, labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) -> bool {
    if annotations.contains_key("sidecar.istio.io/status") {
        return false;
    }
    let of_pod = labels.get(MODE_LABEL).map(String::as_str);
    let of_namespace = namespace.and_then(|labels| labels.get(MODE_LABEL)).map(String::as_str);
    of_pod == Some("ambient") || (of_namespace == Some("ambient") && of_pod != Some("none"))
}

struct Facts<'a> {
    name: &'a PodName,
    uid: &'a str,
    node: &'a str,
    addresses: Addresses,
    service_account: &'a str,
}

fn run(container: &Container, of_pod: Option<&SecurityContext>, facts: &Facts<'_>, ids: Ids) -> Result<Run, String> {
    let place = format!("container {}", container.name);
    let command: Vec<String> = container.command.iter().chain(&container.args).cloned().collect();
    if container.command.is_empty() {
        return Err(format!("{place}: command is missing; there are no images here that it could come from"));
    }
    let mut env = BTreeMap::new();
    for variable in &container.env {
        env.insert(variable.name.clone(), variable_value(variable, facts).map_err(|problem| format!("{place}: env {}: {problem}", variable.name))?);
    }
    let pick = |of: fn(&SecurityContext) -> Option<u32>| container.security_context.as_ref().and_then(of).or(of_pod.and_then(of));
    let (user, group) = (pick(|c| c.run_as_user), pick(|c| c.run_as_group));
    for (field, id) in [("runAsUser", user), ("runAsGroup", group)] {
        let limit = match ids {
            Ids::Own { count, .. } => count,
            Ids::Shared => 1,
        };
        if id.is_some_and(|id| id >= limit) {
            return Err(format!("{place}: {field} must be below {limit}: that is how many user ids a pod has here (as root: 65536)"));
        }
    }
    Ok(Run { container: container.name.clone(), command, env, directory: container.working_dir.clone(), user, group })
}

fn variable_value(variable: &crate::objects::EnvVar, facts: &Facts<'_>) -> Result<String, String> {
    let Some(source) = &variable.value_from else {
        return Ok(variable.value.clone().unwrap_or_default());
    };
    let path = source.pointer("/fieldRef/fieldPath").and_then(|path| path.as_str());
    Ok(match path {
        Some("metadata.name") => facts.name.name.clone(),
        Some("metadata.namespace") => facts.name.namespace.clone(),
        Some("metadata.uid") => facts.uid.to_owned(),
        Some("spec.nodeName") => facts.node.to_owned(),
        Some("spec.serviceAccountName") => facts.service_account.to_owned(),
        Some("status.podIP") => facts.addresses.v4.to_string(),
        Some(other) => return Err(format!("fieldRef {other:?} is not known here; use metadata.name, metadata.namespace, metadata.uid, spec.nodeName, spec.serviceAccountName or status.podIP")),
        None => return Err("valueFrom can only be a fieldRef here; give a value".to_owned()),
    })
}

impl Slots {
    /// The pod's place: the one it has, or a free one on the node it names or on the emptiest.
    fn place(&mut self, name: &PodName, pod: &PodObject, nodes: &[NodePlan], uid: &mut impl FnMut() -> String) -> Result<Slot, String> {
        let wanted = pod.spec.node_name.as_deref();
        if let Some(slot) = self.pods.get(name)
            && wanted.is_none_or(|node| node == slot.node)
        {
            return Ok(slot.clone());
        }
        let node = match wanted {
            Some(node) => node.to_owned(),
            None => nodes.iter().min_by_key(|node| self.on(&node.name).count()).ok_or("there is no node")?.name.clone(),
        };
        if !nodes.iter().any(|known| known.name == node) {
            let known = nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(format!("spec.nodeName {node:?} is not a node of this mesh ({known})"));
        }
        let taken: BTreeSet<u8> = self.on(&node).map(|slot| slot.host).collect();
        let host = (FIRST_SLOT..FIRST_SLOT + SLOTS_MAX).find(|host| !taken.contains(host)).ok_or_else(|| format!("node {node} is full: {SLOTS_MAX} pods"))?;
        let orders: BTreeSet<u32> = self.pods.values().map(|slot| slot.order).collect();
        let order = (0..).find(|order| !orders.contains(order)).expect("there are fewer pods than numbers");
        let slot = Slot { node, host, order, uid: pod.metadata.uid.clone().unwrap_or_else(uid) };
        self.pods.insert(name.clone(), slot.clone());
        Ok(slot)
    }

    fn on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Slot> {
        self.pods.values().filter(move |slot| slot.node == node)
    }

    /// Addresses for services that have none and want one; a service keeps what it was given. Addresses below are
    /// left to authors who write their own.
    fn vips(&mut self, objects: &Objects) -> BTreeMap<PodName, Ipv4Addr> {
        let wants = |name: &PodName| objects.services.get(name).is_some_and(|service| service.spec.wants_address());
        self.services.retain(|name, _| wants(name));
        for name in objects.services.keys().filter(|name| wants(name)) {
            if !self.services.contains_key(name) {
                let taken: BTreeSet<Ipv4Addr> = self.services.values().copied().collect();
                let free = (0..VIPS_MAX).map(|number| Ipv4Addr::from(u32::from(FIRST_VIP) + number)).find(|vip| !taken.contains(vip));
                self.services.extend(free.map(|vip| (name.clone(), vip)));
            }
        }
        self.services.clone()
    }

    /// The next plan gives this pod a new uid: it is started anew.
    pub fn forget(&mut self, name: &PodName) {
        self.pods.remove(name);
    }
}

/// Where each service address leads, for pods whose traffic the mesh does not carry.
fn routes(objects: &Objects, vips: &BTreeMap<PodName, Ipv4Addr>, pods: &BTreeMap<PodName, PodPlan>) -> Vec<ServiceRoute> {
    let mut routes = Vec::new();
    for (name, ServiceObject { spec: service, .. }) in &objects.services {
        let given = vips.get(name).map(Ipv4Addr::to_string);
        let texts = if service.cluster_ips.is_empty() { service.cluster_ip.iter().chain(&given).collect::<Vec<_>>() } else { service.cluster_ips.iter().collect() };
        let selected: Vec<&PodPlan> = pods.values().filter(|pod| pod.name.namespace == name.namespace && selects(&service.selector, &pod.labels)).collect();
        for vip in texts.into_iter().filter_map(|text| text.parse::<IpAddr>().ok()) {
            for port in &service.ports {
                let udp = port.protocol.as_deref() == Some("UDP");
                let to = selected.iter().filter_map(|pod| Some((same_family(vip, &pod.addresses)?, target(port.port, port.target_port.as_ref(), pod)?))).collect();
                routes.push(ServiceRoute { service: name.clone(), vip, port: port.port, udp, to });
            }
        }
    }
    routes
}

/// A service without a selector selects nothing (its endpoints are given by hand).
fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn same_family(vip: IpAddr, pod: &Addresses) -> Option<IpAddr> {
    match vip {
        IpAddr::V4(_) => Some(IpAddr::V4(pod.v4)),
        IpAddr::V6(_) => pod.v6.map(IpAddr::V6),
    }
}

fn target(port: u16, target: Option<&TargetPort>, pod: &PodPlan) -> Option<u16> {
    match target {
        None => Some(port),
        Some(TargetPort::Number(number)) => Some(*number),
        Some(TargetPort::Name(name)) => pod.ports.get(name).copied(),
    }
}

#[cfg(test)]
mod tests;
