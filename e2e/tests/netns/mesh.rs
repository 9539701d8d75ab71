//! The mesh under test: `isthmus up -f` on a copy of `e2e/pods/world`, as a child process, and hands to reach into it.
//! Nothing here knows what is checked.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use isthmus::lab::netns;
use isthmus::lab::node::{wire_netns, wire_port};
use isthmus::lab::process::ProcessId;
use isthmus::lab::state::{PodState, State, base, write_whole};
use isthmus::mesh::ask::{ADMIN_PORT, METRICS_PORT, get};
use isthmus::mesh::ca_folder;
use isthmus::plan::NodePlan;
use isthmus::tour::wire::Wire;
use mesh_identity::sign::{Ca, Lifetimes, PluggedIn};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// What every check lets its bytes carry. On the wire between the nodes it must not be seen.
pub const MARKER: &str = "e2e-plain-text-marker-f36a";
/// What the web servers of the world say in each answer.
pub const SAID: &str = "in-the-clear-5d1c";
/// Pods of the world are up within seconds; initdb is the slowest.
const UP_WITHIN: Duration = Duration::from_secs(120);
/// For what should happen at once and may be slow on a machine that does other things.
pub const SOON: Duration = Duration::from_secs(10);

/// What the mesh's daemons have as OLDER_CONNECTION_GRACE.
pub const OLDER_GRACE: Duration = Duration::from_secs(3);

pub struct Mesh {
    pub name: String,
    pub rt: tokio::runtime::Runtime,
    up: Child,
    folder: TempDir,
    wire: Mutex<Vec<Wire>>,
}

impl Mesh {
    /// Brings it up, and ends it when this process ends, however that is.
    pub fn up() -> Result<Mesh> {
        // Several runs on one machine do not meet.
        let name = format!("e2e{}", std::process::id());
        let isthmus = program("isthmus")?;
        ["ztunnel", "istiod-lite", "mesh-cni", "isthmus-shop", "waypoint"].iter().try_for_each(|one| program(one).map(drop))?;
        let world = Path::new(env!("CARGO_MANIFEST_DIR")).join("pods/world");
        let folder = TempDir::new()?;
        for entry in fs::read_dir(&world)?.flatten() {
            fs::copy(entry.path(), folder.path().join(entry.file_name()))?;
        }
        let log = folder.path().join("up.log");
        let out = fs::File::create(&log)?;
        let up = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(&isthmus)
            .args(["--name", &name, "up", "-f"])
            .arg(folder.path())
            .env("CRL_PATH", scratch_file(&folder, "crl"))
            .env("MACHINE_ACCOUNTS", super::machine::ACCOUNT)
            .env("OLDER_CONNECTION_GRACE", format!("{}s", OLDER_GRACE.as_secs()))
            .stdin(Stdio::null())
            .stderr(out.try_clone()?)
            .stdout(out)
            .spawn()?;
        let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let mut mesh = Mesh { name, rt, up, folder, wire: Mutex::default() };
        let run = base().join(&mesh.name);
        let ready = until(UP_WITHIN, "the mesh is up", || {
            if let Ok(Some(status)) = mesh.up.try_wait() {
                return Some(Err(anyhow::anyhow!("`isthmus up` ended: {status}")));
            }
            State::load(&run).ok().filter(|state| state.ready && state.up.is_alive()).map(|_| Ok(()))
        });
        ready.and_then(|ready| ready).with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        mesh.watch_wire()?;
        until(SOON, "each node knows that each pod of the mesh takes tunnels", || mesh.is_known_everywhere().then_some(()))?;
        Ok(mesh)
    }

    /// Until then a caller waits for a second at most, and is refused: checks begin later.
    fn is_known_everywhere(&self) -> bool {
        let state = self.state();
        state.nodes.iter().all(|node| {
            let Ok(dump) = self.admin(&node.name, "/config_dump") else { return false };
            let workloads = dump["workloads"].as_array().cloned().unwrap_or_default();
            let takes = |name: &str| workloads.iter().any(|one| one["name"] == name && one["protocol"] == "HBONE");
            state.pods.iter().filter(|pod| pod.wanted).all(|pod| takes(&pod.name.name))
        })
    }

    /// Whether it still is there: somebody may have stopped it with `isthmus down`.
    pub fn is_up(&self) -> bool {
        State::load(&base().join(&self.name)).is_ok_and(|state| state.up.is_alive())
    }

    pub fn state(&self) -> State {
        State::load(&base().join(&self.name)).expect("a running mesh has a state file")
    }

    pub fn pod(&self, name: &str) -> PodState {
        self.state().pod(name).expect("the world has this pod").clone()
    }

    pub fn node(&self, name: &str) -> NodePlan {
        self.state().nodes.into_iter().find(|node| node.name == name).expect("the world has this node")
    }

    /// Runs a command inside a pod, as its own programs run.
    pub fn exec(&self, pod: &str, words: &[&str]) -> Result<Output> {
        self.exec_with(pod, words, "")
    }

