//! The client's half of delta xDS, without I/O: what to send when a stream opens, when somebody needs a name, and when
//! a response has been applied (spec/dataplane.md 5.7, spec/controlplane.md 2.2).
//!
//! ```text
//!   open() ─> first request per type ─> response ─> (caller converts and applies) ─> settle() ─> ACK or NACK
//!                 ^                                                                      │
//!                 └──────────────── stream lost: versions and open questions stay ───────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;

use crate::messages::discovery::{DeltaDiscoveryRequest, Node};
use crate::messages::waypoint::{RESOURCE_STATUS, ResourceStatus};
use crate::messages::{Any, Status};

/// Longest message of a NACK, bytes. A response may hold a hundred thousand bad resources; their names are in our log.
const NACK_BYTES: usize = 8 * 1024;
/// Most resources of a response that are told of one by one; the objects behind them wait for it with their status. More
/// are told of when these are in order.
const STATUSES_MAX: usize = 1_000;

/// How much of a type we want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    Everything,
    /// Only what is asked for by name.
    OnDemand,
}

/// What is subscribed, held and asked for. Outlives streams.
#[derive(Debug)]
pub struct Delta {
    types: Vec<Subscription>,
}

#[derive(Debug)]
struct Subscription {
    type_url: &'static str,
    interest: Interest,
    /// Accepted resources and their versions: what we claim to have on the next stream.
    held: BTreeMap<Arc<str>, Arc<str>>,
    /// Resources whose latest content we refused, or have in part.
    refused: BTreeSet<Arc<str>>,
    /// Names asked for and not answered yet.
    pending: BTreeSet<Arc<str>>,
    acked: bool,
    /// A response came, whatever became of it.
    heard: bool,
    /// One came on this stream.
    current: bool,
}

/// What became of the resources of one response.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Name and version.
    pub accepted: Vec<(Arc<str>, Arc<str>)>,
    /// How many of them were not held before.
    pub added: usize,
    pub removed: Vec<Arc<str>>,
    /// Name and reason.
    pub rejected: Vec<(Arc<str>, String)>,
    /// Names of accepted ones that are in force in part only. They are asked for again by the next stream, so that a
    /// controller that was not there hears of it.
    pub partial: Vec<Arc<str>>,
    /// What the controller is told of single resources, beside the text.
    pub statuses: Vec<ResourceStatus>,
    /// Other names under which accepted resources may have been asked for.
    pub aliases: Vec<Arc<str>>,
}

/// What follows from a response.
#[derive(Debug)]
pub struct Settled {
    /// The ACK or NACK.
    pub reply: DeltaDiscoveryRequest,
    /// Asked names that are answered now, also by "there is none".
    pub answered: Vec<Arc<str>>,
    /// This was the first response of its type that was accepted as a whole.
    pub first_ack: bool,
}

impl Delta {
    pub fn new(interests: &[(&'static str, Interest)]) -> Delta {
        let subscription = |(type_url, interest): &(&'static str, Interest)| Subscription {
            type_url,
            interest: *interest,
            held: BTreeMap::new(),
            refused: BTreeSet::new(),
            pending: BTreeSet::new(),
            acked: false,
            heard: false,
            current: false,
        };
        Delta { types: interests.iter().map(subscription).collect() }
    }

    /// The first requests of a new stream, one per type. The node is named in each of them and never again.
    pub fn open(&mut self, node: &Node) -> Vec<DeltaDiscoveryRequest> {
        self.types.iter_mut().for_each(|subscription| subscription.current = false);
        self.types.iter().map(|subscription| subscription.first_request(node)).collect()
    }

    /// Asks for a name, unless it has been asked for and the answer is still to come.
    pub fn ask(&mut self, type_url: &str, name: &Arc<str>) -> Option<DeltaDiscoveryRequest> {
        let subscription = self.of(type_url)?;
        subscription.pending.insert(name.clone()).then(|| DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: vec![name.to_string()],
            ..DeltaDiscoveryRequest::default()
        })
    }

    /// Answers a response after its resources were applied or refused. A response of a type that was never asked for
    /// is acknowledged, like everywhere in the field.
    pub fn settle(&mut self, type_url: &str, nonce: &str, outcome: Outcome) -> Settled {
        let reply = DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            response_nonce: nonce.to_owned(),
            error_detail: nack(&outcome),
            ..DeltaDiscoveryRequest::default()
        };
        let Some(subscription) = self.of(type_url) else {
            return Settled { reply, answered: Vec::new(), first_ack: false };
        };
        let first_ack = outcome.rejected.is_empty() && !subscription.acked;
        subscription.acked |= first_ack;
        (subscription.heard, subscription.current) = (true, true);
        let answered = subscription.record(outcome);
        Settled { reply, answered, first_ack }
    }

