//! The seam to the kernel, and moving bytes.
//!
//! Not here: what a workload, an identity or a tunnel is. A socket does not know what it is used for.

pub mod duplex;
