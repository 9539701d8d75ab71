//! Fetching what a decision lacks: addresses and names of the control plane, hostnames of the name servers. Bounded, and
//! never inside a decision.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use mesh_model::workload::Workload;
use mesh_net::linux::HostNet;
use mesh_net::sockopt::Options;
use mesh_telemetry::labels::{End, said, source};
use mesh_telemetry::{Recorder, families};
use mesh_xds::client::Demand;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::dns::forward::Upstream;
use crate::dns::message::Transport;
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
/// Names kept, as the field keeps them (spec/dataplane.md 5.4).
const NAMES_MAX: usize = 4_096;
/// How long an answer is used: servers behind names of this kind move, and their own TTLs are often as short.
const NAME_LIFE: Duration = Duration::from_secs(30);

/// Fetches for a node.
pub struct Fetcher {
    demand: Option<Demand>,
    upstream: Upstream,
    net: HostNet,
    names: Mutex<HashMap<Arc<str>, Answered>>,
    recorder: Recorder,
}

/// Until when an answer is used, and what it was.
type Answered = (Instant, Vec<IpAddr>);

impl Fetcher {
    pub fn new(demand: Option<Demand>, servers: Vec<SocketAddr>, recorder: &Recorder) -> Fetcher {
        let net = HostNet::new(Options::default());
        Fetcher { demand, upstream: Upstream::new(servers), net, names: Mutex::default(), recorder: recorder.clone() }
    }

    async fn ask_control_plane(&self, name: &str) {
        if let Some(demand) = &self.demand {
            // Without an answer the address counts as unknown, as it does without a control plane.
            let _ = timeout(DEMAND_WAIT, demand.fetch(name)).await;
        }
    }

    async fn addresses(&self, hostname: &Arc<str>) -> Result<Vec<IpAddr>, String> {
        let now = Instant::now();
        if let Some((until, known)) = self.names.lock().get(hostname)
            && *until > now
        {
            return Ok(known.clone());
        }
        let (v4, v6) = tokio::join!(self.look_up(hostname, RecordType::A), self.look_up(hostname, RecordType::AAAA));
        let addresses = match (v4, v6) {
            (Ok(v4), Ok(v6)) => [v4, v6].concat(),
            (Ok(one), Err(_)) | (Err(_), Ok(one)) => one,
            (Err(why), Err(_)) => return Err(format!("{hostname}: {why}")),
        };
        let mut names = self.names.lock();
        if names.len() >= NAMES_MAX {
            names.retain(|_, (until, _)| *until > now);
        }
        if names.len() < NAMES_MAX {
            names.insert(hostname.clone(), (now + NAME_LIFE, addresses.clone()));
        }
        Ok(addresses)
    }

    async fn look_up(&self, hostname: &str, kind: RecordType) -> Result<Vec<IpAddr>, String> {
        let mut name = Name::from_ascii(hostname).map_err(|why| why.to_string())?;
        name.set_fqdn(true);
        let number = rand::random();
        let mut message = Message::new(number, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name, kind));
        let question = message.to_vec().map_err(|why| why.to_string())?;
        let reply = self.upstream.ask(&self.net, &question, number, Transport::Udp).await.map_err(|why| why.to_string())?;
        let address = |data: &RData| match data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        };
        Ok(reply.message.answers.iter().filter_map(|record| address(&record.data)).collect())
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
                    let found = self.addresses(hostname).await;
                    let fault = |why| Failure { stage: Stage::Resolve, side: Side::Ours, fault: Fault::Dns(why) };
                    known.names.insert(hostname.clone(), found.map_err(fault)?);
                    return Ok(());
                }
            }
            known.asked.insert(need);
            Ok(())
        })
    }
}
