//! Fetching what a decision lacks: addresses and names of the control plane, hostnames of the name servers. Bounded, and
//! never inside a decision.

use std::future::Future;
use std::pin::Pin;

use mesh_model::workload::Workload;

use crate::error::Closed;
use crate::resolve::{Known, Need};

/// What a fetch returns: `known` has the answer, or the connection ends.
pub type Fetching<'a> = Pin<Box<dyn Future<Output = Result<(), Closed>> + Send + 'a>>;

/// Who can fetch. A trait object, because a node without on-demand discovery and the simulation fetch differently and
/// nothing of a connection's way depends on how.
pub trait Fetch: Send + Sync {
    fn fetch<'a>(&'a self, need: Need, source: &'a Workload, known: &'a mut Known) -> Fetching<'a>;
}
