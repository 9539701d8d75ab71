//! What happens inside a pod before its commands run. Three re-executions of this program, each with less power:
//!
//! ```text
//! __pod-keep   root of the machine: hides the run directory, makes the pod's namespaces, waits to be mapped and cabled
//! __pod-first  process 1 of the pod, root of the pod's own user namespace only: /proc, /sys, host name
//! __pod-run    the same process with a container's default capabilities: starts the commands, again when they end
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Uid, setgid, setgroups, sethostname, setuid};
use serde::{Deserialize, Serialize};

use crate::lab::fate::{Fate, What};
use crate::plan::Run;

/// What the keeper says when its namespaces are made.
pub const READY: &str = "made";
/// Where a pod finds what is given to it.
pub const GIVEN: &str = "/run/pod";
/// The search path of a pod's commands.
pub const PATH: &str = "/run/pod/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The capabilities that container runtimes give by default: NET_RAW is in; NET_ADMIN, SYS_ADMIN, SYS_PTRACE are out.
pub const DEFAULT_CAPABILITIES: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";
/// Memory that a pod's temporary file systems may take, each.
const TMPFS_SIZE: &str = "256m";
/// A command that ends is started again after this, doubled each time.
const RESTART_AFTER: Duration = Duration::from_secs(1);
const RESTART_AFTER_MAX: Duration = Duration::from_secs(30);
/// A command that ran this long starts with the shortest wait again.
const STEADY_AFTER: Duration = Duration::from_secs(30);

/// What a pod is told of itself. Holds nothing secret: its commands can read it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InsideSpec {
    pub hostname: String,
    /// An empty folder of the run directory that becomes the pod's /run.
    pub staging: PathBuf,
    /// The id outside that is root inside; owns the pod's temporary files.
    pub root: u32,
    pub hosts: String,
    pub resolv_conf: String,
    /// Programs given to the pod, by the name under which it finds them.
    pub programs: BTreeMap<String, PathBuf>,
    pub containers: Vec<Run>,
}

/// `__pod-keep`. Stays in the machine's process namespace, so that it can be seen and ended.
pub fn keep() -> anyhow::Result<()> {
    let mut input = std::io::stdin().lock();
    let mut line = String::new();
    input.read_line(&mut line)?;
    let spec: InsideSpec = serde_json::from_str(&line).context("the pod's description cannot be read")?;
    // With one user id only, the kernel refuses this and there are no groups to lose.
    let _ = setgroups(&[]);
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    arrange_files(&spec)?;
    let all = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    unshare(all).context("cannot make the pod's namespaces; is kernel.unprivileged_userns_clone or user.max_user_namespaces 0?")?;
    let mut output = std::io::stdout();
    writeln!(output, "{READY}")?;
    output.flush()?;
    line.clear();
    input.read_line(&mut line)?;
    if line.trim() != "go" {
        bail!("stopped before the pod was ready");
    }
    setgid(Gid::from_raw(0)).context("cannot become the pod's root")?;
    setuid(Uid::from_raw(0)).context("cannot become the pod's root")?;
    // Standard output led to `up`, for the one word above; from here on everything goes to the pod's log.
    let log = std::io::stderr().as_fd().try_clone_to_owned()?;
    let mut first = Command::new("/proc/self/exe");
    first.arg("__pod-first").env_clear().current_dir("/").stdin(Stdio::null()).stdout(log);
    let status = first.status().context("cannot start the pod's first process")?;
    bail!("the pod ended: {status}")
}

