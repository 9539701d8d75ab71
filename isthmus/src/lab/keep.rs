//! The keeper of a running mesh: brings the machine to what the folder asks for, and keeps it there. One writer of the
//! state; `tick` is called again and again and reads top to bottom.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::watch;

use crate::folder::Folder;
use crate::lab::inside::InsideSpec;
use crate::lab::pod::{self, Places, Prepared, Running};
use crate::lab::process::ProcessId;
use crate::lab::state::{PodPhase, PodState, Program, State, write_whole};
use crate::lab::supervise::{self, Supervised};
use crate::lab::{netns, node};
use crate::mesh::{self, agent, token};
use crate::objects::{Complaint, Objects, PodName};
use crate::plan::{Machine, Plan, PodPlan, Slots, plan, without_effect};
use crate::published::{self, Seen};
use crate::rules::node_ruleset;
use crate::say;

/// A pod that could not be started is tried again after this; what is wrong with it is said each time.
const RETRY_AFTER: Duration = Duration::from_secs(15);

/// A mesh on this machine, seen by the process that runs it.
#[derive(Debug)]
pub struct Lab {
    machine: Machine,
    state: State,
    told: watch::Sender<State>,
    folder: Folder,
    objects: Objects,
    plan: Plan,
    slots: Slots,
    pods: BTreeMap<PodName, Pod>,
    programs: Vec<Supervised>,
    tokens: Option<token::Tokens>,
    /// The pods' files for the agents and the objects for the controller, as last written.
    written: BTreeMap<PathBuf, Vec<u8>>,
    bin: Bin,
    /// What was already said, so that it is not said at every change.
    complaints: Vec<Complaint>,
    findings: Vec<String>,
}

/// Where the programs are: beside this one.
#[derive(Clone, Debug)]
pub struct Bin {
    pub folder: PathBuf,
}

impl Bin {
    pub fn own() -> anyhow::Result<Bin> {
        let own = std::env::current_exe().context("cannot tell where this program is")?;
        Ok(Bin { folder: own.parent().unwrap_or(Path::new("/")).to_owned() })
    }

    pub fn find(&self, program: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(program);
        anyhow::ensure!(path.is_file(), "{program} is missing: it should be beside isthmus in {}; build it with `cargo build`", self.folder.display());
        Ok(path)
    }
}

#[derive(Debug)]
struct Pod {
    plan: PodPlan,
    log: PathBuf,
    stage: Stage,
    redirection: agent::Redirection,
}

#[derive(Debug)]
enum Stage {
    /// The namespaces stand; the commands wait for the mesh. Taken out when the pod starts.
    Prepared(Option<Prepared>),
    Running(Running),
    Failed { since: Instant },
}

impl Stage {
    fn failed() -> Stage {
        Stage::Failed { since: Instant::now() }
    }
}

impl Lab {
    /// Builds nodes and wire, and starts the mesh. Pods come with the first `tick`s.
    pub async fn build(machine: Machine, folder: Folder, run: &Path, meshed: bool) -> anyhow::Result<Lab> {
        let bin = Bin::own()?;
        // Before anything is made: without them nothing would come of it.
        let needed = if meshed { ["isthmus-shop", "istiod-lite", "mesh-cni", "ztunnel"].as_slice() } else { &["isthmus-shop"] };
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
        let (told, _) = watch::channel(state.clone());
        let mut lab = Lab {
            machine,
            state,
            told,
            folder,
            objects: Objects::default(),
            plan: Plan::default(),
            slots: Slots::default(),
            pods: BTreeMap::new(),
            programs: Vec::new(),
            tokens: None,
            written: BTreeMap::new(),
            bin,
            complaints: Vec::new(),
            findings: Vec::new(),
        };
        lab.read_folder()?;
        lab.build_nodes()?;
        if meshed {
            lab.start_mesh().await?;
        }
        Ok(lab)
    }

