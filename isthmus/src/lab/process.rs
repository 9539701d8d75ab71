//! Processes: which one a number means, asking one to end, and what it said last.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// A process that a later one with the same number is not mistaken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: i32,
    /// Clock ticks since the machine started, from /proc/PID/stat.
    pub started: u64,
}

impl ProcessId {
    /// None if there is no such process.
    pub fn of(pid: i32) -> Option<ProcessId> {
        Some(ProcessId { pid, started: started(pid)? })
    }

    pub fn own() -> Option<ProcessId> {
        ProcessId::of(std::process::id() as i32)
    }

    pub fn is_alive(self) -> bool {
        started(self.pid) == Some(self.started)
    }

    /// Sends the signal if it is still the same process.
    pub fn signal(self, which: Signal) {
        if self.is_alive() {
            signal(self.pid, which);
        }
    }

    /// Waits until the process is gone; false if it still is there at the end.
    pub async fn gone_within(self, limit: Duration) -> bool {
        tokio::time::timeout(limit, async {
            while self.is_alive() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .is_ok()
    }
}

/// Sends a signal; a process that is gone already needs none.
pub fn signal(pid: i32, which: Signal) {
    let _ = kill(Pid::from_raw(pid), which);
}

/// Field 22 of /proc/PID/stat, counted after the name, which may hold blanks. A zombie counts as gone.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The last lines of a log, for an error message.
pub fn last_words(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().filter(|line| !line.trim().is_empty()).take(5).collect();
    if lines.is_empty() {
        return format!("its log {} is empty", log.display());
    }
    let lines: Vec<&str> = lines.into_iter().rev().collect();
    format!("its last words ({}):\n  {}", log.display(), lines.join("\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_alone_is_not_a_process() {
        let own = ProcessId::own().unwrap();
        assert!(own.is_alive());
        assert!(!ProcessId { started: own.started + 1, ..own }.is_alive(), "another process with our number");
    }
}
