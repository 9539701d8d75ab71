//! Is the far end who it should be? Chains, purposes, revocation and names, as synchronous functions, and the verifiers
//! that rustls calls.
//!
//! Two rules differ from each other by design (spec/dataplane.md 1.2): who dials knows whom it expects and accepts only
//! these identities; who accepts takes any identity of its own trust domain and leaves the rest to policy.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use mesh_model::identity::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;

use crate::clock::unix_time;
use crate::crl::{CrlSet, Revocations};

/// More intermediates than any real hierarchy has. Path building over many cross-signed intermediates is how a peer
/// would spend our time (V-22), so a longer list is refused before any signature is checked.
pub const MAX_INTERMEDIATES: usize = 8;
/// The longest SPIFFE id (SPIFFE-ID standard, section 2.3).
const MAX_SPIFFE_ID_BYTES: usize = 2048;

/// The trust roots of one credential, ready for path building.
pub struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
}

impl Roots {
    /// # Errors
    /// When one of the certificates cannot be a trust root: a bundle is taken whole or not at all.
    pub fn new(certificates: &[CertificateDer<'_>]) -> Result<Roots, webpki::Error> {
        let anchor = |certificate| webpki::anchor_from_trusted_cert(certificate).map(|anchor| anchor.to_owned());
        Ok(Roots { anchors: certificates.iter().map(anchor).collect::<Result<_, _>>()? })
    }

    /// What can be read of a bundle that is not ours, such as the store of the operating system.
    pub fn readable(certificates: &[CertificateDer<'_>]) -> Roots {
        let anchor = |certificate| webpki::anchor_from_trusted_cert(certificate).ok().map(|anchor| anchor.to_owned());
        Roots { anchors: certificates.iter().filter_map(anchor).collect() }
    }

    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({})", self.anchors.len())
    }
}

/// What the certificate must be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Usage {
    Server,
    Client,
}

/// Why the far end was refused. Each text says what was expected and what was there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotOurPeer {
    #[error("the peer's certificate chain is not trusted: {0}")]
    Chain(webpki::Error),
    #[error("the peer sent {0} intermediate certificates; at most {MAX_INTERMEDIATES} are accepted")]
    TooManyIntermediates(usize),
    #[error("the peer's certificate names no identity of this mesh: {0}")]
    NoIdentity(String),
    #[error("the peer is {received}, expected {}", one_of(expected))]
    Unexpected { expected: Vec<SpiffeId>, received: SpiffeId },
    #[error("nobody is expected at the far end: the destination has no identity in the workload directory; it is {received}")]
    NobodyExpected { received: SpiffeId },
    #[error("the peer {received} is of another trust domain than ours, {own:?}")]
    OtherTrustDomain { own: String, received: SpiffeId },
    #[error("the server's certificate is for none of the names {0}")]
    OtherName(String),
}

fn one_of(expected: &[SpiffeId]) -> String {
    let names: Vec<String> = expected.iter().map(|id| id.to_string()).collect();
    match names.as_slice() {
        [only] => only.clone(),
        several => format!("one of {}", several.join(", ")),
    }
}

/// Builds a path from the leaf to one of the roots: signatures, validity at `now`, basic constraints, name constraints,
/// the purpose, and revocation of each certificate of the path. Unknown revocation status is allowed and an expired list
/// still counts (spec/dataplane.md 9.2).
pub fn chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &Roots,
    usage: Usage,
    now: SystemTime,
    crls: &CrlSet,
) -> Result<(), NotOurPeer> {
    if intermediates.len() > MAX_INTERMEDIATES {
        return Err(NotOurPeer::TooManyIntermediates(intermediates.len()));
    }
    let leaf = EndEntityCert::try_from(leaf).map_err(NotOurPeer::Chain)?;
    let purpose = || match usage {
        Usage::Server => KeyUsage::server_auth(),
        Usage::Client => KeyUsage::client_auth(),
    };
    crls.with_lists_that_apply(|revocation| {
        let algorithms = signature_algorithms().all;
        leaf.verify_for_usage(algorithms, &roots.anchors, intermediates, unix_time(now), purpose(), revocation, None)
            .map(|_path| ())
    })
    .map_err(NotOurPeer::Chain)
}

