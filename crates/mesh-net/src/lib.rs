//! The seam to the kernel, and moving bytes.
//!
//! Not here: what a workload, an identity or a tunnel is. A socket does not know what it is used for.
//! The only `unsafe` of the workspace is here: in `seqpacket` two calls about who owns a descriptor, in `heap` one that
//! gives memory back.

pub mod net;
pub mod duplex;
pub mod readahead;
pub mod relay;
pub mod proxy_header;
pub mod accept;
pub mod linux;
pub mod netns;
pub mod seqpacket;
pub mod sockopt;
pub mod netlink;
pub mod tcp_table;
pub mod conntrack;
pub mod rlimit;
pub mod heap;
pub mod memory;
