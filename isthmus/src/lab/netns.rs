//! Network namespaces with names (`ip netns`), and running something inside one of them.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, setns};

/// Where `ip netns` keeps names; fixed when iproute2 is built.
pub const NAMES: &str = "/run/netns";

pub fn path(name: &str) -> PathBuf {
    Path::new(NAMES).join(name)
}

pub fn exists(name: &str) -> bool {
    path(name).exists()
}

/// Makes an empty namespace under a name.
pub fn add(name: &str) -> anyhow::Result<()> {
    run("ip", &["netns", "add", name])
}

/// Gives the namespace that process `pid` is in a name.
pub fn attach(name: &str, pid: u32) -> anyhow::Result<()> {
    run("ip", &["netns", "attach", name, &pid.to_string()])
}

/// Takes the name away. The namespace goes with its last process and socket.
pub fn delete(name: &str) -> anyhow::Result<()> {
    run("ip", &["netns", "delete", name])
}

/// Names in use that begin with `prefix`.
pub fn with_prefix(prefix: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(NAMES) else { return Vec::new() };
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    names
}

/// Processes that are in the namespace.
pub fn processes(name: &str) -> Vec<i32> {
    let Ok(output) = tool("ip").args(["netns", "pids", name]).output() else { return Vec::new() };
    String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.trim().parse().ok()).collect()
}

/// Runs `ip` commands, one a line, inside the namespace (or in ours for `None`).
pub fn ip_batch(inside: Option<&str>, commands: &str) -> anyhow::Result<()> {
    let mut ip = tool("ip");
    if let Some(name) = inside {
        ip.args(["-n", name]);
    }
    feed(ip.args(["-batch", "-"]), commands).with_context(|| format!("network set-up in {} failed", inside.unwrap_or("the machine's own namespace")))
}

/// Applies a ruleset inside the namespace, all or nothing.
pub fn nft(inside: &str, ruleset: &str) -> anyhow::Result<()> {
    let netns = format!("--net={}", path(inside).display());
    feed(tool("nsenter").args([&netns, "nft", "-f", "-"]), ruleset).with_context(|| format!("nft refused the rules of {inside}"))
}

/// Sets kernel settings (`net.…`) inside the namespace. Ones that this kernel lacks are an error.
pub fn sysctl(inside: &str, settings: &[(&str, &str)]) -> anyhow::Result<()> {
    let settings: Vec<(String, String)> = settings.iter().map(|(key, value)| (format!("/proc/sys/{key}"), (*value).to_owned())).collect();
    within(&path(inside), move || {
        for (file, value) in &settings {
            std::fs::write(file, value).with_context(|| format!("cannot write {value} to {file}"))?;
        }
        Ok(())
    })?
}

/// Runs `work` on a thread of its own that has entered the namespace at `netns`. Sockets that it opens stay there.
pub fn within<T: Send + 'static>(netns: &Path, work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    let file = File::open(netns).with_context(|| format!("network namespace {} cannot be opened; is the mesh still running?", netns.display()))?;
    let entered = std::thread::spawn(move || {
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        Ok::<T, nix::Error>(work())
    });
    match entered.join() {
        Ok(result) => result.with_context(|| format!("cannot enter network namespace {}", netns.display())),
        Err(_) => bail!("the work inside {} panicked", netns.display()),
    }
}

/// A program in a process group of its own: Ctrl-C is for `up`, which lets it end and then removes everything in order.
fn tool(program: &str) -> Command {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(program);
    command.process_group(0);
    command
}

/// Runs a program to its end; its own words are the error.
pub fn run(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let output = tool(program).args(args).stdin(Stdio::null()).output().with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!("`{program} {}` failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn feed(command: &mut Command, text: &str) -> anyhow::Result<()> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    let mut input = child.stdin.take().expect("standard input was asked for");
    // A program that stops early says why on its standard error; that matters more than the broken pipe.
    let written = input.write_all(text.as_bytes());
    drop(input);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    written.context("could not hand over the commands")
}
