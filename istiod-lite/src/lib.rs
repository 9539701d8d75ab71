//! The controller: Kubernetes objects or files in, xDS and certificates out. It never sees a byte of users' traffic.
//!
//! ```text
//!  watch ──Batch──▶ reconcile: cluster ▶ translate ──Changes──▶ publish ──▶ catalog ──▶ node daemons
//! (files, API        (objects)  (pure)                │                          ca ──▶ their certificates
//!  server)                                           └──▶ status
//! ```

pub mod pairs;
pub mod objects;
pub mod cluster;
pub mod translate;
pub mod api_server;
pub mod leader;
pub mod watch;
pub mod publish;
pub mod reconcile;
pub mod status;
pub mod gateways;
pub mod ca;
pub mod admission;
pub mod crds;
pub mod config;
pub mod controller;
pub mod admin;
pub mod metrics;
pub mod dump;
#[cfg(test)]
mod testing;
