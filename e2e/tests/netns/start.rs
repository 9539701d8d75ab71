//! The start of a mesh, and the return of its parts after a kill: pods that call each other from their first moment on,
//! by address, and a packet socket on the wire that is there before them. No packet of theirs may be in the clear.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use isthmus::lab::node::{wire_netns, wire_port};
use isthmus::lab::state::{State, base};
use isthmus::tour::evidence::Evidence;
use isthmus::tour::wire::Wire;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::mesh::{Mesh, program, until};
use e2e::{Check, checks};

/// Pods on each of the two nodes; each calls all on the other one, over IPv4 and IPv6.
const PODS: u8 = 3;
/// Starts in a usual run; `MESH_STARTS` for more.
const STARTS: u32 = 2;
const UP_WITHIN: Duration = Duration::from_secs(60);

pub fn checks() -> Vec<Check<Mesh>> {
    checks![no_pod_of_the_mesh_is_called_in_the_clear_while_it_starts]
}

fn no_pod_of_the_mesh_is_called_in_the_clear_while_it_starts(_: &Mesh) -> Result<()> {
    let starts = std::env::var("MESH_STARTS").ok().and_then(|text| text.parse().ok()).unwrap_or(STARTS);
    for start in 0..starts {
        one_start(start).with_context(|| format!("start {}", start + 1))?;
    }
    Ok(())
}

fn one_start(start: u32) -> Result<()> {
    let mesh = Young::begin(start)?;
    mesh.all_pods_are_called("after the start")?;
    // Each part of the mesh on node-2 is killed; its pods were captured before and are so after.
    for part in ["mesh-cni.node-2", "ztunnel.node-2", "istiod-lite"] {
        let before = mesh.state()?.programs.into_iter().find(|one| one.name == part).and_then(|one| one.process).context("it runs")?;
        before.signal(Signal::SIGKILL);
        until(UP_WITHIN, &format!("{part} runs again"), || {
            let state = mesh.state().ok()?;
            let again = state.programs.iter().any(|one| one.name == part && one.process.is_some_and(|now| now != before));
            (again && state.pods.iter().filter(|pod| pod.wanted).all(|pod| pod.redirection == "enabled")).then_some(())
        })?;
        mesh.all_pods_are_called(&format!("after a kill of {part}"))?;
    }
    let seen = mesh.wire.evidence();
    let state = mesh.state()?;
    let of = |wanted: bool| state.pods.iter().filter(move |pod| pod.wanted == wanted).flat_map(|pod| pod.addresses.all()).collect::<Vec<IpAddr>>();
    let (meshed, outside) = (of(true), of(false));
    ensure!(seen.in_the_clear(|ip| outside.contains(&ip)) > 0, "the check would not have seen anything");
    let clear = seen.in_the_clear(|ip| meshed.contains(&ip));
    println!("  start {}: {} frames on the wire, {} tunnels, {clear} in the clear between pods of the mesh", start + 1, seen.frames, seen.tunnels().0);
    ensure!(clear == 0, "{clear} packets between pods of the mesh were in the clear");
    Ok(())
}

/// A mesh that is only just being made.
struct Young {
    name: String,
    up: Child,
    folder: TempDir,
    wire: Wire,
}

impl Young {
    fn begin(start: u32) -> Result<Young> {
        let name = format!("s{start}e{}", std::process::id());
        let folder = TempDir::new()?;
        fs::write(folder.path().join("pods.yaml"), pods())?;
        let log = fs::File::create(folder.path().join("up.log"))?;
        let mut up = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(program("isthmus")?)
            .args(["--name", &name, "up", "-f"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log)
            .spawn()?;
        let tapped = until(UP_WITHIN, "the wire is there", || {
            if let Ok(Some(status)) = up.try_wait() {
                return Some(Err(anyhow::anyhow!("`isthmus up` ended: {status}")));
            }
            let state = State::load(&base().join(&name)).ok()?;
            Wire::tap(&wire_netns(&name), &wire_port(state.nodes.first()?), &[]).ok().map(Ok)
        });
        match tapped.and_then(|tapped| tapped) {
            Ok(wire) => Ok(Young { name, up, folder, wire }),
            Err(error) => {
                let said = fs::read_to_string(folder.path().join("up.log")).unwrap_or_default();
                remove(&name, &mut up);
                bail!("{error:#}: {said}")
            }
        }
    }

    fn state(&self) -> Result<State> {
        State::load(&base().join(&self.name))
    }

    /// Each pod's daemon has opened tunnels to all of the other node's pods since now.
    fn all_pods_are_called(&self, when: &str) -> Result<()> {
        let before = self.wire.evidence().tunnels().1.records;
        let enough = u64::from(PODS) * u64::from(PODS) * 20;
        let flows = |seen: &Evidence| seen.tunnels().1.records >= before + enough;
        until(UP_WITHIN, &format!("{enough} TLS records are exchanged {when}"), || flows(&self.wire.evidence()).then_some(()))
            .with_context(|| fs::read_to_string(self.log()).unwrap_or_default())
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("up.log")
    }
}

impl Drop for Young {
    fn drop(&mut self) {
        remove(&self.name, &mut self.up);
    }
}

fn remove(name: &str, up: &mut Child) {
    if let Ok(isthmus) = program("isthmus") {
        let _ = Command::new(isthmus).args(["--name", name, "down"]).output();
    }
    let _ = up.kill();
    let _ = up.wait();
}

/// Pods that serve and call at once, and a pair outside of the mesh that shows that the check can see.
fn pods() -> String {
    let namespaces = "apiVersion: v1\nkind: Namespace\nmetadata: {name: young, labels: {istio.io/dataplane-mode: ambient}}\n---\n\
                      apiVersion: v1\nkind: Namespace\nmetadata: {name: outside}\n";
    let mut text = namespaces.to_owned();
    for node in [1, 2_u8] {
        for number in 0..PODS {
            let calls: Vec<String> = (0..PODS).flat_map(|other| urls(3 - node, FIRST + 1 + other)).collect();
            text += &pod("young", &format!("p{number}"), node, &calls);
        }
        text += &pod("outside", "o", node, &urls(3 - node, FIRST));
    }
    text
}

/// Pods take addresses in the order of their names: on each node the first is the one of `outside`.
const FIRST: u8 = 10;

fn urls(node: u8, host: u8) -> [String; 2] {
    [format!("http://10.244.{node}.{host}:8080/"), format!("http://[fd10:244:0:{node}::{host:x}]:8080/")]
}

fn pod(namespace: &str, name: &str, node: u8, calls: &[String]) -> String {
    let callers = calls.iter().enumerate().map(|(index, url)| format!(", {{name: call{index}, command: [isthmus-shop, load, \"{url}\", --rate, \"40\"]}}"));
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}{node}, namespace: {namespace}}}\n\
         spec: {{nodeName: node-{node}, containers: [{{name: serve, command: [isthmus-shop, catalog]}}{}]}}\n",
        callers.collect::<String>()
    )
}
