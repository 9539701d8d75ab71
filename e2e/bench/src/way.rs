//! The whole way: client, its node's daemon, the waypoint, the server's node's daemon, server; and what each hop of it
//! costs. Beside it the same without the waypoint.

use std::time::{Duration, Instant};

use anyhow::Context;
use isthmus::lab::state::{State, base};
use serde::Serialize;
use tempfile::TempDir;

use crate::beside::http2;
use crate::compare::median;
use crate::load::{self, Moved};
use crate::process::{self, Memory};
use crate::world::{NAME, World, program};
use crate::{grpc, world};

/// The service of `through.yaml`.
const THROUGH: &str = "10.96.9.2";
const WAYPOINT: &str = "waypoint.bench.waypoint-1";
const UP_WITHIN: Duration = Duration::from_secs(60);

#[derive(Serialize)]
pub struct Way {
    pub rows: Vec<Row>,
    /// Of the waypoint, after all that.
    pub memory: Memory,
}

#[derive(Serialize)]
pub struct Row {
    pub load: &'static str,
    pub through: bool,
    /// Microseconds of processor time per request: of the client's daemon, the waypoint, the server's daemon.
    pub cpu: [f64; 3],
    pub rate: f64,
    /// Microseconds.
    pub median: Option<f64>,
    pub failed: u64,
}

/// A program that asks, and the port that it asks.
type Asks<'a> = (&'static str, u16, &'a dyn Fn(&str) -> anyhow::Result<Moved>);

pub fn measure(world: &World, rounds: usize, time: Duration) -> anyhow::Result<Way> {
    world.apply("through.yaml", include_str!("../through.yaml"))?;
    let waypoint = await_waypoint(world)?;
    let folder = TempDir::new()?;
    let seconds = time.as_secs().to_string();
    let wrk = |connections: &str, url: &str| {
        let time = format!("{seconds}s");
        load::requests(&world.run(&["wrk", "-t", "1", "-c", connections, "-d", &time, "--latency", url])?)
    };
    let calls = grpc::words(&folder.path().join("message"))?;
    let h2load = |more: &[String], url: &str| {
        let mut words = vec!["h2load", "-t", "1", "-c", "4", "-m", "16", "-D", &seconds];
        words.extend(more.iter().map(String::as_str));
        words.push(url);
        http2(&world.run(&words)?)
    };
    let loads: [Asks<'_>; 4] = [
        ("HTTP/1.1, 64 connections", 8080, &|url| wrk("64", url)),
        ("HTTP/1.1, 1 connection", 8080, &|url| wrk("1", url)),
        ("HTTP/2, 4 connections of 16", 8081, &|url| h2load(&[], url)),
        ("gRPC, 4 connections of 16", 8082, &|url| h2load(&calls, url)),
    ];
    let pids = [world.daemons[0], waypoint, world.daemons[1]];
    let mut rows = Vec::new();
    for (name, port, asks) in loads {
        for (through, host) in [(true, THROUGH), (false, world::SERVICE)] {
            eprintln!("{name}, {}", if through { "through the waypoint" } else { "direct" });
            let url = format!("http://{host}:{port}/");
            let rounds = (0..rounds).map(|_| one(&pids, &url, asks)).collect::<anyhow::Result<Vec<_>>>()?;
            let medians: Vec<f64> = rounds.iter().filter_map(|(_, moved)| moved.median).collect();
            rows.push(Row {
                load: name,
                through,
                cpu: [0, 1, 2].map(|at| median(rounds.iter().map(|(cpu, _)| cpu[at]))),
                rate: median(rounds.iter().map(|(_, moved)| moved.rate)),
                median: (!medians.is_empty()).then(|| median(medians)),
                failed: rounds.iter().map(|(_, moved)| moved.failed).sum(),
            });
        }
    }
    Ok(Way { rows, memory: process::memory(waypoint)? })
}

fn one(pids: &[i32; 3], url: &str, asks: &dyn Fn(&str) -> anyhow::Result<Moved>) -> anyhow::Result<([f64; 3], Moved)> {
    let before = pids.iter().map(|pid| process::cpu(&[*pid])).collect::<anyhow::Result<Vec<_>>>()?;
    let moved = asks(url)?;
    let mut cpu = [0.0; 3];
    for ((cpu, pid), before) in cpu.iter_mut().zip(pids).zip(before) {
        *cpu = (process::cpu(&[*pid])? - before).as_secs_f64() / moved.units * 1e6;
    }
    Ok((cpu, moved))
}

/// The waypoint's process, once every port answers through it.
fn await_waypoint(world: &World) -> anyhow::Result<i32> {
    let began = Instant::now();
    let answers = || -> anyhow::Result<i32> {
        let pid = program(&State::load(&base().join(NAME))?, WAYPOINT)?;
        for (port, more) in [("8080", "--http1.1"), ("8081", "--http2-prior-knowledge"), ("8082", "--http2-prior-knowledge")] {
            world.run(&["curl", "-sSf", "-m", "5", "-o", "/dev/null", more, &format!("http://{THROUGH}:{port}/")])?;
        }
        Ok(pid)
    };
    loop {
        match answers() {
            Ok(pid) => return Ok(pid),
            Err(why) if began.elapsed() > UP_WITHIN => return Err(why).context("nothing answers through the waypoint"),
            Err(_) => std::thread::park_timeout(Duration::from_millis(100)),
        }
    }
}
