//! The DNS proxy of a pod: names of the mesh are answered from the directory, everything else is passed on unchanged
//! (spec/dataplane.md 7). That is how a pod finds services that only the mesh knows, in one round trip on its own loopback.
//!
//! Not here: redirecting a pod's port 53 to us (mesh-cni), resolving a workload's own hostname for a connection, and asking
//! name servers (mesh-dns).

pub mod names;
pub mod answer;
pub mod message;
pub mod cache;
pub mod rate;
pub mod metrics;
pub mod serve;

pub use answer::Naming;
pub use metrics::DnsMetrics;
pub use serve::{Limits, Server};
