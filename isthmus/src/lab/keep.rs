//! The keeper of a running mesh: brings the machine to what the folder asks for, and keeps it there. One writer of the
//! state; `tick` is called again and again and reads top to bottom.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::sync::watch;

use crate::folder::Folder;
use crate::lab::bin::Bin;
use crate::lab::desk::Desk;
use crate::lab::inside::InsideSpec;
use crate::lab::member::Member;
use crate::lab::pod::{self, Places, Prepared};
use crate::lab::process::ProcessId;
use crate::lab::state::{Program, State};
use crate::lab::supervise::Supervised;
use crate::lab::{etc, netns, node};
use crate::mesh::{self, agent, token};
use crate::objects::{Complaint, Objects, PodName};
use crate::plan::{Machine, Plan, PodPlan, Slots, plan, refuse_strange_nodes, without_effect};
use crate::published;
use crate::rules::node_ruleset;
use crate::lab::waypoints::Waypoints;
use crate::say::{self, News};
use crate::waypoint;

/// A mesh on this machine, seen by the process that runs it.
#[derive(Debug)]
pub struct Lab {
    machine: Machine,
    bin: Bin,
    folder: Folder,
    objects: Objects,
    slots: Slots,
    plan: Plan,
    pods: BTreeMap<PodName, Member>,
    programs: Vec<Supervised>,
    waypoints: Waypoints,
    tokens: Option<token::Tokens>,
    desk: Desk,
    state: State,
    told: watch::Sender<State>,
    complaints: News,
    findings: News,
}

impl Lab {
    /// Builds nodes and wire, and starts the mesh. Pods come with the first `tick`s.
    pub async fn build(machine: Machine, folder: Folder, run: &Path, meshed: bool) -> anyhow::Result<Lab> {
        let bin = Bin::own()?;
        // Before anything is made: without them nothing would come of it.
        let needed = if meshed { ["isthmus-shop", "istiod-lite", "mesh-cni", "waypoint", "ztunnel"].as_slice() } else { &["isthmus-shop"] };
        needed.iter().try_for_each(|program| bin.find(program).map(drop))?;
        let state = State {
            mesh: machine.mesh.clone(),
            up: ProcessId::own().context("cannot read /proc/self/stat")?,
            run: run.to_owned(),
            folder: folder.path.clone(),
            meshed,
            ids: machine.ids,
            netns: vec![node::wire_netns(&machine.mesh), node::control_netns(&machine.mesh)],
            nodes: Vec::new(),
            programs: Vec::new(),
            pods: Vec::new(),
            ready: false,
        };
        state.save()?;
        let mut lab = Lab {
            machine,
            bin,
            folder,
            objects: Objects::default(),
            slots: Slots::default(),
            plan: Plan::default(),
            pods: BTreeMap::new(),
            programs: Vec::new(),
            waypoints: Waypoints::default(),
            tokens: None,
            desk: Desk::default(),
            told: watch::Sender::new(state.clone()),
            state,
            complaints: News::default(),
            findings: News::default(),
        };
        lab.read_folder()?;
        lab.build_nodes()?;
        if meshed {
            lab.start_mesh()?;
        }
        Ok(lab)
    }