    /// Whether a response of each type that is wanted whole has been accepted.
    pub fn is_synced(&self) -> bool {
        self.types.iter().all(|subscription| subscription.acked || subscription.interest == Interest::OnDemand)
    }

    /// Whether there was a response of each type that is wanted whole, even if some of it could not be used.
    pub fn is_heard(&self) -> bool {
        self.types.iter().all(|subscription| subscription.heard || subscription.interest == Interest::OnDemand)
    }

    /// As `is_heard`, on this stream: what is held is of one moment, and no type of it older than another.
    pub fn is_current(&self) -> bool {
        self.types.iter().all(|subscription| subscription.current || subscription.interest == Interest::OnDemand)
    }

    pub fn interest(&self, type_url: &str) -> Option<Interest> {
        self.types.iter().find(|subscription| subscription.type_url == type_url).map(|subscription| subscription.interest)
    }

    /// Resources held of a type.
    pub fn held(&self, type_url: &str) -> usize {
        self.types.iter().find(|subscription| subscription.type_url == type_url).map_or(0, |one| one.held.len())
    }

    pub fn holds(&self, type_url: &str, name: &str) -> bool {
        self.types.iter().any(|subscription| subscription.type_url == type_url && subscription.held.contains_key(name))
    }

    /// Names asked for and not answered, over all types.
    pub fn pending(&self) -> usize {
        self.types.iter().map(|subscription| subscription.pending.len()).sum()
    }

    fn of(&mut self, type_url: &str) -> Option<&mut Subscription> {
        self.types.iter_mut().find(|subscription| subscription.type_url == type_url)
    }
}

impl Subscription {
    /// An empty list of names means everything. On demand we say "everything" and take it back in one request, so that
    /// the server knows our kind and sends nothing yet.
    fn first_request(&self, node: &Node) -> DeltaDiscoveryRequest {
        let all_or_nothing = match self.interest {
            Interest::Everything => Vec::new(),
            Interest::OnDemand => vec!["*".to_owned()],
        };
        // Of a refused resource we have no version, so it is sent again. It is named all the same: were it removed
        // while we are away, nobody would tell us otherwise, and what it left behind here would stay for ever.
        let without_version = self.refused.iter().chain(&self.pending).map(|name| (name.to_string(), String::new()));
        let held = self.held.iter().filter(|(name, _)| !self.refused.contains(*name));
        let held = held.map(|(name, version)| (name.to_string(), version.to_string()));
        DeltaDiscoveryRequest {
            node: Some(node.clone()),
            type_url: self.type_url.to_owned(),
            resource_names_subscribe: all_or_nothing.clone(),
            resource_names_unsubscribe: all_or_nothing,
            initial_resource_versions: without_version.chain(held).collect(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn record(&mut self, outcome: Outcome) -> Vec<Arc<str>> {
        let mut answered = Vec::new();
        let mut answer = |pending: &mut BTreeSet<Arc<str>>, name: &Arc<str>| {
            if let Some(name) = pending.take(name) {
                answered.push(name);
            }
        };
        for (name, version) in outcome.accepted {
            answer(&mut self.pending, &name);
            self.refused.remove(&name);
            self.held.insert(name, version);
        }
        self.refused.extend(outcome.partial);
        for (name, _) in outcome.rejected {
            answer(&mut self.pending, &name);
            self.refused.insert(name);
        }
        for name in outcome.removed {
            answer(&mut self.pending, &name);
            self.refused.remove(&name);
            self.held.remove(&name);
        }
        for alias in outcome.aliases {
            answer(&mut self.pending, &alias);
        }
        answered
    }
}

/// The error of a NACK: what was refused, joined by `; `, and what is told of single resources. Its presence is what makes
/// it a NACK; the code stays 0.
fn nack(outcome: &Outcome) -> Option<Status> {
    if outcome.rejected.is_empty() && outcome.statuses.is_empty() {
        return None;
    }
    let mut message = String::new();
    for (index, (name, reason)) in outcome.rejected.iter().enumerate() {
        if message.len() + name.len() + reason.len() > NACK_BYTES {
            message.push_str(&format!("; and {} more", outcome.rejected.len() - index));
            break;
        }
        let separator = if index == 0 { "" } else { "; " };
        message.push_str(&format!("{separator}{name}: {reason}"));
    }
    let detail = |status: &ResourceStatus| Any { type_url: RESOURCE_STATUS.to_owned(), value: status.encode_to_vec().into() };
    let details = outcome.statuses.iter().take(STATUSES_MAX).map(detail).collect();
    Some(Status { code: 0, message, details })
}

#[cfg(test)]
mod tests;
