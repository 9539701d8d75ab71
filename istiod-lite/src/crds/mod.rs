//! The CustomResourceDefinitions of the Istio kinds that are read here, for clusters that no other mesh gave them to:
//! `istiod-lite crds` prints them, and the chart installs them (charts/isthmus/files/crds). Pure.
//!
//! A definition refuses another type and another value of an enumeration before anything is stored. What it does not
//! know it keeps: users' YAML stays as it is, and the object's status says what of it is not honoured. Pruning would turn
//! a restriction of a newer version into no restriction. Names, short names and versions are the field's, so that an
//! object and a script that work there work here.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionNames, CustomResourceDefinitionSpec,
    CustomResourceDefinitionVersion, CustomResourceSubresourceStatus, CustomResourceSubresources, CustomResourceValidation,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::objects::Kind;
use schema::Schema;

mod limits;
mod networking;
mod schema;
mod security;
mod status;
#[cfg(test)]
mod tests;

/// A kind with a definition. Those of other kinds belong to their own projects: the Gateway API's are not ours to install.
struct Defined {
    kind: Kind,
    short_name: &'static str,
    /// First what identifies, then whether it is in force.
    columns: &'static [Column],
    spec: fn() -> Schema,
}

const DEFINED: [Defined; 9] = [
    Defined {
        kind: Kind::ServiceEntry,
        short_name: "se",
        columns: &[
            Column::new("Hosts", ".spec.hosts", "The names that it gives the mesh"),
            Column::new("Location", ".spec.location", "Whether its endpoints belong to the mesh"),
            Column::new("Resolution", ".spec.resolution", "How its endpoints are found"),
            Column::detail("Addresses", ".status.addresses[*].value", "Addresses that were given to its hosts"),
            ACCEPTED,
            MESSAGE,
        ],
        spec: networking::service_entry,
    },
    Defined {
        kind: Kind::WorkloadEntry,
        short_name: "we",
        columns: &[Column::new("Address", ".spec.address", "Where the workload is"), ACCEPTED, MESSAGE],
        spec: networking::workload_entry,
    },
    Defined {
        kind: Kind::AuthorizationPolicy,
        short_name: "ap",
        columns: &[
            Column::new("Action", ".spec.action", "What becomes of connections that match; ALLOW where it says nothing"),
            Column::new("Accepted", ".status.conditions[?(@.type==\"ZtunnelAccepted\")].status", "Whether node daemons enforce it"),
            Column::detail("Message", ".status.conditions[?(@.type==\"ZtunnelAccepted\")].message", "What there is to say about it"),
            Column::detail("Waypoint", ".status.conditions[?(@.type==\"WaypointAccepted\")].status", "Whether waypoints enforce it"),
            PROGRAMMED,
        ],
        spec: security::authorization_policy,
    },
    Defined {
        kind: Kind::PeerAuthentication,
        short_name: "pa",
        columns: &[Column::new("Mode", ".spec.mtls.mode", "Whether connections must be encrypted"), ACCEPTED, MESSAGE],
        spec: security::peer_authentication,
    },
    Defined {
        kind: Kind::RateLimit,
        short_name: "rl",
        columns: &[
            Column::new("Accepted", ".status.conditions[?(@.type==\"WaypointAccepted\")].status", "Whether waypoints count by it"),
            Column::detail("Message", ".status.conditions[?(@.type==\"WaypointAccepted\")].message", "What there is to say about it"),
        ],
        spec: limits::rate_limit,
    },
    Defined {
        kind: Kind::RequestAuthentication,
        short_name: "ra",
        columns: &[WAYPOINT, WAYPOINT_MESSAGE, PROGRAMMED],
        spec: security::request_authentication,
    },
    Defined {
        kind: Kind::DestinationRule,
        short_name: "dr",
        columns: &[Column::new("Host", ".spec.host", "Whose endpoints it is about"), ACCEPTED, MESSAGE, PROGRAMMED],
        spec: networking::destination_rule,
    },
    Defined {
        kind: Kind::VirtualService,
        short_name: "vs",
        columns: &[Column::new("Hosts", ".spec.hosts", "What is routed"), ACCEPTED, MESSAGE, PROGRAMMED],
        spec: networking::virtual_service,
    },
    Defined { kind: Kind::Telemetry, short_name: "telemetry", columns: &[ACCEPTED, MESSAGE, PROGRAMMED], spec: security::telemetry },
];

