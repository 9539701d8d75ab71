//! The last refusals, from the ends of the daemons' logs (JSON lines, spec/dataplane.md 8.2). `refusal` is pure.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use serde_json::Value;

use super::fit::short_name;
use super::traffic::identity;
use crate::lab::state::State;

/// How much of the end of each log is read: some hundred lines.
const TAIL: u64 = 64 << 10;
/// How the daemon's sentence for each refusal by policy begins (spec/dataplane.md 8.2); under this title it says nothing.
const REJECTED: &str = "connection closed due to policy rejection: ";

/// A connection that a daemon refused or that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    pub time: String,
    pub source: String,
    pub destination: String,
    pub error: String,
    /// NAMESPACE/NAME of the policy, if one is named.
    pub policy: Option<String>,
    /// How often the same was refused within what is kept of the logs; the newest time is told.
    pub times: usize,
}

impl Refusal {
    pub fn concerns(&self, source: &str, destination: &str) -> bool {
        self.source == source && self.destination == destination
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.time.get(11..19).unwrap_or(&self.time);
        write!(f, "{time}  {} -> {}: {}", short_name(&self.source), short_name(&self.destination), self.error.trim_start_matches(REJECTED))?;
        if self.times > 1 { write!(f, " ({} times lately)", self.times) } else { Ok(()) }
    }
}

/// The newest refusals of all nodes, oldest first.
pub fn recent(state: &State, limit: usize) -> Vec<Refusal> {
    let daemons = state.programs.iter().filter(|program| program.name.starts_with("ztunnel"));
    let mut all = together(daemons.flat_map(|program| tail(&program.log)).filter_map(|line| refusal(&line)));
    all.split_off(all.len().saturating_sub(limit))
}

/// One of each kind, with the time of the newest.
fn together(all: impl Iterator<Item = Refusal>) -> Vec<Refusal> {
    let mut kinds: BTreeMap<(String, String, String), Refusal> = BTreeMap::new();
    for one in all {
        let kind = kinds.entry((one.source.clone(), one.destination.clone(), one.error.clone())).or_insert_with(|| Refusal { times: 0, ..one.clone() });
        kind.times += one.times;
        kind.time = one.time.max(std::mem::take(&mut kind.time));
    }
    let mut kinds: Vec<Refusal> = kinds.into_values().collect();
    kinds.sort_by(|one, other| one.time.cmp(&other.time));
    kinds
}

fn tail(log: &Path) -> Vec<String> {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Reads one line of an access log; none for other lines and for connections that ended well.
pub fn refusal(line: &str) -> Option<Refusal> {
    let fields: Value = serde_json::from_str(line).ok()?;
    let text = |key: &str| fields[key].as_str();
    if text("scope") != Some("access") {
        return None;
    }
    // Both ends log it; the destination knows the reason, and a caller without a daemon has no other end.
    if text("direction") != Some("inbound") {
        return None;
    }
    let error = text("error")?.to_owned();
    let party = |side: &str| {
        let named = text(&format!("{side}.identity")).and_then(identity);
        let workload = || Some(format!("{}/{} (no identity)", text(&format!("{side}.namespace"))?, text(&format!("{side}.workload"))?));
        named.or_else(workload).or_else(|| text(&format!("{side}.addr")).map(str::to_owned)).unwrap_or_default()
    };
    Some(Refusal { time: text("time").unwrap_or_default().to_owned(), source: party("src"), destination: party("dst"), policy: policy(&error), error, times: 1 })
}

/// The key after `denied by: `, as verdicts write it.
fn policy(error: &str) -> Option<String> {
    let (_, rest) = error.split_once("denied by: ")?;
    Some(rest.split([' ', ',', ';', '(']).next()?.to_owned()).filter(|key| key.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_both_ends_and_the_policy() {
        let line = r#"{"level":"error","time":"2026-03-04T05:06:07.123456Z","scope":"access","message":"connection complete","src.addr":"10.1.0.9:40112","src.identity":"spiffe://cluster.local/ns/shop/sa/load","dst.addr":"10.1.0.17:15008","dst.identity":"spiffe://cluster.local/ns/shop/sa/front","direction":"inbound","bytes_sent":0,"bytes_recv":0,"duration":"3ms","error":"connection closed due to policy rejection: explicitly denied by: shop/tour-no-load"}"#;
        let found = refusal(line).unwrap();
        assert!(found.concerns("ns/shop/sa/load", "ns/shop/sa/front"));
        assert_eq!(found.policy.as_deref(), Some("shop/tour-no-load"));
        assert_eq!(found.to_string(), "05:06:07  shop/load -> shop/front: explicitly denied by: shop/tour-no-load");
        assert_eq!(refusal(&line.replace("inbound", "outbound")), None);
        assert_eq!(refusal(&line.replace("\"error\":\"conn", "\"other\":\"conn")), None);
        assert_eq!(refusal("2026 not json"), None);
    }
    #[test]
    fn the_same_refusal_is_told_once() {
        let one = |time: &str, source: &str| Refusal { time: format!("2026-01-01T{time}Z"), source: source.into(), error: "no".into(), times: 1, ..Refusal::default() };
        let told = together([one("00:00:03", "a"), one("00:00:02", "b"), one("00:00:01", "a")].into_iter());
        let told: Vec<(&str, &str, usize)> = told.iter().map(|refusal| (&refusal.time[11..19], refusal.source.as_str(), refusal.times)).collect();
        assert_eq!(told, [("00:00:02", "b", 1), ("00:00:03", "a", 2)]);
    }
}
