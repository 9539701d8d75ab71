//! The node daemon: captures pods' traffic and carries it over HBONE. L4, one process per node, a set of listeners per pod.
//!
//! ```text
//!  application ──▶ capture ─▶ resolve ─▶ tunnel ─▶ relay ─▶ account          outbound.rs     (the client's node)
//!                                         │ HBONE: HTTP/2 CONNECT over mutual TLS
//!                                         ▼
//!                  capture ─▶ resolve ─▶ authorize ─▶ relay ─▶ account ──▶ application   inbound.rs (the server's node)
//! ```
//!
//! Not here: Kubernetes, nftables, keys of other nodes' workloads, anything of HTTP inside the tunnels.

pub mod outbound;
pub mod inbound;
pub mod passthrough;
pub mod socks5;
pub mod capture;
pub mod hbone;
pub mod resolve;
pub mod admit;
pub mod authorize;
pub mod tunnel;
pub mod gone;
pub mod relay;
pub mod account;
pub mod live;
pub mod numbered;
pub mod baggage;
pub mod error;
pub mod why;
pub mod localfile;
pub mod dump;
pub mod chance;
pub mod fetch;
pub mod freshness;
pub mod give_back;
pub mod enroll;
pub mod config;
pub mod older;
pub mod pod;
pub mod pods;
pub mod own;
pub mod dns;
pub mod admin;
pub mod node;
