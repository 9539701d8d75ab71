//! Asking an authorization service (spec/waypoint.md 4.5).

use mesh_xds::messages::waypoint::ExtAuthzProvider;

use crate::facts::Rejection;

#[derive(Clone, Debug)]
pub struct Provider {
    pub wire: ExtAuthzProvider,
}

pub fn compile(wire: &ExtAuthzProvider) -> Result<Provider, Rejection> {
    Ok(Provider { wire: wire.clone() })
}
