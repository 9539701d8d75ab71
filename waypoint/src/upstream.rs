//! The other side: how a connection to an endpoint is opened. TCP, or a tunnel to the pod's node with our own certificate
//! and the exact identity that the directory names; inside of either, TLS of the application where policy says so
//! (spec/waypoint.md 1.4, 1.9).
//!
//! Two levels of reuse: tunnel connections are kept here, in a pool; what is spoken inside of them is kept by whoever
//! speaks it (`Endpoint` says what may be shared). Nothing falls back: what is to be encrypted and cannot be fails.

mod endpoint;
pub mod eyeballs;
mod forward;
pub mod guard;
pub mod hops;
mod io;
mod origin;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::StatusCode;
use mesh_dns::{Names, Sources};
use mesh_hbone::{ConnectRequest, Limits, OpenError, Pool};
use mesh_identity::known::{Known, UntilRevoked};
use mesh_identity::store::Credentials;
use mesh_identity::tls::{Tls, TlsFailure};
use mesh_model::address::NetworkAddress;
use mesh_model::directory::Directory;
use mesh_model::identity::SpiffeId;
use mesh_model::workload::Uid;
use mesh_net::net::{Net, Source};
use mesh_net::readahead::ReadAhead;
use rand::seq::SliceRandom;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

pub use endpoint::{Alpn, Endpoint, Going, HBONE_PORT, OriginTo, Own, To, Way};
pub use forward::Forward;
pub use io::{BoxIo, Io};
pub use origin::Origin;

/// Opens connections to endpoints. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    shared: Arc<Shared>,
}

struct Shared {
    own: Own,
    dial: Dial,
    pool: Pool<Key>,
    credentials: Credentials,
    names: Names,
}

type Dial = Box<dyn Fn(SocketAddr) -> BoxFuture<'static, std::io::Result<BoxIo>> + Send + Sync>;

/// What may share a tunnel connection. The uid is part of it: a pod that takes over an address gets connections of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    uid: Arc<str>,
    door: SocketAddr,
    expect: SpiffeId,
}

/// Why there is no connection. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConnectError {
    pub kind: Kind,
    pub message: Arc<str>,
}

/// What kind of failure it was: each has its response flag and its place among the causes of retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Timeout,
    /// The far end said no: a reset, an answer to CONNECT other than 200.
    Refused,
    /// TLS did not come about, or the application's certificate is not good.
    Tls,
    /// Somebody else is there than the directory says, or we have no certificate of our own.
    Identity,
    /// It leads back to where it came from.
    Loop,
    /// A name that does not resolve.
    Name,
    /// There is no way, or something else broke.
    Other,
}

impl ConnectError {
    pub fn new(kind: Kind, message: impl Into<Arc<str>>) -> ConnectError {
        ConnectError { kind, message: message.into() }
    }
}

/// A machine whose kernel answers nothing for so long is gone, with the tunnels to it (as `TUNNEL_DEAD_AFTER` of ztunnel).
const DEAD_AFTER: Duration = Duration::from_secs(4);

impl Connector {
    /// `sources`: who knows names outside of the mesh.
    pub fn new<N: Net>(own: Own, net: N, sources: Sources, tls: Tls, credentials: Credentials, limits: Limits) -> Connector {
        let (between, identity, held) = (net.between_nodes(DEAD_AFTER), own.identity.clone(), credentials.clone());
        let pool = Pool::new(limits, move |key: Key| {
            let (net, tls, held, identity) = (between.clone(), tls.clone(), held.clone(), identity.clone());
            async move {
                let credential = held.get(&identity).await.map_err(std::io::Error::other)?;
                let stream = net.dial(key.door, Source::Any).await?;
                let expect = std::slice::from_ref(&key.expect);
                let secured = tls.connect(ReadAhead::new(stream), &credential, expect).await.map_err(std::io::Error::other)?;
                Ok(Known { stream: secured.stream, peer: UntilRevoked::new(secured.registered) })
            }
        });
        let names = Names::new(net.clone(), sources);
        let dial: Dial = Box::new(move |to| {
            let net = net.clone();
            Box::pin(async move { Ok(Box::new(net.dial(to, Source::Any).await?) as BoxIo) })
        });
        Connector { shared: Arc::new(Shared { own, dial, pool, credentials, names }) }
    }

