//! What waypoints are told (`waypoint.v1`): encoded, and for whom it is.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use mesh_xds::messages::waypoint::{EVERY_WAYPOINT, Meta as WireMeta, SourceRef, audience, audience_of_class};
use prost::Message;

use crate::objects::{Kind, Meta, NsName};

/// Type and name.
pub type ResourceKey = (&'static str, Arc<str>);

#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    pub type_url: &'static str,
    pub name: Arc<str>,
    pub body: Bytes,
    /// Sorted, each once. None: nobody is told.
    pub audiences: Vec<Arc<str>>,
}

/// Who is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audience {
    pub everybody: bool,
    /// All waypoints of these classes.
    pub classes: BTreeSet<Arc<str>>,
    pub gateways: BTreeSet<NsName>,
}

impl Audience {
    pub fn everybody() -> Audience {
        Audience { everybody: true, ..Audience::default() }
    }

    pub fn of(gateways: impl IntoIterator<Item = NsName>) -> Audience {
        Audience { gateways: gateways.into_iter().collect(), ..Audience::default() }
    }

    pub fn of_class(class: &Arc<str>) -> Audience {
        Audience { classes: [class.clone()].into(), ..Audience::default() }
    }

    pub fn join(&mut self, other: Audience) {
        self.everybody |= other.everybody;
        self.classes.extend(other.classes);
        self.gateways.extend(other.gateways);
    }

    pub fn is_empty(&self) -> bool {
        !self.everybody && self.classes.is_empty() && self.gateways.is_empty()
    }

    fn keys(&self) -> Vec<Arc<str>> {
        if self.everybody {
            return vec![EVERY_WAYPOINT.into()];
        }
        let classes = self.classes.iter().map(|class| audience_of_class(class).into());
        classes.chain(self.gateways.iter().map(|gateway| audience(&gateway.namespace, &gateway.name).into())).collect()
    }
}

impl Resource {
    pub fn new(type_url: &'static str, name: &str, message: &impl Message, audience: &Audience) -> Arc<Resource> {
        Arc::new(Resource { type_url, name: name.into(), body: message.encode_to_vec().into(), audiences: audience.keys() })
    }

    pub fn key(&self) -> ResourceKey {
        (self.type_url, self.name.clone())
    }
}

/// Where a resource comes from. The generation is left out: with it an edit of one rule would change all of them.
pub fn source(kind: Kind, meta: &Meta, section: &str) -> Option<WireMeta> {
    let source = SourceRef {
        kind: kind.name().to_owned(),
        namespace: meta.namespace.to_string(),
        name: meta.name.to_string(),
        section: section.to_owned(),
        generation: 0,
    };
    let created_unix = meta.created.and_then(|created| u64::try_from(created).ok()).unwrap_or(0);
    Some(WireMeta { source: Some(source), created_unix })
}
