//! The loads: what iperf3 and wrk are asked to do, and what their answers mean.

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::Part;
use crate::world::{Carrier, World};

pub struct Load {
    pub name: &'static str,
    pub part: Part,
    pub kind: Kind,
    /// The most that ours may take, as a multiple of the chain's processor time for the same work; none: not bounded.
    pub cpu_target: Option<f64>,
    /// The most that ours may add to the median, in microseconds.
    pub latency_target: Option<f64>,
}

#[derive(Clone, Copy)]
pub enum Kind {
    /// So many streams of iperf3; the unit of work is a gigabyte (10^9 bytes).
    Bulk(u32),
    /// So many connections of wrk that stay; the unit is a request.
    Requests(u32),
    /// So many clients of wrk with a connection per request.
    Connections(u32),
}

pub const ALL: &[Load] = &[
    Load { name: "bulk, 1 stream", part: Part::Bulk, kind: Kind::Bulk(1), cpu_target: Some(1.25), latency_target: None },
    Load { name: "bulk, 4 streams", part: Part::Bulk, kind: Kind::Bulk(4), cpu_target: Some(1.25), latency_target: None },
    Load {
        name: "requests, 1 connection",
        part: Part::Requests,
        kind: Kind::Requests(1),
        cpu_target: None,
        latency_target: Some(15.0),
    },
    Load {
        name: "requests, 64 connections",
        part: Part::Requests,
        kind: Kind::Requests(64),
        cpu_target: Some(1.2),
        latency_target: None,
    },
    Load {
        name: "new connections, 16 clients",
        part: Part::Connections,
        kind: Kind::Connections(16),
        cpu_target: Some(1.0),
        latency_target: None,
    },
];

/// What a round moved.
pub struct Moved {
    /// Gigabytes or requests.
    pub units: f64,
    /// Units per second; for bulk, Gbit/s.
    pub rate: f64,
    /// Median of a request in microseconds.
    pub median: Option<f64>,
    pub failed: u64,
}

impl Kind {
    pub fn run(self, world: &World, carrier: Carrier, time: Duration) -> anyhow::Result<Moved> {
        let seconds = time.as_secs().to_string();
        match self {
            Kind::Bulk(streams) => {
                let (host, port) = world.bulk(carrier);
                let said = world.run(&[
                    "iperf3",
                    "-c",
                    host,
                    "-p",
                    &port.to_string(),
                    "-t",
                    &seconds,
                    "-P",
                    &streams.to_string(),
                    "-J",
                ])?;
                bulk(&said)
            }
            Kind::Requests(connections) => wrk(world, carrier, connections, &seconds, &[]),
            Kind::Connections(clients) => wrk(world, carrier, clients, &seconds, &["-H", "Connection: close"]),
        }
    }

    /// The unit of work that processor time is given for: how many units make one of it, and its name.
    pub fn unit(self) -> &'static str {
        match self {
            Kind::Bulk(_) => "s/GB",
            Kind::Requests(_) => "us/request",
            Kind::Connections(_) => "us/connection",
        }
    }

    pub fn rate_unit(self) -> &'static str {
        if matches!(self, Kind::Bulk(_)) { "Gbit/s" } else { "/s" }
    }

    /// Seconds into the unit that is printed.
    pub fn scale(self) -> f64 {
        if matches!(self, Kind::Bulk(_)) { 1.0 } else { 1e6 }
    }
}

fn wrk(world: &World, carrier: Carrier, connections: u32, seconds: &str, more: &[&str]) -> anyhow::Result<Moved> {
    let (host, port) = world.http(carrier);
    let (url, time, connections) = (format!("http://{host}:{port}/"), format!("{seconds}s"), connections.to_string());
    let mut words = vec!["wrk", "-t", "1", "-c", &connections, "-d", &time, "--latency"];
    words.extend(more);
    words.push(&url);
    requests(&world.run(&words)?)
}

fn bulk(said: &str) -> anyhow::Result<Moved> {
    let said: Value = serde_json::from_str(said).context("iperf3 did not answer in JSON")?;
    let sum = &said["end"]["sum_received"];
    let number = |field: &str| sum[field].as_f64().with_context(|| format!("iperf3 says no end.sum_received.{field}"));
    Ok(Moved { units: number("bytes")? / 1e9, rate: number("bits_per_second")? / 1e9, median: None, failed: 0 })
}

/// What wrk prints is for people; the few words that are looked for have been the same for ten years.
pub fn requests(said: &str) -> anyhow::Result<Moved> {
    let after = |word: &str| said.lines().find_map(|line| line.trim().strip_prefix(word).map(str::trim));
    let median = after("50%").and_then(microseconds).context("wrk says no median")?;
    let rate = after("Requests/sec:").and_then(|text| text.parse().ok()).context("wrk says no rate")?;
    let done = said.lines().find_map(|line| line.trim().split_once(" requests in ")).context("wrk says no number of requests")?;
    let failed = after("Non-2xx or 3xx responses:").and_then(|text| text.parse().ok()).unwrap_or(0) + socket_errors(said);
    Ok(Moved { units: done.0.parse()?, rate, median: Some(median), failed })
}

fn microseconds(text: &str) -> Option<f64> {
    [("us", 1.0), ("ms", 1e3), ("s", 1e6)]
        .into_iter()
        .find_map(|(unit, scale)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * scale))
}

/// `Socket errors: connect 0, read 3, write 0, timeout 1`
fn socket_errors(said: &str) -> u64 {
    let line = said.lines().find_map(|line| line.trim().strip_prefix("Socket errors:"));
    line.map_or(0, |line| line.split_whitespace().filter_map(|word| word.trim_end_matches(',').parse::<u64>().ok()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "\
Running 4s test @ http://10.96.9.1:8080/
  1 threads and 64 connections
  Latency Distribution
     50%    1.85ms
     75%    2.00ms
  102400 requests in 4.01s, 17.10MB read
  Socket errors: connect 0, read 3, write 0, timeout 1
Requests/sec:  25536.16
Transfer/sec:      4.26MB
";

    #[test]
    fn wrk_is_understood() {
        let moved = requests(WRK).expect("it is what wrk prints");
        assert_eq!((moved.units, moved.rate, moved.median, moved.failed), (102_400.0, 25_536.16, Some(1850.0), 4));
        assert!(requests("unable to connect").is_err());
    }

    #[test]
    fn iperf3_is_understood() {
        let moved =
            bulk(r#"{"end":{"sum_received":{"bytes":2500000000,"bits_per_second":5e9}}}"#).expect("it is what iperf3 prints");
        assert_eq!((moved.units, moved.rate), (2.5, 5.0));
        assert!(bulk(r#"{"error":"unable to connect"}"#).is_err());
    }

    #[test]
    fn times_have_units() {
        for (text, want) in [("175.00us", Some(175.0)), ("1.5ms", Some(1500.0)), ("2s", Some(2e6)), ("fast", None)] {
            assert_eq!(microseconds(text), want, "{text}");
        }
    }
}