    pub fn own(&self) -> &Own {
        &self.shared.own
    }

    /// A connection to an endpoint, ready for the application's first byte.
    ///
    /// # Errors
    /// It cannot be reached in time, is not who it should be, or refuses.
    pub async fn open(&self, to: &Endpoint) -> Result<BoxIo, ConnectError> {
        let after = to.connect_timeout;
        let late = |_| ConnectError::new(Kind::Timeout, format!("no connection to {} within {after:?}", to.id));
        timeout(after, self.shared.open(to)).await.map_err(late)?
    }

    /// Lets go of connections to whoever has left the directory. What is on them lives on, unless the address has a new
    /// owner: then the old one is certainly gone.
    pub fn let_go(&self, directory: &Directory) {
        let network = &self.shared.own.network;
        self.shared.pool.sever(|key| fate(key, directory, network) == Fate::Replaced);
        self.shared.pool.retire(|key| fate(key, directory, network) == Fate::Gone);
    }

    /// Tunnel connections there are, for operators.
    pub fn rows(&self) -> Vec<serde_json::Value> {
        let row = |row: mesh_hbone::ledger::Row<Key>| {
            serde_json::json!({
                "workload": row.key.uid, "address": row.key.door.to_string(), "identity": row.key.expect.to_string(),
                "streams": row.riders,
            })
        };
        self.shared.pool.rows().into_iter().map(row).collect()
    }

    /// Cuts every tunnel: the end of the process.
    pub fn force(&self) {
        self.shared.pool.force();
    }
}

impl Shared {
    async fn open(&self, to: &Endpoint) -> Result<BoxIo, ConnectError> {
        let mut io = match &to.way {
            Way::Plain => self.plain(to).await?,
            Way::Tunnel { door, target, expect } => {
                let request = ConnectRequest { headers: hops::write(to.hops), ..ConnectRequest::new(*target) };
                self.tunnel(&to.id, *door, request, expect).await?
            }
        };
        if let Some(preface) = &to.preface {
            io.write_all(preface).await.map_err(|why| broken(&to.id, &why))?;
        }
        let io = match &to.tls {
            None => io,
            Some(tls) => tls.origin.secure(io, &tls.host, tls.alpn).await?,
        };
        match &to.through {
            None => Ok(io),
            Some(proxy) => proxy.through(io).await,
        }
    }

    async fn tunnel(&self, uid: &Arc<str>, door: SocketAddr, request: ConnectRequest, expect: &SpiffeId) -> Result<BoxIo, ConnectError> {
        // Asked here, and not only when dialling: without a valid certificate an open connection may not be used either.
        if let Err(why) = self.credentials.get(&self.own.identity).await {
            return Err(ConnectError::new(Kind::Identity, why.to_string()));
        }
        let key = Key { uid: uid.clone(), door, expect: expect.clone() };
        match self.pool.open(&key, &request).await {
            Ok((tunnel, _)) => Ok(Box::new(tunnel)),
            Err(why) => Err(no_tunnel(uid, door, &why)),
        }
    }

    /// A connection to an address, or to whichever of a name's answers first. What may not be dialled is looked at last of
    /// all, when it is known what a name means today.
    async fn plain(&self, to: &Endpoint) -> Result<BoxIo, ConnectError> {
        match &to.to {
            To::Address(address) => {
                self.may(&address.to_string(), address.ip())?;
                (self.dial)(*address).await.map_err(|why| broken(&address.to_string(), &why))
            }
            To::Name(name, port) => {
                let known = self.names.resolve(name).await.map_err(|why| ConnectError::new(Kind::Name, why.to_string()))?;
                let (allowed, refused): (Vec<IpAddr>, Vec<IpAddr>) = known.iter().partition(|ip| self.may(name, **ip).is_ok());
                if let (true, Some(ip)) = (allowed.is_empty(), refused.first()) {
                    return Err(self.may(&format!("{name} is {ip}, which"), *ip).expect_err("it was refused"));
                }
                self.first_of(name, *port, allowed, to.spread).await
            }
        }
    }

