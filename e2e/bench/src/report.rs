//! What was measured, as tables for people and as JSON for programs.

use std::fmt;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::beside::Beside;
use crate::change::Changes;
use crate::compare::Row;
use crate::idle::Idle;
use crate::plot;
use crate::process::Memory;
use crate::resolving::Resolving;
use crate::turnover::Turnover;
use crate::way::Way;

#[derive(Default, Serialize)]
pub struct Report {
    pub rows: Vec<Row>,
    /// Of the two daemons, before any load.
    pub at_rest: Option<[Memory; 2]>,
    pub idle: Vec<Idle>,
    pub changes: Option<Changes>,
    pub resolve: Option<Resolving>,
    /// The waypoint's HTTP engine.
    pub beside: Option<Beside>,
    /// Through a waypoint.
    pub way: Option<Way>,
    pub turnover: Option<Turnover>,
}

/// Private bytes per idle tunnelled connection in each daemon, and resident bytes of a daemon at rest.
const EACH_TARGET: f64 = 3.0 * 1024.0;
const AT_REST_TARGET: f64 = 6e6;

impl Report {
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("figures and names can be written")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.rows.is_empty() {
            writeln!(f, "\n{}\n\n{}", loads(&self.rows), plot::bars(&self.rows))?;
        }
        if let Some(at_rest) = &self.at_rest {
            let [near, far] = at_rest.map(|memory| format!("{} ({} of its own)", mb(memory.resident), mb(memory.private)));
            writeln!(f, "at rest: {near} client's node, {far} server's; target {}", mb(AT_REST_TARGET as u64))?;
        }
        if !self.idle.is_empty() {
            writeln!(f, "\n{}", idle(&self.idle))?;
        }
        if let Some(changes) = &self.changes {
            writeln!(f, "\n{}", changed(changes))?;
        }
        if let Some(resolve) = &self.resolve {
            writeln!(f, "\n{}", resolved(resolve))?;
        }
        if let Some(beside) = &self.beside {
            writeln!(f, "\n{}", stood_beside(beside))?;
        }
        if let Some(way) = &self.way {
            writeln!(f, "\n{}", went(way))?;
        }
        if let Some(turnover) = &self.turnover {
            writeln!(f, "\n{}", turned(turnover))?;
        }
        Ok(())
    }
}

fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(head);
    table
}

fn loads(rows: &[Row]) -> Table {
    let mut table = table(&["load", "", "ours", "haproxy", "ratio", "target", "rate ours", "rate haproxy", "failed"]);
    for row in rows {
        table.add_row([
            row.load.to_owned(),
            row.cpu_unit.to_owned(),
            number(row.ours.cpu),
            number(row.chain.cpu),
            format!("{:.2}", row.cpu_ratio),
            row.cpu_target.map_or_else(String::new, |target| format!("{target:.2} {}", met(row.cpu_ratio <= target))),
            format!("{} {}", number(row.ours.rate), row.rate_unit),
            format!("{} {}", number(row.chain.rate), row.rate_unit),
            format!("{} / {}", row.ours.failed, row.chain.failed),
        ]);
        if let (Some(ours), Some(chain), Some(added)) = (row.ours.median, row.chain.median, row.added_latency) {
            table.add_row([
                String::new(),
                "us median".to_owned(),
                number(ours),
                number(chain),
                format!("{added:+.0}"),
                row.latency_target.map_or_else(String::new, |target| format!("+{target:.0} {}", met(added <= target))),
            ]);
        }
    }
    table
}

fn idle(rows: &[Idle]) -> Table {
    let mut table =
        table(&["idle connections", "", "KiB each, client's", "server's", "target", "before", "with all", "after they closed"]);
    for row in rows {
        let ours = row.carrier == "ours";
        let good = row.each.iter().all(|each| *each <= EACH_TARGET);
        let both = |bytes: [u64; 2]| format!("{} + {}", mb(bytes[0]), mb(bytes[1]));
        table.add_row([
            row.connections.to_string(),
            row.carrier.to_owned(),
            format!("{:.2}", row.each[0] / 1024.0),
            format!("{:.2}", row.each[1] / 1024.0),
            if ours { format!("{:.0} {}", EACH_TARGET / 1024.0, met(good)) } else { String::new() },
            both(row.private[0]),
            both(row.private[1]),
            both(row.private[2]),
        ]);
    }
    table
}

