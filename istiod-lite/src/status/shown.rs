//! What objects in the API server show of what we have to say: our conditions and the addresses that we gave. Read by
//! the source, so that the writer sees by itself when somebody else has changed it.

use std::net::IpAddr;
use std::sync::Arc;

use rpds::RedBlackTreeMapSync;
use serde::Deserialize;

use super::plan::{Address, Condition};
use crate::objects::gateway::CONTROLLER;
use crate::objects::route::{ParentReference, ROUTES};
use crate::objects::{Kind, ObjectKey};

/// The conditions that are ours; those of others on the same object are never looked at.
pub const TYPES: [&str; 7] =
    ["ZtunnelAccepted", "WaypointAccepted", "istio.io/WaypointBound", "istio.io/WaypointMissing", "istio.io/VisibilityApplied", ACCEPTED, PROGRAMMED];

/// Of an object that waypoints do not do as it is written. Ours alone; it is not there while they do.
pub const PROGRAMMED: &str = "istio.io/Programmed";

/// Whether an object can be used, and what of it is not honoured. Ours alone: the field has no such condition.
pub const ACCEPTED: &str = "istio.io/Accepted";

/// Of every object that shows something of ours.
pub type Statuses = RedBlackTreeMapSync<ObjectKey, Arc<Shown>>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// Whose the object is: its label `istio.io/rev`, where it has one.
    pub revision: Option<Arc<str>>,
    pub conditions: Vec<(Condition, Since)>,
    /// Of a route or a policy of the Gateway API: what it shows of what we said about its parents or ancestors.
    pub parents: Vec<(ParentReference, Vec<(Condition, Since)>)>,
    pub addresses: Vec<Address>,
}

/// When a condition took its status, as the API server holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Since(pub String);

impl Shown {
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty() && self.parents.is_empty() && self.addresses.is_empty()
    }
}

/// Whether objects of a kind have a status that we write.
pub fn is_written(kind: Kind) -> bool {
    matches!(kind, Kind::Service | Kind::RateLimit) || kind.has_revision() || beside(kind).is_some()
}

/// Where in its status an object of the Gateway API is told, for each of those that it hangs on, how it stands to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beside {
    /// The list, which others write to, too.
    pub list: &'static str,
    /// Whom an item of it is about.
    pub reference: &'static str,
}

/// `None`: what is said of objects of a kind is said of the object as a whole.
pub fn beside(kind: Kind) -> Option<Beside> {
    match kind {
        kind if ROUTES.contains(&kind) => Some(Beside { list: "parents", reference: "parentRef" }),
        Kind::BackendTlsPolicy => Some(Beside { list: "ancestors", reference: "ancestorRef" }),
        _ => None,
    }
}

/// Reads it from an object's text, leniently: what is not understood is not ours.
pub fn shown(kind: Kind, text: &str) -> Shown {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Frame {
        metadata: Labelled,
        status: Option<Status>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Status {
        conditions: Vec<Shape>,
        addresses: Vec<Given>,
        #[serde(alias = "ancestors")]
        parents: Vec<Said>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Said {
        controller_name: String,
        #[serde(alias = "ancestorRef")]
        parent_ref: ParentReference,
        conditions: Vec<Shape>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Shape {
        r#type: String,
        status: String,
        reason: String,
        message: String,
        observed_generation: serde_json::Value,
        last_transition_time: String,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Given {
        value: Option<IpAddr>,
        host: String,
    }
    // Most objects have no status; those are not parsed once more.
    if !is_written(kind) || !(text.contains("\"conditions\"") || text.contains("\"addresses\"")) {
        return Shown::default();
    }
    let Frame { metadata, status } = serde_json::from_str(text).unwrap_or_default();
    let status = status.unwrap_or_default();
    let read = |one: Shape| {
        let generation = one.observed_generation.as_i64().or_else(|| one.observed_generation.as_str()?.parse().ok());
        let condition = Condition { kind: one.r#type, status: one.status, reason: one.reason, message: one.message, observed_generation: generation.unwrap_or(0) };
        (condition, Since(one.last_transition_time))
    };
    let conditions = status.conditions.into_iter().filter(|one| TYPES.contains(&one.r#type.as_str()) && beside(kind).is_none()).map(read);
    let parents = status.parents.into_iter().filter(|parent| parent.controller_name == CONTROLLER && beside(kind).is_some());
    let parents = parents.map(|parent| (parent.parent_ref, parent.conditions.into_iter().map(read).collect()));
    let addresses = status.addresses.into_iter().filter_map(|given| Some(Address { value: given.value?, host: given.host }));
    let is_entry = kind == Kind::ServiceEntry;
    Shown { revision: metadata.revision(kind), conditions: conditions.collect(), parents: parents.collect(), addresses: if is_entry { addresses.collect() } else { Vec::new() } }
}

/// Whose an object is, as far as its text can be read.
pub fn revision(kind: Kind, text: &str) -> Option<Arc<str>> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Frame {
        metadata: Labelled,
    }
    serde_json::from_str::<Frame>(text).unwrap_or_default().metadata.revision(kind)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Labelled {
    labels: Option<std::collections::BTreeMap<String, String>>,
}

impl Labelled {
    fn revision(self, kind: Kind) -> Option<Arc<str>> {
        self.labels.filter(|_| kind.has_revision())?.remove("istio.io/rev").map(Arc::from)
    }
}