    fn may(&self, what: &str, ip: IpAddr) -> Result<(), ConnectError> {
        let forbidden = |why| ConnectError::new(Kind::Other, format!("{what} {why}; nobody is sent there"));
        guard::may_be_dialled(ip, &self.own.addresses).map_err(forbidden)
    }

    /// `spread`: any of the addresses, so that whoever connects often uses all of them; else the first that answers.
    async fn first_of(&self, name: &str, port: u16, mut addresses: Vec<IpAddr>, spread: bool) -> Result<BoxIo, ConnectError> {
        if spread {
            addresses.shuffle(&mut rand::rng());
        }
        // Of the other family there may be no route.
        let v6_first = self.own.addresses.first().is_some_and(IpAddr::is_ipv6);
        let found = eyeballs::first(&eyeballs::order(&addresses, v6_first), |ip| (self.dial)(SocketAddr::new(ip, port))).await;
        match found {
            Ok((_, io)) => Ok(io),
            Err(Some((ip, why))) => Err(broken(&format!("{name} ({ip})"), &why)),
            Err(None) => Err(ConnectError::new(Kind::Name, format!("{name} has no address"))),
        }
    }
}

/// What has become of the far end of a tunnel connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    There,
    Gone,
    /// Its address is somebody else's now.
    Replaced,
}

fn fate(key: &Key, directory: &Directory, network: &Arc<str>) -> Fate {
    let address = NetworkAddress { network: network.clone(), ip: key.door.ip() };
    let still = directory.workload(&Uid(key.uid.clone())).is_some_and(|workload| {
        workload.addresses.contains(&key.door.ip()) && workload.identity() == key.expect
    });
    match directory.workload_at(&address) {
        _ if still => Fate::There,
        Some(_) => Fate::Replaced,
        None => Fate::Gone,
    }
}

/// TCP that did not come about, or broke.
fn broken(to: &str, why: &std::io::Error) -> ConnectError {
    use std::io::ErrorKind::{ConnectionRefused, ConnectionReset, TimedOut};
    let kind = match why.kind() {
        TimedOut => Kind::Timeout,
        ConnectionRefused | ConnectionReset => Kind::Refused,
        _ => Kind::Other,
    };
    ConnectError::new(kind, format!("{to}: {why}"))
}

fn no_tunnel(uid: &str, door: SocketAddr, why: &OpenError) -> ConnectError {
    let kind = match why {
        OpenError::Dial(cause) => return no_dial(uid, door, cause),
        OpenError::ConnectTimeout { .. } | OpenError::ResponseTimeout { .. } | OpenError::Silent { .. } => Kind::Timeout,
        OpenError::Status(StatusCode::LOOP_DETECTED) => Kind::Loop,
        OpenError::Status(_) | OpenError::Http2(_) | OpenError::Handshake(_) => Kind::Refused,
        OpenError::Draining => Kind::Other,
    };
    ConnectError::new(kind, format!("the tunnel to {uid} at {door}: {why}"))
}

fn no_dial(uid: &str, door: SocketAddr, cause: &std::io::Error) -> ConnectError {
    let inner = cause.get_ref();
    let kind = match inner.and_then(|inner| inner.downcast_ref::<TlsFailure>()) {
        Some(TlsFailure::Peer(_) | TlsFailure::Certificate(_)) => Some(Kind::Identity),
        Some(TlsFailure::TimedOut(_)) => Some(Kind::Timeout),
        Some(TlsFailure::Protocol(_) | TlsFailure::Io(_)) => Some(Kind::Tls),
        None if inner.is_some_and(|inner| inner.is::<mesh_identity::Unavailable>()) => Some(Kind::Identity),
        None => None,
    };
    match kind {
        Some(kind) => ConnectError::new(kind, format!("the tunnel to {uid} at {door}: {cause}")),
        None => broken(&format!("{uid} at {door}"), cause),
    }
}

#[cfg(test)]
mod tests;
