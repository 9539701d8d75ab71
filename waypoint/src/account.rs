//! What a request or a stream cost and why it ended: metrics, one log line, a span (spec/waypoint.md 6).

use mesh_xds::messages::waypoint::{Telemetry, TelemetryProvider};

use crate::facts::Rejection;

#[derive(Clone, Debug)]
pub struct Settings {
    pub wire: Telemetry,
}

#[derive(Clone, Debug)]
pub struct Provider {
    pub wire: TelemetryProvider,
}

pub fn compile(wire: &Telemetry) -> Result<Settings, Rejection> {
    Ok(Settings { wire: wire.clone() })
}

pub fn compile_provider(wire: &TelemetryProvider) -> Result<Provider, Rejection> {
    Ok(Provider { wire: wire.clone() })
}