    /// Follows the state from another task.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.told.subscribe()
    }

    /// Nodes are fixed from here on: a pod that names another one later is refused with a complaint.
    fn build_nodes(&mut self) -> anyhow::Result<()> {
        let (mut objects, _) = self.folder.objects();
        waypoint::lab::expand(&mut objects);
        let (plan, _) = plan(&self.machine, &objects, &mut self.slots, new_uid);
        self.state.netns.extend(plan.nodes.iter().map(|node| node.netns.clone()));
        self.state.nodes = plan.nodes.clone();
        self.state.save()?;
        node::build_wire(&self.machine)?;
        for node in &plan.nodes {
            node::build_node(&self.machine, node).with_context(|| format!("cannot build node {}", node.name))?;
        }
        node::connect_nodes(&self.machine, &plan)?;
        self.replan()
    }

    fn start_mesh(&mut self) -> anyhow::Result<()> {
        let tokens = token::Tokens::new(&self.state)?;
        self.publish()?;
        for spec in mesh::programs(&self.machine, &self.state, &self.bin)? {
            self.programs.push(Supervised::start(spec)?);
        }
        self.tokens = Some(tokens);
        self.tell()
    }

    /// One round. Everything that is wrong for now is said, not returned; only what makes going on pointless is an error.
    pub async fn tick(&mut self) -> anyhow::Result<()> {
        if self.read_folder()? {
            self.replan()?;
        }
        self.tend_programs()?;
        self.stop_what_is_gone().await?;
        self.prepare_what_is_new().await?;
        self.look_after_pods();
        self.tend_waypoints().await?;
        self.publish()?; // before they start: the controller hears of captured pods when there is nothing yet to call
        self.start_what_is_ready().await;
        self.tell()
    }

    fn read_folder(&mut self) -> anyhow::Result<bool> {
        let look = self.folder.look()?;
        // Where a controller reads the same files, it says what is wrong with their form, and knows more kinds.
        let ours = look.complaints.iter().filter(|complaint| !(self.state.meshed && complaint.is_syntax));
        ours.for_each(|complaint| say::warning(&complaint.to_string()));
        Ok(look.changed)
    }

    /// Decides anew what should be there, and applies what takes no time: the nodes' rules.
    fn replan(&mut self) -> anyhow::Result<()> {
        let (mut objects, mut complaints) = self.folder.objects();
        waypoint::lab::expand(&mut objects);
        objects.nodes = self.state.nodes.iter().map(|node| node.name.clone()).collect();
        complaints.extend(refuse_strange_nodes(&mut objects));
        let (mut next, more) = plan(&self.machine, &objects, &mut self.slots, new_uid);
        complaints.extend(more);
        complaints.extend(without_effect(&objects));
        self.complaints.pass_on(complaints.iter().map(Complaint::to_string).collect());
        let is_another = |pod: &&PodPlan| self.pods.get(&pod.name).is_some_and(|old| !old.plan.is_same_process(pod));
        let changed: Vec<PodName> = next.pods.values().filter(is_another).map(|pod| pod.name.clone()).collect();
        if !changed.is_empty() {
            // A pod cannot change what it runs: it is replaced by a new one of the same name.
            changed.iter().for_each(|name| self.slots.forget(name));
            next = plan(&self.machine, &objects, &mut self.slots, new_uid).0;
        }
        for pod in next.pods.values() {
            if let Some(old) = self.pods.get_mut(&pod.name).filter(|old| old.plan.is_same_process(pod)) {
                old.plan = pod.clone();
            }
        }
        self.plan = next;
        self.objects = objects;
        self.apply_node_rules()
    }

    /// The nodes' rules, for the pods that are to be and for those that still end: a pod whose packets were dropped
    /// could not tell its peers that it goes.
    fn apply_node_rules(&self) -> anyhow::Result<()> {
        let mut ruled = self.plan.clone();
        for (name, pod) in &self.pods {
            ruled.pods.entry(name.clone()).or_insert_with(|| pod.plan.clone());
        }
        for node in &ruled.nodes {
            netns::nft(&node.netns, &node_ruleset(&ruled, node))?;
        }
        Ok(())
    }

    /// Programs that ended start again, tokens are renewed, and what the controller finds wrong is passed on.
    fn tend_programs(&mut self) -> anyhow::Result<()> {
        self.programs.iter_mut().filter_map(Supervised::tend).for_each(|what| say::warning(&what));
        if let Some(tokens) = &mut self.tokens {
            tokens.renew_if_due()?;
            self.findings.pass_on(mesh::controller::findings(&mesh::status_file(&self.state.run)));
        }
        Ok(())
    }

    /// Each waypoint's pod that runs has its program; one that is gone has none.
    async fn tend_waypoints(&mut self) -> anyhow::Result<()> {
        let Some(tokens) = self.tokens.as_mut() else { return Ok(()) };
        for (name, pod) in &self.pods {
            let Some(gateway) = waypoint::lab::gateway_of(name, &pod.plan.labels).filter(|_| pod.is_running()) else { continue };
            if self.waypoints.has(name, &pod.plan.uid) {
                continue;
            }
            let plan = &pod.plan;
            let of_pod = token::OfPod { namespace: name.namespace.clone(), name: name.name.clone(), uid: plan.uid.clone(), account: plan.service_account.clone(), node: plan.node.clone() };
            tokens.add(of_pod.clone())?;
            let spec = mesh::waypoint(&self.machine, plan, &gateway, &of_pod, &self.state, &self.bin)?;
            self.waypoints.start(name.clone(), plan.uid.clone(), gateway, spec).await?;
        }
        let runs = |name: &PodName, uid: &str| self.pods.get(name).is_some_and(|pod| pod.plan.uid == uid && pod.is_running());
        self.waypoints.tend(runs).await.into_iter().for_each(|what| say::warning(&what));
        Ok(())
    }

    /// Agents and controller are told first, so that nobody calls a pod that is being stopped.
    async fn stop_what_is_gone(&mut self) -> anyhow::Result<()> {
        let is_gone = |name: &PodName, pod: &Member| self.plan.pods.get(name).is_none_or(|next| !pod.plan.is_same_process(next));
        let (gone, kept): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.pods).into_iter().partition(|(name, pod)| is_gone(name, pod));
        self.pods = kept;
        if gone.is_empty() {
            return Ok(());
        }
        self.publish()?;
        for pod in gone.into_values() {
            pod.stop().await;
        }
        self.apply_node_rules()
    }

    async fn prepare_what_is_new(&mut self) -> anyhow::Result<()> {
        self.pods.retain(|_, pod| !pod.is_to_be_tried_again());
        let new: Vec<PodPlan> = self.plan.pods.values().filter(|pod| !self.pods.contains_key(&pod.name)).cloned().collect();
        for pod in new {
            // Written first, so that a crash in between leaves nothing unknown.
            self.state.netns.push(pod.netns.clone());
            self.state.save()?;
            let log = self.state.run.join("logs").join(format!("{}.{}.log", pod.name.namespace, pod.name.name));
            let prepared = self.prepare(&pod, &log).await;
            self.pods.insert(pod.name.clone(), Member::new(pod, log, prepared));
        }
        Ok(())
    }

    async fn prepare(&self, pod: &PodPlan, log: &Path) -> anyhow::Result<Prepared> {
        let node = self.plan.node(&pod.node).context("the pod's node is gone")?;
        let folder = self.state.run.join("pods").join(format!("{}.{}", pod.name.namespace, pod.name.name));
        let places = Places { folder: folder.clone(), log: log.to_owned(), isthmus: self.bin.find("isthmus")?, shop: self.bin.find("isthmus-shop")? };
        let programs = [("isthmus", &places.isthmus), ("isthmus-shop", &places.shop)].map(|(name, path)| (name.to_owned(), path.clone())).into();
        let spec = InsideSpec {
            hostname: pod.name.name.chars().take(63).collect(),
            staging: folder.join("run"),
            root: pod::first_id(self.machine.ids, pod),
            hosts: etc::hosts(pod, &self.plan, self.state.meshed),
            resolv_conf: etc::resolv_conf(&pod.name.namespace),
            programs,
            containers: pod.containers.clone(),
        };
        pod::prepare(&self.machine, node, pod, &places, &spec).await
    }

    /// Hears what the nodes' agents say, and notices pods and commands that ended.
    fn look_after_pods(&mut self) {
        for (name, pod) in &mut self.pods {
            if self.state.meshed {
                pod.enrolment.hear(agent::redirection(&self.state.run, &pod.plan.node, name, &pod.plan.uid));
            }
            pod.look();
        }
    }

    async fn start_what_is_ready(&mut self) {
        for pod in self.pods.values_mut() {
            pod.start_if_ready(self.state.meshed).await;
        }
    }

    /// What agents and controller read.
    fn publish(&mut self) -> anyhow::Result<()> {
        if !self.state.meshed {
            return Ok(());
        }
        let objects = self.state.run.join("objects");
        let mut files: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
        for node in &self.plan.nodes {
            files.insert(objects.join(format!("node.{}.yaml", node.name)), yaml(&published::node(node))?);
        }
        for (name, vip) in &self.plan.vips {
            let Some(service) = self.objects.services.get(name) else { continue };
            files.insert(objects.join(format!("service.{}.{}.yaml", name.namespace, name.name)), yaml(&published::service(&service.whole, *vip))?);
        }
        for (name, pod) in &self.pods {
            let (Some(node), Some(found), Some(mut seen)) = (self.plan.node(&pod.plan.node), self.objects.pods.get(name), pod.seen()) else { continue };
            seen.running &= waypoint::lab::gateway_of(name, &pod.plan.labels).is_none() || self.waypoints.is_ready(name);
            files.insert(objects.join(format!("pod.{}.{}.yaml", name.namespace, name.name)), yaml(&published::pod(&found.object.whole, &pod.plan, node, &seen))?);
            files.insert(agent::pod_file(&self.state.run, &pod.plan.node, name), agent::pod_file_content(&pod.plan, seen.running));
        }
        for (name, found) in self.objects.gateways.iter().filter(|(name, _)| self.pods.contains_key(&waypoint::lab::instance(name))) {
            let object = waypoint::lab::published(&found.object, name, self.waypoints.was_ready(name));
            files.insert(objects.join(format!("gateway.{}.{}.yaml", name.namespace, name.name)), yaml(&object)?);
        }
        self.desk.lay_out(files)
    }

    /// Writes the state file and wakes those who watch, if something changed.
    fn tell(&mut self) -> anyhow::Result<()> {
        let mut next = self.state.clone();
        next.programs = self.programs.iter().chain(self.waypoints.programs()).map(program_state).collect();
        next.pods = self.pods.values().map(Member::state).collect();
        next.netns.retain(|name| netns::exists(name));
        let settled = self.pods.len() == self.plan.pods.len() && self.pods.values().all(Member::is_settled);
        let is_waypoint_ready = |name: &PodName, pod: &Member| waypoint::lab::gateway_of(name, &pod.plan.labels).is_none() || self.waypoints.is_ready(name);
        let waypoints = !self.state.meshed || self.pods.iter().all(|(name, pod)| is_waypoint_ready(name, pod));
        next.ready = self.state.ready || (settled && waypoints);
        if serde_json::to_value(&next)? != serde_json::to_value(&self.state)? {
            self.state = next;
            self.state.save()?;
            self.told.send_replace(self.state.clone());
        }
        Ok(())
    }
}

fn program_state(program: &Supervised) -> Program {
    Program {
        name: program.spec.name.clone(),
        node: program.spec.node.clone(),
        netns: program.spec.netns.clone(),
        process: program.process(),
        log: program.spec.log.clone(),
        restarts: program.restarts,
    }
}

fn yaml(object: &serde_json::Value) -> anyhow::Result<Vec<u8>> {
    Ok(serde_saphyr::to_string(object).context("an object cannot be written as YAML")?.into_bytes())
}

/// A random uid in the form that Kubernetes uses (RFC 9562, version 4).
fn new_uid() -> String {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
