//! The controller's half of delta xDS for one stream, without I/O: what was told, and so what to answer and what to
//! push next (spec/controlplane.md 2.6, 2.7).
//!
//! A client that wants everything has been told exactly the catalog of some earlier moment. So nothing is kept per
//! resource: the earlier snapshot shares its memory with the present one, and the difference of both is the push.

mod named;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;

use crate::catalog::{Catalog, Offer};
use crate::claim::Caller;
use crate::epoch::system_version;
use crate::messages::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use crate::messages::waypoint::SourceRef;
use crate::messages::{self, ADDRESS, AUTHORIZATION, Any, WORKLOAD, waypoint};

use named::Named;

/// Size of a push, bytes: what the client decodes and applies in one go. The first answer of a type is one message
/// whatever its size, because the client becomes ready by it (design decision 15).
const PUSH_BYTES: usize = 1 << 20;
/// Types one stream may ask for; we serve a dozen.
const TYPES_MAX: usize = 32;
/// Names one stream may ask for.
const NAMES_MAX: usize = 100_000;
/// Types whose resources restrict what others open.
const GUARDS: [&str; 7] = [
    AUTHORIZATION,
    waypoint::EXT_AUTHZ_PROVIDER,
    waypoint::AUTHZ_POLICY,
    waypoint::JWT_POLICY,
    waypoint::RATE_LIMIT,
    waypoint::HTTP_POLICY,
    waypoint::BACKEND_POLICY,
];
/// The type whose resources open a service at a waypoint: told last when they come and first when they go, so that no
/// request is served by a part of what is configured for it.
const OPENER: &str = waypoint::SERVICE_PORT;
/// How much of a NACK we keep, and of each resource that it names.
const NACK_CHARS: usize = 1_024;
/// Resources of one type that a client can say it does not do.
const REJECTED_MAX: usize = 1_000;

/// What one stream was told.
#[derive(Debug)]
pub struct Push {
    caller: Caller,
    nonces: Nonces,
    types: BTreeMap<String, Told>,
}

/// What a client does not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("only node daemons and waypoints may subscribe to all addresses; ask for names")]
    AllAddresses,
    #[error("only the node daemon is told of policies")]
    Policies,
    #[error("too many types on one stream")]
    TooManyTypes,
    #[error("too many names on one stream")]
    TooManyNames,
}

/// How a client does with one type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeStatus {
    pub on_demand: bool,
    /// Version of the catalog that the last answer or push brought it to. Versions after it may have had nothing for it.
    pub version: u64,
    pub sent: String,
    pub acked: String,
    pub nacks: u64,
    pub last_nack: Option<String>,
    /// Requests with a nonce that is not of this stream. What they ask for is answered all the same.
    pub stale: u64,
    /// What the client does not do as it was last told, by the resource's name.
    pub rejected: BTreeMap<String, Rejection>,
}

/// Why a resource is not in force at a client as it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rejection {
    /// The user's object, as the resource itself says it: a client has no word about what it may not see.
    pub source: SourceRef,
    /// In force but for what `message` names.
    pub is_partial: bool,
    pub reason: String,
    pub message: String,
}

#[derive(Debug)]
struct Told {
    what: What,
    /// The catalog as of the last answer or push.
    seen: Arc<Catalog>,
    status: TypeStatus,
}

#[derive(Debug)]
enum What {
    Everything,
    Named(Named),
}

#[derive(Debug)]
struct Nonces {
    stream: u64,
    count: u64,
}

/// Resources and removals, before they are put into messages.
#[derive(Debug, Default)]
struct Difference {
    resources: Vec<Resource>,
    removed: Vec<String>,
    /// Names in `resources`, where one may come up twice.
    names: BTreeSet<Arc<str>>,
}

impl Difference {
    /// The removals alone; the resources stay.
    fn take_removals(&mut self) -> Difference {
        Difference { removed: std::mem::take(&mut self.removed), ..Difference::default() }
    }
}

impl Push {
    /// `stream` makes the nonces of different streams differ.
    pub fn new(caller: Caller, stream: u64) -> Push {
        Push { caller, nonces: Nonces { stream, count: 0 }, types: BTreeMap::new() }
    }

    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    pub fn status(&self) -> BTreeMap<String, TypeStatus> {
        self.types.iter().map(|(type_url, told)| (type_url.clone(), told.status.clone())).collect()
    }

