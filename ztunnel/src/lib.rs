//! The node daemon: captures pods' traffic and carries it over HBONE.

pub mod resolve;
pub mod admit;
pub mod proxy_header;
pub mod error;
