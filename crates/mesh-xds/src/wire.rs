//! Message <-> noun, both ways. Whatever cannot be read is refused with a reason that names the field, alone: its
//! neighbours in the same response are applied (spec/dataplane.md 5.6, spec/controlplane.md 1.9).
//!
//! Stricter than the field in two places: a port above 65535 is refused instead of cut to another port, and a resource
//! whose name is not the one its content has is refused, because no removal could ever reach it.

mod address;
mod policy;
mod xxhash;

use std::net::IpAddr;

use mesh_model::change::Change;
use mesh_policy::{Affected, Policy};
use prost::Message;

use crate::messages::{security, workload};

pub use address::{decode_address, decode_service, decode_workload, encode_service, encode_workload};
pub use policy::{decode_policy, encode_policy};

/// Why a resource is refused. Reads as one line, for the NACK and the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Rejected(pub String);

/// A policy that cannot be read, and whom it may reach as far as that could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadablePolicy {
    pub reason: Rejected,
    pub reach: Affected,
}

/// The bytes of an Address resource.
pub fn read_address(bytes: &[u8]) -> Result<Change, Rejected> {
    let message = workload::Address::decode(bytes).map_err(|error| rejected("Address", error))?;
    decode_address(message)
}

/// The bytes of an Authorization resource. `name` is the resource's own, which is all we know of a message that is no
/// protobuf: then the policy may reach the whole namespace that its name gives.
pub fn read_policy(name: &str, bytes: &[u8]) -> Result<Policy, UnreadablePolicy> {
    let message = security::Authorization::decode(bytes).map_err(|error| UnreadablePolicy {
        reason: rejected("Authorization", error),
        reach: policy::reach_of_name(name),
    })?;
    decode_policy(name, message)
}

/// The version of a resource: a hash of its bytes, the same on every replica and the same as the field's, so that a
/// client that moves between controllers is not sent everything again (spec/controlplane.md 2.6).
pub fn version_of(bytes: &[u8]) -> String {
    format!("{:x}", xxhash::xxh64(bytes))
}

/// An IP as its 4 or 16 raw bytes.
fn decode_ip(field: &str, bytes: &[u8]) -> Result<IpAddr, Rejected> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(v4.into());
    }
    if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        return Ok(v6.into());
    }
    Err(rejected(field, format_args!("an address has 4 or 16 bytes, this one has {}", bytes.len())))
}

fn encode_ip(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn decode_port(field: &str, port: u32) -> Result<u16, Rejected> {
    u16::try_from(port).map_err(|_| rejected(field, format_args!("{port} is not a port")))
}

/// A number of an enum that this version knows.
fn known<E: TryFrom<i32>>(field: &str, number: i32) -> Result<E, Rejected> {
    E::try_from(number).map_err(|_| rejected(field, format_args!("unknown value {number}")))
}

fn rejected(field: &str, why: impl std::fmt::Display) -> Rejected {
    Rejected(format!("{field}: {why}"))
}

#[cfg(test)]
mod tests;
