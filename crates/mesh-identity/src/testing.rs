//! Authorities, leaves and clocks for tests: anything that a certificate can be, good or bad.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_model::identity::SpiffeId;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    CrlIssuingDistributionPoint, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::credential::Credential;
use crate::pem;

/// 2026-03-04T05:06:07Z: where tests begin.
pub fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_772_600_767)
}

pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// A clock that is set by hand.
#[derive(Debug)]
pub struct HandClock(Mutex<SystemTime>);

impl HandClock {
    pub fn new() -> Arc<HandClock> {
        Arc::new(HandClock(Mutex::new(start())))
    }

    pub fn set(&self, time: SystemTime) {
        *self.0.lock() = time;
    }
}

impl Clock for HandClock {
    fn now(&self) -> SystemTime {
        *self.0.lock()
    }
}

/// A clock that follows tokio's, which tests pause.
#[derive(Debug)]
pub struct TokioClock {
    from: Instant,
    ahead: Mutex<Duration>,
}

impl TokioClock {
    pub fn new() -> Arc<TokioClock> {
        Arc::new(TokioClock { from: Instant::now(), ahead: Mutex::new(Duration::ZERO) })
    }

    /// The wall clock jumps forward, the monotonic one does not.
    pub fn jump(&self, by: Duration) {
        *self.ahead.lock() += by;
    }
}

impl Clock for TokioClock {
    fn now(&self) -> SystemTime {
        start() + self.from.elapsed() + *self.ahead.lock()
    }
}

pub fn id(namespace: &str, account: &str) -> SpiffeId {
    SpiffeId::new("td", namespace, account)
}

pub fn uri(text: &str) -> SanType {
    SanType::URI(text.to_owned().try_into().unwrap())
}

/// An authority, root or intermediate.
pub struct Signer {
    pub issuer: Issuer<'static, KeyPair>,
    pub der: CertificateDer<'static>,
    /// From this one up, root left out.
    pub above: Vec<CertificateDer<'static>>,
    pub root: CertificateDer<'static>,
}

/// A leaf and what belongs to it.
pub struct Leaf {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

fn at(time: SystemTime) -> impl Fn() -> Duration {
    move || time.duration_since(UNIX_EPOCH).unwrap()
}

pub fn valid(params: &mut CertificateParams, from: SystemTime, to: SystemTime) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + at(from)();
    params.not_after = epoch + at(to)();
}

fn authority_params(organization: &str, serial: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.serial_number = Some(SerialNumber::from(serial));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid(&mut params, start() - DAY, start() + 3650 * DAY);
    params
}

impl Signer {
    pub fn root(organization: &str) -> Signer {
        let key = KeyPair::generate().unwrap();
        let params = authority_params(organization, 1);
        let der = params.self_signed(&key).unwrap().der().clone();
        Signer { issuer: Issuer::new(params, key), root: der.clone(), der, above: Vec::new() }
    }

    pub fn intermediate(&self, organization: &str, serial: u64) -> Signer {
        let key = KeyPair::generate().unwrap();
        let params = authority_params(organization, serial);
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let above = std::iter::once(der.clone()).chain(self.above.iter().cloned()).collect();
        Signer { issuer: Issuer::new(params, key), root: self.root.clone(), der, above }
    }

    /// A leaf with these names, valid for a day, good for both ends, before `change`.
    pub fn leaf(&self, names: Vec<SanType>, serial: u64, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.serial_number = Some(SerialNumber::from(serial));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.is_ca = IsCa::ExplicitNoCa;
        valid(&mut params, start() - Duration::from_secs(120), start() + DAY);
        change(&mut params);
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let chain = std::iter::once(der).chain(self.above.iter().cloned()).collect();
        Leaf { chain, key: key.into() }
    }

    pub fn credential(&self, identity: &SpiffeId, serial: u64) -> Credential {
        let leaf = self.leaf(vec![uri(&identity.to_string())], serial, |_| {});
        leaf.credential(identity, std::slice::from_ref(&self.root))
    }

    /// A revocation list of this authority, as DER.
    pub fn crl(&self, serials: &[u64]) -> Vec<u8> {
        self.crl_at(serials, None)
    }

    /// The same with an issuing distribution point.
    pub fn crl_at(&self, serials: &[u64], point: Option<&str>) -> Vec<u8> {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: rcgen::date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2026, 1, 1),
            next_update: rcgen::date_time_ymd(2026, 1, 2), // long over: still counts
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: point.map(|point| CrlIssuingDistributionPoint {
                distribution_point: CrlDistributionPoint { uris: vec![point.to_owned()] },
                scope: None,
            }),
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    pub fn crl_pem(&self, serials: &[u64]) -> String {
        pem::section("X509 CRL", &self.crl(serials))
    }
}

impl Leaf {
    /// Without any check: also of leaves that no authority should issue.
    pub fn credential(self, identity: &SpiffeId, roots: &[CertificateDer<'static>]) -> Credential {
        Credential::from_parts(identity.clone(), self.key, self.chain, roots.to_vec()).unwrap()
    }

    /// As an authority answers.
    pub fn answer(&self, roots: &[CertificateDer<'static>]) -> Vec<String> {
        let mut answer: Vec<String> = self.chain.iter().map(pem::encode).collect();
        answer.push(roots.iter().map(pem::encode).collect());
        answer
    }
}

/// Calls `check` with damaged copies of `seed`: bits flipped, parts cut out, repeated, exchanged, or appended. Always the
/// same ones, so a failure comes again.
pub fn mutations(seed: &[u8], count: usize, mut check: impl FnMut(&[u8])) {
    let mut rng = SmallRng::seed_from_u64(7);
    for _ in 0..count {
        let mut bytes = seed.to_vec();
        for _ in 0..rng.random_range(1..4) {
            let (a, b) = (rng.random_range(0..=bytes.len()), rng.random_range(0..=bytes.len()));
            let (from, to) = (a.min(b), a.max(b).min(a.min(b) + 64));
            match rng.random_range(0..6) {
                0 if from < bytes.len() => bytes[from] ^= 1 << rng.random_range(0..8),
                1 if from < bytes.len() => bytes[from] = rng.random(),
                2 => drop(bytes.drain(from..to)),
                3 => bytes.extend_from_within(from..to),
                4 => bytes.truncate(from.max(seed.len() / 2)),
                _ => bytes.insert(from, rng.random()),
            }
        }
        check(&bytes);
    }
}
