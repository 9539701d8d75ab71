//! Fetching what a decision lacks: addresses and names of the control plane, hostnames of the name servers. Bounded, and
//! never inside a decision.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use mesh_dns::{Names, Resolv, Sources, Unresolved};
use mesh_model::workload::Workload;
use mesh_net::linux::HostNet;
use mesh_net::sockopt::Options;
use mesh_telemetry::labels::{End, said, source};
use mesh_telemetry::{Recorder, families};
use mesh_xds::client::Demand;
use tokio::time::timeout;

use crate::error::{Closed, Failure, Fault, Side, Stage};
use crate::resolve::{Known, Need};

/// What a fetch returns: `known` has the answer, or the connection ends.
pub type Fetching<'a> = Pin<Box<dyn Future<Output = Result<(), Closed>> + Send + 'a>>;

/// Who can fetch. A trait object, because a node without on-demand discovery and the simulation fetch differently and
/// nothing of a connection's way depends on how.
pub trait Fetch: Send + Sync {
    fn fetch<'a>(&'a self, need: Need, source: &'a Workload, known: &'a mut Known) -> Fetching<'a>;
}

/// How long a connection waits for the control plane to say who has an address: then it counts as unknown.
const DEMAND_WAIT: Duration = Duration::from_secs(1);

/// Fetches for a node.
pub struct Fetcher {
    demand: Option<Demand>,
    names: Names,
    recorder: Recorder,
}

impl Fetcher {
    pub fn new(demand: Option<Demand>, servers: Vec<SocketAddr>, recorder: &Recorder) -> Fetcher {
        let names = Names::new(HostNet::new(Options::default()), Sources::Servers(Resolv { servers, search: Vec::new() }));
        Fetcher { demand, names, recorder: recorder.clone() }
    }

    async fn ask_control_plane(&self, name: &str) {
        if let Some(demand) = &self.demand {
            // Without an answer the address counts as unknown, as it does without a control plane.
            let _ = timeout(DEMAND_WAIT, demand.fetch(name)).await;
        }
    }
}

impl Fetch for Fetcher {
    fn fetch<'a>(&'a self, need: Need, asker: &'a Workload, known: &'a mut Known) -> Fetching<'a> {
        Box::pin(async move {
            match &need {
                Need::Address(address) => self.ask_control_plane(&address.to_string()).await,
                Need::Hostname(name) => self.ask_control_plane(&name.to_string()).await,
                Need::Dns(hostname) => {
                    let mut labels = source(End::Known(asker), Some(&asker.identity()));
                    labels.push(said("hostname", hostname));
                    self.recorder.counter(&families::ON_DEMAND_DNS, &labels).increment(1);
                    let fault = |why: Unresolved| Failure { stage: Stage::Resolve, side: Side::Ours, fault: Fault::Dns(why.to_string()) };
                    let found = match self.names.resolve(hostname).await {
                        Ok(found) => found.to_vec(),
                        Err(Unresolved::Absent(_)) => Vec::new(),
                        Err(why) => return Err(fault(why).into()),
                    };
                    known.names.insert(hostname.clone(), found);
                    return Ok(());
                }
            }
            known.asked.insert(need);
            Ok(())
        })
    }
}
