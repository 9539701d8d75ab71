//! The node's unix-socket protocol (ZDS): the agent tells the daemon which pods are its own, and passes their network
//! namespaces. Both ends live here, so that they cannot drift apart (spec/dataplane.md 3).
//!
//! Not here: what the daemon does with a pod, and how the agent finds one.
//!
//! ```text
//! daemon                              agent
//!   | connect, hello -----------------> |   within 5 s; this connection now gets the new pods
//!   | <----- add(uid, workload, mark) + descriptor    for each known pod; keep(uid) where there is no descriptor
//!   | ack ----------------------------> |   within 5 s; one request at a time
//!   | <----------------- snapshot sent  |
//!   | ack ----------------------------> |
//!   | <------------------- add, del …   |   for ever
//! ```

pub mod messages;
pub mod request;
pub mod daemon;
pub mod agent;

/// Where both ends meet unless they are told otherwise.
pub const SOCKET: &str = "/var/run/ztunnel/ztunnel.sock";
/// The longest packet that is sent: what receivers of this protocol have a buffer for (spec/dataplane.md 3.1).
pub const SENT_BYTES_MAX: usize = 1024;
/// The longest packet that is received. Far more than anyone sends; what is longer is an error, not a hang.
pub(crate) const RECEIVED_BYTES_MAX: usize = 128 * 1024;
