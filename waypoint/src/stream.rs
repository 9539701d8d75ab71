//! A stream of bytes, top to bottom: which backend, may it, which endpoint, and the relay until both sides are done
//! (spec/waypoint.md 1.8). A refusal is a reset, never an end.

pub mod guard;
mod idle;

use std::sync::Arc;
use std::time::Duration;

use mesh_net::duplex::Duplex;
use mesh_net::relay::{End, Relayed, Side, relay};

use crate::account::Account;
use crate::attempts::reason_of;
use crate::choose::{Active, Backend, BackendKey, Failure, Held, Outcome, affinity_of_stream};
use crate::detect::Arrived;
use crate::detect::hello::ClientHello;
use crate::edit::choose_backend;
use crate::error::Reason;
use crate::exchange::Fault;
use crate::facts::{Arrival, Target};
use crate::permits::{Law, Permit, Under};
use crate::proxy::{Proxy, now};
use crate::reach::{Errand, Reached, Unreached};
use crate::request::Judged;
use crate::settings::{Policies, ServiceView, Settings};
use crate::upstream::{Alpn, BoxIo, ConnectError, Endpoint, Kind, Own};

use idle::Watched;

/// How long a stream may carry nothing where its policy says nothing (spec/waypoint.md 1.8).
const IDLE_MAX: Duration = Duration::from_secs(3600);
/// Endpoints that one stream may try: nothing of the client's has been sent to any.
const ATTEMPTS: usize = 3;

pub async fn stream(proxy: &Arc<Proxy>, arrival: Arc<Arrival>, mut client: Arrived, hello: Option<&ClientHello>) {
    let judged = match &arrival.target {
        Target::Service { key, port } => proxy.http.judged(key, *port),
        Target::Workload { .. } => Judged { settings: proxy.settings.load(), view: None, parted: false },
    };
    judged.count(&proxy.http, "stream");
    let settings = judged.settings;
    let server_name = hello.and_then(|hello| hello.server_name.as_deref());
    let onward = onward(&proxy.own, &settings, &arrival, hello);
    let mut account = proxy.books.stream(&onward.policies().telemetry, &arrival, server_name);
    let broken = carry(proxy, &settings, &arrival, &mut client, server_name, onward, &mut account).await.err();
    if let Some(reason) = broken {
        client.reset();
        account.because(&reason);
    }
    account.close();
}

async fn carry(
    proxy: &Proxy,
    settings: &Settings,
    arrival: &Arrival,
    client: &mut Arrived,
    server_name: Option<&str>,
    onward: Onward,
    account: &mut Account,
) -> Result<(), Reason> {
    // may it? From here on it is judged again whenever its policies change
    let judged_by = Law { policies: onward.policies().clone(), mesh: settings.mesh().clone() };
    let mut permit = proxy.http.permits.enter(Under::of(&arrival.target, None), judged_by);
    let mut heard = Vec::new();
    let refused = |details: String| Reason::Rbac { details: details.into() };
    let notes = guard::pass(settings, &onward.policies().authz, arrival, server_name, &*proxy.caller, &mut heard).await;
    account.noted(&notes.map_err(refused)?);

    // which endpoint, and the connection
    let mut opened = match &onward {
        Onward::Refused(_, reason) => return Err(reason.clone()),
        Onward::Straight(_, endpoint) => Opened { io: open(proxy, endpoint).await?, _active: None, _held: None, limits: Limits::default() },
        Onward::Backend(_, backend) => reach(proxy, settings, arrival, server_name, backend, account).await?,
    };
    account.opened();

    // then relay until either side is done, nothing has moved for long, or it has lasted long enough
    let flows = account.meter();
    let watched = Watched::new(&*flows);
    let over = tokio::select! {
        biased;
        () = proxy.drain.forced() => "drained",
        () = watched.idle(opened.limits.idle) => "idle_timeout",
        () = lifetime(opened.limits.lifetime) => "max_duration",
        details = lost(proxy, arrival, server_name, &mut permit, &mut heard) => {
            opened.io.reset();
            return Err(refused(details));
        }
        relayed = relay(client, &mut opened.io, &watched) => return ended(relayed),
    };
    client.reset();
    opened.io.reset();
    account.termination(over);
    Ok(())
}

/// Resolves when policy does not allow the stream any more.
async fn lost(proxy: &Proxy, arrival: &Arrival, server_name: Option<&str>, permit: &mut Permit, heard: &mut Vec<Arc<str>>) -> String {
    loop {
        let law = permit.changed().await;
        let settings = proxy.settings.load();
        if let Err(details) = guard::pass(&settings, &law.policies.authz, arrival, server_name, &*proxy.caller, heard).await {
            return details;
        }
    }
}

/// Where a stream goes, and under whose policies.
enum Onward {
    Backend(Arc<Policies>, Arc<Backend>),
    /// To the pod that was dialled (spec/waypoint.md 1.2).
    Straight(Arc<Policies>, Box<Result<Endpoint, ConnectError>>),
    Refused(Arc<Policies>, Reason),
}

impl Onward {
    fn policies(&self) -> &Arc<Policies> {
        match self {
            Onward::Backend(policies, _) | Onward::Straight(policies, _) | Onward::Refused(policies, _) => policies,
        }
    }
}

