//! Tokens of end users (spec/waypoint.md 4.6).

use mesh_xds::messages::waypoint::JwtPolicy;

use crate::facts::Rejection;

#[derive(Clone, Debug)]
pub struct Policy {
    pub wire: JwtPolicy,
}

pub fn compile(wire: &JwtPolicy) -> Result<Policy, Rejection> {
    Ok(Policy { wire: wire.clone() })
}