/// Lays the pod's own files over the machine's: afterwards neither the run directory nor anyone's temporary files can
/// be reached by any path.
fn arrange_files(spec: &InsideSpec) -> anyhow::Result<()> {
    let nothing: Option<&str> = None;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).context("cannot make mounts private")?;
    tmpfs(&spec.staging, "755", spec.root)?;
    let given = spec.staging.join("pod");
    let bin = given.join("bin");
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(spec.staging.join("lock"))?;
    fs::set_permissions(spec.staging.join("lock"), fs::Permissions::from_mode(0o1777))?;
    for (name, program) in &spec.programs {
        let place = bin.join(name);
        fs::write(&place, "")?;
        bind(program, &place)?;
    }
    fs::write(given.join("hosts"), &spec.hosts)?;
    fs::write(given.join("resolv.conf"), &spec.resolv_conf)?;
    fs::write(given.join("spec.json"), serde_json::to_string(spec)?)?;
    // /etc/resolv.conf may be a link into /run: resolved while the machine's /run is still there.
    let names = [("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf")].map(|(own, place)| (own, fs::canonicalize(place).unwrap_or_else(|_| place.into())));
    mount(Some(&spec.staging), "/run", nothing, MsFlags::MS_BIND | MsFlags::MS_REC, nothing).context("cannot lay the pod's /run over the machine's")?;
    for (own, place) in names {
        let own = Path::new(GIVEN).join(own);
        if place.starts_with("/run") {
            fs::create_dir_all(place.parent().unwrap_or(Path::new("/run")))?;
            fs::copy(own, place)?;
        } else if place.exists() {
            bind(&own, &place)?;
        }
    }
    read_only();
    for temporary in ["/tmp", "/var/tmp", "/dev/shm"].map(Path::new).into_iter().filter(|path| path.is_dir()) {
        tmpfs(temporary, "1777", spec.root)?;
    }
    Ok(())
}

fn tmpfs(at: &Path, mode: &str, owner: u32) -> anyhow::Result<()> {
    let options = format!("mode={mode},size={TMPFS_SIZE},uid={owner},gid={owner}");
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options.as_str())).with_context(|| format!("cannot mount a temporary file system at {}", at.display()))
}

fn bind(from: &Path, to: &Path) -> anyhow::Result<()> {
    let nothing: Option<&str> = None;
    mount(Some(from), to, nothing, MsFlags::MS_BIND, nothing).with_context(|| format!("cannot give {} to the pod as {}", from.display(), to.display()))
}

/// Makes the machine's own file systems read-only here. Where the kernel refuses one (a mount that an outer namespace
/// has locked), file permissions alone protect it, as they do for every user of the machine.
fn read_only() {
    let nothing: Option<&str> = None;
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in table.lines() {
        let mut fields = line.split(' ').skip(4);
        let (Some(at), Some(options)) = (fields.next(), fields.next()) else { continue };
        if ["/proc", "/sys", "/dev", "/run"].iter().any(|kept| Path::new(at).starts_with(kept)) {
            continue;
        }
        let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        for option in options.split(',') {
            flags |= match option {
                "nosuid" => MsFlags::MS_NOSUID,
                "nodev" => MsFlags::MS_NODEV,
                "noexec" => MsFlags::MS_NOEXEC,
                "noatime" => MsFlags::MS_NOATIME,
                "nodiratime" => MsFlags::MS_NODIRATIME,
                "relatime" => MsFlags::MS_RELATIME,
                _ => MsFlags::empty(),
            };
        }
        let _ = mount(nothing, at.replace("\\040", " ").as_str(), nothing, flags, nothing);
    }
}

/// `__pod-first`: process 1 of the pod. Gives up what a container does not have and goes on as `__pod-run`.
pub fn first() -> anyhow::Result<()> {
    let nothing: Option<&str> = None;
    let spec = given()?;
    sethostname(&spec.hostname).context("cannot set the pod's host name")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, nothing).context("cannot mount the pod's /proc; is the machine's own /proc partly hidden (a container)?")?;
    // Shows the pod's interfaces instead of the machine's. Where it is refused, the old view names interfaces only.
    let _ = mount(Some("sysfs"), "/sys", Some("sysfs"), flags | MsFlags::MS_RDONLY, nothing);
    let error = contained(&[&format!("{GIVEN}/bin/isthmus"), "__pod-run"]).env("PATH", PATH).exec();
    bail!("cannot start setpriv (package util-linux): {error}")
}

/// A command that runs with a container's default capabilities and nothing inherited.
pub fn contained(command: &[&str]) -> Command {
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--bounding-set", DEFAULT_CAPABILITIES, "--inh-caps", "-all", "--ambient-caps", "-all", "--"]).args(command);
    setpriv
}

fn given() -> anyhow::Result<InsideSpec> {
    let text = fs::read_to_string(format!("{GIVEN}/spec.json")).context("the pod's description is missing")?;
    serde_json::from_str(&text).context("the pod's description cannot be read")
}

