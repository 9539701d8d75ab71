//! What was counted. Pure: time is an argument. Memory is bounded whatever happens: times are kept by their two leading
//! digits, failures up to a number.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Serialize, Serializer};

/// Some hundred interruptions with what follows each; of a longer outage the beginning tells.
const FAILURES_MAX: usize = 10_000;
/// Names and addresses in answers; a service of a test has some tens of pods.
const SEEN_MAX: usize = 256;

/// What a connection was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A request on a new connection.
    Fresh,
    /// One request of several on a connection.
    Kept,
    /// A block on a connection that is held.
    Held,
    /// A request that must not be answered.
    Refused,
}

#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub seconds: f64,
    pub fresh: Count,
    pub kept: Count,
    pub held: Count,
    pub refused: Count,
    /// Who answered, and how often.
    pub servers: BTreeMap<String, u64>,
    /// Cookies that answers brought, and how often.
    pub cookies: BTreeMap<String, u64>,
    /// As whom the server saw us: addresses without ports.
    pub seen_as: BTreeSet<String>,
    pub failures: Vec<Failure>,
    /// Failures that are counted and not listed.
    pub failures_left_out: u64,
}

#[derive(Debug, Default, Serialize)]
pub struct Count {
    pub ok: u64,
    pub failed: u64,
    #[serde(flatten)]
    pub took: Took,
}

#[derive(Debug, Serialize)]
pub struct Failure {
    pub kind: Kind,
    /// Milliseconds since 1970: comparable with logs and captures.
    pub at: u128,
    /// How long it had taken until then.
    pub after_ms: u64,
    pub why: String,
}

impl Report {
    fn count(&mut self, kind: Kind) -> &mut Count {
        match kind {
            Kind::Fresh => &mut self.fresh,
            Kind::Kept => &mut self.kept,
            Kind::Held => &mut self.held,
            Kind::Refused => &mut self.refused,
        }
    }

    pub fn ok(&mut self, kind: Kind, took: Duration) {
        let count = self.count(kind);
        count.ok += 1;
        count.took.add(took);
    }

    pub fn failure(&mut self, kind: Kind, at: Duration, took: Duration, why: String) {
        self.count(kind).failed += 1;
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(Failure { kind, at: at.as_millis(), after_ms: millis(took), why });
        } else {
            self.failures_left_out += 1;
        }
    }

    pub fn answered_by(&mut self, server: &str, seen_as: &str, cookie: Option<&str>) {
        count_one(&mut self.servers, server);
        if let Some(cookie) = cookie {
            count_one(&mut self.cookies, cookie);
        }
        if self.seen_as.len() < SEEN_MAX && !self.seen_as.contains(seen_as) {
            self.seen_as.insert(seen_as.to_owned());
        }
    }

    pub fn failed(&self) -> u64 {
        [&self.fresh, &self.kept, &self.held, &self.refused].iter().map(|count| count.failed).sum()
    }
}

fn count_one(counts: &mut BTreeMap<String, u64>, what: &str) {
    if let Some(count) = counts.get_mut(what) {
        *count += 1;
    } else if counts.len() < SEEN_MAX {
        counts.insert(what.to_owned(), 1);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How long things took, by the two leading digits of microseconds: a percentile is right within a tenth.
#[derive(Debug, Default)]
pub struct Took(BTreeMap<u64, u64>);

impl Took {
    fn add(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        *self.0.entry(two_digits(micros)).or_default() += 1;
    }

    /// The time within which `part` of them were done, in milliseconds.
    fn within(&self, part: f64) -> f64 {
        let all: u64 = self.0.values().sum();
        let wanted = (all as f64 * part).ceil().max(1.0);
        let mut seen = 0;
        for (micros, count) in &self.0 {
            seen += count;
            if seen as f64 >= wanted {
                return *micros as f64 / 1000.0;
            }
        }
        0.0
    }
}

fn two_digits(number: u64) -> u64 {
    let mut scale = 1;
    while number / scale >= 100 {
        scale *= 10;
    }
    number / scale * scale
}

impl Serialize for Took {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        let mut map = to.serialize_map(Some(3))?;
        for (name, part) in [("p50_ms", 0.5), ("p99_ms", 0.99), ("max_ms", 1.0)] {
            map.serialize_entry(name, &self.within(part))?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_is_counted_where_it_belongs() {
        let mut report = Report::default();
        for (kind, oks) in [(Kind::Fresh, 3), (Kind::Kept, 2), (Kind::Held, 1)] {
            for _ in 0..oks {
                report.ok(kind, Duration::from_millis(7));
            }
        }
        report.failure(Kind::Fresh, Duration::from_millis(1_234), Duration::from_millis(9), "connect: refused".into());
        report.answered_by("a", "10.0.0.1", None);
        report.answered_by("a", "10.0.0.1", Some("group=a"));
        assert_eq!((report.fresh.ok, report.kept.ok, report.held.ok, report.refused.ok), (3, 2, 1, 0));
        assert_eq!((report.fresh.failed, report.failed(), report.servers["a"], report.cookies["group=a"], report.seen_as.len()), (1, 1, 2, 1, 1));
        let text = serde_json::to_string(&report).unwrap();
        assert!(text.contains(r#""fresh":{"ok":3,"failed":1,"p50_ms":7.0,"p99_ms":7.0,"max_ms":7.0}"#), "{text}");
        assert!(text.contains(r#"{"kind":"fresh","at":1234,"after_ms":9,"why":"connect: refused"}"#), "{text}");
    }

    #[test]
    fn an_outage_without_end_takes_no_memory_without_end() {
        let mut report = Report::default();
        for at in 0..FAILURES_MAX as u64 + 5 {
            report.failure(Kind::Held, Duration::from_millis(at), Duration::ZERO, "gone".into());
            report.answered_by(&at.to_string(), &at.to_string(), Some(&at.to_string()));
        }
        assert_eq!((report.failures.len(), report.failures_left_out, report.held.failed), (FAILURES_MAX, 5, FAILURES_MAX as u64 + 5));
        assert_eq!((report.servers.len(), report.seen_as.len(), report.cookies.len()), (SEEN_MAX, SEEN_MAX, SEEN_MAX));
    }

    #[test]
    fn percentiles_are_right_within_a_tenth() {
        let mut took = Took::default();
        (1..=1000).for_each(|number| took.add(Duration::from_millis(number)));
        for (part, millis) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0), (0.001, 1.0)] {
            let found = took.within(part);
            assert!((millis * 0.9..=millis).contains(&found), "{part}: {found}");
        }
        assert_eq!(Took::default().within(0.99), 0.0);
    }

    #[test]
    fn two_digits_are_kept() {
        for (number, kept) in [(0, 0), (9, 9), (99, 99), (100, 100), (109, 100), (119, 110), (u64::MAX, 18_000_000_000_000_000_000)] {
            assert_eq!(two_digits(number), kept);
        }
    }
}
