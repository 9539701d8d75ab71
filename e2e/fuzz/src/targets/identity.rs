//! Certificates, revocation lists, requests for certificates, and tokens.
//!
//! What is signed lies in `inputs/`: it is the same in each run, and `keys` holds what signed it.

use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use mesh_identity::crl::CrlSet;
use mesh_identity::sign::{Ca, Lifetimes, PluggedIn};
use mesh_identity::token::{AUDIENCE, Verifier};
use mesh_identity::verify::{NotOurPeer, Roots, Usage, chain, identity_of};
use mesh_model::identity::SpiffeId;
use rustls_pki_types::CertificateDer;

use crate::engine::kept_inputs;
use crate::input::Input;
use crate::{Target, saw, saw_text};

/// When everything in `inputs/` is valid: 2026-01-02.
pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_312_000)
}

/// The keys of the fixed authority and issuer of tokens. Nobody trusts them.
pub mod keys {
    pub const CA: &str = include_str!("../../keys/ca.pem");
    pub const CA_KEY: &str = include_str!("../../keys/ca.key");
    pub const TOKEN_PUBLIC: &str = include_str!("../../keys/token.pub");
    pub const ISSUER: &str = "https://fuzz.test";
}

/// The authority of the inputs.
pub fn authority() -> Ca {
    let files = PluggedIn {
        certificate: keys::CA.to_owned(),
        key: keys::CA_KEY.to_owned(),
        chain: String::new(),
        roots: keys::CA.to_owned(),
    };
    let lifetimes = Lifetimes { default: Duration::from_secs(3600), max: Duration::from_secs(3600) };
    Ca::load(&files, lifetimes, now()).expect("the authority of the inputs is sound")
}

static CA: LazyLock<Ca> = LazyLock::new(authority);
static ROOTS: LazyLock<Roots> = LazyLock::new(|| Roots::new(CA.roots()).expect("a root"));
/// The certificates that really were signed; the second is in the revocation lists.
static SIGNED: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| signed("x509_names"));

fn signed(name: &str) -> Vec<Vec<u8>> {
    let is_signed = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("signed-"));
    kept_inputs(name).into_iter().filter(|(path, _)| is_signed(path)).map(|(_, bytes)| bytes).collect()
}

/// One DER element and what follows it: tag, content, rest (X.690 8.1).
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(*first) {
        short @ 0..0x80 => (short, rest),
        long => {
            let digits = rest.get(..long & 0x7f).filter(|digits| (1..=4).contains(&digits.len()))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), &rest[digits.len()..])
        }
    };
    Some((*tag, rest.get(..length)?, &rest[length..]))
}

fn elements(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut all = Vec::new();
    while let Some((tag, content, rest)) = element(bytes) {
        all.push((tag, content));
        bytes = rest;
    }
    all
}

/// Every URI in every extension "subject alternative name", wherever one can be found: the most suspicious of readers.
fn uris(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let inside = elements(bytes);
    if let [(0x06, b"\x55\x1d\x11"), .., (0x04, names)] = inside.as_slice() {
        let names = elements(names).first().map(|(_, names)| elements(names)).unwrap_or_default();
        found.extend(names.into_iter().filter(|(tag, _)| *tag == 0x86).map(|(_, uri)| uri.to_vec()));
    }
    for (tag, content) in inside {
        if tag & 0x20 != 0 {
            found.extend(uris(content));
        }
    }
    found
}

pub const NAMES: Target = Target {
    name: "x509_names",
    check: |bytes| match identity_of(&CertificateDer::from(bytes)) {
        Ok(identity) => {
            saw("identity");
            // A stricter reader may find nothing in what is damaged elsewhere; another name, or a second, nobody may find.
            let found = uris(bytes);
            let other = found.iter().any(|uri| *uri != identity.to_string().into_bytes());
            assert!(!other && found.len() <= 1, "another reader finds other names than {identity}: {found:?}");
        }
        Err(why) => saw_text(&why.to_string()),
    },
    seeds: Vec::new,
    words: &["spiffe://", "/ns/", "/sa/", "\u{6}\u{3}U\u{1d}\u{11}", "\u{86}"],
};

pub const SPIFFE: Target = Target {
    name: "spiffe_id",
    check: |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let Ok(identity) = text.parse::<SpiffeId>() else { return saw(text.split('/').count().min(10)) };
        saw("identity");
        assert_eq!(identity.to_string(), text, "an identity has one spelling");
        assert_eq!(format!("spiffe://{}", identity.principal()), text);
        let parts: Vec<&str> = text.split('/').collect();
        let wanted = ["spiffe:", "", &identity.trust_domain, "ns", &identity.namespace, "sa", &identity.service_account];
        assert_eq!(parts, wanted);
    },
    seeds: || vec![b"spiffe://td/ns/a/sa/b".to_vec(), b"spiffe://td/ns//sa/b".to_vec(), b"spiffe://a/ns/ns/sa/sa/sa".to_vec()],
    words: &["spiffe://", "/ns/", "/sa/", "/", "\u{a0}", "%2f"],
};

