//! What this machine can give: programs that must be there, user ids, IPv6; and, for a normal user, the namespaces of
//! their own in which `up` may do what root may do.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{self, Cli};
use crate::lab::process::ProcessId;
use crate::lab::state::{base, names, private_folder, write_whole};
use crate::plan::Ids;

/// Program, the Debian package that it comes from.
const NEEDED: [(&str, &str); 5] = [("ip", "iproute2"), ("nft", "nftables"), ("nsenter", "util-linux"), ("setpriv", "util-linux"), ("unshare", "util-linux")];
/// Set inside the namespaces that a normal user's `up` makes for itself.
const INSIDE: &str = "ISTHMUS_INSIDE";
/// Ids above those that systemd-nspawn (up to 0x6fffffff) and subordinate ids usually take; 65,536 for each pod.
const OWN_IDS: Ids = Ids::Own { first: 0x7000_0000, count: 65_536 };
/// Ids for each pod of a normal user who has subordinate ids (usually 65,536 in all): enough for daemons' own users.
const SUBORDINATE_IDS: Ids = Ids::Own { first: 1, count: 1_000 };

/// Packages that this machine lacks, without repeats.
pub fn missing_packages() -> Vec<&'static str> {
    let mut missing: Vec<&str> = NEEDED.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    missing.dedup();
    missing
}

/// Finds a program as a shell would; /usr/sbin is often not in a normal user's PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"]).map(|folder| Path::new(folder).join(program)).find(|file| file.is_file())
}

/// Installs what is missing as root; names it and the command otherwise.
pub fn provide_packages() -> anyhow::Result<()> {
    let missing = missing_packages();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let command = format!("apt-get install -y --no-install-recommends {list}");
    if !nix::unistd::geteuid().is_root() || is_inside() {
        bail!("this machine lacks: {list}\ninstall with:  sudo {command}");
    }
    if find("apt-get").is_none() {
        bail!("this machine lacks: {list}\ninstall them with this system's package manager");
    }
    crate::say::line(&format!("installing {list} ..."));
    let install = format!("DEBIAN_FRONTEND=noninteractive; export DEBIAN_FRONTEND; apt-get update -q && {command}");
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(Command::new("sh").args(["-c", &install]).output()));
    let began = Instant::now();
    let output = loop {
        match wait.recv_timeout(Duration::from_secs(2)) {
            Ok(output) => break output?,
            Err(_) => crate::say::line(&format!("  {:>3} s: still installing", began.elapsed().as_secs())),
        }
    };
    if !output.status.success() {
        bail!("could not install {list}: {}\ntry it by hand:  {command}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Whether this process runs inside the namespaces that a normal user's `up` made.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// A normal user's commands act inside the namespaces of that user's `up`; root's act where they are.
pub fn enter(cli: &Cli) -> anyhow::Result<()> {
    if is_inside() || nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let base = base();
    match &cli.command {
        cli::Command::Up(_) => {
            provide_packages()?;
            private_folder(&base)?;
            Err(enter_own_namespaces(&base, &outer_file(&base)))
        }
        cli::Command::Down | cli::Command::Check(_) | cli::Command::Waypoint(_) | cli::Command::Selftest(_) | cli::Command::Completion { .. } => Ok(()),
        _ => Err(join_own_namespaces(&base, &outer_file(&base))),
    }
}

/// Whether a mesh of this user runs here, or what a crash left of one.
pub fn has_mesh() -> bool {
    let base = base();
    if is_inside() || nix::unistd::geteuid().is_root() { !names().is_empty() } else { outer_process(&outer_file(&base)).is_some_and(ProcessId::is_alive) }
}

/// Says which process holds a normal user's namespaces.
pub fn outer_file(base: &Path) -> PathBuf {
    base.join("outer.json")
}

/// The ids that pods get.
pub fn ids() -> Ids {
    if !is_inside() {
        return OWN_IDS;
    }
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let mapped: u64 = map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok()).sum();
    if mapped > 65_000 { SUBORDINATE_IDS } else { Ids::Shared }
}

pub fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").is_dir()
}

/// A normal user's `up` starts itself again as root of a user namespace with its own network, mounts and processes.
/// Returns only when that fails.
fn enter_own_namespaces(base: &Path, outer: &Path) -> anyhow::Error {
    let tried = || -> anyhow::Result<anyhow::Error> {
        if outer_process(outer).is_some_and(ProcessId::is_alive) {
            bail!("a mesh of yours already runs, and a user has one at a time (root has several); stop it with `isthmus down`");
        }
        if std::fs::read_to_string("/proc/sys/kernel/unprivileged_userns_clone").is_ok_and(|text| text.trim() == "0") {
            bail!("normal users may not make user namespaces here\nallow it with:  sudo sysctl kernel.unprivileged_userns_clone=1\nor run isthmus as root");
        }
        let own = ProcessId::own().context("cannot read /proc/self/stat")?;
        write_whole(outer, &serde_json::to_vec(&own)?)?;
        let mut unshare = Command::new(find("unshare").context("unshare is missing")?);
        unshare.args(["--user", "--map-root-user"]);
        if has_subordinate_ids() {
            unshare.arg("--map-auto");
        }
        unshare.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
        unshare.arg(std::env::current_exe()?).arg("__own-init").args(std::env::args_os().skip(1)).env(INSIDE, "1").env("ISTHMUS_BASE", base);
        Ok(anyhow::Error::new(unshare.exec()).context("cannot start unshare (package util-linux)"))
    };
    tried().unwrap_or_else(|error| error)
}

