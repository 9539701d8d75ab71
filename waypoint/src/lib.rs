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
pub mod facts;
pub mod listen;
pub mod arrive;
pub mod detect;
pub mod request;
pub mod stream;
// HTTP
pub mod http1or2;
pub mod hygiene;
pub mod body;
pub mod exchange;
pub mod reply;
// decisions
pub mod settings;
pub mod route;
pub mod edit;
pub mod authorize;
pub mod jwt;
pub mod ext_authz;
pub mod limit;
pub mod fault;
pub mod choose;
pub mod retry;
// the other side
pub mod upstream;
pub mod call;
pub mod grpc;
// what became of it
pub mod error;
pub mod account;
// the process
pub mod config;
pub mod proxy;
pub mod admin;

#[cfg(test)]
mod testing;
