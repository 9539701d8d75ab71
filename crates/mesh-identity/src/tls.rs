//! Mutual TLS between nodes: configurations and the two handshakes.
//!
//! TLS 1.3 only, AES-GCM only, one provider, no SNI, no session is ever resumed (a resumed session would skip the
//! checks of `verify`), no early data (spec/dataplane.md 1.2). A server configuration belongs to one credential: a
//! renewed credential brings a new one, so rotation is immediate and nothing is rebuilt per connection.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use mesh_model::identity::SpiffeId;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::clock::{Clock, TlsTime};
use crate::credential::Credential;
use crate::crl::{Registered, Revocations};
use crate::verify::{ExpectedPeer, NotOurPeer, SameTrustDomain, Usage, identity_of};

/// The only protocol inside our tunnels.
pub const ALPN_H2: &[u8] = b"h2";
/// How long a handshake may take before the connection is dropped: ten round trips at 500 ms.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// What may be sealed and not yet taken by the kernel. More than one queued chunk of a tunnel (64 KiB) with its frame's
/// head: at the default of 64 KiB the last nine bytes would be a write of their own.
const SEALED_BYTES: usize = 128 * 1024;

/// Which key exchanges are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyExchange {
    /// X25519, P-256, P-384; X25519MLKEM768 when the peer prefers or demands it.
    #[default]
    Standard,
    /// `COMPLIANCE_POLICY=pqc`: X25519MLKEM768 and nothing else.
    PostQuantumOnly,
}

/// The one provider, restricted. Never installed process-wide.
pub(crate) fn provider(key_exchange: KeyExchange) -> Arc<CryptoProvider> {
    use aws_lc_rs::{cipher_suite, kx_group};
    let kx_groups = match key_exchange {
        // The peer's order decides on the server side, ours on the client side; our key share is for the first.
        KeyExchange::Standard => {
            vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1, kx_group::X25519MLKEM768]
        }
        KeyExchange::PostQuantumOnly => vec![kx_group::X25519MLKEM768],
    };
    // The client's order decides. AES-128 is a seventh cheaper per byte, and as far out of reach as the curve that the keys
    // come from; whoever demands a post-quantum exchange wants the cipher of the same strength.
    let (strong, quick) = (cipher_suite::TLS13_AES_256_GCM_SHA384, cipher_suite::TLS13_AES_128_GCM_SHA256);
    let cipher_suites = match key_exchange {
        KeyExchange::Standard => vec![quick, strong],
        KeyExchange::PostQuantumOnly => vec![strong, quick],
    };
    Arc::new(CryptoProvider { cipher_suites, kx_groups, ..aws_lc_rs::default_provider() })
}

/// What all handshakes of a node have in common.
#[derive(Clone, Debug)]
pub struct Tls {
    provider: Arc<CryptoProvider>,
    clock: Arc<dyn Clock>,
    revocations: Arc<Revocations>,
    handshake_timeout: Duration,
}

/// A handshake that did not end in a connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsFailure {
    #[error("the TLS handshake took longer than {0:?}")]
    TimedOut(Duration),
    /// We refused who is there.
    #[error("TLS: {0}")]
    Peer(Arc<NotOurPeer>),
    /// We refused the certificate for a cause that has its own alert: expired, revoked, unknown issuer, wrong purpose.
    #[error("TLS: the peer's certificate is refused: {0}")]
    Certificate(CertificateError),
    /// The two ends do not agree, or the far end refused us (`AlertReceived`).
    #[error("TLS: {0}")]
    Protocol(rustls::Error),
    #[error("the connection broke during the TLS handshake: {0}")]
    Io(io::Error),
}

/// A finished handshake: the stream, who is there, and the place in the book of live chains. Hold `registered` as long
/// as the connection lives, and end the connection when it is revoked.
#[derive(Debug)]
pub struct Secured<S> {
    pub stream: S,
    pub peer: SpiffeId,
    pub registered: Registered,
}

impl Tls {
    pub fn new(key_exchange: KeyExchange, clock: Arc<dyn Clock>, revocations: Arc<Revocations>) -> Tls {
        Tls { provider: provider(key_exchange), clock, revocations, handshake_timeout: HANDSHAKE_TIMEOUT }
    }

