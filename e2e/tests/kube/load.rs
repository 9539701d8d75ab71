//! Load between pods, by the program `meshload`: begun, changed under, ended, judged.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::cluster::{Cluster, PODS, SOON, until};
use super::stand::{CALLERS, SERVERS, at, in_mesh};

pub const PROGRAM: &str = "/usr/local/bin/meshload";
/// It waits ten seconds for what was begun, and then has to say what came.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// What is asked of a server.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// New connections per second.
    pub rate: u32,
    /// Connections for one request after the other.
    pub kept: u32,
    /// Connections that stay for as long as the load does.
    pub held: u32,
    /// Between two blocks of such a one.
    pub pause: Duration,
}

impl Demand {
    /// New connections alone.
    pub fn fresh(rate: u32) -> Demand {
        Demand { rate, kept: 0, held: 0, pause: Duration::from_millis(100) }
    }

    /// And some that stay.
    pub fn with_open(self, kept: u32, held: u32) -> Demand {
        Demand { kept, held, ..self }
    }
}

/// A load that runs.
pub struct Load {
    child: Child,
    lines: Receiver<String>,
    from: String,
}

impl Load {
    /// From a pod, NAMESPACE/NAME, to a host; it runs when this returns.
    pub fn begin(from: &str, host: &str, demand: Demand) -> Result<Load> {
        Load::start(from, &[host], demand, true)
    }

    /// With a header, `name: value`, on each request.
    pub fn begin_with(from: &str, host: &str, header: &str, demand: Demand) -> Result<Load> {
        Load::start(from, &[host, "--header", header], demand, true)
    }

    /// Connections of which none may be answered, beside those that have to be.
    pub fn begin_refused(from: &str, refusing: &str) -> Result<Load> {
        Load::start(from, &[refusing, "--refusing", refusing], Demand::fresh(0), false)
    }

