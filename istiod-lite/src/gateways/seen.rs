//! What the deployment of gateways looks at: Gateways and classes with all that is copied from them, namespaces, the
//! objects that were made for them, and ConfigMaps of parameters. Values only.

use std::collections::{BTreeMap, BTreeSet};

use kube::core::DynamicObject;
use serde::Deserialize;
use serde_json::Value;

use crate::objects::NsName;
pub use crate::objects::gateway::{CLASS, CONTROLLER, GATEWAY_NAME, HBONE_PORT, MANAGED, MANAGED_BY};

pub const GATEWAY_CLASS_NAME: &str = "gateway.networking.k8s.io/gateway-class-name";
/// On ConfigMaps of the root namespace: what is laid over the objects of every Gateway of a class.
pub const DEFAULTS_FOR_CLASS: &str = "gateway.istio.io/defaults-for-class";

/// The kinds that are made for a Gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Made {
    ServiceAccount,
    Deployment,
    Service,
    HorizontalPodAutoscaler,
    PodDisruptionBudget,
}

/// An object that is made for a Gateway, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub kind: Made,
    pub name: NsName,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gateway {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub generation: i64,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub is_deleting: bool,
    pub spec: Spec,
    pub status: Value,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    pub gateway_class_name: String,
    pub listeners: Vec<Listener>,
    pub addresses: Vec<Address>,
    pub infrastructure: Option<Infrastructure>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Listener {
    pub name: String,
    pub port: u16,
    pub protocol: String,
    pub allowed_routes: Option<AllowedRoutes>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AllowedRoutes {
    pub kinds: Vec<RouteKind>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RouteKind {
    pub group: Option<String>,
    pub kind: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Address {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub value: String,
}

/// What is to be on the objects that are made; without it the Gateway's own labels and annotations are.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Infrastructure {
    pub labels: Option<BTreeMap<String, String>>,
    pub annotations: Option<BTreeMap<String, String>>,
    pub parameters_ref: Option<ParametersRef>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ParametersRef {
    pub group: String,
    pub kind: String,
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Class {
    pub controller: String,
    pub generation: i64,
    pub status: Value,
}

/// A ConfigMap whose values are laid over objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters {
    pub name: String,
    pub data: BTreeMap<String, String>,
}

/// Everything that is looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    pub gateways: BTreeMap<NsName, Gateway>,
    pub classes: BTreeMap<String, Class>,
    /// Labels of namespaces.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Objects with the label of what is made for Gateways.
    pub made: BTreeMap<Place, Value>,
    /// Names of what would be made that somebody else's object has.
    pub taken: BTreeSet<Place>,
    /// Why the API server did not take an object.
    pub refused: BTreeMap<Place, String>,
    /// Per class, in the order of their names.
    pub defaults: BTreeMap<String, Vec<Parameters>>,
    /// What `parametersRef` of Gateways name; `None`: there is no such ConfigMap.
    pub parameters: BTreeMap<NsName, Option<Parameters>>,
    /// Routes that a listener has accepted, by Gateway and listener.
    pub attached: BTreeMap<NsName, BTreeMap<String, u32>>,
}

impl Made {
    pub const ALL: [Made; 5] = [Made::ServiceAccount, Made::Deployment, Made::Service, Made::HorizontalPodAutoscaler, Made::PodDisruptionBudget];

    /// Kind, group, version and plural, as the API server has them.
    pub fn resource(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Made::ServiceAccount => ("ServiceAccount", "", "v1", "serviceaccounts"),
            Made::Deployment => ("Deployment", "apps", "v1", "deployments"),
            Made::Service => ("Service", "", "v1", "services"),
            Made::HorizontalPodAutoscaler => ("HorizontalPodAutoscaler", "autoscaling", "v2", "horizontalpodautoscalers"),
            Made::PodDisruptionBudget => ("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets"),
        }
    }

    pub fn kind(self) -> &'static str {
        self.resource().0
    }

    pub fn api_version(self) -> String {
        let (_, group, version, _) = self.resource();
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
    }

    /// Its name in a ConfigMap of parameters.
    pub fn overlay(self) -> &'static str {
        match self {
            Made::ServiceAccount => "serviceAccount",
            Made::Deployment => "deployment",
            Made::Service => "service",
            Made::HorizontalPodAutoscaler => "horizontalPodAutoscaler",
            Made::PodDisruptionBudget => "podDisruptionBudget",
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.kind(), self.name)
    }
}

impl Gateway {
    /// # Errors
    /// A field of another type than the definition has.
    pub fn of(object: DynamicObject) -> Result<Gateway, serde_json::Error> {
        let meta = object.metadata;
        let mut data = object.data;
        Ok(Gateway {
            name: meta.name.unwrap_or_default(),
            namespace: meta.namespace.unwrap_or_default(),
            uid: meta.uid.unwrap_or_default(),
            generation: meta.generation.unwrap_or(0),
            labels: meta.labels.unwrap_or_default(),
            annotations: meta.annotations.unwrap_or_default(),
            is_deleting: meta.deletion_timestamp.is_some(),
            spec: serde_json::from_value(data["spec"].take())?,
            status: data["status"].take(),
        })
    }

    pub fn ns_name(&self) -> NsName {
        NsName::new(&self.namespace, &self.name)
    }

    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }

    /// The name of its Deployment and Service.
    pub fn made_name(&self) -> &str {
        self.annotation("gateway.istio.io/name-override").unwrap_or(&self.name)
    }

    pub fn service_account(&self) -> &str {
        self.annotation("gateway.istio.io/service-account").unwrap_or(&self.name)
    }

    /// Whether its program is ours to deploy: an address of the user's own says that somebody else does. One IP address
    /// is a wish for the Service's.
    pub fn is_deployed_here(&self) -> bool {
        match self.spec.addresses.as_slice() {
            [] => true,
            [only] => only.kind.as_deref().is_none_or(|kind| kind == "IPAddress"),
            _ => false,
        }
    }

    pub fn place(&self, kind: Made) -> Place {
        let name = if kind == Made::ServiceAccount { self.service_account() } else { self.made_name() };
        Place { kind, name: NsName::new(&self.namespace, name) }
    }
}

impl Class {
    pub fn of(object: &DynamicObject) -> Class {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Class {
            controller: text(&object.data["spec"]["controllerName"]),
            generation: object.metadata.generation.unwrap_or(0),
            status: object.data["status"].clone(),
        }
    }
}
