//! The controller: Kubernetes objects or files in, xDS and certificates out. It never sees a byte of users' traffic.
//!
//! ```text
//!  watch ──Event──▶ cluster ──▶ translate ──Changes──▶ publish ──▶ node daemons
//! (files)          (objects)   (pure)        │
//!                                            └──▶ status          ca ──▶ certificates for node daemons
//! ```

pub mod objects;
pub mod cluster;
pub mod translate;
pub mod watch;
