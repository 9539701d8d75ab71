//! The certificate authority: its key, its certificates, and issuing.
//!
//! Whom a certificate is for is decided before (`impersonate`, or the caller's own identity) and given as an argument;
//! no name, purpose or extension of the request is ever copied (spec/controlplane.md 3.4, 3.5). Where the key is kept:
//! `home`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use mesh_model::identity::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use crate::clock::{rfc3339, unix_seconds};
use crate::credential::{BadAnswer, Credential, dates};
use crate::csr;
use crate::pem::{self, BadPem};

pub mod home;

/// Certificates start in the past, so that a peer whose clock is behind accepts them.
pub const CLOCK_SKEW: Duration = Duration::from_secs(120);
/// Life of a self-signed root.
pub const ROOT_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);
/// A request with an RSA 4096 key has less than 2 KiB.
const MAX_CSR_BYTES: usize = 16 << 10;
/// NIST SP 800-57: less is not acceptable any more.
const MIN_RSA_BITS: usize = 2048;
/// Names of a request that are remembered for the audit log.
const MAX_NAMES_SHOWN: usize = 8;

/// How long certificates may live.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// `DEFAULT_WORKLOAD_CERT_TTL`: when a request asks for none.
    pub default: Duration,
    /// `MAX_WORKLOAD_CERT_TTL`: a request for more is refused.
    pub max: Duration,
}

impl Default for Lifetimes {
    fn default() -> Lifetimes {
        Lifetimes { default: Duration::from_secs(24 * 3600), max: Duration::from_secs(90 * 24 * 3600) }
    }
}

/// What an operator plugs in (`cacerts`): PEM texts.
#[derive(Clone, PartialEq, Eq)]
pub struct PluggedIn {
    /// `ca-cert.pem`: what signs.
    pub certificate: String,
    /// `ca-key.pem`.
    pub key: String,
    /// `cert-chain.pem`: from the signing certificate up, the root may be left out. Empty when the root itself signs.
    pub chain: String,
    /// `root-cert.pem`: the trust bundle, one or several roots.
    pub roots: String,
}

/// The authority. Its key appears in no output.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    not_before: SystemTime,
    not_after: SystemTime,
    /// Elements of the answer between leaf and roots.
    chain: Vec<String>,
    chain_ends: SystemTime,
    roots: Vec<CertificateDer<'static>>,
    lifetimes: Lifetimes,
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca")
            .field("not_after", &rfc3339(self.not_after))
            .field("intermediates", &self.chain.len())
            .field("roots", &self.roots.len())
            .finish_non_exhaustive()
    }
}

/// An issued certificate.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The answer: leaf, intermediates, and the root bundle last.
    pub chain: Vec<String>,
    pub identity: SpiffeId,
    pub not_after: SystemTime,
    /// Lower-case hexadecimal, for the audit log.
    pub serial: String,
    /// Names that the request asked for and did not get, for the audit log: at most eight.
    pub ignored: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum CannotSign {
    #[error("the certificate request cannot be used: {0}")]
    BadRequest(String),
    #[error("a lifetime of {asked:?} was asked for; at most {max:?} is given (MAX_WORKLOAD_CERT_TTL)")]
    TooLong { asked: Duration, max: Duration },
    #[error("the authority's own certificate expired at {0}: renew the root or the plugged-in certificate")]
    SignerExpired(String),
    #[error("cannot make the certificate: {0}")]
    Failed(String),
}

impl CannotSign {
    /// Is the request to blame (InvalidArgument), or are we (Internal)?
    pub fn is_callers_fault(&self) -> bool {
        matches!(self, CannotSign::BadRequest(_) | CannotSign::TooLong { .. })
    }
}

