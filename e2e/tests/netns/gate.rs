//! The stand of layer 7: the waypoint that `isthmus up` runs for Gateway `gate` of the world, between the node daemons of
//! its callers and those of `left` and `right`. Where its services are, who its instances are, what they show of themselves.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use isthmus::lab::netns;
use isthmus::lab::process::ProcessId;
use isthmus::lab::state::PodState;
use isthmus::mesh::ask::get;
use serde_json::Value;

use super::mesh::{Applied, Mesh, SOON, until};

/// Its first instance; `isthmus up` makes this pod for the Gateway.
pub const GATE: &str = "gate-1";
/// Both of `left` and `right`, and `right` alone: http 80, h2c 81, grpc 82, undeclared 83, tcp 84, https 85, which lead to
/// 7080 and so on.
pub const BOTH: [u8; 4] = [10, 96, 7, 61];
pub const ONE: [u8; 4] = [10, 96, 7, 62];
/// A service of no pod, those of nginx, redis and exim, and one of pods that come and go.
pub const NOTHING: [u8; 4] = [10, 96, 7, 63];
pub const PAGE: [u8; 4] = [10, 96, 7, 64];
pub const STORE: [u8; 4] = [10, 96, 7, 65];
pub const POST: [u8; 4] = [10, 96, 7, 66];
pub const HEIR: [u8; 4] = [10, 96, 7, 67];

pub fn at(service: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::from((service, port))
}

/// The process of an instance.
pub fn process(mesh: &Mesh, instance: &str) -> Option<ProcessId> {
    mesh.process(&format!("waypoint.app.{instance}"))
}

/// A sample of an instance's metrics: the sum of those whose labels contain each of `with`.
pub fn metric(mesh: &Mesh, instance: &str, family: &str, with: &[&str]) -> Result<f64> {
    mesh.metric_in(&mesh.pod(instance).netns, family, with)
}

/// A page for operators, of an instance.
pub fn admin(mesh: &Mesh, instance: &str, path: &str) -> Result<Value> {
    mesh.admin_in(&mesh.pod(instance).netns, path)
}

/// Addresses of the waypoint's instances.
pub fn addresses(mesh: &Mesh) -> Vec<IpAddr> {
    let state = mesh.state();
    let instances = state.pods.iter().filter(|pod| pod.labels.get("gateway.networking.k8s.io/gateway-name").is_some_and(|name| name == "gate"));
    instances.flat_map(|pod| pod.addresses.all()).collect()
}

/// Drops a file of objects for the waypoint into the folder, and waits until it shows `word`, which it must not have shown
/// before: what an earlier file said is gone.
pub fn apply(mesh: &Mesh, name: &str, yaml: &str, word: &str) -> Result<Applied> {
    until(SOON, &format!("{word} is not there yet"), || knows(mesh, GATE, word).is_none().then_some(()))?;
    let file = mesh.apply(&format!("70-{name}.yaml"), yaml)?;
    until(SOON, &format!("what {name} says is in force"), || knows(mesh, GATE, word))?;
    Ok(file)
}

/// Whether an instance's page of what it was told has this word: the name of a rule, of a policy, of a group of settings.
pub fn knows(mesh: &Mesh, instance: &str, name: &str) -> Option<()> {
    admin(mesh, instance, "/config_dump").ok()?.to_string().contains(name).then_some(())
}

/// Most memory that a process had since `forget_peak`, in bytes (VmHWM).
pub fn peak(process: ProcessId) -> Result<u64> {
    status_line(process, "VmHWM:")
}

pub fn resident(process: ProcessId) -> Result<u64> {
    status_line(process, "VmRSS:")
}

fn status_line(process: ProcessId, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("proc(5), status")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}

/// From here on the peak is counted anew (proc(5), clear_refs).
pub fn forget_peak(process: ProcessId) -> Result<()> {
    std::fs::write(format!("/proc/{}/clear_refs", process.pid), "5").context("cannot reset the peak of a process's memory")
}

/// A program of the machine in a pod's network; it sees the machine's files. Ends with its value.
pub struct Program {
    child: Child,
    log: std::path::PathBuf,
}

impl Program {
    /// Runs it, and waits until something listens at `port` in the pod.
    pub fn start(mesh: &Mesh, pod: &PodState, name: &str, environment: &[(&str, &str)], words: &[&str], port: u16) -> Result<Program> {
        let log = mesh.scratch(name);
        let out = std::fs::File::create(&log)?;
        let child = inside(&pod.netns)
            .args(["setpriv", "--pdeathsig", "KILL", "--"])
            .args(words)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stderr(out.try_clone()?)
            .stdout(out)
            .spawn()?;
        let mut program = Program { child, log };
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        let listens = until(SOON, &format!("{name} listens at {port}"), || {
            if let Ok(Some(status)) = program.child.try_wait() {
                return Some(Err(anyhow::anyhow!("{name} ended: {status}")));
            }
            mesh.within(&pod.netns, move || std::net::TcpStream::connect(at)).ok()?.ok().map(|_| Ok(()))
        });
        listens.and_then(|listens| listens).with_context(|| std::fs::read_to_string(&program.log).unwrap_or_default())?;
        Ok(program)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program of the machine says when it is run in a pod's network; an error with its words when it fails.
pub fn run(pod: &PodState, environment: &[(&str, &str)], words: &[&str]) -> Result<String> {
    super::mesh::said(words, inside(&pod.netns).args(words).envs(environment.iter().copied()).stdin(Stdio::null()).output()?)
}

fn inside(name: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", netns::path(name).display()));
    command
}

/// Where an instance says that it is ready.
const READINESS_PORT: u16 = 15021;

/// An instance serves: it says so itself, and each node's daemon sends to it.
pub fn until_serving(mesh: &Mesh, instance: &str, limit: std::time::Duration) -> Result<()> {
    until(limit, &format!("{instance} is ready, and both nodes know"), || {
        let state = mesh.state();
        let pod = state.pod(instance).ok()?;
        mesh.rt.block_on(get(&pod.netns, READINESS_PORT, "/healthz/ready")).ok()?;
        let own = pod.addresses.v4.to_string();
        state.nodes.iter().all(|node| sends_to(mesh, &node.name, instance, &own)).then_some(())
    })
}

fn sends_to(mesh: &Mesh, node: &str, instance: &str, address: &str) -> bool {
    let Ok(dump) = mesh.admin(node, "/config_dump") else { return false };
    let workloads = dump["workloads"].as_array().cloned().unwrap_or_default();
    let has = |one: &Value| one["workloadIps"].as_array().is_some_and(|ips| ips.iter().any(|ip| ip == address));
    workloads.iter().any(|one| one["name"] == instance && one["status"] == "Healthy" && has(one))
}

/// Whose address a server saw is one of the waypoint's.
pub fn is_gate(mesh: &Mesh, seen: IpAddr) -> Result<()> {
    let own = addresses(mesh);
    ensure!(own.contains(&seen), "the server was called by {seen}, the waypoint is at {own:?}");
    Ok(())
}

/// The number in a program's JSON.
pub fn number(said: &Value, name: &str) -> u64 {
    said[name].as_u64().unwrap_or(u64::MAX)
}

/// Where the programs of `e2e/peers` are, if they can be had.
pub fn peers() -> Result<std::path::PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/install");
    let said = super::mesh::said(&["e2e/peers/install"], Command::new(&script).stdin(Stdio::null()).output()?)?;
    Ok(said.lines().last().unwrap_or_default().into())
}
