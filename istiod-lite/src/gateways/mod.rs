//! Gateways that are ours to deploy: for each Gateway of a class of the mesh the objects of a waypoint, and what is said
//! about it in its status (spec/controlplane.md 6).
//!
//! ```text
//!  apply: watches ──▶ World ──▶ plan (pure) ──▶ objects to apply or delete, statuses ──▶ API server
//!                               │ template: a waypoint's objects      overlay: what users lay over them
//!                               └ status: conditions and addresses
//! ```
//! The leader's work. Not here: which service is bound to which waypoint (`translate::waypoint`), and routes.

pub mod seen;
pub mod template;
pub mod overlay;
pub mod status;
pub mod plan;
pub mod apply;
#[cfg(test)]
mod tests;