    /// The same with something to read.
    pub fn exec_with(&self, pod: &str, words: &[&str], input: &str) -> Result<Output> {
        let mut command = isthmus::exec::inside(&self.pod(pod), words)?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("standard input was asked for")?;
        let text = input.to_owned();
        let writer = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, text.as_bytes()));
        let output = child.wait_with_output()?;
        // A program that does not read to the end is judged by what it says.
        let _ = writer.join();
        Ok(output)
    }

    /// What a command printed; an error with its own words when it failed.
    pub fn says(&self, pod: &str, words: &[&str]) -> Result<String> {
        said(words, self.exec(pod, words)?)
    }

    /// What curl prints for `url`; each call is a new connection.
    pub fn curl(&self, pod: &str, url: &str) -> Result<String> {
        self.says(pod, &["curl", "-sS", "-m", "5", "-H", &format!("x-marker: {MARKER}"), url])
    }

    /// Runs `work` in a pod's (or a node's) network, in this process.
    pub fn within<T: Send + 'static>(&self, netns: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        netns::within(&netns::path(netns), work)
    }

    pub fn daemon(&self, node: &str) -> Option<ProcessId> {
        self.process(&format!("ztunnel.{node}"))
    }

    /// The process of one of the mesh's programs, while it is alive.
    pub fn process(&self, name: &str) -> Option<ProcessId> {
        let process = self.state().programs.into_iter().find(|program| program.name == name)?.process;
        process.filter(|process| process.is_alive())
    }

    /// The log of a program of the mesh.
    pub fn log(&self, program: &str) -> PathBuf {
        self.state().run.join("logs").join(format!("{program}.log"))
    }

    pub fn metrics(&self, node: &str) -> Result<String> {
        self.metrics_in(&self.node(node).netns)
    }

    /// Of the program of the mesh that answers in this namespace.
    pub fn metrics_in(&self, netns: &str) -> Result<String> {
        let bytes = self.rt.block_on(get(netns, METRICS_PORT, "/metrics"))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The sum of a family's samples whose labels contain each of `with`.
    pub fn metric(&self, node: &str, family: &str, with: &[&str]) -> Result<f64> {
        self.metric_in(&self.node(node).netns, family, with)
    }

    pub fn metric_in(&self, netns: &str, family: &str, with: &[&str]) -> Result<f64> {
        let text = self.metrics_in(netns)?;
        let samples = text.lines().filter(|line| line.starts_with(family) && with.iter().all(|label| line.contains(label)));
        Ok(samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    pub fn admin(&self, node: &str, path: &str) -> Result<Value> {
        self.admin_in(&self.node(node).netns, path)
    }

    pub fn admin_in(&self, netns: &str, path: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&self.rt.block_on(get(netns, ADMIN_PORT, path))?)?)
    }

    /// Drops a file into the folder; it is taken away when the value is dropped.
    pub fn apply(&self, name: &str, yaml: &str) -> Result<Applied> {
        let path = self.folder.path().join(name);
        write_whole(&path, yaml.as_bytes())?;
        Ok(Applied(path))
    }

    pub fn ca(&self) -> Result<Ca> {
        let folder = ca_folder(&self.state().run);
        let kept = istiod_lite::ca::home::load(&folder)?;
        let text = |name: &str| kept.get(name).cloned().with_context(|| format!("the authority keeps {name} in {}", folder.display()));
        let (certificate, key) = (text("ca-cert.pem")?, text("ca-key.pem")?);
        let kept = PluggedIn { roots: certificate.clone(), certificate, key, chain: String::new() };
        Ok(Ca::load(&kept, Lifetimes::default(), SystemTime::now())?)
    }

    /// Begins a new capture of the wire, at both nodes.
    pub fn watch_wire(&self) -> Result<()> {
        let mut taps = Vec::new();
        for node in &self.state().nodes {
            taps.push(Wire::tap(&wire_netns(&self.name), &wire_port(node), &[MARKER, SAID, isthmus::shop::MARK_NOTE])?);
        }
        *self.wire.lock().unwrap_or_else(PoisonError::into_inner) = taps;
        Ok(())
    }

    /// How often a word was seen on the wire between addresses that satisfy `between`, and the TLS records of tunnels.
    pub fn sightings(&self, word: &str, between: impl Fn(IpAddr) -> bool) -> (u64, u64) {
        let taps = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
        let evidence = taps.iter().map(Wire::evidence);
        evidence.fold((0, 0), |(seen, records), one| (seen + one.sightings(word, &between), records + one.tunnels().1.records))
    }

    /// Whether the address is an enrolled pod's.
    pub fn is_meshed(&self) -> impl Fn(IpAddr) -> bool + use<> {
        let meshed: Vec<IpAddr> = self.state().pods.iter().filter(|pod| pod.wanted).flat_map(|pod| pod.addresses.all()).collect();
        move |ip| meshed.contains(&ip)
    }

    /// A second node daemon: the program, environment and rights of the one of `node`, with changes, in a namespace.
    pub fn another_daemon(&self, node: &str, netns: &str, changes: &[(&str, &str)], log: &Path) -> Result<Daemon> {
        let pid = self.daemon(node).context("the node's daemon runs")?.pid;
        let environment = fs::read_to_string(format!("/proc/{pid}/environ"))?;
        let pairs = environment.split('\0').filter_map(|pair| pair.split_once('='));
        let out = fs::File::create(log)?;
        let child = Command::new("nsenter")
            .arg(format!("--net={}", netns::path(netns).display()))
            .args([
                "setpriv",
                "--pdeathsig",
                "KILL",
                "--bounding-set",
                "-all,+net_admin,+sys_admin,+net_raw",
                "--inh-caps",
                "-all",
                "--",
            ])
            .arg(program("ztunnel")?)
            .args(["proxy", "ztunnel"])
            .env_clear()
            .envs(pairs)
            .envs(changes.iter().copied())
            .stdin(Stdio::null())
            .stderr(out.try_clone()?)
            .stdout(out)
            .spawn()?;
        Ok(Daemon { child, log: log.to_owned() })
    }

    /// A place for files of a check; not read by the mesh.
    pub fn scratch(&self, name: &str) -> PathBuf {
        scratch_file(&self.folder, name)
    }
}