pub const CHAIN: Target = Target {
    name: "certificate_chain",
    check: |bytes| {
        let mut input = Input(bytes);
        let usage = *input.choice(&[Usage::Server, Usage::Client]);
        let leaf = CertificateDer::from(input.block());
        let mut rest = Vec::new();
        while !input.is_empty() && rest.len() < 16 {
            rest.push(CertificateDer::from(input.block()));
        }
        match chain(&leaf, &rest, &ROOTS, usage, now(), &CrlSet::default()) {
            Ok(()) => {
                saw(("trusted", rest.len()));
                assert!(SIGNED.iter().any(|signed| **signed == *leaf), "a certificate is trusted that nobody signed");
            }
            Err(why) => {
                assert!(rest.len() <= 8 || matches!(why, NotOurPeer::TooManyIntermediates(_)), "{} intermediates", rest.len());
                saw_text(&why.to_string());
            }
        }
    },
    seeds: || {
        let root = CA.roots()[0].as_ref();
        let with = |leaf: &Vec<u8>| {
            [0u8, 1].map(|usage| [&[usage][..], &crate::input::blocks(&[leaf]), &crate::input::blocks(&[root])].concat())
        };
        SIGNED.iter().flat_map(with).collect()
    },
    words: &[],
};

pub const CRL: Target = Target {
    name: "crl",
    check: |bytes| match CrlSet::parse(bytes) {
        Ok(lists) => {
            saw(("lists", lists.len().min(4)));
            assert!(lists.len() <= 256 && lists.len() <= bytes.len());
            // A list that nobody signed revokes nobody, and the signed ones name another than the first.
            for (number, leaf) in SIGNED.iter().take(2).enumerate() {
                let judged = chain(&CertificateDer::from(&leaf[..]), &[], &ROOTS, Usage::Client, now(), &lists);
                saw((number, judged.is_ok()));
                assert!(number > 0 || judged.is_ok(), "{judged:?}");
            }
        }
        Err(why) => saw_text(&why.to_string()),
    },
    seeds: || vec![b"\n \n".to_vec(), b"-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n".to_vec()],
    words: &["-----BEGIN X509 CRL-----\n", "-----END X509 CRL-----\n", "0\u{82}"],
};

pub const CSR: Target = Target {
    name: "csr",
    check: |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let asked = SpiffeId::new("cluster.local", "shop", "cart");
        match CA.issue(text, &asked, Duration::from_secs(60), now()) {
            Ok(issued) => {
                saw(("issued", issued.ignored.len()));
                let der = pem(&issued.chain[0]);
                let leaf = CertificateDer::from(der);
                assert_eq!(identity_of(&leaf).expect("it names somebody"), asked, "the request chose the name");
                chain(&leaf, &[], &ROOTS, Usage::Client, now(), &CrlSet::default()).expect("it is ours");
                // basicConstraints CA:TRUE
                assert!(!leaf.windows(5).any(|window| window == b"\x30\x03\x01\x01\xff"), "an authority was made");
            }
            Err(why) => saw_text(&why.to_string()),
        }
    },
    seeds: Vec::new,
    words: &["-----BEGIN CERTIFICATE REQUEST-----\n", "-----END CERTIFICATE REQUEST-----\n", "NEW ", "A", "=", "\n"],
};

/// The first block of a PEM text.
fn pem(text: &str) -> Vec<u8> {
    use rustls_pki_types::pem::PemObject as _;
    CertificateDer::from_pem_slice(text.as_bytes()).expect("what was issued is PEM").to_vec()
}

pub const TOKEN: Target = Target {
    name: "token",
    check: |bytes| {
        static VERIFIER: LazyLock<Verifier> =
            LazyLock::new(|| Verifier::new(keys::TOKEN_PUBLIC, keys::ISSUER, AUDIENCE).expect("a key"));
        static MINTED: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| signed("token"));
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        match VERIFIER.verify(text, now()) {
            Ok(subject) => {
                saw("believed");
                let claims = |token: &[u8]| token.split(|byte| *byte == b'.').take(2).map(<[u8]>::to_vec).collect::<Vec<_>>();
                assert!(MINTED.iter().any(|token| claims(token) == claims(bytes)), "{subject:?} is believed, and nobody minted that");
            }
            Err(why) => saw_text(&why.to_string()),
        }
    },
    seeds: || {
        let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6YTpiIn0.";
        vec![none.as_bytes().to_vec(), b"a.b.c".to_vec()]
    },
    words: &[".", "eyJ", "eyJhbGciOiJub25lIn0", "eyJhbGciOiJIUzI1NiJ9", "=", "-", "_"],
};
