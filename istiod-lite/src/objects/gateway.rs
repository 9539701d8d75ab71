//! gateway.networking.k8s.io: as much of Gateway and GatewayClass as says where a waypoint is and who may use it.
//! Fields that belong to the gateway's own proxy are not looked at, so unknown ones are no error here.

use std::sync::Arc;

use serde::Deserialize;

use super::meta::{Labels, Meta};

/// Who runs the Gateways of a class: ours are those of the mesh. Also whose parents and ancestors in a status are ours.
pub const CONTROLLER: &str = "istio.io/mesh-controller";
/// The class that the controller makes, and the name by which commands know it.
pub const CLASS: &str = "istio-waypoint";
/// On every object that is made for a Gateway; an object without it is never written to.
pub const MANAGED: &str = "gateway.istio.io/managed";
/// Its value: the controller's name, as a label can have it.
pub const MANAGED_BY: &str = "istio.io-mesh-controller";
/// The Gateway of which a pod is an instance.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// Where waypoints take tunnels; the wire has no default for it.
pub const HBONE_PORT: u16 = 15008;

#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    pub meta: Meta,
    pub class: Arc<str>,
    pub listeners: Vec<Listener>,
    /// What the status says; where it says nothing, what the spec asks for.
    pub addresses: Vec<Address>,
    pub addresses_from_spec: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct GatewayClass {
    pub meta: Meta,
    pub controller: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewaySpec {
    pub gateway_class_name: Arc<str>,
    pub listeners: Vec<Listener>,
    pub addresses: Vec<Address>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayStatus {
    pub addresses: Vec<Address>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayClassSpec {
    pub controller_name: Arc<str>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Listener {
    pub name: Arc<str>,
    pub port: u16,
    pub protocol: Arc<str>,
    pub allowed_routes: Option<AllowedRoutes>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AllowedRoutes {
    pub namespaces: Option<RouteNamespaces>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteNamespaces {
    pub from: Option<Arc<str>>,
    pub selector: Option<LabelSelector>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    pub match_labels: Labels,
    pub match_expressions: Vec<MatchExpression>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct MatchExpression {
    pub key: Arc<str>,
    pub operator: Arc<str>,
    pub values: Vec<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Address {
    #[serde(rename = "type")]
    pub kind: Option<Arc<str>>,
    pub value: Arc<str>,
}

impl Gateway {
    pub fn of(meta: Meta, spec: GatewaySpec, status: Option<GatewayStatus>) -> Gateway {
        let reported = status.unwrap_or_default().addresses;
        let addresses_from_spec = reported.is_empty() && !spec.addresses.is_empty();
        Gateway {
            meta,
            class: spec.gateway_class_name,
            listeners: spec.listeners,
            addresses: if reported.is_empty() { spec.addresses } else { reported },
            addresses_from_spec,
        }
    }
}

impl LabelSelector {
    /// # Errors
    /// An operator that is not known, or values that do not fit it.
    pub fn check(&self) -> Result<(), String> {
        for MatchExpression { key, operator, values } in &self.match_expressions {
            match (&**operator, values.is_empty()) {
                ("In" | "NotIn", false) | ("Exists" | "DoesNotExist", true) => {}
                ("In" | "NotIn", true) => return Err(format!("matchExpressions: {operator} of {key:?} needs values")),
                ("Exists" | "DoesNotExist", false) => return Err(format!("matchExpressions: {operator} of {key:?} takes no values")),
                _ => return Err(format!("matchExpressions: operator {operator:?} is not In, NotIn, Exists or DoesNotExist")),
            }
        }
        Ok(())
    }

    /// An operator that is not known selects nothing.
    pub fn matches(&self, labels: &Labels) -> bool {
        super::meta::matches(&self.match_labels, labels)
            && self.match_expressions.iter().all(|expression| {
                let value = labels.get(&expression.key);
                let among = || value.is_some_and(|value| expression.values.contains(value));
                match &*expression.operator {
                    "In" => among(),
                    "NotIn" => !among(),
                    "Exists" => value.is_some(),
                    "DoesNotExist" => value.is_none(),
                    _ => false,
                }
            })
    }
}
