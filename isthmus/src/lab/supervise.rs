//! Keeping the mesh's programs running: started inside a namespace, started again when they end, with a log each.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::process::{Child, Command};

use crate::lab::netns;
use crate::lab::process::ProcessId;

/// A program that ends is started again after this, doubled each time up to the maximum.
const RESTART_AFTER: Duration = Duration::from_millis(500);
const RESTART_AFTER_MAX: Duration = Duration::from_secs(10);
/// A program that ran this long starts with the shortest wait again.
const STEADY_AFTER: Duration = Duration::from_secs(30);
/// How long a program that is not wanted any more has to end by itself.
const STOP_WITHIN: Duration = Duration::from_secs(3);
/// A log is emptied when it is this large, so that a mesh that runs for weeks does not fill /run.
const LOG_MAX: u64 = 64 << 20;

/// How to start a program.
#[derive(Clone, Debug)]
pub struct ProgramSpec {
    pub name: String,
    pub node: Option<String>,
    pub netns: String,
    pub program: PathBuf,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// The only capabilities that it has, in the words of `setpriv`.
    pub capabilities: &'static str,
    pub log: PathBuf,
}

/// A program and the process that runs it now.
#[derive(Debug)]
pub struct Supervised {
    pub spec: ProgramSpec,
    pub restarts: u32,
    child: Option<Child>,
    started: Instant,
    wait: Duration,
}

impl Supervised {
    pub fn start(spec: ProgramSpec) -> anyhow::Result<Supervised> {
        let child = spawn(&spec)?;
        Ok(Supervised { spec, restarts: 0, child: Some(child), started: Instant::now(), wait: RESTART_AFTER })
    }

    pub fn process(&self) -> Option<ProcessId> {
        ProcessId::of(self.child.as_ref()?.id()? as i32)
    }

    /// Ends it: asked first, and killed if it does not go.
    pub async fn stop(mut self) {
        let Some(mut child) = self.child.take() else { return };
        if let Some(process) = child.id().and_then(|id| i32::try_from(id).ok()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(process), nix::sys::signal::Signal::SIGTERM);
        }
        if tokio::time::timeout(STOP_WITHIN, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }

    /// Looks after the program; says what happened, if something did.
    pub fn tend(&mut self) -> Option<String> {
        empty_if_large(&self.spec.log);
        match &mut self.child {
            Some(child) => {
                let status = child.try_wait().ok().flatten()?;
                self.child = None;
                if self.started.elapsed() > STEADY_AFTER {
                    self.wait = RESTART_AFTER;
                }
                // From here on `started` is the moment of its end.
                self.started = Instant::now();
                let log = crate::lab::process::last_words(&self.spec.log);
                Some(format!("{} ended ({status}) and starts again in {:.1} s; {log}", self.spec.name, self.wait.as_secs_f32()))
            }
            None if self.started.elapsed() < self.wait => None,
            None => {
                self.started = Instant::now();
                self.wait = (self.wait * 2).min(RESTART_AFTER_MAX);
                self.restarts += 1;
                match spawn(&self.spec) {
                    Ok(child) => {
                        self.child = Some(child);
                        None
                    }
                    Err(error) => Some(format!("{error:#}")),
                }
            }
        }
    }
}

/// `nsenter` and `setpriv` replace themselves by the program, so the child is the program.
fn spawn(spec: &ProgramSpec) -> anyhow::Result<Child> {
    let log = OpenOptions::new().create(true).append(true).open(&spec.log).with_context(|| format!("cannot write the log {}", spec.log.display()))?;
    Command::new("nsenter")
        .arg(format!("--net={}", netns::path(&spec.netns).display()))
        .args(["setpriv", "--bounding-set", spec.capabilities, "--inh-caps", "-all", "--"])
        .arg(&spec.program)
        .args(&spec.args)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(&spec.env)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A group of its own: Ctrl-C is for `up`, which then stops the programs in order.
        .process_group(0)
        .kill_on_drop(false)
        .spawn()
        .with_context(|| format!("cannot start {}", spec.name))
}

/// Programs append, so an emptied log goes on at its beginning.
pub fn empty_if_large(log: &std::path::Path) {
    if std::fs::metadata(log).is_ok_and(|about| about.len() > LOG_MAX)
        && let Ok(file) = OpenOptions::new().write(true).open(log)
    {
        let _ = file.set_len(0);
    }
}