/// Route by server name, else by port, else the service itself (spec/waypoint.md 1.8).
fn onward(own: &Own, settings: &Settings, arrival: &Arrival, hello: Option<&ClientHello>) -> Onward {
    let (key, port) = match &arrival.target {
        Target::Service { key, port } => (key, *port),
        Target::Workload { workload, port } => {
            let endpoint = Endpoint::dialled(own, arrival, workload, *port);
            return Onward::Straight(settings.gateway().clone(), Box::new(endpoint));
        }
    };
    let Some(view) = settings.service(key, port) else {
        return Onward::Refused(settings.gateway().clone(), Reason::RouteNotFound);
    };
    let policies = view.policies(None).clone();
    match routed(view, arrival, hello) {
        Ok(None) => Onward::Backend(policies, view.backend.clone()),
        Ok(Some(mut backend)) => {
            if backend.port == 0 {
                backend.port = port;
            }
            Onward::Backend(policies, settings.backend(&backend))
        }
        Err(reason) => Onward::Refused(policies, reason),
    }
}

/// The backend of a route; `None` where the service has none for streams like this.
fn routed(view: &ServiceView, arrival: &Arrival, hello: Option<&ClientHello>) -> Result<Option<BackendKey>, Reason> {
    let namespace = &*arrival.identity.namespace;
    let rule = match (view.tls_routes(namespace), hello) {
        (Some(table), Some(hello)) => Some(table.find(hello.server_name.as_deref()).ok_or(Reason::RouteNotFound)?),
        _ => view.tcp_route(namespace),
    };
    let Some(rule) = rule else { return Ok(None) };
    match choose_backend(&rule.backends, &mut rand::rng()) {
        Ok(backend) => Ok(Some(backend.key.clone())),
        Err(answer) => Err(Reason::Invalid { status: answer.status, reason: rule.name.clone() }),
    }
}

/// A connection, and what is counted while it lasts.
struct Opened {
    io: BoxIo,
    _active: Option<Active>,
    _held: Option<Held>,
    limits: Limits,
}

#[derive(Clone, Copy)]
struct Limits {
    idle: Duration,
    lifetime: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { idle: IDLE_MAX, lifetime: None }
    }
}

async fn open(proxy: &Proxy, endpoint: &Result<Endpoint, ConnectError>) -> Result<BoxIo, Reason> {
    let endpoint = endpoint.as_ref().map_err(|why| failed(why.clone()))?;
    proxy.connector.open(endpoint).await.map_err(failed)
}

fn failed(why: ConnectError) -> Reason {
    Reason::Fault(Fault::Connect(why))
}

/// One endpoint after the other, until one takes the stream.
async fn reach(
    proxy: &Proxy,
    settings: &Settings,
    arrival: &Arrival,
    server_name: Option<&str>,
    backend: &Arc<Backend>,
    account: &mut Account,
) -> Result<Opened, Reason> {
    let destination = proxy.reach.backends.destination(&backend.key);
    let held = destination.connection(&backend.policy).map_err(|_| Reason::Overflow)?;
    let errand = Errand {
        backend,
        destination: &destination,
        arrival,
        host: server_name,
        hash: affinity_of_stream(&backend.policy, arrival).hash,
        wanted: None,
        from_client: settings.mesh().wire.locality_of_client,
        connect_timeout: settings.mesh().connect_timeout,
        alpn: Alpn::None,
    };
    account.backend(&backend.key);
    let pool = backend.policy.pool();
    let limits = Limits { idle: pool.tcp_idle_timeout.unwrap_or(IDLE_MAX), lifetime: pool.connection_lifetime };
    let mut tried = Vec::new();
    loop {
        let why = match proxy.reach.next(&errand, &tried, now()) {
            Ok(Reached { chosen, to, mut active, .. }) => {
                account.attempt(chosen.workload(), to.address());
                match proxy.connector.open(&to).await {
                    Ok(io) => {
                        active.saw(Outcome::Answered { status: 200, grpc: None, took: Duration::ZERO }, now());
                        return Ok(Opened { io, _active: Some(active), _held: Some(held), limits });
                    }
                    Err(why) => {
                        active.saw(Outcome::Failed(Failure::Connect), now());
                        tried.push(chosen.id);
                        why
                    }
                }
            }
            Err(Unreached::None(none)) => return Err(reason_of(none)),
            Err(Unreached::NoWay { endpoint, why }) => {
                tried.push(endpoint);
                why
            }
        };
        if tried.len() >= ATTEMPTS || why.kind == Kind::Loop {
            return Err(failed(why));
        }
    }
}

async fn lifetime(max: Option<Duration>) {
    match max {
        Some(max) => tokio::time::sleep(max).await,
        None => std::future::pending().await,
    }
}

fn ended(relayed: Relayed) -> Result<(), Reason> {
    match relayed.end {
        End::Finished => Ok(()),
        End::Reset(Side::First) | End::Failed(Side::First, _) | End::HalfClosedTooLong(Side::First) => Err(Reason::ClientGone),
        End::Reset(Side::Second) => Err(Reason::UpstreamBroke("the upstream reset the connection".into())),
        End::Failed(Side::Second, why) => Err(Reason::UpstreamBroke(why.to_string().into())),
        End::HalfClosedTooLong(Side::Second) => Err(Reason::UpstreamBroke("the upstream did not end its half".into())),
    }
}