    /// Whether the request would be the first of its type, whose answer may be large.
    pub fn is_first(&self, request: &DeltaDiscoveryRequest) -> bool {
        !self.types.contains_key(&request.type_url)
    }

    /// Answers a request. The first of a type is always answered, an ACK or NACK never.
    pub fn request(
        &mut self,
        request: &DeltaDiscoveryRequest,
        catalog: &Arc<Catalog>,
    ) -> Result<Vec<DeltaDiscoveryResponse>, Refused> {
        let Some(told) = self.types.get_mut(&request.type_url) else {
            return self.first(request, catalog);
        };
        if let Some(error) = &request.error_detail {
            told.status.nacks += 1;
            told.status.last_nack = Some(error.message.chars().take(NACK_CHARS).collect());
            for (name, rejection) in rejections(error, &self.caller, catalog, &request.type_url) {
                if told.status.rejected.len() < REJECTED_MAX || told.status.rejected.contains_key(&name) {
                    told.status.rejected.insert(name, rejection);
                }
            }
            return Ok(Vec::new());
        }
        // A large push is several messages: an ACK of one before the last is no stale one.
        if self.nonces.are_the_source_of(&request.response_nonce) {
            told.status.acked.clone_from(&request.response_nonce);
        } else if !request.response_nonce.is_empty() {
            told.status.stale += 1;
        }
        for name in &request.resource_names_unsubscribe {
            if let What::Named(named) = &mut told.what {
                named.forget(name);
            }
        }
        if request.resource_names_subscribe.is_empty() {
            return Ok(Vec::new());
        }
        let names = request.resource_names_subscribe.iter().map(|name| (name.as_str(), ""));
        let difference = match &mut told.what {
            What::Named(named) => named.ask(names, &self.caller, catalog, &request.type_url)?,
            // Nothing new can come of it, but a name that is asked for is answered.
            What::Everything => Named::default().ask(names, &self.caller, catalog, &request.type_url)?,
        };
        Ok(told.pack(difference, &request.type_url, &mut self.nonces, Size::Pushes, Empty::Send))
    }

    /// What the stream is to be told of the catalog's changes, in an order that leaves no window: what opens a service goes
    /// before all else goes, and comes after all else has come; a new policy comes before the workload that lists it or the
    /// service that it guards, and goes after it.
    pub fn update(&mut self, catalog: &Arc<Catalog>) -> Vec<DeltaDiscoveryResponse> {
        let mut responses = Vec::new();
        let mut say = |told: &mut Told, difference, type_url: &str, nonces: &mut Nonces| {
            responses.extend(told.pack(difference, type_url, nonces, Size::Pushes, Empty::Omit));
        };
        let mut opened = Difference::default();
        if let Some(told) = self.types.get_mut(OPENER) {
            opened = told.update(OPENER, &self.caller, catalog);
            let closed = opened.take_removals();
            say(told, closed, OPENER, &mut self.nonces);
        }
        let mut gone = Vec::new();
        for type_url in GUARDS {
            let Some(told) = self.types.get_mut(type_url) else { continue };
            let mut difference = told.update(type_url, &self.caller, catalog);
            gone.push((type_url, difference.take_removals()));
            say(told, difference, type_url, &mut self.nonces);
        }
        let is_other = |type_url: &str| type_url != OPENER && !GUARDS.contains(&type_url);
        for (type_url, told) in self.types.iter_mut().filter(|(type_url, _)| is_other(type_url)) {
            let difference = told.update(type_url, &self.caller, catalog);
            say(told, difference, type_url, &mut self.nonces);
        }
        for (type_url, difference) in std::iter::once((OPENER, opened)).chain(gone) {
            let Some(told) = self.types.get_mut(type_url) else { continue };
            say(told, difference, type_url, &mut self.nonces);
        }
        responses
    }

