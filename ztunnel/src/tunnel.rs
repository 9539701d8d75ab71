//! How a pod opens tunnels: TCP in the pod's namespace, TLS with the pod's certificate, HTTP/2 in a pool of its own.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use mesh_hbone::{ConnectRequest, OpenError, Pool, Tunnel};
use mesh_identity::crl::Registered;
use mesh_identity::store::Credentials;
use mesh_model::identity::SpiffeId;
use mesh_net::net::{Net, Source};
use mesh_net::readahead::ReadAhead;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::error::{Failure, Fault, Side, Stage};
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
}

impl Tunnels {
    pub fn new<N: Net>(net: &N, mesh: &Mesh) -> Tunnels {
        let (net, tls, credentials) = (net.clone(), mesh.tls.clone(), mesh.credentials.clone());
        let pool = Pool::new(mesh.settings.hbone.clone(), move |key: Key| {
            let (net, tls, credentials) = (net.clone(), tls.clone(), credentials.clone());
            async move {
                let credential = credentials.get(&key.source).await.map_err(io::Error::other)?;
                let stream = net.dial(key.address, Source::Any).await?;
                let secured = tls.connect(ReadAhead::new(stream), &credential, &key.expect).await.map_err(io::Error::other)?;
                Ok(Checked::new(secured.stream, secured.registered))
            }
        });
        Tunnels { pool, credentials: mesh.credentials.clone() }
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
        opened.map(|(tunnel, _)| tunnel).map_err(|why: OpenError| Failure {
            stage: Stage::Tunnel,
            side: Side::Upstream,
            fault: Fault::Open(why),
        })
    }

    /// Takes nothing new; what is open goes on.
    pub fn drain(&self) {
        self.pool.drain();
    }

    /// Cuts what is open.
    pub fn force(&self) {
        self.pool.force();
    }

    /// What there is, for the operator.
    pub fn rows(&self) -> Vec<mesh_hbone::ledger::Row<Key>> {
        self.pool.rows()
    }
}

/// The kind of error by which a cut for a revoked certificate is known further up, where HTTP/2 has wrapped it in an error
/// of its own: no socket that is open already gives it.
pub const REVOKED: io::ErrorKind = io::ErrorKind::PermissionDenied;

/// A connection that breaks when a certificate of its peer is revoked.
struct Checked<S> {
    stream: S,
    revoked: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<S> Checked<S> {
    fn new(stream: S, registered: Registered) -> Checked<S> {
        Checked { stream, revoked: Box::pin(async move { registered.revoked().await }) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Checked<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        // Asked only before a wait, which every connection comes to when its socket is drained: bulk pays nothing for it.
        if read.is_pending() && self.revoked.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(REVOKED, "peer certificate revoked by CRL")));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Checked<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    // HTTP/2 writes header and data in one call; without these two it would write twice.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

