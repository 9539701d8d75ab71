//! The steps of the tour. Each acts through pods as their programs would, and judges by what can be observed.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use super::wire::Wire;
use super::{Cast, Fact, held, told};
use crate::exec;
use crate::lab::netns;
use crate::lab::state::{PodState, write_whole};
use crate::mesh::{self, token};
use crate::shop::{Attempt, MARK_NOTE, MARKER};

pub const TITLES: [&str; 4] = [
    "What crosses the wire between the nodes is TLS, and the plain text is not in it",
    "A policy takes effect within a second, also on a connection that is open",
    "A caller outside the mesh is accepted under PERMISSIVE and refused under STRICT",
    "A pod cannot reach the mesh's secrets, sockets and rules, nor slip past capture",
];

/// What is promised of a policy file.
const EFFECT_WITHIN: Duration = Duration::from_secs(1);
/// How long a step waits for what it expects before it says that it did not come.
const PATIENCE: Duration = Duration::from_secs(8);

pub async fn take(index: usize, cast: &Cast<'_>, wire: &Wire) -> anyhow::Result<Vec<Fact>> {
    match index {
        0 => wire_is_tls(cast, wire).await,
        1 => policy_cuts(cast).await,
        2 => strict_refuses(cast).await,
        _ => isolation(cast, wire).await,
    }
}

async fn wire_is_tls(cast: &Cast<'_>, wire: &Wire) -> anyhow::Result<Vec<Fact>> {
    // A mesh that has just come up may still be learning its own names.
    becomes(cast.load, "http://front/", true).await?;
    let answer = exec::run(cast.load, &["isthmus-shop", "get", "http://front/", "--times", "20"]).await?;
    let worked = answer.status.success();
    let pages = held(worked, if worked { "20 pages were fetched from front, across the wire".to_owned() } else { format!("front did not answer: {}", words(&answer.stderr)) });
    let is_meshed = |ip| cast.state.pods.iter().filter(|pod| pod.wanted).any(|pod| pod.addresses.all().contains(&ip));
    let is_outside = |ip| [cast.courier, cast.depot].iter().any(|pod| pod.addresses.all().contains(&ip));
    // The outside pair speaks by itself, twice a second: waited for, so that the check is known to see what is there.
    let control = exec::run(cast.courier, &["isthmus-shop", "get", "http://depot/"]).await?;
    let evidence = within(PATIENCE, || {
        let evidence = wire.evidence();
        (evidence.tunnels().1.records >= 20 && evidence.sightings(MARKER, is_outside) > 0).then_some(evidence)
    })
    .await
    .unwrap_or_else(|| wire.evidence());
    let (tunnels, tally) = evidence.tunnels();
    let (seen, control_seen) = (evidence.sightings(MARKER, is_meshed), evidence.sightings(MARKER, is_outside));
    Ok(vec![
        pages,
        held(tally.is_tls(), format!("{tunnels} tunnels: {} TLS records, {} bytes in them, {} bytes before the first record that was seen, {} breaks", tally.records, tally.framed, tally.unknown, tally.broken)),
        held(seen == 0, format!("the plain text {MARKER:?} was seen {seen} times between pods of the mesh")),
        held(
            control_seen > 0,
            format!("the same check can fail: between courier and depot, which are not in the mesh, it was seen {control_seen} times{}", if control.status.success() { "" } else { " (and depot did not answer)" }),
        ),
    ])
}

const DENY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: tour-no-load
  namespace: shop