    fn first(
        &mut self,
        request: &DeltaDiscoveryRequest,
        catalog: &Arc<Catalog>,
    ) -> Result<Vec<DeltaDiscoveryResponse>, Refused> {
        let type_url = request.type_url.as_str();
        if self.types.len() >= TYPES_MAX {
            return Err(Refused::TooManyTypes);
        }
        let everything = wants_everything(request);
        if !self.caller.scope.all_addresses {
            match type_url {
                ADDRESS | WORKLOAD if everything => return Err(Refused::AllAddresses),
                _ => {}
            }
        }
        // By name too: who may talk to whom is for those who enforce it.
        if type_url == AUTHORIZATION && !self.caller.scope.policies {
            return Err(Refused::Policies);
        }
        let (what, difference, size) = if everything {
            (What::Everything, everything_but(request, &self.caller, catalog), Size::OneMessage)
        } else {
            let mut named = Named::default();
            let asked = request.resource_names_subscribe.iter().filter(|name| *name != "*").map(|name| (name.as_str(), ""));
            let held = request.initial_resource_versions.iter().map(|(name, version)| (name.as_str(), version.as_str()));
            let mut difference = named.ask(asked.chain(held), &self.caller, catalog, type_url)?;
            difference.resources.extend(named.own_node(&self.caller, catalog, type_url, &request.initial_resource_versions));
            (What::Named(named), difference, Size::OneMessage)
        };
        let status = TypeStatus { on_demand: !everything, version: catalog.version(), ..TypeStatus::default() };
        let mut told = Told { what, seen: catalog.clone(), status };
        let responses = told.pack(difference, type_url, &mut self.nonces, size, Empty::Send);
        self.types.insert(type_url.to_owned(), told);
        Ok(responses)
    }
}

/// What every resource of a waypoint begins with.
#[derive(Clone, PartialEq, prost::Message)]
struct Head {
    #[prost(message, optional, tag = "1")]
    meta: Option<waypoint::Meta>,
}

/// The resources that a NACK names, of those that the client may see.
fn rejections<'a>(error: &'a messages::Status, caller: &'a Caller, catalog: &'a Catalog, type_url: &'a str) -> impl Iterator<Item = (String, Rejection)> + 'a {
    let details = error.details.iter().filter(|detail| detail.type_url == waypoint::RESOURCE_STATUS).take(REJECTED_MAX);
    details.filter_map(move |detail| {
        let status = waypoint::ResourceStatus::decode(detail.value.clone()).ok()?;
        let offer = catalog.shelf(type_url)?.offer(&status.name).filter(|offer| may_see(caller, offer))?;
        let source = Head::decode(offer.body.clone()).ok()?.meta?.source?;
        let cut = |text: &str| text.chars().take(NACK_CHARS).collect::<String>();
        let is_partial = match status.state() {
            waypoint::ResourceState::Applied => return None,
            waypoint::ResourceState::Rejected => false,
            waypoint::ResourceState::Partial => true,
        };
        Some((offer.name.to_string(), Rejection { source, is_partial, reason: cut(&status.reason), message: cut(&status.message) }))
    })
}

/// An empty list of names means everything; so does `*`, unless the same message takes it back (spec/controlplane.md 2.6).
fn wants_everything(request: &DeltaDiscoveryRequest) -> bool {
    let star = |names: &[String]| names.iter().any(|name| name == "*");
    let subscribe = &request.resource_names_subscribe;
    (subscribe.is_empty() || star(subscribe)) && !star(&request.resource_names_unsubscribe)
}

/// All that the client does not have already, and what it has or names that does not exist.
fn everything_but(request: &DeltaDiscoveryRequest, caller: &Caller, catalog: &Catalog) -> Difference {
    let shelf = catalog.shelf(&request.type_url);
    let offers = shelf.into_iter().flat_map(|shelf| shelf.offers()).filter(|offer| may_see(caller, offer));
    let has = |offer: &Offer| request.initial_resource_versions.get(&*offer.name).is_some_and(|version| **version == *offer.version);
    let resources = offers.filter(|offer| !has(offer)).map(|offer| resource(offer, &request.type_url, Aliases::Omit)).collect();
    let exists = |name: &str| shelf.and_then(|shelf| shelf.offer(name)).is_some_and(|offer| may_see(caller, offer));
    let named = request.initial_resource_versions.keys();
    let asked = request.resource_names_subscribe.iter().filter(|name| *name != "*");
    let removed = named.chain(asked).filter(|name| !exists(name)).cloned().collect();
    Difference { resources, removed, names: BTreeSet::new() }
}

