//! `waypoint.v1`: what a waypoint is told beside the workload API (spec/waypoint.md 8.2). One message per rule of a user's
//! object, so that an edit costs one small resource, and a bad object is refused alone.
//!
//! The messages are data for both ends: the controller builds them, the proxy compiles them. They also read as YAML,
//! for a proxy that is configured by a file: enumerations are words there, and everything left out has its default.

mod meta;
mod service;
mod route;
mod backend;
mod policy;
mod limit;
mod telemetry;

pub use backend::*;
pub use limit::*;
pub use meta::*;
pub use policy::*;
pub use route::*;
pub use service::*;
pub use telemetry::*;

pub const MESH_SETTINGS: &str = "type.googleapis.com/waypoint.v1.MeshSettings";
pub const SERVICE_PORT: &str = "type.googleapis.com/waypoint.v1.ServicePort";
pub const HTTP_ROUTE: &str = "type.googleapis.com/waypoint.v1.HttpRoute";
pub const TCP_ROUTE: &str = "type.googleapis.com/waypoint.v1.TcpRoute";
pub const TLS_ROUTE: &str = "type.googleapis.com/waypoint.v1.TlsRoute";
pub const SUBSET: &str = "type.googleapis.com/waypoint.v1.Subset";
pub const BACKEND_POLICY: &str = "type.googleapis.com/waypoint.v1.BackendPolicy";
pub const HTTP_POLICY: &str = "type.googleapis.com/waypoint.v1.HttpPolicy";
pub const AUTHZ_POLICY: &str = "type.googleapis.com/waypoint.v1.AuthzPolicy";
pub const JWT_POLICY: &str = "type.googleapis.com/waypoint.v1.JwtPolicy";
pub const EXT_AUTHZ_PROVIDER: &str = "type.googleapis.com/waypoint.v1.ExtAuthzProvider";
pub const RATE_LIMIT: &str = "type.googleapis.com/waypoint.v1.RateLimit";
pub const TELEMETRY: &str = "type.googleapis.com/waypoint.v1.Telemetry";
pub const TELEMETRY_PROVIDER: &str = "type.googleapis.com/waypoint.v1.TelemetryProvider";
pub const RESOURCE_STATUS: &str = "type.googleapis.com/waypoint.v1.ResourceStatus";

/// Every type that a waypoint subscribes to, in the order in which it asks: policies before what they guard.
pub const ALL: [&str; 14] = [
    MESH_SETTINGS,
    EXT_AUTHZ_PROVIDER,
    AUTHZ_POLICY,
    JWT_POLICY,
    RATE_LIMIT,
    HTTP_POLICY,
    BACKEND_POLICY,
    SUBSET,
    TELEMETRY_PROVIDER,
    TELEMETRY,
    HTTP_ROUTE,
    TCP_ROUTE,
    TLS_ROUTE,
    SERVICE_PORT,
];

/// The key under which resources are shown to every waypoint, whatever its Gateway.
pub const EVERY_WAYPOINT: &str = "waypoints";

/// The key under which resources are shown to all waypoints of a GatewayClass.
pub fn audience_of_class(class: &str) -> String {
    format!("waypoints/{class}")
}

/// Stands in dumps and logs for what is nobody's business there.
const HIDDEN: &str = "(not shown)";

fn hide(secret: &mut String) {
    if !secret.is_empty() {
        HIDDEN.clone_into(secret);
    }
}

/// A resource for people: the JSON that the YAML of a file is read from, without secrets. `None`: it is no message of this
/// type.
pub fn to_json(type_url: &str, body: &[u8]) -> Option<serde_json::Value> {
    fn of<M: prost::Message + Default + serde::Serialize>(body: &[u8]) -> Option<serde_json::Value> {
        without::<M>(body, |_| {})
    }
    fn without<M: prost::Message + Default + serde::Serialize>(body: &[u8], hide: impl FnOnce(&mut M)) -> Option<serde_json::Value> {
        let mut message = M::decode(body).ok()?;
        hide(&mut message);
        serde_json::to_value(message).ok()
    }
    match type_url {
        MESH_SETTINGS => without::<MeshSettings>(body, |settings| settings.session_secrets.iter_mut().for_each(hide)),
        SERVICE_PORT => of::<ServicePort>(body),
        HTTP_ROUTE => of::<HttpRoute>(body),
        TCP_ROUTE => of::<TcpRoute>(body),
        TLS_ROUTE => of::<TlsRoute>(body),
        SUBSET => of::<Subset>(body),
        BACKEND_POLICY => without::<BackendPolicy>(body, |policy| policy.tls.iter_mut().for_each(|tls| hide(&mut tls.key_pem))),
        HTTP_POLICY => of::<HttpPolicy>(body),
        AUTHZ_POLICY => of::<AuthzPolicy>(body),
        JWT_POLICY => of::<JwtPolicy>(body),
        EXT_AUTHZ_PROVIDER => of::<ExtAuthzProvider>(body),
        RATE_LIMIT => of::<RateLimit>(body),
        TELEMETRY => of::<Telemetry>(body),
        TELEMETRY_PROVIDER => of::<TelemetryProvider>(body),
        _ => None,
    }
}

/// The key under which resources are shown to the waypoints of one Gateway only (`Offer::audiences`).
pub fn audience(namespace: &str, gateway: &str) -> String {
    format!("waypoint/{namespace}/{gateway}")
}

/// An enumeration of the wire whose values are words in YAML. The value 0 is the default of a message that says nothing.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident in $module:ident { $($(#[$value_doc:meta])* $value:ident = $number:literal as $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
        #[repr(i32)]
        pub enum $name { $($(#[$value_doc])* $value = $number),+ }

        impl $name {
            pub const ALL: &[$name] = &[$($name::$value),+];

            pub fn word(self) -> &'static str {
                match self { $($name::$value => $word),+ }
            }

            pub fn of_word(word: &str) -> Option<$name> {
                match word { $($word => Some($name::$value),)+ _ => None }
            }
        }

        /// How the number of a field is written in YAML.
        #[allow(dead_code, reason = "where a message has a list of them, the list is written by a module of its own")]
        pub(crate) mod $module {
            use super::$name;
            use serde::{Deserialize, Deserializer, Serializer, de::Error};

            pub fn serialize<S: Serializer>(number: &i32, to: S) -> Result<S::Ok, S::Error> {
                match $name::try_from(*number) {
                    Ok(value) => to.serialize_str(value.word()),
                    Err(_) => to.serialize_i32(*number),
                }
            }

            pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<i32, D::Error> {
                let word = String::deserialize(from)?;
                let value = $name::of_word(&word).ok_or_else(|| {
                    let known: Vec<&str> = $name::ALL.iter().map(|value| value.word()).collect();
                    D::Error::custom(format!("{word:?} is none of {}", known.join(", ")))
                })?;
                Ok(value as i32)
            }
        }
    };
}
use words;

#[cfg(test)]
mod tests;