spec:
  selector:
    matchLabels:
      app: front
  action: DENY
  rules:
  - from:
    - source:
        principals: [\"cluster.local/ns/shop/sa/load\"]
";

async fn policy_cuts(cast: &Cast<'_>) -> anyhow::Result<Vec<Fact>> {
    let (mut child, mut said) = hold(cast.load, "http://front/health").await?;
    let dropped = SystemTime::now();
    let policy = TourFile::write(cast, "tour-no-load.yaml", DENY)?;
    let line = tokio::time::timeout(PATIENCE, said.next_line()).await;
    let cut = match line {
        Ok(Ok(Some(line))) => cut(&line, dropped),
        _ => held(false, format!("the open connection from load to front was not cut within {} s", PATIENCE.as_secs())),
    };
    // The client ends when its standard input does; killed from here, its own process would be left to nobody.
    drop(child.stdin.take());
    let _ = tokio::time::timeout(PATIENCE, child.wait()).await;
    let new = exec::run(cast.load, &["isthmus-shop", "get", "http://front/health"]).await?;
    let other = exec::run(cast.catalog, &["isthmus-shop", "get", "http://front/health"]).await?;
    drop(policy);
    let again = becomes(cast.load, "http://front/health", true).await?;
    Ok(vec![
        cut,
        held(!new.status.success(), format!("a new connection from load is {}", if new.status.success() { "accepted".to_owned() } else { format!("refused: {}", words(&new.stderr)) })),
        held(other.status.success(), if other.status.success() { "catalog, of which the policy does not speak, is still served".to_owned() } else { format!("catalog is not served: {}", words(&other.stderr)) }),
        held(again.is_some(), again.map_or("without the file load is still refused".to_owned(), |took| format!("the file removed, load is served again after {} ms", took.as_millis()))),
    ])
}

/// Reads `cut MILLISECONDS REASON`.
fn cut(line: &str, dropped: SystemTime) -> Fact {
    let mut parts = line.splitn(3, ' ');
    let at = parts.nth(1).and_then(|text| text.parse().ok()).map(|ms| UNIX_EPOCH + Duration::from_millis(ms));
    let reason = parts.next().unwrap_or(line);
    match at.and_then(|at| at.duration_since(dropped).ok()) {
        Some(took) => held(took <= EFFECT_WITHIN, format!("the open connection from load to front was cut {} ms after the file was there ({reason})", took.as_millis())),
        None => held(false, format!("the connection was cut before the policy was there: {line}")),
    }
}

const STRICT: &str = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: tour-strict
  namespace: shop
spec:
  mtls:
    mode: STRICT
";

async fn strict_refuses(cast: &Cast<'_>) -> anyhow::Result<Vec<Fact>> {
    const URL: &str = "http://front.shop/health";
    let before = exec::run(cast.courier, &["isthmus-shop", "get", URL]).await?;
    let policy = TourFile::write(cast, "tour-strict.yaml", STRICT)?;
    let refused = becomes(cast.courier, URL, false).await?;
    let meshed = exec::run(cast.load, &["isthmus-shop", "get", "http://front/health"]).await?;
    drop(policy);
    let after = becomes(cast.courier, URL, true).await?;
    Ok(vec![
        held(before.status.success(), if before.status.success() { "PERMISSIVE (the default): courier, outside the mesh, is served by front".to_owned() } else { format!("PERMISSIVE: courier is refused: {}", words(&before.stderr)) }),
        held(refused.is_some_and(|took| took <= EFFECT_WITHIN), refused.map_or("STRICT: courier is still served".to_owned(), |took| format!("STRICT: courier is refused, {} ms after the file was there", took.as_millis()))),
        held(meshed.status.success(), if meshed.status.success() { "STRICT: load, which proves its identity, is served".to_owned() } else { format!("STRICT: load is refused: {}", words(&meshed.stderr)) }),
        held(after.is_some(), after.map_or("the file removed, courier is still refused".to_owned(), |took| format!("the file removed, courier is served again after {} ms", took.as_millis()))),
    ])
}

async fn isolation(cast: &Cast<'_>, wire: &Wire) -> anyhow::Result<Vec<Fact>> {
    let arguments = targets(cast);
    let words_of: Vec<&str> = ["isthmus-shop", "intrude"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
    let output = exec::run(cast.catalog, &words_of).await?;
    let attempts = String::from_utf8_lossy(&output.stdout).lines().map(serde_json::from_str).collect::<Result<Vec<Attempt>, _>>().context("the intruder's report cannot be read")?;
    if attempts.is_empty() || !output.status.success() {
        bail!("the intruder in pod catalog did not finish: {}", words(&output.stderr));
    }
    let mut facts: Vec<Fact> = attempts.iter().map(judge).collect();
    let raw = exec::run(cast.catalog, &["isthmus-shop", "raw-socket"]).await?;
    facts.push(held(raw.status.success(), "the intruder had a container's default capabilities: it can open raw sockets, so it can set marks".to_owned()));
    // Frames reach the reader within its look-up time; a second is ample.
    tokio::time::sleep(EFFECT_WITHIN).await;
    let leaked = wire.evidence().sightings(MARK_NOTE, |_| true);
    facts.push(held(leaked == 0, format!("what was sent with a forged mark was seen on the wire in the clear {leaked} times")));
    exec::run(cast.courier, &["isthmus-shop", "intrude", "--marked", "depot:80"]).await?;
    let seen = within(PATIENCE, || Some(wire.evidence().sightings(MARK_NOTE, |_| true)).filter(|seen| *seen > 0)).await.unwrap_or(0);
    facts.push(held(seen > 0, format!("the same check can fail: sent by courier, outside the mesh, it was seen {seen} times")));
    Ok(facts)
}

/// What was sent with a forged mark is told here, and judged by what the wire shows.
fn judge(attempt: &Attempt) -> Fact {
    let Attempt { attempt: what, succeeded, what: outcome } = attempt;
    match (succeeded, what.starts_with("send with mark")) {
        (true, _) => held(false, format!("{what}: SUCCEEDED, {outcome}")),
        (false, true) => told(format!("{what}: {outcome}")),
        (false, false) => held(true, format!("{what}: {outcome}")),
    }
}

/// All that an intruder could want, by the places where it really is.
fn targets(cast: &Cast<'_>) -> Vec<String> {
    let (state, run) = (cast.state, &cast.state.run);
    let mut arguments = Vec::new();
    let mut add = |kind: &str, value: String| arguments.extend([format!("--{kind}"), value]);
    for node in &state.nodes {
        add("secret", token::file(run, &node.name).display().to_string());
        add("socket", mesh::zds_socket(run, &node.name).display().to_string());
        add("netns", netns::path(&node.netns).display().to_string());
        add("port", format!("{}:15000", node.gateway.v4));
        add("port", format!("{}:15000", node.wire.v4));
    }
    add("secret", mesh::ca_key(run).display().to_string());
    add("folder", run.display().to_string());
    add("netns", netns::path(&cast.front.netns).display().to_string());
    for program in state.programs.iter().filter_map(|program| program.process) {
        add("process", program.pid.to_string());
    }
    for port in [15000, 15001, 15006] {
        add("port", format!("localhost:{port}"));
        add("port", format!("{}:{port}", cast.front.addresses.v4));
    }
    add("marked", "front:80".to_owned());
    add("marked", format!("{}:8080", cast.front.addresses.v4));
    arguments
}

/// A file of the tour in the operator's folder. Gone when the step is over, however it ends.
struct TourFile(PathBuf);

impl TourFile {
    fn write(cast: &Cast<'_>, name: &str, text: &str) -> anyhow::Result<TourFile> {
        let path = cast.state.folder.join(name);
        write_whole(&path, text.as_bytes())?;
        Ok(TourFile(path))
    }
}

impl Drop for TourFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A client that keeps one connection; returns when it is open. It ends when its standard input, held by the child,
/// is closed.
async fn hold(pod: &PodState, url: &str) -> anyhow::Result<(Child, Lines<BufReader<ChildStdout>>)> {
    let command = exec::inside(pod, &["isthmus-shop", "hold", url])?;
    let mut child = tokio::process::Command::from(command).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut said = BufReader::new(child.stdout.take().context("standard output was asked for")?).lines();
    match tokio::time::timeout(PATIENCE, said.next_line()).await {
        Ok(Ok(Some(line))) if line == "open" => Ok((child, said)),
        _ => {
            let _ = child.start_kill();
            drop(child.stdin.take());
            let output = child.wait_with_output().await?;
            bail!("{} cannot reach {url}: {}", pod.name, words(&output.stderr))
        }
    }
}

/// Asks until the answer is as wanted; how long that took from now, or none if it did not come.
async fn becomes(pod: &PodState, url: &str, served: bool) -> anyhow::Result<Option<Duration>> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let asked = began.elapsed();
        let output = exec::run(pod, &["isthmus-shop", "get", url, "--timeout-ms", "1000"]).await?;
        if output.status.success() == served {
            return Ok(Some(asked));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(None)
}

async fn within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        match look() {
            Some(found) => return Some(found),
            None if began.elapsed() > limit => return None,
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().trim_start_matches("isthmus-shop: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_judged_by_the_time_it_took() {
        let dropped = UNIX_EPOCH + Duration::from_millis(10_000);
        for (line, expected) in [("cut 10400 connection closed", true), ("cut 11001 late", false), ("cut 9999 early", false), ("nonsense", false)] {
            assert_eq!(cut(line, dropped).held, Some(expected), "{line}");
        }
    }
}