/// `unshare --map-auto` needs the programs of uidmap and a line for the user in /etc/subuid and /etc/subgid.
fn has_subordinate_ids() -> bool {
    let user = std::env::var("USER").unwrap_or_default();
    let uid = nix::unistd::getuid().to_string();
    let has_line = |file: &str| {
        std::fs::read_to_string(file).is_ok_and(|text| text.lines().filter_map(|line| line.split(':').next()).any(|name| name == uid || (!user.is_empty() && name == user)))
    };
    find("newuidmap").is_some() && has_line("/etc/subuid") && has_line("/etc/subgid")
}

/// The other commands of a normal user enter the namespaces of their `up`. Returns only when that fails.
fn join_own_namespaces(base: &Path, outer: &Path) -> anyhow::Error {
    let tried = || -> anyhow::Result<anyhow::Error> {
        let outer = outer_process(outer).context("no mesh of yours runs here; start one with `isthmus up`")?;
        let inner = inner_process(outer).context("your mesh has ended; `isthmus down` removes what is left of it")?.to_string();
        let mut nsenter = Command::new(find("nsenter").context("nsenter is missing")?);
        nsenter.args(["--target", &inner, "--user", "--mount", "--net", "--pid", "--preserve-credentials", "--"]);
        nsenter.arg(std::env::current_exe()?).args(std::env::args_os().skip(1)).env(INSIDE, "1").env("ISTHMUS_BASE", base);
        Ok(anyhow::Error::new(nsenter.exec()).context("cannot start nsenter (package util-linux)"))
    };
    tried().unwrap_or_else(|error| error)
}

/// The process that holds a normal user's namespaces: `unshare`, waiting for its child.
pub fn outer_process(outer: &Path) -> Option<ProcessId> {
    serde_json::from_slice(&std::fs::read(outer).ok()?).ok()
}

/// `__own-init`: process 1 of a normal user's namespaces. Runs `up`, hands signals on to it, and reaps what nobody else
/// does; without a reaper the end of a pod's process namespace would never come.
pub fn own_init() -> anyhow::Result<ExitCode> {
    let up = Command::new("/proc/self/exe").args(std::env::args_os().skip(2)).spawn().context("cannot start again inside the new namespaces")?;
    let up = Pid::from_raw(up.id() as i32);
    std::thread::spawn(move || hand_on_signals(up));
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, status)) if pid == up => return Ok(ExitCode::from(u8::try_from(status).unwrap_or(1))),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == up => bail!("isthmus up was ended by {}", signal.as_str()),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error).context("isthmus up is gone"),
        }
    }
}

fn hand_on_signals(up: Pid) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupt, mut terminate, mut hangup) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
        loop {
            // Ctrl-C reaches `up` by itself, and once more by us: it is stopped by the first.
            let which = tokio::select! {
                _ = interrupt.recv() => Signal::SIGINT,
                _ = terminate.recv() => Signal::SIGTERM,
                _ = hangup.recv() => Signal::SIGHUP,
            };
            let _ = kill(up, which);
        }
    })
}

/// That child: process 1 of the namespaces.
pub fn inner_process(outer: ProcessId) -> Option<i32> {
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", outer.pid)).unwrap_or_default();
    children.split_whitespace().next().filter(|_| outer.is_alive())?.parse().ok()
}

/// Inside a normal user's namespaces /run is not ours to write: an empty one is laid over it for `ip netns`.
pub fn prepare_run() -> anyhow::Result<()> {
    if is_inside() {
        let nothing: Option<&str> = None;
        nix::mount::mount(Some("tmpfs"), "/run", Some("tmpfs"), nix::mount::MsFlags::empty(), nothing).context("cannot lay an empty /run over the machine's")?;
    }
    Ok(())
}

/// What cannot be shown here, by name.
pub fn left_out(ids: Ids) -> Option<&'static str> {
    (ids == Ids::Shared).then_some(
        "You are not root and have no subordinate user ids, so all pods share your user id. Left out: separate user ids per pod, and securityContext.runAsUser. \
         To have them: sudo apt-get install -y uidmap, a line for you in /etc/subuid and /etc/subgid; or run as root",
    )
}