fn changed(changes: &Changes) -> Table {
    let mut table = table(&["processor time of both daemons, ms per second", "workers", "whole"]);
    let (connections, rate) = (changes.connections, changes.per_second);
    for (what, spent) in [
        (format!("{connections} idle connections, nothing changes"), changes.quiet),
        (format!("{connections} idle connections, {rate} changes/s to others"), changes.changing),
        (format!("no connections, {rate} changes/s"), changes.changing_without_connections),
    ] {
        table.add_row([what, format!("{:.1}", spent.workers), format!("{:.1}", spent.whole)]);
    }
    table
}

fn resolved(resolve: &Resolving) -> Table {
    let during = format!("while {} workloads are pushed ({:.2} s)", resolve.pushed, resolve.push);
    let mut table = table(&["resolve, us", "decisions", "median", "99 %", "worst"]);
    for (what, times) in [("quiet".to_owned(), resolve.quiet), (during, resolve.during)] {
        table.add_row([
            what,
            times.decisions.to_string(),
            format!("{:.2}", times.median),
            format!("{:.2}", times.p99),
            number(times.worst),
        ]);
    }
    table
}

fn stood_beside(beside: &Beside) -> Table {
    let mut table = table(&["plain HTTP proxy", "", "cpu us/request", "rate", "us median", "failed"]);
    for load in &beside.loads {
        for row in &load.rows {
            table.add_row([
                load.name.to_owned(),
                format!("{:?}", row.proxy).to_lowercase(),
                number(row.cpu),
                format!("{} /s", number(row.rate)),
                row.median.map_or_else(String::new, number),
                row.failed.to_string(),
            ]);
        }
        if let Some((what, ratio, target)) = load.target() {
            let met = met(ratio <= target);
            table.add_row([String::new(), format!("{what}: {ratio:.2} of envoy's, target {target:.2} {met}")]);
        }
    }
    for (proxy, memory) in &beside.memory {
        let name = format!("{proxy:?}").to_lowercase();
        table.add_row([
            "memory".to_owned(),
            name,
            format!("{} resident, {} of its own", mb(memory.resident), mb(memory.private)),
        ]);
    }
    table.add_row(["memory of ours: 15 MB at most, large 60".to_owned(), met(beside.memory_met()).to_owned()]);
    for edits in &beside.edits {
        let name = format!("{:?}", edits.name).to_lowercase();
        table.add_row(["one route changed, us".to_owned(), name, format!("median {}, 99 % {}", number(edits.median), number(edits.p99))]);
    }
    table.add_row(["until it is live: 50 ms at most".to_owned(), met(beside.edits_met()).to_owned()]);
    table
}

fn went(way: &Way) -> Table {
    let head = ["whole way, cpu us/request", "", "client's node", "waypoint", "server's node", "rate", "us median", "failed"];
    let mut table = table(&head);
    for row in &way.rows {
        let [near, between, far] = row.cpu.map(number);
        table.add_row([
            row.load.to_owned(),
            if row.through { "through" } else { "direct" }.to_owned(),
            near,
            if row.through { between } else { String::new() },
            far,
            format!("{} /s", number(row.rate)),
            row.median.map_or_else(String::new, number),
            row.failed.to_string(),
        ]);
    }
    let memory = way.memory;
    table.add_row(["memory of the waypoint".to_owned(), format!("{} resident, {} of its own", mb(memory.resident), mb(memory.private))]);
    table
}

fn turned(turnover: &Turnover) -> Table {
    let mut table = table(&["connections in turn", "of its own, client's node", "server's node"]);
    for (had, [near, far]) in &turnover.seen {
        table.add_row([had.to_string(), mb(near.private), mb(far.private)]);
    }
    table.add_row([format!("failed: {}", turnover.failed)]);
    table
}

fn met(yes: bool) -> &'static str {
    if yes { "met" } else { "missed" }
}

fn mb(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Three digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
