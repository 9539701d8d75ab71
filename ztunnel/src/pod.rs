//! One enrolled pod: its network, its identity, what its connections share, and its end.
//!
//! Starting a pod binds its ports before anything else, so that whoever asked for it can be told whether it works.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use mesh_hbone::Limits;
use mesh_identity::store::Credentials;
use mesh_identity::tls::Tls;
use mesh_model::directory::OwnWorkload;
use mesh_model::identity::SpiffeId;
use mesh_model::workload::Workload;
use mesh_net::net::Net;
use mesh_runtime::handshakes::Handshakes;
use mesh_runtime::{Drain, Drained, Watched};
use mesh_xds::world::World;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use crate::account::Accounts;
use crate::admit::Host;
use crate::authorize::Permits;
use crate::capture::{self, Ports};
use crate::chance::Chance;
use crate::enroll::{PodInfo, PodUid, Stop};
use crate::error::Refusal;
use crate::fetch::Fetch;
use crate::freshness::Freshness;
use crate::live::Live;
use crate::tunnel::Tunnels;

/// What all pods of a node share.
pub struct Mesh {
    pub world: Watched<World>,
    pub credentials: Credentials,
    pub tls: Tls,
    pub accounts: Accounts,
    pub fetch: Arc<dyn Fetch>,
    pub freshness: Freshness,
    pub chance: Chance,
    pub settings: Settings,
}

/// The settings that a pod's connections go by; each comes from a knob.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `NODE_NAME`; `None`: pods of any node are ours.
    pub node: Option<Arc<str>>,
    /// `NETWORK`.
    pub network: Arc<str>,
    /// `IPV6_ENABLED`.
    pub ipv6: bool,
    /// The ports that the mesh itself listens on in a pod; a connection to them is a loop.
    pub own_ports: Arc<[u16]>,
    /// `MESH_RANGES`: addresses of pods and services. Whoever is unknown there is not passed through in the clear.
    pub mesh_ranges: Arc<[IpNet]>,
    /// How long a connection waits for such an address to become known: a pod's address is used before its description
    /// has reached every node.
    pub unknown_wait: Duration,
    /// `LOCALHOST_APP_TUNNEL`.
    pub tunnel_over_loopback: bool,
    /// `ENABLE_RESPONSE_BAGGAGE`: tell peers about the workload, and read what they tell.
    pub baggage: bool,
    /// `XDS_ON_DEMAND`: the directory holds what was asked for.
    pub on_demand: bool,
    /// `AUTHZ_POLICY_INFO_LOGGING`.
    pub policy_in_log: bool,
    /// `UNSTABLE_ENABLE_SOCKS5`: a SOCKS5 port on each pod's loopback.
    pub socks5: bool,
    /// Windows, streams and times of tunnels.
    pub hbone: Limits,
    /// `TUNNEL_DEAD_AFTER`: a node that answers nothing for so long is gone, with the tunnels to it.
    pub dead_after: Duration,
    /// Connections that one pod may have open at one time, in both directions together.
    pub connections_per_pod: usize,
    /// How long a connection waits for the control plane to describe the pod (5 s, spec/dataplane.md 5.1).
    pub own_workload_wait: Duration,
    /// `OLDER_CONNECTION_GRACE`.
    pub older_grace: Duration,
    /// How long connections of a pod that leaves the mesh alive may go on.
    pub drain: Duration,
}

/// Whom the listeners of a pod serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serves {
    /// The pod's application: its identity is the workload's, and any port may be asked for.
    Workload,
    /// The daemon itself: as whom it speaks, and the one port of its own that may be asked for.
    Daemon { identity: SpiffeId, port: u16 },
}

/// One enrolled pod.
pub struct Pod<N: Net> {
    pub uid: PodUid,
    pub info: PodInfo,
    pub serves: Serves,
    pub own: OwnWorkload,
    pub net: N,
    pub mesh: Arc<Mesh>,
    pub tunnels: Tunnels,
    pub permits: Permits,
    pub live: Live,
    pub handshakes: Handshakes,
    /// A place per connection.
    pub places: Arc<Semaphore>,
    pub drain: Drain,
}

impl<N: Net> Pod<N> {
    /// Binds the pod's ports and serves them until [`Pod::stop`].
    ///
    /// # Errors
    /// When a port cannot be bound.
    pub async fn start(uid: PodUid, info: PodInfo, net: N, mesh: Arc<Mesh>, drain: Drain) -> io::Result<Arc<Pod<N>>> {
        let ports = Ports::bind(&net, &mesh.settings).await?;
        let pod = Pod::watched(uid, info, Serves::Workload, net, mesh, drain);
        capture::serve(&pod, ports);
        Ok(pod)
    }