    pub fn with_handshake_timeout(self, handshake_timeout: Duration) -> Tls {
        Tls { handshake_timeout, ..self }
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// For dialling as `credential`'s workload; only `expected` identities are accepted, none if it is empty. Cheap: the
    /// roots and the key are shared, so it is made per dial.
    pub fn client_config(&self, credential: &Credential, expected: &[SpiffeId]) -> Arc<ClientConfig> {
        let verifier = ExpectedPeer {
            roots: credential.roots.clone(),
            expected: expected.into(),
            revocations: self.revocations.clone(),
            algorithms: self.provider.signature_verification_algorithms,
        };
        let mut config = ClientConfig::builder_with_details(self.provider.clone(), Arc::new(TlsTime(self.clock.clone())))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3 suites")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(Always(credential.key.clone())));
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Arc::new(config)
    }

    /// For accepting as `credential`'s workload; built once per credential.
    pub fn server_config(&self, credential: &Credential) -> Arc<ServerConfig> {
        credential.inbound.get_or_init(|| self.build_server_config(credential)).clone()
    }

    fn build_server_config(&self, credential: &Credential) -> Arc<ServerConfig> {
        let verifier = SameTrustDomain {
            roots: credential.roots.clone(),
            trust_domain: credential.identity().trust_domain.clone(),
            revocations: self.revocations.clone(),
            algorithms: self.provider.signature_verification_algorithms,
        };
        let mut config = ServerConfig::builder_with_details(self.provider.clone(), Arc::new(TlsTime(self.clock.clone())))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3 suites")
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(Always(credential.key.clone())));
        // rustls accepts a client without ALPN and refuses one whose list lacks h2: both as the contract has it.
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        never_resume(&mut config);
        Arc::new(config)
    }

    /// Dials over an open transport stream.
    pub async fn connect<IO>(
        &self,
        io: IO,
        credential: &Credential,
        expected: &[SpiffeId],
    ) -> Result<Secured<client::TlsStream<IO>>, TlsFailure>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(self.client_config(credential, expected));
        let mut stream = self.in_time(connector.connect(unspoken_name(), io)).await?;
        stream.get_mut().1.set_buffer_limit(Some(SEALED_BYTES));
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let peer = presented_identity(certificates)?;
        let registered = self.revocations.register(certificates, &credential.roots, Usage::Server);
        Ok(Secured { stream, peer, registered })
    }

    /// Accepts on an open transport stream.
    pub async fn accept<IO>(&self, io: IO, credential: &Credential) -> Result<Secured<server::TlsStream<IO>>, TlsFailure>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = TlsAcceptor::from(self.server_config(credential));
        let mut stream = self.in_time(acceptor.accept(io)).await?;
        stream.get_mut().1.set_buffer_limit(Some(SEALED_BYTES));
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let peer = presented_identity(certificates)?;
        let registered = self.revocations.register(certificates, &credential.roots, Usage::Client);
        Ok(Secured { stream, peer, registered })
    }

    async fn in_time<S>(&self, handshake: impl Future<Output = io::Result<S>>) -> Result<S, TlsFailure> {
        match tokio::time::timeout(self.handshake_timeout, handshake).await {
            Ok(done) => done.map_err(TlsFailure::from_io),
            Err(_elapsed) => Err(TlsFailure::TimedOut(self.handshake_timeout)),
        }
    }
}

impl TlsFailure {
    pub(crate) fn from_io(err: io::Error) -> TlsFailure {
        let Some(tls) = err.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return TlsFailure::Io(err);
        };
        let rustls::Error::InvalidCertificate(cause) = tls else { return TlsFailure::Protocol(tls.clone()) };
        let ours = match cause {
            CertificateError::Other(other) => other.0.downcast_ref::<NotOurPeer>(),
            _ => None,
        };
        match ours {
            Some(refused) => TlsFailure::Peer(Arc::new(refused.clone())),
            None => TlsFailure::Certificate(cause.clone()),
        }
    }
}

fn presented_identity(certificates: &[CertificateDer<'_>]) -> Result<SpiffeId, TlsFailure> {
    let none = || NotOurPeer::NoIdentity("it presented no certificate".to_owned());
    certificates.first().ok_or_else(none).and_then(identity_of).map_err(|refused| TlsFailure::Peer(Arc::new(refused)))
}

/// Who is at the far end of a finished handshake of ours; `None` if it showed no certificate of this mesh.
pub fn peer_identity(connection: &rustls::CommonState) -> Option<SpiffeId> {
    connection.peer_certificates()?.first().and_then(|leaf| identity_of(leaf).ok())
}

pub(crate) fn never_resume(config: &mut ServerConfig) {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
}

/// rustls wants a server name; an address is never sent as SNI, so no workload name shows on the wire (T-63).
fn unspoken_name() -> ServerName<'static> {
    ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into())
}

/// The one certificate of this end, whatever the other end asks.
#[derive(Debug)]
pub(crate) struct Always(pub Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

#[cfg(test)]
mod tests;