/// Why the authority cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BadCa {
    #[error("{file}: {cause}")]
    Pem { file: &'static str, cause: BadPem },
    #[error("{0} holds no certificate")]
    Empty(&'static str),
    #[error("ca-key.pem cannot be used: {0}")]
    Key(String),
    #[error("ca-key.pem is not the key of ca-cert.pem")]
    OtherKey,
    #[error("ca-cert.pem cannot be used: {0}")]
    Certificate(String),
    #[error("certificates signed with ca-cert.pem would not be trusted by peers that hold root-cert.pem: {0}")]
    NotTrusted(BadAnswer),
    #[error("a trial certificate cannot be signed: {0}")]
    Trial(#[from] CannotSign),
    #[error("cannot make the root certificate: {0}")]
    Make(String),
}

impl Ca {
    /// A new self-signed root for a trust domain, ECDSA P-256.
    pub fn self_signed(trust_domain: &str, life: Duration, lifetimes: Lifetimes, now: SystemTime) -> Result<Ca, BadCa> {
        let make = |err: rcgen::Error| BadCa::Make(err.to_string());
        let key = KeyPair::generate().map_err(make)?;
        let certificate = root_params(trust_domain, life, now).self_signed(&key).map_err(make)?;
        Ca::load(&PluggedIn {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            chain: String::new(),
            roots: certificate.pem(),
        }, lifetimes, now)
    }

    /// Takes what is plugged in, and proves with a trial certificate that peers will trust what it signs.
    pub fn load(files: &PluggedIn, lifetimes: Lifetimes, now: SystemTime) -> Result<Ca, BadCa> {
        let read = |file, text: &str| pem::certificates(text.as_bytes()).map_err(|cause| BadCa::Pem { file, cause });
        let certificate = read("ca-cert.pem", &files.certificate)?.into_iter().next().ok_or(BadCa::Empty("ca-cert.pem"))?;
        let roots = read("root-cert.pem", &files.roots)?;
        if roots.is_empty() {
            return Err(BadCa::Empty("root-cert.pem"));
        }
        let mut chain = read("cert-chain.pem", &files.chain)?;
        if !chain.contains(&certificate) {
            chain.insert(0, certificate.clone());
        }
        chain.retain(|link| !roots.contains(link));
        let key = pem::private_key(files.key.as_bytes()).map_err(|cause| BadCa::Pem { file: "ca-key.pem", cause })?;
        let key = KeyPair::try_from(&key).map_err(|err| BadCa::Key(err.to_string()))?;
        check_signer(&certificate, &key)?;
        let (not_before, not_after) = dates(&certificate).map_err(BadCa::Certificate)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|err| BadCa::Certificate(err.to_string()))?;
        let chain_ends = first_end(&chain).map_or(not_after, |end| end.min(not_after));
        let chain = chain.iter().map(pem::encode).collect();
        let ca = Ca { issuer, certificate, not_before, not_after, chain, chain_ends, roots, lifetimes };
        ca.try_out(now)?;
        Ok(ca)
    }

    /// Adds roots to the bundle that goes out with every certificate: the middle step of a root rotation. Duplicates are
    /// left out.
    pub fn with_more_roots(mut self, bundle: &str) -> Result<Ca, BadCa> {
        let cause = |cause| BadCa::Pem { file: "root-cert.pem", cause };
        for root in pem::certificates(bundle.as_bytes()).map_err(cause)? {
            if !self.roots.contains(&root) {
                self.roots.push(root);
            }
        }
        Ok(self)
    }

    fn try_out(&self, now: SystemTime) -> Result<(), BadCa> {
        let identity = SpiffeId::new("trial", "trial", "trial");
        let request = csr::request(&identity).map_err(|err| CannotSign::Failed(err.to_string()))?;
        let issued = self.issue(&request.csr, &identity, Duration::ZERO, now)?;
        Credential::from_answer(&identity, request.key, &issued.chain, now).map_err(BadCa::NotTrusted)?;
        Ok(())
    }

    /// Issues a certificate for `identity` with the request's public key. A `life` of zero means the default; it ends
    /// with the signer's own life at the latest.
    pub fn issue(&self, csr: &str, identity: &SpiffeId, life: Duration, now: SystemTime) -> Result<Issued, CannotSign> {
        let request = parse_request(csr)?;
        let life = if life.is_zero() { self.lifetimes.default } else { life };
        if life > self.lifetimes.max {
            return Err(CannotSign::TooLong { asked: life, max: self.lifetimes.max });
        }
        let name = identity.to_string();
        let uri = name.clone().try_into().map_err(|_| CannotSign::BadRequest(format!("{name:?} is no URI")))?;
        let made = self.leaf(&request.public_key, vec![SanType::URI(uri)], life, now)?;
        Ok(Issued {
            chain: self.answer(&made.certificate),
            identity: identity.clone(),
            not_after: made.not_after,
            serial: made.serial,
            ignored: request.names.into_iter().filter(|asked| *asked != name).take(MAX_NAMES_SHOWN).collect(),
        })
    }

    /// A certificate for the controller's own port: DNS names and addresses, with its key. It may live as long as the
    /// signer.
    pub fn serving(&self, names: &[String], life: Duration, now: SystemTime) -> Result<Serving, CannotSign> {
        let failed = |err: rcgen::Error| CannotSign::Failed(err.to_string());
        let key = KeyPair::generate().map_err(failed)?;
        let name = |name: &String| match IpAddr::from_str(name) {
            Ok(address) => Ok(SanType::IpAddress(address)),
            Err(_) => name.clone().try_into().map(SanType::DnsName).map_err(failed),
        };
        let names = names.iter().map(name).collect::<Result<Vec<_>, _>>()?;
        let made = self.leaf(&key, names, life, now)?;
        let mut chain = vec![made.certificate];
        for link in &self.chain {
            chain.extend(pem::certificates(link.as_bytes()).map_err(|err| CannotSign::Failed(err.to_string()))?);
        }
        Ok(Serving { chain, key: key.into(), not_after: made.not_after })
    }

    fn leaf(&self, key: &impl PublicKeyData, names: Vec<SanType>, life: Duration, now: SystemTime) -> Result<Made, CannotSign> {
        if self.not_after <= now {
            return Err(CannotSign::SignerExpired(rfc3339(self.not_after)));
        }
        let not_after = (now + life).min(self.not_after);
        let serial = random_serial();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new(); // empty, which makes the SAN critical
        params.subject_alt_names = names;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        valid(&mut params, now - CLOCK_SKEW, not_after);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer).map_err(|err| CannotSign::Failed(err.to_string()))?;
        let serial = serial.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Made { certificate: certificate.der().clone(), not_after, serial })
    }

    fn answer(&self, leaf: &CertificateDer<'_>) -> Vec<String> {
        let mut elements = vec![pem::encode(leaf)];
        elements.extend(self.chain.iter().cloned());
        elements.push(self.root_bundle());
        elements
    }

    /// The trust bundle as PEM: `root-cert.pem` of the ConfigMap `istio-ca-root-cert`.
    pub fn root_bundle(&self) -> String {
        self.roots.iter().map(pem::encode).collect()
    }

    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The certificate that signs, as PEM.
    pub fn certificate_pem(&self) -> String {
        pem::encode(&self.certificate)
    }

    /// The private key as PKCS#8 PEM, for whoever stores it. Not for logs.
    pub fn private_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// When the signing certificate begins.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// When the signing certificate ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// When the first certificate of the chain ends: the signing one and those above it, without the roots.
    pub fn chain_ends(&self) -> SystemTime {
        self.chain_ends
    }

    /// When the first of the roots ends.
    pub fn roots_end(&self) -> SystemTime {
        first_end(&self.roots).unwrap_or(self.not_after)
    }
}

