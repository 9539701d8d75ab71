//! A mesh in one thread, for tests only: a network of simulated pods on nodes with redirection, seeded delays and
//! faults, a clock that follows tokio's paused time, and the laws that every run must keep.
//!
//! Not here: anything of the daemons. They are given a [`fabric::SimNet`] instead of the kernel's sockets; the rest is
//! the code that runs in production. The fabric is a model of redirection: scenarios in network namespaces show that the
//! model is right.

pub mod fabric;
pub mod cable;
pub mod clock;
pub mod laws;
