//! Rate limits (spec/waypoint.md 5.10).

use mesh_xds::messages::waypoint::RateLimit;

use crate::facts::Rejection;

#[derive(Clone, Debug)]
pub struct Limit {
    pub wire: RateLimit,
}

pub fn compile(wire: &RateLimit) -> Result<Limit, Rejection> {
    Ok(Limit { wire: wire.clone() })
}
