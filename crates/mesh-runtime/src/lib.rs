//! What every long-lived process needs, and nothing that knows what a mesh is: draining, readiness, watched state,
//! settings, back-off, signals, places for handshakes, the small HTTP server for operators, and how a program begins.
//!
//! Not here: sockets of pods (mesh-net), metrics and logs (mesh-telemetry), any noun of the mesh.

pub mod drain;
pub mod ready;
pub mod watched;
pub mod knobs;
pub mod backoff;
pub mod signal;
pub mod handshakes;
pub mod admin;
pub mod program;

pub use backoff::Backoff;
pub use drain::{Drain, Drained};
pub use ready::{BlockReady, Ready};
pub use watched::{Publisher, Watched, watched};
