//! What the agent says of a pod: `NAME.status.json` beside the pod's file, replaced by rename so that a reader never
//! sees half of it.
//!
//! ```json
//! { "uid": "0f3a…", "state": "enabled", "reason": "", "since": "2026-01-02T03:04:05Z", "olderConnections": 0 }
//! ```

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
}