/// The identity that a leaf proves: it must have exactly one URI name, and that must be a well formed SPIFFE id.
///
/// With two names a check on one and a decision by the other could differ (V-25), so such a certificate has none.
pub fn identity_of(leaf: &CertificateDer<'_>) -> Result<SpiffeId, NotOurPeer> {
    let none = |why: &str| NotOurPeer::NoIdentity(why.to_owned());
    let (rest, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|_| none("it cannot be read"))?;
    if !rest.is_empty() {
        return Err(none("there are bytes after it"));
    }
    let names = parsed
        .subject_alternative_name()
        .map_err(|_| none("its subject alternative names cannot be read"))?
        .ok_or_else(|| none("it has no subject alternative name"))?;
    // The reader skips what is no text. A second name that only another reader can read is a second name all the same.
    if names.value.general_names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(none("one of its subject alternative names cannot be read"));
    }
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(only), None) => strict(only),
        (None, _) => Err(none("it has no URI name")),
        (Some(_), Some(_)) => Err(none("it has several URI names")),
    }
}

/// The SPIFFE character set (letters, digits, dot, dash, underscore; no dot segments), so that no two spellings of one
/// name and no character with a meaning in logs or patterns can be certified.
fn strict(uri: &str) -> Result<SpiffeId, NotOurPeer> {
    let shown = || NotOurPeer::NoIdentity(format!("{:?}", uri.chars().take(256).collect::<String>()));
    if uri.len() > MAX_SPIFFE_ID_BYTES {
        return Err(shown());
    }
    let id: SpiffeId = uri.parse().map_err(|_| shown())?;
    let sound = |part: &str| {
        part != "." && part != ".." && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
    };
    let parts = [&id.trust_domain, &id.namespace, &id.service_account];
    if parts.into_iter().all(|part| sound(part)) { Ok(id) } else { Err(shown()) }
}

pub(crate) fn signature_algorithms() -> WebPkiSupportedAlgorithms {
    rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms
}

/// Verifies who we dialled: a chain to our roots and exactly one of the expected identities. No host name is checked.
pub(crate) struct ExpectedPeer {
    pub roots: Arc<Roots>,
    pub expected: Arc<[SpiffeId]>,
    pub revocations: Arc<Revocations>,
    pub algorithms: WebPkiSupportedAlgorithms,
}

impl ExpectedPeer {
    fn verify(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), NotOurPeer> {
        chain(leaf, rest, &self.roots, Usage::Server, system_time(now), &self.revocations.lists())?;
        let received = identity_of(leaf)?;
        if self.expected.contains(&received) {
            Ok(())
        } else if self.expected.is_empty() {
            Err(NotOurPeer::NobodyExpected { received })
        } else {
            Err(NotOurPeer::Unexpected { expected: self.expected.to_vec(), received })
        }
    }
}

/// Verifies who dialled us: a chain to our roots and an identity of our trust domain.
pub(crate) struct SameTrustDomain {
    pub roots: Arc<Roots>,
    pub trust_domain: Arc<str>,
    pub revocations: Arc<Revocations>,
    pub algorithms: WebPkiSupportedAlgorithms,
}

impl SameTrustDomain {
    fn verify(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), NotOurPeer> {
        chain(leaf, rest, &self.roots, Usage::Client, system_time(now), &self.revocations.lists())?;
        let received = identity_of(leaf)?;
        if received.trust_domain == self.trust_domain {
            Ok(())
        } else {
            Err(NotOurPeer::OtherTrustDomain { own: self.trust_domain.to_string(), received })
        }
    }
}

/// Verifies a server by DNS name or address: the controller, as seen by its clients.
pub(crate) struct NamedServer {
    pub roots: Roots,
    /// Any of these will do: the host that was dialled and the configured alternative.
    pub names: Vec<ServerName<'static>>,
    pub algorithms: WebPkiSupportedAlgorithms,
}

