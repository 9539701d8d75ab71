//! The steps of the tour. Each acts through pods as their programs would, and judges by what can be observed.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use super::wire::Wire;
use super::{Cast, Fact, held, layer7, told};
use crate::exec;
use crate::lab::netns;
use crate::lab::state::{PodState, write_whole};
use crate::mesh::{self, token};
use crate::shop::{Attempt, FORGED, MARK_NOTE, MARKER};

pub const TITLES: [&str; 5] = [
    "What crosses the wire between the nodes is TLS, and the plain text is not in it",
    "A policy takes effect within a second, also on a connection that is open",
    "A caller outside the mesh is accepted under PERMISSIVE and refused under STRICT",
    "A waypoint splits a service's requests, routes by a header, and lets in only who shows a token",
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
        3 => layer7::waypoint(cast).await,
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
    let clear = evidence.in_the_clear(is_meshed);
    Ok(vec![
        pages,
        held(tally.is_tls(), format!("{tunnels} tunnels carried {} TLS records in {} bytes; {} times something else stood where a record had to begin; {} bytes before the first one that was seen", tally.records, tally.framed, tally.broken, tally.unknown)),
        held(clear == 0, format!("{clear} packets between pods of the mesh were outside of a tunnel")),
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
    let wanted = targets(cast);
    let words_of: Vec<&str> = ["isthmus-shop", "intrude"].into_iter().chain(wanted.iter().flat_map(|(kind, value)| [*kind, value.as_str()])).collect();
    let mut facts = vec![contained(cast.catalog).await?, are_there(&wanted)];
    let output = exec::run(cast.catalog, &words_of).await?;
    let attempts = String::from_utf8_lossy(&output.stdout).lines().map(serde_json::from_str).collect::<Result<Vec<Attempt>, _>>().context("the intruder's report cannot be read")?;
    if attempts.is_empty() || !output.status.success() {
        bail!("the intruder in pod catalog did not finish: {}", words(&output.stderr));
    }
    facts.extend(judge(&attempts));
    let raw = exec::run(cast.catalog, &["isthmus-shop", "raw-socket"]).await?;
    facts.push(held(raw.status.success(), "the intruder can open raw sockets, as in a container, so it can set marks"));
    // Frames reach the reader within its look-up time; a second is ample.
    tokio::time::sleep(EFFECT_WITHIN).await;
    let leaked = wire.evidence().sightings(MARK_NOTE, |_| true);
    facts.push(held(leaked == 0, format!("what was sent with a forged mark was seen on the wire in the clear {leaked} times")));
    exec::run(cast.courier, &["isthmus-shop", "intrude", "--marked", "depot:80"]).await?;
    let seen = within(PATIENCE, || Some(wire.evidence().sightings(MARK_NOTE, |_| true)).filter(|seen| *seen > 0)).await.unwrap_or(0);
    facts.push(held(seen > 0, format!("the same check can fail: sent by courier, outside the mesh, it was seen {seen} times")));
    Ok(facts)
}

/// What a pod is: namespaces of its own, and a container's default capabilities.
async fn contained(pod: &PodState) -> anyhow::Result<Fact> {
    const KINDS: [&str; 4] = ["user", "mnt", "pid", "net"];
    let script = "grep CapBnd /proc/self/status | cut -f2; cd /proc/self/ns; readlink user mnt pid net";
    let answer = exec::run(pod, &["sh", "-c", script]).await?;
    let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
    let mut lines = answer.lines();
    let capabilities = lines.next().and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    let of_machine = KINDS.map(|kind| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap_or_default());
    let own = lines.zip(&of_machine).filter(|(inside, outside)| PathBuf::from(inside) != **outside).count() == KINDS.len();
    Ok(held(
        own && capabilities.is_some_and(is_a_containers),
        "the intruder runs in pod catalog: user, mount, pid and network namespaces of its own, and a container's capabilities (NET_RAW in; NET_ADMIN, SYS_ADMIN, SYS_PTRACE out)",
    ))
}

/// Bits as in linux/capability.h.
fn is_a_containers(capabilities: u64) -> bool {
    const NET_ADMIN: u64 = 1 << 12;
    const NET_RAW: u64 = 1 << 13;
    const SYS_PTRACE: u64 = 1 << 19;
    const SYS_ADMIN: u64 = 1 << 21;
    capabilities & NET_RAW != 0 && capabilities & (NET_ADMIN | SYS_PTRACE | SYS_ADMIN) == 0
}

/// Files, sockets, namespaces and processes that the intruder looks for exist: what it does not find is hidden from it.
fn are_there(wanted: &[(&str, String)]) -> Fact {
    let places: Vec<PathBuf> = wanted.iter().filter_map(|(kind, value)| match *kind {
        "--secret" | "--folder" | "--socket" | "--netns" => Some(value.into()),
        "--process" => Some(format!("/proc/{value}").into()),
        _ => None,
    }).collect();
    let missing: Vec<String> = places.iter().filter(|place| !place.exists()).map(|place| place.display().to_string()).collect();
    match missing.is_empty() {
        true => held(true, format!("what it looks for is there, seen from outside: {} files, sockets, namespaces and processes", places.len())),
        false => held(false, format!("what it looks for is not there: {}", missing.join(", "))),
    }
}

/// One fact for each kind of attempts. What was sent with a forged mark is told here, and judged by what the wire shows.
fn judge(attempts: &[Attempt]) -> Vec<Fact> {
    let mut kinds: Vec<&str> = attempts.iter().map(|attempt| attempt.kind.as_str()).collect();
    kinds.dedup();
    kinds.into_iter().map(|kind| {
        let of_kind: Vec<&Attempt> = attempts.iter().filter(|attempt| attempt.kind == kind).collect();
        let through: Vec<String> = of_kind.iter().filter(|attempt| attempt.succeeded).map(|attempt| format!("{} ({})", attempt.target, attempt.what)).collect();
        let tries = if of_kind.len() == 1 { String::new() } else { format!(", {} tries", of_kind.len()) };
        match (through.is_empty(), kind == FORGED) {
            (false, _) => held(false, format!("{kind}: SUCCEEDED, {}", through.join(", "))),
            (true, true) => told(format!("{kind}{tries}: {}", outcomes(&of_kind))),
            (true, false) => held(true, format!("it cannot {kind}{tries}: {}", outcomes(&of_kind))),
        }
    }).collect()
}

/// Each outcome once, with how often it came when there were several.
fn outcomes(attempts: &[&Attempt]) -> String {
    let mut counts: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
    for attempt in attempts {
        // The number is for programmers, the words are for all.
        *counts.entry(attempt.what.split(" (os error").next().unwrap_or(&attempt.what)).or_default() += 1;
    }
    let several = counts.len() > 1;
    counts.iter().map(|(what, count)| if several { format!("{what} ({count}×)") } else { (*what).to_owned() }).collect::<Vec<_>>().join(", ")
}

/// All that an intruder could want, by the places where it really is, as options of the intruder.
fn targets(cast: &Cast<'_>) -> Vec<(&'static str, String)> {
    let (state, run) = (cast.state, &cast.state.run);
    let mut arguments = vec![("--secret", mesh::ca_key(run).display().to_string()), ("--secret", token::private_key(run).display().to_string())];
    let mut add = |option: &'static str, value: String| arguments.push((option, value));
    for node in &state.nodes {
        add("--secret", token::file(run, &node.name).display().to_string());
        add("--socket", mesh::zds_socket(run, &node.name).display().to_string());
        add("--netns", netns::path(&node.netns).display().to_string());
        add("--port", format!("{}:15000", node.gateway.v4));
        add("--port", format!("{}:15000", node.wire.v4));
    }
    add("--folder", run.display().to_string());
    add("--netns", netns::path(&cast.front.netns).display().to_string());
    for program in state.programs.iter().filter_map(|program| program.process) {
        add("--process", program.pid.to_string());
    }
    for port in [15000, 15001, 15006] {
        add("--port", format!("localhost:{port}"));
        add("--port", format!("{}:{port}", cast.front.addresses.v4));
    }
    add("--marked", "front:80".to_owned());
    add("--marked", format!("{}:8080", cast.front.addresses.v4));
    arguments
}

/// A file of the tour in the operator's folder. Gone when the step is over, however it ends.
pub(super) struct TourFile(PathBuf);

impl TourFile {
    pub(super) fn write(cast: &Cast<'_>, name: &str, text: &str) -> anyhow::Result<TourFile> {
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
    fn attempts_of_a_kind_are_one_fact_and_one_success_is_enough_to_fail() {
        let attempt = |kind: &str, target: &str, succeeded: bool, what: &str| Attempt { kind: kind.into(), target: target.into(), succeeded, what: what.into() };
        let facts = judge(&[
            attempt("read a secret", "/a", false, "No such file or directory (os error 2)"),
            attempt("read a secret", "/b", false, "No such file or directory (os error 2)"),
            attempt("mount a file system", "", false, "EPERM"),
            attempt("enter", "x", false, "no"),
            attempt("enter", "y", true, "entered"),
            attempt(FORGED, "0x1 to a", false, "answered"),
            attempt(FORGED, "0x2 to a", false, "refused"),
        ]);
        assert_eq!(
            facts,
            [
                held(true, "it cannot read a secret, 2 tries: No such file or directory"),
                held(true, "it cannot mount a file system: EPERM"),
                held(false, "enter: SUCCEEDED, y (entered)"),
                told(format!("{FORGED}, 2 tries: answered (1×), refused (1×)")),
            ]
        );
    }

    #[test]
    fn a_containers_capabilities_are_told_from_more_and_from_less() {
        for (bits, expected) in [(0xa804_25fb, true), (0x1ff_ffff_ffff, false), (0xa804_05fb, false), (0xa824_25fb, false)] {
            assert_eq!(is_a_containers(bits), expected, "{bits:x}");
        }
    }

    #[test]
    fn a_cut_is_judged_by_the_time_it_took() {
        let dropped = UNIX_EPOCH + Duration::from_millis(10_000);
        for (line, expected) in [("cut 10400 connection closed", true), ("cut 11001 late", false), ("cut 9999 early", false), ("nonsense", false)] {
            assert_eq!(cut(line, dropped).held, Some(expected), "{line}");
        }
    }
}
