//! May this request pass? The policies of a service, judged by `mesh-policy` (spec/waypoint.md 4).

use mesh_xds::messages::waypoint::AuthzPolicy;

use crate::facts::Rejection;

/// A policy that can be judged by.
#[derive(Clone, Debug)]
pub struct Policy {
    pub wire: AuthzPolicy,
}

/// # Errors
/// What cannot be read in the policy; in force it stays all the same, closed.
pub fn compile(wire: &AuthzPolicy) -> Result<Policy, Rejection> {
    Ok(Policy { wire: wire.clone() })
}