    fn start(from: &str, words: &[&str], demand: Demand, is_answered: bool) -> Result<Load> {
        let (namespace, name) = from.split_once('/').context("NAMESPACE/POD")?;
        let numbers = [("--rate", u128::from(demand.rate)), ("--kept", demand.kept.into()), ("--held", demand.held.into()), ("--pause", demand.pause.as_millis())];
        let mut child = Command::new("kubectl")
            .args(["exec", "-i", "-n", namespace, name, "--", PROGRAM, "run"])
            .args(words)
            .args(numbers.iter().flat_map(|(flag, number)| [(*flag).to_owned(), number.to_string()]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let (out, (tell, lines)) = (child.stdout.take().context("standard output is a pipe")?, channel());
        std::thread::spawn(move || BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        let load = Load { child, lines, from: from.to_owned() };
        if is_answered {
            let said = load.lines.recv_timeout(SOON).with_context(|| format!("the load from {from} to {words:?} got no answer"))?;
            ensure!(said == "begun", "the load said {said}");
        }
        Ok(load)
    }

    /// What came of it.
    pub fn end(mut self) -> Result<Report> {
        drop(self.child.stdin.take());
        loop {
            let line = self.lines.recv_timeout(ENDS_WITHIN).with_context(|| format!("the load from {} said nothing", self.from))?;
            if line.starts_with('{') {
                return Ok(Report { from: self.from.clone(), said: serde_json::from_str(&line)? });
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a load says of itself.
#[derive(Debug)]
pub struct Report {
    from: String,
    pub said: Value,
}

const KINDS: [&str; 4] = ["fresh", "kept", "held", "refused"];

impl Report {
    fn figure(&self, kind: &str, what: &str) -> u64 {
        self.said[kind][what].as_u64().unwrap_or_default()
    }

    pub fn ok(&self) -> u64 {
        KINDS.iter().map(|kind| self.figure(kind, "ok")).sum()
    }

    /// How many answers came from a server, of all.
    pub fn answered_by(&self, server: &str) -> (u64, u64) {
        let servers = self.said["servers"].as_object();
        let count = |(name, count): (&String, &Value)| (name == server, count.as_u64().unwrap_or_default());
        let counts: Vec<(bool, u64)> = servers.into_iter().flatten().map(count).collect();
        (counts.iter().filter(|(its, _)| *its).map(|(_, count)| count).sum(), counts.iter().map(|(_, count)| count).sum())
    }

    /// How many answers brought this cookie, `name=value`.
    pub fn given(&self, cookie: &str) -> u64 {
        self.said["cookies"][cookie].as_u64().unwrap_or_default()
    }

    pub fn failed(&self) -> u64 {
        KINDS.iter().map(|kind| self.figure(kind, "failed")).sum()
    }

    /// Milliseconds since 1970 of each failure that is listed.
    pub fn failed_at(&self) -> Vec<u64> {
        self.said["failures"].as_array().into_iter().flatten().filter_map(|one| one["at"].as_u64()).collect()
    }

    /// # Errors
    /// How many failed, and the first of them.
    pub fn all_held(&self) -> Result<()> {
        let first: Vec<String> = self.said["failures"].as_array().into_iter().flatten().take(5).map(Value::to_string).collect();
        ensure!(self.failed() == 0, "{self}: {}", first.join(" "));
        Ok(())
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.from)?;
        for kind in KINDS.iter().filter(|kind| self.figure(kind, "ok") + self.figure(kind, "failed") > 0) {
            let counts = &self.said[kind];
            write!(f, ", {kind}: {} ok, {} failed, p99 {} ms, longest {} ms", counts["ok"], counts["failed"], counts["p99_ms"], counts["max_ms"])?;
        }
        Ok(())
    }
}

/// Changes something while pods of both nodes call across the wire, each way `demand`; `judge` looks at each report. In all
/// at least `least` new connections are made.
pub fn under_load<T>(demand: Demand, least: u64, change: impl FnOnce() -> Result<T>, judge: impl Fn(&Report) -> Result<()>) -> Result<T> {
    let loads: Vec<Load> = CALLERS.iter().zip(SERVERS.iter().rev()).map(|(from, to)| Load::begin(&in_mesh(from), &at(to), demand)).collect::<Result<_>>()?;
    let began = Instant::now();
    let changed = change();
    let expected = || (began.elapsed().as_secs_f64() * f64::from(demand.rate) * loads.len() as f64) as u64;
    until(PODS * 10, "enough connections", || Ok((changed.is_err() || expected() >= least).then_some(())))?;
    let reports: Vec<Report> = loads.into_iter().map(Load::end).collect::<Result<_>>()?;
    reports.iter().for_each(|report| println!("    {report}"));
    let changed = changed?;
    reports.iter().try_for_each(judge)?;
    let made: u64 = reports.iter().map(|report| report.figure("fresh", "ok")).sum();
    ensure!(made >= least * 3 / 4, "only {made} connections were made of {least}");
    Ok(changed)
}

/// One request from a pod, NAMESPACE/NAME, to a host, on a connection of its own.
pub fn ask(cluster: &Cluster, from: &str, host: &str) -> Result<String> {
    ask_at(cluster, from, &format!("{host}:9080"))
}

pub fn ask_at(cluster: &Cluster, from: &str, at: &str) -> Result<String> {
    cluster.exec(from, &[PROGRAM, "ask", at])
}

/// With a header, `name: value`.
pub fn ask_with(cluster: &Cluster, from: &str, at: &str, header: &str) -> Result<String> {
    cluster.exec(from, &[PROGRAM, "ask", at, "--header", header])
}

pub fn until_refused(cluster: &Cluster, from: &str, host: &str) -> Result<()> {
    until(SOON, &format!("{from} refused at {host}"), || Ok(ask(cluster, from, host).is_err().then_some(())))
}

pub fn until_answered(cluster: &Cluster, from: &str, host: &str) -> Result<()> {
    until(SOON, &format!("{from} answered by {host}"), || ask(cluster, from, host).map(|_| Some(())))
}