/// When the first of several certificates ends.
fn first_end(certificates: &[CertificateDer<'static>]) -> Option<SystemTime> {
    certificates.iter().filter_map(|certificate| dates(certificate).ok()).map(|(_, end)| end).min()
}

/// The controller's own certificate.
pub struct Serving {
    /// Leaf first, root left out.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    pub not_after: SystemTime,
}

struct Made {
    certificate: CertificateDer<'static>,
    not_after: SystemTime,
    serial: String,
}

fn root_params(trust_domain: &str, life: Duration, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain);
    params.serial_number = Some(SerialNumber::from_slice(&random_serial()));
    valid(&mut params, now - CLOCK_SKEW, now + life);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}

/// The signing certificate must be one of an authority, and the key its key.
fn check_signer(certificate: &CertificateDer<'_>, key: &KeyPair) -> Result<(), BadCa> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|err| BadCa::Certificate(err.to_string()))?;
    if !parsed.is_ca() {
        return Err(BadCa::Certificate("it is not a certificate of an authority (CA:TRUE is missing)".to_owned()));
    }
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err(BadCa::OtherKey);
    }
    Ok(())
}

struct ParsedRequest {
    public_key: SubjectPublicKeyInfo,
    /// For the audit log only.
    names: Vec<String>,
}