impl Told {
    fn update(&mut self, type_url: &str, caller: &Caller, catalog: &Arc<Catalog>) -> Difference {
        let changed = catalog.changed_since(&self.seen, type_url);
        let difference = match &mut self.what {
            What::Named(named) => named.update(&changed, caller, catalog, type_url),
            What::Everything => {
                let visible = |catalog: &'_ Catalog, name: &str| -> Option<Arc<Offer>> {
                    catalog.shelf(type_url)?.offer(name).filter(|offer| may_see(caller, offer)).cloned()
                };
                let mut difference = Difference::default();
                for name in &changed {
                    match (visible(&self.seen, name), visible(catalog, name)) {
                        (Some(old), Some(new)) if old.version == new.version => {}
                        (_, Some(new)) => difference.resources.push(resource(&new, type_url, Aliases::Omit)),
                        (Some(_), None) => difference.removed.push(name.to_string()),
                        (None, None) => {}
                    }
                }
                difference
            }
        };
        self.seen = catalog.clone();
        self.status.version = catalog.version();
        difference
    }

    /// Messages of a difference, each with its nonce.
    fn pack(
        &mut self,
        difference: Difference,
        type_url: &str,
        nonces: &mut Nonces,
        size: Size,
        empty: Empty,
    ) -> Vec<DeltaDiscoveryResponse> {
        // What is told anew is good until the client says otherwise.
        let names = difference.resources.iter().map(|resource| &resource.name).chain(&difference.removed);
        names.for_each(|name| drop(self.status.rejected.remove(name)));
        let version = system_version(self.seen.epoch(), self.seen.version());
        let message = |resources, removed_resources, nonce: String| DeltaDiscoveryResponse {
            system_version_info: version.clone(),
            resources,
            type_url: type_url.to_owned(),
            nonce,
            removed_resources,
        };
        let mut responses: Vec<DeltaDiscoveryResponse> = split(difference, size)
            .into_iter()
            .map(|part| message(part.resources, part.removed, nonces.next()))
            .collect();
        if responses.is_empty() && empty == Empty::Send {
            responses.push(message(Vec::new(), Vec::new(), nonces.next()));
        }
        if let Some(last) = responses.last() {
            self.status.sent.clone_from(&last.nonce);
        }
        responses
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    OneMessage,
    Pushes,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Empty {
    Send,
    Omit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Aliases {
    Send,
    Omit,
}

/// Parts of at most `PUSH_BYTES`; a resource that is larger goes alone. Removals follow the resources.
fn split(difference: Difference, size: Size) -> Vec<Difference> {
    if size == Size::OneMessage {
        let empty = difference.resources.is_empty() && difference.removed.is_empty();
        return if empty { Vec::new() } else { vec![difference] };
    }
    // A tag and a length beside the content: at most this much in front of each item.
    const FRAMING: usize = 8;
    let mut parts: Vec<Difference> = Vec::new();
    let mut room = 0;
    let mut place = |bytes: usize, parts: &mut Vec<Difference>| {
        if bytes > room || parts.is_empty() {
            parts.push(Difference::default());
            room = PUSH_BYTES;
        }
        room = room.saturating_sub(bytes);
        parts.len() - 1
    };
    for resource in difference.resources {
        let at = place(resource.encoded_len() + FRAMING, &mut parts);
        parts[at].resources.push(resource);
    }
    for name in difference.removed {
        let at = place(name.len() + FRAMING, &mut parts);
        parts[at].removed.push(name);
    }
    parts
}

fn resource(offer: &Offer, type_url: &str, aliases: Aliases) -> Resource {
    let names = offer.aliases.iter().filter(|_| aliases == Aliases::Send).map(|name| name.to_string()).collect();
    Resource {
        version: offer.version.to_string(),
        // The bytes are shared, not copied.
        resource: Some(Any { type_url: type_url.to_owned(), value: offer.body.clone() }),
        name: offer.name.to_string(),
        aliases: names,
    }
}

fn may_see(caller: &Caller, offer: &Offer) -> bool {
    offer.audiences.as_ref().is_none_or(|audiences| audiences.iter().any(|audience| caller.scope.audiences.contains(audience)))
}

impl Nonces {
    fn next(&mut self) -> String {
        self.count += 1;
        format!("{:x}-{}", self.stream, self.count)
    }

    fn are_the_source_of(&self, nonce: &str) -> bool {
        let Some((stream, count)) = nonce.split_once('-') else { return false };
        u64::from_str_radix(stream, 16) == Ok(self.stream) && count.parse::<u64>().is_ok_and(|count| count <= self.count)
    }
}

#[cfg(test)]
mod tests;
