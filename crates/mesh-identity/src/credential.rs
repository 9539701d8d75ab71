//! What a workload proves itself with: its chain, its key, and the roots that it believes.
//!
//! A `Credential` is made once from the authority's answer, after every check that can be made before a handshake, and
//! never changes. Its key does not appear in `Debug`, dumps or logs.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_model::identity::SpiffeId;
use rustls::ServerConfig;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::crl::CrlSet;
use crate::pem::{self, BadPem};
use crate::verify::{self, NotOurPeer, Roots, Usage};

/// The longest chain that we take from an authority. Real ones have one to three; peers accept no more than
/// `verify::MAX_INTERMEDIATES` anyway.
const MAX_CHAIN: usize = 1 + verify::MAX_INTERMEDIATES;
/// More trust roots than any rotation needs; each costs work in a failing handshake.
const MAX_ROOTS: usize = 64;

/// One identity's certificate, key and roots.
pub struct Credential {
    identity: SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    root_certificates: Vec<CertificateDer<'static>>,
    pub(crate) roots: Arc<Roots>,
    pub(crate) key: Arc<CertifiedKey>,
    not_before: SystemTime,
    not_after: SystemTime,
    /// Built at first use: one server configuration per credential, not per accepted connection.
    pub(crate) inbound: OnceLock<Arc<ServerConfig>>,
}

/// Why an authority's answer is no credential (spec/dataplane.md 10).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    #[error("the authority sent an empty certificate chain")]
    Empty,
    #[error("the authority sent no root certificate: the last element of the answer must be the root bundle")]
    NoRoot,
    #[error("the authority sent no leaf certificate before the root bundle")]
    NoLeaf,
    #[error("the authority sent {0} certificates before the roots; at most {MAX_CHAIN} are accepted")]
    ChainTooLong(usize),
    #[error("the authority sent {0} roots; at most {MAX_ROOTS} are accepted")]
    TooManyRoots(usize),
    #[error("element {element} of the authority's answer: {cause}")]
    Pem { element: usize, cause: BadPem },
    #[error("a certificate of the authority's answer cannot be read: {0}")]
    Unreadable(String),
    #[error("asked for {wanted}, the authority answered with a certificate of {got}")]
    OtherIdentity { wanted: SpiffeId, got: String },
    #[error("the certificate does not belong to the key that it was asked for: {0}")]
    OtherKey(String),
    #[error("the certificate does not lead to the roots that came with it: {0}")]
    NotTrusted(String),
    #[error("the certificate has already expired, at {0}; check the clocks of this node and of the authority")]
    Expired(String),
}

impl Credential {
    /// Checks the authority's answer: every element is read as a PEM bundle (older authorities put several certificates
    /// in one), the first certificate is the leaf, the last element is the root bundle. A root that also stands in the
    /// chain is left out of what we present.
    pub fn from_answer(
        wanted: &SpiffeId,
        key: PrivateKeyDer<'static>,
        answer: &[String],
        now: SystemTime,
    ) -> Result<Credential, BadAnswer> {
        let (chain, roots) = split(answer)?;
        let credential = Credential::from_parts(wanted.clone(), key, chain, roots)?;
        credential.check(now)?;
        Ok(credential)
    }