    /// Follows the state from another task.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.told.subscribe()
    }

    /// Nodes are fixed from here on: a pod that names another one later is refused with a complaint.
    fn build_nodes(&mut self) -> anyhow::Result<()> {
        let (mut objects, complaints) = self.folder.objects();
        complain(&complaints);
        let (plan, _) = plan(&self.machine, &objects, &mut self.slots, new_uid);
        objects.nodes.extend(plan.nodes.iter().map(|node| node.name.clone()));
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

    async fn start_mesh(&mut self) -> anyhow::Result<()> {
        let tokens = token::Tokens::new(&self.state)?;
        self.publish()?;
        for spec in mesh::programs(&self.machine, &self.state, &self.bin)? {
            self.programs.push(Supervised::start(spec)?);
        }
        self.tokens = Some(tokens);
        self.tell()
    }

    /// One round: folder, programs, tokens, pods. Everything that is wrong for now is said, not returned; only what
    /// makes going on pointless is an error.
    pub async fn tick(&mut self) -> anyhow::Result<()> {
        if self.read_folder()? {
            self.replan()?;
        }
        self.programs.iter_mut().filter_map(Supervised::tend).for_each(|what| say::warning(&what));
        self.pass_on_findings();
        if let Some(tokens) = &mut self.tokens {
            tokens.renew_if_due()?;
        }
        if self.stop_what_is_gone().await {
            self.apply_node_rules()?;
        }
        self.prepare_what_is_new().await?;
        self.follow_agents();
        self.start_what_is_ready().await;
        self.publish()?;
        self.tell()
    }

    fn read_folder(&mut self) -> anyhow::Result<bool> {
        let look = self.folder.look()?;
        // Where a controller reads the same files, it says what is wrong with their form, and knows more kinds.
        complain(look.complaints.iter().filter(|complaint| !(self.state.meshed && complaint.is_syntax)));
        Ok(look.changed)
    }

    /// Decides anew what should be there, and applies what takes no time: the nodes' rules.
    fn replan(&mut self) -> anyhow::Result<()> {
        let (mut objects, mut complaints) = self.folder.objects();
        objects.nodes = self.state.nodes.iter().map(|node| node.name.clone()).collect();
        complaints.extend(refuse_strange_nodes(&mut objects));
        let (mut next, more) = plan(&self.machine, &objects, &mut self.slots, new_uid);
        complaints.extend(more);
        complaints.extend(without_effect(&objects));
        self.complain_once(complaints);
        let changed: Vec<PodName> = next.pods.values().filter(|pod| self.pods.get(&pod.name).is_some_and(|old| !old.plan.is_same_process(pod))).map(|pod| pod.name.clone()).collect();
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

    fn complain_once(&mut self, complaints: Vec<Complaint>) {
        complain(complaints.iter().filter(|complaint| !self.complaints.contains(complaint)));
        self.complaints = complaints;
    }

    /// Says what the controller finds wrong, each thing once as long as it lasts.
    fn pass_on_findings(&mut self) {
        let now = if self.state.meshed { mesh::controller::findings(&mesh::status_file(&self.state.run)) } else { Vec::new() };
        now.iter().filter(|finding| !self.findings.contains(finding)).for_each(|finding| say::warning(finding));
        self.findings = now;
    }

    /// Whether there was anything to stop.
    async fn stop_what_is_gone(&mut self) -> bool {
        let gone: Vec<PodName> = self.pods.iter().filter(|(name, pod)| self.plan.pods.get(*name).is_none_or(|next| !pod.plan.is_same_process(next))).map(|(name, _)| name.clone()).collect();
        let some = !gone.is_empty();
        for name in gone {
            let Some(pod) = self.pods.remove(&name) else { continue };
            self.forget_file(&agent::pod_file(&self.state.run, &pod.plan.node, &name));
            self.forget_file(&self.object_file(&name));
            match pod.stage {
                Stage::Prepared(Some(prepared)) => prepared.discard().await,
                Stage::Running(running) => running.stop().await,
                Stage::Prepared(None) | Stage::Failed { .. } => {}
            }
            say::line(&format!("pod {name} is gone"));
        }
        some
    }

    async fn prepare_what_is_new(&mut self) -> anyhow::Result<()> {
        // What failed is tried again, after a while.
        self.pods.retain(|_, pod| !matches!(pod.stage, Stage::Failed { since } if since.elapsed() > RETRY_AFTER));
        let new: Vec<PodPlan> = self.plan.pods.values().filter(|pod| !self.pods.contains_key(&pod.name)).cloned().collect();
        for pod in new {
            // Written first, so that a crash in between leaves nothing unknown.
            self.state.netns.push(pod.netns.clone());
            self.state.save()?;
            let log = self.state.run.join("logs").join(format!("{}.{}.log", pod.name.namespace, pod.name.name));
            let stage = match self.prepare(&pod, &log).await {
                Ok(prepared) => Stage::Prepared(Some(prepared)),
                Err(error) => {
                    say::warning(&format!("{error:#}"));
                    Stage::failed()
                }
            };
            self.pods.insert(pod.name.clone(), Pod { plan: pod, log, stage, redirection: agent::Redirection::default() });
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
            hosts: hosts(pod, &self.plan, self.state.meshed),
            resolv_conf: resolv_conf(&pod.name.namespace),
            programs,
            containers: pod.containers.clone(),
        };
        pod::prepare(&self.machine, node, pod, &places, &spec).await
    }

    /// Reads what the nodes' agents say of each pod.
    fn follow_agents(&mut self) {
        for (name, pod) in &mut self.pods {
            pod.redirection = if self.state.meshed { agent::redirection(&self.state.run, &pod.plan.node, name, &pod.plan.uid) } else { agent::Redirection::default() };
        }
    }

    /// Starts the commands of pods that need not wait, or wait no longer (design decision 13: rules and the daemon's
    /// acknowledgement come first).
    async fn start_what_is_ready(&mut self) {
        for (name, pod) in &mut self.pods {
            let ended = match &mut pod.stage {
                Stage::Running(running) => !running.is_up(),
                Stage::Prepared(_) | Stage::Failed { .. } => false,
            };
            if ended {
                say::warning(&format!("pod {name} ended: {}", crate::lab::process::last_words(&pod.log)));
                pod.stage = Stage::failed();
            }
            supervise::empty_if_large(&pod.log);
            if self.state.meshed && pod.plan.enrolled && !pod.redirection.is_enabled() {
                continue;
            }
            let Stage::Prepared(prepared) = &mut pod.stage else { continue };
            let Some(prepared) = prepared.take() else { continue };
            pod.stage = match prepared.start().await {
                Ok(running) => Stage::Running(running),
                Err(error) => {
                    say::warning(&format!("pod {name}: {error:#}"));
                    Stage::failed()
                }
            };
        }
    }

    /// Writes what agents and controller read, where it changed.
    fn publish(&mut self) -> anyhow::Result<()> {
        if !self.state.meshed {
            return Ok(());
        }
        let objects = self.state.run.join("objects");
        let mut files: Vec<(PathBuf, Vec<u8>)> = Vec::new();
        for node in &self.plan.nodes {
            files.push((objects.join(format!("node.{}.yaml", node.name)), yaml(&published::node(node))?));
        }
        for (name, vip) in &self.plan.vips {
            let Some(service) = self.objects.services.get(name) else { continue };
            files.push((objects.join(format!("service.{}.{}.yaml", name.namespace, name.name)), yaml(&published::service(&service.whole, *vip))?));
        }
        for (name, pod) in &self.pods {
            if matches!(pod.stage, Stage::Failed { .. }) {
                continue;
            }
            let (Some(node), Some(found)) = (self.plan.node(&pod.plan.node), self.objects.pods.get(name)) else { continue };
            let seen = Seen { redirection: pod.redirection.annotation(), running: matches!(pod.stage, Stage::Running(_)) };
            files.push((self.object_file(name), yaml(&published::pod(&found.object.whole, &pod.plan, node, &seen))?));
            files.push((agent::pod_file(&self.state.run, &pod.plan.node, name), agent::pod_file_content(&pod.plan, seen.running)));
        }
        // What is published no more: services that went, or that have an address of their own now. Pods' files go with
        // the pods.
        let stale: Vec<PathBuf> = self.written.keys().filter(|path| is_service_file(path) && !files.iter().any(|(kept, _)| kept == *path)).cloned().collect();
        stale.iter().for_each(|path| self.forget_file(path));
        for (path, content) in files {
            if self.written.get(&path) != Some(&content) {
                write_whole(&path, &content)?;
                self.written.insert(path, content);
            }
        }
        Ok(())
    }

    fn object_file(&self, name: &PodName) -> PathBuf {
        self.state.run.join("objects").join(format!("pod.{}.{}.yaml", name.namespace, name.name))
    }

    fn forget_file(&mut self, path: &Path) {
        if self.written.remove(path).is_some() {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Writes the state file and wakes those who watch, if something changed.
    fn tell(&mut self) -> anyhow::Result<()> {
        let mut next = self.state.clone();
        next.programs = self.programs.iter().map(program_state).collect();
        next.pods = self.pods.values().map(pod_state).collect();
        next.netns.retain(|name| netns::exists(name));
        let settled = self.pods.len() == self.plan.pods.len() && self.pods.values().all(|pod| !matches!(pod.stage, Stage::Prepared(_)));
        next.ready = self.state.ready || settled;
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

fn pod_state(pod: &Pod) -> PodState {
    let (phase, init) = match &pod.stage {
        Stage::Prepared(_) => (PodPhase::Pending, None),
        Stage::Running(running) => (PodPhase::Running, ProcessId::of(running.init as i32)),
        Stage::Failed { .. } => (PodPhase::Failed, None),
    };
    PodState {
        name: pod.plan.name.clone(),
        uid: pod.plan.uid.clone(),
        node: pod.plan.node.clone(),
        netns: pod.plan.netns.clone(),
        veth: pod.plan.veth.clone(),
        addresses: pod.plan.addresses,
        service_account: pod.plan.service_account.clone(),
        labels: pod.plan.labels.clone(),
        user: pod.plan.containers.first().and_then(|run| run.user),
        group: pod.plan.containers.first().and_then(|run| run.group),
        wanted: pod.plan.enrolled,
        phase,
        redirection: pod.redirection.to_string(),
        init,
        log: pod.log.clone(),
    }
}

/// The pod's /etc/hosts: itself, and, when no mesh answers its DNS questions, the services by their names.
fn hosts(pod: &PodPlan, plan: &Plan, meshed: bool) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost\n");
    for ip in pod.addresses.all() {
        text += &format!("{ip}\t{}\n", pod.name.name);
    }
    if meshed && pod.enrolled {
        return text;
    }
    let mut seen = std::collections::BTreeSet::new();
    for route in plan.routes.iter().filter(|route| seen.insert((route.vip, &route.service))) {
        let (name, namespace) = (&route.service.name, &route.service.namespace);
        let short = if *namespace == pod.name.namespace { format!(" {name}") } else { String::new() };
        text += &format!("{}\t{name}.{namespace}.svc.cluster.local {name}.{namespace}.svc {name}.{namespace}{short}\n", route.vip);
    }
    text
}

/// As the kubelet writes it. The mesh answers; nothing is at the address itself.
fn resolv_conf(namespace: &str) -> String {
    format!("search {namespace}.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5 timeout:2\n")
}

fn yaml(object: &serde_json::Value) -> anyhow::Result<Vec<u8>> {
    Ok(serde_saphyr::to_string(object).context("an object cannot be written as YAML")?.into_bytes())
}

/// Pods on nodes that were not there at the start: nodes are fixed then.
fn refuse_strange_nodes(objects: &mut Objects) -> Vec<Complaint> {
    let known = &objects.nodes;
    let names = known.iter().cloned().collect::<Vec<_>>().join(", ");
    let mut complaints = Vec::new();
    objects.pods.retain(|name, found| {
        let strange = found.object.spec.node_name.as_ref().filter(|node| !known.contains(*node));
        complaints.extend(strange.map(|node| Complaint {
            file: found.file.clone(),
            line: found.line,
            problem: format!("Pod {name}: node {node:?} was not there when the mesh started; start it anew, or name one of: {names}"),
            is_syntax: false,
        }));
        strange.is_none()
    });
    complaints
}

fn complain<'a>(complaints: impl IntoIterator<Item = &'a Complaint>) {
    complaints.into_iter().for_each(|complaint| say::warning(&complaint.to_string()));
}

fn is_service_file(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("service."))
}

/// A random uid in the form that Kubernetes uses (RFC 9562, version 4).
fn new_uid() -> String {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