    /// The daemon's own listener: tunnels to one port of its own, as itself.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub async fn start_own(info: PodInfo, serves: Serves, net: N, mesh: Arc<Mesh>, drain: Drain) -> io::Result<Arc<Pod<N>>> {
        let listener = capture::listen_for_tunnels(&net, &mesh.settings).await?;
        let pod = Pod::watched(PodUid("own".into()), info, serves, net, mesh, drain);
        capture::serve_tunnels(&pod, listener);
        Ok(pod)
    }

    /// A pod whose connections are judged again when policy changes.
    fn watched(uid: PodUid, info: PodInfo, serves: Serves, net: N, mesh: Arc<Mesh>, drain: Drain) -> Arc<Pod<N>> {
        let own = OwnWorkload {
            // The daemon's own workload is named in full, and may be described without a node.
            node: mesh.settings.node.clone().filter(|_| serves == Serves::Workload),
            namespace: info.namespace.clone(),
            service_account: info.service_account.clone(),
            name: info.name.clone(),
        };
        let pod = Arc::new(Pod {
            tunnels: Tunnels::new(&net, &mesh),
            permits: Permits::logging(mesh.settings.policy_in_log),
            live: Live::default(),
            handshakes: Handshakes::default(),
            places: Arc::new(Semaphore::new(mesh.settings.connections_per_pod)),
            uid,
            info,
            serves,
            own,
            net,
            mesh,
            drain,
        });
        let (watcher, forced) = (pod.clone(), pod.drain.forced_token());
        tokio::spawn(async move {
            let watch = watcher.permits.clone().watch(watcher.mesh.world.clone(), watcher.own.clone());
            tokio::select! { () = watch => {}, () = forced.cancelled() => {} }
        });
        pod
    }

    /// As whom the pod speaks.
    ///
    /// # Errors
    /// [`Refusal::UnknownOwnWorkload`].
    pub async fn identity(&self) -> Result<SpiffeId, Refusal> {
        match &self.serves {
            Serves::Workload => Ok(self.me().await?.identity()),
            Serves::Daemon { identity, .. } => Ok(identity.clone()),
        }
    }

    /// The pod's own workload, as the control plane describes it; waits for that a while.
    ///
    /// # Errors
    /// [`Refusal::UnknownOwnWorkload`].
    pub async fn me(&self) -> Result<Arc<Workload>, Refusal> {
        let find = |world: &World| world.directory.own_workload(&self.own).cloned();
        if let Some(me) = self.mesh.world.with(find) {
            return Ok(me);
        }
        let deadline = Instant::now() + self.mesh.settings.own_workload_wait;
        let mut world = self.mesh.world.clone();
        loop {
            if let Some(me) = find(&world.see()) {
                return Ok(me);
            }
            tokio::select! {
                biased;
                () = world.changed() => {}
                () = sleep_until(deadline) => {
                    let pod = format!("{}/{}", self.info.namespace, self.info.name);
                    return Err(Refusal::UnknownOwnWorkload { pod: pod.into() });
                }
            }
        }
    }

    /// What `admit` needs to know of this pod.
    pub fn host<'a>(&'a self, me: &'a Workload) -> Host<'a> {
        let settings = &self.mesh.settings;
        Host {
            me,
            network: &settings.network,
            own_ports: &settings.own_ports,
            tunnel_over_loopback: settings.tunnel_over_loopback,
            only_port: match self.serves {
                Serves::Workload => None,
                Serves::Daemon { port, .. } => Some(port),
            },
        }
    }

    /// Ends the pod: nothing new is taken; what is open is cut at once, or goes on for the drain time. Tunnels can be opened
    /// meanwhile: a connection that was accepted a moment ago has none yet.
    pub async fn stop(&self, how: Stop) -> Drained {
        let deadline = match how {
            Stop::Immediate => Duration::ZERO,
            Stop::Drain => self.mesh.settings.drain,
        };
        let drained = self.drain.shutdown(deadline).await;
        self.tunnels.force();
        drained
    }
}

/// Where listeners bind: every address of the pod, IPv4 through IPv6 where there is IPv6.
pub fn any(ipv6: bool) -> IpAddr {
    if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}