    pub(crate) fn from_parts(
        identity: SpiffeId,
        key: PrivateKeyDer<'static>,
        chain: Vec<CertificateDer<'static>>,
        root_certificates: Vec<CertificateDer<'static>>,
    ) -> Result<Credential, BadAnswer> {
        let roots = Roots::new(&root_certificates).map_err(|err| BadAnswer::Unreadable(err.to_string()))?;
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|err| BadAnswer::OtherKey(err.to_string()))?;
        let certified = CertifiedKey::new(chain.clone(), key);
        certified.keys_match().map_err(|err| BadAnswer::OtherKey(err.to_string()))?;
        let (not_before, not_after) = validity(&chain)?;
        Ok(Credential {
            identity,
            chain,
            root_certificates,
            roots: Arc::new(roots),
            key: Arc::new(certified),
            not_before,
            not_after,
            inbound: OnceLock::new(),
        })
    }

    fn check(&self, now: SystemTime) -> Result<(), BadAnswer> {
        match verify::identity_of(&self.chain[0]) {
            Ok(got) if got == self.identity => {}
            Ok(got) => return Err(self.other(got.to_string())),
            Err(NotOurPeer::NoIdentity(why)) => return Err(self.other(why)),
            Err(other) => return Err(self.other(other.to_string())),
        }
        if self.not_after <= now {
            return Err(BadAnswer::Expired(crate::clock::rfc3339(self.not_after)));
        }
        // A node whose clock runs behind must not refuse its own certificate: that is for its peers to judge.
        let at = now.max(self.not_before);
        for usage in [Usage::Server, Usage::Client] {
            verify::chain(&self.chain[0], &self.chain[1..], &self.roots, usage, at, &CrlSet::default())
                .map_err(|err| BadAnswer::NotTrusted(err.to_string()))?;
        }
        Ok(())
    }

    fn other(&self, got: String) -> BadAnswer {
        BadAnswer::OtherIdentity { wanted: self.identity.clone(), got }
    }

    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// What we present: the leaf, then intermediates, without the root.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The roots that the authority sent along: peers are verified against these (spec/dataplane.md 1.2).
    pub fn root_certificates(&self) -> &[CertificateDer<'static>] {
        &self.root_certificates
    }

    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The earliest end among the leaf and its intermediates.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    pub fn expired(&self, now: SystemTime) -> bool {
        now >= self.not_after
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("identity", &self.identity)
            .field("not_before", &crate::clock::rfc3339(self.not_before))
            .field("not_after", &crate::clock::rfc3339(self.not_after))
            .finish_non_exhaustive()
    }
}

type Certificates = Vec<CertificateDer<'static>>;

/// The chain without roots, and the roots.
fn split(answer: &[String]) -> Result<(Certificates, Certificates), BadAnswer> {
    let mut bundles = answer.iter().enumerate().map(|(element, text)| {
        pem::certificates(text.as_bytes()).map_err(|cause| BadAnswer::Pem { element, cause })
    });
    let roots = match bundles.next_back() {
        None => return Err(BadAnswer::Empty),
        Some(_) if answer.len() == 1 => return Err(BadAnswer::NoRoot),
        Some(roots) => roots?,
    };
    if roots.is_empty() {
        return Err(BadAnswer::NoRoot);
    }
    if roots.len() > MAX_ROOTS {
        return Err(BadAnswer::TooManyRoots(roots.len()));
    }
    let mut chain = Vec::new();
    for bundle in bundles {
        chain.extend(bundle?.into_iter().filter(|certificate| !roots.contains(certificate)));
        if chain.len() > MAX_CHAIN {
            return Err(BadAnswer::ChainTooLong(chain.len()));
        }
    }
    if chain.is_empty() { Err(BadAnswer::NoLeaf) } else { Ok((chain, roots)) }
}

/// Latest start and earliest end over a chain.
fn validity(chain: &[CertificateDer<'static>]) -> Result<(SystemTime, SystemTime), BadAnswer> {
    let mut whole: Option<(SystemTime, SystemTime)> = None;
    for certificate in chain {
        let (from, to) = dates(certificate).map_err(BadAnswer::Unreadable)?;
        whole = Some(whole.map_or((from, to), |(start, end)| (start.max(from), end.min(to))));
    }
    whole.ok_or(BadAnswer::NoLeaf)
}

/// Start and end of one certificate.
pub(crate) fn dates(certificate: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|err| err.to_string())?;
    let at = |time: x509_parser::time::ASN1Time| {
        UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
    };
    Ok((at(parsed.validity().not_before), at(parsed.validity().not_after)))
}

#[cfg(test)]
mod tests;
