//! The L7 proxy of a namespace or service: what its traffic may do, where it goes, and what became of it.
//!
//! ```text
//!  ztunnel ──HBONE──▶ listen ─▶ arrive ─▶ detect ─┬─ HTTP ─▶ request.rs   match ─▶ authorize ─▶ edit ─▶ choose ─▶ forward ─▶ account
//!                                                 └─ bytes ▶ stream.rs                                   │
//!                                                                              upstream ◀────────────────┘ ──HBONE──▶ ztunnel
//! ```
//!
//! The service is chosen by the address that was dialled and by nothing that a client writes into its request. What a
//! request is judged by is one snapshot (`settings`), taken when it arrives. Not here: Kubernetes, capture, node daemons.

// what arrives, and what is known about it
pub mod arrive;
pub mod detect;
pub mod facts;
pub mod listen;
pub mod request;
pub mod stream;
// HTTP
pub mod body;
pub mod exchange;
pub mod http1or2;
pub mod hygiene;
pub mod reply;
mod seldom;
// decisions
pub mod authorize;
pub mod choose;
pub mod edit;
pub mod ext_authz;
pub mod fault;
pub mod jwt;
pub mod limit;
pub mod permits;
pub mod retry;
pub mod reach;
pub mod attempts;
pub mod route;
pub mod session;
pub mod settings;
// the other side
pub mod call;
pub mod grpc;
pub mod upstream;
// what became of it
pub mod account;
pub mod error;
// the process
pub mod admin;
pub mod config;
pub mod proxy;

#[cfg(test)]
mod testing;
