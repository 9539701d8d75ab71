//! How the commands of a pod fare: process 1 of the pod writes it into the pod's log, in lines of this form, and `up`
//! reads it there. A pod's own programs write into the same log, so a line may be forged; all that it changes is what the
//! operator is told of that pod.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// What is read of a log at a time: a pod that writes faster is read with a delay.
const READ_MAX: u64 = 256 << 10;
/// How lines of process 1 begin.
const MARK: &str = "isthmus: container ";
/// A forged line is cut here.
const TEXT_MAX: usize = 200;

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    pub container: String,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Started for the first time, or again.
    Started,
    /// Why it does not run, and when it is tried again.
    Stopped(String),
}

impl Fate {
    fn read(line: &str) -> Option<Fate> {
        let (container, rest) = line.strip_prefix(MARK)?.split_once(": ")?;
        let clean = |text: &str| text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect::<String>();
        let what = if rest == "started" { What::Started } else { What::Stopped(clean(rest)) };
        Some(Fate { container: clean(container), what })
    }

    /// The line for the log.
    pub fn line(&self) -> String {
        match &self.what {
            What::Started => format!("{MARK}{}: started", self.container),
            What::Stopped(why) => format!("{MARK}{}: {why}", self.container),
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Started => write!(f, "container {} started", self.container),
            What::Stopped(why) => write!(f, "container {} {why}", self.container),
        }
    }
}

/// What is known of a pod's commands so far.
#[derive(Debug, Default)]
pub struct Fates {
    log: PathBuf,
    read: u64,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
    last: BTreeMap<String, What>,
    /// What was said of each command; the same is not said again.
    said: BTreeMap<String, String>,
    starts: BTreeMap<String, u32>,
}

/// Containers that are kept apart; a real pod has no more, and forged names find an end.
const CONTAINERS_MAX: usize = 64;

impl Fates {
    /// From the present end of the log on: what an earlier pod of the name wrote is not about this one.
    pub fn of(log: &Path) -> Fates {
        let read = std::fs::metadata(log).map_or(0, |about| about.len());
        Fates { log: log.to_owned(), read, ..Fates::default() }
    }

    /// Reads on. Returns what the operator has not been told yet: commands that do not run, and why.
    pub fn read(&mut self) -> Vec<Fate> {
        let mut more = Vec::new();
        if let Ok(mut file) = File::open(&self.log) {
            let length = file.metadata().map_or(0, |about| about.len());
            if length < self.read {
                self.read = 0; // the log was emptied
            }
            if length > self.read && file.seek(SeekFrom::Start(self.read)).is_ok() {
                let _ = file.take(READ_MAX).read_to_end(&mut more); // what was read until an error counts
                self.read += more.len() as u64;
            }
        }
        self.take(&more)
    }

    fn take(&mut self, more: &[u8]) -> Vec<Fate> {
        self.rest.extend_from_slice(more);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            self.rest.truncate(READ_MAX as usize);
            return Vec::new();
        };
        let lines = String::from_utf8_lossy(&self.rest[..end]).into_owned();
        self.rest.drain(..=end);
        let mut news = Vec::new();
        for fate in lines.lines().filter_map(Fate::read) {
            if self.last.len() >= CONTAINERS_MAX && !self.last.contains_key(&fate.container) {
                continue;
            }
            match &fate.what {
                What::Started => *self.starts.entry(fate.container.clone()).or_default() += 1,
                What::Stopped(why) => {
                    // Without the wait, which grows: "ended (status 1)" is said once, not each time.
                    let cause = why.split(';').next().unwrap_or(why).to_owned();
                    if self.said.insert(fate.container.clone(), cause.clone()).as_ref() != Some(&cause) {
                        news.push(fate.clone());
                    }
                }
            }
            self.last.insert(fate.container, fate.what);
        }
        news
    }

    /// How often commands were started again.
    pub fn restarts(&self) -> u32 {
        self.starts.values().map(|starts| starts.saturating_sub(1)).sum()
    }

    /// A command that does not run at the moment.
    pub fn trouble(&self) -> Option<Fate> {
        let stopped = self.last.iter().find(|(_, what)| matches!(what, What::Stopped(_)));
        stopped.map(|(container, what)| Fate { container: container.clone(), what: what.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stopped(container: &str, why: &str) -> Fate {
        Fate { container: container.into(), what: What::Stopped(why.into()) }
    }

    #[test]
    fn a_command_that_ends_again_and_again_is_said_once_and_counted() {
        let mut fates = Fates::default();
        let started = Fate { container: "c".into(), what: What::Started }.line();
        let (first, second) = (stopped("c", "ended (status 1); starts again in 1 s"), stopped("c", "ended (status 1); starts again in 2 s"));
        assert_eq!(fates.take(format!("{started}\nhello\n{}\n", first.line()).as_bytes()), std::slice::from_ref(&first));
        assert_eq!((fates.restarts(), fates.trouble()), (0, Some(first)));
        assert_eq!(fates.take(format!("{started}\n{}\n{started}\n", second.line()).as_bytes()), []);
        assert_eq!((fates.restarts(), fates.trouble()), (2, None));
        let other = stopped("c", "ended (SIGKILL); starts again in 4 s");
        assert_eq!(fates.take(format!("{}\n", other.line()).as_bytes()), [other]);
    }

    #[test]
    fn a_line_in_two_pieces_is_one_and_a_forged_one_is_bounded() {
        let mut fates = Fates::default();
        assert_eq!(fates.take(b"isthmus: container a: ca"), []);
        assert_eq!(fates.take(b"nnot start\nisthmus: container b: x\x1b[2J\nisthmus: no\n"), [stopped("a", "cannot start"), stopped("b", "x[2J")]);
        for number in 0..1000 {
            fates.take(format!("isthmus: container {number}: started\n").as_bytes());
        }
        assert!(fates.last.len() <= CONTAINERS_MAX && fates.starts.len() <= CONTAINERS_MAX);
        let long = "y".repeat(10_000);
        assert_eq!(fates.take(format!("isthmus: container b: {long}\n").as_bytes())[0].to_string().len(), "container b ".len() + TEXT_MAX);
    }

    #[test]
    fn a_log_is_read_from_where_it_stands_and_again_when_it_was_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a.log");
        std::fs::write(&log, "isthmus: container old: gone; x\n").unwrap();
        let mut fates = Fates::of(&log);
        assert_eq!(fates.read(), []);
        std::fs::write(&log, "isthmus: container c: x\n").unwrap();
        assert_eq!(fates.read(), [stopped("c", "x")]);
    }
}
