//! What the agent says of a pod: `NAME.status.json` beside the pod's file, replaced by rename so that a reader never
//! sees half of it.
//!
//! ```json
//! { "uid": "0f3a…", "state": "enabled", "reason": "", "since": "2026-01-02T03:04:05Z", "olderConnections": 0, "repairs": 0 }
//! ```

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Where a pod stands. `enabled` and `pending` have the meaning of `ambient.istio.io/redirection`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Being enrolled, or waiting for a daemon: `reason` says for what. Retried by the agent.
    Pending,
    /// Captured: rules are in place and the daemon has acknowledged the pod.
    Enabled,
    /// Leaving: no longer to be called by tunnel; what is open is drained.
    Releasing,
    /// Out of the mesh: no rules, not known to the daemon.
    Released,
    /// Not enrolled and not retried until the file changes: `reason` says what to correct.
    Refused,
}

/// The content of a status file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Empty when the pod's file could not be read.
    pub uid: String,
    pub state: State,
    /// One sentence; empty when there is nothing to say.
    pub reason: String,
    /// When this state began, RFC 3339 in UTC.
    pub since: String,
    /// Connections that were open when the pod was enrolled and still bypass the mesh (design decision 13).
    pub older_connections: u32,
    /// How often somebody else changed the pod's rules and they were put back, since the agent enrolled it.
    #[serde(default)]
    pub repairs: u64,
}

/// What a status counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub older_connections: usize,
    pub repairs: u64,
}

/// Replaces the status file, unless that is what it says already. `since` is kept while the state stays.
///
/// # Errors
/// Those of writing it.
pub fn write(path: &Path, uid: &str, state: State, reason: &str, counts: Counts) -> io::Result<()> {
    let earlier: Option<Status> = fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let unchanged = |s: &Status| s.uid == uid && s.state == state;
    let since = match earlier.as_ref().filter(|s| unchanged(s)) {
        Some(status) => status.since.clone(),
        None => jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default().to_string(),
    };
    let status = Status {
        uid: uid.to_owned(),
        state,
        reason: reason.to_owned(),
        since,
        older_connections: u32::try_from(counts.older_connections).unwrap_or(u32::MAX),
        repairs: counts.repairs,
    };
    if earlier.as_ref() == Some(&status) {
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let draft = path.with_file_name(format!(".{name}"));
    fs::write(&draft, serde_json::to_vec_pretty(&status).expect("a status has only strings and numbers"))?;
    fs::rename(&draft, path)
}

/// Removes the status file if it is about this pod; a newer pod of the same name may have written its own.
pub fn remove(path: &Path, uid: &str) {
    let about: Option<Status> = fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if about.is_some_and(|s| s.uid == uid) {
        let _ = fs::remove_file(path); // somebody else removed it: as well
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_when_the_state_began() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.status.json");
        write(&path, "u1", State::Pending, "why", Counts::default()).unwrap();
        let mut first: Status = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!((first.state, first.reason.as_str(), first.since.len()), (State::Pending, "why", 20));
        first.since = "2001-01-01T00:00:00Z".to_owned();
        fs::write(&path, serde_json::to_vec(&first).unwrap()).unwrap();
        write(&path, "u1", State::Pending, "another reason", Counts { older_connections: 3, repairs: 1 }).unwrap();
        let second: Status = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!((second.since.as_str(), second.older_connections, second.repairs), ("2001-01-01T00:00:00Z", 3, 1));
        write(&path, "u1", State::Enabled, "", Counts::default()).unwrap();
        let third: Status = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_ne!(third.since, second.since);
        remove(&path, "u2");
        assert!(path.exists(), "it is about another pod");
        remove(&path, "u1");
        assert!(!path.exists());
    }
}
