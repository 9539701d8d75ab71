//! Pure: which endpoint (spec/waypoint.md 5.6), and the book-keeping that choice needs.

use mesh_xds::messages::waypoint::BackendPolicy;

use crate::facts::Rejection;

/// How a destination is treated.
#[derive(Clone, Debug)]
pub struct Policy {
    pub wire: BackendPolicy,
}

pub fn compile(wire: &BackendPolicy) -> Result<Policy, Rejection> {
    Ok(Policy { wire: wire.clone() })
}