/// A command of the pod that ended or was never started, and when it is to start.
struct Again {
    index: usize,
    after: Duration,
}

/// Which command each running process is, and since when. Locked while one starts, so that its end is never seen first.
type Started = Arc<Mutex<BTreeMap<i32, (usize, Instant)>>>;

/// `__pod-run`: starts the commands, again when they end, and reaps what they leave behind.
pub fn run() -> anyhow::Result<()> {
    let spec = given()?;
    let started: Started = Arc::default();
    let (ask, asked) = mpsc::channel::<Again>();
    let (table, containers) = (started.clone(), spec.containers.clone());
    std::thread::spawn(move || start_when_due(&containers, &table, &asked));
    let mut waits = vec![RESTART_AFTER; spec.containers.len()];
    for index in 0..spec.containers.len() {
        ask.send(Again { index, after: Duration::ZERO })?;
    }
    loop {
        let Some((pid, how)) = next_end() else { continue };
        let Some((index, since)) = started.lock().map_err(|_| anyhow::anyhow!("a thread panicked"))?.remove(&pid) else { continue };
        if since.elapsed() > STEADY_AFTER {
            waits[index] = RESTART_AFTER;
        }
        note(&spec.containers[index], What::Stopped(format!("ended ({how}); starts again in {} s", waits[index].as_secs())));
        ask.send(Again { index, after: waits[index] })?;
        waits[index] = (waits[index] * 2).min(RESTART_AFTER_MAX);
    }
}

/// Blocks until a process of the pod has ended. None when there is none at the moment.
fn next_end() -> Option<(i32, String)> {
    match waitpid(None, None) {
        Ok(WaitStatus::Exited(pid, status)) => Some((pid.as_raw(), format!("status {status}"))),
        Ok(WaitStatus::Signaled(pid, signal, _)) => Some((pid.as_raw(), signal.as_str().to_owned())),
        Ok(_) => None,
        Err(_) => {
            // No children: everything waits to be started again.
            std::thread::park_timeout(Duration::from_millis(50));
            None
        }
    }
}

/// Starts each command that is asked for when its time has come.
fn start_when_due(containers: &[Run], started: &Started, asked: &mpsc::Receiver<Again>) {
    let mut due: Vec<(Instant, usize)> = Vec::new();
    loop {
        let now = Instant::now();
        let wait = due.iter().map(|(at, _)| at.saturating_duration_since(now)).min().unwrap_or(Duration::from_secs(3600));
        match asked.recv_timeout(wait) {
            Ok(again) => due.push((Instant::now() + again.after, again.index)),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        let now = Instant::now();
        let (ready, later) = due.into_iter().partition(|(at, _)| *at <= now);
        due = later;
        for (_, index) in ready {
            let Ok(mut table) = started.lock() else { return };
            match command_of(&containers[index]).spawn() {
                Ok(child) => {
                    table.insert(child.id() as i32, (index, Instant::now()));
                    note(&containers[index], What::Started);
                }
                Err(error) => {
                    let again = RESTART_AFTER_MAX.as_secs();
                    note(&containers[index], What::Stopped(format!("cannot start {:?} ({error}); is tried again in {again} s", containers[index].command[0])));
                    due.push((Instant::now() + RESTART_AFTER_MAX, index));
                }
            }
        }
    }
}

/// Into the pod's log, where `up` reads it.
fn note(run: &Run, what: What) {
    eprintln!("{}", Fate { container: run.container.clone(), what }.line());
}

/// The words that go before a command so that it runs as another user than root.
pub fn become_user(user: Option<u32>, group: Option<u32>) -> Vec<String> {
    if user.or(group).is_none() {
        return Vec::new();
    }
    let id = |id: Option<u32>| id.unwrap_or(0).to_string();
    vec!["setpriv".to_owned(), "--clear-groups".to_owned(), "--reuid".to_owned(), id(user), "--regid".to_owned(), id(group), "--".to_owned()]
}

fn command_of(run: &Run) -> Command {
    let words: Vec<String> = become_user(run.user, run.group).into_iter().chain(run.command.iter().cloned()).collect();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command.env_clear().env("PATH", PATH).env("HOME", "/tmp").envs(&run.env);
    command.current_dir(run.directory.as_deref().unwrap_or("/"));
    command
}