const WAYPOINT: Column = Column::new("Accepted", ".status.conditions[?(@.type==\"WaypointAccepted\")].status", "Whether waypoints enforce it");
const WAYPOINT_MESSAGE: Column = Column::detail("Message", ".status.conditions[?(@.type==\"WaypointAccepted\")].message", "What there is to say about it");
const PROGRAMMED: Column = Column::detail("Programmed", ".status.conditions[?(@.type==\"istio.io/Programmed\")].status", "False: a waypoint does not do it as it is written");

const ACCEPTED: Column = Column::detail("Accepted", ".status.conditions[?(@.type==\"istio.io/Accepted\")].status", "False: its newest state is not used");
const MESSAGE: Column = Column::detail("Message", ".status.conditions[?(@.type==\"istio.io/Accepted\")].message", "What there is to say about it");

/// What `kubectl get` shows beside the name.
struct Column {
    name: &'static str,
    path: &'static str,
    what: &'static str,
    /// Shown with `-o wide` only.
    is_detail: bool,
}

impl Column {
    const fn new(name: &'static str, path: &'static str, what: &'static str) -> Column {
        Column { name, path, what, is_detail: false }
    }

    const fn detail(name: &'static str, path: &'static str, what: &'static str) -> Column {
        Column { name, path, what, is_detail: true }
    }
}

/// The file's name is the definition's.
pub fn file_name(definition: &CustomResourceDefinition) -> String {
    format!("{}.yaml", definition.metadata.name.as_deref().unwrap_or_default())
}

/// All definitions, in the order of their kinds.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    DEFINED.iter().map(definition).collect()
}

/// # Errors
/// None that a definition of ours can cause: texts and numbers are always YAML.
pub fn yaml(definition: &CustomResourceDefinition) -> anyhow::Result<String> {
    Ok(serde_saphyr::to_string(definition)?)
}

fn definition(defined: &Defined) -> CustomResourceDefinition {
    let kind = defined.kind;
    let (group, versions) = kind.group_versions();
    let singular = kind.name().to_lowercase();
    // `istio-io` is what `kubectl get istio-io` lists, and whoever looks there looks for ours, too.
    let categories = vec!["istio-io".to_owned(), group.replace('.', "-")];
    CustomResourceDefinition {
        metadata: ObjectMeta { name: Some(format!("{}.{group}", kind.plural())), ..ObjectMeta::default() },
        spec: CustomResourceDefinitionSpec {
            group: group.to_owned(),
            names: CustomResourceDefinitionNames {
                kind: kind.name().to_owned(),
                list_kind: Some(format!("{}List", kind.name())),
                plural: kind.plural().to_owned(),
                singular: Some(singular),
                short_names: Some(vec![defined.short_name.to_owned()]),
                categories: Some(categories),
            },
            scope: "Namespaced".to_owned(),
            // The first is the newest, and stored; their fields are the same, so none is converted.
            versions: versions.iter().enumerate().map(|(index, name)| version(defined, name, index == 0)).collect(),
            ..CustomResourceDefinitionSpec::default()
        },
        status: None,
    }
}

fn version(defined: &Defined, name: &str, is_stored: bool) -> CustomResourceDefinitionVersion {
    CustomResourceDefinitionVersion {
        name: name.to_owned(),
        served: true,
        storage: is_stored,
        schema: Some(CustomResourceValidation { open_api_v3_schema: Some(schema::frame((defined.spec)(), status::of(defined.kind))) }),
        subresources: Some(CustomResourceSubresources { status: Some(CustomResourceSubresourceStatus(serde_json::json!({}))), scale: None }),
        additional_printer_columns: Some(defined.columns.iter().map(shown).chain([age()]).collect()),
        ..CustomResourceDefinitionVersion::default()
    }
}

fn shown(column: &Column) -> CustomResourceColumnDefinition {
    CustomResourceColumnDefinition {
        name: column.name.to_owned(),
        type_: "string".to_owned(),
        json_path: column.path.to_owned(),
        description: Some(column.what.to_owned()),
        priority: column.is_detail.then_some(1),
        ..CustomResourceColumnDefinition::default()
    }
}

fn age() -> CustomResourceColumnDefinition {
    CustomResourceColumnDefinition {
        name: "Age".to_owned(),
        type_: "date".to_owned(),
        json_path: ".metadata.creationTimestamp".to_owned(),
        ..CustomResourceColumnDefinition::default()
    }
}
