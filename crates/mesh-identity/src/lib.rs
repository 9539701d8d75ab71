//! Certificates: asking, holding, renewing, proving and signing.
//!
//! In reading order: what is held (`credential`), how it is asked for (`csr`, `authority`), when (`rotation`, pure) and
//! by whom (`store`); how it is proved to a peer (`verify`, `tls`) and taken back (`crl`, `known`); how servers outside are proved (`outside`); how programs speak to the
//! controller (`channel`); and the other end: who may have which certificate (`token`, `impersonate`), signing it
//! (`sign`) and the gRPC service that does so (`serve`); what else follows from its key (`derived`).
//!
//! Not here: sockets of pods, HTTP/2 tunnels, policy, the xDS protocol.

pub mod clock;
pub mod pem;
pub mod credential;
pub mod csr;
pub mod authority;
pub mod rotation;
pub mod store;
pub mod verify;
pub mod crl;
pub mod tls;
pub mod known;
pub mod outside;
pub mod channel;
pub mod token;
pub mod impersonate;
pub mod sign;
pub mod derived;
pub mod serve;
mod wire;

pub use authority::{Authority, SignFailure};
pub use clock::{Clock, SystemClock};
pub use credential::Credential;
pub use crl::Revocations;
pub use store::{Credentials, Unavailable};
pub use tls::{KeyExchange, Tls, peer_identity};

#[cfg(test)]
mod testing;
