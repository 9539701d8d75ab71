//! Starting and stopping a pod, from outside: its first process, its user ids, its cable to the node. What happens
//! inside is in `inside`.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::lab::inside::{InsideSpec, READY};
use crate::lab::{netns, node, process};
use crate::plan::{Ids, Machine, NodePlan, PodPlan};

/// A pod's first process makes namespaces and mounts in milliseconds; a machine that is this slow has another problem.
const START_WITHIN: Duration = Duration::from_secs(20);
/// How long a pod's programs have to end by themselves before they are killed.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// A pod whose namespaces and network stand, and whose commands wait for `start`.
#[derive(Debug)]
pub struct Prepared {
    keeper: Child,
    go: ChildStdin,
    cable: Cable,
}

/// A pod whose commands run.
#[derive(Debug)]
pub struct Running {
    keeper: Child,
    cable: Cable,
    /// The pod's process number 1, as this machine numbers it; what `exec` enters.
    pub init: u32,
}

/// The pod's namespace and the node's end of its cable.
#[derive(Clone, Debug)]
struct Cable {
    node: String,
    veth: String,
    netns: String,
}

impl Cable {
    fn of(node: &NodePlan, pod: &PodPlan) -> Cable {
        Cable { node: node.netns.clone(), veth: pod.veth.clone(), netns: pod.netns.clone() }
    }

    /// The namespace itself lives until the mesh's programs have let go of it; the cable and the names must be free for
    /// the pod's successor at once.
    fn cut(&self) {
        let _ = netns::ip_batch(Some(&self.node), &format!("link delete {}\n", self.veth));
        let _ = netns::delete(&self.netns);
    }
}

/// Places that a pod needs on the machine.
#[derive(Clone, Debug)]
pub struct Places {
    /// The pod's own folder in the run directory.
    pub folder: PathBuf,
    pub log: PathBuf,
    pub isthmus: PathBuf,
    pub shop: PathBuf,
}

/// Makes the pod's namespaces and network. Nothing of the pod runs yet.
pub async fn prepare(machine: &Machine, node: &NodePlan, pod: &PodPlan, places: &Places, spec: &InsideSpec) -> anyhow::Result<Prepared> {
    std::fs::create_dir_all(places.folder.join("run"))?;
    let mut keeper = Command::new(&places.isthmus)
        .arg("__pod-keep")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log(&places.log)?)
        // A group of its own: Ctrl-C is for `up`, which then stops the pods in order.
        .process_group(0)
        .kill_on_drop(false)
        .spawn()
        .with_context(|| format!("cannot start {}", places.isthmus.display()))?;
    let pid = keeper.id().context("the pod's first process ended at once")?;
    let mut go = keeper.stdin.take().expect("standard input was asked for");
    let said = BufReader::new(keeper.stdout.take().expect("standard output was asked for"));
    let made = async {
        go.write_all(serde_json::to_string(spec)?.as_bytes()).await?;
        go.write_all(b"\n").await?;
        wait_for_ready(said).await?;
        map_ids(machine.ids, pod, pid)?;
        netns::attach(&pod.netns, pid)?;
        cable(machine, node, pod)
    };
    match tokio::time::timeout(START_WITHIN, made).await {
        Ok(Ok(())) => Ok(Prepared { keeper, go, cable: Cable::of(node, pod) }),
        failed => {
            let _ = keeper.kill().await;
            Cable::of(node, pod).cut();
            let why = match failed {
                Ok(result) => result.err().map_or_else(String::new, |error| format!("{error:#}")),
                Err(_) => format!("nothing happened for {} s", START_WITHIN.as_secs()),
            };
            bail!("pod {} did not start: {why}; {}", pod.name, process::last_words(&places.log))
        }
    }
}

async fn wait_for_ready(mut said: BufReader<tokio::process::ChildStdout>) -> anyhow::Result<()> {
    let mut line = String::new();
    said.read_line(&mut line).await?;
    if line.trim() != READY {
        bail!("its first process stopped while it made the pod's namespaces");
    }
    Ok(())
}

