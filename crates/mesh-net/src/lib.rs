//! The seam to the kernel, and moving bytes.
//!
//! Not here: what a workload, an identity or a tunnel is. A socket does not know what it is used for.
#![forbid(unsafe_code)] // nix and socket2 have a safe form of every call that is made here

pub mod net;
pub mod duplex;
pub mod relay;
pub mod accept;
pub mod linux;
pub mod netns;
pub mod sockopt;
pub mod rlimit;
pub mod memory;
