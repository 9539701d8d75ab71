//! From a response to the world and back to the server: convert, apply, settle. Sound resources are applied even when
//! their neighbours are not.

use std::sync::Arc;

use mesh_model::change::Change;
use mesh_model::workload::PolicyKey;
use prost::Message;

use super::{Client, Sink};
use crate::delta::{Interest, Outcome};
use crate::messages::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use crate::messages::waypoint::{ResourceState, ResourceStatus};
use crate::messages::{ADDRESS, AUTHORIZATION};
use crate::wire;
use crate::world::{BATCH, Edit};

impl<D> Client<D> {
    /// Applies a response and returns the ACK or NACK. Yields after each batch, so that a full sync does not hold up
    /// the other tasks of its thread.
    pub async fn take(&mut self, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        self.observe.message(&response.type_url, response.encoded_len());
        let mut outcome = Outcome::default();
        for batch in response.resources.chunks(BATCH) {
            let mut edits = Vec::with_capacity(batch.len());
            edits.extend(batch.iter().filter_map(|one| self.read(&response.type_url, one, &mut outcome)));
            self.world.apply(edits);
            tokio::task::yield_now().await;
        }
        // After the resources: what moved from one name to another is never missing in between.
        for batch in response.removed_resources.chunks(BATCH) {
            self.world.apply(batch.iter().filter_map(|name| removal(&response.type_url, name)));
            batch.iter().for_each(|name| self.sink_removal(&response.type_url, name));
            tokio::task::yield_now().await;
        }
        outcome.removed = response.removed_resources.iter().map(|name| Arc::from(name.as_str())).collect();
        self.settle(&response, outcome)
    }

    /// The edit that a resource asks for; what it is called and whether it was refused goes into `outcome`.
    fn read(&mut self, type_url: &str, resource: &Resource, outcome: &mut Outcome) -> Option<Edit> {
        let name: Arc<str> = resource.name.as_str().into();
        // Also of what is refused: who waits for it must not wait for ever.
        outcome.aliases.extend(resource.aliases.iter().map(|name| Arc::from(name.as_str())));
        let read = self.edit(type_url, resource, outcome.added).and_then(|edit| self.sink(type_url, resource).map(|()| edit));
        match read {
            Err(Refused { status: Some(status), .. }) if status.state() == ResourceState::Partial => {
                tracing::warn!(target: "xds", %type_url, %name, reason = %status.reason, message = %status.message, "a resource is in force in part");
                outcome.added += usize::from(!self.delta.holds(type_url, &name));
                outcome.accepted.push((name.clone(), resource.version.as_str().into()));
                outcome.partial.push(name);
                outcome.statuses.push(*status);
                None
            }
            Ok(edit) => {
                if self.delta.interest(type_url) == Some(Interest::OnDemand) {
                    outcome.aliases.extend(edit.as_ref().into_iter().flat_map(own_aliases));
                }
                outcome.added += usize::from(!self.delta.holds(type_url, &name));
                outcome.accepted.push((name, resource.version.as_str().into()));
                edit
            }
            Err(Refused { reason, edit, status }) => {
                tracing::warn!(target: "xds", %type_url, %name, %reason, "a resource of the controller is refused");
                if self.sink.is_some() {
                    outcome.statuses.push(status.map_or_else(|| unusable(type_url, &name, &reason), |status| *status));
                }
                outcome.rejected.push((name, reason));
                edit
            }
        }
    }

    /// `added`: resources of this response that were not held before.
    fn edit(&self, type_url: &str, resource: &Resource, added: usize) -> Result<Option<Edit>, Refused> {
        let refused = |reason: String| Refused { reason, edit: None, status: None };
        let Some(content) = &resource.resource else { return Err(refused("no content".into())) };
        if resource.name.is_empty() {
            return Err(refused("no name".into()));
        }
        let max = self.config.limits.resources_max;
        if self.delta.held(type_url) + added >= max && !self.delta.holds(type_url, &resource.name) {
            return Err(refused(format!("more than {max} resources; raise the limit")));
        }
        match type_url {
            ADDRESS => {
                let change = wire::read_address(&content.value).map_err(|error| refused(error.to_string()))?;
                let own = own_name(&change);
                if own != resource.name {
                    return Err(refused(format!("it is called {own} inside")));
                }
                Ok(Some(Edit::Address(change)))
            }
            AUTHORIZATION => match wire::read_policy(&resource.name, &content.value) {
                Ok(policy) => Ok(Some(Edit::Policy(PolicyKey::new(&resource.name), Arc::new(policy)))),
                Err(unreadable) => Err(Refused {
                    reason: unreadable.reason.to_string(),
                    edit: Some(Edit::RejectPolicy(PolicyKey::new(&resource.name), unreadable.reach)),
                    status: None,
                }),
            },
            // The sink's; or a type that we never asked for, which is acknowledged and forgotten.
            _ => Ok(None),
        }
    }

