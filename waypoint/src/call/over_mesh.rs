//! Where a call goes: to a service as a route would send there, or to what a URL names. Outside of the mesh nobody is asked
//! who would be this machine itself, whatever a name resolves to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::Request;
use mesh_runtime::Watched;
use mesh_xds::messages::waypoint::{TlsClient, TlsMode};
use mesh_xds::world::World;

use super::carry::carry;
use super::{CallError, Caller, Limits, Reply, To, Version};
use crate::choose::{BackendKey, Failure, Outcome};
use crate::edit;
use crate::exchange::Exchange;
use crate::facts::{Arrival, Target};
use crate::reach::{Errand, Reach};
use crate::settings::Settings;
use crate::upstream::{Alpn, Endpoint, Origin, OriginTo};

/// Calls over the mesh, as this proxy. One for the process.
pub struct OverMesh {
    pub settings: Watched<Settings>,
    pub world: Watched<World>,
    pub reach: Arc<Reach>,
    pub exchange: Exchange,
}

impl Caller for OverMesh {
    fn call<'a>(&'a self, to: To<'a>, version: Version, request: Request<Bytes>, limits: Limits) -> BoxFuture<'a, Result<Reply, CallError>> {
        async move {
            match to {
                To::Backend(backend) => {
                    let key = edit::backend::key_of(backend).map_err(|why| CallError::Connect(why.to_string()))?;
                    self.to_service(&key, None, version, request, limits).await
                }
                To::Url { tls, host, port } => match self.service_of(host, port) {
                    Some(key) => self.to_service(&key, tls.then_some(host), version, request, limits).await,
                    None => self.outside(tls, host, port, version, request, limits).await,
                },
            }
        }
        .boxed()
    }
}

impl OverMesh {
    /// The service that has the host, if it has the port. As for any client, our own namespace's comes first.
    fn service_of(&self, host: &str, port: u16) -> Option<BackendKey> {
        let namespace = &self.reach.own().identity.namespace;
        self.world.with(|world| {
            let service = world.directory.service_named(host, Some(namespace), None)?;
            service.ports.contains_key(&port).then(|| BackendKey { host: service.key(), port, subset: "".into() })
        })
    }

    /// `tls`: what is asked there speaks TLS itself, under this name.
    async fn to_service(&self, key: &BackendKey, tls: Option<&str>, version: Version, request: Request<Bytes>, limits: Limits) -> Result<Reply, CallError> {
        let settings = self.settings.load();
        let (backend, arrival) = (settings.backend(key), self.arrival(key));
        let errand = Errand {
            backend: &backend,
            destination: &self.reach.backends.destination(key),
            arrival: &arrival,
            host: Some(&key.host.hostname),
            hash: None,
            wanted: None,
            from_client: false,
            connect_timeout: settings.mesh().connect_timeout.min(limits.timeout),
            alpn: alpn(version),
        };
        let mut reached = self.reach.next(&errand, &[], Instant::now()).map_err(|why| CallError::Connect(format!("{}:{}: {why}", key.host.hostname, key.port)))?;
        let to = match tls {
            Some(name) => secured(reached.to.clone(), name, version),
            None => reached.to.clone(),
        };
        let began = Instant::now();
        let answer = carry(&self.exchange, &to, version, request, limits).await;
        reached.active.saw(outcome(&answer, began.elapsed()), Instant::now());
        answer
    }

    /// The way there is whoever's connects: what may not be dialled is refused there (spec/reliability.md V-28).
    async fn outside(&self, tls: bool, host: &str, port: u16, version: Version, request: Request<Bytes>, limits: Limits) -> Result<Reply, CallError> {
        let to = match host.parse::<IpAddr>() {
            Ok(ip) => Endpoint::of_address(SocketAddr::new(ip, port)),
            Err(_) => Endpoint::of_name(host.into(), port),
        };
        let to = Endpoint { connect_timeout: limits.timeout, ..to };
        let to = if tls { secured(to, host, version) } else { to };
        carry(&self.exchange, &to, version, request, limits).await
    }

    /// Nobody's request: it comes from here.
    fn arrival(&self, key: &BackendKey) -> Arrival {
        let own = self.reach.own();
        let address = SocketAddr::new(own.addresses.first().copied().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)), 0);
        let target = Target::Service { key: key.host.clone(), port: key.port };
        Arrival { identity: own.identity.clone(), peer: address, source: address, source_workload: None, dialled: None, target, hops: 0 }
    }
}

fn outcome(answer: &Result<Reply, CallError>, took: Duration) -> Outcome {
    match answer {
        Ok(reply) => {
            let grpc = |headers: &http::HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse().ok();
            let grpc = reply.trailers.as_ref().and_then(grpc).or_else(|| grpc(&reply.headers));
            Outcome::Answered { status: reply.status.as_u16(), grpc, took }
        }
        Err(CallError::Timeout) => Outcome::Failed(Failure::AttemptTimeout),
        Err(CallError::Connect(_)) => Outcome::Failed(Failure::Connect),
        // It answered, and with more than we take.
        Err(CallError::TooLarge(_)) => Outcome::Answered { status: 200, grpc: None, took },
        Err(CallError::Broken(_)) => Outcome::Failed(Failure::Reset),
    }
}

fn alpn(version: Version) -> Alpn {
    match version {
        Version::Http1 => Alpn::Http1,
        Version::Http2 => Alpn::Http2,
    }
}

/// With TLS, for which the far end must prove the name to the roots of the system.
fn secured(to: Endpoint, name: &str, version: Version) -> Endpoint {
    let wire = TlsClient { mode: TlsMode::Simple as i32, ..TlsClient::default() };
    Endpoint { tls: Some(OriginTo { origin: Origin::compile(&wire), host: name.into(), alpn: alpn(version) }), ..to }
}