/// Takes the public key of a request that proves possession of the private one.
fn parse_request(csr: &str) -> Result<ParsedRequest, CannotSign> {
    let bad = |why: &str| CannotSign::BadRequest(why.to_owned());
    if csr.len() > MAX_CSR_BYTES {
        return Err(CannotSign::BadRequest(format!("{} bytes; at most {MAX_CSR_BYTES} are read", csr.len())));
    }
    let (_, block) = x509_parser::pem::parse_x509_pem(csr.as_bytes()).map_err(|_| bad("it is not PEM"))?;
    if !matches!(block.label.as_str(), "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST") {
        return Err(bad("the PEM block is not a certificate request"));
    }
    let (rest, request) =
        X509CertificationRequest::from_der(&block.contents).map_err(|_| bad("it is not a PKCS#10 request"))?;
    if !rest.is_empty() {
        return Err(bad("there are bytes after the request"));
    }
    let key = &request.certification_request_info.subject_pki;
    if let Ok(PublicKey::RSA(rsa)) = key.parsed()
        && rsa.key_size() < MIN_RSA_BITS
    {
        return Err(bad("its RSA key is shorter than 2048 bits"));
    }
    request.verify_signature().map_err(|_| bad("its signature is wrong, so possession of the key is not proved"))?;
    let public_key = SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| bad("its kind of key is not supported"))?;
    Ok(ParsedRequest { public_key, names: requested(&request)? })
}

/// Names that were asked for. A request to become an authority is refused rather than ignored: no client of ours makes
/// one, so it is an attack or a grave mistake (T-07).
fn requested(request: &X509CertificationRequest<'_>) -> Result<Vec<String>, CannotSign> {
    let mut names = Vec::new();
    for extension in request.requested_extensions().into_iter().flatten() {
        match extension {
            ParsedExtension::BasicConstraints(wish) if wish.ca => {
                return Err(CannotSign::BadRequest("it asks for a certificate of an authority".to_owned()));
            }
            ParsedExtension::KeyUsage(wish) if wish.key_cert_sign() || wish.crl_sign() => {
                return Err(CannotSign::BadRequest("it asks for the right to sign certificates".to_owned()));
            }
            ParsedExtension::SubjectAlternativeName(wish) => names.extend(wish.general_names.iter().map(shown)),
            _ => {}
        }
    }
    Ok(names)
}

fn shown(name: &GeneralName<'_>) -> String {
    /// Enough to recognise a name in a log.
    const LENGTH: usize = 256;
    let text = match name {
        GeneralName::URI(uri) => (*uri).to_owned(),
        GeneralName::DNSName(name) => format!("DNS:{name}"),
        other => format!("{other:?}"),
    };
    text.chars().filter(|character| !character.is_control()).take(LENGTH).collect()
}

/// 128 random bits (spec/controlplane.md 3.5); the top bit is clear, so that the DER integer is positive.
fn random_serial() -> [u8; 16] {
    let mut serial: [u8; 16] = rand::random();
    serial[0] &= 0x7f;
    serial[0] |= 0x40; // never a leading zero byte, which DER would have to drop
    serial
}

fn valid(params: &mut CertificateParams, from: SystemTime, to: SystemTime) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(unix_seconds(from));
    params.not_after = epoch + Duration::from_secs(unix_seconds(to));
}

#[cfg(test)]
mod tests;
