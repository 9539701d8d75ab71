//! Running a command inside a pod: its namespaces, its user, a container's default capabilities.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Output};

use anyhow::{Context, bail};

use crate::cli;
use crate::lab::inside::{PATH, become_user, contained};
use crate::lab::state::{PodState, State};

/// Becomes the command.
pub fn exec(mesh: &Option<String>, what: &cli::Exec) -> anyhow::Result<ExitCode> {
    let state = State::find(mesh.as_deref())?;
    let pod = state.pod(&what.pod)?;
    let words: Vec<&str> = what.command.iter().map(String::as_str).collect();
    let mut command = inside(pod, &words)?;
    if let Ok(term) = std::env::var("TERM") {
        command.env("TERM", term);
    }
    let error = command.exec();
    bail!("cannot start nsenter (package util-linux): {error}")
}

/// Runs a command inside a pod to its end.
pub async fn run(pod: &PodState, words: &[&str]) -> anyhow::Result<Output> {
    let command = inside(pod, words)?;
    tokio::process::Command::from(command).stdin(std::process::Stdio::null()).output().await.context("cannot start nsenter (package util-linux)")
}

/// The command, not yet started. Fails if the pod's commands do not run (yet).
pub fn inside(pod: &PodState, words: &[&str]) -> anyhow::Result<Command> {
    let init = pod.init.filter(|init| init.is_alive()).with_context(|| format!("pod {} does not run (it is {:?}, mesh: {}); its log is {}", pod.name, pod.phase, pod.redirection, pod.log.display()))?;
    let become_user = become_user(pod.user, pod.group);
    let words: Vec<&str> = become_user.iter().map(String::as_str).chain(words.iter().copied()).collect();
    let contained = contained(&words);
    let mut command = Command::new("nsenter");
    if std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny") {
        // With one user id there are no groups to drop, and the kernel refuses to try.
        command.arg("--preserve-credentials");
    }
    command.args(["--target", &init.pid.to_string(), "--user", "--mount", "--uts", "--ipc", "--net", "--pid", "--wd=/", "--"]);
    command.arg(contained.get_program()).args(contained.get_args());
    command.env_clear().env("PATH", PATH).env("HOME", "/tmp");
    Ok(command)
}
