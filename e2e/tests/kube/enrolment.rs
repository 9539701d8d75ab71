//! Pods come into the mesh and leave it while they are used: not one request fails.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use e2e::{Check, checks};

use super::cluster::{Cluster, PODS, until};
use super::mesh::{PORT, SYSTEM, until_answered, wait_enrolled, ztunnel};
use super::traffic::{AT, CLIENT, SERVER, SHOP};

/// Changes of the label under load, each way.
const TURNS: usize = 20;
/// New connections per second meanwhile.
const RATE: u32 = 200;

pub fn checks() -> Vec<Check<Cluster>> {
    checks![enrolled_and_released_under_load_without_a_failure, a_new_daemon_takes_over_under_load, the_agent_restarts_under_load]
}

/// Requests from the client to the server, each on a new connection, until it is told to end.
struct Load {
    child: Child,
}

impl Load {
    fn begin() -> Result<Load> {
        let (namespace, name) = CLIENT.split_once('/').context("NAMESPACE/POD")?;
        let url = format!("http://{AT}:{PORT}/details/0");
        let child = Command::new("kubectl")
            .args(["exec", "-i", "-n", namespace, name, "--", "/usr/local/bin/bookinfo", "traffic", &url])
            .args(["--until-input-ends", "--rate", &RATE.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Load { child })
    }

    /// Ends it: how many were sent and failed, and the line that says so.
    fn end(mut self) -> Result<(u64, u64, String)> {
        drop(self.child.stdin.take());
        let said = std::io::read_to_string(self.child.stdout.take().context("standard output is a pipe")?)?;
        self.child.wait()?;
        let last = said.lines().last().context("the load said nothing")?.to_owned();
        let figure = |name: &str| last.split_whitespace().find_map(|word| word.strip_prefix(name)?.trim_end_matches(',').parse().ok());
        let (sent, failed) = (figure("sent=").context("sent=")?, figure("failed=").context("failed=")?);
        Ok((sent, failed, last))
    }
}

/// Changes something while requests run; none may fail.
fn without_a_failure(least: u64, change: impl FnOnce() -> Result<()>) -> Result<()> {
    let load = Load::begin()?;
    let began = Instant::now();
    let changed = change();
    until(PODS, "enough requests", || Ok((began.elapsed().as_secs() * u64::from(RATE) >= least).then_some(())))?;
    let (sent, failed, line) = load.end()?;
    changed?;
    ensure!(sent >= least / 2, "only {line}");
    ensure!(failed == 0, "{line}");
    println!("    {sent} requests, 0 failed");
    Ok(())
}

fn enrolled_and_released_under_load_without_a_failure(cluster: &Cluster) -> Result<()> {
    without_a_failure(20_000, || {
        for _ in 0..TURNS {
            cluster.kubectl(&["label", "namespace", SHOP, "istio.io/dataplane-mode-"])?;
            wait_enrolled(cluster, &[CLIENT, SERVER], false)?;
            cluster.kubectl(&["label", "namespace", SHOP, "istio.io/dataplane-mode=ambient"])?;
            wait_enrolled(cluster, &[CLIENT, SERVER], true)?;
        }
        Ok(())
    })?;
    until_answered(cluster, CLIENT, AT)
}

/// Row 33: TestZtunnelRestart, without a failure.
fn a_new_daemon_takes_over_under_load(cluster: &Cluster) -> Result<()> {
    let before = ztunnel(cluster, &cluster.nodes[0])?;
    without_a_failure(2_000, || restart(cluster, "daemonset/ztunnel"))?;
    ensure!(ztunnel(cluster, &cluster.nodes[0])? != before, "the daemon is the same");
    until_answered(cluster, CLIENT, AT)
}

fn the_agent_restarts_under_load(cluster: &Cluster) -> Result<()> {
    without_a_failure(2_000, || restart(cluster, "daemonset/mesh-cni"))?;
    until_answered(cluster, CLIENT, AT)
}

fn restart(cluster: &Cluster, what: &str) -> Result<()> {
    cluster.kubectl(&["rollout", "restart", what, "-n", SYSTEM])?;
    cluster.kubectl(&["rollout", "status", what, "-n", SYSTEM, "--timeout=3m"]).map(drop)
}
