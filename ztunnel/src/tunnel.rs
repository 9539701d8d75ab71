//! How a pod opens tunnels: TCP in the pod's namespace, TLS with the pod's certificate, HTTP/2 in a pool of its own.

use std::io;
use std::net::SocketAddr;

use mesh_hbone::{ConnectRequest, OpenError, Pool, Tunnel};
use mesh_identity::known::{Known, UntilRevoked};
use mesh_identity::store::Credentials;
use mesh_model::identity::SpiffeId;
use mesh_net::net::{Net, Source};
use mesh_net::readahead::ReadAhead;

use crate::error::{Failure, Fault, Side, Stage};
use crate::gone::Gone;
use crate::pod::Mesh;
use crate::resolve::Passage;

/// What may share a connection (spec/dataplane.md 1.6). The pod is not part of it: each has its own pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// As whom we speak.
    pub source: SpiffeId,
    /// Whom we accept at the far end, in order.
    pub expect: Vec<SpiffeId>,
    pub address: SocketAddr,
}

/// The tunnels of one pod.
pub struct Tunnels {
    pool: Pool<Key>,
    credentials: Credentials,
    gone: Gone,
}

impl Tunnels {
    pub fn new<N: Net>(net: &N, mesh: &Mesh) -> Tunnels {
        let net = net.between_nodes(mesh.settings.dead_after);
        let (tls, credentials) = (mesh.tls.clone(), mesh.credentials.clone());
        let pool = Pool::new(mesh.settings.hbone.clone(), move |key: Key| {
            let (net, tls, credentials) = (net.clone(), tls.clone(), credentials.clone());
            async move {
                let credential = credentials.get(&key.source).await.map_err(io::Error::other)?;
                let stream = net.dial(key.address, Source::Any).await?;
                let secured = tls.connect(ReadAhead::new(stream), &credential, &key.expect).await.map_err(io::Error::other)?;
                Ok(Known { stream: secured.stream, peer: UntilRevoked::new(secured.registered) })
            }
        });
        Tunnels { pool, credentials: mesh.credentials.clone(), gone: Gone::default() }
    }

    /// A tunnel, on a connection that exists or a new one.
    ///
    /// # Errors
    /// No certificate for `source`, or the far end cannot be reached, is somebody else, or refuses.
    pub async fn open(&self, source: &SpiffeId, passage: &Passage, request: &ConnectRequest) -> Result<Tunnel, Failure> {
        // Asked here, and not only when dialling: without a valid certificate an open connection may not be used either.
        if let Err(why) = self.credentials.get(source).await {
            return Err(Failure { stage: Stage::Tunnel, side: Side::Ours, fault: Fault::Identity(why.to_string()) });
        }
        let key = Key { source: source.clone(), expect: passage.expect.clone(), address: passage.address };
        let opened = self.pool.open(&key, request).await;
        opened.map(|(tunnel, _)| tunnel).map_err(|why: OpenError| {
            self.gone.learn(passage.address, &why);
            Failure { stage: Stage::Tunnel, side: Side::Upstream, fault: Fault::Open(why) }
        })
    }

    /// Whether nobody answered at this address a moment ago.
    pub fn is_gone(&self, address: SocketAddr) -> bool {
        self.gone.holds(address)
    }

    /// Takes nothing new, and cuts what is open.
    pub fn force(&self) {
        self.pool.force();
    }

    /// What there is, for the operator.
    pub fn rows(&self) -> Vec<mesh_hbone::ledger::Row<Key>> {
        self.pool.rows()
    }
}