fn scratch_file(folder: &TempDir, name: &str) -> PathBuf {
    folder.path().join(format!("{name}.scratch"))
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let ended =
            program("isthmus").and_then(|isthmus| Ok(Command::new(isthmus).args(["--name", &self.name, "down"]).output()?));
        match ended {
            Ok(output) if output.status.success() => {}
            other => eprintln!("the mesh {} could not be removed: {other:?}", self.name),
        }
        let _ = self.up.kill();
        let _ = self.up.wait();
    }
}

/// A daemon that a check started itself.
pub struct Daemon {
    pub child: Child,
    pub log: PathBuf,
}

impl Daemon {
    pub fn signal(&self, signal: Signal) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), signal);
    }

    /// How it ended, and what it wrote.
    pub fn ends(&mut self, limit: Duration) -> Result<(std::process::ExitStatus, String)> {
        let status = until(limit, "the daemon ends", || self.child.try_wait().ok().flatten())?;
        Ok((status, fs::read_to_string(&self.log)?))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file in the mesh's folder.
pub struct Applied(PathBuf);

impl Applied {
    /// Writes it anew.
    pub fn change(&self, yaml: &str) -> Result<()> {
        write_whole(&self.0, yaml.as_bytes())
    }
}

impl Drop for Applied {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A program that was built beside this test.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent).context("tests are in target/*/deps")?;
    let path = folder.join(name);
    ensure!(
        path.is_file(),
        "{} is missing; build it with `cargo build -p isthmus -p ztunnel -p waypoint -p istiod-lite -p mesh-cni`",
        path.display()
    );
    Ok(path)
}

pub fn said(words: &[&str], output: Output) -> Result<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        bail!("`{}` ended with {}: {}{}", words.join(" "), output.status, text(&output.stdout), text(&output.stderr));
    }
    Ok(text(&output.stdout))
}

/// Looks again and again until there is something; an error that says what did not come within the limit.
pub fn until<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        match look() {
            Some(found) => return Ok(found),
            None if began.elapsed() > limit => bail!("not within {limit:?}: {what}"),
            None => std::thread::park_timeout(Duration::from_millis(5)),
        }
    }
}

/// Stops a program; it stands still when this returns. A signal alone is only asked for: a thread on another core goes on
/// until it is interrupted.
pub fn freeze(program: ProcessId) -> Result<()> {
    program.signal(Signal::SIGSTOP);
    until(SOON, "every thread of the program stands still", || all_stopped(program.pid).then_some(()))
}

/// Whether the state of each thread (proc(5), stat) is T.
fn all_stopped(pid: i32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('T'))
    })
}

/// Until a call succeeds; its last error otherwise. How long it took.
pub fn until_ok<T>(limit: Duration, mut call: impl FnMut() -> Result<T>) -> Result<Duration> {
    let began = Instant::now();
    loop {
        let asked = began.elapsed();
        match call() {
            Ok(_) => return Ok(asked),
            Err(error) if began.elapsed() > limit => return Err(error.context(format!("still, after {limit:?}"))),
            Err(_) => std::thread::park_timeout(Duration::from_millis(5)),
        }
    }
}

/// Until a call fails. How long it took.
pub fn until_refused<T>(limit: Duration, what: &str, mut call: impl FnMut() -> Result<T>) -> Result<Duration> {
    let began = Instant::now();
    until(limit, what, || {
        let asked = began.elapsed();
        call().is_err().then_some(asked)
    })
}

pub fn v4(pod: &PodState, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(pod.addresses.v4), port)
}

/// The kernel of every machine that this runs on has IPv6.
pub fn v6(pod: &PodState, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(pod.addresses.v6.expect("IPv6 is there")), port)
}