/// Root inside is an ordinary, otherwise unused id outside.
fn map_ids(ids: Ids, pod: &PodPlan, pid: u32) -> anyhow::Result<()> {
    let map = match ids {
        Ids::Own { count, .. } => format!("0 {} {count}\n", first_id(ids, pod)),
        Ids::Shared => "0 0 1\n".to_owned(),
    };
    for file in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{pid}/{file}"), &map).with_context(|| format!("cannot map the pod's user ids ({file}: {})", map.trim()))?;
    }
    Ok(())
}

/// The id that is root inside the pod.
pub fn first_id(ids: Ids, pod: &PodPlan) -> u32 {
    match ids {
        Ids::Own { first, count } => first + pod.slot.order * count,
        Ids::Shared => 0,
    }
}

/// The pod's cable. Every packet is routed by the node, also between two pods of one node, so that the node's rules
/// see all of them.
fn cable(machine: &Machine, node: &NodePlan, pod: &PodPlan) -> anyhow::Result<()> {
    node::quiet_ipv6(machine, &pod.netns)?;
    let (veth, inside) = (&pod.veth, &pod.netns);
    netns::ip_batch(None, &format!("link add {veth} netns {} type veth peer name eth0 netns {inside}\n", node.netns))?;
    let mut of_node = format!("link set {veth} up\naddr add 169.254.1.1/32 dev {veth}\nroute add {}/32 dev {veth} src {}\n", pod.addresses.v4, node.gateway.v4);
    let mut of_pod = format!(
        "link set lo up\nlink set eth0 up\naddr add {}/32 dev eth0\nroute add 169.254.1.1 dev eth0 scope link\nroute add default via 169.254.1.1 dev eth0\n",
        pod.addresses.v4
    );
    if let (Some(v6), Some(gateway)) = (pod.addresses.v6, node.gateway.v6) {
        of_node += &format!("addr add fe80::1/64 dev {veth} nodad\nroute add {v6}/128 dev {veth} src {gateway}\n");
        of_pod += &format!("addr add {v6}/128 dev eth0 nodad\nroute add ::/0 via fe80::1 dev eth0\n");
    }
    netns::ip_batch(Some(&node.netns), &of_node)?;
    netns::ip_batch(Some(inside), &of_pod)
}

impl Prepared {
    /// Lets the pod's commands start.
    pub async fn start(mut self) -> anyhow::Result<Running> {
        self.go.write_all(b"go\n").await.context("the pod's first process is gone")?;
        drop(self.go);
        let keeper = self.keeper.id().context("the pod's first process is gone")?;
        let init = tokio::time::timeout(START_WITHIN, only_child(keeper)).await.context("the pod's process 1 did not appear")?;
        Ok(Running { keeper: self.keeper, cable: self.cable, init })
    }

    pub async fn discard(mut self) {
        let _ = self.keeper.kill().await;
        self.cable.cut();
    }
}

/// Waits for the keeper's one child. There is no event for it; it takes about a millisecond.
async fn only_child(pid: u32) -> u32 {
    loop {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        if let Some(child) = children.split_whitespace().next().and_then(|child| child.parse().ok()) {
            return child;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

impl Running {
    /// Asks every program of the pod to end, waits a little, then ends them; the namespaces go with them.
    pub async fn stop(mut self) {
        let keeper = self.keeper.id().map(|id| id as i32);
        let programs = || netns::processes(&self.cable.netns).into_iter().filter(|pid| Some(*pid) != keeper && *pid != self.init as i32).collect::<Vec<_>>();
        // Process 1 stands still, so that it starts nothing again.
        process::signal(self.init as i32, nix::sys::signal::Signal::SIGSTOP);
        for pid in programs() {
            process::signal(pid, nix::sys::signal::Signal::SIGTERM);
        }
        let ended = tokio::time::timeout(STOP_WITHIN, async {
            while !programs().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let _ = ended.await;
        process::signal(self.init as i32, nix::sys::signal::Signal::SIGKILL);
        let _ = self.keeper.kill().await;
        self.cable.cut();
    }

    /// Whether the pod's namespaces still stand.
    pub fn is_up(&mut self) -> bool {
        matches!(self.keeper.try_wait(), Ok(None))
    }
}

fn log(path: &Path) -> anyhow::Result<File> {
    let mut file = OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("cannot write the log {}", path.display()))?;
    file.flush()?;
    Ok(file)
}
