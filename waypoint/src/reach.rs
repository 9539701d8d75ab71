//! From a backend to an endpoint that can be connected to: what is known now, the choice, and the way there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use mesh_model::address::NetworkAddress;
use mesh_model::directory::Directory;
use mesh_model::workload::{TunnelProtocol, Workload};
use mesh_runtime::Watched;
use mesh_xds::world::World;

use crate::choose::{self, Active, Backend, Backends, Destination, NoEndpoint, Question};
use crate::facts::Arrival;
use crate::upstream::{Alpn, ConnectError, Endpoint, Going, Own};

/// What every choice is made from. One for the process.
#[derive(Debug)]
pub struct Reach {
    world: Watched<World>,
    own: Own,
    /// What was found of ourselves, and in which world.
    found: ArcSwapOption<(Arc<World>, Arc<Workload>)>,
    pub backends: Backends,
}

/// Where a request or a stream is to go, for all of its attempts.
#[derive(Clone, Debug)]
pub struct Errand<'a> {
    pub backend: &'a Arc<Backend>,
    pub destination: &'a Arc<Destination>,
    pub arrival: &'a Arrival,
    /// The host of a request, the server name of a stream.
    pub host: Option<&'a str>,
    /// `Affinity::hash`.
    pub hash: Option<u64>,
    /// The endpoint of a session.
    pub wanted: Option<&'a str>,
    /// `MeshSettings.locality_of_client`.
    pub from_client: bool,
    /// Where the backend's policy does not say one.
    pub connect_timeout: Duration,
    pub alpn: Alpn,
}

/// An endpoint that was chosen for an attempt, which counts there until `active` goes.
#[derive(Debug)]
pub struct Reached {
    pub chosen: choose::Endpoint,
    pub to: Endpoint,
    pub last_resort: bool,
    pub active: Active,
}

/// Why there is nowhere to go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreached {
    #[error(transparent)]
    None(NoEndpoint),
    /// An endpoint was chosen to which there is no way.
    #[error("{why}")]
    NoWay { endpoint: Arc<str>, why: ConnectError },
}

impl Reach {
    pub fn new(world: Watched<World>, own: Own, now: Instant) -> Reach {
        Reach { world, own, found: ArcSwapOption::empty(), backends: Backends::new(now) }
    }

    pub fn own(&self) -> &Own {
        &self.own
    }

    /// # Errors
    /// Nobody can be asked, or there is no way to the one that would be.
    pub fn next(&self, errand: &Errand<'_>, tried: &[Arc<str>], now: Instant) -> Result<Reached, Unreached> {
        self.world.with_shared(|world| {
            let directory = &world.directory;
            let Errand { backend, destination, arrival, host, hash, wanted, from_client, .. } = *errand;
            let proxy = self.myself(world);
            let question = Question { directory, backend, proxy: &proxy, from_client, arrival, host, hash, wanted, tried, now };
            let picked = choose::pick(&question, destination, &mut rand::rng()).map_err(Unreached::None)?;
            let to = self.way(directory, errand, &picked.endpoint);
            let to = to.map_err(|why| Unreached::NoWay { endpoint: picked.endpoint.id.clone(), why })?;
            Ok(Reached { chosen: picked.endpoint, to, last_resort: picked.last_resort, active: picked.active })
        })
    }

    /// Our own workload, looked for once in each world.
    fn myself(&self, world: &Arc<World>) -> Arc<Workload> {
        if let Some(found) = &*self.found.load()
            && Arc::ptr_eq(&found.0, world)
        {
            return found.1.clone();
        }
        let found = own_workload(&world.directory, &self.own);
        self.found.store(Some(Arc::new((world.clone(), found.clone()))));
        found
    }

    fn way(&self, directory: &Directory, errand: &Errand<'_>, chosen: &choose::Endpoint) -> Result<Endpoint, ConnectError> {
        let going = Going { own: &self.own, directory, arrival: errand.arrival, connect_timeout: errand.connect_timeout };
        Endpoint::of_picked(&going, chosen, errand.backend, errand.alpn)
    }
}

/// Our own workload, as the directory has it.
pub fn own_workload(directory: &Directory, own: &Own) -> Arc<Workload> {
    let at = |ip: &std::net::IpAddr| NetworkAddress { network: own.network.clone(), ip: *ip };
    let mut here = own.addresses.iter().flat_map(|ip| directory.workloads_at(&at(ip)));
    here.find(|workload| workload.identity() == own.identity).cloned().unwrap_or_else(|| {
        let unknown = Workload::named("", &own.identity.namespace, "");
        Arc::new(Workload { network: own.network.clone(), tunnel_protocol: TunnelProtocol::Hbone, ..unknown })
    })
}
