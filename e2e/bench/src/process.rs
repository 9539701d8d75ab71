//! What a process has used: processor time and memory, read from /proc.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

/// Memory of one process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Its own: heap and stacks.
    pub private: u64,
    /// All that is resident, the program's file included.
    pub resident: u64,
}

/// User and system time of all threads of these processes, also of threads that ended.
pub fn cpu(pids: &[i32]) -> anyhow::Result<Duration> {
    pids.iter().map(|pid| times(&format!("/proc/{pid}/stat"))).sum()
}

/// The same for the threads with this name that live now.
pub fn cpu_of_threads(pids: &[i32], name: &str) -> anyhow::Result<Duration> {
    let mut total = Duration::ZERO;
    for pid in pids {
        for thread in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            let path = thread.path();
            if fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name) {
                total += times(&path.join("stat").display().to_string())?;
            }
        }
    }
    Ok(total)
}

/// Fields 14 and 15 of proc(5) `stat`; the name before them may contain spaces and ends with the last parenthesis.
fn times(stat: &str) -> anyhow::Result<Duration> {
    let text = fs::read_to_string(stat).with_context(|| format!("cannot read {stat}; has the process ended?"))?;
    let after = text.rsplit_once(')').context("a stat file has a name in parentheses")?.1;
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("the system has a clock tick")? as f64;
    Ok(Duration::from_secs_f64(ticks as f64 / per_second))
}

pub fn memory(pid: i32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}; has the process ended?"))?;
    let fields: BTreeMap<&str, u64> = text.lines().filter_map(kibibytes).collect();
    let field = |name: &str| fields.get(name).copied().unwrap_or_default() * 1024;
    Ok(Memory { private: field("RssAnon"), resident: field("VmRSS") })
}

fn kibibytes(line: &str) -> Option<(&str, u64)> {
    let (name, rest) = line.split_once(':')?;
    Some((name, rest.trim().strip_suffix(" kB")?.parse().ok()?))
}

/// As many descriptors as this process may have: thousands of connections begin here.
pub fn raise_descriptors() -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_status_is_read_and_others_are_left_out() {
        assert_eq!(kibibytes("RssAnon:\t    1234 kB"), Some(("RssAnon", 1234)));
        assert_eq!(kibibytes("Name:\tbench"), None);
    }

    #[test]
    fn this_process_has_memory() {
        let own = memory(std::process::id() as i32).expect("it runs");
        assert!(own.private > 0 && own.resident >= own.private);
    }
}
