//! The nouns of the mesh: who is who and who is where. Data and synchronous questions about it.
//!
//! Not here: sockets, clocks, tasks, protobuf, Kubernetes. A noun outlives every transport.

pub mod identity;
pub mod address;
pub mod workload;
pub mod service;
pub mod change;
pub mod directory;
mod index;
pub mod balance;
#[cfg(any(test, feature = "fixture"))]
pub mod fixture;
