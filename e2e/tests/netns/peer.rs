//! A peer that speaks HBONE by itself: with certificates of the mesh's own authority (this process can read its key, as
//! only root can), or with bad ones.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use isthmus::lab::state::PodState;
use mesh_hbone::{ConnectRequest, Limits, OpenError, Tunnel};
use mesh_identity::sign::Ca;
use mesh_identity::tls::Secured;
use mesh_identity::{Clock, Credential, KeyExchange, Revocations, Tls};
use mesh_model::identity::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::client::TlsStream;

use super::app::dial;
use super::mesh::Mesh;

pub const HBONE: u16 = 15008;
const HOUR: Duration = Duration::from_secs(3600);

/// A clock that stands at a time of our choice, so that a certificate can be of another day.
#[derive(Debug)]
pub struct Standing(pub SystemTime);

impl Clock for Standing {
    fn now(&self) -> SystemTime {
        self.0
    }
}

pub fn account(name: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "app", name)
}

/// A certificate of `ca` for `identity`, made at `at` and good for an hour.
pub fn credential(ca: &Ca, identity: &SpiffeId, at: SystemTime) -> Result<Credential> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
    let csr = params.serialize_request(&key)?.pem()?;
    let issued = ca.issue(&csr, identity, HOUR, at)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(Credential::from_answer(identity, key, &issued.chain, at)?)
}

pub fn tls(at: SystemTime) -> Tls {
    Tls::new(KeyExchange::default(), Arc::new(Standing(at)), Revocations::disabled())
}

/// TCP and TLS to the tunnel port of pod `blank`. In TLS 1.3 the client has finished before the server has judged it, so success
/// here says nothing yet.
pub fn handshake(
    mesh: &Mesh,
    from: &PodState,
    to: SocketAddr,
    as_whom: &Credential,
    at: SystemTime,
) -> Result<Secured<TlsStream<tokio::net::TcpStream>>> {
    handshake_with(mesh, from, to, as_whom, &account("blank"), at)
}

/// The same to the tunnel port of anybody.
pub fn handshake_with(
    mesh: &Mesh,
    from: &PodState,
    to: SocketAddr,
    as_whom: &Credential,
    whom: &SpiffeId,
    at: SystemTime,
) -> Result<Secured<TlsStream<tokio::net::TcpStream>>> {
    let stream = dial(mesh, from, to)?;
    stream.set_nonblocking(true)?;
    let whom = std::slice::from_ref(whom);
    mesh.rt.block_on(async { Ok(tls(at).connect(tokio::net::TcpStream::from_std(stream)?, as_whom, whom).await?) })
}

/// A tunnel to `authority` through the daemon at `to`.
pub fn connect(
    mesh: &Mesh,
    from: &PodState,
    to: SocketAddr,
    as_whom: &Credential,
    authority: &str,
) -> Result<Result<Tunnel, OpenError>> {
    connect_with(mesh, from, to, as_whom, &account("blank"), authority)
}

/// The same through anybody's daemon.
pub fn connect_with(
    mesh: &Mesh,
    from: &PodState,
    to: SocketAddr,
    as_whom: &Credential,
    whom: &SpiffeId,
    authority: &str,
) -> Result<Result<Tunnel, OpenError>> {
    let secured = handshake_with(mesh, from, to, as_whom, whom, SystemTime::now())?;
    let head: mesh_hbone::ConnectHead =
        authority.parse().with_context(|| format!("{authority} is no authority that our client can send"))?;
    let opened = mesh.rt.block_on(mesh_hbone::dial::open_alone(secured.stream, &Limits::default(), &ConnectRequest::new(head)));
    Ok(opened.map(|(tunnel, _)| tunnel))
}

/// The status of a CONNECT to `authority`, written as it is: also what our own client would never send.
pub fn status(mesh: &Mesh, from: &PodState, to: SocketAddr, as_whom: &Credential, authority: &str) -> Result<u16> {
    status_of(mesh, from, to, as_whom, &account("blank"), authority)
}

/// The same through anybody's daemon.
pub fn status_of(
    mesh: &Mesh,
    from: &PodState,
    to: SocketAddr,
    as_whom: &Credential,
    whom: &SpiffeId,
    authority: &str,
) -> Result<u16> {
    status_with(mesh, from, to, as_whom, whom, authority, &[])
}

/// The same with header fields.
pub fn status_with(
    mesh: &Mesh,
    from: &PodState,
    to: SocketAddr,
    as_whom: &Credential,
    whom: &SpiffeId,
    authority: &str,
    fields: &[(&str, &str)],
) -> Result<u16> {
    let secured = handshake_with(mesh, from, to, as_whom, whom, SystemTime::now())?;
    let authority = authority.to_owned();
    mesh.rt.block_on(async {
        tokio::time::timeout(super::mesh::SOON, async {
            let (mut send, connection) = h2::client::handshake(secured.stream).await?;
            let driver = tokio::spawn(async move {
                // Its end shows in the answer.
                let _ = connection.await;
            });
            let uri = http::Uri::builder()
                .authority(authority.as_str())
                .build()
                .or_else(|_| http::Uri::try_from(authority.as_str()))?;
            let request = http::Request::builder().method(http::Method::CONNECT).uri(uri);
            let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(())?;
            let (answer, _body) = send.send_request(request, false)?;
            let status = answer.await.map(|answer| answer.status().as_u16());
            driver.abort();
            Ok(status?)
        })
        .await?
    })
}