    /// The sink, if this type is one of its own.
    fn sink_of(&mut self, type_url: &str) -> Option<&mut Box<dyn Sink>> {
        let its_own = type_url != ADDRESS && type_url != AUTHORIZATION && self.delta.interest(type_url).is_some();
        if its_own { self.sink.as_mut() } else { None }
    }

    fn sink(&mut self, type_url: &str, resource: &Resource) -> Result<(), Refused> {
        let Some(sink) = self.sink_of(type_url) else { return Ok(()) };
        let content = resource.resource.as_ref().map(|content| &*content.value);
        sink.take(type_url, &resource.name, content).map_err(|status| Refused {
            reason: format!("{}: {}", status.reason, status.message),
            edit: None,
            status: Some(status),
        })
    }

    fn sink_removal(&mut self, type_url: &str, name: &str) {
        let Some(sink) = self.sink_of(type_url) else { return };
        if let Err(status) = sink.take(type_url, name, None) {
            tracing::warn!(target: "xds", %type_url, %name, reason = %status.reason, message = %status.message, "the end of a resource could not be taken");
        }
    }

    /// Settles the protocol, marks what is complete, and lets go those who waited: in this order, so that who is let go
    /// sees the applied state.
    fn settle(&mut self, response: &DeltaDiscoveryResponse, outcome: Outcome) -> DeltaDiscoveryRequest {
        if !outcome.rejected.is_empty() {
            self.observe.rejected(&response.type_url, outcome.rejected.len());
        }
        let was_current = self.delta.is_current();
        let settled = self.delta.settle(&response.type_url, &response.nonce, outcome);
        let is_current = self.delta.is_current();
        // The last type to be heard of may be one that is none of the sink's.
        if is_current && (!was_current || self.sink_of(&response.type_url).is_some())
            && let Some(sink) = &mut self.sink
        {
            sink.settled();
        }
        match response.type_url.as_str() {
            ADDRESS if settled.first_ack && !self.config.on_demand => self.world.apply([Edit::AddressesSynced]),
            AUTHORIZATION if settled.first_ack => self.world.apply([Edit::PoliciesSynced]),
            // Even if some could not be read: those refuse whom they may reach, the others can be decided by.
            AUTHORIZATION => self.world.apply([Edit::PoliciesKnown]),
            _ => {}
        }
        self.asks.answer(&settled.answered);
        let complete = if self.sink.is_some() { self.delta.is_heard() } else { self.delta.is_synced() };
        if complete {
            // Dropping the guard is what says "ready".
            self.block = None;
        }
        settled.reply
    }
}

struct Refused {
    reason: String,
    /// What a refusal does to the world all the same.
    edit: Option<Edit>,
    /// What the sink says of it.
    status: Option<Box<ResourceStatus>>,
}

/// The status of a resource that did not come as far as the sink.
fn unusable(type_url: &str, name: &str, reason: &str) -> ResourceStatus {
    ResourceStatus {
        type_url: type_url.to_owned(),
        name: name.to_owned(),
        state: ResourceState::Rejected as i32,
        reason: "Unusable".to_owned(),
        message: reason.to_owned(),
        ..ResourceStatus::default()
    }
}

fn removal(type_url: &str, name: &str) -> Option<Edit> {
    match type_url {
        ADDRESS => Some(Edit::Address(Change::Remove(name.into()))),
        AUTHORIZATION => Some(Edit::RemovePolicy(PolicyKey::new(name))),
        _ => None,
    }
}

/// The name under which the content will be kept, and can be removed.
fn own_name(change: &Change) -> String {
    match change {
        Change::Workload(workload) => workload.uid.to_string(),
        Change::Service(service) => service.key().to_string(),
        Change::Remove(name) => name.to_string(),
    }
}

/// The addresses under which this may have been asked for, because not every server says them.
fn own_aliases(edit: &Edit) -> Vec<Arc<str>> {
    match edit {
        Edit::Address(Change::Workload(workload)) => {
            workload.network_addresses().map(|address| address.to_string().into()).collect()
        }
        Edit::Address(Change::Service(service)) => service.vips.iter().map(|vip| vip.to_string().into()).collect(),
        _ => Vec::new(),
    }
}