impl NamedServer {
    fn verify(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), NotOurPeer> {
        chain(leaf, rest, &self.roots, Usage::Server, system_time(now), &CrlSet::default())?;
        let parsed = EndEntityCert::try_from(leaf).map_err(NotOurPeer::Chain)?;
        if self.names.iter().any(|name| parsed.verify_is_valid_for_subject_name(name).is_ok()) {
            return Ok(());
        }
        let names: Vec<_> = self.names.iter().map(|name| name.to_str().into_owned()).collect();
        Err(NotOurPeer::OtherName(names.join(", ")))
    }
}

/// Verifies clients of the controller: a certificate is optional, but one that is shown must be good.
pub(crate) struct OptionalClient {
    pub roots: Roots,
    pub algorithms: WebPkiSupportedAlgorithms,
}

impl OptionalClient {
    fn verify(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), NotOurPeer> {
        chain(leaf, rest, &self.roots, Usage::Client, system_time(now), &CrlSet::default())
    }
}

pub(crate) fn system_time(now: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs())
}

/// rustls picks the alert by this, so the known causes keep their own; the rest carry our text.
pub(crate) fn to_rustls(refused: NotOurPeer) -> rustls::Error {
    let cause = match &refused {
        NotOurPeer::Chain(webpki::Error::CertExpired { .. }) => CertificateError::Expired,
        NotOurPeer::Chain(webpki::Error::CertNotValidYet { .. }) => CertificateError::NotValidYet,
        NotOurPeer::Chain(webpki::Error::CertRevoked) => CertificateError::Revoked,
        NotOurPeer::Chain(webpki::Error::UnknownIssuer) => CertificateError::UnknownIssuer,
        NotOurPeer::Chain(webpki::Error::RequiredEkuNotFoundContext(_)) => CertificateError::InvalidPurpose,
        _ => CertificateError::Other(OtherError(Arc::new(refused))),
    };
    rustls::Error::InvalidCertificate(cause)
}

/// TLS 1.2 is not spoken, so its signatures are never good.
fn no_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
}

/// The part of rustls' verifier traits that is the same for all of ours.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            no_tls12()
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, certificate, signed, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

macro_rules! verifies_servers {
    ($verifier:ty) => {
        impl ServerCertVerifier for $verifier {
            fn verify_server_cert(
                &self,
                leaf: &CertificateDer<'_>,
                rest: &[CertificateDer<'_>],
                _: &ServerName<'_>,
                _: &[u8],
                now: UnixTime,
            ) -> Result<ServerCertVerified, rustls::Error> {
                self.verify(leaf, rest, now).map(|()| ServerCertVerified::assertion()).map_err(to_rustls)
            }

            signatures!();
        }
    };
}

macro_rules! verifies_clients {
    ($verifier:ty, mandatory: $mandatory:literal) => {
        impl ClientCertVerifier for $verifier {
            fn client_auth_mandatory(&self) -> bool {
                $mandatory
            }

            /// None: the subjects of our roots are nobody's business before the handshake.
            fn root_hint_subjects(&self) -> &[DistinguishedName] {
                &[]
            }

            fn verify_client_cert(
                &self,
                leaf: &CertificateDer<'_>,
                rest: &[CertificateDer<'_>],
                now: UnixTime,
            ) -> Result<ClientCertVerified, rustls::Error> {
                self.verify(leaf, rest, now).map(|()| ClientCertVerified::assertion()).map_err(to_rustls)
            }

            signatures!();
        }
    };
}

verifies_servers!(ExpectedPeer);
verifies_servers!(NamedServer);
verifies_clients!(SameTrustDomain, mandatory: true);
verifies_clients!(OptionalClient, mandatory: false);

macro_rules! named_debug {
    ($($verifier:ident),*) => { $(
        impl fmt::Debug for $verifier {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($verifier))
            }
        }
    )* };
}

named_debug!(ExpectedPeer, SameTrustDomain, NamedServer, OptionalClient);

#[cfg(test)]
mod tests;
